"""Bounds on the likelihood of samples under a trained model.

Shapes: N samples, B samples of a batch, L tokens, V vocabulary, S states, n rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.autoregressive import token_nll
from fewstep.condition import Condition
from fewstep.denoiser import Denoiser
from fewstep.errors import UserError
from fewstep.grids.base import GRIDS
from fewstep.grids.costs import Posterior, drawn_rows, revealed_share, step_divergence
from fewstep.objectives.base import OBJECTIVES
from fewstep.processes.base import TINY, ForwardProcess, posterior_rows, soft_rows
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.uniform import UniformProcess
from fewstep.randomness import SampleStreams
from fewstep.training.build import TrainedModel


@dataclass(frozen=True)
class Scores:
    """`nats` (float64 [N]): an upper bound on -log p(x) / L of each sample, or that itself if `exact`."""

    nats: Tensor
    exact: bool

    @property
    def mean(self) -> float:
        """Over the samples, in nats a token."""
        return float(self.nats.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean over samples; nan for one."""
        return float(self.nats.std() / len(self.nats) ** 0.5)


@torch.no_grad()
def score_model(
    model: TrainedModel,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int = 64,
    seed: int = 0,
    batch_size: int = 64,
) -> Scores:
    """Score clean tokens x (LongTensor [N, L]) under a model; with `labels` (LongTensor [N]) if it is told any.

    Sample i has random numbers of its own, so that scores do not depend on the size of batches.

    Raises:
        UserError: the model has no bound on its likelihood, or labels do not suit it.
    """
    _check(model, labels, steps)
    exact = model.denoiser.block_size == 1 and model.denoiser.process.carry_over and not model.denoiser.told_labels
    posterior: Posterior = getattr(model.recipe.sampler, "posterior", "drawn")
    times = GRIDS.build("linear").times(steps)
    device, parts = model.denoiser.device, []
    for first in range(0, len(x), batch_size):
        here = slice(first, first + batch_size)
        rows = x[here].to(device)
        if exact:
            parts.append(token_nll(model.denoiser, rows).double().sum(1).cpu())
            continue
        streams = SampleStreams(seed, range(first, first + len(rows)))
        told = None if labels is None else labels[here].to(device)
        parts.append(bound(model.denoiser, rows, times, streams, labels=told, posterior=posterior).cpu())
    return Scores(torch.cat(parts) / x.shape[1], exact)


def _check(model: TrainedModel, labels: Tensor | None, steps: int) -> None:
    recipe, denoiser = model.recipe, model.denoiser
    if not OBJECTIVES.get(recipe.objective.type).cls.likelihood:
        raise UserError(
            f"'{recipe.name}' has no likelihood to bound: objective '{recipe.objective.type}' teaches to draw "
            "samples, not to predict clean tokens given noise; score with its teacher"
        )
    if not isinstance(denoiser.process, MaskedProcess | UniformProcess):
        raise UserError(f"no bound is known for the process '{recipe.process.type}'; masked and uniform have one")
    if denoiser.told_labels and labels is None:
        raise UserError(f"'{recipe.name}' is told a class: say with `label` which one the samples are scored under")
    if labels is not None and not denoiser.told_labels:
        raise UserError(f"'{recipe.name}' was trained without labels (label_input); leave `label` out")
    if steps < 1:
        raise UserError(f"steps: expected a number from 1, not {steps}")


def bound(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float],
    streams: SampleStreams,
    *,
    labels: Tensor | None = None,
    posterior: Posterior = "drawn",
) -> Tensor:
    """Unbiased estimates of the negative ELBO of the walk along `times` (1 to 0), nats a sample, float64 [B].

    -log p(x) <= E_q [sum over steps of KL(q(z_s | z_t, x) || p(z_s | z_t))], and -log p(x | z_t) for the last step
    (D3PM, arXiv 2107.03006, eq. 1), with one draw of z_t a step. The walk starts from the prior, where schedules keep
    some signal: q's first state is drawn from the prior too, so that it costs nothing, and the first step bears it.
    """
    process, cond = denoiser.process, Condition(labels, context=None if denoiser.block_size is None else x)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for t, s in pairwise(times):
        now, then = (torch.full((len(x),), time, dtype=torch.float64, device=x.device) for time in (t, s))
        first = t == times[0]
        if first:
            z = process.prior((x.shape[0], x.shape[1]), device=x.device, generator=streams)
        else:
            z = process.corrupt(x, now, generator=streams).x_t
        prediction = denoiser(z, now.float(), then.float(), cond=cond)
        if s == 0 or process.carry_over:
            nll = prediction.nll(x).double()
            total += (nll if s == 0 else _revealed(process, nll, z, t, s, first)).sum(1)
            continue

        def rows(log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor, first: bool = first) -> tuple[Tensor]:
            divergence = _first_divergence if first else step_divergence
            return (divergence(process, log_p, x0, z, t, s, posterior),)

        each = [time[:, None].expand(x.shape) for time in (now, then)]
        (found,) = prediction.scan(rows, prediction.where, x, z, *each)
        total.index_add_(0, prediction.where.nonzero()[:, 0], found.double())
    return total


def _revealed(process: ForwardProcess, nll: Tensor, z: Tensor, t: float, s: float, first: bool) -> Tensor:
    """KL of a step that reveals masks [B, L]: what is revealed costs its `nll`, and nothing else does.

    In the first step q reveals with alpha_s and p with a little less where alpha(1) is not 0.
    """
    share = revealed_share(process, t, s)
    if not first:
        return share * nll
    q, p = (torch.tensor(value, dtype=torch.float64) for value in (_alpha(process, s), share))
    chance = torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p).clamp_min(TINY))
    return q * nll + chance * process.to_predict(z)


def _first_divergence(
    process: ForwardProcess, log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor, posterior: Posterior
) -> Tensor:
    """KL(q(z_s | x) || p(z_s | z_1)) of single tokens under uniform noise (float64 [n])."""
    p, alpha = log_p.double().exp(), process.schedule.alpha(s.double())[:, None]
    true = alpha * soft_rows(x0[:, None], process.vocab_size)[:, 0] + (1 - alpha) / process.vocab_size
    model = posterior_rows(process, p, z, t, s) if posterior == "plugged" else drawn_rows(process, p, z, t, s)
    return (true * (true.clamp_min(TINY).log() - model.clamp_min(TINY).log())).sum(-1)


def _alpha(process: ForwardProcess, s: float) -> float:
    return float(process.schedule.alpha(torch.tensor(s, dtype=torch.float64)))
