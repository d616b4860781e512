"""What cannot be seen in one section alone: do the named components fit together?

Each check takes a recipe and yields `(key, message)` for every reason why it cannot run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fewstep.core.component import ComponentConfig, did_you_mean
from fewstep.core.kinds import registry
from fewstep.recipe.yaml_loader import Key, dotted

if TYPE_CHECKING:
    from fewstep.recipe.models import Recipe

Found = Iterator[tuple[str, str]]


def check_teacher(recipe: Recipe) -> Found:
    """Distillation needs a teacher, and nothing else has use for one."""
    wanted = "teacher" in _objective(recipe).roles
    if wanted and recipe.teacher is None:
        yield (
            "teacher",
            f"objective '{recipe.objective.type}' needs a teacher; "
            "add `teacher: {run: RUN}` or use `fewstep distill RECIPE --teacher RUN`",
        )
    if recipe.teacher and not wanted:
        yield "teacher", f"objective '{recipe.objective.type}' has no role for a teacher; remove this section"


def check_spaces(recipe: Recipe) -> Found:
    """The objective and the sampler must know the process's kind of data."""
    space = _class("processes", recipe.process).space
    for section, kind in (("objective", "objectives"), ("sampler", "samplers")):
        config: ComponentConfig = getattr(recipe, section)
        spaces = _class(kind, config).spaces
        if space not in spaces:
            fitting = [entry.name for entry in registry(kind).entries() if space in entry.cls.spaces]
            yield (
                section,
                f"{section} '{config.type}' works on {', '.join(sorted(spaces))} data, but process "
                f"'{recipe.process.type}' is {space}; {section}s for it: {', '.join(fitting) or 'none'}",
            )


def check_sampler(recipe: Recipe) -> Found:
    """Some students are made for one sampler."""
    wanted, given = _objective(recipe).sampler, recipe.sampler.type
    if wanted not in (None, given):
        yield "sampler", f"students of '{recipe.objective.type}' are made for '{wanted}', not '{given}'; name that one"


def check_context(recipe: Recipe) -> Found:
    """A backbone that predicts from clean tokens needs a sampler that gives it some, and no other has use for one."""
    backbone, sampler = _class("backbones", recipe.backbone), _class("samplers", recipe.sampler)
    if backbone.uses_context == sampler.gives_context:
        return
    fitting = [e.name for e in registry("samplers").entries() if e.cls.gives_context == backbone.uses_context]
    who, what = f"backbone '{recipe.backbone.type}'", f"sampler '{recipe.sampler.type}'"
    reason = (
        f"{who} predicts each block from clean tokens before it, and {what} gives it none"
        if backbone.uses_context
        else f"{what} goes block by block, and {who} has no blocks"
    )
    yield "sampler", f"{reason}; samplers for it: {', '.join(fitting) or 'none'}"


def check_steps(recipe: Recipe) -> Found:
    """The sampler can take as many steps as it is evaluated at."""
    sampler = _class("samplers", recipe.sampler)
    if wrong := [str(steps) for steps in recipe.evaluate.steps if not sampler.takes(steps)]:
        only = sampler.only_steps
        yield (
            "evaluate.steps",
            f"sampler '{recipe.sampler.type}' takes {only} step{'s' * (only > 1)}, not {', '.join(wrong)}; "
            f"set evaluate.steps to [{only}]",
        )


def check_adapters(recipe: Recipe) -> Found:
    """Adapters go into the roles that ask for them."""
    if any(role.adapters for role in _objective(recipe).roles.values()):
        return
    for section in ("noise_input", "step_input"):
        if getattr(recipe, section):
            yield section, f"objective '{recipe.objective.type}' has no role that takes it; remove this section"


def check_labels(recipe: Recipe) -> Found:
    """Networks that are told labels need data that have them."""
    if recipe.label_input and not _class("datasets", recipe.data).labelled:
        fitting = [entry.name for entry in registry("datasets").entries() if entry.cls.labelled]
        yield (
            "label_input",
            f"data '{recipe.data.type}' have no labels; remove this section, or use data that have: "
            f"{', '.join(fitting) or 'none'}",
        )


def check_batch(recipe: Recipe) -> Found:
    """Micro-batches are of one size."""
    size, parts = recipe.train.batch_size, recipe.train.accumulate
    if size % parts:
        yield "train.batch_size", f"{size} cannot be split into {parts} equal micro-batches (train.accumulate)"


def check_trained_roles(recipe: Recipe) -> Found:
    """`optim.roles` and `start_from` name roles that are trained."""
    trained = [name for name, role in _objective(recipe).roles.items() if role.trained]
    for key, names in (("optim.roles", recipe.optim.roles), ("start_from", recipe.start_from)):
        for name in [name for name in names if name not in trained]:
            yield (
                f"{key}.{name}",
                f"objective '{recipe.objective.type}' trains no role '{name}'"
                f"{did_you_mean(name, trained) or ';'} trained: {', '.join(trained)}",
            )


def check_components(recipe: Recipe) -> Found:
    """What the settings of each component check themselves, after what is asked of every sampler."""
    for key, config in component_configs(recipe):
        for below, message in [*_needs_masks(config, recipe), *config.check_recipe(recipe)]:
            yield ".".join(filter(None, [dotted(key), below])), message


CHECKS: tuple[Callable[[Recipe], Found], ...] = (
    check_teacher,
    check_spaces,
    check_sampler,
    check_context,
    check_steps,
    check_adapters,
    check_labels,
    check_batch,
    check_trained_roles,
    check_components,
)


def check_recipe(recipe: Recipe) -> list[tuple[str, str]]:
    """Everything that the checks find, as (dotted key, message)."""
    return [found for check in CHECKS for found in check(recipe)]


def component_configs(value: Any, key: Key = ()) -> Iterator[tuple[Key, ComponentConfig]]:
    """Every component's config within a section, however deeply nested, with its key."""
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


def _needs_masks(config: ComponentConfig, recipe: Recipe) -> Found:
    """Samplers that fill in masks need a process that has them; no other component is asked."""
    samplers = (entry.cls for entry in registry("samplers").entries())
    sampler = next((cls for cls in samplers if cls.Config is type(config)), None)
    if sampler and sampler.masks_only and not _class("processes", recipe.process).carry_over:
        yield "type", f"'{config.type}' fills in masks, and the {recipe.process.type} process has none"
