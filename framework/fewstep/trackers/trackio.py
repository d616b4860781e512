"""Trackio."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.runtime.pixels import as_pixels
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import Tensor


@TRACKERS.register("trackio")
class Trackio(Tracker):
    """Trackio of Hugging Face: a local database that `trackio show` opens, or a Space."""

    package: ClassVar[str] = "trackio"
    extra: ClassVar[str] = "fewstep[trackio]"

    class Config(ComponentConfig):
        type: Literal["trackio"] = "trackio"
        project: str = Field("fewstep", min_length=1, description="project that the run belongs to")
        space: str | None = Field(
            None, description="OWNER/NAME of a Space that values are sent to; null: TRACKIO_SPACE_ID, or this machine"
        )

    config: Config

    def begin(self, run: TrackedRun) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it explains its dashboard, at each training
            import trackio

            self._run: Any = trackio.init(
                project=self.config.project,
                name=f"{run.name}-{run.path.name}",
                space_id=self.config.space,
                config=dict(run.settings),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def text(self, name: str, text: str, step: int) -> None:
        import trackio

        self._run.log({name: trackio.Markdown("    " + text.replace("\n", "\n    "))}, step=step)

    def picture(self, name: str, image: Tensor, step: int) -> None:
        import trackio

        self._run.log({name: trackio.Image(as_pixels(image))}, step=step)

    def end(self, state: str) -> None:
        from trackio import context_vars

        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
        if context_vars.current_run.get() is self._run:  # else it is finished once more when the process ends
            context_vars.current_run.set(None)
