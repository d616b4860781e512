"""MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.runtime.pixels import as_pixels
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_TAG = "fewstep.run"
_STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_AT_ONCE = 100
"""Parameters that the server takes in one request."""
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""MLflow's own patience is minutes, in which the training would wait; who sets these variables has their own."""


@TRACKERS.register("mlflow")
class MLflow(Tracker):
    """MLflow: a run in an experiment, with numbers, texts, pictures and parameters, on a server or in a database."""

    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "fewstep[mlflow]"

    class Config(ComponentConfig):
        type: Literal["mlflow"] = "mlflow"
        experiment: str = Field("fewstep", min_length=1, description="experiment that the run belongs to")
        uri: str | None = Field(
            None,
            description="http://... of a server, or sqlite:///FILE; null: MLFLOW_TRACKING_URI, or else ./mlflow.db",
        )

    config: Config

    def begin(self, run: TrackedRun) -> None:
        for name, value in _PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client: Any = MlflowClient(tracking_uri=self.config.uri)
        found = self._client.get_experiment_by_name(self.config.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(self.config.experiment)
        known = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", max_results=1)
        if known:
            self._run = known[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        name = f"{run.name}/{run.path.name}"
        self._run = self._client.create_run(experiment, tags={_TAG: run.id}, run_name=name).info.run_id
        settings = [Param(_plain(key), str(value)) for key, value in run.settings.items()]
        for part in _parts(settings):
            self._client.log_batch(self._run, params=part)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for part in _parts([Metric(_plain(name), value, now, step) for name, value in values.items()]):
            self._client.log_batch(self._run, metrics=part)

    def text(self, name: str, text: str, step: int) -> None:
        self._client.log_text(self._run, text, f"{_plain(name)}-{step:08d}.txt")

    def picture(self, name: str, image: Tensor, step: int) -> None:
        self._client.log_image(self._run, as_pixels(image), key=_plain(name), step=step, synchronous=True)

    def end(self, state: str) -> None:
        self._client.set_terminated(self._run, _STATES.get(state, "FAILED"))


def _plain(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w./ :-]", "_", name)


def _parts(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[first : first + _AT_ONCE] for first in range(0, len(items), _AT_ONCE)]
