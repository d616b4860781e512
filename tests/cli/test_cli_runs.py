"""The verbs that work on runs hand their arguments over as they should; the work itself is tested elsewhere."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fewstep.bench.running import runner
from fewstep.cli.main import main
from fewstep.evaluation import evaluate
from fewstep.evaluation.request import EvaluationRequest
from fewstep.sampling import job
from fewstep.sampling.request import Part, SampleRequest
from fewstep.training import launch

ROWS = [{"steps": 4, "nfe": 4, "passes": 4, "seed": 1, "samples": 10, "metrics": {"agreement": 0.123456, "classes": 7}}]
EVALUATION = SimpleNamespace(
    target=SimpleNamespace(name="r"), rows=[SimpleNamespace(public=lambda row=row: dict(row)) for row in ROWS]
)
RECIPE = "name: small\ndata: coins\nprocess: masked\nbackbone: transformer\nobjective: denoising\ntrain: {steps: 10}\n"
Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """The modules that do the work, replaced by ones that take notes."""
    made: Calls = []

    def record(name: str, result: Any) -> Any:
        def called(*args: Any, **kwargs: Any) -> Any:
            made.append((name, args, kwargs))
            return result

        return called

    for module, functions in {
        "fewstep.training.launch": {"launch": Path("runs/x")},
        "fewstep.evaluation.evaluate": {"evaluate_models": [EVALUATION]},
        "fewstep.sampling.job": {"sample_run": Path("samples/x")},
        "fewstep.bench.running.runner": {"run_suite": Path("results/x")},
    }.items():
        fake = ModuleType(module)
        for name, result in functions.items():
            setattr(fake, name, record(name, result))
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.chdir(tmp_path)
    return made


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(args)
    return caught.value.code, *capsys.readouterr()


def test_train(capsys: pytest.CaptureFixture[str], calls: Calls) -> None:
    assert run(capsys, "train", "r", "--set", "a=1", "--set", "b.c=[1, 2]", "--resume", "auto")[0] == 0
    assert run(capsys, "train", "r", "--run-dir", "d", "--teacher", "t", "--device", "cpu")[0] == 0
    first = {"teacher": None, "run_dir": None, "resume": "auto", "sets": ["a=1", "b.c=[1, 2]"]}
    second = {"teacher": "t", "run_dir": "d", "resume": None, "sets": ["train.device=cpu"]}
    assert calls == [("launch", ("r",), first), ("launch", ("r",), second)]


def test_distill_wants_a_teacher(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plain.yaml").write_text(RECIPE)
    Path("lacks.yaml").write_text(RECIPE.replace("denoising", "dmmd"))
    code, _, err = run(capsys, "distill", "plain.yaml")
    assert code == 2
    assert (
        err
        == "error: recipe 'plain.yaml' trains without a teacher; name one with --teacher RUN, or use `fewstep train`\n"
    )
    code, _, err = run(capsys, "distill", "lacks.yaml")
    assert code == 2
    assert "or use `fewstep distill RECIPE --teacher RUN`" in err
    assert not Path("runs").exists()


def test_distill(capsys: pytest.CaptureFixture[str], calls: Calls) -> None:
    assert run(capsys, "distill", "names.yaml")[0] == 0
    assert run(capsys, "distill", "lacks.yaml", "--teacher", "t", "--set", "seed=1", "--device", "cuda")[0] == 0
    first = {"teacher": None, "run_dir": None, "resume": None, "sets": [], "distil": True}
    second = {"teacher": "t", "run_dir": None, "resume": None, "sets": ["seed=1", "train.device=cuda"], "distil": True}
    assert calls == [("launch", ("names.yaml",), first), ("launch", ("lacks.yaml",), second)]


def test_sample(capsys: pytest.CaptureFixture[str], calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(capsys, "sample", "r")[0] == 0
    text = (
        "-n 3 --steps 8 --seed 5 --out o --weights raw --temperature 0.5 --top-p 0.9 --guidance 2 --label all "
        "--sampler cached_ancestral --prompt The --batch-size 7 --device cpu --part 2/3 --resume --animate"
    )
    assert run(capsys, "sample", "r", *text.split())[0] == 0
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert run(capsys, "sample", "r", "--infill", "f", "--blank", "*", "--batch-size", "auto")[0] == 0
    asked = SampleRequest(
        count=3,
        steps=8,
        seed=5,
        out="o",
        weights="raw",
        temperature=0.5,
        top_p=0.9,
        guidance=2.0,
        label="all",
        sampler="cached_ancestral",
        prompt="The",
        batch_size=7,
        device="cpu",
        part=Part(2, 3),
        resume=True,
        animate=True,
    )
    filled = SampleRequest(infill="f", blank="*", part=Part(2, 4))
    assert [call[1] for call in calls] == [("r", SampleRequest()), ("r", asked), ("r", filled)]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--batch-size", "0", "expected a number from 1, or auto, not '0'"),
        ("--batch-size", "many", "expected a number from 1, or auto, not 'many'"),
        ("--part", "5/4", "expected I/N with I from 1 to N, such as 1/4, not '5/4'"),
    ],
)
def test_options_of_sample(
    capsys: pytest.CaptureFixture[str], calls: Calls, option: str, value: str, said: str
) -> None:
    code, _, err = run(capsys, "sample", "r", option, value)
    assert code == 2
    assert said in " ".join(err.split())
    assert calls == []


def test_evaluate(capsys: pytest.CaptureFixture[str], calls: Calls) -> None:
    code, out, _ = run(capsys, "evaluate", "r", "--steps", "4, 8", "--samples", "10", "--seed", "1")
    assert code == 0
    header, _, row = [line.split() for line in out.splitlines()[1:] if line.strip()]
    assert dict(zip(header, row, strict=True)) == {
        "steps": "4", "nfe": "4", "samples": "10", "agreement": "0.1235", "classes": "7",
    }  # fmt: skip
    assert json.loads(run(capsys, "evaluate", "r", "--json")[1]) == [{"model": "r", **row} for row in ROWS]
    assert run(capsys, "evaluate", "r", "s", "--sampler", "{type: ancestral}", "--device", "cpu")[0] == 0
    assert [call[1] for call in calls] == [
        (["r"], EvaluationRequest(steps=(4, 8), samples=10, seed=1)),
        (["r"], EvaluationRequest()),
        (["r", "s"], EvaluationRequest(sampler="{type: ancestral}", device="cpu")),
    ]


@pytest.mark.parametrize("steps", ["", "a", "4,,8", "0", "-1", "4.5"])
def test_steps_are_positive_numbers(capsys: pytest.CaptureFixture[str], calls: Calls, steps: str) -> None:
    code, _, err = run(capsys, "evaluate", "r", f"--steps={steps}")
    assert code == 2
    assert "expected numbers from 1 to 1,000,000,000, such as 4,8,16" in err
    assert calls == []


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["evaluate", "r", "--steps", "4", "8", "16"], "4,8,16"),
        (["evaluate", "r", "--steps", "4,", "8"], "4,8"),
        (["evaluate", "--steps", "4", "8", "r"], "4,8"),
        (["grid", "r", "--steps", "4", "8", "--seed", "1"], "4,8"),
    ],
)
def test_steps_with_spaces_are_refused_with_the_list_that_was_meant(
    capsys: pytest.CaptureFixture[str], calls: Calls, typed: list[str], hint: str
) -> None:
    code, _, err = run(capsys, *typed)
    assert code == 2
    assert err.endswith(f"Invalid value for --steps: numbers of steps are one list: --steps {hint}\n")
    assert calls == []


def test_benchmark(capsys: pytest.CaptureFixture[str], calls: Calls) -> None:
    assert run(capsys, "benchmark", "s", "--quick") == (0, "", "")
    assert run(capsys, "benchmark", "s", "--out", "o", "--set", "seed=1", "--device", "cpu")[0] == 0
    assert [call[1] for call in calls] == [("s", None, True, []), ("s", "o", False, ["seed=1", "train.device=cpu"])]


def test_the_real_modules_take_these_arguments() -> None:
    inspect.signature(launch.launch).bind("r", teacher=None, run_dir=None, resume=None, sets=[])
    inspect.signature(job.sample_run).bind("r", SampleRequest(), say=print)
    inspect.signature(evaluate.evaluate_models).bind(["r"], EvaluationRequest())
    inspect.signature(runner.run_suite).bind("s", None, True, ["seed=1"])
