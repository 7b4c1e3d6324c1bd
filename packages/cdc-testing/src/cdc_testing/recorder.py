"""What happened, in order, to be printed when a test fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, final


@final
class Recorder:
    """Keeps the last `keep` things that happened, with the time of a clock.

    >>> recorder = Recorder(lambda: 0.25)
    >>> recorder.record("handler called", events=2)
    >>> print(recorder.timeline())
       0.250 s  handler called  events=2
    """

    def __init__(self, clock: Callable[[], float], *, keep: int = 200) -> None:
        self._clock = clock
        self._entries: Final[deque[str]] = deque(maxlen=keep)
        self.recorded: int = 0

    def record(self, what: str, **fields: object) -> None:
        """Note that something happened."""
        self.recorded += 1
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        self._entries.append(f"{self._clock():8.3f} s  {what}{'  ' + told if told else ''}")

    def timeline(self) -> str:
        """Return what happened, one line each."""
        skipped = self.recorded - len(self._entries)
        lines = [f"... {skipped} earlier", *self._entries] if skipped else list(self._entries)
        return "\n".join(lines) or "nothing happened"
