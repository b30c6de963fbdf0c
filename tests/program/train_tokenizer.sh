#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stage tokenizer: what it writes, that a run of it is a function of its texts alone, that other
# stages train with it, and its rate in stage bench.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
cat >learn.in <<X
stage = tokenizer
run.dir = \$ROOT/learnt
data.path = \$ROOT/problems/base.jsonl
tokenizer.vocab_size = 320
X
run 1 learn.in
is "tokenizer" "$rc" 0
is "tokens" "$(jq '(.model.vocab | length) + (.added_tokens | length)' learnt/tokenizer.json)" 320
is "merges" "$(jq '.model.merges | length' learnt/tokenizer.json)" 56
is "special tokens come last" "$(jq -c '[.added_tokens[] | [.id, .content]] | [first, last]' learnt/tokenizer.json)" '[[312,"<bos>"],[319,"</answer>"]]'
is "begin and end token" "$(jq -r '[.bos_token, .eos_token] | join(" ")' learnt/tokenizer_config.json)" "<bos> <eos>"
run 1 learn.in
has "a finished one is left alone" "$out" "nothing to do"
run 1 learn.in tokenizer.vocab_size=300
is "other keys in the same folder: exit code" "$rc" 2

tac problems/base.jsonl >reversed.jsonl
run 2 learn.in "run.dir=$ROOT/second" "tokenizer.output=$ROOT/elsewhere/deep" "data.path=$ROOT/reversed.jsonl"
is "on two ranks, rows in another order" "$rc" 0
holds "the same tokenizer" cmp learnt/tokenizer.json elsewhere/deep/tokenizer.json

run 2 "$decks/pretrain.in" "run.dir=$ROOT/trained" train.steps=2 policy.template=demo "policy.tokenizer=$ROOT/learnt"
is "pretraining with it" "$rc" 0
has "says which tokenizer" "$out" "of 320 tokens"

run 1 "$source_dir/inputs/bench/tokenizer.in" "run.dir=$ROOT/bench" "policy.tokenizer=$ROOT/learnt" "bench.text=$ROOT/problems/base.jsonl" bench.steps=1
is "bench" "$rc" 0
is "bench: every text comes back" "$(jq '.tokenizer.texts == .tokenizer.texts_that_come_back and .tokenizer.encode_bytes_per_s > 0' bench/bench.json)" true
is "bench: a token is more than a byte" "$(jq '.tokenizer.bytes_per_token > 1.2' bench/bench.json)" true

run 1 learn.in "run.dir=$ROOT/small" tokenizer.vocab_size=263 tokenizer.eos=nobody
is "keys that do not fit: exit code" "$rc" 2
has "a vocabulary that is too small" "$out" "does not hold 256 bytes and 8 special tokens"
has "an end token that is none" "$out" "tokenizer.eos = nobody"
run 1 learn.in "run.dir=$ROOT/few" tokenizer.vocab_size=100000
is "fewer tokens than asked for" "$rc" 0
has "fewer tokens than asked for: says so" "$out" "no other pair occurs"
finish
