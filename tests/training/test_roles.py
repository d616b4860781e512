"""Where networks come from: exported files, students smaller than their teacher, and runs that a role goes on from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from short_runs import Train

from fewstep.cli.main import main
from fewstep.core.errors import RecipeError, UserError
from fewstep.export.write import export_run
from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import load_checkpoint
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.runtime.sealed import SEAL, save_sealed
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.training.launch import launch
from fewstep.training.trainer import Trainer

SMALL = "backbone.width=8"
KNOWLEDGE = ("objective=knowledge_distillation", "noise_input=null")


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    checkpoint = run.last_checkpoint()
    assert checkpoint
    return load_checkpoint(checkpoint, "roles/student")


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def roles(tmp_path: Path, teacher: RunDir, *sets: str) -> Trainer:
    recipe = load_recipe("smoke-dmmd", sets, teacher=str(teacher.path)).recipe
    return Trainer.from_recipe(
        recipe, RunDir.create("x", tmp_path / f"roles{len(list(tmp_path.iterdir()))}"), echo=lambda line: None
    )


def test_an_exported_file_is_as_good_a_teacher_as_its_run(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher")
    file = teacher.export.rename(tmp_path / "moved.safetensors")
    from_run = train("smoke-dmmd", "one", teacher=teacher)
    from_file = train("smoke-dmmd", "other", f"teacher.run={file}")
    assert same(weights(from_run), weights(from_file))


def test_an_exported_file_is_sampled_like_its_run(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "teacher")
    file = run.export.rename(tmp_path / "moved.safetensors")
    of_run, of_file = (sample_run(str(path), SampleRequest(5, steps=2)) for path in (run.path, file))
    assert of_file.read_bytes() == of_run.read_bytes()
    assert of_file.is_relative_to(tmp_path / "moved" / "samples")


def test_what_is_no_export_is_refused_in_one_sentence(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "teacher")
    other = tmp_path / "other.safetensors"
    with pytest.raises(UserError, match=r"there is no file '.*other\.safetensors'"):
        open_model(other)
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(UserError, match="was not exported by fewstep: there is no recipe in it"):
        open_model(other)
    other.write_bytes(run.export.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"is damaged \(.*\); export it again"):
        open_model(other)
    with pytest.raises(UserError, match="holds averaged weights only"):
        open_model(run.export, weights="raw")


def test_weights_that_lack_a_parameter_are_refused(train: Train) -> None:
    """An average is loaded without buffers; a missing parameter must not pass for one."""
    from safetensors import safe_open

    run = train("smoke-teacher", "teacher")
    with safe_open(run.export, framework="pt") as file:
        metadata = {key: value for key, value in file.metadata().items() if key != SEAL}
        kept = {name: file.get_tensor(name) for name in file.keys() if "head.weight" not in name}  # noqa: SIM118
    save_sealed(kept, run.export, metadata)
    with pytest.raises(UserError, match=r"do not fit their recipe: backbone\.head\.weight is missing"):
        open_model(run.export)


def test_a_student_smaller_than_its_teacher(train: Train, tmp_path: Path) -> None:
    """It first learns the teacher's predictions; distilling goes on from there, judged by an auxiliary of full size."""
    teacher = train("smoke-teacher", "teacher")
    small = train("smoke-dmmd", "small", *KNOWLEDGE, SMALL, teacher=teacher)
    trainer = roles(tmp_path, teacher, SMALL, f"start_from.student={small.path}")
    start = open_model(small.path).denoiser.backbone.state_dict()
    assert same(trainer.roles["student"].backbone.state_dict(), start)  # type: ignore[union-attr, operator]
    full = trainer.roles["teacher"].backbone.state_dict()  # type: ignore[union-attr, operator]
    assert same(trainer.roles["auxiliary"].backbone.state_dict(), full)  # type: ignore[union-attr, operator]
    student = train("smoke-dmmd", "student", SMALL, f"start_from.student={small.path}", teacher=teacher)
    assert not same(open_model(student.path).denoiser.backbone.state_dict(), start)
    assert sum(p.numel() for p in open_model(student.path).denoiser.backbone.parameters()) < sum(
        weight.numel() for weight in full.values()
    )
    assert sample_run(str(student.path), SampleRequest(4)).exists()


