"""The README's programs are run, on a recorded session, as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pgoutput_bytes as wire
import pgoutput_captures as captures
import pytest

from cdc_pgoutput import Decoder, Insert, Lsn, Relation, StandbyStatusUpdate

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(example: str, **names: Any) -> dict[str, Any]:
    exec(compile(example, "README.md", "exec"), names)
    return names


def test_the_first_example_prints_inserts_and_answers_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    sent: list[bytes] = []
    frames = [*captures.frames("changes-1-15"), b"k" + bytes(16) + b"\1"]
    run(EXAMPLES[0], copy_data=frames, send=sent.append, durable_lsn=Lsn(7))
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"""[0-9A-F]+/[0-9A-F]+ plain b'\{"id":1,"body":"a","made":".*Z"\}'""", lines[0])
    assert len(lines) > 5
    assert sent == [StandbyStatusUpdate(flush_lsn=Lsn(7)).to_bytes()]


def test_the_example_of_own_types_makes_them_known() -> None:
    decoder = Decoder()
    relation = decoder.decode(wire.relation(("id", 23), ("mood", 50001)))
    assert isinstance(relation, Relation)
    run(EXAMPLES[1], decoder=decoder, relation=relation)
    message = decoder.decode(wire.insert("1", "happy"))
    assert isinstance(message, Insert)
    assert message.new.to_json() == b'{"id":1,"mood":"happy"}'


def test_the_example_in_bulk_gives_rows_and_keys() -> None:
    decoder = Decoder()
    relation = decoder.decode(wire.relation(("id", 23), ("name", 25)))
    first, second, third, fourth = EXAMPLES[2].splitlines()
    payloads = [wire.insert("1", "a"), wire.update(["2", "a"], key=["1", None]), wire.delete(key=["2", None])]
    names: list[dict[str, Any]] = []
    for line, payload in zip([second, third, fourth], payloads, strict=True):
        names.append(run(f"{first}\n{line}", decoder=decoder, relation=relation, payload=payload))
    assert (names[0]["after"], names[0]["key"]) == ('{"id":1,"name":"a"}', '{"id":1}')
    assert (names[1]["key"], names[1]["old_key"]) == ('{"id":2}', '{"id":1}')
    assert (names[2]["before"], names[2]["key"]) == ('{"id":2,"name":null}', '{"id":2}')


def test_every_example_is_run() -> None:
    assert len(EXAMPLES) == 3
