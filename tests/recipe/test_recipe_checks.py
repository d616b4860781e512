"""Each semantic check by itself: what it finds, and that it is silent otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest

from fewstep.core.component import ComponentConfig
from fewstep.core.fields import From
from fewstep.core.kinds import KINDS, registry
from fewstep.core.recipe_view import RecipeView
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import OBJECTIVES, Objective, RoleSpec
from fewstep.recipe import checks
from fewstep.recipe.models import Recipe
from fewstep.samplers.ancestral import AncestralSampler
from fewstep.samplers.base import SAMPLERS, Sampler, SamplerTraits
from fewstep.schedules.base import SCHEDULES, NoiseSchedule

PLAIN: dict[str, Any] = {
    "name": "x",
    "data": "coins",
    "process": "masked",
    "backbone": "transformer",
    "objective": "denoising",
    "train": {"steps": 1},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.model_validate({**PLAIN, **changes})


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(registry(kind).snapshot())
        yield


@pytest.mark.parametrize("check", checks.CHECKS)
def test_a_plain_recipe_passes(check: Callable[[Recipe], Iterator[tuple[str, str]]]) -> None:
    assert list(check(recipe())) == []


def test_teacher_is_missing() -> None:
    ((key, message),) = checks.check_teacher(recipe(objective="dmmd"))
    assert key == "teacher"
    assert "add `teacher: {run: RUN}` or use `fewstep distill RECIPE --teacher RUN`" in message


def test_teacher_is_of_no_use() -> None:
    ((key, message),) = checks.check_teacher(recipe(teacher={"run": "r"}))
    assert (key, message) == ("teacher", "objective 'denoising' has no role for a teacher; remove this section")
    assert not list(checks.check_teacher(recipe(objective="dmmd", teacher={"run": "r"})))


def test_spaces() -> None:
    @OBJECTIVES.register("in_pixels")
    class InPixels(Objective):
        spaces = frozenset({"gaussian"})

        class Config(ComponentConfig):
            type: Literal["in_pixels"] = "in_pixels"

        def loss(self, phase: Any, batch: Any, ctx: Any) -> Any:
            raise AssertionError

    @SAMPLERS.register("heun")
    class Heun(Sampler):
        traits = SamplerTraits(spaces=frozenset({"gaussian"}))

        class Config(ComponentConfig):
            type: Literal["heun"] = "heun"

        def sample(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    (objective, sampler) = checks.check_spaces(recipe(objective="in_pixels", sampler="heun"))
    assert objective[0] == "objective"
    assert (
        "objective 'in_pixels' works on gaussian data, but process 'masked' is discrete; objectives for it:"
        in objective[1]
    )
    assert "denoising" in objective[1].split("for it:")[1]
    assert sampler[0] == "sampler"
    assert "ancestral" in sampler[1].split("samplers for it:")[1]
    assert "heun" not in sampler[1].split("samplers for it:")[1]


def test_context() -> None:
    ((key, message),) = checks.check_context(recipe(backbone="block_transformer"))
    assert key == "sampler"
    assert message == (
        "backbone 'block_transformer' predicts each block from clean tokens before it, and sampler 'ancestral' gives "
        "it none; samplers for it: block, block_ancestral"
    )
    ((key, message),) = checks.check_context(recipe(sampler="block_ancestral"))
    assert key == "sampler"
    assert message.startswith(
        "sampler 'block_ancestral' goes block by block, and backbone 'transformer' has no blocks; samplers for it: "
    )
    assert "ancestral" in message.split("samplers for it: ")[1].split(", ")
    assert "block_ancestral" not in message.split("samplers for it: ")[1]
    assert not list(checks.check_context(recipe(backbone="block_transformer", sampler="block_ancestral")))


def test_what_a_network_predicts_follows_from_its_loss_and_process() -> None:
    uniform = {"process": "uniform"}
    for objective, output in (
        ("denoising", "x_mean"),
        ({"type": "denoising", "loss": "posterior"}, "leave_one_out"),
        ({"type": "denoising", "loss": "bound"}, "leave_one_out"),
        ("dmmd", "x_mean"),
        ({"type": "dmmd", "loss": "posterior"}, "leave_one_out"),
        ("consistency", "x_mean"),
    ):
        assert recipe(objective=objective, **uniform).output == output, objective
        assert recipe(objective=objective).output == "x_mean", "with masks both are one"
    named = recipe(objective={"type": "denoising", "loss": "bound"}, output="x_mean", **uniform)
    assert named.output == "x_mean"


def test_outputs_that_fit_nothing_are_refused() -> None:
    assert not list(checks.check_output(recipe(output="leave_one_out", process="uniform")))
    ((key, message),) = checks.check_output(recipe(output="leave_one_out", objective="classifier"))
    assert (key, message) == ("output", "the student of 'classifier' predicts no tokens; remove this key")
    posterior = {"type": "dmmd", "loss": "posterior"}
    complaints = list(checks.check_components(recipe(objective=posterior, output="x_mean", process="uniform")))
    assert ("objective.loss", "posteriors are compared by leave-one-out networks; set `output: leave_one_out`") in (
        complaints
    )
    weighted = {"type": "denoising", "loss": "bound", "weighting": "elbo"}
    complaints = list(checks.check_components(recipe(objective=weighted)))
    assert complaints == [("objective.weighting", "the bound has a weight of its own; remove this key")]


def test_a_clock_needs_a_sampler_that_follows_it() -> None:
    class Ordered(NetworkDenoiser):
        has_clock = True

    @OBJECTIVES.register("ordered")
    class OrderedDenoising(Objective):
        roles = {"student": RoleSpec(network=Ordered)}  # noqa: RUF012 - as authors write it

        class Config(ComponentConfig):
            type: Literal["ordered"] = "ordered"

        def loss(self, phase: Any, batch: Any, ctx: Any) -> Any:
            raise AssertionError

    ((key, message),) = checks.check_clock(recipe(objective="ordered", sampler="cached_ancestral"))
    assert key == "sampler"
    assert message == (
        "students of 'ordered' decide which positions turn clean first, and sampler 'cached_ancestral' decides that "
        "itself; samplers for it: ancestral, one_step"
    )
    assert not list(checks.check_clock(recipe(objective="ordered")))
    assert not list(checks.check_clock(recipe(sampler="cached_ancestral")))


def test_samplers_that_a_message_names_fit_the_whole_recipe() -> None:
    @SAMPLERS.register("continuous_jump")
    class OfContinuousStates(AncestralSampler):
        traits = SamplerTraits(spaces=frozenset({"continuous"}))

        class Config(AncestralSampler.Config):
            type: Literal["continuous_jump"] = "continuous_jump"  # type: ignore[assignment]

    @SAMPLERS.register("of_one_process")
    class OfOneProcess(AncestralSampler):
        class Config(AncestralSampler.Config):
            type: Literal["of_one_process"] = "of_one_process"  # type: ignore[assignment]

            def check_recipe(self, recipe: Any) -> Any:
                if recipe.process.type != "uniform":
                    yield "", "is for the uniform process"

    def named(**sections: Any) -> list[str]:
        ((_, message),) = checks.check_context(recipe(sampler="block_ancestral", **sections))
        return str(message.split("samplers for it: ")[1]).split(", ")

    masked, uniform = named(), named(process="uniform")
    assert "continuous_jump" not in masked + uniform, "it takes no ids"
    assert "of_one_process" in uniform
    assert "of_one_process" not in masked, "it refuses masks itself"
    assert "confidence" in masked
    assert "confidence" not in uniform, "it fills in masks"


def test_noise_input() -> None:
    @OBJECTIVES.register("noisy")
    class Noisy(Objective):
        roles = {"student": RoleSpec(adapters=True)}  # noqa: RUF012 - as authors write it

        class Config(ComponentConfig):
            type: Literal["noisy"] = "noisy"

        def loss(self, phase: Any, batch: Any, ctx: Any) -> Any:
            raise AssertionError

    ((key, message),) = checks.check_adapters(recipe(noise_input="gaussian"))
    assert (key, message) == ("noise_input", "objective 'denoising' has no role that takes it; remove this section")
    assert not list(checks.check_adapters(recipe(objective="noisy", noise_input="gaussian")))


def test_a_step_input_without_a_noise_input() -> None:
    @OBJECTIVES.register("stepping")
    class Stepping(Objective):
        roles = {"student": RoleSpec(step_input=True)}  # noqa: RUF012 - as authors write it

        class Config(ComponentConfig):
            type: Literal["stepping"] = "stepping"

        def loss(self, phase: Any, batch: Any, ctx: Any) -> Any:
            raise AssertionError

    assert not list(checks.check_adapters(recipe(objective="stepping", step_input={})))
    ((key, _),) = checks.check_adapters(recipe(objective="stepping", step_input={}, noise_input="gaussian"))
    assert key == "noise_input"


def test_batch() -> None:
    ((key, message),) = checks.check_batch(recipe(train={"steps": 1, "batch_size": 10, "accumulate": 4}))
    assert key == "train.batch_size"
    assert message == "10 cannot be split into 4 equal micro-batches (train.accumulate)"


def test_optimised_roles() -> None:
    roles = {"studnet": {"lr": 1.0}, "teacher": {"lr": 1.0}, "student": {"lr": 1.0}}
    (typo, frozen) = checks.check_trained_roles(recipe(objective="dmmd", teacher={"run": "r"}, optim={"roles": roles}))
    assert typo[0] == "optim.roles.studnet"
    assert "objective 'dmmd' trains no role 'studnet'; did you mean 'student'? trained: student" in typo[1]
    assert frozen[0] == "optim.roles.teacher"


def test_metrics() -> None:
    metrics = ["sample_entropy", "class_coverage"]
    ((key, message),) = checks.check_components(recipe(evaluate={"metrics": metrics}))
    assert key == "evaluate.metrics[1]"
    assert message.startswith("metric 'class_coverage' cannot score 'coins': ")
    assert not list(checks.check_components(recipe(data="digits", evaluate={"metrics": metrics})))


def test_components_check_themselves_however_deep() -> None:
    @SCHEDULES.register("picky")
    class Picky(NoiseSchedule):
        class Config(ComponentConfig):
            type: Literal["picky"] = "picky"
            eps: float = 0.0

            def check_recipe(self, recipe: RecipeView) -> Iterator[tuple[str, str]]:
                yield "eps", f"{self.eps} is too small for {recipe.name}"
                yield "", "not on Sundays"

        config: Config
        alpha = alpha_prime = time_of = lambda self, t: t

    found = list(checks.check_components(recipe(process={"type": "masked", "schedule": "picky"})))
    assert found == [("process.schedule.eps", "0.0 is too small for x"), ("process.schedule", "not on Sundays")]


def test_all_checks_run() -> None:
    found = checks.check_recipe(
        recipe(
            objective="dmmd",
            train={"steps": 1, "batch_size": 5, "accumulate": 2},
            evaluate={"metrics": ["class_coverage"]},
            optim={"roles": {"x": {}}},
        )
    )
    assert [key for key, _ in found] == ["teacher", "train.batch_size", "optim.roles.x", "evaluate.metrics[0]"]


def test_component_configs_finds_all_of_them() -> None:
    found = checks.component_configs(recipe(evaluate={"metrics": ["sample_entropy"]}, supervision="sparse"))
    keys = {key: config.type for key, config in found}
    assert keys[("process", "schedule")] == "linear"
    assert keys[("evaluate", "metrics", 0)] == "sample_entropy"
    named = [name for name, field in Recipe.model_fields.items() if any(isinstance(m, From) for m in field.metadata)]
    assert {(name,) for name in named} - {("noise_input",)} <= keys.keys()  # null unless asked for
