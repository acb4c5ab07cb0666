//! Host tests: the real agent, real executors, real containers. Need root.
//!
//! Every test has a root directory, a manifest directory and cgroups of its own, ends what it
//! started, and proves at the end that nothing is left ([`harness::Node::end`]).
//!
//! Which test holds which invariant of the design:
//!
//! | | invariant | tests |
//! |---|---|---|
//! | 1 | no container runs twice at once, run-once never again | `edits::thirty_manifests_edited_at_random_…`, `disturbances::an_agent_killed_at_random_moments_…`, `disturbances::whatever_is_killed_…`, `disturbances::run_once_pods_run_at_most_once_…`, `lifecycle::a_run_once_pod_…`, `lifecycle::an_executor_that_is_killed_…`, `manifests::a_pod_that_is_removed_and_put_back_…`, `store::*` |
//! | 2 | agent stop, crash, upgrade change nothing | `edits::a_pod_is_served_while_the_agent_is_stopped_…`, `lifecycle::nothing_is_lost_while_there_is_no_agent`, `disturbances::executors_are_upgraded_in_place_…`, `disturbances::containers_are_restarted_while_the_agent_is_stopped_…` |
//! | 3 | a bad manifest keeps the last good revision | `manifests::a_hundred_broken_versions_…`, `manifests::a_document_that_is_removed_…`, `manifests::editors_and_copies_…`, `store::with_the_store_lost_and_a_manifest_broken_…` |
//! | 4 | a lost directory stops nothing | `manifests::a_directory_that_is_gone_…`, `store::with_the_store_lost_and_no_manifest_in_sight_…` |
//! | 5 | nothing is stopped without need | `manifests::a_change_restarts_what_it_concerns_…`, `manifests::a_file_that_is_renamed_…`, `requests::what_does_not_fit_…` |
//! | 6 | nothing is left | `harness::Node::end` in every test, `lifecycle::a_pod_whose_file_is_deleted_…` |
//! | 7 | what was refused is tried again on a change; back-off is persisted | `manifests::a_pod_in_trouble_…`, `lifecycle::a_crash_loop_backs_off_…`, `lifecycle::a_crash_loop_goes_on_where_it_was_…` |
//! | 8 | one bad pod harms no other | `lifecycle::a_container_that_cannot_start_…`, `disturbances::a_pod_that_takes_its_time_…`, `manifests::of_two_files_that_claim_a_pod_…` |
//! | 9 | nobody writes outside of his sandbox | `lifecycle::a_container_inherits_no_variable_…`, `lifecycle::a_container_cannot_write_the_hosts_programs_…`, `store::directories_of_pods_that_mean_nothing_…` |
//! | 10 | the wall clock decides nothing | the simulation; `clock::…::the_time_that_decides_…`; `lifecycle::containers_that_ignore_the_stop_signal_…` measures on the steady clock |
//! | 12 | limits have names | the unit tests of each; `lifecycle::two_hundred_containers_…`, `lifecycle::the_limits_of_a_pod_hold` |
//! | 13 | an idle node is idle | `disturbances::an_idle_node_writes_nothing_…` |
#![allow(unreachable_pub, reason = "in a test program `pub` says what other modules use")]
#![allow(clippy::unwrap_used, reason = "here everything is a test")]
#![allow(clippy::tests_outside_test_module, reason = "here everything is a test")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "measured times and seeds are shown")]

mod config;
mod crowd;
mod disturbances;
mod edits;
mod face;
mod harness;
mod images;
mod lifecycle;
mod manifests;
mod network;
mod ops;
mod order;
mod pressure;
mod pulls;
mod requests;
mod sessions;
mod shutdown;
mod store;
mod terminal;
