"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from fewstep.core.component import ComponentConfig
from fewstep.core.places import unlinked
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter


@TRACKERS.register("tensorboard")
class TensorBoard(Tracker):
    """Files in the run's folder `tb`, for `tensorboard --logdir runs`: numbers, texts, pictures, hyper-parameters."""

    sends: ClassVar[bool] = False

    class Config(ComponentConfig):
        type: Literal["tensorboard"] = "tensorboard"

    config: Config
    _writer: SummaryWriter

    def begin(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = unlinked(run.path / "tb")
        self._writer = SummaryWriter(str(folder), purge_step=run.start + 1 if run.start else None)
        if run.start is not None and run.settings:
            _, begun, self._ended = hparams(dict(run.settings), {})  # type: ignore[no-untyped-call]
            # Without a list of metrics TensorBoard takes all numbers of the run as its columns.
            self._writer._get_file_writer().add_summary(begun)  # type: ignore[no-untyped-call]

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def text(self, name: str, text: str, step: int) -> None:
        self._writer.add_text(name, "    " + text.replace("\n", "\n    "), step)  # type: ignore[no-untyped-call]

    def picture(self, name: str, image: Tensor, step: int) -> None:
        self._writer.add_image(name, image, step)  # type: ignore[no-untyped-call]

    def end(self, state: str) -> None:
        if hasattr(self, "_ended"):
            self._writer._get_file_writer().add_summary(self._ended)  # type: ignore[no-untyped-call]
        self._writer.close()  # type: ignore[no-untyped-call]
