"""Four-part chorales on a grid of sixteenths.

Shapes: N samples, L = slots x voices tokens, V symbols, T slots of a piece, H, W height and width of a drawing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, Codec, Dataset, DataSpec, Files, Pictures, View
from fewstep.data.music.midi import REST, midi_file
from fewstep.runtime.hashing import LocalPath, read_utf8

_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_VOICES = ("Soprano", "Alto", "Tenor", "Bass")
_PIANO = (21, 108)
"""Lowest and highest key; no transposition from there reaches the mark of a rest."""
_INK = ((0.84, 0.15, 0.16), (1.00, 0.50, 0.05), (0.17, 0.63, 0.17), (0.12, 0.47, 0.71))


@DATASETS.register("chorales")
class Chorales(Dataset):
    """Bach's four-part chorales: pitches of soprano, alto, tenor and bass, slot by slot, one slot per sixteenth.

    Voices must agree at every slot, so independently drawn tokens sound wrong, and metrics count the wrong chords.
    Reads the JSON file of github.com/czhuang/JSB-Chorales-dataset: `train` is the training part, `valid` is held out,
    `test` is not read. Windows stay within a piece. A held note is the same pitch in several slots; the file has no
    mark for a repeated note.
    """

    kind = "tokens"
    voices: ClassVar[int] = 4

    class Config(ComponentConfig):
        type: Literal["chorales"] = "chorales"
        path: LocalPath = Field(description="the file Jsb16thSeparated.json")
        slots: int = Field(16, ge=2, description="sixteenths per sample; four tokens each")
        stride: int = Field(4, ge=1, description="sixteenths from one window to the next; 4 starts all on a beat")
        transpose: int = Field(
            0, ge=0, le=12, description="train on copies moved by up to this many semitones, up and down"
        )

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        c = self.config
        pieces = _load(Path(c.path))
        shifts = range(-c.transpose, c.transpose + 1)
        train = torch.cat([_transposed(self._windows(pieces["train"], "train"), shift) for shift in shifts])
        held_out = self._windows(pieces["valid"], "valid")
        self.pitches = torch.unique(torch.cat([train.flatten(), held_out.flatten()]))
        """MIDI pitch of every symbol, ascending; -1 is a rest. LongTensor [V]."""
        self.train, self.held_out = self.encode(train), self.encode(held_out)
        self.spec = DataSpec(vocab_size=len(self.pitches), length=c.slots * self.voices)

    def codec(self) -> Codec:
        return Codec({"pitches": self.pitches.tolist()})

    def restore(self, codec: Codec) -> None:
        self.pitches = torch.tensor(codec.values["pitches"])

    def encode(self, pitches: Tensor) -> Tensor:
        """Symbols of MIDI pitches (any shape); `self.pitches[symbols]` is the inverse.

        Raises:
            UserError: a pitch does not occur in the data.
        """
        symbols = torch.searchsorted(self.pitches, pitches.contiguous()).clamp_max(len(self.pitches) - 1)
        unknown = pitches[self.pitches[symbols] != pitches]
        if len(unknown):
            raise UserError(f"pitch {int(unknown[0])} ({note_name(int(unknown[0]))}) does not occur in the chorales")
        return symbols

    def to_text(self, samples: Tensor) -> list[str]:
        """Four lines per sample, soprano on top, one column per slot."""
        chords = self.pitches[samples.cpu()].view(len(samples), -1, self.voices)
        return ["\n".join(_line(voice) for voice in sample.T.tolist()) for sample in chords]

    def symbols(self) -> list[str]:
        return [note_name(pitch) for pitch in self.pitches.tolist()]

    def views(self) -> Mapping[str, View]:
        return {"piano_rolls": Pictures(self.piano_rolls), "midi": Files(".mid", self.midi_files)}

    def piano_rolls(self, samples: Tensor) -> Tensor:
        """Piano rolls on white, high notes on top, a colour per voice: float [N, 3, H, W], two pixels per slot."""
        low, high = int(self.pitches[self.pitches != REST].min()), int(self.pitches.max())
        chords = self.pitches[samples.cpu()].view(len(samples), -1, self.voices)
        rolls = torch.ones(len(samples), chords.shape[1], high - low + 3, 3)
        for voice in range(self.voices):
            pitch = chords[..., voice]
            sample, slot = (pitch != REST).nonzero(as_tuple=True)
            rolls[sample, slot, high + 1 - pitch[sample, slot]] = torch.tensor(_INK[voice])
        return rolls.permute(0, 3, 2, 1).repeat_interleave(2, dim=3)

    def midi_files(self, samples: Tensor) -> list[bytes]:
        """A MIDI file per sample, a track per voice; equal pitches in successive slots are one note, as in the data."""
        chords = self.pitches[samples.cpu()].view(len(samples), -1, self.voices)
        return [midi_file(sample.T.tolist(), names=_VOICES) for sample in chords]

    def _windows(self, pieces: list[Tensor], part: str) -> Tensor:
        """Windows of pitches, LongTensor [N, L]; pieces shorter than a window are left out."""
        slots, stride = self.config.slots, self.config.stride
        long = [piece for piece in pieces if len(piece) >= slots]
        if not long:
            longest = max((len(piece) for piece in pieces), default=0)
            raise UserError(f"data.slots: no piece of '{part}' has {slots} slots; the longest has {longest}")
        return torch.cat([piece.unfold(0, slots, stride).transpose(1, 2).flatten(1) for piece in long])


def _transposed(pitches: Tensor, semitones: int) -> Tensor:
    return torch.where(pitches == REST, pitches, pitches + semitones)


def _line(voice: list[int]) -> str:
    return " ".join(f"{note_name(pitch):3s}" for pitch in voice).rstrip()


def note_name(pitch: int) -> str:
    """Name of a MIDI pitch: 60 is C4; a rest is `-`."""
    return "-" if pitch == REST else f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


def _load(path: Path) -> dict[str, list[Tensor]]:
    """Pieces of `train` and `valid`, LongTensor [T, 4] each, rests as -1.

    Raises:
        UserError: the file does not exist, is not JSON, or has another form.
    """
    if not path.is_file():
        raise UserError(
            f"data.path: no file '{path}'; set it to Jsb16thSeparated.json of github.com/czhuang/JSB-Chorales-dataset"
        )
    try:
        content = json.loads(read_utf8(path))
    except json.JSONDecodeError as error:
        raise UserError(f"data.path: '{path}' is not JSON (line {error.lineno}: {error.msg})") from None
    parts = {}
    for part in ("train", "valid"):
        pieces = content.get(part) if isinstance(content, dict) else None
        if not isinstance(pieces, list) or not pieces:
            raise UserError(f"data.path: '{path}' has no pieces under '{part}'; it should have 'train' and 'valid'")
        parts[part] = [_piece(piece, f"'{path}', {part}[{index}]") for index, piece in enumerate(pieces)]
    return parts


def _piece(piece: object, place: str) -> Tensor:
    """One piece, LongTensor [T, 4].

    Raises:
        UserError: the piece is not a list of slots of four pitches.
    """
    try:
        pitches = np.array(piece, dtype=np.float64)
    except (TypeError, ValueError):
        pitches = np.empty(0)
    if pitches.ndim != 2 or pitches.shape[1] != Chorales.voices:
        raise UserError(f"data.path: {place}: a piece is a list of slots, and a slot a list of four MIDI pitches")
    pitches = np.where(np.isnan(pitches), REST, pitches)
    invalid = (pitches != REST) & ((pitches != np.round(pitches)) | (pitches < _PIANO[0]) | (pitches > _PIANO[1]))
    if invalid.any():
        raise UserError(
            f"data.path: {place}: {pitches[invalid][0]:g} is no MIDI pitch of a piano "
            f"({_PIANO[0]} to {_PIANO[1]}; {REST} is a rest)"
        )
    return torch.from_numpy(pitches.astype(np.int64))
