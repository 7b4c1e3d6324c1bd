"""Whether keys have had later events in the stream than those of given letters."""

from __future__ import annotations

from collections.abc import Mapping

from ._aws import Aws
from ._config import KinesisConfig
from ._letter_chunks import Facts


async def keys_moved_on(config: KinesisConfig, aws: Aws, letters: Mapping[str, Facts]) -> frozenset[str]:
    return frozenset()
