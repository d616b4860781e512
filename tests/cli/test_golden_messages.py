"""What people read when something is wrong, word for word. A change here is a change of the product."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.cli.main import main

SIX_MISTAKES = """\
# Six mistakes.
nosie_input: null
name: bad
data: coins
process:
  type: masked
  schedule:
    esp: 1e-3
    type: linear
backbone: transformer
objective:
  type: d_mmd
train:
  steps: 10k
optim: {lr: -1, betaz: [0.9, 0.99]}
"""

EXPECTED = """\
bad.yaml:2: nosie_input: unknown key 'nosie_input'; did you mean 'noise_input'?
bad.yaml:8: process.schedule.esp: unknown key 'esp'; did you mean 'eps'?
bad.yaml:12: objective.type: no objective named 'd_mmd'; did you mean 'dmmd'? known:
bad.yaml:14: train.steps: should be a valid integer, not '10k'
bad.yaml:15: optim.lr: should be greater than 0, not -1
bad.yaml:15: optim.betaz: unknown key 'betaz'; did you mean 'betas'?
6 problems
"""

BASE = "name: x\ndata: coins\nprocess: masked\nbackbone: transformer\nobjective: denoising\ntrain: {steps: 1}\n"


def complaints(capsys: pytest.CaptureFixture[str], *args: str) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    return err.splitlines()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_six_mistakes_are_six_located_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text(SIX_MISTAKES)
    lines = complaints(capsys, "validate", "bad.yaml")
    expected = EXPECTED.splitlines()
    assert len(lines) == len(expected)
    # The list of known objectives grows; everything before it is fixed.
    assert [line.split(" known: ")[0] for line in lines] == [line.split(" known:")[0] for line in expected]


ONE_MISTAKE = {
    BASE + "name: y\n": "7: name: duplicate key 'name' on lines 1 and 7; keep one of them",
    BASE.replace("{steps: 1}", "\n\tsteps: 1"): "7: not valid YAML: a tab cannot indent or start a value; use spaces",
    "": "1: the file is empty",
    "- a\n": "1: expected keys and values (`name: ...`), found a list",
    BASE.replace("name: x", "seed: -1\nname: x"): "1: seed: should be greater than or equal to 0, not -1",
    BASE.replace("steps: 1", "steps: 1, precision: bf61"): (
        "6: train.precision: should be 'auto', 'fp32' or 'bf16'; did you mean 'bf16'?"
    ),
    BASE.replace("objective: denoising\n", ""): "1: objective: required key 'objective' is missing",
    BASE + "extends: base.yml\n": "7: extends: no such file: base.yml",
    BASE + "extends: r.yaml\n": "7: extends: goes round in a circle: r.yaml -> r.yaml",
    BASE.replace("denoising", "dmmd"): (
        "1: teacher: objective 'dmmd' needs a teacher; "
        "add `teacher: {run: RUN}` or use `fewstep distill RECIPE --teacher RUN`"
    ),
    BASE + "teacher: {run: r}\n": ("7: teacher: objective 'denoising' has no role for a teacher; remove this section"),
    BASE + "noise_input: gaussian\n": (
        "7: noise_input: objective 'denoising' has no role that takes it; remove this section"
    ),
    BASE + "optim:\n  roles: {studnet: {}}\n": (
        "8: optim.roles.studnet: objective 'denoising' trains no role 'studnet'; "
        "did you mean 'student'? trained: student"
    ),
    BASE
    + "seed: ${env:SEED}\n": "7: seed: ${env:...} is understood in settings that name a run, a model or a file only",
    BASE + "teacher: {run: '${env:NO_SUCH_RUN}'}\n": ("7: teacher.run: environment variable 'NO_SUCH_RUN' is not set"),
}


@pytest.mark.parametrize(("text", "line"), ONE_MISTAKE.items())
def test_one_mistake(capsys: pytest.CaptureFixture[str], text: str, line: str) -> None:
    Path("r.yaml").write_text(text)
    assert complaints(capsys, "validate", "r.yaml") == [f"r.yaml:{line}", "1 problem"]


def test_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(BASE)
    assert complaints(capsys, "validate", "r.yaml", "--set", "train.stpes=5", "--set", "train.steps=0") == [
        "--set:1: train.stpes: unknown key 'stpes'; did you mean 'steps'?",
        "--set:2: train.steps: should be greater than 0, not 0",
        "2 problems",
    ]


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (["show", "sampler", "ancestrl"], "error: no sampler named 'ancestrl'; did you mean 'ancestral'? known: "),
        (
            ["list", "objektives"],
            "error: no kind of component named 'objektives'; did you mean 'objectives'? known: schedules, ",
        ),
        (["sample", "runs/none"], "error: "),
    ],
)
def test_wrong_names(capsys: pytest.CaptureFixture[str], args: list[str], start: str) -> None:
    (line,) = complaints(capsys, *args)
    assert line.startswith(start)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (
            ["train", "quickstart"],
            "no shipped recipe named 'quickstart'; it is a suite: `fewstep benchmark quickstart`",
        ),
        (
            ["benchmark", "digits-dmmd"],
            "no shipped suite named 'digits-dmmd'; it is a recipe: `fewstep train digits-dmmd`",
        ),
        (["train", "suite.yaml"], "is a suite, not a recipe; `fewstep benchmark suite.yaml` runs it"),
        (["benchmark", "recipe.yaml"], "is a recipe, not a suite; `fewstep train recipe.yaml` trains it"),
    ],
)
def test_a_suite_for_a_recipe_is_one_line(capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    for kind, name in (("suite", "quickstart"), ("recipe", "digits-dmmd")):
        with pytest.raises(SystemExit):
            main(["cp", name, f"{kind}.yaml"])
    capsys.readouterr()
    first, count = complaints(capsys, *args)
    assert first.endswith(line)
    assert count == "1 problem"


def test_a_verb_with_a_typo(capsys: pytest.CaptureFixture[str]) -> None:
    assert complaints(capsys, "trian", "x")[-1] == "Error: No such command 'trian'. Did you mean 'train'?"
