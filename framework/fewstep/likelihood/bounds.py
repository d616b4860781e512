"""Bounds on the likelihood of samples under a trained model.

Shapes: N samples, B samples of a batch, L tokens, V vocabulary, S states, n rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.padding import implied_padding
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.grids.base import GRIDS
from fewstep.likelihood.autoregressive import token_nll
from fewstep.likelihood.step_costs import Posterior, step_cost
from fewstep.objectives.base import OBJECTIVES
from fewstep.predictions.condition import Condition
from fewstep.processes.base import TINY, DiscreteProcess, discrete
from fewstep.processes.masked import MaskedProcess
from fewstep.processes.uniform import UniformProcess
from fewstep.runtime.streams import SampleStreams, uniform

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe


class Scored(Protocol):
    """A model with a likelihood: a denoiser, and the recipe of its training and sampling."""

    @property
    def denoiser(self) -> Denoiser: ...

    @property
    def recipe(self) -> Recipe: ...


@dataclass(frozen=True)
class Scores:
    """`nats` (float64 [N]): an upper bound on -log p(x) / L of each sample, or its exact value if `exact`.

    L is the number of its tokens, without padding: `tokens` (float64 [N]).
    """

    nats: Tensor
    exact: bool
    tokens: Tensor

    @property
    def mean(self) -> float:
        """Mean over the samples, in nats a token."""
        return float(self.nats.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean over samples; nan for one sample."""
        return float(self.nats.std() / len(self.nats) ** 0.5)


@torch.no_grad()
def score_model(
    model: Scored,
    x: Tensor,
    *,
    labels: Tensor | None = None,
    steps: int = 64,
    evaluations: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    text: Tensor | None = None,
) -> Scores:
    """Score clean tokens x (LongTensor [N, L]) under a model, conditioned on `labels` (LongTensor [N]) if any.

    Each sample has its own random numbers, so that scores do not depend on the size of batches.

    Args:
        text: BoolTensor [N, L], tokens that are no padding; None: all. Padding that follows from the end of its text is
            not scored. A network of whole samples predicts padding without its end; its bound counts what that costs,
            since it would be no bound on the length of the text otherwise.
        evaluations: number of steps evaluated for each sample, one in each stretch of the walk; None: all steps.

    Raises:
        UserError: the model has no bound on its likelihood, or labels do not suit it.
    """
    if reason := unscored(model):
        raise UserError(reason)
    _check(model, labels, steps, evaluations)
    exact = (
        model.denoiser.block_size == 1
        and model.denoiser.process.carry_over
        and not model.denoiser.conditioned_on_labels
        and not model.denoiser.has_latent
    )
    posterior: Posterior = getattr(model.recipe.sampler, "posterior", "drawn")
    times = GRIDS.build("linear").times(steps)
    device, parts = model.denoiser.device, []
    text = torch.ones_like(x, dtype=torch.bool) if text is None else text.to(x.device)
    blocks = model.denoiser.block_size
    scored = torch.ones_like(text) if blocks is None else ~implied_padding(text, blocks)
    for first in range(0, len(x), batch_size):
        part = slice(first, first + batch_size)
        rows = x[part].to(device)
        if exact:
            parts.append((token_nll(model.denoiser, rows).double() * scored[part].to(device)).sum(1).cpu())
            continue
        streams = SampleStreams(seed, range(first, first + len(rows)), device=device)
        classes = None if labels is None else labels[part].to(device)
        nats = bound(
            model.denoiser,
            rows,
            times,
            streams,
            labels=classes,
            posterior=posterior,
            evaluations=evaluations,
            scored=scored[part].to(device),
        )
        parts.append(nats.cpu())
    tokens = text.sum(1).double().cpu()
    return Scores(torch.cat(parts) / tokens, exact, tokens)


def unscored(model: Scored) -> str | None:
    """Reason why a model has no bound on its likelihood; None if it has one."""
    recipe, denoiser = model.recipe, model.denoiser
    learned = isinstance(denoiser, NetworkDenoiser)  # else it is exact, and the recipe's objective does not matter
    if learned and not OBJECTIVES.get(recipe.objective.type).cls.likelihood:
        return (
            f"'{recipe.name}' has no likelihood to bound: objective '{recipe.objective.type}' teaches to draw "
            "samples, not to predict clean tokens given noise; score with its teacher"
        )
    if not isinstance(denoiser.process, MaskedProcess | UniformProcess):
        return f"no bound is known for the process '{recipe.process.type}'; masked and uniform have one"
    if denoiser.has_clock:
        return f"no bound is known for '{recipe.name}', whose network has a clock of its own"
    return None


def _check(model: Scored, labels: Tensor | None, steps: int, evaluations: int | None) -> None:
    name, conditioned = model.recipe.name, model.denoiser.conditioned_on_labels
    if conditioned and labels is None:
        raise UserError(f"'{name}' is conditioned on a class: set `label` to the one that the samples are scored under")
    if labels is not None and not conditioned:
        raise UserError(f"'{name}' was trained without labels (label_input); leave `label` out")
    for key, value in (("steps", steps), ("evaluations", evaluations)):
        if value is not None and value < 1:
            raise UserError(f"{key}: expected a number from 1, not {value}")


