"""Checks across sections: whether the components of a recipe fit together.

Each check takes a recipe and yields `(key, message)` for every reason why it cannot run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fewstep.core.component import ComponentConfig
from fewstep.core.kinds import registry
from fewstep.core.names import did_you_mean
from fewstep.recipe.yaml_loader import Key, dotted

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe

Complaints = Iterator[tuple[str, str]]


def check_graphs(recipe: Recipe) -> Complaints:
    """CUDA graphs are recorded of compiled code."""
    if recipe.train.cuda_graphs and recipe.train.compile == "off":
        yield (
            "train.cuda_graphs",
            "graphs are recorded of compiled trunks; set train.compile to trunk, or this to false",
        )


def check_supervision(recipe: Recipe) -> Complaints:
    """Fewer tokens can be supervised where the loss is a sum over tokens."""
    if recipe.supervision is not None and not _objective(recipe).per_token:
        yield (
            "supervision",
            f"the loss of objective '{recipe.objective.type}' is no sum over tokens; remove this section",
        )


def _check_half(recipe: Recipe) -> Complaints:
    role = _objective(recipe).roles.get("teacher")
    if role is not None and role.refreshed:
        yield (
            "teacher.dtype",
            f"objective '{recipe.objective.type}' replaces its teacher's weights as it trains; set it to float32",
        )
    if recipe.train.precision != "bf16":
        yield "teacher.dtype", "weights in bfloat16 suit a training in bfloat16; set train.precision to bf16"


def check_teacher(recipe: Recipe) -> Complaints:
    """Distillation needs a teacher, and other objectives cannot use one."""
    needs_teacher = "teacher" in _objective(recipe).roles
    if needs_teacher and recipe.teacher is None:
        yield (
            "teacher",
            f"objective '{recipe.objective.type}' needs a teacher; "
            "add `teacher: {run: RUN}` or use `fewstep distill RECIPE --teacher RUN`",
        )
    if recipe.teacher and recipe.teacher.dtype == "bfloat16":
        yield from _check_half(recipe)
    if recipe.teacher and not needs_teacher:
        yield "teacher", f"objective '{recipe.objective.type}' has no role for a teacher; remove this section"


def check_spaces(recipe: Recipe) -> Complaints:
    """The objective and the sampler must support the process's kind of data."""
    space = _class("processes", recipe.process).space
    for section, kind in (("objective", "objectives"), ("sampler", "samplers")):
        config: ComponentConfig = getattr(recipe, section)
        spaces = _spaces(kind, config.type)
        if space not in spaces:
            others = [entry.name for entry in registry(kind).entries() if space in _spaces(kind, entry.name)]
            fitting = _fitting_samplers(recipe) if section == "sampler" else others
            yield (
                section,
                f"{section} '{config.type}' works on {', '.join(sorted(spaces))} data, but process "
                f"'{recipe.process.type}' is {space}; {section}s for it: {', '.join(fitting) or 'none'}",
            )


def _spaces(kind: str, name: str) -> frozenset[str]:
    """Kinds of states that an objective or a sampler knows."""
    cls = registry(kind).get(name).cls
    spaces: frozenset[str] = cls.spaces if kind == "objectives" else cls.traits.spaces
    return spaces


def check_sampler(recipe: Recipe) -> Complaints:
    """Some students are made for one sampler."""
    required, sampler = _objective(recipe).sampler, recipe.sampler.type
    if required not in (None, sampler):
        yield (
            "sampler",
            f"students of '{recipe.objective.type}' are made for '{required}', not '{sampler}'; name that one",
        )


def check_context(recipe: Recipe) -> Complaints:
    """A backbone that predicts from clean tokens needs a sampler that provides them, and other backbones must not."""
    backbone, sampler = _class("backbones", recipe.backbone), _class("samplers", recipe.sampler)
    if backbone.uses_context == sampler.traits.gives_context:
        return
    fitting = _fitting_samplers(recipe)
    backbone_label, sampler_label = f"backbone '{recipe.backbone.type}'", f"sampler '{recipe.sampler.type}'"
    reason = (
        f"{backbone_label} predicts each block from clean tokens before it, and {sampler_label} gives it none"
        if backbone.uses_context
        else f"{sampler_label} goes block by block, and {backbone_label} has no blocks"
    )
    yield "sampler", f"{reason}; samplers for it: {', '.join(fitting) or 'none'}"


