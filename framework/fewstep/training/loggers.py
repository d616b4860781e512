"""Destinations of a run's numbers: console lines or a bar, log.txt, metrics.jsonl and trackers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.data.base import Dataset
from fewstep.runs.folder import RunDir
from fewstep.runtime.bars import Bar, open_bar
from fewstep.runtime.console import is_console, silence_console
from fewstep.runtime.files import rewrite
from fewstep.runtime.progress import clock
from fewstep.sampling.sheets import image_sheet, save_sheet
from fewstep.trackers.base import Scalar, TrackedRun
from fewstep.trackers.tracking import Tracking
from fewstep.training.pace import Pace

VOLATILE = ("seconds", "tokens_per_second", "stall_seconds", "peak_memory_mb")
"""Fields of a metrics line that depend on the machine."""

_NOTABLE = 0.05
"""Share of the time spent waiting for data above which console lines name it."""


class RunLogger:
    """Writes one line of numbers to every destination.

    `metrics.jsonl` is the source of truth: on resume it is cut back to the checkpoint's step, so that it
    ends up equal to that of an uninterrupted run. A destination that cannot be written is left out after one warning;
    training needs none of them.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        start: int,
        total: int,
        echo: Callable[[str], None],
        trackers: Sequence[ComponentConfig] = (),
        name: str = "",
        settings: Mapping[str, Scalar] | None = None,
    ) -> None:
        """
        Args:
            start: step that the training goes on from.
            total: its last step.
            echo: where console lines go; where that is a terminal or a notebook, a bar takes the place of lines.
            trackers: trackers that get the numbers too.
            name: of the recipe.
            settings: of the recipe by dotted key, for trackers.
        """
        self.run, self.total = run, total
        self._echo: Callable[[str], None] | None = echo
        self._start, self._begun = start, time.monotonic()
        self._last = (0.0, 0.0)
        self._pace = Pace()
        self._lost: set[str] = set()
        self._name, self._state, self._note = name or run.path.name, "running", ""
        self._bar: Bar | None = open_bar(self._name, "steps") if is_console(echo) else None
        with self._optional("metrics.jsonl"):
            _cut(run, start)
        identity = self._name
        with self._optional("run-id"):
            identity = run.identity()
        tracked = TrackedRun(self._name, run.path, identity, start, settings or {})
        self._tracking = Tracking(trackers, tracked, lambda line: self.say(f"warning: {line}"))

    @contextmanager
    def _optional(self, name: str) -> Iterator[None]:
        """Go on without a destination that cannot be written."""
        try:
            yield
        except OSError as error:
            if name not in self._lost:
                self._lost.add(name)
                self._to_console(f"warning: {name} cannot be written ({error.strerror or error}); training goes on")

    def _to_console(self, line: str) -> None:
        if self._echo is None:
            return
        try:
            self._echo(line)
        except OSError:  # nobody reads it any more
            self._echo = None
            silence_console()

    def say(self, line: str) -> None:
        """A sentence for the console and the log."""
        self._to_console(line)
        self._to_log(line)

    def _to_log(self, line: str) -> None:
        with self._optional("log.txt"), self.run.log.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def warn(self, line: str, step: int) -> None:
        """A warning for the console, the log and trackers."""
        self.say(f"warning: {line}")
        self._tracking.text("warnings", line, step)

    def tick(self, step: int) -> None:
        """Move the bar, if there is one."""
        if self._bar is not None:
            self._bar.show(step, self.total, self._note)

    def status(self, state: str, **details: object) -> None:
        """The state of the run, for other programs."""
        self._state = state
        with self._optional("status.json"):
            self.run.set_status(state, **details)

    def row(self, step: int, values: dict[str, float], tokens: int, stalled: float, peak: float) -> None:
        """Log `values` of `step`.

        Args:
            tokens: number of tokens processed since the start of this session.
            stalled: seconds of waiting for data since then.
            peak: peak of the memory in megabytes.
        """
        seconds = time.monotonic() - self._begun
        speed = tokens / max(seconds, 1e-9)
        machine = {
            "tokens_per_second": round(speed, 1),
            "stall_seconds": round(stalled, 3),
            "peak_memory_mb": peak,
        }
        row = {"step": step, **values, "seconds": round(seconds, 3), **machine}
        with self._optional("metrics.jsonl"), self.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        scalars = {_tag(name): value for name, value in values.items()}
        self._tracking.numbers(scalars | {f"throughput/{name}": value for name, value in machine.items()}, step)
        left = seconds / max(1, step - self._start) * (self.total - step)
        share = (stalled - self._last[1]) / max(seconds - self._last[0], 1e-9)
        self._last = (seconds, stalled)
        waited = f"  waited for data {share:.0%}" if share >= _NOTABLE else ""
        line = _line(step, self.total, values, speed, left) + waited
        if self._bar is None:
            self.say(line)
        else:
            self._note = f"{_losses(values)}  {speed / 1000:.1f}k tok/s{waited}"
            self._to_log(line)
        if slow := self._pace.slowdown(tokens, seconds):
            self.warn(f"step {step}: {slow}", step)

    def cut(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`, when a training goes back to it."""
        with self._optional("metrics.jsonl"):
            _cut(self.run, step)

    def text(self, tag: str, text: str) -> None:
        """A block of text for trackers."""
        self._tracking.text(tag, text, self._start)

    def sheet(self, tag: str, dataset: Dataset, samples: Tensor, step: int) -> None:
        """Samples [N, L] as a picture or a text, in the run's folder and for trackers."""
        with self._optional("sample sheets"):
            file = save_sheet(self.run.samples / f"watch-{step:08d}", dataset, samples, columns=8)
            pictures = dataset.pictures(samples)
            if pictures is not None:
                self._tracking.picture(tag, image_sheet(pictures.float(), 8), step)
            if dataset.kind != "image":
                self._tracking.text(tag, file.read_text(encoding="utf-8"), step)

    def close(self) -> None:
        """Write what is buffered, and close the files."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._tracking.end("stopped" if self._state == "running" else self._state)


class NoLogger(RunLogger):
    """The logger of all ranks but the first: it writes nothing."""

    def __init__(self, run: RunDir, **_: object) -> None:
        self.run = run

    def say(self, line: str) -> None: ...

    def warn(self, line: str, step: int) -> None: ...

    def tick(self, step: int) -> None: ...

    def status(self, state: str, **details: object) -> None: ...

    def row(self, step: int, values: dict[str, float], tokens: int, stalled: float, peak: float) -> None: ...

    def cut(self, step: int) -> None: ...

    def text(self, tag: str, text: str) -> None: ...

    def sheet(self, tag: str, dataset: Dataset, samples: Tensor, step: int) -> None: ...

    def close(self) -> None: ...


def _tag(name: str) -> str:
    """`student/loss` -> `train/loss/student`; `student/lr` -> `optim/student/lr`."""
    if "/" not in name:
        return f"train/{name}"
    owner, value = name.split("/", 1)
    return f"optim/{owner}/{value}" if value in ("lr", "grad_norm") else f"train/{value}/{owner}"


def _line(step: int, total: int, values: dict[str, float], speed: float, left: float) -> str:
    """One line for the console."""
    progress = f"step {step:>{len(str(total))}}/{total}"
    return f"{progress}  loss: {_losses(values)}  {speed / 1000:.1f}k tok/s  left {clock(left)}"


def _losses(values: dict[str, float]) -> str:
    """Losses by name; those that an objective names itself (`student_loss`) replace their sum."""
    parts = {name.split("/")[1].removesuffix("_loss"): v for name, v in values.items() if name.endswith("_loss")}
    losses = parts or {name.split("/")[0]: v for name, v in values.items() if name.endswith("/loss")}
    return "  ".join(f"{name} {value:.4f}" for name, value in losses.items())


def _cut(run: RunDir, step: int) -> None:
    """Drop lines of metrics.jsonl that are damaged, or after `step` (the run stopped after its last checkpoint)."""
    if run.metrics.exists():
        lines = [line for line in run.log_lines() if line["step"] <= step]
        rewrite(run.metrics, "".join(json.dumps(line) + "\n" for line in lines))
