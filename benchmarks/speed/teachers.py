"""What cheaper teachers and auxiliaries save: an iteration of D-MMD with them over one without.

Memory is that of all weights, gradients and moments after an iteration, each tensor counted once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from games import Game, Size
from rows import Row, interleaved, paired

from fewstep.denoisers.half import halve
from fewstep.denoisers.low_rank import LowRankDenoiser, adapt
from fewstep.objectives.base import OBJECTIVES

SIZES = (Size(256, 256, 8, 256, 4), Size(50_257, 256, 1, 512, 4))
QUICK = (Size(256, 64, 4, 64, 2),)
RANKS = (0, 8, 64)


class Cheap(Game):
    """D-MMD whose auxiliary is the teacher and a difference of a rank; of rank 0 the teacher's trunk and a head."""

    def __init__(self, size: Size, rank: int | None) -> None:
        super().__init__(OBJECTIVES.build({"type": "dmmd"}), "masked", size)
        if rank is None:
            return
        model = self.roles["auxiliary"]
        auxiliary = LowRankDenoiser(model.backbone, model.process)  # type: ignore[arg-type]
        adapt(auxiliary, rank)
        auxiliary.start_from(self.roles["teacher"])
        self.roles["auxiliary"] = auxiliary
        self.optimizers["auxiliary"] = torch.optim.AdamW(auxiliary.parameters(), fused=True)

    def memory(self) -> int:
        """Bytes of weights, of the gradients that a step forms, and of moments."""
        weights = {p: p.numel() * p.element_size() for role in self.roles.values() for p in role.parameters()}
        moments = [
            x for optimizer in self.optimizers.values() for state in optimizer.state.values() for x in state.values()
        ]
        trained = [p for optimizer in self.optimizers.values() for p in optimizer.state]
        tensors = [*trained, *(x for x in moments if isinstance(x, torch.Tensor))]
        return sum(weights.values()) + sum(x.numel() * x.element_size() for x in tensors)


def measure(quick: bool) -> Iterator[Row]:
    """Ratios of time and of memory."""
    for size in QUICK if quick else SIZES:
        players = {"plain": Cheap(size, None), **{f"rank {rank}": Cheap(size, rank) for rank in RANKS}}
        seconds = interleaved({name: player.iteration for name, player in players.items()}, 3 if quick else 7)
        memory = {name: player.memory() for name, player in players.items()}
        halve(players["plain"].roles["teacher"])
        memory["teacher in bfloat16"] = players["plain"].memory()
        for name in list(seconds)[1:]:
            ratios = paired(seconds[name], seconds["plain"])
            yield Row.of("teachers", f"time of an iteration, auxiliary of {name} / its own weights, {size}", ratios)
        for name in list(memory)[1:]:
            what = name if name.startswith("teacher") else f"auxiliary of {name}"
            yield Row.of("teachers", f"memory of networks, {what} / plain, {size}", [memory[name] / memory["plain"]])
