"""The rows that every subject puts; without a package of ours, since a peer runs where there is none."""

from __future__ import annotations

from typing import Final

KEYS: Final = 10_000
_ENVELOPE: Final = (
    '{{"before":null,"after":{{"id":{id},"customer":"customer-{id:06d}","state":"shipped","total":"{total}.00",'
    '"note":"a note of ordinary length"}},"source":{{"connector":"postgresql","schema":"shop","table":"orders",'
    '"txId":{tx},"lsn":{lsn},"commit_lsn":{lsn},"ordinal":{ordinal}}},"op":"u","ts_ms":1700000000000}}'
)


def key_of(number: int) -> str:
    """Return the key of a row: neighbours have different ones, as in a table that many write to."""
    return f'{{"id":{number * 7919 % KEYS}}}'


def value_of(number: int) -> str:
    """Return the envelope of a row, some 300 bytes; ten rows are a transaction."""
    transaction, ordinal = divmod(number, 10)
    return _ENVELOPE.format(
        id=number * 7919 % KEYS,
        total=number % 1000,
        tx=transaction,
        lsn=26_000_000_000 + transaction * 1000,
        ordinal=ordinal,
    )
