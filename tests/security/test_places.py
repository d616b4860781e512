"""Names in a stranger's files lead to files below their folder, or are refused: no other is read, sent or deleted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from arena import Arena
from safetensors.torch import save_file

from fewstep.bench.report.outputs import draw_pictures
from fewstep.bench.report.report import write_report
from fewstep.bench.results.results import Results
from fewstep.core.errors import OperationError, UserError
from fewstep.core.places import inside
from fewstep.data.base import DATASETS
from fewstep.export.hub import push
from fewstep.runtime.lock import held
from fewstep.sampling.sheets import save_sheet

SECRET = "a secret of the reader"


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arena:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "secret").write_text(SECRET)
    return Arena(folder)


@pytest.fixture
def secret(arena: Arena) -> Path:
    """A file outside of every folder of the stranger."""
    return arena.folder.parent / "secret"


@pytest.mark.parametrize("name", ["../secret", "a/../../secret", "{absolute}", "link", "linked/secret", ""])
def test_a_name_stays_below_its_folder(arena: Arena, secret: Path, name: str) -> None:
    folder = arena.folder / "theirs"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    (folder / "own").write_text("")
    (folder / "alias").symlink_to("own")
    with pytest.raises(UserError, match="outside of"):
        inside(folder, name.format(absolute=secret), "'theirs'")
    assert inside(folder, "own", "'theirs'") == folder / "own"
    assert inside(folder, "alias", "'theirs'").read_text() == ""
    assert inside(folder, "new/file", "'theirs'") == folder / "new/file"


def test_files_of_the_hubs_cache_are_links_to_its_blobs(tmp_path: Path) -> None:
    cache = tmp_path / "models--me--few"
    snapshot = cache / "snapshots" / "0123"
    (snapshot / "reward").mkdir(parents=True)
    (cache / "blobs").mkdir()
    (cache / "blobs" / "ab12").write_text("weights")
    (snapshot / "reward/model.safetensors").symlink_to("../../../blobs/ab12")
    (snapshot / "config.json").symlink_to("../../refs")
    assert inside(snapshot, "reward/model.safetensors", "it").read_text() == "weights"
    assert inside(snapshot / "reward", "model.safetensors", "it").read_text() == "weights"
    (cache / "refs").write_text("")
    with pytest.raises(UserError, match="outside of"):
        inside(snapshot, "config.json", "it")
    # A folder of blobs that is a link itself leads out.
    shutil.rmtree(cache / "blobs")
    (cache / "blobs").symlink_to(tmp_path)
    (tmp_path / "ab12").write_text("")
    with pytest.raises(UserError, match="outside of"):
        inside(snapshot, "reward/model.safetensors", "it")


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize("absolute", [False, True])
def test_sample_deletes_only_files_of_its_own(arena: Arena, secret: Path, absolute: bool) -> None:
    run = arena.run({})
    folder = arena.folder / run / "samples/steps2-seed0-n2"
    folder.mkdir(parents=True)
    mine = folder / "mine.txt"
    mine.write_text(SECRET)
    (folder / "midi").symlink_to(secret.parent)
    (secret.parent / "000.mid").write_text(SECRET)
    name = str(secret) if absolute else os.path.relpath(secret, folder)
    files = [name, "mine.txt", "midi/000.mid", "samples.png", 7, None]
    (folder / "sample.json").write_text(json.dumps({"run": "theirs", "files": files}))
    (folder / "samples.png").write_text("of an earlier job")
    outcome = arena.fewstep("sample", run, "-n", "2", "--steps", "2")
    assert outcome.code == 0, outcome
    assert secret.read_text() == mine.read_text() == (secret.parent / "000.mid").read_text() == SECRET
    assert not (folder / "samples.png").exists()
    assert (folder / "samples.txt").exists()


def test_a_job_that_says_it_is_finished_must_hold_its_samples(arena: Arena, secret: Path) -> None:
    """A list of any files would make it finished."""
    run = arena.run({})
    arena.fewstep("sample", run, "-n", "2", "--steps", "2")
    summary = arena.folder / run / "samples/steps2-seed0-n2/sample.json"
    content = json.loads(summary.read_text())
    (summary.parent / "samples.txt").unlink()
    summary.write_text(json.dumps({**content, "files": [str(secret)]}))
    assert arena.fewstep("sample", run, "-n", "2", "--steps", "2").code == 0
    assert (summary.parent / "samples.txt").exists()


@pytest.mark.parametrize("link", ["samples", "samples/steps2-seed0-n2", "evaluate"])
def test_results_go_into_no_folder_that_a_strangers_run_links_to(arena: Arena, secret: Path, link: str) -> None:
    run = arena.run({})
    place = arena.folder / run / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(secret.parent)
    commands = {"evaluate": ("evaluate", run, "--steps", "2", "--samples", "64")}
    before = sorted(secret.parent.iterdir())
    outcome = arena.fewstep(*commands.get(link, ("sample", run, "-n", "2", "--steps", "2")))
    assert outcome.code == 2, outcome
    assert f"{link}' is a link to" in outcome.text
    assert sorted(secret.parent.iterdir()) == before
    assert secret.read_text() == SECRET


def test_no_lock_is_written_through_a_link(secret: Path) -> None:
    run = secret.parent / "run"
    run.mkdir()
    (run / ".lock").symlink_to(secret)
    with pytest.raises(OperationError, match="cannot write to the run folder"), held(run, "run"):
        pass
    assert secret.read_text() == SECRET


def test_no_sheet_is_written_through_a_link(secret: Path) -> None:
    folder = secret.parent / "sheets"
    folder.mkdir()
    (folder / "sheet.txt").symlink_to(secret)
    dataset = DATASETS.build({"type": "markov", "vocab_size": 4, "length": 4})
    save_sheet(folder / "sheet", dataset, dataset.train[:2].long())
    assert secret.read_text() == SECRET
    assert (folder / "sheet.txt").read_text() != SECRET


# ---------------------------------------------------------------- exports


def listed(arena: Arena, name: str, *files: str, **changes: object) -> str:
    """An exported folder that lists more files, with any digest."""
    config = json.loads((arena.folder / "exported/config.json").read_text())
    data = {**config["data"], **changes}
    return arena.exported({}, {"data": data, "files": {**config["files"], **dict.fromkeys(files, "0" * 64)}}, name)


def refused(arena: Arena, name: str) -> str:
    outcome = arena.fewstep("sample", name, "-n", "2", "--steps", "2")
    assert outcome.code == 2, outcome
    lines = [line for line in outcome.text.splitlines() if not line.startswith("note: ")]
    assert len(lines) <= 2, lines
    assert SECRET not in outcome.text
    return "\n".join(lines)


@pytest.mark.parametrize("file", ["../../secret", "{absolute}", "link"])
def test_an_export_lists_files_of_its_own(arena: Arena, secret: Path, file: str) -> None:
    shutil.copytree(arena.folder / "exported", arena.folder / "plain")
    file = file.format(absolute=secret)
    name = listed(arena, "theirs", file)
    (arena.folder / name / "link").symlink_to(secret)
    arena.configure(name, {})
    assert "outside of" in refused(arena, name)


@pytest.mark.parametrize("file", ["../../../secret", "{absolute}", "link", "unlisted"])
def test_data_of_an_export_are_files_of_its_own(arena: Arena, secret: Path, file: str) -> None:
    name = listed(arena, "theirs", files=[file.format(absolute=secret)])
    (arena.folder / name / "data").mkdir()
    (arena.folder / name / "data/link").symlink_to(secret)
    (arena.folder / name / "data/unlisted").write_text("")
    assert "'theirs'" in refused(arena, name)


@pytest.mark.parametrize("file", ["../../teacher", "{absolute}", "link"])
def test_networks_beside_an_export_are_its_own(arena: Arena, secret: Path, file: str) -> None:
    sampler = {"type": "reward_guided", "reward": {"run": "reward"}}
    name = arena.exported({"sampler": sampler}, {"beside": {"sampler.reward.run": file.format(absolute=arena.folder)}})
    (arena.folder / name / "link").symlink_to(arena.folder / "teacher")
    assert "outside of" in refused(arena, name)


@pytest.mark.parametrize(
    "key", ["plugins.0", "data.type", "name", "sampler.reward.run.x", "sampler", "nothing.0", "a.9"]
)
def test_only_the_sampler_has_files_beside_an_export(arena: Arena, key: str) -> None:
    name = arena.exported({}, {"beside": {key: "model.safetensors"}})
    assert "'strangers'" in refused(arena, name)


def test_an_exports_sampler_asks_no_model_elsewhere(arena: Arena) -> None:
    name = arena.exported({"sampler": {"type": "reward_guided", "reward": {"run": str(arena.folder / "teacher")}}})
    assert "sampler.reward.run" in refused(arena, name)


def test_only_what_an_export_lists_is_pushed(arena: Arena, secret: Path) -> None:
    name = arena.exported({})
    (arena.folder / name / "link").symlink_to(secret)
    (arena.folder / name / ".env").write_text(SECRET)

    class Api:
        patterns: list[str]

        def create_repo(self, **settings: object) -> None:
            """Nothing to do."""

        def upload_folder(self, *, allow_patterns: list[str], **settings: object) -> None:
            self.patterns = allow_patterns

    api = Api()
    push(arena.folder / name, "me/few", api=api)
    assert sorted(api.patterns) == ["README.md", "config.json", "model.safetensors"]
    (arena.folder / name / "README.md").unlink()
    (arena.folder / name / "README.md").symlink_to(secret)
    with pytest.raises(UserError, match="outside of"):
        push(arena.folder / name, "me/few", api=api)


# ---------------------------------------------------------------- results


@pytest.fixture
def results(arena: Arena) -> Path:
    """Results of one model at one number of steps."""
    about = {"name": "tiny", "title": "Tiny", "digest": "d", "quick": False, "seeds": [0], "samples": 10, "data": "abc"}
    case = dict.fromkeys(("teacher", "parameters", "train_steps", "train_seconds", "run", "commit"))
    case |= {"name": "student", "label": "student", "recipe": "student.yaml", "set": [], "digest": "d", "oracle": False}
    row = {"key": "k", "case": "student", "steps": 4, "nfe": 4, "seed": 0, "samples": 10, "seconds": 1.0}
    estimate = {"mean": 1.0, "stderr": None, "n": 1}
    content = {
        "schema_version": 4,
        "suite": {**about, "command": "fewstep benchmark tiny"},
        "complete": True,
        "environment": {"hardware": "two cores", "versions": {}, "threads": 1, "plugins": []},
        "commit": None,
        "date": "today",
        "headline": "score",
        "direction": "lower",
        "directions": {"score": "lower"},
        "cases": [{**case, "resolved": {"data": {"type": "markov"}, "sampler": {}}}],
        "rows": [{**row, "sampler": None, "values": {"score": 1.0}, "sheet": None, "commit": None}],
        "summary": [{"case": "student", "steps": 4, "nfe": 4, "values": {"score": estimate}}],
        "claims": [],
        "failures": [],
    }
    file = arena.folder / "results.json"
    file.write_text(json.dumps(content))
    return file


def with_sheet(results: Path, sheet: object) -> None:
    content = json.loads(results.read_text())
    content["rows"][0]["sheet"] = sheet
    results.write_text(json.dumps(content))


@pytest.mark.parametrize("sheet", ["../secret", "{absolute}", "samples/../../secret", "results.json", "samples/x.html"])
def test_results_name_sheets_of_their_own(results: Path, secret: Path, sheet: str) -> None:
    with_sheet(results, sheet.format(absolute=secret))
    with pytest.raises(UserError, match="sheet"):
        Results.load(results)


def test_a_report_follows_no_link_out_of_its_folder(results: Path, secret: Path) -> None:
    with_sheet(results, "samples/link.txt")
    (results.parent / "samples").mkdir()
    (results.parent / "samples/link.txt").symlink_to(secret)
    loaded = Results.load(results)
    draw_pictures(loaded, results.parent)
    with pytest.raises(UserError, match="outside of"):
        write_report(loaded, results.parent)


# ---------------------------------------------------------------- other manifests


@pytest.mark.parametrize("part", ["../secret.safetensors", "{absolute}", "link.safetensors"])
def test_parts_of_a_checkpoint_lie_beside_its_index(arena: Arena, secret: Path, part: str) -> None:
    save_file({"w": torch.zeros(1)}, secret.parent / "secret.safetensors")
    folder = arena.folder / "public"
    folder.mkdir()
    (folder / "link.safetensors").symlink_to(secret.parent / "secret.safetensors")
    part = part.format(absolute=secret.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": part}}))
    outcome = arena.fewstep("import", "public", "--layout", "mdlm", "--out", "x.safetensors")
    assert outcome.code == 2
    assert "outside of" in outcome.text


@pytest.mark.parametrize("form", ["run", "file", "folder"])
def test_a_model_reads_no_environment(arena: Arena, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    changes = {"start_from": {"student": "${env:TOKEN}"}}
    make = {"run": arena.run, "file": arena.exported_file, "folder": arena.exported}[form]
    text = refused(arena, make(changes))  # type: ignore[operator]
    assert "reads no environment variables" in text


def test_evaluate_writes_through_no_link(arena: Arena, secret: Path) -> None:
    run = arena.run({})
    (arena.folder / run / "evaluate").mkdir()
    (arena.folder / run / "evaluate/step-00000020.json.partial").symlink_to(secret)
    outcome = arena.fewstep("evaluate", run, "--steps", "2", "--samples", "4")
    assert outcome.code == 0, outcome
    assert secret.read_text() == SECRET


def test_grid_writes_through_no_link(arena: Arena, secret: Path) -> None:
    run = arena.run({})
    (arena.folder / run / "grid.json.partial").symlink_to(secret)
    outcome = arena.fewstep("grid", run, "--steps", "2", "--samples", "4", "--times", "4")
    assert outcome.code == 0, outcome
    assert secret.read_text() == SECRET
