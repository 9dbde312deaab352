//! What the transport promises, one file for each promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests"
)]

mod a_taken_port_is_an_answer;
mod cancelling_a_fetch_stops_the_sender;
mod chunks_arrive_as_they_were_sent;
mod closing_lets_uploads_end;
mod cluster_secrets;
mod dying_links_are_told;
mod grpc_is_for_members;
mod identity_is_kept;
mod liars_lose_their_link;
mod messages_pass_both_ways;
mod only_members_link;
mod rate_limits_hold;
mod simultaneous_calls_make_one_link;
mod stalls_are_noticed;
mod strangers_cannot_call;
mod support;
mod upload_slots_last;
