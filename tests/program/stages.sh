#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stages sample, score and evaluate against what jq computes from the rows that they leave; keys that
# do not fit together; schedules that change within a rollout.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
cp problems/train.jsonl before
run 1 "$decks/problems.in"
is "problems again" "$rc" 0
has "problems again: says so" "$out" "nothing to do"
run 1 "$decks/problems.in" run.seed=7
is "problems of another seed in the same folder: exit code" "$rc" 2
has "problems of another seed in the same folder: the key" "$out" "run.seed: 1 -> 7"
holds "a finished stage leaves its result alone" cmp -s before problems/train.jsonl
run 2 "$decks/pretrain.in" train.steps=60
is "pretrain" "$rc" 0
run 2 "$decks/pretrain.in" train.steps=62
has "a deck that asks for more steps goes on" "$out" "restarted from"
is "more steps" "$(tail -n 1 pretrain/metrics.jsonl | jq .step)" 62

mpirun -np 2 "$gradus" "$decks/pretrain.in" "run.dir=$ROOT/shared" train.steps=100000 >shared.out 2>&1 &
launcher=$!
until [[ -s shared/metrics.jsonl ]]; do sleep 0.05; done
run 2 "$decks/pretrain.in" "run.dir=$ROOT/shared"
is "a second run in the same folder: exit code" "$rc" 3
has "a second run in the same folder" "$out" "another run works in"
touch shared/stop
wait "$launcher"
is "the first run goes on and stops" "$?" 75
is "its steps are whole" "$(jq -s 'map(.step) == [range(1; length + 1)]' shared/metrics.jsonl)" true
run 2 "$decks/pretrain.in" "run.dir=$ROOT/shared" model.layers=3
is "another model at a restart: exit code" "$rc" 3
has "another model at a restart is said" "$out" "is of another model"

cat >sample.in <<X
include = $decks/tiny.in
stage = sample
run.dir = \$ROOT/sample
model.from = \$ROOT/pretrain
data.path = \$ROOT/problems/train.jsonl
data.limit = 16
sample.keep_correct = false
sample.keep_format = false
rollout.max_new_tokens = 100
X
run 2 sample.in
is "sample" "$rc" 0
is "sample: counts add up" "$(jq '.sampled - .kept == (.refused | add)' sample/acceptance.json)" true
is "sample: sampled" "$(jq .sampled sample/acceptance.json)" 64
is "sample: rows kept" "$(wc -l <sample/sft.jsonl)" "$(jq .kept sample/acceptance.json)"
is "sample: what it writes, sft reads" "$(jq -c 'has("prompt") and has("response")' sample/sft.jsonl | sort -u)" true
run 2 "$decks/pretrain.in" stage=sft "run.dir=$ROOT/sft" "data.path=$ROOT/sample/sft.jsonl" data.bad_lines=skip train.steps=2 "model.from=$ROOT/pretrain"
is "sft on it" "$rc" 0
run 2 sample.in "run.dir=$ROOT/tight" rollout.cache_tokens=320
is "a small key/value cache" "$rc" 0
is "a small key/value cache: as many kept" "$(jq .kept tight/acceptance.json)" "$(jq .kept sample/acceptance.json)"
run 1 sample.in "run.dir=$ROOT/tighter" rollout.cache_tokens=192
is "a key/value cache too small for a sequence: exit code" "$rc" 2
has "a key/value cache too small for a sequence: what to do" "$out" "take 208 (rollout.page_size = 16); give more or lower train.max_length"
run 2 sample.in "run.dir=$ROOT/none" sample.max_length=1
is "nothing passes: exit code" "$rc" 3
has "nothing passes: what to do" "$out" "no sample passed the filters"

