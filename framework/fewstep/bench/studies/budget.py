"""The largest network and the longest trainings that fit into a number of minutes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fewstep.bench.studies.files import Design
from fewstep.bench.studies.measure import Speed
from fewstep.bench.studies.sizes import BATCH, Size

ENOUGH = 2000
"""Steps of a teacher with which networks of these sizes draw samples that are worth a comparison."""
_MOST = 10_000
_MOST_EPOCHS = 250
"""Passes over the data after which networks of these sizes recite them."""
_FEWEST = 20
_RESERVE = 0.9
"""Share of the time that is planned; the remainder is for a machine that is slower later."""
_SAMPLING = 0.2
"""Share of the time in which samples are drawn and scored."""
_SAMPLES = (1000, 600, 400, 200, 100)
_NFE = 4 + 8 + 16 + 32 + 2 + 4 + 8
"""Network evaluations for a sample of each row of a seed."""
_ROWS = 7
_SEEDS = 2
_START = {"text": 15.0, "pictures": 40.0}
"""Seconds that a suite takes besides: reading, plots, and for pictures the training of the metric's features."""
_PASSES = 6.0
"""Forward passes over a sample with which the reference scores it and a real one."""
_STEP_PASSES = 3.0
"""Forward passes that a training step of one network costs."""


@dataclass(frozen=True)
class Budget:
    """How long trainings and samples of a design take.

    Args:
        steps: of the teacher.
        samples: of each row.
        seconds: by training, and "samples" and "all".
        needed: minutes that would train the teacher for `ENOUGH` steps.
    """

    steps: int
    samples: int
    seconds: dict[str, float]
    needed: float


def budget(design: Design, speed: Speed, minutes: float) -> Budget:
    """Steps and samples of a design within a number of minutes."""
    time = 60 * minutes * _RESERVE
    start, shares = _START[design.data.kind], design.shares
    a_step = sum(share * speed.steps[name] for name, share in shares.items())
    for samples in _SAMPLES:
        drawing = _drawing(speed, samples)
        if drawing <= _SAMPLING * time:
            break
    affordable = (time - start - drawing) / a_step
    most = min(_MOST, max(ENOUGH, _MOST_EPOCHS * design.data.samples // BATCH))
    steps = int(max(_FEWEST, min(most, affordable)))
    seconds = {name: share * steps * speed.steps[name] for name, share in shares.items()} | {"samples": drawing + start}
    needed = (ENOUGH * a_step + start + drawing) / _RESERVE / 60
    return Budget(steps, samples, {**seconds, "all": sum(seconds.values())}, needed)


def _drawing(speed: Speed, samples: int) -> float:
    """Seconds of drawing and scoring all rows of the suite."""
    drawing = _SEEDS * samples * _NFE * speed.evaluation
    if "reference" not in speed.steps:
        return drawing
    a_pass = speed.steps["reference"] / BATCH / _STEP_PASSES
    return drawing + _SEEDS * samples * a_pass * (_ROWS * _PASSES + speed.length)


def choose(
    design: Design, sizes: list[Size], minutes: float, measure: Callable[[Design], Speed]
) -> tuple[Design, Speed, Budget]:
    """The largest size with which the teacher gets enough steps, else the smallest; and what it takes.

    Args:
        sizes: the cheapest first.
        measure: measures a design on this machine.
    """
    pictures, best = design.data.kind == "pictures", None
    for size in sizes:
        if best is not None:
            growth = size.cost(pictures) / best[0].size.cost(pictures)
            if growth * best[2].needed > 1.5 * minutes:
                break  # too large by far, so that measuring it would only take time
        candidate = replace(design, size=size)
        speed = measure(candidate)
        result = budget(candidate, speed, minutes)
        if best is not None and result.needed > minutes:
            break
        best = (replace(candidate, steps=result.steps, samples=result.samples), speed, result)
        if result.needed > minutes:
            break
    assert best is not None
    return best
