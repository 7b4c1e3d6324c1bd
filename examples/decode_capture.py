"""cdc-pgoutput alone, on bytes: python decode_capture.py FILE prints the inserts of a recorded stream.

The file holds the messages of a COPY BOTH stream as they came, each behind its length in four bytes, big-endian.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cdc_pgoutput import (
    Decoder,
    Insert,
    PrimaryKeepalive,
    StandbyStatusUpdate,
    XLogData,
    parse_replication_message,
)


def read_messages(path: Path) -> Iterator[bytes]:
    """Yield the messages of a capture file."""
    with gzip.open(path) as file:
        while size := file.read(4):
            yield file.read(int.from_bytes(size))


def print_inserts(copy_data: Iterable[bytes]) -> None:
    """Decode one whole message after the other, as any driver hands them over."""
    decoder = Decoder(protocol_version=1)
    for data in copy_data:
        match parse_replication_message(data):
            case XLogData(start_lsn=lsn, payload=payload):
                match decoder.decode(payload):  # raises DecodeError and nothing else, whatever the bytes are
                    case Insert(relation=relation, new=row):
                        print(lsn, relation.name, row.to_json().decode())  # encoded straight from the message
                    case _:
                        pass
            case PrimaryKeepalive(end_lsn=end_lsn, reply_requested=True):
                answer = StandbyStatusUpdate(flush_lsn=end_lsn).to_bytes()  # what a live reader would send
                print(f"keepalive at {end_lsn}, to be answered with {len(answer)} bytes")
            case _:
                pass


if __name__ == "__main__":
    print_inserts(read_messages(Path(sys.argv[1])))