run 2 sample.in "run.dir=$ROOT/field" sample.keep_correct=true data.answer_field=nope
is "a field that is not there: exit code" "$rc" 3
has "a field that is not there: file, line, field" "$out" 'train.jsonl:1: there is no field "nope"'
{ echo 'not JSON'; head -n 3 problems/train.jsonl; } >mixed.jsonl
run 2 sample.in "run.dir=$ROOT/mixed" "data.path=$ROOT/mixed.jsonl" data.bad_lines=skip
is "lines that are not JSON are skipped" "$rc" 0
has "lines that are not JSON are counted" "$out" "3 prompts, 1 lines skipped"

cat >score.in <<X
stage = score
run.dir = \$ROOT/score
score.input = \$ROOT/rows.jsonl
reward.right.kind = accuracy
reward.form.kind = format
X
cat >rows.jsonl <<'X'
{"prompt": "1+1=?", "response": "<think>1+1=2</think><answer>2</answer>", "reference": "2"}
{"prompt": "1+1=?", "response": "<answer>3</answer>", "reference": "2"}
{"prompt": "1+1=?", "response": "so 2", "reference": "2", "note": "kept"}
X
run 1 score.in
is "score" "$rc" 0
is "score: accuracy and format" "$(jq -c '[.rewards.right, .rewards.form]' score/scored.jsonl | tr -d '\n' | sed 's/\.0//g')" "[1,1][0,0][1,0]"
is "score: rows are kept" "$(jq -r '.note // empty' score/scored.jsonl)" kept

run 2 "$source_dir/inputs/demo/evaluate.in" "run.dir=$ROOT/eval" "model.from=$ROOT/pretrain" "data.path=$ROOT/problems/eval.jsonl" \
    model.hidden=32 model.layers=2 model.intermediate=64 model.max_positions=192 train.max_length=192 rollout.max_new_tokens=100 eval.n=4
is "evaluate" "$rc" 0
"$gradus" show eval --pick all --count 1000 >shown
is "evaluate: rows" "$(grep -c '^====' shown)" 64
mean() { awk -v name="$1" '/^====/ { for (i = 1; i < NF; ++i) if ($i == name) s += $(i + 1) } END { printf "%.6f", s / 64 }' shown; }
is "evaluate: pass@1 is the mean accuracy of the rows" "$(jq .pass_at_1 eval/result.json | xargs printf %.6f)" "$(mean accuracy)"
is "evaluate: format" "$(jq .format eval/result.json | xargs printf %.6f)" "$(mean format)"
is "evaluate: length" "$(jq .mean_length eval/result.json | xargs printf %.6f)" "$(mean length)"

# Keys that do not fit together are told all at once, by --check too.
out="$("$gradus" --check "$decks/rl.in" rl.prompts=5 rl.group=1 train.steps=0 rollout.top_p=0.5 2>&1)"
is "keys that do not fit: exit code" "$?" 2
is "keys that do not fit: each is told" "$(grep -cE 'rl.updates = 3|rl.group = 1|train.steps|rollout.top_p' <<<"$out")" 4

# A temperature and a KL weight that change in the middle of a rollout hold from the next one.
run 2 "$decks/rl.in" "run.dir=$ROOT/schedules" "rollout.temperature=0:1 1:0.5" "loss.kl_coef=0:0 1:0.01" \
    train.steps=3 train.lr=0 optim.weight_decay=0
is "schedules: rl" "$rc" 0
is "schedules: a policy that stands still has ratio 1 and no KL" \
    "$(jq -c '(.ratio - 1 | fabs) < 1e-5 and .kl < 1e-5 and .clipped_low == 0' schedules/metrics.jsonl | sort -u)" true

# In the middle of a rollout its shape cannot change.
run 2 "$decks/rl.in" "run.dir=$ROOT/shape" train.steps=20 ckpt.every=1 run.walltime=1s run.stop_margin=0.9s
is "shape: stopped" "$rc" 75
if (($(jq -s 'last.step % 3' shape/metrics.jsonl) != 0)); then
    run 2 "$decks/rl.in" "run.dir=$ROOT/shape" rl.prompts=3
    is "another rl.prompts in the middle of a rollout: exit code" "$rc" 2
    has "another rl.prompts in the middle of a rollout" "$out" "in the middle of a rollout"
fi
finish
