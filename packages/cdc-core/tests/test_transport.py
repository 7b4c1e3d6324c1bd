"""Transports are found by name through entry points, and made from plain data."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cdc_core import ConfigError, installed_transports, load_transport

MODULE = """
from dataclasses import dataclass, field
from cdc_core import ConfigError, TransportEntry

@dataclass(frozen=True, kw_only=True)
class FakeConfig:
    url: str
    depth: int = 5
    def __post_init__(self):
        if self.depth < 1:
            raise ConfigError(f"depth is {self.depth}", remedy="1 or more")

class FakeTransport:
    def __init__(self, config):
        self.config = config

entry = TransportEntry(config=FakeConfig, make=FakeTransport)
wrong = FakeTransport
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution with two transports, as pip lays it out."""
    (tmp_path / "fake_cdc_transport.py").write_text(MODULE)
    info = tmp_path / "fake_cdc_transport-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-cdc-transport\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[cdc.transports]\nfake = fake_cdc_transport:entry\nwrong = fake_cdc_transport:wrong\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "fake_cdc_transport", raising=False)


def test_an_installed_transport_is_listed() -> None:
    assert {"fake", "wrong"} <= set(installed_transports())


def test_a_transport_is_made_from_plain_data() -> None:
    transport = load_transport("fake", {"url": "fake://here"})
    assert transport.config.url == "fake://here"  # type: ignore[attr-defined]
    assert transport.config.depth == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("config", [{}, {"url": 5}, {"url": "x", "depth": "deep"}, {"url": "x", "depth": 0}])
def test_data_that_does_not_fit_its_config_is_a_config_error(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        load_transport("fake", config)


def test_a_name_that_is_not_installed_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"no transport named 'redis'.*fake"):
        load_transport("redis", {})


def test_an_entry_point_that_names_something_else_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="not a TransportEntry"):
        load_transport("wrong", {"url": "x"})
