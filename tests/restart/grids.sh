#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A checkpoint of 2 x 1 ranks goes on at other grids with losses equal to rounding.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

run 1 "$here/problems.in"
is "problems" "$rc" 0
run 2 "$here/pretrain.in" "run.dir=$ROOT/whole"
is "the whole run" "$rc" 0
kill_at 9 2 start "$here/pretrain.in"
is "cut" "$(cat start/exit 2>/dev/null)" ""

# losses DIR: step and loss, a line a step
losses() { jq -r '"\(.step) \(.loss)"' "$1/metrics.jsonl"; }
# Largest relative difference of the losses of two runs; 1 where steps differ.
difference() {
    paste -d ' ' <(losses "$1") <(losses "$2") | awk '
        { d = ($2 - $4) / $2; if (d < 0) d = -d; if ($1 != $3) d = 1; if (d > most) most = d }
        END { if (NR != 20) most = 1; print most }'
}
for grid in 1x1 1x2 2x2 4x1; do
    data="${grid%x*}" tensor="${grid#*x}"
    cp -r start "$grid"
    run $((data * tensor)) "$here/pretrain.in" "run.dir=$ROOT/$grid" "grid.tensor=$tensor"
    is "$grid goes on" "$rc" 0
    has "$grid goes on from a checkpoint" "$out" "restarted from $ROOT/$grid/chk"
    most="$(difference whole "$grid")"
    echo "$grid: largest relative difference of a loss: $most"
    holds "$grid: losses equal to rounding ($most)" awk "BEGIN { exit !($most < 1e-4) }"
done
# And back: what 2 x 2 wrote is read at 2 x 1.
run 2 "$here/pretrain.in" "run.dir=$ROOT/back" "model.from=$ROOT/2x2" train.steps=2
is "2x1 reads the checkpoint of 2x2" "$rc" 0
finish
