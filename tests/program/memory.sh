#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The arena takes what --check announces, to the byte; the process grows by that within 10 %, on a
# model of 25M parameters.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
deck="$source_dir/inputs/bench/cpu-25m.in"
options=(run.dir="$work/run" bench.steps=1 "bench.what=train checkpoint")

announced="$("$gradus" --check "$deck" "${options[@]}" | awk '$1 == "Total" { print $3 }')"
run 1 "$deck" "${options[@]}"
is "bench" "$rc" 0
is "bytes of the arena" "$(jq .arena_bytes run/bench.json)" "$announced"
is "bytes in the log" "$(awk '$1 == "Total" && NF > 4 { print $3; exit }' run/run.log)" "$announced"
grown="$(jq .resident_growth_bytes run/bench.json)"
echo "arena $announced bytes, process peak less start $grown bytes"
holds "the process grows by the arena within 10 %" \
    awk "BEGIN { r = $grown / $announced; exit !(r > 0.9 && r < 1.1) }"

# The same in the stages of the demo.
cat >tiny.in <<X
include = $source_dir/tests/restart/tiny.in
X
for stage in problems pretrain; do
    run 2 "$source_dir/tests/restart/$stage.in"
    is "$stage" "$rc" 0
done
announced="$("$gradus" --check "$source_dir/tests/restart/rl.in" --ranks 2 | awk '$1 == "Total" { print $3 }')"
run 2 "$source_dir/tests/restart/rl.in" train.steps=2
is "rl" "$rc" 0
is "rl: bytes of the arena" "$(awk '$1 == "Total" && NF > 4 { print $3; exit }' rl/run.log)" "$announced"
finish
