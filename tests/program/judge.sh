#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Stage sample with a judge and with a model that rewrites: who is asked, what counts, what is written, what a run that is cut
# keeps. The models know nothing: verdicts by probability are set by the threshold.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
run 2 "$decks/pretrain.in"
is "pretrain" "$rc" 0
# The template of bytes puts 400 of them around a question.
run 2 "$decks/pretrain.in" "run.dir=$ROOT/other" train.steps=4 model.hidden=48 model.heads=6 model.max_positions=1024 run.seed=2
is "a judge of another shape" "$rc" 0

cat >sample.in <<X
include = $decks/tiny.in
stage = sample
run.dir = \$ROOT/sample
model.from = \$ROOT/pretrain
data.path = \$ROOT/problems/train.jsonl
data.limit = 12
sample.keep_format = false
rollout.max_new_tokens = 100
train.max_length = 192
judge.from = \$ROOT/other
judge.max_length = 1024
judge.max_new_tokens = 24
judge.template = \$ROOT/judge.txt
judge.yes = yes
judge.no = no
X
echo 'Is {answer} the same as {reference}? {yes} or {no}' >judge.txt
run 2 sample.in judge.by=probability judge.threshold=0
is "every answer is called right" "$rc" 0
is "every answer is called right: none is incorrect" "$(jq .refused.incorrect sample/acceptance.json)" 0
has "every answer is called right: the log" "$out" "judge: asked about"
is "a line a reply, and one for the question" "$(($(wc -l <sample/judge.jsonl) - 1))" \
    "$(grep -o 'asked about [0-9]*' <<<"$out" | grep -o '[0-9]*$' | head -n 1)"
run 2 sample.in "run.dir=$ROOT/none" judge.by=probability judge.threshold=1
is "no answer is called right: exit code" "$rc" 3
has "no answer is called right: what refused" "$out" "incorrect"
run 2 sample.in "run.dir=$ROOT/written" sample.keep_correct=false
is "a verdict that it writes" "$rc" 0
has "a verdict that it writes: those without are counted" "$out" "without a verdict"
run 1 sample.in "run.dir=$ROOT/alone" judge.by=probability judge.threshold=0
is "on one rank" "$rc" 0
holds "on one rank: the same data" cmp alone/sft.jsonl sample/sft.jsonl

# Cut while the judge is asked: replies that were there are not asked for again.
run 2 sample.in "run.dir=$ROOT/cut" judge.by=probability judge.threshold=0
head -n 8 cut/judge.jsonl >some && printf '{"at": "1' >>some && mv some cut/judge.jsonl
rm cut/sft.jsonl
before="$(sed -n 2p cut/judge.jsonl)"
run 2 sample.in "run.dir=$ROOT/cut" judge.by=probability judge.threshold=0
is "cut: goes on" "$rc" 0
has "cut: keeps the samples" "$out" "parts are there from before"
is "cut: keeps replies" "$(sed -n 2p cut/judge.jsonl)" "$before"
holds "cut: the same data" cmp cut/sft.jsonl sample/sft.jsonl
echo 'Other words: {answer} {reference}' >judge.txt
rm cut/sft.jsonl
run 2 sample.in "run.dir=$ROOT/cut" judge.by=probability judge.threshold=0
is "another template: exit code" "$rc" 3
has "another template: what to do" "$out" "remove it"
run 2 sample.in "run.dir=$ROOT/cut" judge.by=probability judge.threshold=0 restart=none
is "another template, anew: exit code" "$rc" 0
is "another template, anew: its replies alone" "$(($(wc -l <cut/judge.jsonl) - 1))" \
    "$(grep -o 'asked about [0-9]*' <<<"$out" | grep -o '[0-9]*$' | head -n 1)"
echo 'nothing to fill in' >judge.txt
run 2 sample.in "run.dir=$ROOT/bad"
is "a template without the answer: exit code" "$rc" 2
has "a template without the answer" "$out" "has no {answer}"
run 2 sample.in "run.dir=$ROOT/bad" judge.from=/nowhere judge.template=
is "no judge there: exit code" "$rc" 3
run 2 sample.in "run.dir=$ROOT/bad" judge.template= judge.max_length=4096
is "a judge of too few positions: exit code" "$rc" 2
has "a judge of too few positions" "$out" "judge.max_length = 4096, but $ROOT/other has 1024 positions"
run 2 sample.in "run.dir=$ROOT/bad" judge.template= judge.max_new_tokens=1024
is "no room for a question: exit code" "$rc" 2
has "no room for a question" "$out" "judge.max_new_tokens = 1024 leaves no room"
holds "all that before the first sample" test ! -e bad/rollouts

# Rewriting: what passed is put in other words, and filtered again.
run 2 sample.in "run.dir=$ROOT/rewritten" judge.from= sample.keep_correct=false "rewrite.from=$ROOT/other" \
    rewrite.max_length=1024 rewrite.max_new_tokens=24 rewrite.template=
is "rewriting" "$rc" 0
has "rewriting: both tables" "$out" "rewritten:"
is "rewriting: all rows are of the other model" \
    "$(jq -r .response rewritten/sft.jsonl | sort -u | comm -23 - <(jq -r '.reply // empty' rewritten/rewrite.jsonl | sort -u) | wc -l)" 0
run 2 sample.in "run.dir=$ROOT/strict" judge.from= sample.keep_correct=false sample.keep_format=false "rewrite.from=$ROOT/other" \
    rewrite.max_length=1024 rewrite.max_new_tokens=4 sample.max_length=1
is "rewriting that breaks everything: exit code" "$rc" 3

# What only the judge can call right is right after rewriting if the judge says so.
echo 'Is {answer} the same as {reference}? {yes} or {no}' >judge.txt
run 2 sample.in "run.dir=$ROOT/both" judge.by=probability judge.threshold=0 "rewrite.from=$ROOT/other" \
    rewrite.max_length=1024 rewrite.max_new_tokens=24
is "judge and rewriting" "$rc" 0
is "judge and rewriting: it is asked twice" "$(grep -c 'judge: asked about' <<<"$out")" 2
is "judge and rewriting: nothing is incorrect" "$(jq .refused.incorrect both/acceptance.json)" 0
finish
