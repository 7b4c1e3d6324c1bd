"""What encoding a row costs: cdc-pgoutput's codec, a minimal one beside it, and the reader's whole work on a frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from statistics import median
from struct import Struct
from typing import Any, Final, final

from cdc_core import Epoch
from cdc_pgoutput import Decoder, Lsn, Relation, RowCodec, TypeRegistry
from cdc_wal._changes import ChangeBuilder
from cdc_wal._confirm import ConfirmTracker
from cdc_wal._relations import SourceName, make_relation_state
from cdc_wal._source import slot_event_maker

_HEADER_BYTES: Final = 25
_TUPLE_AT: Final = 30
_ROUNDS: Final = 9


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CodecCost:
    """CPU microseconds per row.

    - `codec`: `RowCodec.insert`; `reference`: the minimal encoder; `builder`: from frames to events, Begin and Commit
      included, with identities, keys and envelopes.
    - `ratio`: median of the rounds' ratios of codec to reference.
    """

    codec: float
    reference: float
    builder: float
    ratio: float


def measure_codecs(frames: Sequence[bytes], key: str) -> CodecCost:
    """Measure over captured frames of one table's inserts, in turns.

    - `key`: the table's primary key.
    """
    decoder = Decoder(protocol_version=1, types=TypeRegistry())
    announced = next(frame for frame in frames if frame[0] == 0x77 and frame[_HEADER_BYTES] == 0x52)
    relation = decoder.decode(announced[_HEADER_BYTES:])
    assert isinstance(relation, Relation)
    rows = [frame for frame in frames if frame[0] == 0x77 and frame[_HEADER_BYTES] == 0x49]
    real = RowCodec(relation, decoder.types, (key,)).insert
    reference = reference_encoder([column.name for column in relation.columns], key)
    costs: dict[str, list[float]] = {"codec": [], "reference": [], "builder": []}
    for _ in range(_ROUNDS):
        costs["codec"].append(_cost(lambda: _encode(real, rows), len(rows)))
        costs["reference"].append(_cost(lambda: _encode(reference, rows), len(rows)))
        builder = _builder(decoder, relation, key)
        costs["builder"].append(_cost(lambda builder=builder: _feed(builder, frames), len(rows)))  # type: ignore[misc]
    return CodecCost(
        codec=median(costs["codec"]),
        reference=median(costs["reference"]),
        builder=median(costs["builder"]),
        ratio=median(a / b for a, b in zip(costs["codec"], costs["reference"], strict=True)),
    )


def reference_encoder(names: Sequence[str], key: str) -> Callable[[bytes, int], tuple[str, str]]:
    """Return the least that can be called an encoder: an insert whose columns are all text, to (after, key).

    Compiled for the columns as the real one is, with the same checks of the tuple's shape, but it knows one type, and
    neither unchanged nor binary values.
    """
    lines = [f"if b[o:o+3] != {b'N' + len(names).to_bytes(2)!r}: raise ValueError", "o += 3"]
    for index in range(len(names)):
        lines += [
            "if b[o] == 116:",
            " o += 5; e = o + U32(b, o-4)[0]",
            f" v{index} = ESC(b[o:e].decode()); o = e",
            f"else: v{index} = 'null'; o += 1",
        ]
    members = ",".join(f"{encode_basestring(name)}:{{v{index}}}" for index, name in enumerate(names))
    key_member = f"{encode_basestring(key)}:{{v{names.index(key)}}}"
    lines += [
        "if o != len(b): raise ValueError",
        f"return f{f'{{{{{members}}}}}'!r}, f{f'{{{{{key_member}}}}}'!r}",
    ]
    names_in_scope: dict[str, Any] = {"U32": Struct("!I").unpack_from, "ESC": encode_basestring}
    source = "def make(U32, ESC):\n def encode(b, o):\n" + "\n".join(f"  {line}" for line in lines)
    exec(source + "\n return encode", names_in_scope)
    encode: Callable[[bytes, int], tuple[str, str]] = names_in_scope["make"](
        names_in_scope["U32"], names_in_scope["ESC"]
    )
    return encode


def _encode(encode: Callable[[bytes, int], object], rows: Sequence[bytes]) -> None:
    for row in rows:
        encode(row, _TUPLE_AT)


def _builder(decoder: Decoder, relation: Relation, key: str) -> ChangeBuilder[Any]:
    epoch = Epoch("1", 1, "bench", "0")
    source = SourceName(name="bench", database="bench")
    builder: ChangeBuilder[Any] = ChangeBuilder(
        epoch=epoch,
        source=source,
        decoder=decoder,
        tracker=ConfirmTracker(Lsn(0)),
        make=slot_event_maker(epoch, 1),
        message_keys={},
        now_us=lambda: time.time_ns() // 1000,
        max_bytes=1 << 20,
    )
    builder.resolve(relation, make_relation_state(relation, decoder.types, (key,), source, cdc_schema="cdc"))
    return builder


def _feed(builder: ChangeBuilder[Any], frames: Sequence[bytes]) -> None:
    for start in range(0, len(frames), 1000):
        part, index = frames[start : start + 1000], 0
        while index < len(part):
            index, _ = builder.feed(part, index)
            builder.take()


def _cost(work: Callable[[], None], rows: int) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) / rows * 1e6
