"""What a test may do to a server beside the service's protocol, wherever the server runs."""

import http.client
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar, final
from urllib.parse import urlsplit

import msgspec

from .._errors import ServerError
from ._calls import Call, LoggedCall
from ._faults import FaultState, Rule
from ._front import Front, HttpAnswer
from ._limits import Rates
from ._refusal import Refusal
from ._shard import Record

CONTROL_PATH: Final = "/_cdc/control"
_TIMEOUT_SECONDS: Final = 30.0
_Result = TypeVar("_Result")


class Control(Protocol):
    """The commands; `LocalControl` carries them out, `RemoteControl` sends them to another process."""

    def add_fault(self, rule: Rule, when: Callable[[Call], bool] | None = None) -> int: ...
    def remove_fault(self, number: int) -> None: ...
    def clear_faults(self) -> None: ...
    def fault_state(self, number: int) -> FaultState: ...
    def wait_for_fault(self, number: int, hits: int, timeout_seconds: float) -> bool: ...
    def now(self) -> float: ...
    def advance(self, seconds: float) -> None: ...
    def set_rates(self, rates: Rates | None) -> None: ...
    def expire_iterators(self) -> None: ...
    def calls(self) -> Sequence[LoggedCall]: ...
    def records(self, stream: str) -> Mapping[str, Sequence[Record]]: ...
    def reset(self) -> None: ...


@final
class LocalControl:
    """The commands on a server of this process."""

    def __init__(self, front: Front) -> None:
        self._front = front

    def add_fault(self, rule: Rule, when: Callable[[Call], bool] | None = None) -> int:
        return self._front.faults.add(rule, when, self._front.now())

    def remove_fault(self, number: int) -> None:
        self._front.faults.remove(number)

    def clear_faults(self) -> None:
        self._front.faults.clear()

    def fault_state(self, number: int) -> FaultState:
        return self._front.faults.state(number, self._front.now())

    def wait_for_fault(self, number: int, hits: int, timeout_seconds: float) -> bool:
        return self._front.faults.wait(number, hits, timeout_seconds)

    def now(self) -> float:
        return self._front.now()

    def advance(self, seconds: float) -> None:
        self._front.advance(seconds)

    def set_rates(self, rates: Rates | None) -> None:
        with self._front.lock:
            self._front.service.rates = rates
            for stream in self._front.service.streams.values():
                for shard in stream.shards.values():
                    shard.meter = None

    def expire_iterators(self) -> None:
        with self._front.lock:
            self._front.service.iterator_issue += 1

    def calls(self) -> Sequence[LoggedCall]:
        return self._front.calls()

    def records(self, stream: str) -> Mapping[str, Sequence[Record]]:
        with self._front.lock:
            now = self._front.now()
            try:
                found = self._front.service.stream_named(stream, now)
            except Refusal as refusal:
                raise ServerError(refusal.message, where="the embedded Kinesis") from refusal
            found.trim(now)
            return {shard.shard_id: tuple(shard.records) for shard in found.shards.values()}

    def reset(self) -> None:
        self._front.reset()


@final
class RemoteControl:
    """The commands on a server of another process, over its own port."""

    def __init__(self, endpoint_url: str) -> None:
        parts = urlsplit(endpoint_url)
        self._endpoint_url = endpoint_url
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80

    def add_fault(self, rule: Rule, when: Callable[[Call], bool] | None = None) -> int:
        if when is not None:
            raise ServerError(
                "a function cannot be sent to another process",
                where=self._endpoint_url,
                remedy="leave out `when`, or start the server in this process",
            )
        return self._send(_Command(name="add_fault", rule=rule), int)

    def remove_fault(self, number: int) -> None:
        self._send(_Command(name="remove_fault", number=number), None)

    def clear_faults(self) -> None:
        self._send(_Command(name="clear_faults"), None)

    def fault_state(self, number: int) -> FaultState:
        return self._send(_Command(name="fault_state", number=number), FaultState)

    def wait_for_fault(self, number: int, hits: int, timeout_seconds: float) -> bool:
        command = _Command(name="wait_for_fault", number=number, hits=hits, seconds=timeout_seconds)
        return self._send(command, bool)

    def now(self) -> float:
        return self._send(_Command(name="now"), float)

    def advance(self, seconds: float) -> None:
        self._send(_Command(name="advance", seconds=seconds), None)

    def set_rates(self, rates: Rates | None) -> None:
        self._send(_Command(name="set_rates", rates=rates), None)

    def expire_iterators(self) -> None:
        self._send(_Command(name="expire_iterators"), None)

    def calls(self) -> Sequence[LoggedCall]:
        return self._send(_Command(name="calls"), list[LoggedCall])

    def records(self, stream: str) -> Mapping[str, Sequence[Record]]:
        return self._send(_Command(name="records", stream=stream), dict[str, list[Record]])

    def reset(self) -> None:
        self._send(_Command(name="reset"), None)

    def _send(self, command: "_Command", kind: type[_Result] | None) -> _Result:
        timeout = _TIMEOUT_SECONDS + (command.seconds if command.name == "wait_for_fault" else 0.0)
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        try:
            connection.request("POST", CONTROL_PATH, msgspec.json.encode(command))
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            raise ServerError(
                f"the server does not answer: {error}",
                where=self._endpoint_url,
                remedy="see whether its process still runs",
            ) from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ServerError(body.decode(errors="replace"), where=self._endpoint_url)
        return msgspec.json.decode(body, type=kind)


@final
class _Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A command on its way to another process."""

    name: str
    rule: Rule | None = None
    number: int = 0
    hits: int = 0
    seconds: float = 0.0
    stream: str = ""
    rates: Rates | None = None

    def carry_out(self, control: Control) -> object:
        if self.rule is not None:
            return control.add_fault(self.rule)
        return _COMMANDS[self.name](control, self)


_COMMANDS: Final[Mapping[str, Callable[[Control, _Command], Any]]] = {
    "remove_fault": lambda control, command: control.remove_fault(command.number),
    "clear_faults": lambda control, command: control.clear_faults(),
    "fault_state": lambda control, command: control.fault_state(command.number),
    "wait_for_fault": lambda control, command: control.wait_for_fault(
        command.number, command.hits, command.seconds
    ),
    "now": lambda control, command: control.now(),
    "advance": lambda control, command: control.advance(command.seconds),
    "set_rates": lambda control, command: control.set_rates(command.rates),
    "expire_iterators": lambda control, command: control.expire_iterators(),
    "calls": lambda control, command: control.calls(),
    "records": lambda control, command: control.records(command.stream),
    "reset": lambda control, command: control.reset(),
}


def answer_command(control: Control, body: bytes) -> HttpAnswer:
    """Carry out a command that came over HTTP."""
    text = (("Content-Type", "text/plain; charset=utf-8"),)
    try:
        result = msgspec.json.decode(body, type=_Command).carry_out(control)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        return HttpAnswer(http.client.BAD_REQUEST, text, f"{type(error).__name__}: {error}".encode())
    except ServerError as error:
        return HttpAnswer(http.client.BAD_REQUEST, text, error.what.encode())
    return HttpAnswer(http.client.OK, (("Content-Type", "application/json"),), msgspec.json.encode(result))
