#!/bin/bash
# The shutdown of the machine: pods end by ascending priority, each with its grace period, and run
# again after the boot.
# boot:
# boot:
set -eu
. /share/repo/tests/vm/installed.bash
says() { # NAME SECONDS: says when it begins and, so much later than it is told to, when it ends.
    echo "trap 'sleep $2; echo $1 >>/srv/ended; sync; exit 0' TERM; echo >>/srv/begun; \
while :; do sleep 1000 & wait; done"
}
begun() { [ "$(cat "$out/begun" 2>/dev/null | wc -l)" = "$1" ]; }

case $1 in
1)
    install_roost
    for pod in 'high 9 0' 'low -3 0.6' 'middle 0 0.3'; do
        read -r name priority seconds <<<"$pod"
        put_pod "$name" "[$(container main "$(says "$name" "$seconds")")]" \
            "\"priority\": $priority"
    done
    until_true "told that they listen" begun 3
    # The agent alone ends here: nobody else does.
    systemctl restart roost
    check "pods go on when the agent is restarted" [ ! -e "$out/ended" ]
    ;;
2)
    check "they ended by priority: $(tr '\n' ' ' <"$out/ended")" \
        [ "$(tr '\n' ' ' <"$out/ended")" = 'low middle high ' ]
    until_true "begun again" begun 6
    for pod in low middle high; do
        until_true "running: $pod" has_status "$pod" Running
    done
    ;;
esac
finish
