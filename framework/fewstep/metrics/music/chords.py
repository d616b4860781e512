"""Chords and chord changes, which the metrics of music share.

Shapes: N samples, L tokens, T slots, V symbols; a pitch-class set is a number below 4096, bit p for pitch class p.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.data.base import Dataset

_CLASSES = 12


def needs_music(dataset_type: type[Dataset]) -> str | None:
    """Reason why metrics of chords cannot score a dataset, or None.

    Music has `voices`, the number of tokens in a slot, and `pitches`, the MIDI pitch of every symbol (-1: a rest).
    """
    return None if hasattr(dataset_type, "voices") else "it needs music in several voices (chorales)"


def slots(samples: Tensor, dataset: Dataset) -> Tensor:
    """Samples slot by slot: [N, L] -> [N, T, voices]."""
    return samples.cpu().view(len(samples), -1, dataset.voices)  # type: ignore[attr-defined]


def pitch_class_sets(samples: Tensor, dataset: Dataset) -> Tensor:
    """The set of pitch classes that sound in each slot, in any voice and octave: LongTensor [N, T]."""
    pitches: Tensor = dataset.pitches  # type: ignore[attr-defined]
    bits = torch.where(pitches < 0, 0, 1 << (pitches.clamp_min(0) % _CLASSES))
    sounding = bits[slots(samples, dataset)]
    sets = torch.zeros_like(sounding[..., 0])
    for voice in sounding.unbind(-1):
        sets |= voice
    return sets


def chord_changes(samples: Tensor, dataset: Dataset) -> Tensor:
    """All changes of the pitch-class set from one slot to the next, up to transposition.

    Returns:
        One number for each change, LongTensor [changes]. Two changes have the same number if and only if one
        transposition maps both sets of one change to those of the other.
    """
    sets = pitch_class_sets(samples, dataset)
    before, after = sets[:, :-1], sets[:, 1:]
    changed = before != after
    pairs = [_transpose(before[changed], by) << _CLASSES | _transpose(after[changed], by) for by in range(_CLASSES)]
    # The smallest number among the twelve transpositions names their class.
    return torch.stack(pairs).amin(0)


def _transpose(sets: Tensor, semitones: int) -> Tensor:
    """Pitch-class sets transposed by 0 to 11 semitones; bits beyond the octave wrap around."""
    wide = sets << semitones
    return (wide | wide >> _CLASSES) & ((1 << _CLASSES) - 1)
