#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Sampling in parts: a run of evaluate or sample that is killed or stopped keeps its finished parts and ends in the bits
# of one that was not cut; shards are merged into what one run measures.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
run 1 "$here/problems.in"
is "problems" "$rc" 0
run 2 "$here/pretrain.in"
is "pretrain" "$rc" 0

cat >evaluate.in <<X
include = $here/tiny.in
stage = evaluate
run.dir = \$ROOT/whole
model.from = \$ROOT/pretrain
data.path = \$ROOT/problems/eval.jsonl
rollout.max_new_tokens = 100
rollout.part = 2
eval.n = 16
X
sed 's/evaluate/sample/; s/^eval.n.*/sample.n = 16\nsample.keep_correct = false\nsample.keep_format = false/' evaluate.in >sample.in
run 2 evaluate.in
is "evaluate" "$rc" 0
is "evaluate: a file a part and rank" "$(find whole/rollouts -name '*.h5' | wc -l)" 16

# result DIR: without rates and the name of the folder
result() { jq -c 'del(.generated_tokens_per_s, .name)' "$1/result.json"; }
# cut DIR FILES DECK key=value...: starts it and kills all ranks when it has that many rollout files
cut() {
    local dir="$1" files="$2"
    mpirun -np 2 "$gradus" "${@:3}" "run.dir=$ROOT/$dir" >"$dir.out" 2>&1 &
    launcher=$!
    until (($(find "$dir/rollouts" -name '*.h5' 2>/dev/null | wc -l) >= files)) || ! kill -0 "$launcher" 2>/dev/null; do
        sleep 0.01
    done
    # shellcheck disable=SC2046
    kill -KILL $(pgrep -P "$launcher") 2>/dev/null
    wait "$launcher" 2>/dev/null
}
cut cut 3 evaluate.in
is "killed, not done" "$(cat cut/exit 2>/dev/null)" ""
: >"cut/rollouts/step0000000.rank00000.part007.h5.tmp"
run 2 evaluate.in "run.dir=$ROOT/cut"
is "killed: goes on" "$rc" 0
has "killed: keeps what was finished" "$out" "parts are there from before"
is "killed: the same result" "$(result cut)" "$(result whole)"
holds "killed: the same table" diff -r cut/rollouts whole/rollouts

cut damaged 5 evaluate.in
truncate -s 1000 "$(find damaged/rollouts -name '*.rank00001.*.h5' | head -n 1)"
run 2 evaluate.in "run.dir=$ROOT/damaged"
is "a damaged part: goes on" "$rc" 0
has "a damaged part: said" "$out" "its part is sampled again"
holds "a damaged part: the same table" diff -r damaged/rollouts whole/rollouts

# stopped DIR DECK key=value...: a `stop` file as soon as there is a part
stopped() {
    local dir="$1"
    mpirun -np 2 "$gradus" "${@:2}" "run.dir=$ROOT/$dir" >"$dir.out" 2>&1 &
    launcher=$!
    until compgen -G "$dir/rollouts/*.h5" >/dev/null || ! kill -0 "$launcher" 2>/dev/null; do sleep 0.01; done
    touch "$dir/stop"
    wait "$launcher"
    is "$dir: stops with 75" "$?" 75
    is "$dir: file exit" "$(cat "$dir/exit")" 75
    has "$dir: why" "$(cat "$dir.out")" "stop file"
}
stopped halted evaluate.in
run 2 evaluate.in "run.dir=$ROOT/halted"
is "stopped: goes on" "$rc" 0
is "stopped: the same result" "$(result halted)" "$(result whole)"
holds "stopped: the same table" diff -r halted/rollouts whole/rollouts

run 2 sample.in "run.dir=$ROOT/sampled"
is "sample" "$rc" 0
stopped sampling sample.in
run 2 sample.in "run.dir=$ROOT/sampling"
is "sample goes on" "$rc" 0
holds "sample: the same data" cmp sampling/sft.jsonl sampled/sft.jsonl

