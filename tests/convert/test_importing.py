"""`fewstep import` from the command line, and what follows: the file is sampled, and taught from, like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from public_checkpoints import DEPTH, HEADS, TOLD, WIDTH, public_state
from safetensors.torch import save_file

from fewstep.cli.main import main
from fewstep.data.base import DATASETS
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model

BACKBONE = f"{{type: dit, width: {WIDTH}, depth: {DEPTH}, heads: {HEADS}, cond_width: {TOLD}}}"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_imported_model_is_sampled_and_taught_from(capsys: pytest.CaptureFixture[str]) -> None:
    symbols = DATASETS.build("coins").spec.vocab_size
    save_file(public_state(symbols + 1), "model.safetensors")
    wanted = (
        "import",
        "model.safetensors",
        "--layout",
        "mdlm",
        "--recipe",
        "coins-teacher",
        "--out",
        "mdlm.safetensors",
    )
    assert run(*wanted) == 0
    assert f"wrote mdlm.safetensors: dit, 2 blocks of 16, 0.0 M parameters, masked, {symbols} symbols" in (
        capsys.readouterr().out
    )
    assert run("sample", "mdlm.safetensors", "-n", "4", "--steps", "2", "--out", "samples") == 0
    assert Path("samples/samples.txt").stat().st_size > 0
    Path("student.yaml").write_text(
        f"extends: coins-dmmd\nname: student\nbackbone: {BACKBONE}\n"
        "process: {type: masked, schedule: log_linear}\ntrain: {steps: 2, batch_size: 4, device: cpu}\n"
    )
    assert run("distill", "student.yaml", "--teacher", "mdlm.safetensors", "--run-dir", "student") == 0
    assert RunDir(Path("student")).status["state"] == "finished"


def test_without_a_recipe_it_has_data_of_bare_ids() -> None:
    save_file(public_state(12), "duo.safetensors")
    assert run("import", "duo.safetensors", "--layout", "duo", "--length", "8", "--out", "out.safetensors") == 0
    assert run("sample", "out.safetensors", "-n", "3", "--steps", "2", "--out", "samples") == 0
    model = open_model("out.safetensors", device="cpu")
    assert model.recipe.process.type == "uniform"
    assert (model.dataset.spec.vocab_size, model.dataset.spec.length, len(model.dataset)) == (12, 8, 0)


def test_exit_codes_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    state = public_state(12)
    state["backbone.blocks.1.norm1.weight"] = torch.ones(3)
    save_file(state, "bad.safetensors")
    assert run("import", "bad.safetensors", "--layout", "duo", "--out", "out.safetensors") == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "error: 'bad.safetensors' does not fit backbone dit: 0 missing, 1 of wrong shape, 0 unexpected\n"
    )
    assert "blocks.1.norm1.weight" in err
    assert "Traceback" not in err
    Path("text.safetensors").write_text("not a checkpoint")
    assert run("import", "text.safetensors", "--layout", "duo", "--out", "out.safetensors") == 2
    assert capsys.readouterr().err.startswith("error: 'text.safetensors' is damaged")
