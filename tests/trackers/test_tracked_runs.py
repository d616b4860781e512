"""Trackers in trainings: what they get, what a failing one costs, and what is refused before any training."""

from __future__ import annotations

import importlib.util
import json
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import Tensor

from fewstep.cli.main import main
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.trackers import base
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker, flat
from fewstep.training.launch import fit, launch

SHORT = ("train.steps=4", "train.batch_size=8", "train.log_every=2", "train.checkpoint_every=2", "train.device=cpu")
Train = Callable[..., RunDir]


class Recorder(Tracker):
    """Keeps calls; raises at the method that `broken` names."""

    class Config(ComponentConfig):
        type: Literal["recorder"] = "recorder"
        broken: str = ""

    config: Config
    calls: list[tuple[Any, ...]]

    def _call(self, *call: Any) -> None:
        self.calls.append(call)
        if call[0] == self.config.broken:
            raise ConnectionError("no route to the server\nat 10.0.0.1")

    def begin(self, run: TrackedRun) -> None:
        self._call("begin", run)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._call("numbers", dict(values), step)

    def text(self, name: str, text: str, step: int) -> None:
        self._call("text", name, text, step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        self._call("picture", name, image.shape, step)

    def end(self, state: str) -> None:
        self._call("end", state)


@pytest.fixture
def calls() -> Iterator[list[tuple[Any, ...]]]:
    with TRACKERS.snapshot():
        TRACKERS.register("recorder")(Recorder)
        Recorder.calls = []
        yield Recorder.calls


def named(calls: list[tuple[Any, ...]], name: str) -> list[tuple[Any, ...]]:
    return [call[1:] for call in calls if call[0] == name]


def test_a_training_says_all_to_its_trackers(train: Train, calls: list[tuple[Any, ...]]) -> None:
    run = train("smoke-teacher", "run", *SHORT, "trackers=[recorder]")
    ((tracked,),) = named(calls, "begin")
    assert (tracked.name, tracked.path, tracked.id, tracked.start) == ("smoke-teacher", run.path, run.identity(), 0)
    assert tracked.settings["train.steps"] == 4
    assert tracked.settings["objective.type"] == "denoising"
    rows = named(calls, "numbers")
    assert [step for _, step in rows] == [2, 4]
    lines = run.log_lines()
    assert rows[-1][0]["train/loss/train"] == lines[-1]["train/loss"]
    assert rows[-1][0]["optim/student/lr"] == lines[-1]["student/lr"]
    assert "throughput/tokens_per_second" in rows[-1][0]
    assert named(calls, "end") == [("finished",)]
    assert not run.tensorboard.exists(), "only the trackers of the recipe"


def test_a_tracker_that_goes_on_knows_from_where(train: Train, calls: list[tuple[Any, ...]]) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    train("smoke-teacher", "run", *SHORT, "train.steps=6", "trackers=[recorder]")
    ((tracked,),) = named(calls, "begin")
    assert (tracked.start, tracked.id) == (4, run.identity())
    assert [step for _, step in named(calls, "numbers")] == [6]


@pytest.mark.parametrize("broken", ["begin", "numbers", "text", "end"])
def test_a_failing_tracker_is_said_once(
    broken: str, tmp_path: Path, calls: list[tuple[Any, ...]], train: Train
) -> None:
    loaded = load_recipe("smoke-teacher", [*SHORT, f"trackers=[{{type: recorder, broken: {broken}}}, tensorboard]"])
    lines: list[str] = []
    assert fit(loaded, RunDir(tmp_path / "run"), echo=lines.append).finished
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == ["warning: tracker 'recorder' is left out: no route to the server; training goes on"]
    assert warnings[0] in (tmp_path / "run/log.txt").read_text()
    assert len(named(calls, broken)) == 1, "it is not called again"
    assert list((tmp_path / "run/tb").iterdir()), "others go on"
    assert weights(RunDir(tmp_path / "run")) == weights(train("smoke-teacher", "plain", *SHORT)), "the same training"


def weights(run: RunDir) -> bytes:
    from safetensors.torch import load_file

    return b"".join(tensor.numpy().tobytes() for _, tensor in sorted(load_file(run.export).items()))


def test_a_missing_package_is_said_before_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    monkeypatch.chdir(tmp_path)
    message = r"trackers: 'wandb' needs the package wandb, .*: pip install 'fewstep\[wandb\]', or leave it out"
    with pytest.raises(UserError, match=message):
        launch("smoke-teacher", sets=[*SHORT, "trackers=[wandb]"])
    assert not list(tmp_path.iterdir())
    run = launch("smoke-teacher", sets=list(SHORT), run_dir="run")
    with pytest.raises(UserError, match=message):
        launch("smoke-teacher", sets=[*SHORT, "trackers=[wandb]"], resume=str(run))


def test_an_unknown_tracker_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["validate", "smoke-teacher", "--set", "trackers=[wandbb]"])
    assert stop.value.code == 2
    assert "trackers[0]: no tracker named 'wandbb'; did you mean 'wandb'?" in capsys.readouterr().err


