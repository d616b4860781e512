"""The folder of a sampling job, which is whole at any moment, whatever kills the processes that fill it.

While it is filled it holds `unfinished/`: `job.json` with all that decides the samples, a `claim-I-of-N` of each
process, and for each batch that is done its tokens and its lines. A batch counts once its tokens stand under their
name. When all are there, what they make together is written beside and moved into the folder, `sample.json` last. Only
then `unfinished/` goes, in one move.

Shapes: n samples of a batch, N all samples, L tokens.
"""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.runtime.files import flush, publish
from fewstep.sampling.request import Part

ABOUT, LINES, TENSORS = "sample.json", "samples.jsonl", "samples.safetensors"
_UNFINISHED, _JOB = "unfinished", "job.json"
_BESIDE, _OWNER = ".beside-", "owner"
_BATCH = re.compile(r"(\d+)-(\d+)\.safetensors")
GIF, PAGE = "denoising.gif", "denoising.html"
NOT_COMPARED = ("run", "commit")
"""A run may have moved, and a commit may change nothing that matters here; the weights and the version tell."""


@dataclass(frozen=True)
class Batch:
    """Samples with these numbers: `tokens` (LongTensor [n, L]), evaluations of all of them, and time."""

    numbers: range
    tokens: Tensor
    evaluations: float
    seconds: float


