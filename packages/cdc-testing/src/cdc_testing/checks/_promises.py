"""Which check belongs to which promise: some hold for every transport, some where its traits say so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from cdc_core import Granularity, Traits

from ._acknowledgement import (
    check_a_clean_leave_repeats_nothing_acknowledged,
    check_a_commit_can_cover_single_events,
    check_a_commit_does_not_split_a_transaction,
    check_a_flush_commits_now,
    check_an_acknowledgement_may_be_repeated,
    check_nothing_unacknowledged_is_lost_in_a_crash,
    check_only_the_contiguous_prefix_is_committed,
)
from ._delivery import (
    check_an_unprovisioned_source_is_refused,
    check_batches_are_bounded_and_never_empty,
    check_deliveries_are_numbered_and_told_apart,
    check_events_keep_their_order_per_key,
    check_everything_written_is_delivered,
    check_identities_are_equal_on_repeats,
    check_identities_grow_within_a_lane,
)
from ._harness import Harness
from ._isolation import (
    check_a_transport_can_be_opened_again,
    check_no_credential_is_shown,
    check_two_transports_in_one_process_are_independent,
)
from ._letters import (
    check_a_letter_is_stored_once_per_identity_and_pipeline,
    check_a_letter_keeps_the_original_event,
    check_a_letter_without_identity_goes_by_position,
    check_a_replay_keeps_what_fails_in_order,
    check_a_stored_letter_survives_a_crash,
    check_discarded_letters_are_gone,
    check_letters_are_listed_in_order_and_filtered,
)
from ._monitoring import (
    check_health_is_named_checks,
    check_health_is_not_ready_before_it_is_provisioned,
    check_lag_has_one_entry_for_each_partition,
    check_lag_is_never_zero_while_events_wait,
    check_lag_is_zero_or_unknown_when_nothing_waits,
)
from ._ownership import (
    check_a_cancelled_consumer_commits_what_it_acknowledged,
    check_a_cut_connection_loses_nothing,
    check_a_lost_stream_cancels_its_worker,
    check_a_revoked_stream_stops_before_the_next_owner,
    check_a_stale_acknowledgement_changes_nothing,
    check_a_worker_past_its_deadline_is_cancelled,
    check_events_come_again_after_a_loss,
    check_fences_grow_with_each_owner,
    check_leaving_gives_workers_time_to_finish,
    check_leaving_is_bounded_by_the_drain_timeout,
)
from ._provisioning import (
    check_a_plan_changes_nothing,
    check_a_refused_plan_changes_nothing,
    check_a_teardown_needs_the_name,
    check_a_teardown_removes_only_its_own,
    check_a_torn_down_source_can_be_provisioned_again,
    check_an_outdated_plan_is_refused,
    check_applying_is_idempotent,
)
from ._publishing import (
    check_a_rejected_entry_does_not_poison_its_batch,
    check_a_settled_receipt_is_durable,
    check_a_transport_that_does_not_publish_says_so,
    check_an_expired_fence_sends_nothing,
    check_published_events_keep_their_order_per_key,
)

Check = Callable[[Harness], Awaitable[None]]
"""One promise."""


def _always(traits: Traits) -> bool:
    return True


def _by_transaction(traits: Traits) -> bool:
    return traits.granularity is Granularity.TRANSACTION


def _by_event(traits: Traits) -> bool:
    return traits.granularity is Granularity.EVENT


def _hands_over(traits: Traits) -> bool:
    return traits.revocable and traits.exclusive


def _fenced(traits: Traits) -> bool:
    return traits.fenced


def _publishes(traits: Traits) -> bool:
    return traits.publishes


def _fed_by_nobody(traits: Traits) -> bool:
    return not traits.publishes


PROMISES: Final[Mapping[Check, Callable[[Traits], bool]]] = {
    check_an_unprovisioned_source_is_refused: _always,
    check_everything_written_is_delivered: _always,
    check_events_keep_their_order_per_key: _always,
    check_identities_grow_within_a_lane: _always,
    check_identities_are_equal_on_repeats: _always,
    check_deliveries_are_numbered_and_told_apart: _always,
    check_batches_are_bounded_and_never_empty: _always,
    check_nothing_unacknowledged_is_lost_in_a_crash: _always,
    check_a_clean_leave_repeats_nothing_acknowledged: _always,
    check_only_the_contiguous_prefix_is_committed: _always,
    check_a_commit_does_not_split_a_transaction: _by_transaction,
    check_a_commit_can_cover_single_events: _by_event,
    check_a_flush_commits_now: _always,
    check_an_acknowledgement_may_be_repeated: _always,
    check_a_revoked_stream_stops_before_the_next_owner: _hands_over,
    check_a_worker_past_its_deadline_is_cancelled: _hands_over,
    check_a_lost_stream_cancels_its_worker: _always,
    check_a_stale_acknowledgement_changes_nothing: _always,
    check_events_come_again_after_a_loss: _always,
    check_a_cut_connection_loses_nothing: _always,
    check_fences_grow_with_each_owner: _fenced,
    check_leaving_gives_workers_time_to_finish: _always,
    check_leaving_is_bounded_by_the_drain_timeout: _always,
    check_a_cancelled_consumer_commits_what_it_acknowledged: _always,
    check_a_plan_changes_nothing: _always,
    check_applying_is_idempotent: _always,
    check_a_refused_plan_changes_nothing: _always,
    check_an_outdated_plan_is_refused: _always,
    check_a_teardown_needs_the_name: _always,
    check_a_teardown_removes_only_its_own: _always,
    check_a_torn_down_source_can_be_provisioned_again: _always,
    check_a_letter_is_stored_once_per_identity_and_pipeline: _always,
    check_a_letter_without_identity_goes_by_position: _always,
    check_a_stored_letter_survives_a_crash: _always,
    check_a_letter_keeps_the_original_event: _always,
    check_letters_are_listed_in_order_and_filtered: _always,
    check_a_replay_keeps_what_fails_in_order: _always,
    check_discarded_letters_are_gone: _always,
    check_lag_is_never_zero_while_events_wait: _always,
    check_lag_is_zero_or_unknown_when_nothing_waits: _always,
    check_lag_has_one_entry_for_each_partition: _always,
    check_health_is_named_checks: _always,
    check_health_is_not_ready_before_it_is_provisioned: _always,
    check_a_transport_that_does_not_publish_says_so: _fed_by_nobody,
    check_a_settled_receipt_is_durable: _publishes,
    check_published_events_keep_their_order_per_key: _publishes,
    check_a_rejected_entry_does_not_poison_its_batch: _publishes,
    check_an_expired_fence_sends_nothing: _publishes,
    check_no_credential_is_shown: _always,
    check_two_transports_in_one_process_are_independent: _always,
    check_a_transport_can_be_opened_again: _always,
}
"""Every check, and the traits that promise it."""


def is_promised(check: Check, traits: Traits) -> bool:
    """Say whether a transport with these traits promises what a check checks."""
    return PROMISES[check](traits)
