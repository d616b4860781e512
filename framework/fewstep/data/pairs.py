"""A store of pairs on disk: noise, and the sample that a teacher draws from it.

Shapes: B pairs of a batch, L tokens.
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
"""Limit on the pairs of one file, and on the pairs in memory."""

_FACTS = "pairs.json"
_OF = "of"
"""Key of what a file belongs to, in its metadata."""


@dataclass(frozen=True)
class Pairs:
    """Noise `start` and samples `data` (LongTensor [B, L]), and the network evaluations of all pairs."""

    start: Tensor
    data: Tensor
    evaluations: int = 0


class CouplingStore:
    """Pairs in files of equal size, drawn once and then read in random order.

    A file appears under its name only when it is on disk. An interrupted store therefore continues with the missing
    files, and its pairs are identical. Every epoch reads file by file, with a new order of the files and of the pairs
    in each.

    Args:
        folder: folder of the files, created by `fill`.
        count: number of pairs, rounded up to complete files.
        facts: all settings that the pairs depend on, as plain data. A store with other facts is refused.
        seed: seed of the draws and of the order.
    """

    def __init__(self, folder: Path, count: int, facts: Mapping[str, object], seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.shard = min(count, SHARD)
        self.shards = -(-count // self.shard)
        self.count = self.shards * self.shard
        self.facts = json.loads(json.dumps({**facts, "pairs": self.count}))
        self._loaded: tuple[int, int] | None = None
        self._pairs = Pairs(torch.empty(0), torch.empty(0))

    def fill(self, draw: Callable[[int, int], Pairs], progress: Progress | None = None, *, ranks: Ranks = ALONE) -> int:
        """Draw the missing files; returns the network evaluations of all pairs, earlier sessions included.

        Args:
            draw: called with a number of pairs and a seed.
            ranks: processes that draw; each draws its share of the files, in a folder that all of them see. With
                sharded networks all draw the same, and the first one writes.

        Raises:
            UserError: the folder holds the pairs of another teacher or of other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with ranks.in_turn():
            self._check_facts()
        missing = [number for number in range(self.shards) if not self._file(number).exists()]
        missing = json.loads(ranks.of_first(json.dumps(missing)))  # before any of them is drawn
        for done, number in enumerate(missing if ranks.together else missing[ranks.rank :: ranks.size], start=1):
            file, pairs = self._file(number), draw(self.shard, derived_seed(self.seed, f"pairs/{number}"))
            if ranks.first or not ranks.together:
                _write(file, pairs, self._of(file))
            if progress is not None:
                together = 1 if ranks.together else ranks.size
                progress(min((self.shards - len(missing) + done * together) * self.shard, self.count), self.count)
        ranks.wait()
        return sum(int(self._read(self._file(number))["evaluations"]) for number in range(self.shards))

    def rows(self, position: int, size: int) -> Pairs:
        """`size` pairs in the order of the reading, from `position` on."""
        parts = []
        while size:
            epoch, offset = divmod(position, self.count)
            turn, row = divmod(offset, self.shard)
            pairs = self._turn(epoch, turn)
            parts.append((pairs.start[row : row + size], pairs.data[row : row + size]))
            size -= len(parts[-1][0])
            position += len(parts[-1][0])
        start, data = (torch.cat(rows) for rows in zip(*parts, strict=True))
        return Pairs(start.long(), data.long())

    def _turn(self, epoch: int, turn: int) -> Pairs:
        """Shuffled pairs of the file at position `turn` of an epoch."""
        if self._loaded != (epoch, turn):
            files = torch.randperm(self.shards, generator=generator_for(self.seed, f"epoch/{epoch}"))
            content = self._read(self._file(int(files[turn])))
            rows = torch.randperm(self.shard, generator=generator_for(self.seed, f"epoch/{epoch}/turn/{turn}"))
            self._loaded, self._pairs = (epoch, turn), Pairs(content["start"][rows], content["data"][rows])
        return self._pairs

    def _check_facts(self) -> None:
        """Record the facts of the pairs, or compare them with the recorded facts.

        Raises:
            UserError: they differ.
        """
        file = self.folder / _FACTS
        if not file.exists():
            _replace(file, lambda part: part.write_text(json.dumps(self.facts, indent=2) + "\n", encoding="utf-8"))
        theirs = read_json(file, "delete the folder to draw the pairs anew")
        if not isinstance(theirs, dict):
            raise OperationError(f"'{file}' is damaged; delete the folder to draw the pairs anew")
        for key in sorted(self.facts.keys() | theirs.keys()):
            if self.facts.get(key) != theirs.get(key):
                raise UserError(
                    f"objective.store: '{self.folder}' holds other pairs ({key}: {theirs.get(key)} there, "
                    f"{self.facts.get(key)} here); name another folder, or delete that one to draw them anew"
                )

    def _file(self, number: int) -> Path:
        return self.folder / f"pairs-{number:05d}-of-{self.shards:05d}.safetensors"

    def _read(self, file: Path) -> dict[str, Tensor]:
        """Tensors of a file, compared with its digest; a file of another store, or of another place, is refused."""
        remedy = "delete that file to draw its pairs anew"
        tensors, metadata = load_sealed(file, remedy)
        if metadata.get(_OF, self._of(file)) != self._of(file):  # files of earlier versions do not say
            raise OperationError(f"'{file}' holds other pairs, of '{metadata[_OF][:80]}'; {remedy}")
        return tensors

    def _of(self, file: Path) -> str:
        """What a file of pairs belongs to: its name, the seed, and a digest of the facts."""
        digest = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()
        return f"{file.name}, seed {self.seed}, {digest[:16]}"


def _write(file: Path, pairs: Pairs, of: str) -> None:
    tensors = {
        "start": pairs.start.cpu().int().contiguous(),
        "data": pairs.data.cpu().int().contiguous(),
        "evaluations": torch.tensor(pairs.evaluations),
    }
    _replace(file, lambda part: save_sealed(tensors, part, {_OF: of}))


def _replace(file: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file and move it to its final path."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    write(partial)
    publish(partial, file)
