"""Several workers on one lease over a bad wire, against DynamoDB's API: what their conditional writes let happen."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from lease_tools import RawTable, Wire

from cdc_kinesis import AnswerLost
from cdc_kinesis._lease_table import LeaseLost, LeaseTable
from cdc_kinesis._leases import Checkpoint, Lease
from cdc_testing.servers.kinesis import EmbeddedAws

NAMES = ("ann", "bob", "cas")


class Race(RuleBasedStateMachine):
    """Each worker may stop anywhere for as long as it likes, and go on with what it knew."""

    raw: RawTable
    wires: dict[str, Wire]
    tables: dict[str, LeaseTable]
    portal: BlockingPortal

    @initialize()
    def begin(self) -> None:
        self.shard_id = uuid.uuid4().hex
        self.held: dict[str, Lease] = {}
        self.seen: dict[str, Lease] = {}
        self.progress = 0
        self.written = 0
        for wire in self.wires.values():
            wire.repair()
        lease = Lease(shard_id=self.shard_id, checkpoint=Checkpoint("TRIM_HORIZON"))
        assert self._do(self.tables["ann"].create, lease)
        self.row = lease

    def _look(self, name: str) -> None:
        lease = self._do(self.tables[name].read, self.shard_id)
        assert lease is not None
        self.seen[name] = lease

    @rule(name=st.sampled_from(NAMES), fault=st.sampled_from(["request", "answer", "delay", "500 after"]))
    def break_the_wire(self, name: str, fault: Literal["request", "answer", "delay", "500 after"]) -> None:
        self.wires[name].fail("UpdateItem", fault)

    @rule(name=st.sampled_from(NAMES))
    def deliver_what_was_delayed(self, name: str) -> None:
        self.wires[name].deliver()
        self._check_row()

    @rule(name=st.sampled_from(NAMES), verb=st.sampled_from(["take", "steal"]), looks=st.booleans())
    def win(self, name: str, verb: str, looks: bool) -> None:
        # as the planner: never what this worker holds, and a steal only of what another holds
        if name in self.held:
            return
        if looks or name not in self.seen:
            self._look(name)
        lease = self.seen[name]
        if verb == "steal" and (lease.owner in (None, name) or lease.checkpoint_owner is not None):
            return
        table = self.tables[name]
        try:
            won = self._do(table.take if verb == "take" else table.steal, lease, name)
        except AnswerLost:
            return
        self._check_row()
        if won is not None:
            assert self.row == won
            if verb == "take":
                assert self.row.holder == name
                self.held[name] = won
        else:
            assert (self.row.counter, self.row.owner) != (lease.counter, lease.owner)

    @rule(
        name=st.sampled_from(NAMES), verb=st.sampled_from(["renew", "renew", "release"]), works=st.booleans()
    )
    def hold(self, name: str, verb: str, works: bool) -> None:
        lease = self.held.get(name)
        if lease is None:
            return
        # work begins where the lease stands: what another has done is not done again
        begin = int(lease.checkpoint.sequence_number) if lease.checkpoint.is_sequence else 0
        checkpoint = Checkpoint(str(begin + 1)) if works else None
        was_holder = self.row.holder == name
        table = self.tables[name]
        try:
            now = self._do(table.renew if verb == "renew" else table.release, lease, checkpoint)
        except AnswerLost:
            self._check_row()
            return
        except LeaseLost as error:
            lost = error.lease
            del self.held[name]
            self._check_row()
            assert lost == self.row
            assert self.row.holder != name or self.row.counter > lease.counter + 1
            return
        self._check_row()
        assert was_holder or self.row.counter == lease.counter + 1, "a former owner's write went through"
        assert self.row == now
        assert checkpoint is None or not now.checkpoint.precedes(checkpoint)
        if verb == "renew":
            assert now.holder == name
            self.held[name] = now
        else:
            assert now.holder != name
            del self.held[name]

    def _check_row(self) -> None:
        row = self._do(self.tables["ann"].read, self.shard_id)
        assert row is not None
        assert not row.checkpoint.precedes(self.row.checkpoint), "a position moved back"
        assert row.counter >= self.row.counter
        able = [
            name for name, lease in self.held.items() if lease.counter == row.counter and row.holder == name
        ]
        assert len(able) <= 1
        self.row = row

    def teardown(self) -> None:
        """Whatever was lost or delayed, the next worker can have the lease."""
        for wire in self.wires.values():
            wire.repair()
        self.held.clear()
        self.win("cas", "take", looks=True)
        assert self.row.holder == "cas"

    def _do(self, call: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        return self.portal.call(cast("Any", call), *arguments)


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


def test_no_two_workers_can_write_no_position_moves_back_and_nobody_is_locked_out(
    embedded_aws: EmbeddedAws, portal: BlockingPortal
) -> None:
    raw = RawTable(embedded_aws)
    wires = {name: Wire(embedded_aws) for name in NAMES}

    class ThisRace(Race):
        pass

    ThisRace.raw, ThisRace.wires, ThisRace.portal = raw, wires, portal
    ThisRace.tables = {name: LeaseTable(wire.aws(), raw.name) for name, wire in wires.items()}
    run_state_machine_as_test(
        ThisRace,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
