from __future__ import annotations

import ast
import pickle
import sys
from pathlib import Path

import pytest

import cdc_pgoutput
from cdc_pgoutput import DecodeError, PgOutputError

SOURCE = Path(cdc_pgoutput.__file__).parent


def test_the_package_re_exports_and_does_nothing_else() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda path: path.name)
def test_only_the_standard_library_is_imported(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            assert node.module.split(".")[0] in sys.stdlib_module_names
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", ["socket", "asyncio", "threading", "time", "logging"])
@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda path: path.name)
def test_no_module_reaches_for_the_world_outside(path: Path, module: str) -> None:
    imports = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in imports if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert module not in names


def test_a_decode_error_says_where_what_and_how_to_mend_it() -> None:
    error = DecodeError("odd", offset=7, tag=73, kind="Insert", column="c", remedy="Do this")
    assert isinstance(error, PgOutputError)
    assert str(error) == "Insert at byte 7 (tag b'I'), column 'c': odd. Do this"
    assert str(DecodeError("odd", offset=0)) == "message at byte 0: odd"


def test_a_decode_error_survives_pickling() -> None:
    error = DecodeError("odd", offset=7, tag=73, kind="Insert", column="c", remedy="Do this")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, DecodeError)
    assert (copy.reason, copy.offset, copy.tag, copy.kind) == ("odd", 7, 73, "Insert")
    assert (copy.column, copy.remedy) == ("c", "Do this")


def test_public_classes_report_the_public_module() -> None:
    for name in ("Decoder", "DecodeError", "RowCodec", "Insert", "Lsn"):
        assert getattr(cdc_pgoutput, name).__module__ == "cdc_pgoutput"
