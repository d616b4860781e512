"""A training that has become much slower says so once."""

from __future__ import annotations

from fewstep.training.pace import Pace


def sentences(rates: list[float], seconds: float) -> list[str | None]:
    """What a pace says of lines, `seconds` apart, with these rates in tokens per second."""
    pace, tokens, lines = Pace(), 0, []
    for number, rate in enumerate(rates, start=1):
        tokens += round(rate * seconds)
        lines.append(pace.slowdown(tokens, number * seconds))
    return lines


def test_a_slow_training_says_so_once() -> None:
    said = sentences([3000, 7500, 7000, 6000, 400, 400, 400, 7500, 400, 400, 400], seconds=6)
    assert [i for i, line in enumerate(said) if line] == [5]
    assert said[5] == "0.4k tok/s for 12 s, 7.5k at the beginning; another process may be using this machine"


def test_noise_and_one_slow_line_are_not_named() -> None:
    assert not any(sentences([7500, 7500, 7500, 3000, 2600, 2600], seconds=60))
    assert not any(sentences([7500, 7500, 7500, 100, 7500, 100, 7500], seconds=9))  # a checkpoint, samples


def test_a_slow_start_is_no_slowdown() -> None:
    assert not any(sentences([100, 7500, 7500, 7500], seconds=60))
    assert not any(sentences([400, 400, 400, 400], seconds=60))
