#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The same deck twice, and a run whose ranks are all killed at every fifth step, end in the same
# parameters, metrics and rollouts, bit for bit.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

run 1 "$here/problems.in"
is "problems" "$rc" 0

for stage in pretrain helpful rl ppo models; do
    run 2 "$here/$stage.in"
    is "$stage" "$rc" 0
    run 2 "$here/$stage.in" "run.dir=$ROOT/$stage.again"
    is "$stage again" "$rc" 0
    holds "$stage: the same deck twice" same_run "$stage" "$stage.again"

    for step in 5 10 15; do
        kill_at "$step" 2 "$stage.cut" "$here/$stage.in"
        is "$stage is cut at step $step, not done" "$(cat "$stage.cut/exit" 2>/dev/null)" ""
    done
    run 2 "$here/$stage.in" "run.dir=$ROOT/$stage.cut"
    is "$stage goes on" "$rc" 0
    has "$stage goes on from a checkpoint" "$out" "restarted from"
    holds "$stage: cut three times" same_run "$stage" "$stage.cut"

    run 2 "$here/$stage.in" "run.dir=$ROOT/$stage.cut"
    is "$stage is finished" "$rc" 0
    has "$stage has nothing to do" "$out" "nothing to do"
done
holds "the reward model's result" cmp helpful/result.json helpful.cut/result.json
holds "it is asked from its step on" jq -se '(.[:6] | all(.rewards.helpful.applied == 0)) and
    (.[6:] | map(.rewards.helpful.applied) | max > 0)' models/metrics.jsonl
is "the critic learns alone at first" "$(jq -s 'map(select(.grad_norm == 0)) | length' ppo/metrics.jsonl)" 3
holds "the critic learns" jq -se 'all(.critic_grad_norm > 0)' ppo/metrics.jsonl
run 2 "$here/ppo.in" "run.dir=$ROOT/rl" train.steps=21
is "a run without a critic does not go on with one" "$rc" 2
has "and says so" "$out" "wants a critic, but"
run 2 "$here/ppo.in" "run.dir=$ROOT/other" "critic.from=$ROOT/pretrain" train.steps=4
is "a critic from another model" "$rc" 0
has "its head is new" "$out" "critic from weights of $ROOT/pretrain/"
run 2 "$here/ppo.in" "run.dir=$ROOT/other3" "critic.from=$ROOT/ppo" train.steps=4
has "a critic goes on in another run" "$out" "critic from critic/weights of $ROOT/ppo/chk0000020"
run 2 "$here/ppo.in" "run.dir=$ROOT/other3" critic.from=/nowhere restart=none
is "no critic there: exit code" "$rc" 3
has "no critic there" "$out" "there is no checkpoint"
run 2 rl/deck.resolved "run.dir=$ROOT/rl.repeated"
is "a deck.resolved repeats the run" "$rc" 0
holds "a deck.resolved repeats the run" same_run rl rl.repeated
run 2 ppo/deck.resolved "run.dir=$ROOT/ppo.repeated"
holds "a deck.resolved repeats the run with a critic" same_run ppo ppo.repeated
run 2 "$here/rl.in" "run.dir=$ROOT/other2" critic.lr=1
is "keys of a critic without one" "$rc" 2
has "are told" "$out" "there is a critic with loss.advantage = gae only"
# A sequence's tokens do not depend on how many ranks there were, so they are compared by content.
is "rollouts were made" "$(ls rl/rollouts | wc -l)" 14
finish