def check_clock(recipe: Recipe) -> Complaints:
    """A network whose predictions bring a clock needs a sampler that follows it."""
    objective, sampler = _objective(recipe), _class("samplers", recipe.sampler)
    if not objective.roles["student"].network.has_clock or sampler.traits.follows_clock:
        return
    yield (
        "sampler",
        f"students of '{recipe.objective.type}' decide which positions turn clean first, and sampler "
        f"'{recipe.sampler.type}' decides that itself; samplers for it: {', '.join(_fitting_samplers(recipe))}",
    )


def _fitting_samplers(recipe: Recipe) -> list[str]:
    """Names of the samplers that a recipe could have in the place of its own, by all that these say of themselves."""
    process, backbone = _class("processes", recipe.process), _class("backbones", recipe.backbone)
    has_clock = _objective(recipe).roles["student"].network.has_clock
    fitting = []
    for entry in registry("samplers").entries():
        traits = entry.cls.traits
        fits = process.space in traits.spaces and (process.carry_over or not traits.masks_only)
        fits = fits and traits.gives_context == backbone.uses_context and (traits.follows_clock or not has_clock)
        if fits and not _refused(entry.cls, recipe):
            fitting.append(entry.name)
    return fitting


def _refused(sampler: type[object], recipe: Recipe) -> bool:
    """Whether a sampler with its usual settings refuses the recipe as such, and not the value of a setting."""
    config = sampler.Config()  # type: ignore[attr-defined]
    other = recipe.model_copy(update={"sampler": config})
    return any(key in ("", "type") for key, _ in config.check_recipe(other))


def check_output(recipe: Recipe) -> Complaints:
    """A leave-one-out network needs a process whose evidence turns its rows into p(x | z_t)."""
    if recipe.output != "leave_one_out":
        return
    process, network = _class("processes", recipe.process), _objective(recipe).roles["student"].network
    if process.space != "discrete":
        yield (
            "output",
            f"leave_one_out is for processes of ids, and '{recipe.process.type}' is {process.space}; remove this key",
        )
    elif not hasattr(network, "output"):
        yield "output", f"the student of '{recipe.objective.type}' predicts no tokens; remove this key"
    elif network.has_clock:
        yield (
            "output",
            f"students of '{recipe.objective.type}' have a clock of their own, which the evidence of a token does not "
            "follow; set output to x_mean",
        )


def check_steps(recipe: Recipe) -> Complaints:
    """The sampler supports every number of steps in `evaluate.steps`."""
    sampler = _class("samplers", recipe.sampler)
    if unsupported := [str(steps) for steps in recipe.evaluate.steps if not sampler.traits.takes(steps)]:
        only = sampler.traits.only_steps
        yield (
            "evaluate.steps",
            f"sampler '{recipe.sampler.type}' takes {only} step{'s' * (only > 1)}, not {', '.join(unsupported)}; "
            f"set evaluate.steps to [{only}]",
        )


def check_adapters(recipe: Recipe) -> Complaints:
    """Adapters need a role that takes them."""
    roles = _objective(recipe).roles.values()
    for section, takers in (
        ("noise_input", [role for role in roles if role.adapters]),
        ("step_input", [role for role in roles if role.adapters or role.step_input]),
    ):
        if getattr(recipe, section) and not takers:
            yield section, f"objective '{recipe.objective.type}' has no role that takes it; remove this section"
    noise = recipe.noise_input
    if noise is None or not _class("noise_inputs", noise).noises_logits:
        return
    if any(role.adapters and not role.network.takes_logit_noise for role in roles):
        yield (
            "noise_input.type",
            f"'{noise.type}' is noise at the logits, and networks of objective '{recipe.objective.type}' take none "
            "there; use 'gaussian' or 'pyramid'",
        )


def check_labels(recipe: Recipe) -> Complaints:
    """Networks that are conditioned on labels need labelled data."""
    if recipe.label_input and not _class("datasets", recipe.data).labelled:
        fitting = [entry.name for entry in registry("datasets").entries() if entry.cls.labelled]
        yield (
            "label_input",
            f"data '{recipe.data.type}' have no labels; remove this section, or use data that have: "
            f"{', '.join(fitting) or 'none'}",
        )


def check_blocks(recipe: Recipe) -> Complaints:
    """Samples are a whole number of blocks, where both are known before the data are read."""
    length, block_size = getattr(recipe.data, "length", None), getattr(recipe.backbone, "block_size", None)
    if isinstance(length, int) and isinstance(block_size, int) and length % block_size:
        yield "backbone.block_size", f"samples of {length} tokens are no whole number of blocks of {block_size}"


