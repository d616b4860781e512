"""Trajectories of a teacher by the noise that its student sees, and the loss of a student that learns to follow them.

From z_t the teacher decides the masked tokens in a few turns. It draws each from its prediction with the student's own
noise at the logits, so that both decide by common random numbers. The student, in one evaluation from z_t, learns what
the teacher predicts of each token at that token's turn: there the teacher knows all tokens of earlier turns, and the
student knows the noise that decided them. It is supervised learning without a game.

Shapes: B batch, L tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.core.errors import UserError
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.base import Network
from fewstep.denoisers.network import BackboneNetwork
from fewstep.objectives.base import Batch, LossOutput, StepContext
from fewstep.objectives.matching.diagnostics import mean_entropy
from fewstep.objectives.parts.weighting import WeightingConfig, loss_weight
from fewstep.predictions.base import Prediction, rowwise
from fewstep.predictions.logit_noise import NoisyPrediction
from fewstep.predictions.positions import split
from fewstep.predictions.row_losses import CrossEntropy
from fewstep.processes.base import PROCESSES, Process, StepMasks, discrete, find_masks, per_token
from fewstep.runtime.streams import uniform

Groups = int | tuple[int, int]
"""Number of turns by place in the sample, or of rows and columns of an image."""

Turns = Sequence[Tensor]
"""Places (BoolTensor [L]) that are decided at each turn."""

Teacher = Callable[[Tensor, Tensor], Prediction]
"""States [B, L] at times [B] or [B, L] -> the teacher's prediction."""

_CROSS_ENTROPY = CrossEntropy((1.0,))


def follow_trajectories(
    config: WeightingConfig, batch: Batch, ctx: StepContext, t: Tensor, end: Tensor, turns: Turns, teacher: Teacher
) -> LossOutput:
    """A step of learning trajectories: `trajectory_loss`, weighted by time, and the student's entropy."""
    student, values = trajectory_loss(batch, ctx, t, end, turns, teacher)
    loss = ctx.mean(per_token(loss_weight(config, t, ctx.process.schedule)) * values)
    return LossOutput(loss, {"student_entropy": mean_entropy(student)} if ctx.diagnose else {})


def trajectory_loss(
    batch: Batch, ctx: StepContext, t: Tensor, end: Tensor, turns: Turns, teacher: Teacher
) -> tuple[Prediction, Tensor]:
    """The student's prediction at z_t, and -sum_c q_c log p_c of each masked token [B, L].

    q is the teacher's prediction at the token's turn. p is the student's without its noise at the logits, since that is
    the same for both.

    Args:
        t: times of z_t.
        end: times at the end of the student's step, for a student that is conditioned on it.
        turns: places that are decided at each turn.
        teacher: at each turn it gets the time at which as many tokens are masked.
    """
    z_t = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"]).x_t
    process, left = discrete(ctx.process), ctx.process.to_predict(z_t)
    steps = []
    for turn, places in enumerate(turns):
        steps.append(StepMasks(*split(left, places, 1 / (len(turns) - turn))))
        left = steps[-1].left
    find_masks(process, [z_t], steps)
    student = ctx.roles["student"](z_t, t, end, cond=batch.cond, generator=ctx.generators["noise"])
    assert isinstance(student, NoisyPrediction), "the student has no noise at its logits"
    levels = uniform(z_t.shape, ctx.generators["sample"], device=z_t.device)
    z, losses, count = z_t, list[Tensor](), len(turns)
    for turn, (where, left) in enumerate(steps):
        with torch.no_grad():
            prediction = teacher(z, t if turn == 0 else _time_left(ctx.process, t, 1 - turn / count))
            if turn < count - 1:
                z = process.keep_masks(NoisyPrediction(prediction, student.noise).sample_at(levels, where), left)
        losses.append(rowwise(_CROSS_ENTROPY, [student.plain, prediction], where=where))
    return student, sum(losses[1:], losses[0])


def places_in_turns(network: Network, groups: Groups) -> Turns:
    """Places of each turn. They are evenly spread, and so are those of the first turns together.

    Place i is in group i mod G, and groups take their turns by bit-reversed number: 0, 2, 1, 3 of four. Of an image it
    is so for rows and columns, whose bits take turns.

    Raises:
        UserError: the groups do not divide the sample.
    """
    assert isinstance(network, BackboneNetwork)
    tokens = network.backbone.tokens
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    if isinstance(groups, int):
        sizes, shape = (groups,), (tokens.length,)
    else:
        if tokens.grid is None:
            raise UserError("objective: groups of rows and columns are for images; give one number of groups")
        sizes, shape = groups, tokens.grid[:2]
    for size, places in zip(sizes, shape, strict=True):
        if places % size:
            raise UserError(f"objective: {size} groups do not divide {places} places; give a number that does")
    bits = max(sizes).bit_length()
    axes = [[place % size for place in range(places)] for places, size in zip(shape, sizes, strict=True)]
    keys = [_reversed_bits(groups, bits) for groups in itertools.product(*axes)]
    number = {key: turn for turn, key in enumerate(sorted(set(keys)))}
    turns = torch.tensor([number[key] for key in keys], device=network.device)
    turns = turns.repeat_interleave(tokens.length // len(keys))
    return [turns == turn for turn in range(math.prod(sizes))]


def check_trajectories(key: str, groups: Groups, recipe: RecipeView) -> Iterator[tuple[str, str]]:
    """Refuse recipes without masks, without noise at the logits, or with groups that divide no sample.

    Args:
        key: of the setting of the groups.
    """
    if not PROCESSES.get(recipe.process.type).cls.carry_over:
        yield key, f"trajectories decide masked tokens, and the {recipe.process.type} process has none; remove this key"
    elif recipe.noise_input is None or not NOISE_INPUTS.get(recipe.noise_input.type).cls.noises_logits:
        yield key, "trajectories go by the student's noise at the logits; set `noise_input: stable`"
    length = getattr(recipe.data, "length", None)
    if min(groups if isinstance(groups, tuple) else (groups,)) < 1:
        yield key, "should be at least 1"
    elif isinstance(groups, int) and isinstance(length, int) and length % groups:
        yield key, f"{groups} groups do not divide samples of {length} tokens; give a number that does"


def _time_left(process: Process, t: Tensor, share: float) -> Tensor:
    """The time at which a share of the tokens is masked of those that are at t."""
    return process.schedule.time_of(1 - share * process.schedule.noise(t))


def _reversed_bits(numbers: Sequence[int], bits: int) -> int:
    """A number of their bits in reverse: the lowest of each come first."""
    key = 0
    for bit in range(bits):
        for number in numbers:
            key = 2 * key + (number >> bit & 1)
    return key
