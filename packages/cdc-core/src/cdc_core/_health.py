"""Health and lag as values: named checks, and figures that are either measured or UNKNOWN."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from ._position import Partition


class Unknown(enum.Enum):
    """The type of `UNKNOWN`, an enum of one member so that type checkers narrow on `is`."""

    UNKNOWN = "unknown"

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        return False


UNKNOWN: Final = Unknown.UNKNOWN
"""A figure that could not be measured: never 0, never None."""


class CheckState(enum.StrEnum):
    """What a check found; `UNKNOWN` where it could not look."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One named finding, of the doctor (in a plan) or of health.

    - `name`: what was looked at, e.g. `wal_level`; `state`: what was found.
    - `why`: the finding in a sentence; `remedy`: what mends it, with the SQL where there is one.
    - `since`: when the state began, seconds since 1970; None where that is not known.
    """

    name: str
    state: CheckState
    why: str = ""
    remedy: str = ""
    since: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Return the check as plain data, for JSON."""
        return {
            "name": self.name,
            "state": self.state.value,
            "why": self.why,
            "remedy": self.remedy,
            "since": self.since,
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Checks at one moment; `sampled_at` in seconds since 1970."""

    checks: tuple[Check, ...]
    sampled_at: float

    @classmethod
    def of(cls, *checks: Check) -> Health:
        """Make a health of checks found just now."""
        return cls(checks=checks, sampled_at=time.time())

    @property
    def ready(self) -> bool:
        """Whether no check failed and at least one looked: progress is being made, or there is nothing to do."""
        return bool(self.checks) and all(check.state is not CheckState.FAIL for check in self.checks)

    def as_dict(self) -> dict[str, object]:
        """Return the health as plain data, for JSON."""
        return {
            "ready": self.ready,
            "sampled_at": self.sampled_at,
            "checks": [check.as_dict() for check in self.checks],
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLag:
    """How far a partition is behind its source, measured at the source; each figure a number or UNKNOWN.

    - `lag_events`: events written and not acknowledged; `lag_bytes`: the same in bytes of the source's log.
    - `lag_seconds`: the age of the oldest thing not acknowledged, 0.0 only when nothing is waiting.
    """

    partition: Partition
    lag_events: int | Unknown = UNKNOWN
    lag_bytes: int | Unknown = UNKNOWN
    lag_seconds: float | Unknown = UNKNOWN


def worst(checks: Sequence[Check]) -> CheckState:
    """Return the worst state among checks: FAIL, then WARN, then UNKNOWN, then OK; UNKNOWN of nothing."""
    order = (CheckState.FAIL, CheckState.WARN, CheckState.UNKNOWN, CheckState.OK)
    return next(
        (state for state in order if any(check.state is state for check in checks)), CheckState.UNKNOWN
    )
