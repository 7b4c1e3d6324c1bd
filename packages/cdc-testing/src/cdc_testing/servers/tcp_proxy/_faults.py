from dataclasses import dataclass
from typing import Literal, final

import anyio

Direction = Literal["to_target", "to_client"]
"""Which way bytes flow: from the client to the target, or back."""
DIRECTIONS: tuple[Direction, Direction] = ("to_target", "to_client")

_CHUNK_BYTES = 16 * 1024
# A throttled direction moves this often, so that a slow rate is a trickle and not rare bursts.
_MOVES_PER_SECOND = 20


@final
class Gate:
    """Lets tasks pass, or holds them until it is opened."""

    def __init__(self) -> None:
        self._opened = anyio.Event()
        self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        if self._opened.is_set():
            self._opened = anyio.Event()

    async def passed(self) -> None:
        # Again after each wait: it may have been closed before the woken task ran.
        while not self._opened.is_set():
            await self._opened.wait()


@dataclass(slots=True)
class _Corruption:
    after_bytes: int
    mask: int


@final
class Faults:
    """What a proxy does at the moment to the bytes that pass, for each direction."""

    def __init__(self) -> None:
        self.gates: dict[Direction, Gate] = {direction: Gate() for direction in DIRECTIONS}
        self.delays: dict[Direction, float] = dict.fromkeys(DIRECTIONS, 0.0)
        self.rates: dict[Direction, int | None] = dict.fromkeys(DIRECTIONS)
        self.delivered: dict[Direction, int] = dict.fromkeys(DIRECTIONS, 0)
        self.corrupted = 0
        self._corruptions: dict[Direction, list[_Corruption]] = {direction: [] for direction in DIRECTIONS}

    def corrupt(self, direction: Direction, after_bytes: int, mask: int) -> None:
        self._corruptions[direction].append(_Corruption(after_bytes, mask))

    def apply(self, direction: Direction, data: bytes) -> bytes:
        """The bytes as they leave the proxy."""
        pending = self._corruptions[direction]
        if not pending:
            return data
        changed = bytearray(data)
        for corruption in tuple(pending):
            if corruption.after_bytes < len(changed):
                changed[corruption.after_bytes] ^= corruption.mask
                self.corrupted += 1
                pending.remove(corruption)
            else:
                corruption.after_bytes -= len(changed)
        return bytes(changed)

    def move_bytes(self, direction: Direction) -> int:
        """How many bytes to hand on at a time."""
        rate = self.rates[direction]
        return _CHUNK_BYTES if rate is None else max(1, min(_CHUNK_BYTES, rate // _MOVES_PER_SECOND))
