"""Chorales: windows, symbols, transposition, text and drawings; and files that are wrong, told in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from local_data import real_data, write_chorales

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.music.chorales import Chorales, note_name
from fewstep.sampling.sheets import save_sheet
from fewstep.testing.datasets import check_dataset

SCALE = [[72 + i, 65, 60, 48 + i] for i in range(5)]
"""Five slots: soprano and bass rise by semitones."""


def build(folder: Path, *, parts: dict[str, Any] | None = None, **settings: object) -> Chorales:
    path = write_chorales(folder / "c.json", **(parts or {"train": [SCALE], "valid": [SCALE[:2]]}))
    return DATASETS.build({"type": "chorales", "path": str(path), "slots": 2, "stride": 1, **settings})


def pitches(data: Chorales) -> list[list[int]]:
    return data.pitches[data.train].tolist()


def test_windows_interleave_the_voices_slot_by_slot(tmp_path: Path) -> None:
    data = build(tmp_path)
    assert pitches(data) == [SCALE[i] + SCALE[i + 1] for i in range(4)]
    assert data.pitches.tolist() == [48, 49, 50, 51, 52, 60, 65, 72, 73, 74, 75, 76]
    assert data.spec.vocab_size == 12
    assert data.spec.length == 8
    assert data.held_out is not None
    assert data.pitches[data.held_out].tolist() == [SCALE[0] + SCALE[1]]


def test_pitches_that_do_not_occur_have_no_symbol(tmp_path: Path) -> None:
    data = build(tmp_path)
    for pitch, name in ((47, "B2"), (61, "C#4"), (90, "F#6")):
        with pytest.raises(UserError, match=rf"pitch {pitch} \({name}\) does not occur in the chorales"):
            data.encode(torch.tensor([48, pitch]))


def test_stride_and_pieces_that_are_too_short(tmp_path: Path) -> None:
    data = build(tmp_path, parts={"train": [SCALE, SCALE[:1]], "valid": [SCALE]}, stride=2)
    assert pitches(data) == [SCALE[0] + SCALE[1], SCALE[2] + SCALE[3]]


def test_transposition_moves_notes_and_not_rests(tmp_path: Path) -> None:
    slots = [[72, 65, 60, -1], [72, 65, 60, 48]]
    data = build(tmp_path, parts={"train": [slots], "valid": [slots]}, transpose=1)
    assert pitches(data) == [
        [71, 64, 59, -1, 71, 64, 59, 47],
        [72, 65, 60, -1, 72, 65, 60, 48],
        [73, 66, 61, -1, 73, 66, 61, 49],
    ]
    assert data.held_out is not None
    assert len(data.held_out) == 1


@pytest.mark.parametrize("rest", [-1, float("nan"), None])
def test_rests_are_a_symbol(rest: object, tmp_path: Path) -> None:
    data = build(tmp_path, parts={"train": [[[72, 65, 60, rest], SCALE[0]]]})
    assert int(data.pitches[0]) == -1
    assert data.train[0, 3] == 0


def test_text_names_the_notes(tmp_path: Path) -> None:
    data = build(tmp_path, parts={"train": [[[72, 66, 60, -1], [71, 65, 60, 47]]]})
    assert data.to_text(data.train) == ["C5  B4\nF#4 F4\nC4  C4\n-   B2"]
    assert [note_name(pitch) for pitch in (21, 60, 69, 108)] == ["A0", "C4", "A4", "C8"]


def test_drawings_show_each_voice_where_it_sounds(tmp_path: Path) -> None:
    slots = [[50, 49, 48, -1], [50, 50, 48, 48]]
    data = build(tmp_path, parts={"train": [slots], "valid": [slots]})
    drawing = data.piano_rolls(data.train)[0, :, :, ::2]  # a slot is two pixels wide
    inked = (drawing < 1).any(0)  # rows: 51 (margin), 50, 49, 48, 47 (margin)
    assert inked.int().tolist() == [[0, 0], [1, 1], [1, 0], [1, 1], [0, 0]]
    colours = {tuple(drawing[:, row, 0].tolist()) for row in (1, 2, 3)}
    assert len(colours) == 3


def test_samples_are_written_as_text_and_picture(tmp_path: Path) -> None:
    data = build(tmp_path)
    file = save_sheet(tmp_path / "samples", data, data.train)
    assert file == tmp_path / "samples.txt"
    assert (tmp_path / "samples.png").is_file()


def test_conforms_with_transposition(tmp_path: Path) -> None:
    path = write_chorales(tmp_path / "c.json")
    check_dataset({"type": "chorales", "path": str(path), "transpose": 2})


SLOTS = "a piece is a list of slots, and a slot a list of four MIDI pitches"
WRONG: dict[str, tuple[str, str]] = {
    "not JSON": ('{"train": [', r"is not JSON \(line 1: "),
    "empty": ("", "is empty"),
    "a list": ("[1]", "has no pieces under 'train'; it should have 'train' and 'valid'"),
    "no held-out part": ('{"train": [[[72, 65, 60, 48]]]}', "has no pieces under 'valid'"),
    "no pieces": ('{"train": []}', "has no pieces under 'train'"),
    "three voices": ('{"train": [[[72, 65, 60]]]}', rf"train\[0\]: {SLOTS}"),
    "a slot that lacks a voice": ('{"train": [[[72, 65, 60, 48], [72, 65, 60]]]}', rf"train\[0\]: {SLOTS}"),
    "an empty piece": ('{"train": [[]]}', rf"train\[0\]: {SLOTS}"),
    "words": ('{"train": [[["a", "b", "c", "d"]]]}', rf"train\[0\]: {SLOTS}"),
    "keys in the place of slots": ('{"train": [{"a": 1}]}', rf"train\[0\]: {SLOTS}"),
    "half a pitch": ('{"train": [[[72, 65.5, 60, 48]]]}', r"65\.5 is no MIDI pitch of a piano \(21 to 108; -1 is a"),
    "a pitch nobody plays": ('{"train": [[[200, 65, 60, 48]]]}', "200 is no MIDI pitch of a piano"),
}


@pytest.mark.parametrize("content", WRONG)
def test_a_wrong_file_is_one_sentence(content: str, tmp_path: Path) -> None:
    text, told = WRONG[content]
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        DATASETS.build({"type": "chorales", "path": str(tmp_path / "c.json")})
    assert "\n" not in str(caught.value)
    assert "data.path: " in str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path: no file '.*none'; set it to Jsb16thSeparated\.json of github"):
        DATASETS.build({"type": "chorales", "path": str(tmp_path / "none")})


def test_windows_longer_than_all_pieces(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.slots: no piece of 'train' has 9 slots; the longest has 5"):
        build(tmp_path, slots=9)


def test_real_chorales() -> None:
    data = DATASETS.build({"type": "chorales", "path": str(real_data("jsb_chorales/Jsb16thSeparated.json"))})
    assert data.train.shape == (13_120, 64)
    assert data.held_out is not None
    assert data.held_out.shape == (4374, 64)
    assert data.pitches.tolist() == [-1, *range(36, 82)]
    soprano, bass = (data.pitches[data.train[:, voice::4]].double().mean() for voice in (0, 3))
    assert soprano > bass + 12
    assert torch.equal(data.encode(data.pitches[data.train[:9]]), data.train[:9])
