#!/bin/bash
# Roost as a service of systemd, on cgroup v2: ready when it says so, its pods outside of its unit
# and unharmed by whatever happens to it, and limits that hold.
set -eu
. /share/repo/tests/vm/installed.bash
forever='trap "exit 0" TERM; while :; do sleep 1000 & wait; done'
forever=${forever//\"/\'}

property() { systemctl show -P "$1" "${2:-roost}"; }
same_pids() { [ "$(pids steady)" = "$before" ]; }
is_another_agent() { [ "$(property MainPID)" != 0 ] && [ "$(property MainPID)" != "$agent" ]; }
is_ready() { is_another_agent && [ "$(property ActiveState)" = active ]; }

echo "-- ready"
install_roost
check "it is ready when systemd says that it has started" roost status
check "its type is notify" [ "$(property Type)" = notify ]
check "its watchdog is set" [ "$(property WatchdogUSec)" = 30s ]

echo "-- pods"
put_pod steady "[$(container a "$forever"), $(container b "$forever")]"
until_true "running" has_status steady Running
before=$(pids steady)
echo "$before"
check "two containers run" [ "$(wc -l <<<"$before")" = 2 ]
unit=/sys/fs/cgroup$(property ControlGroup)
check "no cgroup is below its unit" [ -z "$(find "$unit" -mindepth 1 -type d)" ]
check "in which is the agent alone" [ "$(cat "$unit/cgroup.procs")" = "$(property MainPID)" ]
while read -r pid _; do
    check "container $pid is in the scope of all pods" \
        grep -q '^0::/roost.slice/roost-pods.scope/.*/pod/' "/proc/$pid/cgroup"
done <<<"$before"
check "the scope is systemd's, with delegation" [ "$(property Delegate roost-pods.scope)" = yes ]

echo "-- whatever happens to the agent"
agent=$(property MainPID)
systemctl restart roost
check "restarted" is_ready
check "pods went on through a restart" same_pids
agent=$(property MainPID)
systemctl kill --signal=KILL roost
until_true "back after kill -9" is_ready
check "pods went on through kill -9" same_pids
systemctl stop roost
check "no agent" [ "$(property MainPID)" = 0 ]
for pid in $(cut -d ' ' -f 1 <<<"$before"); do
    check "container $pid goes on without one" [ -e "/proc/$pid" ]
done
mkdir -p /etc/systemd/system/roost.service.d
printf '[Service]\nWatchdogSec=8\n' >/etc/systemd/system/roost.service.d/test.conf
systemctl daemon-reload
systemctl start roost
agent=$(property MainPID)
kill -STOP "$agent"
until_true "replaced by the watchdog" is_ready
check "the watchdog did it" grep -q 'Watchdog timeout' <(journalctl -b -u roost)
check "pods went on while the agent hung" same_pids
agent=$(property MainPID)
check "an idle agent feeds its watchdog" sleep 10
check "so it stays" [ "$(property MainPID)" = "$agent" ]

echo "-- steps of the wall clock"
# Programs note the time since the boot: a probe every 2 s, a crash loop with delays of 1, 2, 4 and
# 8 s, a pod that has 30 s. Meanwhile the wall clock is 10 minutes back, and a year ahead.
note() { echo "read up rest < /proc/uptime; echo \$up >> /srv/$1"; }
probe='"livenessProbe": { "exec": { "command": ["/bin/sh", "-c", "'$(note asked)'"] },
    "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 99 }'
waiting='while :; do sleep 1000 & wait; done'
put_pod asked "[$(container main "$waiting" "$probe")]"
put_pod loops "[$(container main "$(note runs); exit 1")]"
put_pod timed "[$(container main "trap '$(note ended); exit 0' TERM; $(note began); $waiting")]" \
    '"activeDeadlineSeconds": 30'
has_begun() { [ -s "$out/asked" ] && [ -s "$out/runs" ] && [ -s "$out/began" ]; }
until_true "begun" has_begun
asked=$(pids asked)
for step in -600 31536000 -31536000 600; do
    date -s "@$(($(date +%s) + step))" >/dev/null
    sleep 6
done
until_true "at its deadline" [ -s "$out/ended" ]
# late FILE DELAY...: whether line after line came after its delay, and within 2.5 s of it. The
# machine is emulated, and notes what happened with a delay of its own: 0.7 s are no early time.
in_time() {
    awk -v delays="$*" 'BEGIN { count = split(delays, delay, " ") }
        NR > 1 { due = delay[NR - 1 < count ? NR - 1 : count]; got = $1 - before
            if (got < due - 0.7 || got > due + 2.5) { print got " instead of " due; bad = 1 } }
        { before = $1 } END { exit bad || NR < 3 }'
}
check "a probe came every 2 s, never early, late or twice" in_time 2 <"$out/asked"
check "its container was not restarted" [ "$(pids asked)" = "$asked" ]
check "the back-off went 1, 2, 4, 8 s" in_time 1 2 4 8 16 <"$out/runs"
lasted=$(paste "$out/began" "$out/ended" | awk '{ print $2 - $1 }')
echo "$(wc -l <"$out/asked") probes and $(wc -l <"$out/runs") runs; the pod of 30 s lasted $lasted s"
check "the deadline came in time" awk -v s="$lasted" 'BEGIN { exit s < 28.5 || s > 33 }'
rm "$manifests"/{asked,loops,timed}.json
gone() { [ "$(find "$scope" -mindepth 1 -maxdepth 1 -type d | wc -l)" = 2 ]; }
until_true "only the steady pod is left" gone

echo "-- limits"
# The sleeping child is not what runs out of memory, but belongs to the container that does.
put_pod hog "[$(container main 'sleep 1000 & exec tail /dev/zero' \
    '"resources": { "limits": { "memory": "16Mi" } }')]" '"restartPolicy": "Never"'
until_true "killed for its memory" has_status hog OOMKilled
check "OOMKilled is told with its code" grep -q 'Exit Code: *137' <(roost describe pod hog)
cgroup_of() { dirname "$(grep -l "^$(pids "$1" | cut -d ' ' -f 1)\$" "$scope"/*/pod/*/cgroup.procs)"; }
key() { awk -v key="$2" '$1 == key { print $2 }' "$1"; }
put_pod busy "[$(container main 'while :; do :; done' \
    '"resources": { "limits": { "cpu": "200m" } }')]"
until_true "running" has_status busy Running
busy=$(cgroup_of busy)
check "its quota is set" [ "$(cat "$busy/cpu.max")" = "20000 100000" ]
used=$(key "$busy/cpu.stat" usage_usec) began=$(date +%s%N)
sleep 5
used=$(($(key "$busy/cpu.stat" usage_usec) - used)) passed=$((($(date +%s%N) - began) / 1000))
echo "a busy loop with a fifth of a processor used $((used * 100 / passed)) % of one"
check "it gets no more than its quota" [ $((used * 100 / passed)) -le 23 ]
check "nor much less" [ $((used * 100 / passed)) -ge 10 ]
check "because it is throttled" [ "$(key "$busy/cpu.stat" nr_throttled)" -gt 5 ]
cat >"$out/bomb.py" <<'END'
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.fork()
    except OSError:
        pass
END
put_pod bomb "[$(container main 'exec python3 /srv/bomb.py' \
    '"resources": { "limits": { "cpu": "500m" } }')]" '@"roost/pids-limit": "30"'
until_true "running" has_status bomb Running
bomb=$(dirname "$(cgroup_of bomb)")
is_bound() { [ "$(key "$bomb/pids.events" max)" -gt 0 ]; }
until_true "a fork bomb is held" is_bound
check "it has at most 30 processes" [ "$(cat "$bomb/pids.current")" -le 30 ]
check "nobody else notices" same_pids

echo "-- gone"
# Forks faster than it could be killed one by one.
began=$SECONDS
roost delete pod bomb --wait
echo "a fork bomb was gone after $((SECONDS - began)) s, with a grace of 2 s"
check "its cgroup is gone with it" [ ! -e "$bomb" ]
rm "$manifests"/*.json
is_empty() { [ "$(find "$scope" -mindepth 1 -type d 2>/dev/null)" = "$scope/holder" ]; }
until_true "empty" is_empty
# A pod's directories go after its cgroup, as the last of it.
is_removed() { [ -z "$(find /var/lib/roost/pods /run/roost/pods /var/log/pods -mindepth 1 2>&1)" ]; }
until_true "no directory of a pod is left" is_removed
finish
