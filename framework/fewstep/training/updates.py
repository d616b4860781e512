"""Updates of the trained networks: their gradients over micro-batches and ranks, their optimisers and rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fewstep.objectives.base import Phase
from fewstep.recipe.models import OptimSection
from fewstep.runtime.ranks import Ranks
from fewstep.training.optim import build_optimizer, learning_rate, settings_of
from fewstep.training.shards import Shards
from fewstep.training.turns import Turns

Agree = Callable[[list[bool]], list[bool]]
"""Asks for each of some facts whether it holds on any rank."""


class Updates:
    """What a step does to the weights of its roles, once the backward passes are over.

    Args:
        section: settings of the optimisers.
        shards: parameters of the trained roles, as this rank holds them.
        turns: phases of the training; a learning rate falls over its role's own updates.
        ranks: processes that share the training. Gradients are summed over them, unless they are `together` in one
            sharded network, whose backward pass has done so.
        tripped: a scalar on the device; while it is 1 no update changes anything.
    """

    def __init__(
        self, section: OptimSection, shards: Mapping[str, Shards], turns: Turns, ranks: Ranks, tripped: Tensor
    ) -> None:
        self.shards, self.ranks, self.turns = shards, ranks, turns
        self.settings = {name: settings_of(section, name) for name in shards}
        self.optimizers = {name: build_optimizer(self.settings[name], shards[name].own.values()) for name in shards}
        for optimizer in self.optimizers.values():
            optimizer.found_inf = tripped  # type: ignore[attr-defined]  # as torch's GradScaler sets it
        self.counts = dict.fromkeys(shards, 0)
        self.totals = {name: turns.updates(name) for name in shards}

    def gather(self, phase: Phase, loss: Tensor, terms: Tensor | None, refused: list[Tensor], agree: Agree) -> Tensor:
        """Bring the gradients of all micro-batches and ranks together; returns the loss of the whole batch.

        Args:
            loss: sum of the losses of this rank's micro-batches, each times its weight.
            terms: sum of their weights, by which loss and gradients are divided; None if the weights were shares of
                the batch.
            refused: flags of draws from rows that are no distribution; gets those of other ranks.
            agree: asked which gradients there are on any rank.
        """
        for name in phase.train:
            self.shards[name].take_gradients()
        parameters = [parameter for name in phase.train for parameter in self.shards[name].own.values()]
        if self.ranks.several:
            for parameter, anywhere in zip(parameters, agree([p.grad is not None for p in parameters]), strict=True):
                if anywhere and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if self.ranks.several:
            loss, terms = self._sum_over_ranks(gradients, loss, terms, refused)
        if terms is None:
            return loss
        terms = terms.clamp_min(torch.finfo(torch.float32).tiny)
        torch._foreach_div_(gradients, terms)
        return loss / terms

    def _sum_over_ranks(
        self, gradients: list[Tensor], loss: Tensor, terms: Tensor | None, refused: list[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        flag = torch.stack([flag.to(loss.device) for flag in refused]).any() if refused else torch.zeros_like(loss)
        # A loss may be float64 on one rank alone, where its share of the batch has other terms.
        numbers = torch.stack([x.double() for x in (loss, loss if terms is None else terms, flag)])
        self.ranks.sum_([numbers])
        if not self.ranks.together:
            self.ranks.sum_(gradients)
        refused[:] = [numbers[2] > 0]
        return numbers[0].to(loss.dtype), None if terms is None else numbers[1].to(terms.dtype)

    def clip(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Clip the gradients of each role as its settings say; returns the norms before."""
        return {name: self.shards[name].clip(self.settings[name].clip or float("inf")) for name in names}

    def apply(self, names: Sequence[str], step: int) -> dict[str, float]:
        """Update the roles at step `step` and forget their gradients; returns their learning rates."""
        rates = {}
        for name in names:
            rate = learning_rate(self.settings[name], self.counts[name], self.totals[name])
            rates[name] = rate * self.turns.ramp(name, step)
            for group in self.optimizers[name].param_groups:
                group["lr"] = rates[name]
            self.optimizers[name].step()
            self.counts[name] += 1
        self.forget(names)
        return rates

    def forget(self, names: Sequence[str]) -> None:
        """Drop the gradients of roles."""
        for name in names:
            self.optimizers[name].zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, object]:
        """Of whole tensors; all ranks ask for it together."""
        return {name: self.shards[name].optimizer_state(optimizer) for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, object]], counts: Mapping[str, int]) -> None:
        """Restore the optimisers and the number of updates of each role."""
        for name, optimizer in self.optimizers.items():
            self.shards[name].load_optimizer_state(optimizer, state[name])
        self.counts = dict(counts)
