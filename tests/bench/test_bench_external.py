"""Rows are keyed by what references from outside of a suite hold: other weights are measured anew, touched ones not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from pydantic import create_model
from tiny_suite import TEACHER

from fewstep.bench.results.results import Results
from fewstep.bench.running.plan import make_plan
from fewstep.bench.running.rows import plan_slots
from fewstep.bench.running.runner import run_suite
from fewstep.bench.suites.loading import load_suite
from fewstep.core.errors import UserError
from fewstep.core.references import Ref
from fewstep.evaluation.grid_search import grid_run
from fewstep.runs import contents
from fewstep.runs.contents import contents_digest, reference_digests
from fewstep.runtime.hashing import LocalPath
from fewstep.samplers.base import SAMPLERS
from fewstep.training.launch import launch

Write = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a Hugging Face model's folder looks like."""
    path = tmp_path / "gpt2"
    path.mkdir()
    (path / "config.json").write_text('{"n_layer": 2}')
    (path / "tokenizer.json").write_text("{}")
    (path / "merges.txt").write_text("a b\n")
    (path / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (path / "README.md").write_text("a page")
    (path / "pytorch_model.bin").write_bytes(b"pickled")
    (path / "onnx").mkdir()
    return path


def keys(write_suite: Write, reference: str, folder: Path) -> list[str]:
    """Digests of the rows of a suite that asks this reference."""
    metrics = [{"type": "generative_perplexity", "reference": reference, "reads": "ids"}, "exact_nll"]
    oracle = [{"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]}]
    suite = write_suite(metrics=metrics, headline="gen_ppl", claims=None, cases=oracle)
    return [slot.key for slot in plan_slots(make_plan(load_suite(suite), folder / "out"))]


def test_rows_are_keyed_by_the_files_of_a_hugging_face_folder(write_suite: Write, tmp_path: Path, folder: Path) -> None:
    def now() -> list[str]:
        return keys(write_suite, f"hf:{folder}", tmp_path)

    first = now()
    assert len(set(first)) == len(first)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    assert now() == first, "touched"
    for name in ("config.json", "tokenizer.json", "merges.txt", "model.safetensors"):
        path = folder / name
        kept, times = path.read_bytes(), path.stat()
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert path.stat().st_size == times.st_size
        assert not set(now()) & set(first), f"another {name}, of the same size and time"
        path.write_bytes(kept)
        assert now() == first
    (folder / "README.md").write_text("another page")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    assert now() == first, "what is not read"


def test_a_folder_that_was_moved_is_the_same_model(write_suite: Write, tmp_path: Path, folder: Path) -> None:
    first = keys(write_suite, f"hf:{folder}", tmp_path)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert keys(write_suite, f"hf:{moved}", tmp_path) == first


def test_a_linked_file_is_read_where_it_lies(tmp_path: Path, folder: Path) -> None:
    """As in the cache of the Hub, whose files are links."""
    first = contents_digest(f"hf:{folder}")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to(tmp_path / "blob")
    assert contents_digest(f"hf:{folder}") == first
    (tmp_path / "blob").write_bytes(b"other")
    assert contents_digest(f"hf:{folder}") != first


def test_files_change_places(folder: Path) -> None:
    """Names count, and where one file ends."""
    first = contents_digest(f"hf:{folder}")
    (folder / "merges.txt").rename(folder / "vocab.txt")
    assert contents_digest(f"hf:{folder}") != first
    (folder / "vocab.txt").rename(folder / "merges.txt")
    assert contents_digest(f"hf:{folder}") == first


def test_a_model_of_the_hub_is_what_its_commit_says() -> None:
    assert contents_digest("hf:gpt2-large") is None
    assert contents_digest("hf:someone/model@0123") is None


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"reference 'hf:.*' holds no weights \(\*\.safetensors\)"):
        contents_digest(f"hf:{tmp_path}")


def test_files_are_read_once_a_plan(
    write_suite: Write, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all before rows are planned, and once however many rows and metrics there are."""
    read: list[int] = []
    digest = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda files, root: (read.append(1), digest(files, root))[1])
    each = {"reference": f"hf:{folder}", "reads": "ids"}
    metrics = [{"type": "generative_perplexity", **each}, {"type": "gradient_moment", **each, "batches": 4}]
    plan = make_plan(load_suite(write_suite(metrics=metrics, headline="gradient_moment")), tmp_path / "out")
    assert read == []
    assert len(plan_slots(plan)) > 10
    assert read == [1]
    assert plan.metrics(by="run")[0]["reference"] == f"hf:{folder}"
    assert read == [1]


def test_a_run_from_outside_is_measured_anew_when_it_was_trained_on(write_suite: Write, tmp_path: Path) -> None:
    """And an export of it is another place with contents of its own."""
    blocks = {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 1}
    recipe = {**TEACHER, "name": "ar", "backbone": blocks, "sampler": "block_ancestral"}
    (tmp_path / "ar.yaml").write_text(yaml.safe_dump(recipe))
    run, out = tmp_path / "ar", tmp_path / "out"
    launch(str(tmp_path / "ar.yaml"), run_dir=str(run), sets=["train.steps=10"])
    cases = [{"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]}]
    metrics = [{"type": "gradient_moment", "reference": str(run), "batches": 4}]
    source = write_suite(metrics=metrics, headline="gradient_moment", cases=cases, claims=None, seeds=[0])

    def rows() -> list[tuple[str, float]]:
        results = Results.load(run_suite(source, str(out)) / "results.json")
        return [(row.key, row.values["gradient_moment"]) for row in results.rows]

    first = rows()
    for path in run.rglob("*"):
        os.utime(path, (1, 1))
    (run / "notes.txt").write_text("what lies beside it")
    assert rows() == first
    shutil.rmtree(run)
    launch(str(tmp_path / "ar.yaml"), run_dir=str(run), sets=["train.steps=20"])
    second = rows()
    assert all(now[0] != then[0] and now[1] != then[1] for now, then in zip(second, first, strict=True))


def test_exported_files_and_folders_count_by_their_contents(tmp_path: Path) -> None:
    file = tmp_path / "ema.safetensors"
    file.write_bytes(b"weights")
    first = contents_digest(str(file))
    os.utime(file, (1, 1))
    assert contents_digest(str(file)) == first
    file.write_bytes(b"Weights")
    assert contents_digest(str(file)) != first


def test_rows_are_keyed_by_the_file_of_steps_that_a_sampler_reads(write_suite: Write, tmp_path: Path) -> None:
    """And only those of the case whose sampler reads it."""
    run, file = tmp_path / "teacher", tmp_path / "grid.json"
    launch(str(write_teacher(write_suite, tmp_path)), run_dir=str(run))
    grid_run(str(run), [2], str(file), times=8, samples=32)
    sampler = {"type": "ancestral", "grid": {"type": "measured", "file": str(file)}}
    cases = [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2]},
        {"name": "searched", "model": "teacher", "sampler": sampler, "steps": [2]},
    ]

    def now() -> dict[str, list[str]]:
        plan = make_plan(load_suite(write_suite(cases=cases, claims=None)), tmp_path / "out")
        slots = plan_slots(plan)
        return {name: [slot.key for slot in slots if slot.case == name] for name in ("teacher", "searched")}

    first = now()
    os.utime(file, (1, 1))
    assert now() == first
    file.write_text(file.read_text() + "\n")
    assert now()["teacher"] == first["teacher"]
    assert not set(now()["searched"]) & set(first["searched"])


def write_teacher(write_suite: Write, folder: Path) -> Path:
    """The recipe of the tiny teacher."""
    write_suite()
    return folder / "teacher.yaml"


def test_what_settings_name_is_looked_up_at_any_depth(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text("{}")
    Guide = create_model("Guide", run=(Annotated[str, Ref("run")], str(file)), top_p=(float, 0.9))
    Settings = create_model(
        "Settings", file=(LocalPath, "not there"), guides=(list[Guide], [Guide()]), run=(str, str(file))
    )
    assert reference_digests(Settings()) == {str(file): contents_digest(str(file))}
    assert reference_digests(SAMPLERS.parse("ancestral")) == {}
