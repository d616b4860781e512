"""Destinations of a run's numbers: console lines, log.txt, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.images.base import ImageDataset
from fewstep.runs.folder import RunDir
from fewstep.runtime.files import rewrite
from fewstep.runtime.progress import clock
from fewstep.sampling.sheets import image_sheet, save_sheet
from fewstep.training.pace import Pace

VOLATILE = ("seconds", "tokens_per_second", "stall_seconds", "peak_memory_mb")
"""Fields of a metrics line that depend on the machine."""

_NOTABLE = 0.05
"""Share of the time spent waiting for data above which console lines name it."""


class RunLogger:
    """Writes one line of numbers to every destination.

    `metrics.jsonl` is the source of truth: on resume it is cut back to the checkpoint's step, so that it
    ends up equal to that of an uninterrupted run.
    """

    def __init__(self, run: RunDir, *, start: int, total: int, echo: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.total, self.echo = run, total, echo
        self._start, self._begun = start, time.monotonic()
        self._last = (0.0, 0.0)
        self._pace = Pace()
        _cut(run, start)
        self._writer: Any = SummaryWriter(str(run.tensorboard), purge_step=start + 1 if start else None)

    def say(self, line: str) -> None:
        """A sentence for the console and the log."""
        self.echo(line)
        with self.run.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def warn(self, line: str, step: int) -> None:
        """A warning for the console, the log and TensorBoard."""
        self.say(f"warning: {line}")
        self._writer.add_text("warnings", line, step)

    def row(self, step: int, values: dict[str, float], tokens: int, stalled: float, peak: float) -> None:
        """Log `values` of `step`.

        Args:
            tokens: number of tokens processed since the start of this session.
            stalled: seconds of waiting for data since then.
            peak: peak of the memory in megabytes.
        """
        seconds = time.monotonic() - self._begun
        speed = tokens / max(seconds, 1e-9)
        row = {
            "step": step,
            **values,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(speed, 1),
            "stall_seconds": round(stalled, 3),
            "peak_memory_mb": peak,
        }
        with self.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for name, value in values.items():
            self._writer.add_scalar(_tag(name), value, step)
        self._writer.add_scalar("throughput/tokens_per_second", speed, step)
        self._writer.add_scalar("throughput/stall_seconds", stalled, step)
        self._writer.add_scalar("throughput/peak_memory_mb", peak, step)
        left = seconds / max(1, step - self._start) * (self.total - step)
        share = (stalled - self._last[1]) / max(seconds - self._last[0], 1e-9)
        self._last = (seconds, stalled)
        waited = f"  waited for data {share:.0%}" if share >= _NOTABLE else ""
        self.say(_line(step, self.total, values, speed, left) + waited)
        if slow := self._pace.slowdown(tokens, seconds):
            self.warn(f"step {step}: {slow}", step)

    def text(self, tag: str, text: str) -> None:
        """A block of text for TensorBoard."""
        self._writer.add_text(tag, "    " + text.replace("\n", "\n    "))

    def sheet(self, tag: str, dataset: Dataset, samples: Tensor, step: int) -> None:
        """Samples [N, L] as a picture or a text, in the run's folder and for TensorBoard."""
        file = save_sheet(self.run.samples / f"watch-{step:08d}", dataset, samples, columns=8)
        if isinstance(dataset, ImageDataset):
            self._writer.add_image(tag, image_sheet(dataset.to_images(samples).float(), 8), step)
        else:
            self._writer.add_text(tag, file.read_text(encoding="utf-8"), step)

    def close(self) -> None:
        self._writer.close()


def _tag(name: str) -> str:
    """`student/loss` -> `train/loss/student`; `student/lr` -> `optim/student/lr`."""
    if "/" not in name:
        return f"train/{name}"
    owner, value = name.split("/", 1)
    return f"optim/{owner}/{value}" if value in ("lr", "grad_norm") else f"train/{value}/{owner}"


def _line(step: int, total: int, values: dict[str, float], speed: float, left: float) -> str:
    """One line for the console; losses that an objective names itself (`student_loss`) replace their sum."""
    parts = {name.split("/")[1].removesuffix("_loss"): v for name, v in values.items() if name.endswith("_loss")}
    losses = parts or {name.split("/")[0]: v for name, v in values.items() if name.endswith("/loss")}
    shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    return f"step {step:>{len(str(total))}}/{total}  loss: {shown}  {speed / 1000:.1f}k tok/s  left {clock(left)}"


def _cut(run: RunDir, step: int) -> None:
    """Drop lines of metrics.jsonl that lie after `step` (the run stopped after its last checkpoint)."""
    if run.metrics.exists():
        lines = run.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        rewrite(run.metrics, "".join(complete))