class JobFolder:
    """One folder of samples.

    Args:
        path: where.
        job: everything that decides the samples, as plain data.
        count: N.
    """

    def __init__(self, path: Path, job: dict[str, Any], count: int) -> None:
        self.path, self.count = path, count
        self.job: dict[str, Any] = json.loads(json.dumps(job))  # as it is read back
        self._work = path / _UNFINISHED

    # ---------------------------------------------------------------- begin

    def begin(self, part: Part, *, resume: bool, batch_size: Callable[[], int]) -> int | None:
        """Start or enter the job; returns the samples a batch that its shares are counted in, None if all is done.

        Args:
            batch_size: called by the process that starts the job.

        Raises:
            UserError: an unfinished job is there already, and this one should not or cannot continue it.
        """
        if not self._work.exists():
            content = {"job": self.job, "batch_size": batch_size()}
            if self._finished():
                self.sweep()
                return None
            self._start(content)
        there = _read(self._work / _JOB)
        differences = self._differences(there["job"])
        if differences:
            raise UserError(
                f"'{self.path}' holds an unfinished job with other settings ({'; '.join(differences)}); "
                f"name another folder with --out, or delete '{self._work}'"
            )
        self._claim(part, resume)
        return int(there["batch_size"])

    def _finished(self) -> bool:
        """Whether the samples of this very job are all there."""
        about = _read(self.path / ABOUT)
        names = about.get("files", [])
        return bool(names) and all((self.path / name).exists() for name in names) and not self._differences(about)

    def _start(self, content: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with beside(self.path) as folder:
            _write(folder / _JOB, json.dumps(content, indent=2) + "\n")
            flush(folder / _JOB)
            try:
                folder.rename(self._work)
            except OSError:
                if not (self._work / _JOB).exists():  # no other process of the same job was faster
                    raise

    def _claim(self, part: Part, resume: bool) -> None:
        """Note that a share is being drawn; without `resume` nobody may have begun it."""
        claims = {file.name for file in self._work.glob("claim-*")}
        own = f"claim-{part.index}-of-{part.of}"
        begun = any(name == own or not name.endswith(f"-of-{part.of}") for name in claims)
        try:
            if resume or not begun:
                (self._work / own).open("w" if resume else "x").close()
        except FileExistsError:  # by another process, just now
            begun = True
        if begun and not resume:
            raise UserError(
                f"'{self.path}' holds this job unfinished, with {len(self.done())} of {self.count} samples; "
                f"continue it with --resume, or delete '{self._work}' to start anew"
            )

    def _differences(self, other: dict[str, Any]) -> list[str]:
        """What another job does differently, for people."""
        ours, theirs = _flat(self.job), _flat({key: other.get(key) for key in self.job})
        keys = [key for key in {**ours, **theirs} if key not in NOT_COMPARED and ours.get(key) != theirs.get(key)]
        return [f"{key}: {_short(theirs.get(key))} there, {_short(ours.get(key))} here" for key in keys]

    # ---------------------------------------------------------------- batches

    def done(self) -> set[int]:
        """Numbers of the samples that are drawn."""
        return {number for numbers, _ in self._batches() for number in numbers}

    def keep(self, batch: Batch, lines: str) -> None:
        """Write a batch: first its lines, then its tokens, which make it count."""
        name = f"{batch.numbers.start:08d}-{batch.numbers.stop - 1:08d}"
        tensors = {
            "tokens": batch.tokens.contiguous(),
            "evaluations": torch.tensor(batch.evaluations, dtype=torch.float64),
            "seconds": torch.tensor(batch.seconds, dtype=torch.float64),
        }
        lines_file, tensors_file = (self._work / f"{name}{suffix}" for suffix in (".jsonl", ".safetensors"))
        with beside(self._work) as folder:
            _write(folder / lines_file.name, lines)
            save_file(tensors, folder / tensors_file.name)
            publish(folder / lines_file.name, lines_file)
            publish(folder / tensors_file.name, tensors_file)

    def _batches(self) -> list[tuple[range, Path]]:
        """Every whole batch, by its numbers."""
        found = [(_BATCH.fullmatch(file.name), file) for file in self._work.glob("*.safetensors")]
        return sorted(
            ((range(int(match[1]), int(match[2]) + 1), file) for match, file in found if match),
            key=lambda batch: batch[0].start,
        )

    # ---------------------------------------------------------------- end

    def join(self, write: Callable[[Path, Batch], dict[str, Any]]) -> bool:
        """Make the finished folder of all batches, once all are there; False if some are missing.

        Args:
            write: writes the files that people see into a folder; returns what is told of them in `sample.json`.
        """
        with self._locked() as mine:
            if not mine:
                return True  # another process has just done it
            if len(self.done()) < self.count:
                return False
            with beside(self.path) as folder:
                begun = _read(self._work / _JOB)
                told = write(folder, self._joined(folder))
                self._publish(folder, {**begun["job"], **told, "batch_size": begun["batch_size"]})
                self._work.rename(folder / _UNFINISHED)
        self.sweep()
        return True

    def _publish(self, folder: Path, about: dict[str, Any]) -> None:
        """Move all files of `folder` here, in the place of those of an earlier job; `about` is told of them."""
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != _OWNER]
        names = sorted(file.relative_to(folder).as_posix() for file in files)
        _write(folder / ABOUT, json.dumps({**about, "files": names}, indent=2, ensure_ascii=False) + "\n")
        for name in {*_read(self.path / ABOUT).get("files", []), GIF, PAGE} - set(names):
            (self.path / name).unlink(missing_ok=True)
        for name in [*names, ABOUT]:
            (self.path / name).parent.mkdir(exist_ok=True)
            publish(folder / name, self.path / name)

    def sweep(self) -> None:
        """Remove what processes that were killed have left beside a finished job."""
        for folder in self.path.glob(f"{_BESIDE}*"):
            try:
                with (folder / _OWNER).open("a") as owner:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):  # its owner lives, or has just removed it
                continue
            shutil.rmtree(folder, ignore_errors=True)

    def _joined(self, folder: Path) -> Batch:
        """All batches as one, its lines and tokens written into `folder`; what was drawn twice is taken once."""
        tokens, evaluations, seconds = [], 0.0, 0.0
        with (folder / LINES).open("w", encoding="utf-8", newline="\n") as lines:
            at = 0
            for numbers, file in self._batches():
                part, known = load_file(file), at - numbers.start
                if known >= len(numbers):
                    continue
                with file.with_suffix(".jsonl").open(encoding="utf-8", newline="\n") as batch:
                    lines.writelines(islice(batch, known, None))
                tokens.append(part["tokens"][known:])
                evaluations += float(part["evaluations"]) * (1 - known / len(numbers))
                seconds += float(part["seconds"])
                at = numbers.stop
        return Batch(range(self.count), torch.cat(tokens), evaluations, seconds)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Alone with the job; False if it was finished in the meantime."""
        try:
            file = (self._work / _JOB).open("r+")  # network file systems lock what may be written
        except FileNotFoundError:
            yield False
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield (self._work / _JOB).exists()


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A folder within `path` for what is not whole yet; it is locked as long as its owner lives, and then removed."""
    folder = path / f"{_BESIDE}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with (folder / _OWNER).open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # goes when the process does, however it ends
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Values by dotted key; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
