"""The contract suite as plain async functions: each takes a `Harness` and raises AssertionError; no pytest here."""

from ._acknowledgement import (
    check_a_clean_leave_repeats_nothing_acknowledged as check_a_clean_leave_repeats_nothing_acknowledged,
)
from ._acknowledgement import check_a_commit_can_cover_single_events as check_a_commit_can_cover_single_events
from ._acknowledgement import (
    check_a_commit_does_not_split_a_transaction as check_a_commit_does_not_split_a_transaction,
)
from ._acknowledgement import check_a_flush_commits_now as check_a_flush_commits_now
from ._acknowledgement import (
    check_an_acknowledgement_may_be_repeated as check_an_acknowledgement_may_be_repeated,
)
from ._acknowledgement import (
    check_nothing_unacknowledged_is_lost_in_a_crash as check_nothing_unacknowledged_is_lost_in_a_crash,
)
from ._acknowledgement import (
    check_only_the_contiguous_prefix_is_committed as check_only_the_contiguous_prefix_is_committed,
)
from ._consumer import Consumer as Consumer
from ._consumer import Delivery as Delivery
from ._consumer import consuming as consuming
from ._delivery import check_an_unprovisioned_source_is_refused as check_an_unprovisioned_source_is_refused
from ._delivery import check_batches_are_bounded_and_never_empty as check_batches_are_bounded_and_never_empty
from ._delivery import (
    check_deliveries_are_numbered_and_told_apart as check_deliveries_are_numbered_and_told_apart,
)
from ._delivery import check_events_keep_their_order_per_key as check_events_keep_their_order_per_key
from ._delivery import check_everything_written_is_delivered as check_everything_written_is_delivered
from ._delivery import check_identities_are_equal_on_repeats as check_identities_are_equal_on_repeats
from ._delivery import check_identities_grow_within_a_lane as check_identities_grow_within_a_lane
from ._harness import Harness as Harness
from ._harness import SeedRow as SeedRow
from ._isolation import check_a_transport_can_be_opened_again as check_a_transport_can_be_opened_again
from ._isolation import check_no_credential_is_shown as check_no_credential_is_shown
from ._isolation import (
    check_two_transports_in_one_process_are_independent as check_two_transports_in_one_process_are_independent,
)
from ._letters import (
    check_a_letter_is_stored_once_per_identity_and_pipeline as check_a_letter_is_stored_once_per_identity_and_pipeline,
)
from ._letters import check_a_letter_keeps_the_original_event as check_a_letter_keeps_the_original_event
from ._letters import (
    check_a_letter_without_identity_goes_by_position as check_a_letter_without_identity_goes_by_position,
)
from ._letters import (
    check_a_replay_keeps_what_fails_in_order as check_a_replay_keeps_what_fails_in_order,
)
from ._letters import check_a_stored_letter_survives_a_crash as check_a_stored_letter_survives_a_crash
from ._letters import check_discarded_letters_are_gone as check_discarded_letters_are_gone
from ._letters import (
    check_letters_are_listed_in_order_and_filtered as check_letters_are_listed_in_order_and_filtered,
)
from ._monitoring import check_health_is_named_checks as check_health_is_named_checks
from ._monitoring import (
    check_health_is_not_ready_before_it_is_provisioned as check_health_is_not_ready_before_it_is_provisioned,
)
from ._monitoring import (
    check_lag_has_one_entry_for_each_partition as check_lag_has_one_entry_for_each_partition,
)
from ._monitoring import (
    check_lag_is_never_zero_while_events_wait as check_lag_is_never_zero_while_events_wait,
)
from ._monitoring import (
    check_lag_is_zero_or_unknown_when_nothing_waits as check_lag_is_zero_or_unknown_when_nothing_waits,
)
from ._ownership import (
    check_a_cancelled_consumer_commits_what_it_acknowledged as check_a_cancelled_consumer_commits_what_it_acknowledged,
)
from ._ownership import check_a_cut_connection_loses_nothing as check_a_cut_connection_loses_nothing
from ._ownership import check_a_lost_stream_cancels_its_worker as check_a_lost_stream_cancels_its_worker
from ._ownership import (
    check_a_revoked_stream_stops_before_the_next_owner as check_a_revoked_stream_stops_before_the_next_owner,
)
from ._ownership import (
    check_a_stale_acknowledgement_changes_nothing as check_a_stale_acknowledgement_changes_nothing,
)
from ._ownership import (
    check_a_worker_past_its_deadline_is_cancelled as check_a_worker_past_its_deadline_is_cancelled,
)
from ._ownership import check_events_come_again_after_a_loss as check_events_come_again_after_a_loss
from ._ownership import check_fences_grow_with_each_owner as check_fences_grow_with_each_owner
from ._ownership import (
    check_leaving_gives_workers_time_to_finish as check_leaving_gives_workers_time_to_finish,
)
from ._ownership import (
    check_leaving_is_bounded_by_the_drain_timeout as check_leaving_is_bounded_by_the_drain_timeout,
)
from ._promises import PROMISES as PROMISES
from ._promises import Check as Check
from ._promises import is_promised as is_promised
from ._provisioning import check_a_plan_changes_nothing as check_a_plan_changes_nothing
from ._provisioning import check_a_refused_plan_changes_nothing as check_a_refused_plan_changes_nothing
from ._provisioning import check_a_teardown_needs_the_name as check_a_teardown_needs_the_name
from ._provisioning import check_a_teardown_removes_only_its_own as check_a_teardown_removes_only_its_own
from ._provisioning import (
    check_a_torn_down_source_can_be_provisioned_again as check_a_torn_down_source_can_be_provisioned_again,
)
from ._provisioning import check_an_outdated_plan_is_refused as check_an_outdated_plan_is_refused
from ._provisioning import check_applying_is_idempotent as check_applying_is_idempotent
from ._publishing import (
    check_a_rejected_entry_does_not_poison_its_batch as check_a_rejected_entry_does_not_poison_its_batch,
)
from ._publishing import check_a_settled_receipt_is_durable as check_a_settled_receipt_is_durable
from ._publishing import (
    check_a_transport_that_does_not_publish_says_so as check_a_transport_that_does_not_publish_says_so,
)
from ._publishing import check_an_expired_fence_sends_nothing as check_an_expired_fence_sends_nothing
from ._publishing import (
    check_published_events_keep_their_order_per_key as check_published_events_keep_their_order_per_key,
)
from ._publishing import read_row as read_row
from ._publishing import row_event as row_event
