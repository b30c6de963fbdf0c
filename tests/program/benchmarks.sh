#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every benchmark by name on rows of its form (the data's, where GRADUS_DATA is set): what the name sets, what is measured.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
run 1 "$decks/problems.in"
is "problems" "$rc" 0
run 1 "$decks/pretrain.in" model.max_positions=4096 train.steps=2 ckpt.every=0
is "pretrain" "$rc" 0

mkdir rows
cat >rows/gsm8k.jsonl <<'X'
{"question": "Ann has 2 pens and buys 3. How many has she?", "answer": "2 + 3 = 5\n#### 5"}
X
cat >rows/math500.jsonl <<'X'
{"problem": "What is $1+1$?", "solution": "\\boxed{2}", "answer": "2", "subject": "Prealgebra", "level": 1, "unique_id": "a"}
{"problem": "What is $2^3$?", "solution": "\\boxed{8}", "answer": "8", "subject": "Algebra", "level": 2, "unique_id": "b"}
X
cp rows/math500.jsonl rows/aime.jsonl
cat >rows/humaneval.jsonl <<'X'
{"task_id": "T/0", "prompt": "def one():\n    \"\"\"1\"\"\"\n", "entry_point": "one", "canonical_solution": "    return 1\n", "test": "def check(candidate):\n    assert candidate() == 1\n"}
X
cat >rows/humaneval_cpp.jsonl <<'X'
{"task_id": "CPP/0", "prompt": "int one(){\n", "declaration": "int one(){\n", "canonical_solution": "    return 1;\n}\n", "test": "#undef NDEBUG\n#include<assert.h>\nint main(){\n    assert (one() == 1);\n}\n"}
X
cat >rows/mbpp.jsonl <<'X'
{"text": "Write a function one that returns 1.", "code": "def one():\n    return 1", "task_id": 1, "test_setup_code": "", "test_list": ["assert one() == 1"], "challenge_test_list": []}
X
echo '{"nums": [1, 2], "target": 3}' >rows/countdown.jsonl
echo '{"quiz": "Zoe says that she is a knight. Ann says that Zoe lies.", "names": ["Zoe", "Ann"], "solution": [true, false]}' >rows/knights.jsonl
declare -A file=([gsm8k]=gsm8k/test.jsonl [math500]=math/math500.jsonl [humaneval]=humaneval/HumanEval.jsonl
    [humaneval_cpp]=humaneval_x/humaneval_cpp.jsonl [mbpp]=mbpp/mbpp.jsonl [countdown]=countdown/countdown_all.jsonl
    [knights]=knights_knaves/3ppl_test.jsonl)
for name in "${!file[@]}"; do
    [[ -z ${GRADUS_DATA:-} ]] || head -n 3 "$GRADUS_DATA/${file[$name]}" >"rows/$name.jsonl"
done

# measure NAME key=value...
measure() {
    run 1 "$decks/tiny.in" stage=evaluate model.max_positions=4096 "run.dir=$ROOT/$1" "model.from=$ROOT/pretrain" "eval.benchmark=$1" \
        "data.path=$ROOT/rows/$1.jsonl" train.max_length=4096 train.micro_tokens=4096 eval.n=2 rollout.max_new_tokens=8 "${@:2}"
}
for name in gsm8k math500 aime humaneval humaneval_cpp mbpp countdown knights; do
    measure "$name"
    is "$name" "$rc" 0
    is "$name: its name, and a measure of all problems" \
        "$(jq -r '"\(.benchmark) \(.problems) \(.samples) \(.pass_at_1 * .problems * .samples | round) \(.unscorable)"' "$name/result.json")" \
        "$name $(wc -l <"rows/$name.jsonl") 2 $("$gradus" show "$name" --pick all --count 10 | grep -ac ' accuracy 1 ') 0"
    is "$name: temperature" "$(grep -c '^rollout.temperature *= 0.6 .*# eval.benchmark' "$name/deck.resolved")" 1
done
has "a part of a benchmark is told" "$(cat gsm8k/run.log)" "this is not the whole benchmark"
has "the instruction stands behind the question" "$("$gradus" show gsm8k --count 1)" "final answer within \\boxed{}."
is "MATH-500 by level and subject" "$(jq -c '[.by.level, .by.subject] | map(map(.problems) | add)' math500/result.json)" \
    "[$(wc -l <rows/math500.jsonl),$(wc -l <rows/math500.jsonl)]"
is "programs have a share of tests that pass" "$(jq -c 'has("tests_passed"), has("cons_at_2")' humaneval/result.json | xargs)" "true false"
is "answers have votes" "$(jq -c 'has("tests_passed"), has("cons_at_2")' gsm8k/result.json | xargs)" "false true"
run 1 "$decks/tiny.in" stage=evaluate model.max_positions=4096 "run.dir=$ROOT/x" "model.from=$ROOT/pretrain" "data.path=$ROOT/rows/humaneval.jsonl" \
    train.max_length=4096 train.micro_tokens=4096 rollout.max_new_tokens=8 eval.n=1
is "programs without a word of how they are run: exit code" "$rc" 2
has "programs without a word of how they are run" "$out" "reward.code.kind = code"
measure gsm8k "run.dir=$ROOT/y" eval.benchmark=gsm9k
is "a name that there is not: exit code" "$rc" 2
has "a name that there is not" "$out" "gsm8k"
finish
