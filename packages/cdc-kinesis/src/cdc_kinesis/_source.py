"""The event source: one partition stream for each shard whose lease is ours."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from random import Random
from typing import Final, final

import anyio

from cdc_core import Lane, PartitionStream, open_task_group

from ._aws import Aws
from ._client import open_data_client
from ._config import KinesisConfig
from ._coordinator import Coordinator
from ._fan_out import FanOutConsumer
from ._holding import Membership
from ._lease_table import LeaseTable
from ._meta_table import MetaTable
from ._pacing import Pacing
from ._retention import ReadMarks
from ._shard_reader import ShardLag

_logger = logging.getLogger("cdc_kinesis")

# How `cdc_core.bucket_of` makes buckets of keys; another hash would move keys between lanes.
BUCKET_HASH: Final = "crc32"


@final
class KinesisSource:
    """Reads a stream as a member of a group: each shard is a partition, owned by who holds its lease in DynamoDB.

    - `pacing`: keeps the read limits of the shards; share one between the sources of several groups in a process,
      since the limits are those of a shard, whoever reads it. None for one of its own.
    - `lags`: how far each shard that is held now is behind, as its last read said; kept up while the source is open.
      None for a mapping of its own.
    """

    def __init__(
        self,
        config: KinesisConfig,
        aws: Aws,
        *,
        pacing: Pacing | None = None,
        lags: dict[str, ShardLag] | None = None,
    ) -> None:
        self.lags: Final[dict[str, ShardLag]] = {} if lags is None else lags
        self._config = config
        self._aws = aws
        self._pacing = Pacing() if pacing is None else pacing

    @asynccontextmanager
    async def open(self, *, drain_timeout_seconds: float) -> AsyncGenerator[AsyncIterable[PartitionStream]]:
        """Join the group; see `cdc_core.EventSource.open`.

        A service that cannot be reached is waited for.

        Raises:
            NotProvisioned: the stream or a table does not exist, or the consumer for enhanced fan-out.
            ShardGap: while iterating: records were trimmed before they were read, or may have been.
            ConfigError: the table is another group's or another stream's, or the buckets are others.
            AccessError, SourceError: as their names say.
        """
        config, aws = self._config, self._aws
        if config.enhanced_fan_out:
            _logger.warning(
                "enhanced fan-out is experimental: AWS does not support it over HTTP/1.1, and may break it",
                extra={"stream": config.stream_name, "consumer": config.group_id},
            )
        async with open_data_client(config, aws) as data, open_task_group() as tasks:
            membership = Membership(
                config=config,
                aws=aws,
                data=data,
                table=LeaseTable(aws, config.lease_table),
                marks=ReadMarks(aws, config.meta_table),
                me=f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}",
                pacing=self._pacing,
                lanes=[Lane(f"{config.stream_name}/{bucket}") for bucket in range(config.bucket_count)],
                drain_timeout_seconds=drain_timeout_seconds,
                lags=self.lags,
                consumer=FanOutConsumer(config, aws) if config.enhanced_fan_out else None,
            )
            coordinator = Coordinator(
                membership,
                MetaTable(aws, config.meta_table),
                tasks,
                bucket_hash=BUCKET_HASH,
                random=Random(),
            )
            await coordinator.join()
            tasks.start_soon(coordinator.run)
            try:
                yield coordinator
            finally:
                with anyio.CancelScope(shield=True):
                    await coordinator.leave()
