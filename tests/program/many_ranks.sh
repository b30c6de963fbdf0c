#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Many ranks on few cores: start-up, collectives, a checkpoint and the exit of two steps of the demo's first stage, in
# the time that the log states, with the losses of one rank.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
ranks="${MANY_RANKS:-64}"
"$gradus" "$source_dir/inputs/demo/problems.in" run.dir="$work/problems" >/dev/null || exit 1

# As many tokens a step as give every rank a micro-batch.
options=(train.steps=2 train.warmup=0 train.tokens_per_step=65536 train.micro_tokens=1024)
losses() { jq -s 'map(.loss)' "$1/metrics.jsonl"; }
# near A B RELATIVE: lists of numbers
near() { jq -en "[$1, $2] | transpose | all((.[0] - .[1]) / .[0] | fabs < $3)" >/dev/null; }

began=$EPOCHREALTIME
run "$ranks" "$source_dir/inputs/demo/base.in" run.dir="$work/many" "${options[@]}"
wall="$(jq -n "$EPOCHREALTIME - $began")"
is "$ranks ranks" "$rc" 0
has "they are all there" "$(cat many/run.log)" "on $ranks ranks"
stated="$(jq '.start_seconds + .seconds' many/summary.json)"
echo "$ranks ranks on $(nproc --all) cores: the log states $stated s, the launcher took $wall s"
holds "the time that the log states" awk "BEGIN { exit !($stated < $wall && $wall < 1.2 * $stated + 5) }"
out="$("$gradus" --verify-checkpoint many/chk0000002 2>&1)"
is "the checkpoint: $out" $? 0
is "shards" "$(ls many/chk0000002/shard_* | wc -l)" "$ranks"

run 1 "$source_dir/inputs/demo/base.in" run.dir="$work/one" "${options[@]}"
is "one rank" "$rc" 0
holds "losses $(losses many) are $(losses one)" near "$(losses many)" "$(losses one)" 1e-5

# What a step's control messages cost as ranks grow.
printf '%8s %20s\n' ranks "control, us a step"
for ((n = 2; n <= ranks; n *= 2)); do
    run "$n" "$source_dir/inputs/bench/cpu-25m.in" run.dir="$work/control" bench.what=control bench.steps=3
    is "bench on $n ranks" "$rc" 0
    printf '%8d %20.1f\n' "$n" "$(jq '.control.seconds_a_step * 1e6' control/bench.json)"
done
finish
