#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stage reward_model and its models in stage rl: what is learnt, what is refused, when and for which prompts a model is
# asked.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
run 2 "$decks/pretrain.in"
is "pretrain" "$rc" 0
# steps NAME CONDITION: of the array of its metrics
steps() { holds "$1: $2" jq -se "$2" "$1/metrics.jsonl"; }
# result NAME CONDITION
result() { holds "$1: $2" jq -e "$2" "$1/result.json"; }

# --- Pairs ---
run 2 "$decks/helpful.in" train.steps=40
is "pairs" "$rc" 0
has "rows are counted" "$out" "100 rows of prompt with chosen, rejected"
result helpful '.kind == "pairwise" and .of == "held-out" and .rows >= 15 and .accuracy >= 0.6 and .brier < 0.25'
steps helpful 'length == 40 and .[0].accuracy == 0.5 and (.[-10:] | map(.accuracy) | add / 10 > 0.65)'
steps helpful 'map(select(.held_out != null) | .step) == [3,6,9,12,15,18,21,24,27,30,33,36,39]'
holds "the end of the run says the same" jq -ne --slurpfile a helpful/summary.json --slurpfile b helpful/result.json \
    '$a[0].accuracy == $b[0].accuracy'
# Which ranks there are does not matter.
run 1 "$decks/helpful.in" "run.dir=$ROOT/helpful1" train.steps=10 train.micro_tokens=300
is "on one rank" "$rc" 0
holds "the same losses" jq -ne --slurpfile a helpful1/metrics.jsonl --slurpfile b helpful/metrics.jsonl \
    '[range(3)] | all(($a[.].loss - $b[.].loss) | fabs < 1e-4)'
run 2 "$decks/helpful.in" "run.dir=$ROOT/helpful2" train.steps=10 grid.tensor=2
is "on tensor ranks" "$rc" 0
holds "the same losses" jq -ne --slurpfile a helpful2/metrics.jsonl --slurpfile b helpful/metrics.jsonl \
    '[range(3)] | all(($a[.].loss - $b[.].loss) | fabs < 1e-4)'
run 2 "$decks/helpful.in" "run.dir=$ROOT/helpful2" train.steps=10 grid.tensor=2
has "nothing is left to do" "$out" "finished before"

# --- Labels ---
run 2 "$decks/helpful.in" "run.dir=$ROOT/harmless" "data.path=$ROOT/problems/harmless.jsonl" reward_model.kind=pointwise \
    reward_model.center_coef=0 train.steps=60
is "labels" "$rc" 0
result harmless '.kind == "pointwise" and .accuracy > 0.7'

# --- What is refused ---
bad() {
    local what="$1" code="$2" part="$3"
    shift 3
    run 1 "$decks/helpful.in" "run.dir=$ROOT/bad" restart=none "$@"
    is "$what" "$rc" "$code"
    has "$what is told" "$out" "$part"
}
printf '%s\n' '{"prompt": "q", "chosen": "a", "rejected": "b"}' '{"prompt": "q", "chosen": "a", "rejected": "a"}' >same.jsonl
bad "a pair of the same" 3 "same.jsonl:2: \"chosen\" and \"rejected\" are the same" "data.path=$ROOT/same.jsonl"
bad "a row without a response" 3 "train.jsonl:1: there is no field \"chosen\"" "data.path=$ROOT/problems/train.jsonl"
printf '[{"prompt": "q", "chosen": "a", "rejected": "b"},\n{"prompt": "q", "chosen": "a"' >torn.json
bad "a torn array" 3 "torn.json:2: the file ends before its array does" "data.path=$ROOT/torn.json"
bad "a label where pairs stand" 3 "there is no field \"safe\"" reward_model.kind=pointwise reward_model.center_coef=0
bad "too long a row" 3 "the least of train.max_length" train.max_length=30
bad "all rows held out" 3 "leaves none of" "data.path=$ROOT/same.jsonl" data.bad_lines=skip
bad "nothing to measure on" 2 "eval.every needs rows to measure on" data.eval_share=0
bad "two sources of rows to measure on" 2 "leave one out" "data.eval_path=$ROOT/problems/helpful.jsonl"
bad "center of labels" 2 "is of pairs" reward_model.kind=pointwise
bad "steps and epochs" 2 "exactly one of" train.epochs=2
bad "a model's key" 3 "is of another model" model.hidden=64
run 1 "$decks/helpful.in" "run.dir=$ROOT/both" "data.eval_path=$ROOT/problems/helpful.jsonl" data.eval_share=0 train.steps=2
is "rows to measure on from a file" "$rc" 0
result both '.rows == 100'
run 1 "$decks/helpful.in" "run.dir=$ROOT/on" "model.from=$ROOT/helpful" train.steps=1 train.lr=0
is "a reward model is trained on" "$rc" 0
holds "from what it knows" jq -e '.loss < 0.6' on/metrics.jsonl
out="$("$gradus" --check "$decks/helpful.in" --ranks 4 2>&1)"
is "the plan" "$?" 0
has "counts rows" "$out" "100 of prompt with chosen, rejected"
has "and memory" "$out" "policy.weights"

# --- In stage rl ---
cat problems/train.jsonl problems/requests.jsonl >mixed.jsonl
models=("data.path=$ROOT/mixed.jsonl" reward.accuracy.applies_to=math reward.helpful.kind=model
    "reward.helpful.from=$ROOT/helpful" reward.helpful.part=answer reward.helpful.applies_to=helpful
    reward.helpful.normalise=score reward.safe.kind=model "reward.safe.from=$ROOT/harmless"
    reward.safe.applies_to=harmless reward.safe.normalise=sigmoid)
