"""From a file to a checked recipe and back, with every problem located."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import PositiveInt

from fewstep.core import plugins
from fewstep.core.component import Strict
from fewstep.core.errors import RecipeError
from fewstep.core.kinds import KINDS, registry
from fewstep.recipe import dump_recipe, load_recipe, load_run_recipe, locate, parse_recipe, validate_file
from fewstep.recipe import loading as loading_module
from fewstep.recipe.yaml_loader import load_mapping

RECIPE = """\
# Something small.
name: small
data: coins
process: masked
backbone: transformer
objective: denoising
train: {steps: 10}
"""

OBJECTIVE = '''\
from typing import Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.objectives.base import OBJECTIVES, Batch, LossOutput, Objective, Phase, StepContext


@OBJECTIVES.register("plain_nll")
class PlainNll(Objective):
    """Mean negative log-likelihood of the clean tokens."""

    class Config(ComponentConfig):
        type: Literal["plain_nll"] = "plain_nll"
        scale: float = Field(1.0, gt=0, description="factor of the loss")

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        t = ctx.sample_time(batch.size)
        corrupted = ctx.process.corrupt(batch.x0, t, generator=ctx.generators["noise"])
        prediction = ctx.roles["student"](corrupted.x_t, t, generator=ctx.generators["noise"])
        return LossOutput(self.config.scale * prediction.nll(batch.x0).mean())
'''


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("small.yaml")
    path.write_text(RECIPE)
    return path


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registrations and plugins of the test are forgotten afterwards."""
    with ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(registry(kind).snapshot())
        monkeypatch.setattr(plugins, "_loader", plugins._Loader())
        yield


def problems(source: str | Path, *sets: str, trust_plugins: bool = False) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, sets, trust_plugins=trust_plugins)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def test_a_recipe_keeps_its_text_and_path(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert (loaded.text, loaded.path) == (RECIPE, recipe)
    assert loaded.recipe.data.type == "coins"
    assert loaded.recipe.train.batch_size == 128
    assert load_recipe(str(recipe)).recipe == loaded.recipe


def test_what_is_dumped_is_the_same_recipe(recipe: Path) -> None:
    sets = ["objective=dmmd", "teacher={run: runs/x, weights: raw}", "noise_input=gaussian", "train.batch_size=7",
            "optim.roles.auxiliary.lr=1e-5", "evaluate.metrics=[sample_entropy]", "evaluate.steps=[1, 2]"]  # fmt: skip
    first = load_recipe(recipe, sets).recipe
    text = dump_recipe(first)
    assert parse_recipe(text) == first
    assert dump_recipe(parse_recipe(text)) == text
    assert parse_recipe(load_mapping(text, "f").plain()) == first
    assert list(load_mapping(text, "f").plain())[:3] == ["schema_version", "name", "seed"]
    Path("recipe.resolved.yaml").write_text(text)
    assert load_run_recipe("recipe.resolved.yaml") == first


def test_parse_recipe_locates_problems_in_text() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE.replace("steps: 10", "steps: -1"), source="checkpoint")
    assert str(caught.value) == "checkpoint:7: train.steps: should be greater than 0, not -1"
    with pytest.raises(RecipeError, match=r"^recipe: train: required key 'train' is missing"):
        parse_recipe({key: value for key, value in load_mapping(RECIPE, "f").plain().items() if key != "train"})


def test_problems_stand_where_the_value_came_from(recipe: Path) -> None:
    Path("base.yaml").write_text("train:\n  stepz: 1\n")
    recipe.write_text("extends: base.yaml\n" + RECIPE)
    assert problems(recipe, "optim.lr=-1", "seed=many") == [
        "--set:1: optim.lr: should be greater than 0, not -1",
        "--set:2: seed: should be a valid integer, not 'many'",
        "base.yaml:2: train.stepz: unknown key 'stepz'; did you mean 'steps'?",
    ]


def test_missing_keys_stand_at_the_section_that_lacks_them(recipe: Path) -> None:
    recipe.write_text("name: x\ndata: coins\nprocess: masked\nbackbone: transformer\ntrain:\n  accumulate: 1\n")
    assert problems(recipe) == [
        "small.yaml:1: objective: required key 'objective' is missing",
        "small.yaml:5: train.steps: required key 'steps' is missing",
    ]


def test_deep_and_listed_components_are_located(recipe: Path) -> None:
    recipe.write_text(
        RECIPE.replace("process: masked", "process:\n  type: masked\n  schedule:\n    type: linear\n    esp: 1")
        + "evaluate:\n  metrics:\n    - sample_entropy\n    - {type: sample_entropi}\n    - 7\n"
    )
    first, second, third = problems(recipe)
    assert first == "small.yaml:8: process.schedule.esp: unknown key 'esp'; did you mean 'eps'?"
    assert second.startswith("small.yaml:15: evaluate.metrics[1].type: no metric named 'sample_entropi'; did you mean")
    assert third.startswith("small.yaml:16: evaluate.metrics[2]: expected the name of a metric")


