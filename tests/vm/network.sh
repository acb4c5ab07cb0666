#!/bin/bash
# Networks of 20 pods over a power cut: every pod has an address again, no two the same, and nothing
# of the boot before is left. SCTP, which the kernel of the tests' own host may lack.
#
# boot: --cut-on CUT-THE-POWER
# boot:
set -eu
. /share/repo/tests/vm/installed.bash
boot=$1
count=20

forever='while :; do sleep 1000; done'
sctp="exec python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
s.bind((str(), 80))
s.listen()
while True:
    c, peer = s.accept()
    c.sendall(bytes([104, 105]))
    c.close()'"

all_run() {
    [ "$(roost get pods | awk '$3 == "Running"' | wc -l)" = "$count" ]
}
addresses() { cut -f 1 /run/roost/names | grep '^10\.'; }
records() { find /var/lib/roost/networks -name '*.json' | wc -l; }
links() { grep -cE '^ *roost[0-9a-f]{8}:' /proc/net/dev || true; }
all_are() { [ "$(addresses | wc -l)" = "$1" ] && [ "$(records)" = "$1" ] && [ "$(links)" = "$1" ]; }
none_is() { [ "$(records)" = 0 ] && [ "$(links)" = 0 ]; }

# Asks the pod's server by a port of the host.
ask_sctp() {
    python3 - "$1" <<'END'
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
s.settimeout(20)
s.connect((sys.argv[1], 18080))
assert s.recv(10) == b"hi"
END
}

check_all() {
    check "boot $boot: the agent is ready" [ "$(systemctl is-active roost)" = active ]
    until_true "running" all_run
    until_true "$count addresses, records and interfaces" all_are "$count"
    check "no address is used twice" [ -z "$(addresses | sort | uniq -d)" ]
    if [ -e "$manifests/sctp.json" ]; then
        check "SCTP by 127.0.0.1" until_true "answered" ask_sctp 127.0.0.1
        check "SCTP by the gateway" ask_sctp 10.213.0.1
    fi
}

case $boot in
1)
    install_roost
    last=$count
    if ! command -v python3 >/dev/null || ! modprobe sctp 2>/dev/null; then
        echo "SCTP is left out: it takes python3 and the kernel's module sctp"
    else
        last=$((count - 1))
        put_pod sctp "[$(container main "$(printf %s "$sctp" | sed ':a;N;$!ba;s/\n/\\n/g')" \
            '"ports": [{ "containerPort": 80, "hostPort": 18080, "protocol": "SCTP" }]')]"
    fi
    for n in $(seq 1 "$last"); do
        put_pod "p$n" "[$(container main "$forever" \
            "\"ports\": [{ \"containerPort\": 80, \"hostPort\": $((19000 + n)) }]")]"
    done
    sync
    check_all
    finish
    echo CUT-THE-POWER
    sleep infinity
    ;;
2)
    check_all
    rm "$manifests"/*.json
    until_true "nothing of any network is left" none_is
    finish
    echo "networks: $count pods have addresses of their own before and after a power cut"
    ;;
esac
