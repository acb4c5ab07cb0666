#!/bin/bash
# The tests that run real containers, once more where systemd owns the cgroups and all of them
# are version 2.
set -eu
mkdir -p "$ROOST_REPO"
cp -a /share/repo/. "$ROOST_REPO"
mkdir -p "$ROOST_TARGET"
mount --bind /share/bin "$ROOST_TARGET"
cd "$ROOST_REPO"
if [ ! -d /share/tests ]; then
    echo "no host test was shared with this machine" >&2
    exit 1
fi
for test in /share/tests/*; do
    echo "-- $test"
    "$test"
done
