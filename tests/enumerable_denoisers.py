"""Denoisers small enough to enumerate, in float64: what formulas are checked on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import one_hot

from fewstep.denoisers.base import Denoiser, DenoiserAround
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.dmmd import DMMD
from fewstep.predictions.base import Prediction
from fewstep.predictions.condition import Condition
from fewstep.predictions.network import TablePrediction
from fewstep.processes.base import PROCESSES, DiscreteProcess
from fewstep.runtime.streams import Randomness
from fewstep.testing.exact import FreeDenoiser, all_sequences

V, L = 3, 2


class Table(FreeDenoiser):
    """The freest denoiser there is, which remembers what it was asked."""

    def __init__(self, process: DiscreteProcess, seed: int, length: int = L) -> None:
        super().__init__(process, length, seed)
        self.calls: list[tuple[Tensor, Tensor]] = []

    def predict(self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Randomness) -> Prediction:
        self.calls.append((x_t, t))
        return super().predict(x_t, t, s, cond, generator)


class TimedOracle(Denoiser):
    """E[x | z_t] of a single token with a known law, plus a bias a state on its logits to take gradients at."""

    def __init__(self, process: DiscreteProcess, law: Tensor) -> None:
        super().__init__(process, 1)
        self.law = law
        self.bias = nn.Parameter(torch.zeros(process.num_states, V, dtype=torch.float64))

    @property
    def device(self) -> torch.device:
        return self.law.device

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        alpha = self.process.schedule.alpha(t.double())[:, None, None]
        same = (x_t[..., None] == torch.arange(V)).double()
        evidence = torch.ones_like(same) if self.process.carry_over else alpha * same + (1 - alpha) / V
        table = ((evidence * self.law).log() + self.bias[x_t]).log_softmax(-1)
        return TablePrediction(table, x_t, self.process.to_predict(x_t))


class LeaveOneOut(DenoiserAround):
    """p(x_i | z_t without z_i) of the uniform process: E[x | z_t] without the evidence of the token itself."""

    @property
    def takes_token_times(self) -> bool:
        return self.denoiser.takes_token_times

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        log_p = self.denoiser.predict(x_t, t, s, cond, generator).log_probs().view(*x_t.shape, -1)
        table = (log_p - self.process.evidence(x_t, t).log()).log_softmax(-1)
        return TablePrediction(table, x_t, self.process.to_predict(x_t))


class JointOracle(Denoiser):
    """E[x | z_t] of sequences whose law is a table: a masked sequence says which of them it may come from."""

    device = torch.device("cpu")  # type: ignore[assignment]

    def __init__(self, process: DiscreteProcess, length: int, law: Tensor) -> None:
        super().__init__(process, length)
        self.every = all_sequences(process.vocab_size, length)
        self.law = law

    def agreeing(self, x_t: Tensor) -> Tensor:
        """Which sequences agree with noised ones (BoolTensor [B, V ** L])."""
        return ((x_t[:, None] == self.every) | self.process.to_predict(x_t)[:, None]).all(2)

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        weight = self.agreeing(x_t) * self.law
        rows = torch.einsum("bn,nlv->blv", weight, one_hot(self.every, self.process.vocab_size).double())
        return TablePrediction((rows / rows.sum(-1, keepdim=True)).log(), x_t, self.process.to_predict(x_t))


class ExactRows(Denoiser):
    """Exact denoiser of the uniform process for sequences whose law is a table, float64 [V] * L.

    With `output` it is asked for the rows as a network of that meaning has them: E[x | z_t], or leave-one-out rows that
    it converts. `bias`, one row for every state and position, is there to take gradients at; it is added to the logits
    of the rows that `output` names.
    """

    device = torch.device("cpu")  # type: ignore[assignment]

    def __init__(self, process: DiscreteProcess, law: Tensor, output: str = "leave_one_out") -> None:
        super().__init__(process, law.ndim)
        self.every = all_sequences(process.vocab_size, law.ndim)
        self.law, self.output = law.flatten(), output
        size = process.vocab_size
        self.bias = nn.Parameter(torch.zeros(size**law.ndim, law.ndim, size, dtype=torch.float64))

    def rows(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Exact rows [B, L, V] of the meaning `output`, by summing over all sequences."""
        evidence = self.process.evidence(x_t, t)
        terms = torch.stack([evidence[:, i, self.every[:, i]] for i in range(self.length)], 1)  # [B, L, V ** L]
        rows = []
        for i in range(self.length):
            others = [j for j in range(self.length) if self.output == "x_mean" or j != i]
            weight = self.law * terms[:, others].prod(1)
            rows.append(weight @ one_hot(self.every[:, i], self.process.vocab_size).double())
        stacked = torch.stack(rows, 1)
        return stacked / stacked.sum(-1, keepdim=True)

    def predict(
        self, x_t: Tensor, t: Tensor, s: Tensor | None, cond: Condition, generator: Generator | None
    ) -> Prediction:
        index = sum(x_t[:, i] * self.process.num_states**i for i in range(self.length))
        table = (self.rows(x_t, t).log() + self.bias[index]).log_softmax(-1)
        prediction = TablePrediction(table, x_t, self.process.to_predict(x_t))
        if self.output == "leave_one_out":
            return self.process.from_leave_one_out(prediction, x_t, t)
        return prediction


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    exps = [math.exp(v - top) for v in logits]
    return [e / sum(exps) for e in exps]


def row(table: Table, state: list[int], position: int) -> list[float]:
    index = sum(token * table.process.num_states**i for i, token in enumerate(state))
    return softmax(table.logits[index, position].tolist())


def make(process_name: str, length: int = L) -> tuple[StepContext, dict[str, Table]]:
    process = PROCESSES.build(process_name, vocab_size=V)
    roles = {name: Table(process, seed, length) for seed, name in enumerate(("teacher", "student", "auxiliary"))}
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    return StepContext(dict(roles), process, streams, torch.device("cpu")), roles


def drawn_by(ctx: StepContext) -> list[Tensor]:
    """Collects what z_s is drawn for: the student's x, or real data."""
    drawn, sample, step = list[Tensor](), ctx.process.posterior_sample, ctx.process.step_at
    reveal = ctx.process.reveal

    def of_ids(x0: Tensor, *args: Tensor, **how: Any) -> Tensor:
        drawn.append(x0)
        return sample(x0, *args, **how)

    def of_places(x: Tensor, *args: Any) -> Tensor:
        drawn.append(x)
        return reveal(x, *args)

    def of_prediction(x_t: Tensor, prediction: Prediction, levels: Tensor, *times: Tensor, **how: Any) -> Tensor:
        before = len(drawn)
        z_s = step(x_t, prediction, levels, *times, **how)
        drawn[before:] = [prediction.sample_at(levels)]
        return z_s

    ctx.process.posterior_sample = of_ids  # type: ignore[method-assign]
    ctx.process.step_at = of_prediction  # type: ignore[method-assign]
    ctx.process.reveal = of_places  # type: ignore[method-assign]
    return drawn


def run(
    ctx: StepContext, roles: dict[str, Table], objective: DMMD, phase: str, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Loss of one batch, with only the phase's role trained (as the trainer does); also the hard draw x."""
    drawn = drawn_by(ctx)
    for name, role in roles.items():
        role.requires_grad_(name == phase)
    data = torch.randint(V, (batch, roles["student"].length), generator=Generator().manual_seed(7))
    out = objective.loss(Phase(phase, (phase,)), Batch(data), ctx)
    return out.loss, drawn[0]