def test_a_student_of_another_size_needs_a_start(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher")
    with pytest.raises(UserError, match=r"^backbone\.width: teacher '.*' has 16, this recipe 8; .*`start_from: "):
        roles(tmp_path, teacher, SMALL)
    with pytest.raises(UserError, match=r"^backbone\.width: the run '.*' of start_from\.student has 16, this recipe 8"):
        roles(tmp_path, teacher, SMALL, f"start_from.student={teacher.path}")


def test_an_origin_must_know_the_same_data(train: Train, tmp_path: Path) -> None:
    teacher, other = train("smoke-teacher", "teacher"), train("smoke-teacher", "other", "data.source_seed=1")
    with pytest.raises(UserError, match=r"^data: the run '.*' of start_from\.student was trained on other data"):
        roles(tmp_path, teacher, f"start_from.student={other.path}")


def test_only_trained_roles_start_from_a_run() -> None:
    for role, hint in (("studnt", "; did you mean 'student'?"), ("teacher", ";")):
        with pytest.raises(RecipeError) as caught:
            load_recipe("smoke-dmmd", [f"start_from.{role}=runs/x"])
        (problem,) = caught.value.problems
        assert problem.key == f"start_from.{role}"
        assert f"objective 'dmmd' trains no role '{role}'{hint}" in problem.message


def test_a_second_round_goes_on_with_the_noise_input_of_the_first(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher")
    first = train("smoke-dmmd", "first", teacher=teacher)
    learned = open_model(first.path).denoiser.state_dict()
    second = roles(tmp_path, teacher, "objective.k=1", f"start_from.student={first.path}")
    assert same(second.roles["student"].state_dict(), learned)
    other = roles(tmp_path, teacher, "noise_input.channels=2", f"start_from.student={first.path}")
    assert same(
        other.roles["student"].backbone.state_dict(),  # type: ignore[union-attr, operator]
        open_model(first.path).denoiser.backbone.state_dict(),
    )


def test_a_run_names_the_very_runs_that_it_began_with(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = train("smoke-teacher", "runs/smoke-teacher/one")
    monkeypatch.chdir(tmp_path)
    run = launch("smoke-dmmd", sets=["start_from.student=runs/smoke-teacher/latest"], run_dir="student")
    assert open_model(run).recipe.start_from == {"student": str(teacher.path.absolute())}


UNIFORM = ("process=uniform", "backbone.time_conditioned=true", "noise_input=null")


def test_weights_are_not_read_by_another_meaning(train: Train, tmp_path: Path) -> None:
    """A student of a leave-one-out teacher is one itself, or is refused; so is every role that starts from weights."""
    teacher = train("smoke-teacher", "teacher", *UNIFORM[:2], "objective.loss=bound")
    assert open_model(teacher.path).network.output == "leave_one_out"  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^output: teacher '.*' predicts leave_one_out, this recipe x_mean, and role"):
        roles(tmp_path, teacher, *UNIFORM)
    trainer = roles(tmp_path, teacher, *UNIFORM, "output=leave_one_out")
    assert {network.output for network in trainer.roles.values()} == {"leave_one_out"}  # type: ignore[attr-defined]
    plain = train("smoke-teacher", "plain", *UNIFORM[:2])
    start = f"start_from.student={plain.path}"
    with pytest.raises(UserError, match=r"^output: the run '.*' of start_from\.student predicts x_mean, this recipe l"):
        roles(tmp_path, teacher, *UNIFORM, "output=leave_one_out", start)
    # A teacher whose weights no role takes may have the other meaning: its predictions are converted.
    recipe = ("objective=knowledge_distillation", start)
    assert roles(tmp_path, teacher, *UNIFORM, *recipe).roles["student"].output == "x_mean"  # type: ignore[attr-defined]


def test_the_meaning_goes_with_exports_and_files(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "teacher", *UNIFORM[:2], "output=leave_one_out")
    folder = export_run(str(run.path), str(tmp_path / "folder"))
    for path in (run.path, run.export, folder):
        assert open_model(path).network.output == "leave_one_out", path  # type: ignore[attr-defined]


def test_networks_without_a_recipe_take_over_the_meaning(train: Train) -> None:
    run = train("smoke-teacher", "teacher", *UNIFORM[:2], "output=leave_one_out")
    plain = open_model(train("smoke-teacher", "plain", *UNIFORM[:2]).path).network
    plain.start_from(open_model(run.path).network)
    assert plain.output == "leave_one_out"  # type: ignore[attr-defined]


def test_validate_refuses_what_a_training_would(
    tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    """A teacher that is there is compared with the recipe; one that is not yet there is no mistake."""
    teacher = train("smoke-teacher", "teacher")
    cases = {
        "backbone.width=8": "teacher.run: backbone.width: teacher",
        "process.schedule=cosine": "teacher.run: process.schedule: teacher",
        "data=digits evaluate.metrics=[class_coverage] label_input={}": "teacher.run: label_input: teacher",
        f"start_from.auxiliary={teacher.path} process.schedule=cosine": "start_from.auxiliary: process.schedule: ",
        f"teacher.run={tmp_path}": f"teacher.run: '{tmp_path}' is not a run folder",
    }
    for sets, message in cases.items():
        arguments = [part for text in sets.split() for part in ("--set", text)]
        if "teacher.run" not in sets:
            arguments += ["--set", f"teacher.run={teacher.path}"]
        assert validated("smoke-dmmd", *arguments) == 2, sets
        assert message in capsys.readouterr().err
    assert validated("smoke-dmmd", "--set", f"teacher.run={teacher.path}") == 0
    assert validated("smoke-dmmd", "--set", f"teacher.run={tmp_path / 'later'}") == 0
    assert validated("smoke-dmmd", "--set", f"teacher.run={tmp_path / 'later' / 'latest'}") == 0


def test_validate_builds_on_demand(tmp_path: Path, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = train("smoke-teacher", "teacher")
    same, other = ([f"teacher.run={teacher.path}", f"data.source_seed={seed}"] for seed in (0, 5))
    for sets in (same, other, [f"teacher.run={tmp_path / 'later'}"]):
        code = validated("smoke-dmmd", "--build", *(part for text in sets for part in ("--set", text)))
        assert code == (0 if sets is same else 2)
    errors = capsys.readouterr().err
    assert "smoke-dmmd: data: teacher" in errors
    assert "was trained on other data" in errors
    assert "is not a run folder" in errors


def validated(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["validate", *arguments])
    return int(caught.value.code or 0)
