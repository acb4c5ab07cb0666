#!/bin/bash
# The tests that run real containers, once more where systemd owns the cgroups and all of them
# are version 2: those that depend on that, or with ROOST_VM_ALL=1 every one.
set -eu
mkdir -p "$ROOST_REPO"
cp -a /share/repo/. "$ROOST_REPO"
# cargo's directory for the files of tests, which is compiled in.
mkdir -p "$ROOST_TARGET" "${ROOST_TARGET%/*}/tmp"
mount --bind /share/bin "$ROOST_TARGET"
cd "$ROOST_REPO"
export ROOST_KILLS=2
# Tests of the executor start it without the agent, which raises this for it. systemd's default
# does not do for a pod of 200 containers.
ulimit -n "$(ulimit -H -n)"

run() {
    local name=$1
    shift
    echo "-- $name ($SECONDS s)"
    "/share/tests/$name" "$@"
}

run roost cgroup:: sys::
run containerizer
if [ -n "${ROOST_VM_ALL:-}" ]; then
    run executor
    run it
else
    run executor when_ containers_die an_upgrade
    run it \
        lifecycle::a_container_over_its_memory \
        lifecycle::a_run_once_pod \
        lifecycle::an_executor_that_is_killed \
        lifecycle::containers_share_what \
        lifecycle::the_limits_of_a_pod \
        lifecycle::the_quick_start \
        disturbances::an_agent_killed \
        store::a_store_that_was_deleted_is
fi
echo "-- done ($SECONDS s)"
