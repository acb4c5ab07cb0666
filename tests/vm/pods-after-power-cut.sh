#!/bin/bash
# Power cuts while pods run: whatever shall run runs again, and nothing that was to run once and
# whose end was recorded, or may have happened, runs a second time.
#
# Every container adds the boot's id to its trace and flushes it before it does anything else.
# boot: --cut-on CUT-THE-POWER
# boot: --cut-on CUT-THE-POWER
# boot: --cut-on CUT-THE-POWER
# boot:
set -eu
shopt -s nullglob
. /share/repo/tests/vm/installed.bash
boot=$1
boot_id=$(cat /proc/sys/kernel/random/boot_id)
seen=/var/lib/seen # Pods that the command line called completed, flushed.

# Whatever the kernel would write back by itself must wait until after the cut.
echo 600000 >/proc/sys/vm/dirty_expire_centisecs
echo 600000 >/proc/sys/vm/dirty_writeback_centisecs

# run_pod NAME POLICY SCRIPT [MORE FOR put_pod...]
run_pod() {
    local name=$1 policy=$2 script=$3
    shift 3
    : >"$out/$name.trace"
    sync "$out/$name.trace" "$out"
    put_pod "$name" "[$(container main \
        "cat /proc/sys/kernel/random/boot_id >>/srv/$name.trace; sync /srv/$name.trace; $script")]" \
        "\"restartPolicy\": \"$policy\"" "$@"
    sync "$manifests/$name.json" "$manifests"
}

runs() { wc -l <"$out/$1.trace"; }
ran_more_than() { [ "$(runs "$1")" -gt "$2" ]; }
all_run() {
    local name
    for name in web1 web2; do has_status "$name" Running || return 1; done
}
has_a_directory_a_pod() {
    [ "$(find /var/lib/roost/pods -mindepth 1 -maxdepth 1 | wc -l)" = "$(roost get pods -o name | wc -l)" ]
}
cut_power() {
    echo CUT-THE-POWER
    sleep infinity
}

# What holds after every reboot.
check_all() {
    local name trace
    check "boot $boot: the agent is ready" [ "$(systemctl is-active roost)" = active ]
    roost status | grep '^Store:'
    check "the store is sound, or was rebuilt and says so" \
        grep -Eq '^Store: +(sound|.*rebuilt)' <(roost status)
    until_true "running" all_run
    for name in web1 web2; do
        check "$name was started once in this boot" [ "$(grep -c "$boot_id" "$out/$name.trace")" = 1 ]
    done
    until_true "through" has_status done Completed
    while read -r name; do
        check "$name is still completed" has_status "$name" Completed
    done <"$seen"
    until_true "through" has_status bad Error
    check "its exit code is still known" grep -q 'Exit Code: *3' <(roost describe pod bad)
    for trace in "$out"/{done,bad,cut,once}*.trace; do
        [ "$(wc -l <"$trace")" -le 1 ] || fail "$trace: ran more than once"
    done
    check "the crash loop goes on" until_true "run again" ran_more_than loop "$(runs loop)"
    check "no pod is there that was removed" [ -z "$(status removed)" ]
    # Manifests that were put just before the cut may become pods at this moment.
    until_true "as many directories as pods" has_a_directory_a_pod
}

# Pods that run once, until the power is cut: some are through, some run, some begin.
churn() {
    local n name
    for n in $(seq 1 50); do
        name=once-$boot-$n
        run_pod "$name" Never "sleep 0.$((RANDOM % 10)); exit 0"
        for name in $(roost get pods 2>/dev/null | awk '$3 == "Completed" { print $1 }'); do
            grep -qx "$name" "$seen" || echo "$name" >>"$seen"
        done
        sync "$seen"
    done
}

forever='while :; do sleep 1000; done'
case $boot in
1)
    : >"$seen" && sync "$seen" /var/lib
    install_roost
    sync
    run_pod web1 Always "$forever"
    run_pod web2 Always "$forever"
    run_pod done Never 'exit 0'
    run_pod bad Never 'exit 3'
    run_pod cut Never "$forever"
    run_pod loop Always 'exit 1' '@"roost/backoff-max": "1s"'
    run_pod removed Always "$forever"
    until_true "running" all_run
    until_true "running" has_status cut Running
    until_true "running" has_status removed Running
    until_true "run again" ran_more_than loop 2
    rm "$manifests/removed.json" && sync "$manifests"
    roost wait pod removed --for=delete
    until_true "through" has_status bad Error
    until_true "through" has_status done Completed
    finish
    # At once: what was said to be so must have been durable by then.
    cut_power
    ;;
2)
    check_all
    check "what was cut off has failed" grep -q '^Phase: *Failed' <(roost describe pod cut)
    roost describe pod cut | sed -n '/State:/,/Exit Code:/p'
    finish
    churn &
    sleep $((5 + RANDOM % 8)).$((RANDOM % 10))
    cut_power
    ;;
3)
    check_all
    echo "completed before the cut: $(wc -l <"$seen") pods; with a manifest: $(
        find "$manifests" -name 'once*.json' | wc -l)"
    finish
    # While an agent recovers, and executors are being started.
    churn &
    sleep 2
    systemctl kill --signal=KILL roost
    sleep 1.$((RANDOM % 10))
    cut_power
    ;;
4)
    check_all
    rm "$manifests"/once*.json
    is_small() { [ "$(roost get pods -o name | wc -l)" = 6 ]; }
    until_true "gone" is_small
    finish
    echo "power cuts: all that shall run runs, and nothing ran twice"
    # And now in good order: tests/vm/run fails if systemd has to lose patience with a pod.
    ;;
esac
