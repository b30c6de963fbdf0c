#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# jobs/r1.chain and jobs/distill.chain from end to end on a Hugging Face folder of random weights and a few rows of data: every stage
# with its rewards, filters, judge, rewriter and reward models reads what the one before it left. Sizes are made small and
# filters open behind the decks' own lines; all else is theirs.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
"$(dirname "$gradus")/tests/program/write_model" mixed model || exit 1
run 1 "$source_dir/inputs/demo/problems.in" "run.dir=$work/problems" problems.requests=40 problems.count=24 \
    problems.documents=20 problems.eval_count=4
is "problems" "$rc" 0

mkdir data
jq -c '{id, prompt, reference, kind: "reasoning"}' problems/train.jsonl >data/reasoning.jsonl
jq -c '{id, prompt, kind}' problems/requests.jsonl >data/general.jsonl
jq -c '{messages: [{role: "user", content: .prompt}, {role: "assistant", content: .response}]}' problems/replies.jsonl >data/sft-general.jsonl
cp problems/helpful.jsonl problems/harmless.jsonl data
jq -c '{unique_id: .id, problem: .prompt, answer: .reference, level: 1, subject: "Arithmetic"}' problems/eval.jsonl >data/math500.jsonl
jq -c '{question: .prompt, answer: ("#### " + .reference)}' problems/eval.jsonl >data/gsm8k.jsonl

mkdir jobs
cp "$source_dir/jobs/r1.chain" "$source_dir/jobs/distill.chain" jobs
cp -r "$source_dir/inputs" inputs
sed -i '/offload/d' inputs/r1/r1.in  # a CPU has nowhere to move a model to
small() { cat >>"inputs/r1/$1.in"; }
small common <<X
run.device = cpu
train.max_length = 768
rollout.max_new_tokens = 64
X
cat >inputs/r1/shape-tiny.in <<X
train.micro_tokens = 1024
rollout.slots      = 32
X
small rl <<X
rl.prompts = 4
rl.group   = 4
rl.updates = 2
X
for deck in zero dev2 r1; do small "$deck" <<<'train.steps = 3'; done
small r1 <<X
rl.prompts = 16  # all kinds among them
reward.helpful.weight  = 0:0 1:1
reward.harmless.weight = 0:0 1:1
X
for deck in sft distill; do small "$deck" <<<'train.tokens_per_step = 4096'; done
small reward-model <<X
train.max_length   = 768
reward_model.batch = 4
data.eval_share    = 0.3
X
# Random weights are never right, nor well-formed.
for deck in collect-zero collect-dev2; do
    small "$deck" <<X
data.limit          = 24
sample.keep_correct = false
sample.keep_format  = false
sample.min_language = 0
sample.max_repetition = 1
X
done
small collect-zero <<X
rewrite.max_length     = 1536
rewrite.max_new_tokens = 64
X
small collect-dev2 <<X
judge.max_length     = 1536
judge.max_new_tokens = 32
X
small evaluate <<<'eval.n = 2'

export DATA="$work/data" MODEL="$work/model" SHAPE=tiny REWRITER="$work/r1/base" JUDGE="$work/r1/base"
"$source_dir/jobs/run" jobs/r1.chain --root "$work/r1" --gradus "$gradus" >r1.out 2>&1
is "r1.chain: $(tail -n 5 r1.out)" $? 0
for job in $(awk '$2 ~ /[.]in$/ { print $1 }' jobs/r1.chain); do is "$job is done" "$(cat "r1/$job/exit" 2>/dev/null)" 0; done
is "rows of the table" "$(jq '.stages | length' r1/summary.json)" 8
has "collect-zero rewrote its samples" "$(cat r1/collect-zero/run.log)" "rewritten: "
has "collect-dev2 asked the judge" "$(cat r1/collect-dev2/run.log)" "judge: asked about"
is "r1 was rewarded by both models" "$(jq -s 'last | .rewards | [.helpful.applied, .harmless.applied] | all(. > 0)' r1/r1/metrics.jsonl)" true
holds "the last model is exported" test -s r1/huggingface/config.json

export STUDENT="$work/model" SAMPLES="$work/r1/collect-dev2/sft.jsonl"
sed -i 's/train.steps=1000/train.steps=2/' jobs/distill.chain
"$source_dir/jobs/run" jobs/distill.chain --root "$work/distill" --gradus "$gradus" >distill.out 2>&1
is "distill.chain: $(tail -n 5 distill.out)" $? 0
is "rows of its table" "$(jq '.stages | length' distill/summary.json)" 3
finish