def check_batch(recipe: Recipe) -> Complaints:
    """Micro-batches have equal sizes."""
    size, parts = recipe.train.batch_size, recipe.train.accumulate
    if size % parts:
        yield "train.batch_size", f"{size} cannot be split into {parts} equal micro-batches (train.accumulate)"


def check_rates(recipe: Recipe) -> Complaints:
    """Settings of a decay belong to a decay that has them."""
    if recipe.optim.floor and recipe.optim.decay == "constant":
        yield "optim.floor", "is where a decay ends, and a constant rate has none; set optim.decay"


def check_trained_roles(recipe: Recipe) -> Complaints:
    """`optim.roles` and `start_from` name trained roles."""
    roles = _objective(recipe).roles.items()
    trained = [name for name, role in roles if role.trained and role.needed(recipe.objective)]
    for key, names in (("optim.roles", recipe.optim.roles), ("start_from", recipe.start_from)):
        for name in [name for name in names if name not in trained]:
            yield (
                f"{key}.{name}",
                f"objective '{recipe.objective.type}' trains no role '{name}'"
                f"{did_you_mean(name, trained) or ';'} trained: {', '.join(trained)}",
            )


def check_early_best(recipe: Recipe) -> Complaints:
    """The best look is one of a distillation, by a metric of samples that has a better direction."""
    metric, key = recipe.watch.early_best, "watch.early_best"
    if metric is None:
        return
    cls = _class("metrics", metric)
    if "teacher" not in _objective(recipe).roles:
        yield (
            key,
            f"objective '{recipe.objective.type}' has no teacher, so its training is not watched; remove this key",
        )
    if not recipe.watch.times:
        yield "watch.times", "is 0, and watch.early_best keeps the best look; set it to 1 or more"
    if not recipe.watch.judged:
        yield "watch.judged", "is 0, and watch.early_best scores that number of samples; set it to 1 or more"
    if cls.of_models:
        yield key, f"metric '{metric.type}' measures a model and not its samples; name a metric of samples"
    elif all(direction == "info" for direction in cls.directions.values()):
        yield key, f"metric '{metric.type}' has no value of which lower or higher is better; name one that has"


def check_components(recipe: Recipe) -> Complaints:
    """Each component's own `check_recipe`, and the check that a sampler of masks gets a process with masks."""
    for key, config in component_configs(recipe):
        for below, message in [*_needs_masks(config, recipe), *config.check_recipe(recipe)]:
            yield ".".join(filter(None, [dotted(key), below])), message


CHECKS: tuple[Callable[[Recipe], Complaints], ...] = (
    check_teacher,
    check_graphs,
    check_supervision,
    check_spaces,
    check_sampler,
    check_context,
    check_clock,
    check_output,
    check_steps,
    check_adapters,
    check_labels,
    check_blocks,
    check_batch,
    check_rates,
    check_trained_roles,
    check_early_best,
    check_components,
)


def check_recipe(recipe: Recipe) -> list[tuple[str, str]]:
    """All reasons why a recipe cannot run, as (dotted key, message)."""
    return [complaint for check in CHECKS for complaint in check(recipe)]


def component_configs(value: object, key: Key = ()) -> Iterator[tuple[Key, ComponentConfig]]:
    """Every component config within a section, at any depth, with its key."""
    if isinstance(value, ComponentConfig):
        yield key, value
    below: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, BaseModel | dict):
        below = value.items() if isinstance(value, dict) else value
    elif isinstance(value, list | tuple):
        below = enumerate(value)
    for step, item in below:
        yield from component_configs(item, (*key, step))


def _class(kind: str, config: ComponentConfig) -> Any:
    return registry(kind).get(config.type).cls


def _objective(recipe: Recipe) -> Any:
    return _class("objectives", recipe.objective)


def _needs_masks(config: ComponentConfig, recipe: Recipe) -> Complaints:
    """A sampler that fills in masks needs a process with masks; nothing for other components."""
    samplers = (entry.cls for entry in registry("samplers").entries())
    sampler = next((cls for cls in samplers if cls.Config is type(config)), None)
    if sampler and sampler.traits.masks_only and not _class("processes", recipe.process).carry_over:
        yield "type", f"'{config.type}' fills in masks, and the {recipe.process.type} process has none"
