"""Standard MIDI files (format 1, RP-001 of the MIDI Manufacturers Association) of music on a grid.

No package writes them: the format takes a page of code, and the files of a sampling job must not depend on optional
packages.

Shapes: T slots, voices.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import groupby

REST = -1
_TICKS = 480
"""Ticks per quarter note."""
_PROGRAM = 52
"""Choir Aahs of General MIDI."""
_VELOCITY = 80
_NOTE_ON, _NOTE_OFF, _PROGRAM_CHANGE = 0x90, 0x80, 0xC0
_END = b"\x00\xff\x2f\x00"


def midi_file(
    voices: Sequence[Sequence[int]], *, names: Sequence[str], slots_a_quarter: int = 4, quarters_a_minute: int = 72
) -> bytes:
    """The bytes of a .mid file: a track for the tempo, then one per voice, each on its own channel.

    Equal pitches in successive slots are one held note.

    Args:
        voices: MIDI pitches by voice and slot, -1 for a rest.
        names: names of the voices.
        slots_a_quarter: slots per quarter note.
        quarters_a_minute: tempo in quarter notes per minute.
    """
    tempo = struct.pack(">I", 60_000_000 // quarters_a_minute)[1:]  # microseconds per quarter
    tracks = [b"\x00\xff\x51\x03" + tempo + _END]
    for channel, (pitches, name) in enumerate(zip(voices, names, strict=True)):
        tracks.append(_voice(pitches, name.encode("ascii"), channel, _TICKS // slots_a_quarter))
    header = struct.pack(">4sIHHH", b"MThd", 6, 1, len(tracks), _TICKS)
    return header + b"".join(struct.pack(">4sI", b"MTrk", len(track)) + track for track in tracks)


def _voice(pitches: Sequence[int], name: bytes, channel: int, ticks: int) -> bytes:
    """Events of one voice whose slots last `ticks` each; an event begins with the time since the previous one."""
    events = [b"\x00\xff\x03", _variable(len(name)), name, bytes((0, _PROGRAM_CHANGE | channel, _PROGRAM))]
    pause = 0
    for pitch, slots in groupby(pitches):
        length = len(list(slots)) * ticks
        if pitch == REST:
            pause += length
            continue
        events.append(_variable(pause) + bytes((_NOTE_ON | channel, pitch, _VELOCITY)))
        events.append(_variable(length) + bytes((_NOTE_OFF | channel, pitch, 0)))
        pause = 0
    return b"".join(events) + _variable(pause) + _END[1:]


def _variable(number: int) -> bytes:
    """A variable-length quantity: seven bits per byte, high bits first, the top bit set on all but the last byte."""
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F | 0x80)
    return bytes(reversed(groups))
