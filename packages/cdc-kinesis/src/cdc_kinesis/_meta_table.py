"""What a group must remember beside its leases: whose they are, of which stream, and where it first started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, final

from ._aws import Aws
from ._config import KinesisConfig
from ._leases import Checkpoint

KEY: Final = "name"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The group's own item of its meta table.

    - `initial`: the checkpoint of the rows made at the group's initialisation: TRIM_HORIZON, or AT_TIMESTAMP (which
      LATEST becomes: the time of the first start, so that a crash before the first checkpoint loses nothing).
    - `start_at`: what a row at AT_TIMESTAMP or LATEST means: `config.start_at`, or the time of the first start.
    - `initialised`: whether all shards that were there at the first start have their rows.
    """

    group_id: str
    stream_name: str
    stream_arn: str
    stream_created_at: datetime
    bucket_count: int
    bucket_hash: str
    first_started_at: datetime
    initial: Checkpoint
    start_at: datetime
    initialised: bool


@final
class MetaTable:
    """The table `<lease table>-cdc-meta`, which holds one item. Raises as `LeaseTable` does."""

    def __init__(self, aws: Aws, table_name: str) -> None:
        self._aws = aws
        self._table_name = table_name

    async def claim(
        self,
        config: KinesisConfig,
        summary: Mapping[str, Any],
        now: datetime,
        *,
        bucket_hash: str,
        has_leases: bool,
    ) -> Meta:
        """Return what the group's first start wrote down; write it where this is the first.

        - `summary`: the StreamDescriptionSummary of the stream.
        - `now`: aware; the service's own time where it is known (the Date of its answer).
        - `has_leases`: whether the lease table has rows: another program began this group, and its rows decide.

        Raises:
            ConfigError: the table is another group's or another stream's, the stream was deleted and made anew, or
                the buckets are others.
        """
        raise NotImplementedError

    async def read(self) -> Meta | None:
        """Return what is written down; None where the group has never started."""
        raise NotImplementedError

    async def mark_initialised(self, meta: Meta) -> Meta:
        """Write down that all shards of the first start have their rows; children start at TRIM_HORIZON from now on."""
        raise NotImplementedError
