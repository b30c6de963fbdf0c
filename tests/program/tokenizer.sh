#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A real tokenizer.json through stages: given by its path to the first, found by the later ones; the
# templates of two families; end tokens of the folder; conversations of several turns. Needs the
# folder tokenizers/ in GRADUS_REFERENCE.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
given="${GRADUS_REFERENCE:-}/tokenizers"
if [[ -z ${GRADUS_REFERENCE:-} || ! -r $given/qwen2/tokenizer.json ]]; then
    echo "skipped: GRADUS_REFERENCE names no folder with tokenizers/qwen2 and deepseek-r1-qwen"
    exit 77
fi
cat >tiny.in <<'X'
policy.tokenizer = auto
model.hidden = 16
model.heads = 2
model.kv_heads = 2
model.layers = 1
model.intermediate = 32
model.max_positions = 256
train.max_length = 256
train.micro_tokens = 512
train.tokens_per_step = 512
X
cat >train.in <<'X'
include = tiny.in
stage = sft
run.dir = $ROOT/sft
data.path = $ROOT/chats.jsonl
train.steps = 2
X
cat >answer.in <<'X'
include = tiny.in
stage = sample
run.dir = $ROOT/sample
model.from = $ROOT/sft
data.path = $ROOT/questions.jsonl
sample.keep_correct = false
sample.keep_format = false
sample.n = 2
rollout.slots = 4
rollout.max_new_tokens = 60
rollout.stop = a e i o
X
cat >chats.jsonl <<'X'
{"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "1+1=?"}, {"role": "assistant", "content": "<think>\n1+1=2\n</think>\n\n2"}, {"role": "user", "content": [{"type": "text", "text": "And 2+2?"}]}, {"role": "assistant", "content": "4", "reasoning_content": "2+2=4"}]}
{"prompt": "1+2=? <|im_end|> 然后", "response": "3"}
{"question": "How many?", "answer": "3 and 4.\n#### 7"}
X
cat >questions.jsonl <<'X'
{"problem": "What is $1+1$?", "solution": "It is \\boxed{2}.", "unique_id": "a/1"}
{"question": "How many? <think>", "answer": "3 and 4.\n#### 7"}
X

mkdir qwen
cp "$given/qwen2/tokenizer.json" qwen/
echo '{"eos_token_id": [151645, 151643]}' >qwen/generation_config.json
echo '{"model_type": "qwen2"}' >qwen/config.json
echo '{"add_bos_token": false, "chat_template": "{{ messages }}"}' >qwen/tokenizer_config.json
out="$("$gradus" --check train.in policy.tokenizer=qwen --ranks 2 2>&1)"
is "check: exit code" "$?" 0
has "check: the template" "$out" "chat template qwen2.5; responses end with <|im_end|> (151645), <|endoftext|> (151643)"
has "check: the rows" "$out" "of the first 3 rows, 1 of messages, 1 of prompt/response, 1 of question/answer"
has "check: what a user would wonder at" "$out" "carried along, not executed"
run 2 train.in policy.tokenizer=qwen
is "sft with a tokenizer by its path" "$rc" 0
# 151648 rows of 16, and a block: 151646 tokens, rounded up to a multiple of 8.
has "sft: the vocabulary is rounded up" "$out" "2.43M parameters"
holds "the tokenizer stays with the run" cmp -s qwen/tokenizer.json sft/huggingface/tokenizer.json

run 2 answer.in
is "sample finds the tokenizer of the run before" "$rc" 0
has "sample: where from" "$out" "from $ROOT/sft/huggingface/tokenizer.json"
"$gradus" show sample --pick all --count 10 >shown
has "sample: a question" "$(cat shown)" "How many? <think>"
# The resolved deck repeats the run.
cp sample/deck.resolved again.in
run 1 again.in "run.dir=$ROOT/again"
is "the resolved deck: exit code" "$rc" 0
holds "the resolved deck samples the same" diff <(jq -r .response sample/sft.jsonl) <(jq -r .response again/sft.jsonl)

run 1 answer.in policy.tokenizer=bytes "run.dir=$ROOT/bytes"
is "another tokenizer: exit code" "$rc" 3
has "another tokenizer: what to do" "$out" "was trained with tokenizer bpe-"
run 1 answer.in policy.template=deepseek-r1 "run.dir=$ROOT/misfit"
is "a template that does not fit: exit code" "$rc" 2
has "a template that does not fit: what is lacking" "$out" "needs the special tokens <｜begin▁of▁sentence｜> <｜User｜>"

mkdir distilled
cp "$given/deepseek-r1-qwen/tokenizer.json" distilled/
echo '{"eos_token_id": 151643}' >distilled/generation_config.json
echo '{"model_type": "qwen2"}' >distilled/config.json
echo '{"add_bos_token": true, "bos_token": {"content": "<｜begin▁of▁sentence｜>"}}' >distilled/tokenizer_config.json
run 2 train.in policy.tokenizer=distilled "run.dir=$ROOT/sft-r1"
is "sft of R1's template" "$rc" 0
has "sft of R1's template: says so" "$out" "chat template deepseek-r1; responses end with <｜end▁of▁sentence｜> (151643)"
has "sft of R1's template: a sequence for each response" "$out" "4 sequences"
run 2 answer.in "run.dir=$ROOT/sample-r1" "model.from=$ROOT/sft-r1"
is "sample of R1's template" "$rc" 0
is "what the prompt opened belongs to the response" "$(jq -r .response sample-r1/sft.jsonl | grep -c '^<think>$')" "$(wc -l <sample-r1/sft.jsonl)"
run 1 train.in "run.dir=$ROOT/next" "model.from=$ROOT/sft-r1" "data.path=$ROOT/sample-r1/sft.jsonl" train.steps=1
is "sft reads what it wrote" "$rc" 0
finish
