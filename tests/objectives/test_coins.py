"""Two coins that always agree, in one step: who can draw them (arXiv 2603.20155, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.training.launch import fit

pytestmark = pytest.mark.medium

UNEQUAL = ("data.odds=0.7", "data.sign=opposite")


def distance(recipe: str, folder: Path, teacher: Path | None = None, changes: Sequence[str] = ()) -> dict[str, float]:
    """Train a shipped recipe and measure its one-step samples."""
    loaded = load_recipe(recipe, changes, teacher=str(teacher) if teacher else None)
    fit(loaded, RunDir(folder), echo=lambda line: None)
    return evaluate_run(str(folder), steps=[1], samples=4000)[0]["metrics"]


@pytest.fixture(scope="module")
def masked_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "teacher"
    distance("coins-teacher", folder)
    return folder


@pytest.fixture(scope="module")
def unequal_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unequal") / "teacher"
    distance("coins-teacher", folder, changes=UNEQUAL)
    return folder


@pytest.fixture(scope="module")
def uniform_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uniform") / "teacher"
    distance("coins-uniform-teacher", folder)
    return folder


def test_a_teacher_cannot(masked_teacher: Path) -> None:
    few, many = evaluate_run(str(masked_teacher), steps=[1, 64], samples=4000)
    assert 0.45 < few["metrics"]["coin_tv"] < 0.55, "independent coins"
    assert many["metrics"]["coin_tv"] < 0.05, "it knows the law, given steps"


def test_dmmd_with_noise_input_can(masked_teacher: Path, tmp_path: Path) -> None:
    assert distance("coins-dmmd", tmp_path / "student", masked_teacher)["coin_tv"] < 0.06


@pytest.mark.slow
def test_dmmd_with_noise_input_can_with_other_odds(unequal_teacher: Path, tmp_path: Path) -> None:
    values = distance("coins-dmmd", tmp_path / "student", unequal_teacher, UNEQUAL)
    assert values["coin_tv"] < 0.06, values
    assert values["heads"] == pytest.approx(0.7, abs=0.06)


@pytest.mark.slow
def test_dmmd_without_noise_input_cannot(masked_teacher: Path, tmp_path: Path) -> None:
    """It draws independent coins, or always the same side: nothing else is open to a function of all masks."""
    values = distance("coins-dmmd-plain", tmp_path / "student", masked_teacher)
    assert values["coin_tv"] > 0.4, values


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("odds", ["fair", "unequal"])
def test_dmmd_with_any_seed(odds: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The table of docs/dmmd.md; without noise input the best product of two coins is .2 away or more."""
    teacher = request.getfixturevalue("masked_teacher" if odds == "fair" else "unequal_teacher")
    changes = [f"seed={seed}", *(UNEQUAL if odds == "unequal" else ())]
    assert distance("coins-dmmd", tmp_path / "student", teacher, changes)["coin_tv"] < 0.05
    assert distance("coins-dmmd-plain", tmp_path / "plain", teacher, changes)["coin_tv"] > 0.2


@pytest.mark.slow
def test_the_uniform_process_can(uniform_teacher: Path, tmp_path: Path) -> None:
    values = distance("coins-uniform-dmmd", tmp_path / "student", uniform_teacher)
    assert values["coin_tv"] < 0.2, values


@pytest.mark.slow
def test_dmmd_without_an_auxiliary_can(masked_teacher: Path, tmp_path: Path) -> None:
    """Seeds 0 to 2 were measured at 0.03 to 0.05; independent coins are at 0.5."""
    values = distance("coins-dmmd-instant", tmp_path / "student", masked_teacher)
    assert values["coin_tv"] < 0.15, values


@pytest.mark.slow
def test_a_mixture_of_latents_can(masked_teacher: Path, tmp_path: Path) -> None:
    values = distance("coins-di4c", tmp_path / "student", masked_teacher)
    assert values["coin_tv"] < 0.1, values


@pytest.mark.slow
def test_pairs_of_the_teacher_help_and_do_not_suffice(uniform_teacher: Path, tmp_path: Path) -> None:
    """Seed 0 was measured at 0.38; the next rounds come nearer, by less each time."""
    values = distance("coins-uniform-rectified", tmp_path / "student", uniform_teacher)
    assert 0.25 < values["coin_tv"] < 0.45, values


@pytest.mark.slow
def test_a_generator_from_random_tokens_can(masked_teacher: Path, tmp_path: Path) -> None:
    """It copies the coin that its start shows. Seeds 0 to 2 were measured at 0.012 to 0.013, after 1,600 steps."""
    values = distance("coins-dimo", tmp_path / "student", masked_teacher)
    assert values["coin_tv"] < 0.1, values


@pytest.mark.parametrize(
    "objective",
    [
        "{type: sdtt, first_step: 0.25, rounds: 2}",
        pytest.param("{type: consistency, rounds: 2}", marks=pytest.mark.slow),
    ],
)
def test_imitating_a_teacher_token_by_token_cannot(objective: str, masked_teacher: Path, tmp_path: Path) -> None:
    values = distance(
        "coins-di4c", tmp_path / "student", masked_teacher, [f"objective={objective}", "noise_input=null"]
    )
    assert values["coin_tv"] > 0.4, values
