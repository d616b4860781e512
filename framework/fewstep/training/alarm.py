"""Alarm of a collapse that samples do not show: a confident student on which auxiliary and teacher disagree for good.

A student that takes its noise input into use becomes confident at once, and the auxiliary lags behind it. Log-ratios
are high then, and fall within some hundred updates. With momentum they stay (benchmarks, `dmmd-ablations`): tokens
disagree as they should from sample to sample, and yet no sample is good.
"""

from __future__ import annotations

from collections.abc import Mapping

_NOT_FALLING = 0.95
"""Share of the log-ratio of the look before above which it does not fall."""


class ConfidenceAlarm:
    """Compares what a diagnosing step has logged with the look before.

    Args:
        entropy: share of the teacher's output entropy below which a student is confident.
        log_ratio: limit of the mean |log auxiliary - log teacher| in nats.
    """

    def __init__(self, entropy: float, log_ratio: float) -> None:
        self.entropy, self.log_ratio = entropy, log_ratio
        self.before: dict[str, float] = {}

    def look(self, values: Mapping[str, float]) -> str | None:
        """A clause on what looks like a collapse; None if nothing does.

        Args:
            values: means of a line of the log, by `owner/quantity/bin` (`objectives.matching.diagnostics`).
        """
        shares, teachers = {}, _of(values, "teacher_entropy")
        for name, entropy in _of(values, "student_entropy").items():
            if (teacher := teachers.get(name, 0.0)) > 0:
                shares[name] = (entropy / teacher, entropy, teacher)
        ratios, before = _of(values, "log_ratio"), self.before
        if ratios:
            self.before = ratios
        stuck = {
            name: ratio
            for name, ratio in ratios.items()
            if min(ratio, before.get(name, 0.0)) > self.log_ratio and ratio >= _NOT_FALLING * before[name]
        }
        if not stuck or not shares or min(shares.values())[0] >= self.entropy:
            return None
        times, (_, ours, theirs) = min(shares.items(), key=lambda item: item[1])
        where = max(stuck, key=lambda name: stuck[name])
        return (
            f"at t {times} the student's output entropy is {ours:.2f} nats where its teacher has {theirs:.2f}, and at "
            f"t {where} auxiliary and teacher differ by {stuck[where]:.2f} nats a symbol, no less than a look before"
        )


def _of(values: Mapping[str, float], quantity: str) -> dict[str, float]:
    """The values of a quantity by its bins of time."""
    parts = {tuple(name.split("/")): value for name, value in values.items()}
    return {name[2]: value for name, value in parts.items() if len(name) == 3 and name[1] == quantity}
