"""Costs of steps: their terms of the negative ELBO, measured on data.

The terms of a walk add up to its bound on -log p(x), so grids can be compared and searched (Watson et al., arXiv
2106.03802). Shapes: B batch, L tokens, V vocabulary, S states, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewstep.denoisers.base import Denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import TINY, DiscreteProcess, Process, discrete, posterior_rows
from fewstep.runtime.progress import Progress
from fewstep.runtime.streams import SampleStreams

Posterior = Literal["drawn", "plugged"]
"""The draw of a step from a prediction: x first, or its probabilities put into the posterior; see `ancestral`."""


class StepCosts:
    """Mean costs of steps in nats a sample, all measured on the same data with the same noise.

    cost(t, s) = E sum_i KL(q(z_s,i | z_t, x) || p(z_s,i | z_t)), and for the last step, to s = 0, E sum_i -log p(x_i |
    z_t), where p is the row that the sampler draws from (`last_step_nll`). With masks this is (alpha_s - alpha_t) /
    (1 - alpha_t) times the latter, so one evaluation per time suffices. Otherwise each s takes one pass over the rows.
    The cost of the prior is left out, since it is the same for all grids.

    Args:
        denoiser: predicts whole samples.
        data: clean tokens [N, L].
        labels: of the data [N], for denoisers conditioned on labels.
        posterior: setting of the sampler that the grid is for.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        data: Tensor,
        *,
        labels: Tensor | None = None,
        batch_size: int = 256,
        seed: int = 0,
        posterior: Posterior = "drawn",
    ) -> None:
        self.denoiser, self.data, self.labels = denoiser, data, labels
        self.batch_size, self.seed, self.posterior = batch_size, seed, posterior
        self._known: dict[tuple[float, float], float] = {}

    def row(self, t: float, targets: Sequence[float]) -> Tensor:
        """Costs of the steps from t to each of `targets` (float64 [n])."""
        process = self.denoiser.process
        if process.carry_over and not self.denoiser.conditioned_on_steps:
            last_cost = self._measure(t, [0.0])[0]
            return torch.tensor([last_cost * revealed_share(process, t, s) for s in targets], dtype=torch.float64)
        return torch.tensor(self._measure(t, targets), dtype=torch.float64)

    def matrix(self, times: Sequence[float], progress: Progress | None = None) -> Tensor:
        """Cost of the step from each time to each later one (float64 [n, n]), infinite for all other pairs."""
        costs = torch.full((len(times), len(times)), float("inf"), dtype=torch.float64)
        for index, t in enumerate(times[:-1]):
            costs[index, index + 1 :] = self.row(t, times[index + 1 :])
            if progress is not None:
                progress(index + 1, len(times) - 1)
        return costs

    def walk(self, times: Sequence[float]) -> float:
        """Cost of a walk: the sum over its steps."""
        return sum(float(self.row(t, [s])) for t, s in pairwise(times))

    def _measure(self, t: float, targets: Sequence[float]) -> list[float]:
        """Mean costs over the data; earlier measurements are cached."""
        missing = [s for s in targets if (t, s) not in self._known]
        if missing:
            sums = sum(self._batch(first, t, missing) for first in range(0, len(self.data), self.batch_size))
            for s, value in zip(missing, (sums / len(self.data)).tolist(), strict=True):  # type: ignore[union-attr]
                self._known[t, s] = value
        return [self._known[t, s] for s in targets]

    @torch.no_grad()
    def _batch(self, first: int, t: float, targets: Sequence[float]) -> Tensor:
        """Sums over one batch (float64 [n])."""
        denoiser, device = self.denoiser, self.denoiser.device
        part = slice(first, first + self.batch_size)
        x0 = self.data[part].to(device)
        cond = Condition(None if self.labels is None else self.labels[part].to(device))
        # The streams restart at every time, so that costs of different times differ by the times and not the noise.
        numbers = range(first, first + len(x0))
        noise, inputs = (
            SampleStreams(self.seed, numbers, purpose=f"grid/{kind}", device=device) for kind in ("noise", "input")
        )
        now = torch.full((len(x0),), t, device=device, dtype=torch.float64)
        z = denoiser.process.corrupt(x0, now, generator=noise).x_t
        costs: list[Tensor] = []
        prediction = None
        for s in targets:
            then = torch.full_like(now, s)
            if prediction is None or denoiser.conditioned_on_steps:
                prediction = denoiser(z, now.float(), then.float(), cond=cond, generator=inputs)
            token_times = [time[:, None].expand(x0.shape) for time in (now, then)]
            plugged = prediction.output if self.posterior == "plugged" else prediction
            (rows,) = plugged.scan(self._step_rows, prediction.where, x0, z, *token_times)
            costs.append(rows.sum())
        return torch.stack(costs).cpu()

    def _step_rows(self, log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor]:
        return (step_cost(discrete(self.denoiser.process), log_p, x0, z, t, s, self.posterior),)


