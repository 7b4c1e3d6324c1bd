"""The contract suite as pytest classes: subclass `TransportContract`, and give it a `harness` fixture."""

from __future__ import annotations

import pytest

from . import checks
from .checks import Harness as Harness


@pytest.mark.anyio
class TransportContract:
    """Every promise of the protocols as one test, on asyncio and on trio.

    A subclass has a fixture `harness` that returns a fresh `Harness` for each test::

        class TestRedis(TransportContract):
            @pytest.fixture
            def harness(self, redis_url: str) -> Harness:
                return RedisHarness(redis_url)

    What the transport's traits do not promise is skipped.
    """

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> str:
        """Run each test on both event loops."""
        return str(request.param)

    async def check(self, promise: checks.Check, harness: Harness) -> None:
        """Run one check, or skip it."""
        traits = harness.transport().traits
        if not checks.is_promised(promise, traits):
            pytest.skip(f"not promised by {traits}")
        await promise(harness)

    async def test_an_unprovisioned_source_is_refused(self, harness: Harness) -> None:
        await self.check(checks.check_an_unprovisioned_source_is_refused, harness)

    async def test_everything_written_is_delivered(self, harness: Harness) -> None:
        await self.check(checks.check_everything_written_is_delivered, harness)

    async def test_events_keep_their_order_per_key(self, harness: Harness) -> None:
        await self.check(checks.check_events_keep_their_order_per_key, harness)

    async def test_identities_grow_within_a_lane(self, harness: Harness) -> None:
        await self.check(checks.check_identities_grow_within_a_lane, harness)

    async def test_identities_are_equal_on_repeats(self, harness: Harness) -> None:
        await self.check(checks.check_identities_are_equal_on_repeats, harness)

    async def test_deliveries_are_numbered_and_told_apart(self, harness: Harness) -> None:
        await self.check(checks.check_deliveries_are_numbered_and_told_apart, harness)

    async def test_batches_are_bounded_and_never_empty(self, harness: Harness) -> None:
        await self.check(checks.check_batches_are_bounded_and_never_empty, harness)

    async def test_nothing_unacknowledged_is_lost_in_a_crash(self, harness: Harness) -> None:
        await self.check(checks.check_nothing_unacknowledged_is_lost_in_a_crash, harness)

    async def test_a_clean_leave_repeats_nothing_acknowledged(self, harness: Harness) -> None:
        await self.check(checks.check_a_clean_leave_repeats_nothing_acknowledged, harness)

    async def test_only_the_contiguous_prefix_is_committed(self, harness: Harness) -> None:
        await self.check(checks.check_only_the_contiguous_prefix_is_committed, harness)

    async def test_a_commit_does_not_split_a_transaction(self, harness: Harness) -> None:
        await self.check(checks.check_a_commit_does_not_split_a_transaction, harness)

    async def test_a_commit_can_cover_single_events(self, harness: Harness) -> None:
        await self.check(checks.check_a_commit_can_cover_single_events, harness)

    async def test_a_flush_commits_now(self, harness: Harness) -> None:
        await self.check(checks.check_a_flush_commits_now, harness)

    async def test_an_acknowledgement_may_be_repeated(self, harness: Harness) -> None:
        await self.check(checks.check_an_acknowledgement_may_be_repeated, harness)

    async def test_a_revoked_stream_stops_before_the_next_owner(self, harness: Harness) -> None:
        await self.check(checks.check_a_revoked_stream_stops_before_the_next_owner, harness)

    async def test_a_worker_past_its_deadline_is_cancelled(self, harness: Harness) -> None:
        await self.check(checks.check_a_worker_past_its_deadline_is_cancelled, harness)

    async def test_a_lost_stream_cancels_its_worker(self, harness: Harness) -> None:
        await self.check(checks.check_a_lost_stream_cancels_its_worker, harness)

    async def test_a_stale_acknowledgement_changes_nothing(self, harness: Harness) -> None:
        await self.check(checks.check_a_stale_acknowledgement_changes_nothing, harness)

    async def test_events_come_again_after_a_loss(self, harness: Harness) -> None:
        await self.check(checks.check_events_come_again_after_a_loss, harness)

    async def test_a_cut_connection_loses_nothing(self, harness: Harness) -> None:
        await self.check(checks.check_a_cut_connection_loses_nothing, harness)

    async def test_fences_grow_with_each_owner(self, harness: Harness) -> None:
        await self.check(checks.check_fences_grow_with_each_owner, harness)

    async def test_leaving_gives_workers_time_to_finish(self, harness: Harness) -> None:
        await self.check(checks.check_leaving_gives_workers_time_to_finish, harness)

    async def test_leaving_is_bounded_by_the_drain_timeout(self, harness: Harness) -> None:
        await self.check(checks.check_leaving_is_bounded_by_the_drain_timeout, harness)

    async def test_a_cancelled_consumer_commits_what_it_acknowledged(self, harness: Harness) -> None:
        await self.check(checks.check_a_cancelled_consumer_commits_what_it_acknowledged, harness)

    async def test_a_plan_changes_nothing(self, harness: Harness) -> None:
        await self.check(checks.check_a_plan_changes_nothing, harness)

    async def test_applying_is_idempotent(self, harness: Harness) -> None:
        await self.check(checks.check_applying_is_idempotent, harness)

    async def test_a_refused_plan_changes_nothing(self, harness: Harness) -> None:
        await self.check(checks.check_a_refused_plan_changes_nothing, harness)

    async def test_an_outdated_plan_is_refused(self, harness: Harness) -> None:
        await self.check(checks.check_an_outdated_plan_is_refused, harness)

    async def test_a_teardown_needs_the_name(self, harness: Harness) -> None:
        await self.check(checks.check_a_teardown_needs_the_name, harness)

    async def test_a_teardown_removes_only_its_own(self, harness: Harness) -> None:
        await self.check(checks.check_a_teardown_removes_only_its_own, harness)

    async def test_a_torn_down_source_can_be_provisioned_again(self, harness: Harness) -> None:
        await self.check(checks.check_a_torn_down_source_can_be_provisioned_again, harness)

    async def test_a_letter_is_stored_once_per_identity_and_pipeline(self, harness: Harness) -> None:
        await self.check(checks.check_a_letter_is_stored_once_per_identity_and_pipeline, harness)

    async def test_a_letter_without_identity_goes_by_position(self, harness: Harness) -> None:
        await self.check(checks.check_a_letter_without_identity_goes_by_position, harness)

    async def test_a_stored_letter_survives_a_crash(self, harness: Harness) -> None:
        await self.check(checks.check_a_stored_letter_survives_a_crash, harness)

    async def test_a_letter_keeps_the_original_event(self, harness: Harness) -> None:
        await self.check(checks.check_a_letter_keeps_the_original_event, harness)

    async def test_letters_are_listed_in_order_and_filtered(self, harness: Harness) -> None:
        await self.check(checks.check_letters_are_listed_in_order_and_filtered, harness)

    async def test_a_replay_keeps_what_fails_in_order(self, harness: Harness) -> None:
        await self.check(checks.check_a_replay_keeps_what_fails_in_order, harness)

    async def test_discarded_letters_are_gone(self, harness: Harness) -> None:
        await self.check(checks.check_discarded_letters_are_gone, harness)

    async def test_lag_is_never_zero_while_events_wait(self, harness: Harness) -> None:
        await self.check(checks.check_lag_is_never_zero_while_events_wait, harness)

    async def test_lag_is_zero_or_unknown_when_nothing_waits(self, harness: Harness) -> None:
        await self.check(checks.check_lag_is_zero_or_unknown_when_nothing_waits, harness)

    async def test_lag_has_one_entry_for_each_partition(self, harness: Harness) -> None:
        await self.check(checks.check_lag_has_one_entry_for_each_partition, harness)

    async def test_health_is_named_checks(self, harness: Harness) -> None:
        await self.check(checks.check_health_is_named_checks, harness)

    async def test_health_is_not_ready_before_it_is_provisioned(self, harness: Harness) -> None:
        await self.check(checks.check_health_is_not_ready_before_it_is_provisioned, harness)

    async def test_a_transport_that_does_not_publish_says_so(self, harness: Harness) -> None:
        await self.check(checks.check_a_transport_that_does_not_publish_says_so, harness)

    async def test_a_settled_receipt_is_durable(self, harness: Harness) -> None:
        await self.check(checks.check_a_settled_receipt_is_durable, harness)

    async def test_published_events_keep_their_order_per_key(self, harness: Harness) -> None:
        await self.check(checks.check_published_events_keep_their_order_per_key, harness)

    async def test_a_rejected_entry_does_not_poison_its_batch(self, harness: Harness) -> None:
        await self.check(checks.check_a_rejected_entry_does_not_poison_its_batch, harness)

    async def test_an_expired_fence_sends_nothing(self, harness: Harness) -> None:
        await self.check(checks.check_an_expired_fence_sends_nothing, harness)

    async def test_no_credential_is_shown(self, harness: Harness) -> None:
        await self.check(checks.check_no_credential_is_shown, harness)

    async def test_two_transports_in_one_process_are_independent(self, harness: Harness) -> None:
        await self.check(checks.check_two_transports_in_one_process_are_independent, harness)

    async def test_a_transport_can_be_opened_again(self, harness: Harness) -> None:
        await self.check(checks.check_a_transport_can_be_opened_again, harness)