# A rollout of rl goes in parts too.
rl=("$here/rl.in" ckpt.async=false rollout.part=2 rollout.max_new_tokens=100 train.steps=9 rl.updates=1)
run 2 "${rl[@]}" "run.dir=$ROOT/rl"
is "rl" "$rc" 0
holds "rl: nothing is left of its parts" test ! -e rl/sampling
# in_the_middle DIR COMMAND...: does that when the third rollout has a part of both ranks. The checkpoint before it is
# there by then: one that is written in the background may be lost, and the parts with it.
in_the_middle() {
    local dir="$1"
    mpirun -np 2 "$gradus" "${rl[@]}" ckpt.every=1 "run.dir=$ROOT/$dir" >"$dir.out" 2>&1 &
    launcher=$!
    until { compgen -G "$dir/sampling/step0000002*/rollouts/*.rank00000.part000.h5" && compgen -G "$dir/sampling/step0000002*/rollouts/*.rank00001.part000.h5"; } >/dev/null ||
        ! kill -0 "$launcher" 2>/dev/null; do :; done
    "${@:2}"
    wait "$launcher" 2>/dev/null
    ended=$?
}
# shellcheck disable=SC2046
in_the_middle rl.killed eval 'kill -KILL $(pgrep -P "$launcher")'
run 2 "${rl[@]}" ckpt.every=1 ckpt.keep=3 "run.dir=$ROOT/rl.killed"
is "rl, killed in the middle of sampling: goes on" "$rc" 0
has "rl, killed in the middle of sampling: keeps parts" "$out" "parts are there from before"
holds "rl, killed in the middle of sampling: the same bits" same_run rl rl.killed
in_the_middle rl.other touch rl.other/stop
printf '{}' >"$(find rl.other/sampling -name parts.json)"
run 2 "${rl[@]}" ckpt.every=1 "run.dir=$ROOT/rl.other"
is "rl, parts that nobody can read: goes on" "$rc" 0
has "rl, parts that nobody can read: said" "$out" "they are sampled again"
holds "rl, parts that nobody can read: the same bits" same_run rl rl.other
in_the_middle rl.halted touch rl.halted/stop
is "rl, stopped in the middle of sampling" "$ended" 75
has "rl, stopped in the middle of sampling: says where" "$(cat rl.halted.out)" "in the middle of a rollout"
run 2 "${rl[@]}" ckpt.every=1 "run.dir=$ROOT/rl.halted"
is "rl, stopped in the middle of sampling: goes on" "$rc" 0
has "rl, stopped in the middle of sampling: keeps parts" "$out" "parts are there from before"
holds "rl, stopped in the middle of sampling: the same bits" same_run rl rl.halted

# Another deck, other prompts.
stopped changed evaluate.in
run 2 evaluate.in "run.dir=$ROOT/changed" rollout.temperature=0.5
is "other keys: exit code" "$rc" 2
has "other keys: which" "$out" "rollout.temperature: 1 -> 0.5"
sed -i '1s/[0-9]/9/g' problems/eval.jsonl
run 2 evaluate.in "run.dir=$ROOT/changed"
is "other prompts: exit code" "$rc" 3
has "other prompts: what to do" "$out" "restart = none"
run 2 evaluate.in "run.dir=$ROOT/changed" restart=none
is "anew" "$rc" 0
run 1 "$here/problems.in" restart=none
is "the prompts as they were" "$rc" 0

# Parts are of one policy: that of a run which is still training may be another one in the next job.
cp -r pretrain moving
stopped moved evaluate.in "model.from=$ROOT/moving"
run 2 "$here/pretrain.in" "run.dir=$ROOT/moving" train.steps="$(($(tr -dc 0-9 <moving/latest | sed 's/^0*//') + 1))"
is "the policy moves on" "$rc" 0
run 2 evaluate.in "run.dir=$ROOT/moved" "model.from=$ROOT/moving"
is "another policy: exit code" "$rc" 3
has "another policy: whose parts they are" "$out" "were sampled by $ROOT/moving/$(cat pretrain/latest) (index"
has "another policy: whose they are not" "$out" "this run's policy is $ROOT/moving/$(cat moving/latest) (index"

# A policy that is not there yet leaves no parts behind that a later one could take for its own.
run 2 evaluate.in "run.dir=$ROOT/early" "model.from=$ROOT/later"
is "no policy yet: exit code" "$rc" 3
has "no policy yet" "$out" "there is no checkpoint; has that stage finished?"
holds "no policy yet: nothing is left" test ! -e early/parts.json

# Shards sample what the whole run does.
for shard in 0 1 2; do
    run 1 evaluate.in "run.dir=$ROOT/shard.$shard" data.num_shards=3 "data.shard=$shard"
    is "shard $shard" "$rc" 0
done
merge=(evaluate.in "run.dir=$ROOT/merged")
run 2 "${merge[@]}" "rollout.merge=$ROOT/shard.0 $ROOT/shard.2"
is "a shard is missing: exit code" "$rc" 3
has "a shard is missing: said" "$out" "has 0 of 16 samples"
run 2 "${merge[@]}" "rollout.merge=$ROOT/shard.0 $ROOT/shard.1 $ROOT/shard.1 $ROOT/shard.2"
has "a shard twice" "$out" "has 32 of 16 samples"
run 2 "${merge[@]}" "rollout.merge=$ROOT/shard.0 $ROOT/shard.1 $ROOT/shard.2" rollout.temperature=0.7
has "shards of another deck" "$out" "rollout.temperature: 1 -> 0.7"
run 1 evaluate.in "run.dir=$ROOT/other" data.num_shards=3 data.shard=1 "model.from=$ROOT/moving/$(cat moving/latest)"
cp shard.1/deck.resolved other/deck.resolved
run 2 "${merge[@]}" "rollout.merge=$ROOT/shard.0 $ROOT/other $ROOT/shard.2"
is "a shard of another policy: exit code" "$rc" 3
has "a shard of another policy: what to do" "$out" "sample it again with model.from = $ROOT/pretrain"
run 2 "${merge[@]}" "rollout.merge=$ROOT/shard.0 $ROOT/shard.1 $ROOT/shard.2"
is "merged" "$rc" 0
is "merged: what one run measures" "$(result merged)" "$(result whole)"
finish
