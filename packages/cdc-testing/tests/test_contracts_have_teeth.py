"""The contract suite has teeth: a transport that breaks a promise fails the checks of that promise, and no others."""

from __future__ import annotations

from typing import cast

import anyio
import broken_parts as parts
import broken_streams as streams
import pytest
from broken_transport import BrokenHarness, Defect

from cdc_testing.checks import PROMISES, Check, Harness, is_promised

DEFECTS: dict[type[Defect], set[str]] = {
    streams.CommitsPastTheFirstOpenEvent: {
        "a_stale_acknowledgement_changes_nothing",
        "lag_is_never_zero_while_events_wait",
        "only_the_contiguous_prefix_is_committed",
    },
    streams.CommitsOnDelivery: {
        "a_cancelled_consumer_commits_what_it_acknowledged",
        "a_clean_leave_repeats_nothing_acknowledged",
        "a_commit_can_cover_single_events",
        "a_stale_acknowledgement_changes_nothing",
        "an_acknowledgement_may_be_repeated",
        "events_come_again_after_a_loss",
        "fences_grow_with_each_owner",
        "identities_are_equal_on_repeats",
        "lag_is_never_zero_while_events_wait",
        "nothing_unacknowledged_is_lost_in_a_crash",
        "only_the_contiguous_prefix_is_committed",
        "two_transports_in_one_process_are_independent",
    },
    streams.ForgetsAcksOnLeaving: {
        "a_cancelled_consumer_commits_what_it_acknowledged",
        "a_clean_leave_repeats_nothing_acknowledged",
        "a_revoked_stream_stops_before_the_next_owner",
        "a_transport_can_be_opened_again",
        "an_acknowledgement_may_be_repeated",
        "leaving_gives_workers_time_to_finish",
        "only_the_contiguous_prefix_is_committed",
    },
    streams.FlushesLater: {
        "a_commit_can_cover_single_events",
        "a_flush_commits_now",
    },
    streams.InventsIdentities: {
        "a_settled_receipt_is_durable",
        "identities_are_equal_on_repeats",
    },
    streams.ReversesBatches: {
        "a_clean_leave_repeats_nothing_acknowledged",
        "a_commit_can_cover_single_events",
        "deliveries_are_numbered_and_told_apart",
        "events_keep_their_order_per_key",
        "identities_grow_within_a_lane",
        "published_events_keep_their_order_per_key",
    },
    streams.YieldsEmptyBatches: {
        "a_lost_stream_cancels_its_worker",
        "batches_are_bounded_and_never_empty",
        "leaving_gives_workers_time_to_finish",
        "leaving_is_bounded_by_the_drain_timeout",
    },
    streams.YieldsLargeBatches: {
        "batches_are_bounded_and_never_empty",
    },
    streams.SwallowsLateAcks: {
        "a_lost_stream_cancels_its_worker",
        "a_stale_acknowledgement_changes_nothing",
    },
    streams.NeverCancelsWorkers: {
        "a_lost_stream_cancels_its_worker",
        "a_worker_past_its_deadline_is_cancelled",
        "leaving_is_bounded_by_the_drain_timeout",
    },
    streams.DrainsForEver: {
        "a_worker_past_its_deadline_is_cancelled",
        "leaving_is_bounded_by_the_drain_timeout",
    },
    streams.HandsOverEarly: {
        "a_revoked_stream_stops_before_the_next_owner",
    },
    streams.NeverChangesTheFence: {
        "fences_grow_with_each_owner",
    },
    streams.SplitsTransactions: {
        "a_commit_does_not_split_a_transaction",
    },
    streams.OpensWhatIsNotThere: {
        "an_unprovisioned_source_is_refused",
    },
    streams.MixesUpSources: {
        "two_transports_in_one_process_are_independent",
    },
    streams.NeverComesBack: {
        "a_cut_connection_loses_nothing",
    },
    streams.StopsReading: {
        "fences_grow_with_each_owner",
        "a_revoked_stream_stops_before_the_next_owner",
        "everything_written_is_delivered",
        "two_transports_in_one_process_are_independent",
    },
    parts.CreatesWhilePlanning: {
        "a_plan_changes_nothing",
        "a_refused_plan_changes_nothing",
    },
    parts.RefusesToApplyAgain: {
        "applying_is_idempotent",
    },
    parts.AppliesAnything: {
        "a_refused_plan_changes_nothing",
        "an_outdated_plan_is_refused",
    },
    parts.TearsDownUnasked: {
        "a_teardown_needs_the_name",
    },
    parts.LeavesRubble: {
        "a_teardown_removes_only_its_own",
    },
    parts.StoresRepeats: {
        "a_letter_is_stored_once_per_identity_and_pipeline",
        "a_letter_without_identity_goes_by_position",
        "letters_are_listed_in_order_and_filtered",
    },
    parts.RoutesIntoMemory: {
        "a_stored_letter_survives_a_crash",
    },
    parts.KeepsOneHeaderOfAName: {
        "a_letter_keeps_the_original_event",
    },
    parts.ReplaysOutOfOrder: {
        "a_replay_keeps_what_fails_in_order",
    },
    parts.InventsZeroLag: {
        "lag_is_never_zero_while_events_wait",
    },
    parts.ForgetsAPartition: {
        "lag_has_one_entry_for_each_partition",
    },
    parts.IsAlwaysWell: {
        "health_is_not_ready_before_it_is_provisioned",
    },
    parts.ShowsItsPassword: {
        "no_credential_is_shown",
    },
    parts.SettlesEarly: {
        "a_rejected_entry_does_not_poison_its_batch",
        "a_settled_receipt_is_durable",
        "an_expired_fence_sends_nothing",
        "published_events_keep_their_order_per_key",
    },
    parts.MiscountsRejected: {
        "a_rejected_entry_does_not_poison_its_batch",
    },
    parts.IgnoresItsFence: {
        "an_expired_fence_sends_nothing",
    },
    parts.DiscardsAll: {
        "discarded_letters_are_gone",
    },
    parts.NeverAdmitsThatNothingWaits: {
        "lag_is_zero_or_unknown_when_nothing_waits",
    },
    parts.NamesItsChecksAlike: {
        "health_is_named_checks",
    },
    parts.SaysThatItIsFedByNobody: {
        "a_transport_that_does_not_publish_says_so",
    },
    parts.BuriesTheDead: {
        "a_torn_down_source_can_be_provisioned_again",
    },
}
"""Each defect, and the checks that find it: all of them, so that a check is seen not to fail for nothing."""


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("defect_type", DEFECTS, ids=lambda defect_type: defect_type.__name__)
async def test_a_defect_fails_its_own_checks_and_no_others(defect_type: type[Defect]) -> None:
    failed: set[str] = set()
    async with anyio.create_task_group() as tasks:  # each check has a source of its own
        for check in PROMISES:
            tasks.start_soon(note_failure, check, defect_type, 0.5, failed)
    # On a busy machine half a second of patience may be too little: who fails unexpectedly is asked again, alone.
    for check in PROMISES:
        if name_of(check) in failed - DEFECTS[defect_type]:
            failed.remove(name_of(check))
            await note_failure(check, defect_type, 5.0, failed)
    assert failed == DEFECTS[defect_type]


async def note_failure(
    check: Check, defect_type: type[Defect], patience_seconds: float, failed: set[str]
) -> None:
    """Run a check on a transport with the defect, where its traits promise it; note whether it failed."""
    defect = defect_type()
    harness = cast("Harness", BrokenHarness(defect.harness(), defect, patience_seconds))
    if not is_promised(check, harness.transport().traits):
        return
    try:
        await check(harness)
    except Exception:  # noqa: BLE001 - whatever stops a check has failed it
        failed.add(name_of(check))


def test_every_check_is_failed_by_some_defect() -> None:
    assert set().union(*DEFECTS.values()) == {name_of(check) for check in PROMISES}


def name_of(check: Check) -> str:
    return str(getattr(check, "__name__", "")).removeprefix("check_")
