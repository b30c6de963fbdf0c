#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Real prompts: evaluation and five RL steps on GSM8K (folder gsm8k in GRADUS_DATA; `#### number`
# answers), lengths and characters as they come. The untrained model earns next to nothing.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
if [[ -z ${GRADUS_DATA:-} || ! -r ${GRADUS_DATA:-}/gsm8k/test.jsonl ]]; then
    echo "skipped: GRADUS_DATA names no folder with gsm8k/test.jsonl and train.jsonl"
    exit 77
fi
fields=(data.prompt_field=question data.answer_field=answer policy.template=r1-zero)
shape=(model.max_positions=2048 train.max_length=2048 train.micro_tokens=4096)
run 1 "$source_dir/tests/restart/problems.in"
is "problems" "$rc" 0
run 2 "$source_dir/tests/restart/pretrain.in" "run.dir=$ROOT/base" train.steps=5 "${shape[@]}"
is "base" "$rc" 0

run 2 "$source_dir/inputs/demo/evaluate.in" "model.from=$ROOT/base" "run.dir=$ROOT/eval" \
    "data.path=$GRADUS_DATA/gsm8k/test.jsonl" data.limit=200 eval.n=2 rollout.slots=32 \
    model.hidden=32 model.layers=2 model.intermediate=64 "${fields[@]}" "${shape[@]}"
is "evaluate" "$rc" 0
is "every problem is scorable" "$(jq .unscorable eval/result.json)" 0
is "problems" "$(jq .problems eval/result.json)" 200
run 2 "$source_dir/tests/restart/rl.in" "model.from=$ROOT/base" "run.dir=$ROOT/rl" train.steps=5 \
    "data.path=$GRADUS_DATA/gsm8k/train.jsonl" "${fields[@]}" "${shape[@]}"
is "rl" "$rc" 0
is "steps" "$(wc -l <rl/metrics.jsonl)" 5
is "every number is finite" "$(jq -s 'map(.loss, .grad_norm, .kl, .entropy, .reward_mean) | map(isnormal or . == 0) | all' rl/metrics.jsonl)" true
is "the trainer sees what the sampler saw" "$(jq -s 'map(.sampler_gap_max < 1e-4) | all' rl/metrics.jsonl)" true
# Every question came through whole, non-ASCII characters included.
"$gradus" show rl --pick all --count 1000 >shown
jq -r .question "$GRADUS_DATA/gsm8k/train.jsonl" >questions
awk '/^---- prompt$/ { on = 1; next } /^---- / { on = 0 } on' shown | sort -u >prompts
holds "prompts are shown" test "$(wc -l <prompts)" -ge 6
is "lines of shown prompts that stand in no question" "$(grep -cvxFf questions prompts)" 0
finish
