"""Plan of a training: memory, time and cost of each strategy on named GPUs, and all that was assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from fewstep.core.errors import UserError
from fewstep.planning.hardware import GIB
from fewstep.planning.left_out import left_out
from fewstep.planning.machine import Machine, Request
from fewstep.planning.memory import Sharing, Strategy, footprint, shardable, sharings
from fewstep.planning.outline import Shapes, outline, outline_data
from fewstep.planning.rehearsal import Peak, Settings, SetUp, peaks, rehearse, set_up
from fewstep.recipe.models import Recipe
from fewstep.training.turns import Turns

_DEVIATIONS = 2
"""Standard deviations above its mean at which memory is planned: the share of masks in a micro-batch varies."""
_NEARLY = 1.15
"""Time of a step over that of a faster but less simple strategy, up to which the simpler one is taken."""
_COUNTED = 4
"""Samples whose FLOPs are counted, if that divides a micro-batch."""


@dataclass(frozen=True)
class Option:
    """A strategy: bytes of a rank by part, whether they fit, and time and cost of the whole training.

    `available` says whether the objective can have it.
    """

    strategy: Strategy
    available: bool
    checkpointing: bool
    parts: Mapping[str, int]
    total: int
    fits: bool
    step_seconds: float
    hours: float
    cost: float


@dataclass(frozen=True)
class Plan:
    """What a training takes.

    Args:
        micro_batch: samples of a rank's micro-batch.
        parameters: by role.
        flops: model FLOPs a token by phase; `flops_per_token` is their mean over a training.
        flops_before: FLOPs of the objective's set-up, such as samples that a teacher draws; hours and cost have it.
        options: strategies, with and without activation checkpointing.
        assumed: what was assumed, by the option of the command that changes it.
        remarks: sentences on what else was assumed, and on what is left out.
    """

    recipe: str
    gpu: str
    gpus: int
    batch: int
    accumulate: int
    micro_batch: int
    vocab: int
    length: int
    steps: int
    parameters: Mapping[str, int]
    flops: Mapping[str, float]
    flops_per_token: float
    flops_before: float
    options: tuple[Option, ...]
    assumed: Mapping[str, str]
    remarks: tuple[str, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the whole training."""
        return self.steps * self.batch * self.length

    @property
    def best(self) -> Option | None:
        """The first strategy that fits, suits the objective and is nearly as fast as any; None if there is none."""
        fitting = [option for option in self.options if option.fits and option.available]
        limit = _NEARLY * min((option.step_seconds for option in fitting), default=0.0)
        return next((option for option in fitting if option.step_seconds <= limit), None)

    def as_dict(self) -> dict[str, object]:
        """Plain data."""
        best = None if self.best is None else self.options.index(self.best)
        return {**asdict(self), "tokens": self.tokens, "best": best}


@dataclass(frozen=True)
class Followed:
    """A variant of a recipe, with or without checkpointing, and what a step of each of its phases takes.

    Args:
        setup: what the objective computes before the first step.
        flops: of a token.
        memory: of a micro-batch.
    """

    shapes: Shapes
    setup: SetUp
    flops: Mapping[str, float]
    memory: Mapping[str, Peak]


def make_plan(recipe: Recipe, request: Request, checkpointing: Sequence[bool] = (False, True)) -> Plan:
    """Plan a training.

    Args:
        checkpointing: what to plan of `backbone.activation_checkpointing`, if the backbone has it.

    Raises:
        UserError: the batch does not divide into the ranks, sizes are not known, or the objective cannot be followed.
    """
    return priced(recipe, request, follow(recipe, request, checkpointing))


def follow(recipe: Recipe, request: Request, checkpointing: Sequence[bool] = (False, True)) -> dict[bool, Followed]:
    """What steps take without and with activation checkpointing, on any GPU.

    Raises:
        UserError: see `make_plan`.
    """
    micro = _micro_batch(recipe, request.gpus)
    dataset = outline_data(recipe, request.vocab, request.length)
    counted = Settings(_COUNTED if micro % _COUNTED == 0 else micro)
    share = 0.5 + _DEVIATIONS / (12 * micro) ** 0.5  # of masks, for independent times that are uniform
    followed = Settings(
        micro,
        accumulate=recipe.train.accumulate,
        precision=Machine(recipe, request).precision,
        share=min(share, 1.0),
        diagnose=True,
    )
    variants = dict[bool, Followed]()
    for flag, variant in _variants(recipe, checkpointing).items():
        shapes = outline(variant, dataset)
        setup = set_up(shapes)
        tokens = counted.batch * dataset.spec.length
        ledgers = rehearse(shapes, counted, prepared=True)
        flops = {phase: ledger.flops / tokens for phase, ledger in ledgers.items()}
        variants[flag] = Followed(shapes, setup, flops, peaks(shapes, followed))
    return variants


