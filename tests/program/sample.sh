#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stage sample with every filter, test sets to keep out and general data mixed in: counts add up, the same bits again, the same rows on
# another number of ranks, shares as asked, errors that say what to do.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
run 2 "$decks/pretrain.in" train.steps=60
is "pretrain" "$rc" 0

for i in $(seq 1 40); do
    echo "{\"question\": \"What is said on day $i?\", \"answer\": \"On day $i they say the word number $i.\"}"
done >general.jsonl
echo '{"messages": [{"role": "user", "content": "Tell me, what is a, b, c, d, e, f, g, h, i, j and k?"}, {"role": "assistant", "content": "Letters."}], "source": "web"}' >>general.jsonl
# The first problem of the data that is told in words, told otherwise, and one of the general rows.
{
    jq -c '{question: ("Now: " + (.prompt | ascii_upcase))}' <<<"$(grep -m 1 'How many' problems/train.jsonl)"
    echo '{"prompt": "What is A B C D E F G H I J?"}'
} >tests.jsonl

cat >sample.in <<X
include = $decks/tiny.in
stage = sample
run.dir = \$ROOT/sample
model.from = \$ROOT/pretrain
data.path = \$ROOT/problems/train.jsonl
data.limit = 16
rollout.max_new_tokens = 100
sample.n = 8
sample.keep_correct = false
sample.keep_format = false
sample.keep_code_blocks = false
sample.language = en
sample.min_language = 0.01
sample.max_length = 95
sample.max_paragraph = 60
sample.max_repetition = 0.9
sample.near_duplicate = 0.9
sample.near_duplicate_elsewhere = 0.95
sample.max_per_prompt = 3
sample.decontaminate = \$ROOT/tests.jsonl
sample.decontaminate_ngram = 5
sample.mix = \$ROOT/general.jsonl
sample.mix_share = 0.25
X
run 2 sample.in
is "sample" "$rc" 0
counts=sample/acceptance.json
is "counts add up" "$(jq '[., .general] | map(.sampled - .kept == (.refused | add)) | all' $counts)" true
is "all samples were seen" "$(jq '.sampled == 8 * (.prompts.all - .prompts.contaminated)' $counts)" true
is "prompts" "$(jq .prompts.all $counts)" 16
holds "a contaminated prompt is found" test "$(jq .prompts.contaminated $counts)" -ge 1
is "and not sampled" "$(jq '.refused.contaminated' $counts)" 0
is "rows written" "$(wc -l <sample/sft.jsonl)" "$(jq .written.rows $counts)"
is "rows of each source" "$(jq -s -c '[map(select(.source == "reasoning")), map(select(.source == "general"))] | map(length)' sample/sft.jsonl)" \
    "$(jq -c '[.written.reasoning, .written.general]' $counts)"
is "the share of general rows" "$(jq '(.written.general - .written.reasoning / 3 | fabs) <= 0.5' $counts)" true
is "at most three a prompt" "$(jq -s '[.[] | select(.source == "reasoning") | .id] | group_by(.) | map(length) | max <= 3' sample/sft.jsonl)" true
is "the sources are mixed" "$(jq -s '[.[].source] | . != sort and . != (sort | reverse)' sample/sft.jsonl)" true
is "a contaminated prompt is shown, without a response" "$(jq -s '[.[] | select(.source == "reasoning" and .filter == "contaminated") | .response] | unique == [""]' sample/refused.jsonl)" true
is "what is refused is shown, at most three of a filter" "$(jq -s 'length > 0 and (group_by([.source, .filter]) | map(length) | max <= 3)' sample/refused.jsonl)" true
has "the contaminated prompt: by which row" "$(jq -r 'select(.filter == "contaminated") | .why' sample/refused.jsonl)" "tests.jsonl:1"
has "the table in the log" "$out" "near_duplicate_elsewhere"
has "the table in the report" "$(<sample/report.txt)" "rows written"

run 2 sample.in "run.dir=$ROOT/again"
for file in sft.jsonl acceptance.json refused.jsonl; do holds "again: the same bits in $file" cmp -s sample/$file again/$file; done
run 1 sample.in "run.dir=$ROOT/alone"
for file in sft.jsonl acceptance.json; do holds "one rank: the same $file" cmp -s sample/$file alone/$file; done
run 2 sample.in "run.dir=$ROOT/seed" run.seed=2
is "another seed" "$rc" 0
holds "another seed: other rows" test "$(sort sample/sft.jsonl | cksum)" != "$(sort seed/sft.jsonl | cksum)"
run 1 "$decks/pretrain.in" stage=sft "run.dir=$ROOT/sft" "data.path=$ROOT/sample/sft.jsonl" data.bad_lines=skip train.steps=1 "model.from=$ROOT/pretrain"
is "sft reads both sources" "$rc" 0

run 1 sample.in "run.dir=$ROOT/all" sample.mix_share=0
is "without a share: all that pass" "$(jq .written.general all/acceptance.json)" "$(jq .general.kept all/acceptance.json)"
is "the general row of the test set is left out" "$(jq .general.refused.contaminated all/acceptance.json)" 1
run 1 sample.in "run.dir=$ROOT/rows" sample.mix_share=0 sample.mix_rows=7
is "so many rows" "$(jq .written.general rows/acceptance.json)" 7
run 1 sample.in "run.dir=$ROOT/short" sample.mix_share=0.9
has "too few general rows: says so" "$out" "general rows are wanted, sample.mix gives"

run 1 sample.in "run.dir=$ROOT/none" sample.max_length=1
is "nothing passes: exit code" "$rc" 3
has "nothing passes: which filter" "$out" "refused most"
run 1 sample.in "run.dir=$ROOT/both" sample.mix_rows=1
is "rows and a share: exit code" "$rc" 2
has "rows and a share" "$out" "not both"
echo '{"question": "and the answer?"}' >bad.jsonl
run 1 sample.in "run.dir=$ROOT/bad" "sample.mix=$ROOT/bad.jsonl"
is "a general row without a response: exit code" "$rc" 3
has "a general row without a response: file and line" "$out" "bad.jsonl:1: there is no response"
run 1 sample.in "run.dir=$ROOT/missing" "sample.decontaminate=$ROOT/missing.jsonl"
is "a test set that is not there: exit code" "$rc" 3
has "a test set that is not there" "$out" "cannot read $ROOT/missing.jsonl"
finish
