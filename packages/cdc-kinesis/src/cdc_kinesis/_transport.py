"""The transport object: one stream, and one group of consumers on it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, final

import boto3

from cdc_core import (
    CommitPrefix,
    DeadLetters,
    ErrorRouter,
    EventSource,
    Fence,
    FreshStart,
    Granularity,
    Provisioner,
    SourceMonitor,
    Traits,
    TransportEntry,
    WalPublisher,
)

from ._aws import Aws
from ._config import KinesisConfig
from ._dead_letters import open_dead_letters, open_error_router
from ._monitor import open_monitor
from ._pacing import Pacing
from ._provisioner import open_provisioner
from ._publisher import open_publisher
from ._source import KinesisSource

_TRAITS: Final = Traits(
    granularity=Granularity.EVENT,
    exclusive=True,
    revocable=True,
    commit_prefix=CommitPrefix.PARTITION,
    seekable=True,
    fresh_start=FreshStart.CONFIGURED,
    fenced=True,
    publishes=True,
    drops_repeats=True,
)


@final
class KinesisTransport:
    """A Kinesis stream as transport: a reader publishes to it, pipelines of any number of groups read it.

    - `config`: the stream, the group, and the bounds of reading and writing.
    - `session`: your own, with its credentials and region; None for one that finds them as botocore does.
    - `pacing`: give transports of several groups in one process the same object: the service's limits are those of a
      shard, whoever reads it.

    Nothing is opened and nobody asked before a part of it is used.

    >>> transport = KinesisTransport(KinesisConfig(region="eu-west-1", stream_name="shop", group_id="billing"))
    """

    def __init__(
        self, config: KinesisConfig, *, session: boto3.Session | None = None, pacing: Pacing | None = None
    ) -> None:
        self.config = config
        self._aws = Aws(config, session)
        self._pacing = pacing if pacing is not None else Pacing()

    def __repr__(self) -> str:
        return f"KinesisTransport({self.config!r})"

    @property
    def traits(self) -> Traits:
        """A checkpoint is a shard's and covers single events; a lease is taken with notice, and fenced."""
        return _TRAITS

    def source(self) -> EventSource:
        """Return the event source: one partition for each shard that this consumer holds the lease of."""
        return KinesisSource(self.config, self._aws, pacing=self._pacing)

    def provisioner(self) -> AbstractAsyncContextManager[Provisioner]:
        """Open the provisioner of the stream, the dead-letter stream, and the group's two tables."""
        return open_provisioner(self.config, self._aws)

    def error_router(self) -> AbstractAsyncContextManager[ErrorRouter]:
        """Open the way into the dead-letter stream."""
        return open_error_router(self.config, self._aws)

    def monitor(self) -> AbstractAsyncContextManager[SourceMonitor]:
        """Open the monitor of the stream, the leases and the group's lag."""
        return open_monitor(self.config, self._aws, pacing=self._pacing)

    def dead_letters(self) -> AbstractAsyncContextManager[DeadLetters]:
        """Open the dead-letter stream for reading, replaying and discarding."""
        return open_dead_letters(self.config, self._aws)

    def publisher(self, fence: Fence) -> AbstractAsyncContextManager[WalPublisher]:
        """Open the publisher for a reader; what it rejects goes to the reader's own dead letters."""
        return open_publisher(self.config, self._aws, fence)


entry: TransportEntry[KinesisConfig] = TransportEntry(config=KinesisConfig, make=KinesisTransport)
"""What the entry point `kinesis` of the group `cdc.transports` names."""