def bound(
    denoiser: Denoiser,
    x: Tensor,
    times: Sequence[float],
    streams: SampleStreams,
    *,
    labels: Tensor | None = None,
    posterior: Posterior = "drawn",
    evaluations: int | None = None,
    scored: Tensor | None = None,
) -> Tensor:
    """Unbiased estimates of the negative ELBO of the walk along `times` (1 to 0), nats a sample, float64 [B].

    -log p(x) <= KL(q(z_1 | x) || p(z_1)) + E_q [sum over steps of KL(q(z_s | z_t, x) || p(z_s | z_t))], with
    -log p(x | z_t) for the last step (D3PM, arXiv 2107.03006, eq. 1), all of them by the rows that the sampler of
    `posterior` draws from. Each evaluated step takes one draw of z_t. All steps are evaluated, or one random step in
    each of `evaluations` stretches of nearly equal length, weighted by the number of steps in its stretch.

    If a masked schedule leaves some signal at t = 1, the divergence from the prior would be infinite: a prior of masks
    never shows a token. So q's first state is drawn from the prior, at no cost, and the first step bears the
    difference.

    Args:
        scored: BoolTensor [B, L], tokens whose terms count; None: all.
    """
    process, cond = discrete(denoiser.process), Condition(labels, context=None if denoiser.block_size is None else x)
    scored = torch.ones_like(x, dtype=torch.bool) if scored is None else scored
    total = scored.sum(1).double() * prior_divergence(process)
    for look in looks(times, evaluations, streams, x):
        z = process.corrupt(x, look.t, generator=streams).x_t
        if process.carry_over:
            masks = process.prior((x.shape[0], x.shape[1]), device=x.device, generator=streams)
            z = torch.where(look.first[:, None], masks, z)
        # A network with a noise input gives a random component of its mixture: a bound on a bound, by Jensen.
        prediction = denoiser(z, look.t.float(), look.s.float(), cond=cond, generator=streams)
        if process.carry_over:
            total += look.weight * (_revealed(process, prediction.nll(x).double(), z, look) * scored).sum(1)
            continue

        def rows(log_p: Tensor, x0: Tensor, z: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor]:
            return (step_cost(process, log_p, x0, z, t, s, posterior),)

        t, s, weight = (values[:, None].expand(x.shape) for values in (look.t, look.s, look.weight))
        plugged = prediction.output if posterior == "plugged" else prediction
        (costs,) = plugged.scan(rows, prediction.where, x, z, t, s)
        weights = (weight * scored)[prediction.where]
        total.index_add_(0, prediction.where.nonzero()[:, 0], costs.double() * weights)
    return total


def prior_divergence(process: DiscreteProcess) -> float:
    """KL(q(z_1 | x) || p(z_1)) of one token in nats; 0 for masks, where the first step bears it (see `bound`)."""
    if process.carry_over:
        return 0.0
    vocab = process.vocab_size
    other = (1 - float(process.schedule.alpha(torch.ones((), dtype=torch.float64)))) / vocab
    same = 1 - (vocab - 1) * other
    return same * math.log(same * vocab) + (vocab - 1) * (other * math.log(other * vocab) if other else 0.0)


class Look(NamedTuple):
    """One step of each sample: from `t` to `s`, `first` if it is the walk's first, counted `weight` times; all [B]."""

    t: Tensor
    s: Tensor
    first: Tensor
    weight: Tensor


def looks(times: Sequence[float], evaluations: int | None, streams: SampleStreams, x: Tensor) -> Iterator[Look]:
    """The evaluated steps of a walk along `times`: one in each stretch, drawn independently for every sample.

    Args:
        evaluations: number of stretches, of nearly equal length; None: each step is one.
        x: clean tokens [B, L].
    """
    walk = torch.tensor(times, dtype=torch.float64, device=x.device)
    steps = len(times) - 1
    stretches = min(evaluations or steps, steps)
    edges = [steps * index // stretches for index in range(stretches + 1)]
    for begin, end in pairwise(edges):
        at = torch.full((len(x),), begin, device=x.device)
        if end - begin > 1:
            at += (uniform((len(x),), streams, device=x.device) * (end - begin)).long()
        yield Look(walk[at], walk[at + 1], at == 0, torch.full_like(walk[at], end - begin))


def _revealed(process: DiscreteProcess, nll: Tensor, z: Tensor, look: Look) -> Tensor:
    """KL of a step that reveals masks [B, L]: a revealed token costs its `nll`, other tokens nothing.

    A step reveals with p = (alpha_s - alpha_t) / (1 - alpha_t), the last one everything. In the first step q reveals
    with alpha_s, which is a little more than p if alpha(1) is not 0.
    """
    alpha_t, alpha_s = process.schedule.alpha(look.t), process.schedule.alpha(look.s)
    last = look.s == 0
    p = torch.where(last, 1.0, (alpha_s - alpha_t) / (1 - alpha_t).clamp_min(TINY))
    q = torch.where(look.first & ~last, alpha_s, p)
    chance = torch.special.xlogy(q, q / p) + torch.special.xlogy(1 - q, (1 - q) / (1 - p).clamp_min(TINY))
    return q[:, None] * nll + chance[:, None] * process.to_predict(z)
