"""Running suites: what is measured, what is reused, and what interruptions and failures leave behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from html import unescape
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_suite import SUITE, write_files

from fewstep.bench.report.leaderboard import merge
from fewstep.bench.results.results import Results
from fewstep.bench.running import reuse, runner, session, tasks
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.loading import load_suite
from fewstep.bench.suites.suite import REFERENCE
from fewstep.core.errors import OperationError, UserError
from fewstep.grids.files import read_grid_file
from fewstep.runs import code
from fewstep.runs.folder import RunDir

RANKED = (REFERENCE, "teacher", "student", "oracle")
Write = Callable[..., str]


def load(folder: Path) -> Results:
    return Results.load(folder / "results.json")


def timeless(results: Results) -> list[dict[str, Any]]:
    return [row.model_dump(exclude={"seconds"}) for row in results.rows]


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Names of the cases that `tasks.NAME` is called for from now on."""
    calls, real = [], getattr(tasks, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        subject = args[1]
        calls.append(subject.case if name == "measure" else subject.path.name.split("-")[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(tasks, name, counted)
    return calls


def interrupt_measuring(monkeypatch: pytest.MonkeyPatch, after: int, number: int) -> None:
    """A signal in the middle of a row, after so many rows."""
    real, done = tasks.measure, []

    def measure(*args: Any, **kwargs: Any) -> Any:
        if len(done) == after:
            os.kill(os.getpid(), number)
            time.sleep(10)
        done.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(tasks, "measure", measure)


# ------------------------------------------------------------------ complete


def test_every_row_is_measured_and_evaluations_are_counted(finished: Path) -> None:
    results = load(finished)
    steps = {spec["name"]: spec["steps"] for spec in SUITE["cases"]}
    expected = [(REFERENCE, None, seed) for seed in (0, 1, 2)]
    expected += [(name, count, seed) for name, counts in steps.items() for count in counts for seed in (0, 1, 2)]
    assert [(row.case, row.steps, row.seed) for row in results.rows] == expected
    assert all(row.nfe == row.steps for row in results.rows)
    assert all(row.samples == 60 and row.values.keys() == results.directions.keys() for row in results.rows)
    assert results.complete
    assert not results.failures


def test_what_is_known_about_the_models(finished: Path) -> None:
    teacher, student, oracle = load(finished).cases
    assert (teacher.train_steps, teacher.teacher, teacher.oracle) == (20, None, False)
    assert teacher.parameters is not None
    assert teacher.train_seconds is not None
    assert (finished / str(teacher.run) / "export" / "student_ema.safetensors").exists()
    assert (student.teacher, student.label) == ("teacher", "D-MMD")
    assert teacher.logged["step"] == 20
    assert {"auxiliary/log_ratio", "student/student_entropy"} <= student.logged.keys()
    assert student.resolved["teacher"]["run"] == teacher.run, "paths are relative to the results"
    assert (oracle.parameters, oracle.run, oracle.train_steps) == (None, None, None)


def test_seeds_and_steps_draw_different_samples_and_the_oracle_beats_an_untrained_network(finished: Path) -> None:
    results = load(finished)
    values = [row.values["exact_nll"] for row in results.rows]
    assert len(set(values)) == len(values)
    oracle, teacher = results.find("oracle", 2), results.find("teacher", 2)
    assert oracle
    assert teacher
    assert oracle.values["exact_nll"].mean < teacher.values["exact_nll"].mean
    assert results.claims[1].holds is True
    assert results.claims[1].text.startswith("oracle at 2 NFE: ngram_tv ")


@pytest.mark.medium
def test_a_model_for_each_seed_of_training(write_suite: Write, tmp_path: Path) -> None:
    """Each student learns from the teacher of its own seed; an oracle is measured once; one sheet shows them."""
    out = tmp_path / "out"
    results = load(run_suite(write_suite(train_seeds=[3, 0], seeds=[0, 1]), str(out)))
    ids = ["teacher-s3", "student-s3", "oracle", "teacher-s0", "student-s0"]
    assert [case.id for case in results.cases] == ids
    assert [case.resolved["seed"] for case in results.cases if not case.oracle] == [3, 3, 0, 0]
    for seed in (3, 0):
        teacher, student = results.case("teacher", seed), results.case("student", seed)
        assert teacher
        assert student
        assert student.resolved["teacher"]["run"] == teacher.run
    assert len([row for row in results.rows if row.case == "student"]) == 2 * 2 * 2
    found, exact = results.find("student", 2), results.find("oracle", 2)
    assert found
    assert exact
    assert found.trainings.keys() == {3, 0}
    assert found.trainings[3]["ngram_tv"] != found.trainings[0]["ngram_tv"]
    assert (found.values["ngram_tv"].n, exact.values["ngram_tv"].n) == (2, 2)
    assert not exact.trainings
    assert {row.train_seed for row in results.rows if row.sheet} == {None, 3}
    table = (out / "results.md").read_text()
    assert "over 2 trainings, each with its mean over 2 sampling seeds" in table
    assert "distill ./student.yaml --teacher runs/teacher-s0-" in table
    assert "--set seed=0" in table
    assert "Recipe of student, with every default" in (out / "report.html").read_text()


def test_a_metric_may_ask_a_case(
    write_suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained before anything is measured, and what it says is measured anew when it changes."""
    change = ["backbone={type: block_transformer, width: 16, depth: 1, heads: 2, block_size: 1}"]
    ar = {"name": "ar", "recipe": "./teacher.yaml", "steps": [1], "set": [*change, "sampler=block_ancestral"]}
    cases = [{"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]}, ar]
    metrics = [{"type": "gradient_moment", "reference": "ar", "batches": 4}, "exact_nll"]
    out, changes = tmp_path / "out", {"cases": cases, "metrics": metrics, "claims": None, "seeds": [0]}
    results = load(run_suite(write_suite(**changes, headline="gradient_moment"), str(out)))
    said = capsys.readouterr().out
    assert said.index("train ar: 20 steps") < said.index("score real samples") < said.index("train teacher: 20 steps")
    assert [row.case for row in results.rows] == [REFERENCE, "teacher", "ar"]
    assert all("gradient_moment_stderr" in row.values for row in results.rows)
    trained, measured = count_calls(monkeypatch, "fit"), count_calls(monkeypatch, "measure")
    ar["set"] = [*ar["set"], "train.steps=21"]  # type: ignore[misc]
    run_suite(write_suite(**changes, headline="gradient_moment"), str(out))
    assert (trained, measured) == (["ar"], [REFERENCE, "teacher", "ar"])


@pytest.mark.medium
def test_a_value_of_the_model_stands_in_all_its_rows_and_nowhere_else(write_suite: Write, tmp_path: Path) -> None:
    """Measured once a model; a student that has none, and real samples, leave their cells empty."""
    metric = {"type": "likelihood_bound", "samples": 8, "steps": 4, "evaluations": 2}
    metrics = [{"type": "ngram_distance", "order": 2}, metric]
    out = tmp_path / "out"
    results = load(run_suite(write_suite(metrics=metrics, seeds=[0, 1]), str(out)))
    assert results.complete
    found = {name: {row.values.get("bound_bits") for row in results.rows if row.case == name} for name in RANKED}
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(RANKED, 1)
    assert found[REFERENCE] == found["student"] == {None}
    assert None not in found["teacher"] | found["oracle"]
    table = (out / "results.md").read_text().partition("| model")[2].partition("\n\n")[0].splitlines()
    place = [cell.strip() for cell in table[0].split("|")].index("bound_bits ↓")
    cells = {cells[1].strip(): cells[place + 1].strip() for line in table[2:] if (cells := line.split("|"))}
    assert cells["real samples"] == cells["student (D-MMD)"] == ""
    assert float(cells["teacher"].strip("*")) > 0
    assert "bound_bits" in (out / "results.tex").read_text().replace("\\_", "_")
    assert "bound_bits ↓" in merge([out]).grid().header


def test_models_of_blocks_are_expected_to_take_longer(write_suite: Write, tmp_path: Path) -> None:
    """Six blocks of one token, each in as many steps and read once; two rows of 60 samples."""
    change = ["backbone={type: block_transformer, width: 16, depth: 1, heads: 2, block_size: 1}"]
    ar = {"name": "ar", "recipe": "./teacher.yaml", "steps": [1], "set": [*change, "sampler=block_ancestral"]}
    plain = {"name": "plain", "recipe": "./teacher.yaml", "steps": [3]}
    plan = make_plan(load_suite(write_suite(cases=[ar, plain], claims=None, seeds=[0, 1])), tmp_path / "out")
    run = session.Session(plan, "fewstep benchmark tiny", print)
    amounts = {str(task): stage.total for task, stage in zip(run.stages, run.clock.stages, strict=True)}
    assert (amounts["sample ar"], amounts["sample plain"]) == (2 * 60 * 12, 2 * 60 * 3)


@pytest.mark.medium
def test_a_case_may_start_from_another(write_suite: Write, tmp_path: Path) -> None:
    """A student of another size, from a case that has it; how to repeat it is told with the run it started from."""
    small = {"recipe": "./student.yaml", "teacher": "teacher", "steps": [2]}
    change = ["backbone.width=8"]
    cases = [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "small", **small, "set": [*change, "objective={type: knowledge_distillation}"]},
        {"name": "few", **small, "set": change, "start_from": {"student": "small"}},
    ]
    out = tmp_path / "out"
    results = load(run_suite(write_suite(cases=cases, claims=None, seeds=[0]), str(out)))
    origin, few = results.case("small"), results.case("few")
    assert origin
    assert few
    assert few.resolved["start_from"] == {"student": origin.run}
    assert f"--set start_from.student={origin.run}" in (out / "results.md").read_text()
    digest = few.digest
    cases[1]["set"] = [*change, "objective={type: knowledge_distillation, data_weight: 0.5}"]
    changed = load(run_suite(write_suite(cases=cases, claims=None, seeds=[0]), str(out))).case("few")
    assert changed
    assert changed.digest != digest, "what a case starts from belongs to it"


@pytest.mark.medium
def test_a_model_is_sampled_once_more_in_another_way(write_suite: Write, tmp_path: Path) -> None:
    cases = [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "greedy", "model": "teacher", "steps": [2], "sampler": {"type": "ancestral", "top_p": 0.01}},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]},
        {"name": "sure", "model": "oracle", "steps": [2], "sampler": {"type": "ancestral", "temperature": 0.01}},
    ]
    folder = run_suite(write_suite(cases=cases, claims=None, seeds=[0], train_seeds=[0, 1]), str(tmp_path / "out"))
    results = Results.load(folder / "results.json")
    assert len(list((folder / "runs").iterdir())) == 2
    for seed in (0, 1):
        teacher, greedy = (results.case(name, seed) for name in ("teacher", "greedy"))
        assert teacher
        assert greedy
        assert (greedy.run, greedy.model) == (teacher.run, "teacher")
    plain, greedy_row, _, sure = (
        [r for r in results.rows if r.case == name] for name in ("teacher", "greedy", "oracle", "sure")
    )
    assert plain[0].values != greedy_row[0].values
    assert (greedy_row[0].sampler or {})["top_p"] == 0.01
    assert len(sure) == 1
    text = (folder / "results.md").read_text()
    assert text.count("fewstep train") == 2
    assert "--sampler" in text


@pytest.mark.medium
def test_the_cheapest_steps_are_searched_for_a_trained_model(write_suite: Write, tmp_path: Path) -> None:
    cases = [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "searched", "model": "teacher", "grid_search": True, "steps": [2, 3]},
    ]
    suite = write_suite(cases=cases, claims=None, seeds=[0])
    folder = run_suite(suite, str(tmp_path / "out"))
    results = Results.load(folder / "results.json")
    case = results.case("searched")
    assert case
    grid = {"type": "measured", "file": f"{case.run}/grid-searched.json"}
    assert case.resolved["sampler"]["grid"] == grid
    assert [(row.nfe, (row.sampler or {})["grid"]) for row in results.rows if row.case == "searched"] == [
        (2, grid),
        (3, grid),
    ]
    walk = read_grid_file(folder / grid["file"]).walks[2]
    assert walk.cost <= min(walk.linear, walk.cosine)
    assert f"fewstep grid {case.run} --steps 2,3 --out {grid['file']}" in (folder / "results.md").read_text()
    written = (folder / grid["file"]).stat().st_mtime_ns
    (folder / "results.json").unlink()
    run_suite(suite, str(tmp_path / "out"))
    assert (folder / grid["file"]).stat().st_mtime_ns == written, "the search is not repeated"


@pytest.mark.medium
def test_where_one_training_fails_the_others_go_on(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.fit

    def fit(loaded: Any, *args: Any, **kwargs: Any) -> Any:
        if loaded.recipe.seed == 1 and loaded.recipe.name == "tiny-teacher":
            raise OperationError("out of luck")
        return real(loaded, *args, **kwargs)

    monkeypatch.setattr(tasks, "fit", fit)
    with pytest.raises(
        OperationError, match="teacher-s1: out of luck; student-s1: skipped, since it learns from 'teacher-s1'"
    ):
        run_suite(write_suite(train_seeds=[0, 1], seeds=[0]), str(tmp_path / "out"))
    results = load(tmp_path / "out")
    assert [failure.case for failure in results.failures] == ["teacher-s1", "student-s1"]
    assert [case.id for case in results.cases] == ["teacher-s0", "student-s0", "oracle", "teacher-s1"]
    student = results.find("student", 2)
    assert student
    assert (student.values["ngram_tv"].n, student.trainings) == (1, {})


@pytest.mark.medium
def test_the_console_tells_stages_time_left_and_the_outcome(
    write_suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_suite(write_suite(), str(tmp_path / "out"))
    out = capsys.readouterr().out
    for line in (
        "[1/6] score real samples: 60 samples, 3 seeds  | suite: time left not known yet",
        "[2/6] train teacher: 20 steps  | suite: time left not known yet",
        "[3/6] sample teacher: at 2, 4 steps, 60 samples, 3 seeds  | suite: about ",
        "[4/6] train student (D-MMD): 20 steps  | suite: about ",
        "[6/6] sample oracle: at 2 steps, 60 samples, 3 seeds  | suite: about ",
    ):
        assert f"{line}" in out
    logged = [line for line in out.splitlines() if line.startswith("  step ")]
    assert len(logged) == 8
    assert all(" | suite: about " in line for line in logged)
    results = load(tmp_path / "out")
    assert all(claim.text in out for claim in results.claims)
    assert f"report: {tmp_path / 'out' / 'report.html'}" in out


def test_nothing_finished_is_done_again(write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_suite(), tmp_path / "out"
    run_suite(source, str(out))
    before, weights = load(out), sorted(out.rglob("*.safetensors"))
    written = [path.stat().st_mtime_ns for path in weights]
    trained, measured = count_calls(monkeypatch, "fit"), count_calls(monkeypatch, "measure")
    run_suite(source, str(out))
    assert (trained, measured) == ([], [])
    assert [path.stat().st_mtime_ns for path in weights] == written
    after = load(out)
    assert after.rows == before.rows
    assert after.cases == before.cases


def test_quick_has_a_folder_of_its_own(write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write_suite()
    assert run_suite(source, quick=True) == Path("results/tiny-quick")
    results = load(Path("results/tiny-quick"))
    assert results.suite.quick
    assert {(row.samples, row.seed) for row in results.rows} == {(16, 5)}
    assert [case.train_steps for case in results.cases] == [4, 4, None]
    assert results.claims[0].holds is None, "the quick run does not sample the teacher at 4 steps"
    with pytest.raises(UserError, match="holds a quick run of suite 'tiny'; choose another folder"):
        run_suite(source, "results/tiny-quick")


# ------------------------------------------------------------------- changed


@pytest.mark.medium
def test_a_changed_recipe_is_measured_anew_and_only_that(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run_suite(write_suite(), str(out))
    before = load(out)
    trained, measured = count_calls(monkeypatch, "fit"), count_calls(monkeypatch, "measure")
    cases = [dict(spec) for spec in SUITE["cases"]]
    cases[1]["set"] = ["optim.lr=0.01"]
    run_suite(write_suite(cases=cases), str(out))
    after = load(out)
    assert trained == ["student"]
    assert measured == ["student"] * 6
    assert [row for row in after.rows if row.case != "student"] == [row for row in before.rows if row.case != "student"]
    old, new = (results.case("student") for results in (before, after))
    assert old
    assert new
    assert old.run != new.run
    assert (out / str(old.run)).exists(), "the old run is not touched"


@pytest.mark.medium
def test_other_code_does_everything_anew_unless_it_is_told_not_to(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [{"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]}]
    source, out = write_suite(cases=cases, claims=None, seeds=[0]), tmp_path / "out"
    run_suite(source, str(out))
    before = load(out)
    trained, measured = count_calls(monkeypatch, "fit"), count_calls(monkeypatch, "measure")
    monkeypatch.setattr(reuse, "code_digest", lambda: "another")
    run_suite(source, str(out), keep_code=True)
    assert (trained, measured) == ([], [])
    assert load(out).suite.code == before.suite.code
    run_suite(source, str(out))
    assert (trained, measured) == (["teacher"], [REFERENCE, "teacher"])
    assert load(out).suite.code == "another"


def test_code_is_known_by_its_modules_and_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = code.code_digest()
    assert before == code.code_digest()
    with monkeypatch.context() as patch:
        patch.setattr(code, "_modules", lambda: "others")
        assert code.code_digest() != before
    point = EntryPoint("acme", "acme_objectives", code.plugins.GROUP)
    monkeypatch.setattr(code, "entry_points", lambda group: [point])
    assert code.code_digest() != before
    plugin = tmp_path / "plugin.py"
    plugin.write_text("a = 1")
    first = code.plugin_versions([str(plugin), "pytest"])
    assert first[1] == f"pytest {pytest.__version__}"
    plugin.write_text("a = 2")
    assert code.plugin_versions([str(plugin), "pytest"])[0] != first[0]


@pytest.mark.medium
@pytest.mark.parametrize(
    "changes", [{"samples": 50}, {"metrics": [{"type": "ngram_distance", "order": 1}, "exact_nll"]}]
)
def test_changed_conditions_measure_all_rows_anew_but_train_nothing(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    run_suite(write_suite(), str(out))
    trained, measured = count_calls(monkeypatch, "fit"), count_calls(monkeypatch, "measure")
    run_suite(write_suite(**changes), str(out))
    assert trained == []
    assert len(measured) == 18


@pytest.mark.medium
def test_a_row_whose_sheet_is_gone_is_measured_again(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_suite(), tmp_path / "out"
    run_suite(source, str(out))
    (out / "samples" / "oracle-steps2.txt").unlink()
    measured = count_calls(monkeypatch, "measure")
    run_suite(source, str(out))
    assert measured == ["oracle"]
    assert (out / "samples" / "oracle-steps2.txt").exists()


@pytest.mark.medium
def test_results_of_another_suite_are_left_alone(write_suite: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_suite(write_suite(), str(out), quick=True)
    before = (out / "results.json").read_bytes()
    with pytest.raises(UserError, match="holds a quick run of suite 'tiny'"):
        run_suite(write_suite(name="other"), str(out), quick=True)
    assert (out / "results.json").read_bytes() == before


# --------------------------------------------------------------- interrupted


@pytest.mark.medium
@pytest.mark.parametrize(("after", "number"), [(1, signal.SIGINT), (5, signal.SIGTERM), (11, signal.SIGINT)])
def test_interrupted_sampling_continues_to_the_same_rows(
    finished: Path, write_suite: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], after: int, number: int
) -> None:
    source, out = write_suite(), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        interrupt_measuring(patch, after, number)
        assert run_suite(source, str(out)) == out, "a stop is no error"
    assert f"the same command continues: fewstep benchmark {source} --out {out}" in capsys.readouterr().out
    stopped = load(out)
    assert len(stopped.rows) == after
    assert not stopped.complete
    assert not (out / "report.html").exists()

    with pytest.MonkeyPatch.context() as patch:
        trained, measured = count_calls(patch, "fit"), count_calls(patch, "measure")
        run_suite(source, str(out))
    assert len(measured) == 18 - after
    assert len(trained) == 2 - len(stopped.cases)
    assert timeless(load(out)) == timeless(load(finished))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_training_continues_to_the_same_rows(
    finished: Path, write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source, out, lines = write_suite(), tmp_path / "out", []
    handlers = [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)]

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith("  step 10/20 ") and any("train student" in earlier for earlier in lines):
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "say", say)
        run_suite(source, str(out))
    assert "stopped" in lines[-1]
    assert [signal.getsignal(known) for known in (signal.SIGTERM, signal.SIGINT)] == handlers
    student = next((out / "runs").glob("student-*"))
    status = RunDir(student).status
    assert status["state"] == "stopped"
    assert 10 <= status["step"] < 20

    trained = count_calls(monkeypatch, "fit")
    run_suite(source, str(out))
    assert trained == ["student"]
    assert timeless(load(out)) == timeless(load(finished))


# -------------------------------------------------------------------- failed


def test_a_case_that_fails_stops_only_those_that_learn_from_it(write_suite: Write, tmp_path: Path) -> None:
    cases = [
        {"name": "wild", "recipe": "./teacher.yaml", "steps": [2], "set": ["optim.lr=1e30", "optim.clip=null"]},
        {"name": "pupil", "recipe": "./student.yaml", "teacher": "wild", "steps": [2]},
        {"name": "grandpupil", "recipe": "./student.yaml", "teacher": "pupil", "steps": [2]},
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "misfit", "recipe": "./student.yaml", "teacher": "teacher", "steps": [2], "set": ["backbone.width=8"]},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]},
    ]
    claims = [{"case": "pupil", "steps": 2, "against": "teacher", "expect": "better"}]
    with pytest.raises(OperationError, match=r"4 of 6 cases failed: wild: .*pupil: .*grandpupil: .*misfit: ") as caught:
        run_suite(write_suite(cases=cases, claims=claims), str(tmp_path / "out"))
    assert caught.value.exit_code == 1
    results = load(tmp_path / "out")
    assert {row.case for row in results.rows} == {REFERENCE, "teacher", "oracle"}
    reasons = {failure.case: failure.reason for failure in results.failures}
    assert "lower optim.lr" in reasons["wild"]
    assert reasons["pupil"] == "skipped, since it learns from 'wild', which failed"
    assert reasons["grandpupil"] == "skipped, since it learns from 'pupil', which failed"
    assert "backbone.width" in reasons["misfit"]
    assert results.claims[0].holds is None
    assert not results.complete
    assert "Case 'wild' is not complete: " in unescape((tmp_path / "out" / "report.html").read_text())


@pytest.mark.medium
def test_a_failed_case_is_tried_again(write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_suite(), tmp_path / "out"

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OperationError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "open_case", fail)
        with pytest.raises(OperationError, match="3 of 3 cases failed: teacher: the disk is full"):
            run_suite(source, str(out))
    assert len(load(out).failures) == 3
    run_suite(source, str(out))
    assert load(out).complete


@pytest.mark.medium
def test_a_value_that_is_not_finite_fails_the_case(
    write_suite: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewstep.bench.running import rows

    real, seen = rows.score, []

    def score(*args: Any, **labels: Any) -> dict[str, float]:
        seen.append(1)
        return {**real(*args, **labels), **({"exact_nll": float("nan")} if len(seen) == 5 else {})}

    monkeypatch.setattr(rows, "score", score)
    with pytest.raises(OperationError, match=r"exact_nll is nan for teacher \(steps 2, seed 1\)"):
        run_suite(write_suite(claims=None), str(tmp_path / "out"))
    assert "NaN" not in (tmp_path / "out" / "results.json").read_text()


# ------------------------------------------------------------------- details


def test_real_samples_of_a_finite_data_set_are_its_own(tmp_path: Path) -> None:
    import torch

    from fewstep.bench.running.rows import real_samples
    from fewstep.data.base import DATASETS

    digits = DATASETS.build("digits")
    drawn, labels = real_samples(digits, 30, 0)
    assert drawn.shape == (30, 64)
    for row, label in zip(drawn, labels, strict=True):
        assert label in digits.labels[(digits.train == row).all(1)]
    assert not torch.equal(drawn, real_samples(digits, 30, 1)[0])
    assert len(real_samples(digits, 10_000, 0)[0]) == len(digits)


def test_training_time_is_summed_over_sessions(tmp_path: Path) -> None:
    from fewstep.bench.running.rows import train_seconds

    run = RunDir(tmp_path)
    assert train_seconds(run) == 0.0
    run.metrics.write_text("".join(f'{{"step": 1, "seconds": {s}}}\n' for s in (1.0, 2.0, 3.0, 0.5, 1.5)))
    assert train_seconds(run) == 4.5


@pytest.mark.medium
def test_recipes_lie_beside_the_suite_wherever_it_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "suites").mkdir()
    write_files(tmp_path / "suites", claims=None)
    monkeypatch.chdir(tmp_path)
    assert load(run_suite("suites/suite.yaml", "out", quick=True)).complete
    resolved = yaml.safe_load(next(Path("out/runs").glob("student-*/recipe.resolved.yaml")).read_text())
    assert resolved["teacher"]["run"].startswith("out/runs/teacher-")
