import re
from collections.abc import Mapping
from typing import Any, Final, final

import msgspec

from ._limits import Rates
from ._refusal import invalid, not_found
from ._requests import StreamRequest
from ._sequence import GENERATIONS
from ._stream import Stream
from ._tokens import Tokens

_STREAM_OF_ARN: Final = re.compile(r":stream/([a-zA-Z0-9_.-]+)")

Answer = Mapping[str, Any]
"""A response in the service's words; bytes and our structs in it are for the codec."""


@final
class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long changes take, in seconds of the server's clock; the service's own take tens of seconds.

    Attributes:
        create: CREATING, of streams and of consumers.
        update: UPDATING: splits, merges, shard count, encryption, retention, mode, record size.
        delete: DELETING, of streams and of consumers.
    """

    create: float = 0.0
    update: float = 0.0
    delete: float = 0.0


@final
class Service:
    """The streams of one account in one region, without sockets, threads and clocks.

    Times are arguments (`now`, seconds since 1970, to the millisecond); what can be refused is raised as
    `Refusal`. The caller takes care that one operation runs at a time.
    """

    def __init__(
        self,
        *,
        region: str = "us-east-1",
        account_id: str = "000000000000",
        durations: Durations | None = None,
        rates: Rates | None = None,
        shard_limit: int = 20_000,
    ) -> None:
        self.region = region
        self.account_id = account_id
        self.durations = durations or Durations()
        self.rates = rates
        self.shard_limit = shard_limit
        self.streams: dict[str, Stream] = {}
        self.tokens = Tokens()
        self.iterator_issue = 0
        self._generation = 0

    def arn(self, stream_name: str) -> str:
        """The ARN of a stream."""
        return f"arn:aws:kinesis:{self.region}:{self.account_id}:stream/{stream_name}"

    def next_generation(self) -> int:
        """A number that tells a stream from an earlier one of its name."""
        self._generation += 1
        return self._generation % GENERATIONS

    def stream(self, request: StreamRequest, now: float, *, creating: bool = False) -> Stream:
        """The stream that a request names.

        Args:
            creating: Whether one that is CREATING counts: for all but descriptions it is not there yet.

        Raises:
            Refusal: no stream is named, or it is not there.
        """
        name = request.stream_name
        if request.stream_arn is not None:
            named = self.name_of(request.stream_arn)
            if name is not None and name != named:
                raise invalid("StreamARN and StreamName name different streams.")
            name = named
        if name is None:
            raise invalid("Either StreamARN or StreamName must be specified.")
        return self.stream_named(name, now, creating=creating)

    def stream_named(self, name: str, now: float, *, creating: bool = False) -> Stream:
        """Find a stream by its name."""
        stream = self.streams.get(name)
        if stream is not None:
            stream.settle(now)
            stream = self.streams.get(name)  # it may have been DELETING until now
        if stream is None or (stream.status == "CREATING" and not creating):
            raise not_found(f"Stream {name} under account {self.account_id} not found.")
        return stream

    def forget(self, stream: Stream) -> None:
        """Remove a stream with all that it holds."""
        del self.streams[stream.name]

    def name_of(self, arn: str) -> str:
        """The stream's name in an ARN of this account and region; raises ResourceNotFoundException."""
        found = _STREAM_OF_ARN.search(arn)
        if found is None or not arn.startswith(self.arn(found[1])):
            raise not_found(f"{arn} is not a stream of account {self.account_id} in {self.region}.")
        return found[1]

    def settle(self, now: float) -> None:
        """Bring every stream up to a time."""
        for stream in list(self.streams.values()):
            stream.settle(now)
