"""Weights & Biases."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from fewstep.core.component import ComponentConfig
from fewstep.runtime.pixels import as_pixels
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import Tensor

_EXIT_CODES = {"finished": 0, "stopped": 0, "failed": 1}
_STEP = "step"


@TRACKERS.register("wandb")
class WandB(Tracker):
    """Weights & Biases: a run of that name and id, with numbers, texts, pictures and settings. `wandb login` first;
    `mode: offline` writes to the run's folder, for `wandb sync`."""

    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "fewstep[wandb]"

    class Config(ComponentConfig):
        type: Literal["wandb"] = "wandb"
        project: str = Field("fewstep", min_length=1, description="project that the run belongs to")
        entity: str | None = Field(None, description="user or team; null for the default of the account")
        group: str | None = Field(None, description="group of the run; null for none")
        mode: Literal["online", "offline"] | None = Field(
            None, description="offline writes to the run's folder only; null: what WANDB_MODE says, else online"
        )
        timeout: float = Field(30.0, gt=0, description="seconds to wait for the server before the tracker is left out")

    config: Config

    def begin(self, run: TrackedRun) -> None:
        import wandb

        c = self.config
        self._run: Any = wandb.init(
            project=c.project,
            entity=c.entity,
            group=c.group,
            mode=c.mode,
            name=f"{run.name}/{run.path.name}",
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            reinit="create_new",
            settings=wandb.Settings(init_timeout=c.timeout, login_timeout=c.timeout, silent=True, console="off"),
        )
        # Steps of W&B only grow; a training that goes on from a checkpoint comes back to earlier ones.
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({**values, _STEP: step})

    def text(self, name: str, text: str, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>"), _STEP: step})

    def picture(self, name: str, image: Tensor, step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(as_pixels(image)), _STEP: step})

    def end(self, state: str) -> None:
        self._run.finish(exit_code=_EXIT_CODES.get(state, 1))
