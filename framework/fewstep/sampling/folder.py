"""The folder of a sampling job. It is consistent at any moment, even if its processes are killed.

During the job it holds `unfinished/`: `job.json` with all settings that the samples depend on, a `claim-I-of-N` of
each process, and the tokens and lines of each drawn batch. A batch counts once its tokens have their final name. When
all batches are there, the joined files are written into a staging folder and moved into the folder, `sample.json`
last. Only then `unfinished/` is removed, in one move.

Shapes: n samples of a batch, N all samples, L tokens.
"""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.core.places import inside
from fewstep.runtime.files import flush, publish, read_json
from fewstep.runtime.hashing import sha256
from fewstep.runtime.lock import held
from fewstep.runtime.sealed import load_sealed, save_sealed
from fewstep.sampling.request import Part

SUMMARY, LINES, TENSORS = "sample.json", "samples.jsonl", "samples.safetensors"
_UNFINISHED, _JOB = "unfinished", "job.json"
_STAGING, _OWNER = ".beside-", "owner"
_LINES_DIGEST = "lines"
"""Key of the SHA-256 of a batch's lines, in the metadata of its tensors."""
_BATCH = re.compile(r"(\d+)-(\d+)\.safetensors")
_OWN = re.compile(r"samples\.(txt|png|jsonl|safetensors)|denoising\.(gif|html)|[\w-][\w.-]*/\d{3,}[\w.-]*")
"""Names of files that a job writes; a view such as MIDI has a folder with a numbered file for each sample."""
GIF, PAGE = "denoising.gif", "denoising.html"
NOT_COMPARED = ("run", "commit")
"""Facts that may differ: a run may have moved, and a commit may be irrelevant. Weights and version are compared."""


@dataclass(frozen=True)
class Batch:
    """Samples with these numbers: `tokens` (LongTensor [n, L]), network evaluations of all samples, and seconds."""

    numbers: range
    tokens: Tensor
    evaluations: float
    seconds: float


