"""MIDI files: what a reader of its own finds in them is what was written; a library agrees where it is installed."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from local_data import write_chorales

from fewstep.data.base import DATASETS
from fewstep.data.music.midi import midi_file
from fewstep.sampling.folder import TENSORS, Batch, JobFolder
from fewstep.sampling.output import write_samples
from fewstep.sampling.request import Part

Notes = list[tuple[int, int, int]]
"""(pitch, first tick, last tick)."""


def number(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length quantity, and where it ends."""
    value = 0
    while True:
        value = value << 7 | content[at] & 0x7F
        at += 1
        if not content[at - 1] & 0x80:
            return value, at


def track_events(track: bytes) -> list[tuple[int, int, bytes]]:
    """(tick, status, data) of every event; meta events have status 0xFF and their kind as first byte."""
    events, at, tick = [], 0, 0
    while at < len(track):
        wait, at = number(track, at)
        tick += wait
        status = track[at]
        if status == 0xFF:
            size, begin = number(track, at + 2)
            data, at = track[at + 1 : at + 2] + track[begin : begin + size], begin + size
        else:
            size = 1 if status & 0xF0 == 0xC0 else 2
            data, at = track[at + 1 : at + 1 + size], at + 1 + size
        events.append((tick, status, data))
    return events


def read(content: bytes) -> tuple[int, list[list[tuple[int, int, bytes]]]]:
    """Ticks a quarter, and the events of every track."""
    kind, size, form, count, ticks = struct.unpack(">4sIHHH", content[:14])
    assert (kind, size, form) == (b"MThd", 6, 1)
    tracks, at = [], 14
    for _ in range(count):
        kind, size = struct.unpack(">4sI", content[at : at + 8])
        assert kind == b"MTrk"
        tracks.append(track_events(content[at + 8 : at + 8 + size]))
        at += 8 + size
    assert at == len(content)
    assert all(track[-1][1:] == (0xFF, b"\x2f") for track in tracks)
    return ticks, tracks


def notes(events: list[tuple[int, int, bytes]]) -> Notes:
    """Notes of a voice, none of which overlap."""
    pairs = [event for event in events if event[1] & 0xF0 in (0x80, 0x90)]
    found = []
    for (begin, on, key), (end, off, same) in zip(pairs[::2], pairs[1::2], strict=True):
        assert (on & 0xF0, off & 0xF0, key[0]) == (0x90, 0x80, same[0])
        found.append((key[0], begin, end))
    return found


def slots_of(found: Notes, slots: int, ticks: int) -> list[int]:
    """Notes back on the grid."""
    grid = [-1] * slots
    for pitch, begin, end in found:
        for slot in range(begin // ticks, end // ticks):
            grid[slot] = pitch
    return grid


VOICES = [[-1, -1, 72, 72, 74, -1, 74, 74], [60] * 8, [-1] * 8, [48, 50, 48, 50, 48, 50, 48, -1]]
NAMES = ["Soprano", "Alto", "Tenor", "Bass"]


def test_what_is_written_is_read_back() -> None:
    ticks, (tempo, *tracks) = read(midi_file(VOICES, names=NAMES, quarters_a_minute=60))
    assert tempo[0] == (0, 0xFF, b"\x51" + (1_000_000).to_bytes(3, "big"))
    assert notes(tracks[0]) == [(72, ticks // 2, ticks), (74, ticks, ticks * 5 // 4), (74, ticks * 3 // 2, ticks * 2)]
    for channel, (voice, name, events) in enumerate(zip(VOICES, NAMES, tracks, strict=True)):
        assert slots_of(notes(events), 8, ticks // 4) == voice
        assert events[0][2] == b"\x03" + name.encode()
        assert {status & 0x0F for _, status, _ in events if status != 0xFF} == {channel}
        assert events[-1][0] == 2 * ticks  # rests at the end count


@pytest.mark.parametrize("slots", [1, 2, 200, 20_000])
def test_times_of_any_length(slots: int) -> None:
    """120, 240, 24,000 and 2,400,000 ticks: one to four bytes."""
    ticks, tracks = read(midi_file([[-1] * slots + [60] * slots], names=["A"]))
    assert notes(tracks[1]) == [(60, slots * ticks // 4, 2 * slots * ticks // 4)]


def test_mido_reads_the_same() -> None:
    mido = pytest.importorskip("mido", reason="mido is not installed; it only compares")
    file = mido.MidiFile(file=io.BytesIO(midi_file(VOICES, names=NAMES, quarters_a_minute=60)))
    assert (file.type, len(file.tracks)) == (1, 5)
    assert file.length == pytest.approx(2.0)
    for voice, track in zip(VOICES, file.tracks[1:], strict=True):
        tick, grid, begun = 0, [-1] * 8, 0
        for message in track:
            tick += message.time
            if message.type == "note_on":
                begun = tick
            elif message.type == "note_off":
                grid[begun // 120 : tick // 120] = [message.note] * ((tick - begun) // 120)
        assert grid == voice


def test_samples_of_chorales_are_written_as_files(tmp_path: Path) -> None:
    data = DATASETS.build({"type": "chorales", "path": str(write_chorales(tmp_path / "c.json"))})
    samples = data.train.repeat(9, 1)[:103]
    folder = tmp_path / "out"
    folder.mkdir()
    write_samples(folder, samples, None, data)
    files = sorted((folder / "midi").iterdir())
    assert [files[0].name, files[-1].name, len(files)] == ["000.mid", "099.mid", 100]
    for index in (0, 57):
        ticks, (_, *tracks) = read(files[index].read_bytes())
        grid = torch.tensor([slots_of(notes(events), 16, ticks // 4) for events in tracks])
        assert torch.equal(grid.T.flatten(), data.pitches[samples[index]])


def test_a_finished_job_knows_its_files_in_folders_and_the_next_one_replaces_them(tmp_path: Path) -> None:
    for count in (3, 2):
        job = JobFolder(tmp_path / "job", {"samples": count}, count)
        assert job.begin(Part(1, 1), resume=False, batch_size=lambda count=count: count) == count
        job.store(Batch(range(count), torch.zeros(count, 4, dtype=torch.long), 1.0, 0.1), "{}\n" * count)

        def write(folder: Path, batch: Batch) -> dict[str, Any]:
            (folder / TENSORS).write_bytes(b"tensors")
            (folder / "midi").mkdir()
            for number in batch.numbers:
                (folder / "midi" / f"{number:03d}.mid").write_bytes(b"music")
            return {}

        assert job.join(write)
        names = sorted(file.name for file in (tmp_path / "job" / "midi").iterdir())
        assert names == [f"{number:03d}.mid" for number in range(count)]
        assert job.begin(Part(1, 1), resume=False, batch_size=lambda: 1) is None  # all is there
    (tmp_path / "job" / "midi" / "000.mid").unlink()
    assert job.begin(Part(1, 1), resume=False, batch_size=lambda: 1) == 1  # drawn again
