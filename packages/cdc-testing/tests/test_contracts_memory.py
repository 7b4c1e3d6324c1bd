"""The in-memory transport keeps every promise of the contract suite, at both granularities."""

from __future__ import annotations

import pytest

from cdc_core import Granularity
from cdc_testing import checks
from cdc_testing.contracts import Harness, TransportContract
from cdc_testing.memory_harness import MemoryHarness


class TestMemoryByEvent(TransportContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return MemoryHarness(Granularity.EVENT)


class TestMemoryByTransaction(TransportContract):
    @pytest.fixture
    def harness(self) -> Harness:
        return MemoryHarness(Granularity.TRANSACTION)


def test_every_check_is_a_promise_and_a_test_of_the_class() -> None:
    exported = {name for name in vars(checks) if name.startswith("check_")}
    promised = {getattr(check, "__name__", "") for check in checks.PROMISES}
    tested = {
        name.replace("test_", "check_", 1) for name in vars(TransportContract) if name.startswith("test_")
    }
    assert exported == promised == tested
