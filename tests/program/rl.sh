#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stage rl under the keys that change its rollouts and losses, by what its metrics say.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
run 2 "$decks/pretrain.in"
is "pretrain" "$rc" 0

# try NAME key=value...: 8 updates of the small run
try() {
    local name="$1"
    shift
    run 2 "$decks/rl.in" "run.dir=$ROOT/$name" train.steps=8 ckpt.every=0 "$@"
}
# steps NAME CONDITION: of the array of its metrics
steps() { holds "$1: $2" jq -se "$2" "$1/metrics.jsonl"; }

try plain loss.kl_coef=0.5
is "plain" "$rc" 0
# One rollout feeds three updates; the reference is replaced after the fifth.
steps plain '.[0].kl == 0 and .[0].ratio == 1'
steps plain '[.[1], .[2], .[4]] | all(.kl > 0)'
steps plain '(map(.rollout) == [0, 0, 0, 1, 1, 1, 2, 2])'

try fixed loss.kl_coef=0.5 rl.updates=1 rl.reference_every=1
is "a reference replaced after each update" "$rc" 0
steps fixed 'all(.kl == 0)'
try average loss.kl_coef=0.5 rl.updates=1 rl.reference_every=1 rl.reference_mix=0.5
is "a moving average as the reference" "$rc" 0
steps average '.[0].kl == 0 and all(.[1:][]; .kl > 0)'
try never loss.kl_coef=0.5 rl.updates=1 rl.reference_every=0
is "never" "$rc" 0
holds "an average is nearer than what never moves" jq -ne --slurpfile a average/metrics.jsonl \
    --slurpfile b never/metrics.jsonl '$a[-1].kl < $b[-1].kl'

try apart rl.keep_groups=false
is "samples dealt out one by one" "$rc" 0
steps apart 'map(.reward_mean) | .[0] == .[1]'
is "the first rollout is the same" "$(jq -s '.[0].reward_mean' apart/metrics.jsonl)" \
    "$(jq -s '.[0].reward_mean' plain/metrics.jsonl)"
holds "its updates are not" jq -ne --slurpfile a apart/metrics.jsonl --slurpfile b plain/metrics.jsonl \
    '$a[0].grad_norm != $b[0].grad_norm'
try apart2 rl.keep_groups=false rl.prompts=5
is "24 samples go into three parts, 20 do not" "$rc" 2
has "which is told" "$out" "do not divide into rl.updates = 3 parts"

try dynamic rl.dynamic_sampling=true rl.max_rounds=3
is "dynamic sampling" "$rc" 0
steps dynamic 'all(.rounds >= 1 and .rounds <= 3)'
steps dynamic 'map(.groups_replaced) | add > 0'
holds "groups with spread take the places of those without" jq -ne --slurpfile a dynamic/metrics.jsonl \
    --slurpfile b plain/metrics.jsonl '$a[0].groups_without_spread < $b[0].groups_without_spread'
try filled rl.dynamic_sampling=true rl.max_rounds=2 reward.language.weight=0 reward.accuracy.weight=0
is "no group ever has spread" "$rc" 0
has "which is told" "$out" "6 of 6 groups have no spread after rl.max_rounds = 2 rounds"
steps filled 'all(.groups_without_spread == 1 and .grad_norm >= 0)'

try entropy loss.entropy_target=99 loss.entropy_step=0.01
is "an entropy bonus that adapts" "$rc" 0
steps entropy '.[-1].entropy_coef > .[0].entropy_coef'
try calm loss.entropy_target=0.001 loss.entropy_coef=0.5 loss.entropy_step=0.1
is "calm" "$rc" 0
steps calm 'all(.entropy_coef == 0)'
try top loss.top_entropy=0.25
is "a share of the tokens by entropy" "$rc" 0
steps top 'all(.masked > 0.6 and .masked < 0.8)'

try rewards reward.tags.kind=tags reward.cosine.kind=cosine reward.repetition.kind=repetition reward.repetition.ngram=2
is "rewards of every kind" "$rc" 0
steps rewards 'all(.rewards | .cosine.mean <= 1 and .tags.mean >= 0 and .repetition.mean <= 0)'
try process loss.advantage=process reward.steps.kind=steps reward.language.weight=0.1
is "advantages of steps" "$rc" 0
steps process 'all(.loss == .loss) and (map(.grad_norm) | max > 0)'
try process2 loss.advantage=process
is "steps without a reward that has them" "$rc" 2
has "which is told" "$out" "needs a reward of single steps"

# Nearly all of the small model's responses end at the limit.
try cut rl.mask_truncated=true rollout.max_new_tokens=2
is "all responses are cut off" "$rc" 0
steps cut 'all(.truncated > 0.9 and .trained_tokens < 3)'
steps cut 'map(select(.truncated == 1)) | length > 0 and all(.trained_tokens == 0 and .loss == 0 and .grad_norm == 0)'
try penal rl.truncated_penalty=5 rollout.max_new_tokens=2
is "penal" "$rc" 0
steps penal 'all(.reward_mean < -3)'

# A third of the problems has no answer that a rule could compare with.
jq -c 'if (.id | test("[369]$")) then .reference = "" else . end' problems/train.jsonl >holes.jsonl
try holes "data.path=$ROOT/holes.jsonl"
is "answers are missing" "$rc" 0
steps holes 'map(.rewards.accuracy.unscorable) | add > 0'
# Counted over all ranks, as the metrics are: a line a step names the reward.
is "the log names what cannot judge" "$(sed -n 's/.*reward accuracy cannot judge \([0-9]*\) of .*(the first: there is no reference answer).*/\1/p' holes/run.log | tr '\n' ' ')" \
    "$(jq -s -r 'unique_by(.rollout) | map(.rewards.accuracy.unscorable | select(. > 0) | floor | tostring + " ") | add' holes/metrics.jsonl)"
steps holes 'all(.loss == .loss and .grad_norm < 1e9)'
jq -c 'if (.id | test("[369]$")) then .reference = "" else . end' problems/eval.jsonl >holes_eval.jsonl
run 2 "$decks/evaluate.in" "run.dir=$ROOT/holes_eval" "data.path=$ROOT/holes_eval.jsonl"
is "a benchmark without answers" "$rc" 0
is "whose log names what cannot judge" "$(sed -n 's/.*reward accuracy cannot judge \([0-9]*\) of .*no reference answer).*/\1/p' holes_eval/run.log | awk '{s += $1} END {print s}')" \
    "$(jq .unscorable holes_eval/result.json)"
try holes_all "data.path=$ROOT/holes.jsonl" rl.unscorable=all
is "holes_all" "$rc" 0
steps holes_all 'map(.rewards.accuracy.unscorable) | add > 0'
jq -c '.reference = ""' problems/train.jsonl >none.jsonl
try none "data.path=$ROOT/none.jsonl"
is "no answer at all" "$rc" 0
steps none 'all(.groups_without_spread == 1 and .reward_mean == 0)'

for preset in $("$gradus" --help-deck loss.preset | sed -n 's/^loss.preset = //p' | grep -v none); do
    try "preset-$preset" "loss.preset=$preset" rl.prompts=6 rl.group=4 rl.updates=3 train.lr=1e-4
    is "preset $preset" "$rc" 0
    steps "preset-$preset" 'length == 8 and all(.loss == .loss)'
done
finish
