"""The generated row code has its own reading of hot types: it must never differ from the types' own functions."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cdc_pgoutput import Column, DecodeError, Relation, ReplicaIdentity, RowCodec, TypeRegistry

_BOOL, _INT8, _FLOAT8, _TEXT, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _NUMERIC = (
    16,
    20,
    701,
    25,
    1082,
    1114,
    1184,
    1700,
)
_TYPES = TypeRegistry()

_like_numbers = st.text("0123456789.-+eNaInfity", max_size=12)
_like_moments = st.builds(
    "2026-01-31 {}{}{}".format,
    st.sampled_from(["00:00:00", "23:59:59", "24:00:00", "1:2:3", "\uff10\uff10:00:00"]),
    st.text("0123456789.", max_size=8),
    st.sampled_from(["", "+00", "-00", "+07", "+00 BC", "+00:30"]),
)


def _outcome(function: object, *arguments: object) -> object:
    try:
        return function(*arguments)  # type: ignore[operator]
    except (DecodeError, ValueError):
        return "refused"


@pytest.mark.parametrize("modifier", [-1, 0, 3, 6])
@pytest.mark.parametrize("oid", [_BOOL, _INT8, _FLOAT8, _TEXT, _DATE, _TIMESTAMP, _TIMESTAMPTZ, _NUMERIC])
@given(text=st.one_of(_like_numbers, _like_moments, st.sampled_from(["t", "f", "infinity", "2026-01-31"])))
@example(text="")
@example(text=".")
@example(text="5.")
@example(text=".5")
@example(text="007")
@example(text="12")
@example(text="12.50")
@example(text="2026-01-31 00:00:00")
@example(text="2026-01-31 00:00:00+00")
@example(text="2026-01-31 00:00:00.5+00")
@example(text="2026-01-31 00:00:00.123456")
@example(text="2026-01-31 00:00:00.1234567+00")
def test_a_hot_value_is_written_as_its_type_writes_it_or_refused_with_it(
    oid: int, modifier: int, text: str
) -> None:
    column = Column(name="v", type_oid=oid, type_modifier=modifier, is_key=False)
    relation = Relation(
        relation_id=1, schema="s", name="t", replica_identity=ReplicaIdentity.DEFAULT, columns=(column,)
    )
    codec = RowCodec(relation, _TYPES)
    value = text.encode()
    message = b"I\0\0\0\1N\0\1t" + len(value).to_bytes(4) + value

    written = _outcome(codec.insert, message)
    expected = _outcome(codec.value_codecs[0].to_json, text)

    assert written == (expected if expected == "refused" else (f'{{"v":{expected}}}', None))