def test_semantic_checks_run_when_every_section_is_valid(recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("denoising", "dmmd").replace("{steps: 10}", "\n  steps: 10\n  accumulate: 3"))
    first, second = problems(recipe)
    assert first.startswith("small.yaml:2: teacher: objective 'dmmd' needs a teacher; add `teacher: {run: RUN}` or use")
    assert second == "small.yaml:7: train.batch_size: 128 cannot be split into 3 equal micro-batches (train.accumulate)"
    assert load_recipe(recipe, ["train.accumulate=2"], teacher="runs/t").recipe.teacher.run == "runs/t"  # type: ignore[union-attr]


def test_a_teacher_that_nobody_asked_for(recipe: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe, teacher="runs/t")
    assert str(caught.value).startswith("--teacher: teacher: objective 'denoising' has no role for a teacher")


@pytest.mark.usefixtures("isolated")
def test_a_plugin_file_beside_the_recipe(recipe: Path, tmp_path: Path) -> None:
    Path("my_objective.py").write_text(OBJECTIVE)
    recipe.write_text(RECIPE.replace("denoising", "{type: plain_nll, scale: 2}") + "plugins: [./my_objective.py]\n")
    first = load_recipe(recipe, trust_plugins=True).recipe
    assert first.objective.model_dump() == {"type": "plain_nll", "scale": 2.0}
    assert first.plugins == (str(tmp_path.resolve() / "my_objective.py"),)
    # A run folder elsewhere finds it again.
    Path("elsewhere").mkdir()
    Path("elsewhere/recipe.resolved.yaml").write_text(dump_recipe(first))
    assert load_run_recipe("elsewhere/recipe.resolved.yaml") == first
    recipe.write_text(recipe.read_text().replace("scale", "scael"))
    assert problems(recipe) == ["small.yaml:6: objective.scael: unknown key 'scael'; did you mean 'scale'?"]


@pytest.mark.usefixtures("isolated")
def test_broken_plugins_are_located(recipe: Path) -> None:
    Path("bad.py").write_text("import nothing_of_this_name\n")
    recipe.write_text(RECIPE + "plugins:\n  - ./bad.py\n  - no_such_plugin\n  - ./absent.py\n")
    bad, unknown, absent = problems(recipe, trust_plugins=True)
    assert bad.startswith("small.yaml:9: plugins[0]: plugin '")
    assert "bad.py' failed to load: ModuleNotFoundError: No module named 'nothing_of_this_name' (" in bad
    assert bad.endswith("bad.py:1)")
    assert unknown.startswith("small.yaml:10: plugins[1]: no plugin 'no_such_plugin'")
    assert absent.startswith("small.yaml:11: plugins[2]: no plugin file '")


@pytest.mark.parametrize("value", ["acme", "[1]", "{a: b}"])
def test_plugins_of_the_wrong_shape(recipe: Path, value: str) -> None:
    recipe.write_text(RECIPE + f"plugins: {value}\n")
    (problem,) = problems(recipe)
    assert problem.startswith("small.yaml:8: plugins")


def test_shipped_names(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(kind: str, name: str) -> Path:
        assert (kind, name) == ("recipe", "small")
        return recipe.resolve()

    monkeypatch.setattr(loading_module, "find_shipped", find)
    assert locate("recipe", "small") == (recipe.resolve(), "small.yaml")
    assert load_recipe("small").recipe.name == "small"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no-such-recipe", "no-such-recipe: no shipped recipe named 'no-such-recipe'"),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
        ("no/where", "no/where: no such file"),
        ("./", "is a folder; name a YAML file in it"),
    ],
)
def test_sources_that_are_not_there(recipe: Path, source: str, message: str) -> None:
    (problem,) = problems(source)
    assert message in problem


class Case(Strict):
    recipe: str
    steps: tuple[PositiveInt, ...]


class Suite(Strict):
    name: str
    cases: tuple[Case, ...]


@pytest.mark.parametrize(
    ("text", "sets", "expected"),
    [
        ("name: x\ncases:\n  - {recipe: a, steps: [4, 8]}\n", [], None),
        ("name: x\ncases:\n  - {recipe: a, step: [4]}\n", [], [
            "suite.yaml:3: cases[0].steps: required key 'steps' is missing",
            "suite.yaml:3: cases[0].step: unknown key 'step'; did you mean 'steps'?",
        ]),
        ("name: x\ncases: []\n", ["nmae=1"], ["--set:1: nmae: unknown key 'nmae'; did you mean 'name'?"]),
    ],
)  # fmt: skip
def test_other_files_are_validated_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sets: list[str], expected: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(text)
    if expected is None:
        assert validate_file("suite.yaml", Suite).cases[0].steps == (4, 8)
        return
    with pytest.raises(RecipeError) as caught:
        validate_file("suite.yaml", Suite, sets)
    assert [str(problem) for problem in caught.value.problems] == expected
