"""An objective with untrained networks and optimisers, and the processor time of its steps.

Shapes: B batch, L tokens, V vocabulary, D width.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.base import Network
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, Objective, Phase, StepContext
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, Process


@dataclass(frozen=True)
class Size:
    """Sizes of a network and of its batch."""

    vocab: int
    length: int
    batch: int
    width: int
    depth: int

    def __str__(self) -> str:
        return f"V {self.vocab:,}, L {self.length:,}, B {self.batch}, D {self.width}, {self.depth} blocks"


def network(size: Size, process: Process, backbone: str = "dit", **settings: Any) -> NetworkDenoiser:
    """An untrained denoiser; heads of 64 dimensions, or as many as a narrow network has."""
    config = {
        "type": backbone,
        "width": size.width,
        "depth": size.depth,
        "heads": max(1, size.width // 64),
        **settings,
    }
    tokens = TokenSpace(process.num_states, size.vocab, size.length, None)
    return NetworkDenoiser(BACKBONES.build(config, tokens=tokens), process)


class HalfTimes(StepContext):
    """A context in which every time is drawn as 1/2: the share of masks sets the cost of a masked process's head."""

    def sample_time(self, count: int, *, antithetic: bool = False) -> Tensor:
        return torch.full((count,), 0.5, device=self.device)


class Game:
    """An objective with its networks, their optimisers and one batch of random tokens."""

    def __init__(self, objective: Objective, process: str, size: Size, *, backbone: str = "dit") -> None:
        torch.manual_seed(0)
        states = PROCESSES.build(process, vocab_size=size.vocab)
        settings = {"block_size": size.length // 4} if backbone == "block_transformer" else {}
        self.objective = objective
        self.roles: dict[str, Network] = {name: network(size, states, backbone, **settings) for name in objective.roles}
        trained = [name for name, role in objective.roles.items() if role.trained]
        self.optimizers = {name: torch.optim.AdamW(self.roles[name].parameters(), fused=True) for name in trained}
        generators = {name: Generator().manual_seed(1) for name in ("time", "noise", "sample")}
        self.ctx = HalfTimes(self.roles, states, generators, torch.device("cpu"))
        self.ctx.diagnose = False  # a training does so in every tenth round only
        tokens = torch.randint(size.vocab, (size.batch, size.length))
        context = tokens if backbone == "block_transformer" else None
        self.ctx.batch = self.ctx.as_batch(tokens, Condition(context=context))

    def step(self, phase: Phase) -> float:
        """Loss, backward pass, clipping and update; seconds of processor time."""
        self.take_turns(phase)
        begin = time.process_time()
        self.loss(phase).backward()
        self.update(phase)
        return time.process_time() - begin

    def take_turns(self, phase: Phase) -> None:
        """Enable gradients for the roles that the phase trains."""
        for name, role in self.roles.items():
            role.take_gradients(name in phase.train)

    def loss(self, phase: Phase) -> Tensor:
        """Loss of the batch."""
        assert self.ctx.batch is not None
        return self.objective.loss(phase, self.ctx.batch, self.ctx).loss

    def update(self, phase: Phase) -> None:
        """Clip the gradients of a phase and apply them."""
        for name in phase.train:
            torch.nn.utils.clip_grad_norm_(self.roles[name].parameters(), 1.0)
            self.optimizers[name].step()
            self.optimizers[name].zero_grad(set_to_none=True)

    def cycle(self) -> list[float]:
        """Seconds of each phase."""
        return [self.step(phase) for phase in self.objective.phases()]

    def iteration(self) -> float:
        """Seconds of a step, averaged over the phases."""
        seconds = self.cycle()
        return sum(seconds) / len(seconds)


def game(settings: dict[str, Any], process: str, size: Size, *, backbone: str = "dit") -> Game:
    """The game of an objective's settings."""
    return Game(OBJECTIVES.build(settings), process, size, backbone=backbone)