# try NAME RANKS key=value...: 6 updates, one a rollout
try() {
    local name="$1" ranks="$2"
    shift 2
    run "$ranks" "$decks/rl.in" "run.dir=$ROOT/$name" train.steps=6 ckpt.every=0 rl.updates=1 "${models[@]}" "$@"
}
try models 2
is "two reward models" "$rc" 0
steps models 'all(.rewards.helpful.applied + .rewards.safe.applied + .rewards.accuracy.applied == 24)'
steps models 'map(.rewards.helpful.applied) | add > 0'
steps models 'map(.rewards.safe | select(.applied > 0)) | length > 0 and all(.mean > 0 and .mean < 1)'
steps models 'all(.rewards | [.helpful, .safe, .accuracy] | all(.unscorable == 0))'
steps models 'all(.kinds | map(.rows) | add == 24)'
steps models 'map(select(.rewards.helpful.applied > 0) | .rewards.helpful.std) | all(. > 0)'
has "rows show what does not apply" "$("$gradus" show models --step 0 --pick all)" " helpful - "
try tensor 2 grid.tensor=2
holds "the same scores on tensor ranks" jq -ne --slurpfile a tensor/metrics.jsonl --slurpfile b models/metrics.jsonl \
    '($a[0].rewards.safe.mean // 0) - ($b[0].rewards.safe.mean // 0) | fabs < 1e-4'
try again 2
is "again" "$rc" 0
holds "the same bits" same_run models again

# From step 3 on; prompts that only models are for are passed over before.
try late 2 "reward.helpful.weight=0:0 3:0.5" "reward.safe.weight=0:0 3:0.5" reward.format.applies_to=math \
    reward.language.applies_to=math
is "preference rewards from step 3 on" "$rc" 0
steps late '.[:3] | all(.rewards.helpful.applied == 0 and .rewards.helpful.mean == null and (.kinds | keys) == ["math"])'
steps late '.[3:] | map(.rewards.helpful.applied + .rewards.safe.applied) | add > 0'
try measured 2 reward.helpful.weight=0
is "a model that is only measured" "$rc" 0
steps measured 'map(.rewards.helpful.applied) | add > 0'

# Numbers that are none: the response has no score, and the run goes on.
run 1 "$decks/helpful.in" "run.dir=$ROOT/nan" train.steps=2 train.lr=3e38 optim.weight_decay=0 ckpt.every=1
is "weights that overflow end the stage" "$rc" 4
has "which is told" "$out" "the score of sequence"
try not-finite 1 "reward.helpful.from=$ROOT/nan" reward.helpful.normalise=none
is "scores that are not finite" "$rc" 0
has "are counted" "$out" "scores are not finite"
steps not-finite 'map(.rewards.helpful.unscorable) | add > 0'
steps not-finite 'all(.rewards.helpful.unscorable == (.rewards.helpful.applied // 24))'
steps not-finite 'all(.loss == .loss and .grad_norm < 1e9)'
try unfinished 1 "reward.helpful.from=$ROOT/nan"
is "a model without a mean of its scores" "$rc" 3
has "which is told" "$out" "knows no mean of its scores"
try policy 1 "reward.helpful.from=$ROOT/pretrain"
is "a policy is no reward model" "$rc" 3
has "which is told" "$out" "holds no reward model"
try nowhere 1 "reward.helpful.from=$ROOT/nowhere"
has "no run there" "$out" "there is no checkpoint; has that stage finished?"
try offload 1 reward.helpful.offload=true
is "offload on a CPU" "$rc" 2
has "which is told" "$out" "there is nowhere to move the model to"
try kinds 1 reward.helpful.applies_to=general
is "a kind that no prompt has" "$rc" 3
has "which is told" "$out" "data.path has none, only"
try rules 1 reward.format.part=answer
has "keys of a model" "$out" "reward.format.part is of kind = model"
run 1 "$decks/rl.in" "run.dir=$ROOT/other" reward.helpful.kind=model
has "a model without a run" "$out" "reward.helpful.from is missing"
printf '%s\n' 'stage = score' "run.dir = $ROOT/score" "score.input = $ROOT/problems/direct.jsonl" 'reward.a.kind = model' >score.in
run 1 score.in
has "stage score has rules" "$out" "stage = score has rules only"
try policy2 1 "model.from=$ROOT/helpful"
has "a reward model is no policy" "$out" "holds a model that gives a number, not text"

# Another tokenizer and another shape: the text is written anew for it.
printf '%s\n' 'stage = tokenizer' "run.dir = $ROOT/bpe" "data.path = $ROOT/problems/base.jsonl" 'tokenizer.vocab_size = 300' >bpe.in
run 1 bpe.in
is "a tokenizer" "$rc" 0
run 1 "$decks/helpful.in" "run.dir=$ROOT/bpe-helpful" model.from= "policy.tokenizer=$ROOT/bpe" model.hidden=48 \
    model.heads=3 model.kv_heads=3 model.layers=1
is "a reward model of its own" "$rc" 0
try other-tokens 2 "reward.helpful.from=$ROOT/bpe-helpful"
is "beside a policy of bytes" "$rc" 0
steps other-tokens 'map(.rewards.helpful.applied) | add > 0'
steps other-tokens 'all(.rewards.helpful.unscorable == 0)'
out="$("$gradus" --check "$decks/rl.in" "${models[@]}" "reward.helpful.from=$ROOT/bpe-helpful" train.steps=6 --ranks 2)"
has "the plan names it" "$out" "reward helpful from $ROOT/bpe-helpful"
has "and its memory" "$out" "reward.helpful.weights"
mv bpe-helpful/huggingface/tokenizer.json .
try lost 1 "reward.helpful.from=$ROOT/bpe-helpful"
is "its tokenizer is lost" "$rc" 3
has "which is told" "$out" "put its tokenizer.json back"
finish
