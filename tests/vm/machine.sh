#!/bin/bash
# The machine is what the other scripts take it for.
set -eu
[ "$(cat /proc/1/comm)" = systemd ]
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]
for controller in cpuset cpu io memory pids; do
    grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers
done
[ "$(systemctl is-system-running)" = running ]
[ "$(ls /sys/class/net)" = lo ]
if touch /share/written 2>/dev/null; then exit 1; fi
systemd-run --quiet --scope --slice=roost.slice true
echo "machine: systemd $(systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')," \
    "Linux $(uname -r), cgroup v2, loopback only"