class JobFolder:
    """One folder of samples.

    Args:
        path: path of the folder.
        job: all settings that the samples depend on, as plain data.
        count: N, the number of samples.
    """

    def __init__(self, path: Path, job: Mapping[str, object], count: int) -> None:
        self.path, self.count = path, count
        self.job: dict[str, Any] = json.loads(json.dumps(job))  # in the form in which it is read back
        self._unfinished = path / _UNFINISHED
        self._claims = ExitStack()

    def close(self) -> None:
        """Release the share of this process."""
        self._claims.close()

    # ---------------------------------------------------------------- begin

    def begin(self, part: Part, *, resume: bool, batch_size: Callable[[], int]) -> int | None:
        """Start or enter the job.

        Args:
            batch_size: called by the process that starts the job.

        Returns:
            Samples per batch, the unit of the processes' shares; None if the job is finished.

        Raises:
            UserError: the folder holds an unfinished job that this one does not continue.
            OperationError: a living process draws this share.
        """
        if not self._unfinished.exists():
            content = {"job": self.job, "batch_size": batch_size()}
            if self._is_finished():
                self.sweep()
                return None
            self._start(content)
        size = self.enter()
        self._claim(part, resume)
        return size

    def enter(self) -> int:
        """Samples per batch of the unfinished job in the folder, which must be this one. Claims no share.

        Raises:
            UserError: the folder holds another job.
        """
        stored = _read(self._unfinished / _JOB)
        differences = self._differences(stored["job"])
        if differences:
            raise UserError(
                f"'{self.path}' holds an unfinished job with other settings ({'; '.join(differences)}); "
                f"name another folder with --out, or delete '{self._unfinished}'"
            )
        return int(stored["batch_size"])

    def _is_finished(self) -> bool:
        """Whether all samples of this job are there."""
        summary = _read(self.path / SUMMARY)
        names = _listed(summary)
        files = [self.path / name for name in names if _is_inside(self.path, name)]
        complete = {LINES, TENSORS} <= set(names) and len(files) == len(names) and all(file.exists() for file in files)
        return complete and not self._differences(summary)

    def _start(self, content: dict[str, object]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with staging_folder(self.path) as folder:
            _write(folder / _JOB, json.dumps(content, indent=2) + "\n")
            flush(folder / _JOB)
            try:
                folder.rename(self._unfinished)
            except OSError:
                if not (self._unfinished / _JOB).exists():  # no other process of the same job was faster
                    raise

    def _claim(self, part: Part, resume: bool) -> None:
        """Hold a share for this process; without `resume` it must be unclaimed.

        Raises:
            UserError: it is claimed.
            OperationError: a living process draws it.
        """
        claims = {file.name for file in self._unfinished.glob("claim-*")}
        own = f"claim-{part.index}-of-{part.of}"
        is_claimed = any(name == own or not name.endswith(f"-of-{part.of}") for name in claims)
        if resume or not is_claimed or own in claims:
            self._claims.enter_context(held(self.path, "samples", file=self._unfinished / own))
        if is_claimed and not resume:
            self.close()
            raise UserError(
                f"'{self.path}' holds this job unfinished, with {len(self.stored_numbers())} of {self.count} samples; "
                f"continue it with --resume, or delete '{self._unfinished}' to start anew"
            )

    def _differences(self, other: dict[str, object]) -> list[str]:
        """Differences to another job, as readable phrases."""
        ours, theirs = _flat(self.job), _flat({key: other.get(key) for key in self.job})
        keys = [key for key in {**ours, **theirs} if key not in NOT_COMPARED and ours.get(key) != theirs.get(key)]
        return [f"{key}: {_short(theirs.get(key))} there, {_short(ours.get(key))} here" for key in keys]

    # ---------------------------------------------------------------- batches

    def stored_numbers(self) -> set[int]:
        """Numbers of the stored samples."""
        return {number for numbers, _ in self._batches() for number in numbers}

    def store(self, batch: Batch, lines: str) -> None:
        """Write a batch: first its lines, then its tokens, which make it count."""
        name = f"{batch.numbers.start:08d}-{batch.numbers.stop - 1:08d}"
        tensors = {
            "tokens": batch.tokens.contiguous(),
            "evaluations": torch.tensor(batch.evaluations, dtype=torch.float64),
            "seconds": torch.tensor(batch.seconds, dtype=torch.float64),
        }
        lines_file, tensors_file = (self._unfinished / f"{name}{suffix}" for suffix in (".jsonl", ".safetensors"))
        with staging_folder(self._unfinished) as folder:
            _write(folder / lines_file.name, lines)
            save_sealed(tensors, folder / tensors_file.name, {_LINES_DIGEST: sha256(folder / lines_file.name)})
            publish(folder / lines_file.name, lines_file)
            publish(folder / tensors_file.name, tensors_file)

    def _batches(self) -> list[tuple[range, Path]]:
        """Every complete batch, in the order of its numbers."""
        matches = [(_BATCH.fullmatch(file.name), file) for file in self._unfinished.glob("*.safetensors")]
        return sorted(
            ((range(int(match[1]), int(match[2]) + 1), file) for match, file in matches if match),
            key=lambda batch: batch[0].start,
        )

    # ---------------------------------------------------------------- end

    def join(self, write: Callable[[Path, Batch], dict[str, object]]) -> bool:
        """Join all batches into the finished folder; False if batches are missing.

        Args:
            write: writes the files of all samples into a folder; returns facts for `sample.json`.
        """
        with self._locked() as is_unfinished:
            if not is_unfinished:
                return True  # another process has just joined the batches
            if len(self.stored_numbers()) < self.count:
                return False
            with staging_folder(self.path) as folder:
                stored = _read(self._unfinished / _JOB)
                facts = write(folder, self._joined(folder))
                self._publish(folder, {**stored["job"], **facts, "batch_size": stored["batch_size"]})
                self._unfinished.rename(folder / _UNFINISHED)
        self.sweep()
        return True

    def _publish(self, folder: Path, summary: dict[str, object]) -> None:
        """Move all files of `folder` here, replacing those of an earlier job; `summary` goes into `sample.json`."""
        files = [file for file in folder.rglob("*") if file.is_file() and file.name != _OWNER]
        names = sorted(file.relative_to(folder).as_posix() for file in files)
        _write(folder / SUMMARY, json.dumps({**summary, "files": names}, indent=2, ensure_ascii=False) + "\n")
        # The earlier list may be of a stranger: only names that this file gives are deleted, and only below the folder.
        earlier = {name for name in _listed(_read(self.path / SUMMARY)) if _OWN.fullmatch(name)}
        for name in {*earlier, GIF, PAGE} - set(names):
            if _is_inside(self.path, name):
                (self.path / name).unlink(missing_ok=True)
        for name in [*names, SUMMARY]:
            inside(self.path, str(Path(name).parent / "file"), f"'{self.path}'").parent.mkdir(exist_ok=True)
            publish(folder / name, self.path / name)

    def sweep(self) -> None:
        """Remove the staging folders that killed processes have left in a finished job."""
        for folder in self.path.glob(f"{_STAGING}*"):
            try:
                with (folder / _OWNER).open("a") as owner:
                    fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):  # the owner lives, or has just removed it
                continue
            shutil.rmtree(folder, ignore_errors=True)

    def _joined(self, folder: Path) -> Batch:
        """All batches as one, with its lines written into `folder`; a sample in two batches is taken once."""
        tokens, evaluations, seconds = [], 0.0, 0.0
        with (folder / LINES).open("w", encoding="utf-8", newline="\n") as lines:
            position = 0
            for numbers, file in self._batches():
                overlap = position - numbers.start
                if overlap >= len(numbers):
                    continue
                part = _stored_batch(file)
                with file.with_suffix(".jsonl").open(encoding="utf-8", newline="\n") as batch:
                    lines.writelines(islice(batch, overlap, None))
                tokens.append(part["tokens"][overlap:])
                evaluations += float(part["evaluations"]) * (1 - overlap / len(numbers))
                seconds += float(part["seconds"])
                position = numbers.stop
        return Batch(range(self.count), torch.cat(tokens), evaluations, seconds)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Lock the job against other processes; yields False if one has finished it in the meantime."""
        try:
            file = (self._unfinished / _JOB).open("r+")  # network file systems lock only writable files
        except FileNotFoundError:
            yield False
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield (self._unfinished / _JOB).exists()


def missing_in(numbers: range, stored: Set[int]) -> Iterator[range]:
    """The stretches of `numbers` that are not stored."""
    first = None
    for number in numbers:
        if number in stored and first is not None:
            yield range(first, number)
            first = None
        elif number not in stored and first is None:
            first = number
    if first is not None:
        yield range(first, numbers.stop)


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A temporary folder within `path` for incomplete files, locked while its owner lives, and then removed."""
    folder = path / f"{_STAGING}{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        with (folder / _OWNER).open("a") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)  # the system releases the lock when the process ends, however it ends
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stored_batch(file: Path) -> dict[str, Tensor]:
    """Tensors of a batch, compared with their digest; its lines are compared too.

    Raises:
        OperationError: it is damaged.
    """
    lines, remedy = file.with_suffix(".jsonl"), f"delete '{file}' and continue with --resume to draw its samples again"
    tensors, metadata = load_sealed(file, remedy)
    try:
        digest = sha256(lines)
    except OSError as error:
        raise OperationError(f"cannot read '{lines}': {error.strerror}; {remedy}") from None
    if metadata.get(_LINES_DIGEST, digest) != digest:
        raise OperationError(f"'{lines}' is damaged or was changed (its digest is another); {remedy}")
    return tensors


def _flat(tree: dict[str, object], above: str = "") -> dict[str, object]:
    """Values by dotted key; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, dict) else {above + key: value})
    return flat


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _listed(summary: Mapping[str, object]) -> list[str]:
    """Names of the files that a `sample.json` lists."""
    names = summary.get("files")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _is_inside(folder: Path, name: str) -> bool:
    try:
        inside(folder, name, "")
    except UserError:
        return False
    return True


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    content = read_json(file, "delete it to draw the samples anew")
    if not isinstance(content, dict):
        raise OperationError(f"'{file}' is damaged; delete it to draw the samples anew")
    return content


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
