# For the scripts here: a machine with Roost installed as packaging/README.md says.
# Expects what tests/run shares. Sourced, not run.

manifests=/etc/roost/pods.d
out=/var/lib/out # What containers share with the script; they see it as /srv.
scope=/sys/fs/cgroup/roost.slice/roost-pods.scope
patience=120 # Seconds; the machine is emulated.
failed=0

install_roost() {
    install -m 755 /share/bin/roost /share/bin/roost-executor /usr/bin/
    install -m 644 /share/repo/packaging/roost.{service,slice} /etc/systemd/system/
    mkdir -p "$manifests" "$out"
    systemctl daemon-reload
    # Returns when it is ready: the unit is of type notify.
    systemctl --quiet enable --now roost
}

# put_pod NAME CONTAINERS [LINE OF SPEC...] [@ANNOTATION...]: puts a manifest as users should,
# written apart and then renamed. CONTAINERS is a JSON list.
put_pod() {
    local name=$1 containers=$2 annotations='' spec='' item
    shift 2
    for item; do
        case $item in
        @*) annotations+=", ${item#@}" ;;
        *) spec+=", $item" ;;
        esac
    done
    cat >"$manifests/.$name.draft" <<END
{ "apiVersion": "v1", "kind": "Pod",
  "metadata": { "name": "$name", "annotations": {
    "roost/backoff-initial": "1s"$annotations } },
  "spec": { "terminationGracePeriodSeconds": 2,
    "volumes": [{ "name": "out", "hostPath": { "path": "$out", "type": "Directory" } }],
    "containers": $containers$spec } }
END
    mv "$manifests/.$name.draft" "$manifests/$name.json"
}

# container NAME SCRIPT [FIELD...]: one for put_pod. The script has no double quotes in it.
container() {
    local name=$1 script=$2 field fields=''
    shift 2
    for field; do fields+=", $field"; done
    printf '{ "name": "%s", "command": ["/bin/sh", "-c", "%s"],
      "volumeMounts": [{ "name": "out", "mountPath": "/srv" }]%s }' "$name" "$script" "$fields"
}

# status POD: as `get pods` has it.
status() {
    roost get pods "$1" 2>/dev/null | awk 'NR == 2 { print $3 }'
}

# pids POD: the host's pid of each running container with its start time, so that two that are
# equal are the same processes.
pids() {
    local pid
    for pid in $(roost describe pod "$1" | awk '$1 == "Process:" { print $2 }'); do
        # The name in the second field may have spaces.
        echo "$pid $(sed 's/.*) //' "/proc/$pid/stat" | cut -d ' ' -f 20)"
    done
}

# until_true WHAT COMMAND...: waits for it.
until_true() {
    local what=$1 end=$((SECONDS + patience))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$end" ]; then
            fail "not $what within $patience s"
            return
        fi
        sleep 0.3
    done
}

has_status() {
    [ "$(status "$1")" = "$2" ]
}

# check WHAT COMMAND...: says how it went, and goes on.
check() {
    local what=$1
    shift
    if "$@"; then
        echo "ok: $what"
    else
        fail "$what"
    fi
}

fail() {
    echo "FAILED: $*" >&2
    failed=$((failed + 1))
}

# Ends the script, with what may explain a failure.
finish() {
    if [ "$failed" != 0 ]; then
        {
            roost status
            roost get pods
            journalctl --no-pager -b -u roost | tail -n 40
            tail -n 5 /run/roost/pods/*/executor.log
        } >&2
        exit 1
    fi
}