def test_recipes_that_name_none_have_tensorboard() -> None:
    recipe = load_recipe("smoke-teacher").recipe
    assert [config.type for config in recipe.trackers] == ["tensorboard"]
    assert load_recipe("smoke-teacher", ["trackers=[]"]).recipe.trackers == ()


def test_teachers_of_pictures_are_seen(train: Train, calls: list[tuple[Any, ...]]) -> None:
    small = ("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "evaluate.steps=[4]", "train.device=cpu")
    sets = (*small, "train.steps=200", "train.batch_size=16", "train.log_every=200", "trackers=[recorder]")
    run = train("digits-teacher", "digits", *sets, "watch.times=2")
    assert [(name, step) for name, _, step in named(calls, "picture")] == [
        ("samples/watch", 100),
        ("samples/watch", 200),
    ]
    assert len(list(run.samples.glob("watch-*.png"))) == 2
    assert "watch/diversity" not in run.log_lines()[-1]
    calls.clear()
    train("digits-teacher", "short", *sets, "train.steps=4")
    assert not named(calls, "picture"), "looks would cost more than the training"


def test_looks_change_no_teacher(train: Train) -> None:
    small = ("backbone.width=16", "backbone.depth=1", "backbone.heads=2", "evaluate.steps=[1]", "train.device=cpu")
    sets = (*small, "train.steps=60", "train.batch_size=16", "backbone.dropout=0.1")
    one, two = (train("digits-teacher", f"times-{n}", *sets, f"watch.times={n}") for n in (0, 2))
    assert len(list(two.samples.glob("*.png"))) == 2
    assert weights(one) == weights(two)


# ------------------------------------------------------------------------------------------------------- TensorBoard


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "scalars": 0}).Reload()


def test_tensorboard_has_numbers_texts_and_settings(train: Train, tmp_path: Path) -> None:
    run = train("smoke-teacher", "run", *SHORT)
    main_exits(["evaluate", str(run.path), "--steps", "2", "--samples", "20"])
    read = events(run.tensorboard)
    assert [event.step for event in read.Scalars("train/loss/train")] == [2, 4]
    tags = [tag for tag in read.Tags()["scalars"] if tag.startswith("evaluate/")]
    assert tags
    assert all(tag.endswith("/steps-2") for tag in tags)
    assert [event.step for event in read.Scalars(tags[0])] == [4]
    assert "recipe/text_summary" in read.Tags()["tensors"]
    settings = settings_of(read)
    assert settings["train.steps"] == 4
    assert settings["objective.type"] == "denoising"


