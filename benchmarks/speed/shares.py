"""Where the time of a step goes: trunks forward, heads with losses and draws, backward pass, optimiser.

The gradient of a loss over the vocabulary is formed in the forward pass, so heads and losses hold theirs too, and the
backward pass is all but the trunk's alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from games import Game, Size, game
from rows import Row
from torch import nn

from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Phase

SIZES = {Size(256, 256, 8, 256, 4): 7, Size(8192, 256, 2, 384, 4): 5, Size(50_257, 256, 1, 512, 4): 3}
QUICK = {Size(256, 64, 4, 64, 2): 3}
"""Sizes and rounds."""
PIECES = ("student, forward", "teacher", "auxiliary, forward", "heads, losses, draws", "backward", "optimiser")


class Clock:
    """Seconds of processor time by piece; trunks are timed by hooks."""

    def __init__(self, player: Game) -> None:
        self.seconds, self.begun = dict.fromkeys(PIECES, 0.0), 0.0
        names = {"student": PIECES[0], "teacher": PIECES[1], "auxiliary": PIECES[2]}
        for role, model in player.roles.items():
            assert isinstance(model, NetworkDenoiser)
            model.backbone.register_forward_pre_hook(self._begin)
            model.backbone.register_forward_hook(lambda *_, piece=names[role]: self._end(piece))

    def _begin(self, module: nn.Module, inputs: Any) -> None:
        self.begun = time.process_time()

    def _end(self, piece: str) -> None:
        self.seconds[piece] += time.process_time() - self.begun

    @property
    def trunks(self) -> float:
        return sum(self.seconds[piece] for piece in PIECES[:3])


def step(player: Game, phase: Phase, clock: Clock) -> None:
    """`Game.step`, with the time of its pieces."""
    player.take_turns(phase)
    before, begin = clock.trunks, time.process_time()
    loss = player.loss(phase)
    forward = time.process_time()
    clock.seconds["heads, losses, draws"] += forward - begin - (clock.trunks - before)
    loss.backward()
    backward = time.process_time()
    clock.seconds["backward"] += backward - forward
    player.update(phase)
    clock.seconds["optimiser"] += time.process_time() - backward


def measure(quick: bool) -> Iterator[Row]:
    """Shares of each phase of denoising and of D-MMD, masked."""
    for size, rounds in (QUICK if quick else SIZES).items():
        for work in ("denoising", "dmmd"):
            player = game({"type": work}, "masked", size)
            player.cycle()
            clock = Clock(player)
            for phase in player.objective.phases():
                clock.seconds = dict.fromkeys(PIECES, 0.0)
                for _ in range(rounds):
                    step(player, phase, clock)
                whole = sum(clock.seconds.values())
                name = work if work == "denoising" else f"dmmd, {phase.name}"
                for piece, seconds in clock.seconds.items():
                    if seconds:
                        yield Row.of("shares", f"{name}: {piece}, {size}", [seconds / whole], tolerance=1.0)
