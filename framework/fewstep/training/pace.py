"""Whether a training has become much slower than it began."""

from __future__ import annotations

_BEGINNING = 3
"""Lines of the log whose fastest rate is the rate of the beginning; the first is slow, since caches fill in it."""
_SHARE = 1 / 3
"""Share of that rate below which a training counts as slow."""
_SECONDS = 10.0
"""Time for which the rate must stay below; a checkpoint or samples take less."""


class Pace:
    """Compares the rate between two lines of the log with that of the first lines."""

    def __init__(self) -> None:
        self._lines = 0
        self._seconds = self._slow_seconds = self._slow_tokens = self._fastest = 0.0
        self._tokens = 0
        self._warned = False

    def slowdown(self, tokens: int, seconds: float) -> str | None:
        """One sentence when the training has been slow for some seconds, once; otherwise None.

        Args:
            tokens: number of tokens processed since the start.
            seconds: time since the start.
        """
        done, spent = tokens - self._tokens, max(seconds - self._seconds, 1e-9)
        self._tokens, self._seconds = tokens, seconds
        self._lines += 1
        if self._lines <= _BEGINNING:
            self._fastest = max(self._fastest, done / spent)
            return None
        if done / spent >= _SHARE * self._fastest:
            self._slow_seconds = self._slow_tokens = 0.0
            return None
        self._slow_seconds += spent
        self._slow_tokens += done
        if self._warned or self._slow_seconds < _SECONDS:
            return None
        self._warned = True
        return (
            f"{self._slow_tokens / self._slow_seconds / 1000:.2g}k tok/s for {self._slow_seconds:.0f} s, "
            f"{self._fastest / 1000:.2g}k at the beginning; another process may be using this machine"
        )