def settings_of(read: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return MessageToDict(HParamsPluginData.FromString(content).session_start_info)["hparams"]


def main_exits(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0


def test_evaluations_are_sent_on_request_only(train: Train, calls: list[tuple[Any, ...]]) -> None:
    run = train("smoke-teacher", "run", *SHORT, "trackers=[recorder]")
    calls.clear()
    main_exits(["evaluate", str(run.path), "--steps", "2", "--samples", "20"])
    assert calls == []
    main_exits(["evaluate", str(run.path), "--steps", "3", "--samples", "20", "--track", "--sampler", "first_hitting"])
    ((tracked,),) = named(calls, "begin")
    assert (tracked.start, tracked.id) == (None, run.identity())
    ((values, step),) = named(calls, "numbers")
    assert step == 4
    assert all(name.startswith("evaluate/") and name.endswith("/first_hitting-steps-3") for name in values)
    calls.clear()
    main_exits(["evaluate", str(run.path), "--steps", "2", "--samples", "20", "--track"])
    assert calls == [], "values that are known are not measured, nor recorded again"


def test_an_export_has_no_trackers(train: Train, tmp_path: Path, calls: list[tuple[Any, ...]]) -> None:
    from fewstep.export.write import export_run
    from fewstep.runs.models import open_model

    run = train("smoke-teacher", "run", *SHORT, "trackers=[recorder]")
    folder = export_run(str(run.path), str(tmp_path / "out"))
    assert [config.type for config in open_model(folder, device="cpu").recipe.trackers] == ["tensorboard"]


# ------------------------------------------------------------------------------------------------- the real libraries


def test_wandb_offline(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the package wandb")
    run = train("smoke-teacher", "run", *SHORT, "trackers=[{type: wandb, mode: offline, project: mine}]")
    (folder,) = (run.trackers / "wandb").glob("offline-run-*")
    (file,) = folder.glob("run-*.wandb")
    assert run.identity() in file.name
    recorded = wandb_records(file)
    assert recorded["project"] == "mine"
    assert recorded["config"]["train.steps"] == 4
    assert [row["step"] for row in recorded["history"] if "train/loss/train" in row] == [2, 4]
    losses = [row["train/loss/train"] for row in recorded["history"] if "train/loss/train" in row]
    assert losses == pytest.approx([line["train/loss"] for line in run.log_lines()])


def wandb_records(file: Path) -> dict[str, Any]:
    """Project, settings and history of a file of W&B."""
    from wandb.proto import wandb_internal_pb2

    read: dict[str, Any] = {"history": [], "config": {}}
    for data in logged_records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("run"):
            read["project"] = record.run.project
            read["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        if record.HasField("history"):
            keys = [(item.key or "/".join(item.nested_key), item.value_json) for item in record.history.item]
            read["history"].append({key: json.loads(value) for key, value in keys})
    return read


def logged_records(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format: in blocks of 32 KB, each part with checksum (4), length (2), kind (1)."""
    place, record = 7, b""  # after the file's own header
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def test_wandb_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the package wandb")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    loaded = load_recipe("smoke-teacher", [*SHORT, "trackers=[{type: wandb, mode: online, timeout: 2}]"])
    lines: list[str] = []
    assert fit(loaded, RunDir(tmp_path / "run"), echo=lines.append).finished
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning: tracker 'wandb' is left out: ")
    assert warning.endswith("; training goes on")


def test_mlflow_in_a_database(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the package mlflow")
    pytest.importorskip("sqlalchemy", reason="needs the package sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    sets = (*SHORT, "trackers=[mlflow]")
    run = train("smoke-teacher", "run", *sets)
    train("smoke-teacher", "run", *sets, "train.steps=6")
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("fewstep")
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.info.status == "FINISHED"
    assert recorded.info.run_name == "smoke-teacher/run"
    assert recorded.data.params["train.steps"] == "4"
    history = client.get_metric_history(recorded.info.run_id, "train/loss/train")
    assert [metric.step for metric in history] == [2, 4, 6]
    assert [metric.value for metric in history] == pytest.approx([line["train/loss"] for line in run.log_lines()])


def test_mlflow_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs the package mlflow")
    loaded = load_recipe("smoke-teacher", [*SHORT, "trackers=[{type: mlflow, uri: 'http://127.0.0.1:9'}]"])
    lines: list[str] = []
    assert fit(loaded, RunDir(tmp_path / "run"), echo=lines.append).finished
    (warning,) = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning: tracker 'mlflow' is left out: ")


def test_trackio_on_this_machine(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("needs the package trackio")
    assert "trackio" not in sys.modules or Path(sys.modules["trackio"].TRACKIO_DIR).exists()
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = train("smoke-teacher", "run", *SHORT, "trackers=[{type: trackio, project: mine}]")
    import trackio

    (database,) = Path(trackio.TRACKIO_DIR).glob("mine*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select step, metrics from metrics where run_name like ?", ("smoke-teacher-run%",))
        recorded = [(step, json.loads(values)) for step, values in rows]
    losses = [(step, values["train/loss/train"]) for step, values in recorded if "train/loss/train" in values]
    assert losses == [(line["step"], pytest.approx(line["train/loss"])) for line in run.log_lines()]


def test_settings_are_flat() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": {}, "f": True}
    assert flat(nested) == {"a.b": 1, "a.c": "[1, 2]", "d": "null", "e": "{}", "f": True}
