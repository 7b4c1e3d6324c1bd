"""Calls the Kinesis service without sockets, as a client would, with a clock."""

import json
from typing import Any, Final

import pytest

from cdc_testing.servers.kinesis._operations import OPERATIONS
from cdc_testing.servers.kinesis._refusal import Refusal
from cdc_testing.servers.kinesis._service import Service

HASHES: Final = 1 << 128


class Caller:
    """Calls operations as a client would, with a clock."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.now = 1_800_000_000.0

    def __call__(self, operation: str, **members: Any) -> Any:
        found = OPERATIONS[operation]
        return found(self.service, found.decode_json(json.dumps(members).encode()), self.now)

    def refused(self, operation: str, **members: Any) -> str:
        with pytest.raises(Refusal) as raised:
            self(operation, **members)
        return raised.value.code

    def put(self, *hash_keys: int, data: str = "eHk=", stream: str = "s") -> Any:
        entries = [{"Data": data, "PartitionKey": str(key), "ExplicitHashKey": str(key)} for key in hash_keys]
        return self("PutRecords", StreamName=stream, Records=entries)

    def shards(self, **members: Any) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = self("ListShards", StreamName="s", **members)["Shards"]
        return shards

    def open_shards(self) -> list[dict[str, Any]]:
        return self.shards(ShardFilter={"Type": "AT_LATEST"})

    def iterator(self, shard: str, kind: str = "TRIM_HORIZON", **members: Any) -> str:
        place = {"StreamName": "s", "ShardId": shard, "ShardIteratorType": kind}
        return str(self("GetShardIterator", **place, **members)["ShardIterator"])

    def read(
        self, shard: str, kind: str = "TRIM_HORIZON", *, limit: int = 10_000, **members: Any
    ) -> "Reading":
        reading = Reading()
        iterator = self.iterator(shard, kind, **members)
        while True:
            page = self("GetRecords", ShardIterator=iterator, Limit=limit)
            reading.keys += [int(record.partition_key) for record in page["Records"]]
            reading.numbers += [int(record.sequence_number) for record in page["Records"]]
            reading.children = [child["ShardId"] for child in page.get("ChildShards", [])]
            if "NextShardIterator" not in page:
                reading.ended = True
                return reading
            if page["MillisBehindLatest"] == 0:
                return reading
            iterator = page["NextShardIterator"]


class Reading:
    def __init__(self) -> None:
        self.keys: list[int] = []
        self.numbers: list[int] = []
        self.children: list[str] = []
        self.ended = False