def revealed_share(process: Process, t: float, s: float) -> float:
    """(alpha_s - alpha_t) / (1 - alpha_t), the probability that a step reveals a mask; 1 in the last step."""
    if s == 0:
        return 1.0
    alpha_t, alpha_s = (float(a) for a in process.schedule.alpha(torch.tensor([t, s], dtype=torch.float64)))
    return (alpha_s - alpha_t) / max(1 - alpha_t, TINY)


def step_cost(
    process: DiscreteProcess, log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor, posterior: Posterior
) -> Tensor:
    """Term of the negative ELBO of single tokens, in nats (float64 [n]): `last_step_nll` at s = 0, else the divergence.

    Arguments as in `step_divergence`.
    """
    arguments = (process, log_p, x0, z, t, s, posterior)
    last = s == 0
    if last.all():
        return last_step_nll(*arguments)
    divergence = step_divergence(*arguments)
    return torch.where(last, last_step_nll(*arguments), divergence) if last.any() else divergence


def last_step_nll(
    process: DiscreteProcess, log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor, posterior: Posterior
) -> Tensor:
    """-log p(x | z_t) of single tokens in the step to s = 0, in nats (float64 [n]).

    Drawn, and for masks, the last step draws x from the prediction. Plugged, it draws from q(z_0 | z_t, prediction),
    which weighs the prediction by the evidence of z_t once more. Arguments as in `step_divergence`.
    """
    log_rows = log_p.double()
    if posterior == "plugged" and not process.carry_over:
        log_rows = posterior_rows(process, log_rows.exp(), z, t, s).log()
    return -log_rows.gather(1, x0[:, None])[:, 0]


def step_divergence(
    process: DiscreteProcess, log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor, posterior: Posterior
) -> Tensor:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)) of single tokens, in nats (float64 [n]).

    Args:
        log_p: log-probabilities of clean tokens [n, V].
        x0: clean ids [n].
        z: noised ids [n].
        t: times [n].
        s: times [n].
        posterior: p is the mean of q(z_s | z_t, x) over drawn x, or q with probabilities plugged in.
    """
    true, p = posterior_rows(process, x0, z, t, s), log_p.double().exp()
    model = posterior_rows(process, p, z, t, s) if posterior == "plugged" else drawn_rows(process, p, z, t, s)
    return torch.where(true > 0, true * (true.clamp_min(TINY).log() - model.clamp_min(TINY).log()), 0.0).sum(-1)


def drawn_rows(process: DiscreteProcess, p: Tensor, z: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """sum_x p(x) q(z_s | z_t, x) of single tokens (float64 [n, S]), without a row for every x.

    q is linear in x up to its normaliser, which takes two values: one for x = z_t and one for all other x. So each of
    the two parts of p is plugged in separately.
    """
    vocab = p.shape[1]
    same = one_hot(z.clamp(max=vocab - 1), vocab) * (z < vocab)[:, None]
    stays = (p * same).sum(1, keepdim=True)
    different = p * (1 - same)
    moves = different.sum(1, keepdim=True)
    return stays * posterior_rows(process, same.double(), z, t, s) + moves * posterior_rows(
        process, different / moves.clamp_min(TINY), z, t, s
    )