def priced(recipe: Recipe, request: Request, variants: Mapping[bool, Followed]) -> Plan:
    """The plan of what was followed, on the GPUs of a request."""
    machine, plain = Machine(recipe, request), next(iter(variants.values()))
    steps, spec = _steps_of(plain.shapes, recipe), plain.shapes.dataset.spec
    options = [
        _option(machine, variant, sharing, flag, recipe.train.batch_size * spec.length / request.gpus, steps)
        for flag, variant in variants.items()
        for sharing in sharings(request.gpus, machine.shards)
    ]
    return Plan(
        recipe=recipe.name,
        gpu=request.gpu.name,
        gpus=request.gpus,
        batch=recipe.train.batch_size,
        accumulate=recipe.train.accumulate,
        micro_batch=_micro_batch(recipe, request.gpus),
        vocab=spec.vocab_size,
        length=spec.length,
        steps=recipe.train.steps,
        parameters={name: sum(p.numel() for p in role.parameters()) for name, role in plain.shapes.roles.items()},
        flops=plain.flops,
        flops_before=plain.setup.flops,
        flops_per_token=sum(plain.flops[phase] * n for phase, n in steps.items()) / recipe.train.steps,
        options=tuple(options),
        assumed=machine.assumed,
        remarks=(*plain.shapes.assumed, left_out(recipe)),
    )


def _option(
    machine: Machine, variant: Followed, sharing: Sharing, checkpointing: bool, tokens: float, steps: Mapping[str, int]
) -> Option:
    """A strategy.

    Args:
        tokens: of a rank's share of a batch.
        steps: of each phase in the whole training.
    """
    parts = footprint(variant.shapes, variant.memory, variant.setup, sharing, machine.parallel)
    total, count = sum(parts.values()), sum(steps.values())
    seconds, before = 0.0, machine.seconds_before(variant.setup, variant.shapes.objective.divides_setup)
    for phase, n in steps.items():
        operators = variant.memory[phase].operators
        seconds += n * machine.seconds(variant.shapes, phase, variant.flops[phase] * tokens, operators, sharing)
    return Option(
        sharing.strategy,
        sharing.shards == 1 or shardable(variant.shapes),
        checkpointing,
        parts,
        total,
        fits=total <= (machine.memory - machine.reserve) * GIB,
        step_seconds=seconds / count,
        hours=(seconds + before) / 3600,
        cost=(seconds + before) / 3600 * machine.gpus * machine.price,
    )


def _micro_batch(recipe: Recipe, gpus: int) -> int:
    """Samples of a rank's micro-batch.

    Raises:
        UserError: the batch does not divide.
    """
    size, parts = recipe.train.batch_size, gpus * recipe.train.accumulate
    if size % parts:
        raise UserError(
            f"train.batch_size: {size} samples do not divide into {gpus} GPUs with {recipe.train.accumulate} "
            f"micro-batches each (train.accumulate); take {max(parts, round(size / parts) * parts)}"
        )
    return size // parts


def _variants(recipe: Recipe, checkpointing: Sequence[bool]) -> dict[bool, Recipe]:
    """The recipe without and with activation checkpointing, or as it is if its backbone has no such setting."""
    if "activation_checkpointing" not in type(recipe.backbone).model_fields:
        return {False: recipe}
    return {
        flag: recipe.model_copy(
            update={"backbone": recipe.backbone.model_copy(update={"activation_checkpointing": flag})}
        )
        for flag in checkpointing
    }


def _steps_of(shapes: Shapes, recipe: Recipe) -> dict[str, int]:
    """Optimiser steps of each phase in the whole training."""
    phases = [replace(phase, train=(phase.name,)) for phase in shapes.objective.phases()]
    turns = Turns(phases, recipe.train.steps)
    return {phase.name: turns.updates(phase.name) for phase in phases}
