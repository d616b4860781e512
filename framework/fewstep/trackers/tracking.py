"""Several trackers as one, of which those that fail are left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from fewstep.core.component import ComponentConfig
from fewstep.core.echo import safe_message
from fewstep.trackers.base import TRACKERS, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch import Tensor


class Tracking:
    """The trackers of a run. One that fails is said once, with `warn`, and left out from then on.

    Args:
        goes_on: end of that sentence.
    """

    def __init__(
        self,
        trackers: Sequence[ComponentConfig],
        run: TrackedRun,
        warn: Callable[[str], None],
        goes_on: str = "training goes on",
    ) -> None:
        self._warn, self._goes_on = warn, goes_on
        self._trackers: list[Tracker] = []
        for config in trackers:
            self._try(config.type, lambda config=config: self._trackers.append(TRACKERS.build(config)))  # type: ignore[misc]
        self._each(lambda tracker: tracker.begin(run))

    def numbers(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.numbers(values, step))

    def text(self, name: str, text: str, step: int) -> None:
        self._each(lambda tracker: tracker.text(name, text, step))

    def picture(self, name: str, image: Tensor, step: int) -> None:
        self._each(lambda tracker: tracker.picture(name, image, step))

    def end(self, state: str) -> None:
        self._each(lambda tracker: tracker.end(state))
        self._trackers.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            if not self._try(tracker.config.type, lambda tracker=tracker: call(tracker)):  # type: ignore[misc]
                self._trackers.remove(tracker)

    def _try(self, name: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # of any library
            self._warn(f"tracker '{name}' is left out: {_reason(error)}; {self._goes_on}")
            return False
        return True


def _reason(error: Exception) -> str:
    """The first line of an error."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip()
    line = next(iter(text.splitlines()), "").strip().rstrip(".")
    return safe_message(line or type(error).__name__, lines=False)
