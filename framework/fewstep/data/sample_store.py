"""A store of samples on disk that a network draws before a training, such as pairs of noise and sample.

Shapes: B samples of a batch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError
from fewstep.runtime.files import publish, read_json
from fewstep.runtime.progress import Progress
from fewstep.runtime.ranks import ALONE, Ranks
from fewstep.runtime.sealed import load_sealed, save_sealed
from fewstep.runtime.seeding import derived_seed, generator_for

SHARD = 4096
"""Limit on the samples of one file, and on the samples in memory."""

_EVALUATIONS = "evaluations"
_OF = "of"
"""Key of what a file belongs to, in its metadata."""


@dataclass(frozen=True)
class Rows:
    """Integers of samples by name (LongTensor [B, ...]), and the network evaluations of all samples."""

    columns: Mapping[str, Tensor]
    evaluations: int = 0


class SampleStore:
    """Named rows of samples in files of equal size, drawn once and then read in random order.

    A file appears under its name only when it is on disk. An interrupted store therefore continues with the missing
    files, and its samples are identical. Every epoch reads file by file, with a new order of the files and of the
    samples in each. Numbers are stored as int32.

    Args:
        folder: folder of the files, created by `fill`.
        count: number of samples, rounded up to complete files.
        facts: all settings that the samples depend on, as plain data. A store with other facts is refused.
        seed: seed of the draws and of the order.
        unit: plural noun for the samples, which names the files.
    """

    def __init__(self, folder: Path, count: int, facts: Mapping[str, object], seed: int, *, unit: str) -> None:
        self.folder, self.seed, self.unit = folder, seed, unit
        self.shard = min(count, SHARD)
        self.shards = -(-count // self.shard)
        self.count = self.shards * self.shard
        self.facts = json.loads(json.dumps({**facts, unit: self.count}))
        self._loaded: tuple[int, int] | None = None
        self._held = False
        self._columns: dict[str, Tensor] = {}

    def fill(self, draw: Callable[[int, int], Rows], progress: Progress | None = None, *, ranks: Ranks = ALONE) -> int:
        """Draw the missing files; returns the network evaluations of all samples, earlier sessions included.

        Args:
            draw: called with a number of samples and a seed; all rows have the same names and shapes.
            ranks: processes that draw; each draws its share of the files, in a folder that all of them see. With
                sharded networks all draw the same, and the first one writes.

        Raises:
            UserError: the folder holds the samples of another teacher or of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ranks.in_turn():
            self._check_facts()
        missing = [number for number in range(self.shards) if not self._file(number).exists()]
        missing = json.loads(ranks.of_first(json.dumps(missing)))  # before any of them is drawn
        for done, number in enumerate(missing if ranks.together else missing[ranks.rank :: ranks.size], start=1):
            file, rows = self._file(number), draw(self.shard, derived_seed(self.seed, f"{self.unit}/{number}"))
            if ranks.first or not ranks.together:
                _write(file, rows, self._of(file))
            if progress is not None:
                together = 1 if ranks.together else ranks.size
                progress(min((self.shards - len(missing) + done * together) * self.shard, self.count), self.count)
        ranks.wait()
        return sum(int(self._read(self._file(number))[_EVALUATIONS]) for number in range(self.shards))

    def hold(self, rows: Rows) -> None:
        """Hand out these rows, of one file, in the place of those of every file; nothing is read then."""
        self._columns, self._held = {name: column.cpu().int() for name, column in rows.columns.items()}, True

    def take(self, position: int, size: int) -> dict[str, Tensor]:
        """`size` samples in the order of the reading, from `position` on: LongTensor [size, ...] by name."""
        parts: list[dict[str, Tensor]] = []
        while size:
            epoch, offset = divmod(position, self.count)
            turn, first = divmod(offset, self.shard)
            count = min(size, self.shard - first)
            columns = self._turn(epoch, turn)
            parts.append({name: rows[first : first + count] for name, rows in columns.items()})
            size, position = size - count, position + count
        return {name: torch.cat([part[name] for part in parts]).long() for name in parts[0]}

    def _turn(self, epoch: int, turn: int) -> dict[str, Tensor]:
        """Shuffled samples of the file at position `turn` of an epoch."""
        if self._loaded != (epoch, turn) and not self._held:
            files = torch.randperm(self.shards, generator=generator_for(self.seed, f"epoch/{epoch}"))
            content = self._read(self._file(int(files[turn])))
            order = torch.randperm(self.shard, generator=generator_for(self.seed, f"epoch/{epoch}/turn/{turn}"))
            columns = {name: rows[order] for name, rows in content.items() if name != _EVALUATIONS}
            self._loaded, self._columns = (epoch, turn), columns
        return self._columns

    def _check_facts(self) -> None:
        """Record the facts of the samples, or compare them with the recorded facts.

        Raises:
            UserError: they differ.
        """
        file, remedy = self.folder / f"{self.unit}.json", f"delete the folder to draw the {self.unit} anew"
        if not file.exists():
            _replace(file, lambda part: part.write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8"))
        theirs = read_json(file, remedy)
        if not isinstance(theirs, dict):
            raise OperationError(f"'{file}' is damaged; {remedy}")
        for key in sorted(self.facts.keys() | theirs.keys()):
            if self.facts.get(key) != theirs.get(key):
                raise UserError(
                    f"objective.store: '{self.folder}' holds other {self.unit} ({key}: {theirs.get(key)} there, "
                    f"{self.facts.get(key)} here); name another folder, or delete that one to draw them anew"
                )

    def _file(self, number: int) -> Path:
        return self.folder / f"{self.unit}-{number:05d}-of-{self.shards:05d}.safetensors"

    def _read(self, file: Path) -> dict[str, Tensor]:
        """Tensors of a file, compared with its digest; a file of another store, or of another place, is refused."""
        remedy = f"delete that file to draw its {self.unit} anew"
        tensors, metadata = load_sealed(file, remedy)
        if metadata.get(_OF, self._of(file)) != self._of(file):  # files of earlier versions do not say
            raise OperationError(f"'{file}' holds other {self.unit}, of '{metadata[_OF][:80]}'; {remedy}")
        return tensors

    def _of(self, file: Path) -> str:
        """What a file of samples belongs to: its name, the seed, and a digest of the facts."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        return f"{file.name}, seed {self.seed}, {digest[:16]}"


def _write(file: Path, rows: Rows, of: str) -> None:
    tensors = {name: column.cpu().int().contiguous() for name, column in rows.columns.items()}
    tensors[_EVALUATIONS] = torch.tensor(rows.evaluations)
    _replace(file, lambda part: save_sealed(tensors, part, {_OF: of}))


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file and move it to its final path."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    write(partial)
    publish(partial, file)
