#!/bin/bash
# Power cuts while an image is pulled, or loaded from a file: what is in the store afterwards is
# whole, and the next pull or load makes the same tree as one that nobody interrupted.
#
# ROOST_CUTS=20 tests/run cuts 20 times.
# boot: --times 1 --cut-on CUT-THE-POWER
# boot:
set -eu
shopt -s nullglob
. /share/repo/tests/vm/installed.bash
boot=$1
made=/var/lib/made           # What is made in the first boot.
registry=$made/registry/docker/registry/v2
image=127.0.0.1:5000/big:1
images=/var/lib/roost/images

# Whatever the kernel would write back by itself must wait until after the cut.
echo 600000 >/proc/sys/vm/dirty_expire_centisecs
echo 600000 >/proc/sys/vm/dirty_writeback_centisecs

# blob FILE: puts it among the blobs of layout and registry; its digest and size, as JSON.
blob() {
    local hex place
    hex=$(sha256sum "$1" | cut -d ' ' -f 1)
    place=$registry/blobs/sha256/${hex:0:2}/$hex
    mkdir -p "$place" "$made/layout/blobs/sha256" "$registry/repositories/big/_layers/sha256/$hex"
    cp "$1" "$place/data"
    cp "$1" "$made/layout/blobs/sha256/$hex"
    printf 'sha256:%s' "$hex" >"$registry/repositories/big/_layers/sha256/$hex/link"
    printf '"digest": "sha256:%s", "size": %d' "$hex" "$(stat -c %s "$1")"
}

# An image of this machine's own files in three layers, one of them with whiteouts: as an archive,
# and in a registry's own form (distribution, registry/storage/paths.go).
make_image() {
    local work=$made/work diffs='' layers='' config manifest hex link layer
    mkdir -p "$work"/{1,2/usr/lib,3/etc}
    # Not more: the machine is emulated, and the agent may be a build for debugging.
    tar -C / -c etc usr/lib/systemd/system | tar -C "$work/1" -x
    tar -C / -c var/lib/dpkg/info | tar -C "$work/2" -x
    : >"$work/2/usr/lib/.wh.systemd"
    cp -a /etc/passwd "$work/3/etc/again"
    ln "$work/3/etc/again" "$work/3/etc/linked"
    for layer in 1 2 3; do
        tar -C "$work/$layer" --sort=name --format=pax -cf "$work/tar" .
        diffs+="${diffs:+, }\"sha256:$(sha256sum "$work/tar" | cut -d ' ' -f 1)\""
        gzip -1 "$work/tar"
        layers+="${layers:+, }{ \"mediaType\": \"application/vnd.oci.image.layer.v1.tar+gzip\", $(
            blob "$work/tar.gz") }"
        rm "$work/tar.gz"
    done
    echo "{ \"architecture\": \"amd64\", \"os\": \"linux\", \"config\": {},
        \"rootfs\": { \"type\": \"layers\", \"diff_ids\": [$diffs] } }" >"$work/config"
    config=$(blob "$work/config")
    manifest=application/vnd.oci.image.manifest.v1+json
    echo "{ \"schemaVersion\": 2, \"mediaType\": \"$manifest\",
        \"config\": { \"mediaType\": \"application/vnd.oci.image.config.v1+json\", $config },
        \"layers\": [$layers] }" >"$work/manifest"
    hex=$(sha256sum "$work/manifest" | cut -d ' ' -f 1)
    echo "{ \"schemaVersion\": 2, \"manifests\": [{ \"mediaType\": \"$manifest\",
        $(blob "$work/manifest"), \"annotations\": {
        \"org.opencontainers.image.ref.name\": \"$image\" } }] }" >"$made/layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$made/layout/oci-layout"
    for link in revisions/sha256/$hex tags/1/current tags/1/index/sha256/$hex; do
        mkdir -p "$registry/repositories/big/_manifests/$link"
        printf 'sha256:%s' "$hex" >"$registry/repositories/big/_manifests/$link/link"
    done
    tar -C "$made/layout" -cf "$made/big.tar" .
    rm -r "$work" "$made/layout"
    cat >"$made/registry.yml" <<END
version: 0.1
storage: { filesystem: { rootdirectory: $made/registry } }
http: { addr: "127.0.0.1:5000" }
END
}

# What lies in the store, a line a file: everything of it but its inode.
store() {
    local layer
    for layer in "$images"/layers/*; do
        [ -e "$layer/fs" ] || continue
        (
            cd "$layer"
            find fs layer.json -type f -exec sha256sum {} +
            find fs -type f -printf '%p %y %m %U:%G %s %T@ %n\n' -o \
                -type c -printf '%p %y\n' -o -printf '%p %y %m %U:%G %T@ %l\n'
        ) | sed "s|^|${layer##*/} |"
    done | LC_ALL=C sort
}

# By turns: a pull, and a load of an archive.
bring() {
    if [ $((boot % 2)) = 1 ]; then
        roost image pull "$image"
    else
        roost image load "$made/big.tar"
    fi
}

is_served() { (: </dev/tcp/127.0.0.1/5000) 2>/dev/null; }

serve() {
    /share/bin/docker-registry serve "$made/registry.yml" >/run/registry.log 2>&1 &
    until_true "served" is_served
}

if [ "$boot" = 1 ]; then
    mkdir -p "$made"
    make_image
    install_roost
    serve
    for boot in 1 2; do
        begun=${EPOCHREALTIME/./}
        bring
        echo $((${EPOCHREALTIME/./} - begun)) >"$made/took-$((boot % 2))"
        store >"$made/expected-$boot"
        roost image rm "$image"
        check "nothing is left of what was removed" [ -z "$(store)" ]
    done
    boot=1
    check "a load makes what a pull makes" cmp "$made/expected-1" "$made/expected-2"
    check "there are many files" [ "$(wc -l <"$made/expected-1")" -gt 500 ]
    sync
else
    check "the agent is ready" [ "$(systemctl is-active roost)" = active ]
    serve
    store >/run/found
    echo "boot $boot: $(wc -l </run/found) of $(wc -l <"$made/expected-1") lines were there, $(
        ls "$images/partial" | wc -l) partial downloads; $(roost image ls | tail -n +2 | wc -l) images"
    check "of layers that are there, everything is" \
        [ -z "$(LC_ALL=C comm -23 /run/found "$made/expected-1")" ]
    if [ -e "$made/through" ]; then
        check "an image that was said to be here is" cmp /run/found "$made/expected-1"
    fi
    check "the next try succeeds" bring
    store >/run/found
    check "its tree is right" cmp /run/found "$made/expected-1"
    roost image rm "$image"
    check "nothing is left of it" [ -z "$(store)" ]
    rm -f "$made/through"
    sync
fi
finish
if [ -n "${ROOST_VM_CUT:-}" ]; then
    # What was fetched when the power is cut is different every time.
    (bring && touch "$made/through" && sync "$made/through" "$made") >/run/brought 2>&1 &
    took=$(cat "$made/took-$((boot % 2))")
    micros=$((SRANDOM % (took + took / 10)))
    echo "boot $boot: cut after $micros of $took microseconds"
    sleep "$(printf '%d.%06d' $((micros / 1000000)) $((micros % 1000000)))"
    echo CUT-THE-POWER
    sleep infinity
fi
echo "power cuts: every image is whole"
