#!/bin/bash
# What the machine keeps when its power is cut: everything that was synced, nothing that was
# only written. Tests of the agent build on this, so it is tested itself.
# boot: --cut-on CUT-THE-POWER
# boot:
# boot:
set -eu
kept=/var/lib/kept
case $1 in
1)
    mkdir "$kept"
    # Whatever the kernel would write back by itself must wait until after the cut.
    echo 600000 >/proc/sys/vm/dirty_expire_centisecs
    echo 600000 >/proc/sys/vm/dirty_writeback_centisecs
    echo synced >"$kept/synced" && sync "$kept/synced" "$kept"
    echo lost >"$kept/written"
    echo CUT-THE-POWER
    sleep infinity
    ;;
2)
    [ "$(cat "$kept/synced")" = synced ]
    [ "$(cat "$kept/written" 2>/dev/null)" != lost ]
    echo clean >"$kept/clean"
    ;;
3) # The end of a boot without a cut is an orderly one.
    [ "$(cat "$kept/clean")" = clean ]
    echo "power cuts: synced data was kept, unsynced data was lost"
    ;;
esac
