#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rewards of kind = code: stage score on rows of every form, stage rl with its helper killed on the way, what the deck is told
# where the machine lacks something.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
decks="$source_dir/tests/restart"
fence='```'

cat >own.jsonl <<X
{"id": "py", "prompt": "Add.", "language": "python", "entry_point": "add", "tests": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "response": "<think>def add: no</think>${fence}python\\ndef add(a, b):\\n    return a + b\\n$fence"}
{"id": "half", "prompt": "Add.", "language": "python", "entry_point": "add", "tests": ["assert add(1, 2) == 3", "assert add(2, 2) == 4"], "response": "def add(a, b):\\n    return 3"}
{"id": "wrong", "prompt": "Add.", "language": "python", "entry_point": "add", "tests": ["assert add(1, 2) == 3"], "response": "I do not know."}
{"id": "io", "prompt": "Double.", "language": "python", "cases": [{"input": "2\\n", "output": "4"}, {"input": "3", "output": "6\\n\\n"}], "response": "<answer>print(2 * int(input()))</answer>"}
{"id": "cpp", "prompt": "Add.", "language": "cpp", "signature": "int add(const vector<int>& v)", "prologue": "#include <vector>\\nusing namespace std;", "tests": ["assert(add({1, 2}) == 3);", "assert(add({}) == 0);"], "response": "${fence}cpp\\nint add(const vector<int>& v) {\\n    int s = 0;\\n    for (int x : v) s += x;\\n    return s;\\n}\\n$fence"}
{"id": "cppio", "prompt": "Add.", "language": "cpp", "cases": [{"input": "2 3", "output": "5"}, {"input": "1 1", "output": "3"}], "response": "${fence}c++\\n#include <iostream>\\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }\\n$fence"}
{"id": "in_place", "prompt": "Sort.", "language": "python", "entry_point": "f", "in_place": true, "tests": ["x = [3, 1]\\nf(x)\\nassert x == [1, 3]"], "response": "def f(x):\\n    x.sort()"}
{"id": "broken", "prompt": "Add.", "language": "python", "entry_point": "add", "tests": ["assert add(1, 2) =="], "response": "def add(a, b):\\n    return 3"}
{"id": "none", "prompt": "What is 1 + 1?", "reference": "2", "response": "2"}
X
cat >score.in <<X
stage = score
run.dir = $ROOT/score
score.input = $ROOT/own.jsonl
reward.all.kind = code
reward.part.kind = code
reward.part.partial = true
X
run 1 score.in
is "score" "$rc" 0
is "all or nothing" "$(jq -c '[.id, .rewards.all]' score/scored.jsonl | tr -d '\n' | sed 's/\.0//g')" \
    '["py",1]["half",0]["wrong",0]["io",1]["cpp",1]["cppio",0]["in_place",1]["broken",null]["none",null]'
is "shares" "$(jq -c '.rewards.part' score/scored.jsonl | tr '\n' ' ' | sed 's/\.0//g')" "1 0.5 0 1 1 0.5 1 null null "
has "said at the start" "$out" "full isolation"
has "said of broken tests" "$out" "reward all cannot judge 2 of 9 responses (the first: the tests cannot be used: SyntaxError"

run 1 score.in reward.all.compiler=no-such-compiler "run.dir=$ROOT/tools"
is "no compiler" "$rc" 2
has "no compiler" "$out" 'there is no `no-such-compiler`'
run 1 score.in reward.all.python=/usr/bin/no-python "run.dir=$ROOT/tools"
has "no Python" "$out" "rows ask for programs in Python"

# Rank 0 alone scores for longer than a rank may stand still: the other one waits with it.
for i in 1 2; do
    jq -nc --arg i "$i" '{prompt: $i, language: "python", cases: [{input: "1", output: "1"}], response: "import time\ntime.sleep(4)\nprint(1)"}'
done >slow.jsonl
run 2 score.in "score.input=$ROOT/slow.jsonl" "run.dir=$ROOT/slow" reward.all.workers=1 reward.part.workers=1 run.timeout=3s
is "slow programs: $(tail -n 2 <<<"$out")" "$rc" 0

# A machine on which users make no namespaces: refused, or weak by name.
if unshare -Ur true 2>/dev/null; then
    poor() { out="$(unshare -Ur bash -c 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"' - "$gradus" "$@" 2>&1)"; rc=$?; }
    poor score.in "run.dir=$ROOT/poor"
    is "no namespaces" "$rc" 2
    has "no namespaces" "$out" "which this machine does not give: namespaces of an unprivileged user"
    has "no namespaces" "$out" "reward.all.isolation = weak"
    poor score.in "run.dir=$ROOT/weak" reward.all.isolation=weak reward.part.isolation=weak
    is "weak isolation" "$rc" 0
    is "weak isolation" "$(jq -c '.rewards.all' weak/scored.jsonl | tr '\n' ' ' | sed 's/\.0//g')" "1 0 0 1 1 0 1 null null "
fi

if [[ -r ${GRADUS_DATA:-}/humaneval/HumanEval.jsonl ]]; then
    {
        head -n 4 "$GRADUS_DATA/humaneval/HumanEval.jsonl" | jq -c '.response = .canonical_solution'
        head -n 4 "$GRADUS_DATA/mbpp/mbpp.jsonl" | jq -c '.response = "```\n" + .code + "\n```"'
        head -n 2 "$GRADUS_DATA/humaneval_x/humaneval_cpp.jsonl" | jq -c '.response = .canonical_solution'
        head -n 1 "$GRADUS_DATA/humaneval_x/humaneval_cpp.jsonl" | jq -c '.response = .prompt + "return false; }"'
    } >real.jsonl
    run 1 score.in "score.input=$ROOT/real.jsonl" "run.dir=$ROOT/real"
    is "real rows" "$(jq -c '.rewards.all' real/scored.jsonl | tr '\n' ' ' | sed 's/\.0//g')" "1 1 1 1 1 1 1 1 1 1 0 "
else
    echo "no rows of HumanEval and MBPP: GRADUS_DATA names no folder with them"
fi

# Reinforcement learning goes on without its helper; what it cannot judge is left out and counted.
run 1 "$decks/problems.in"
run 1 "$decks/pretrain.in" train.steps=3
head -n 7 own.jsonl | jq -c 'select(.language == "python") | del(.response)' >prompts.jsonl
learn=("$decks/rl.in" "data.path=$ROOT/prompts.jsonl" reward.code.kind=code reward.code.partial=true reward.accuracy.weight=0
    rl.unscorable=all ckpt.every=0 reward.code.workers=2)
run 2 "${learn[@]}" "run.dir=$ROOT/rl" train.steps=3
is "rl" "$rc" 0
holds "every program is judged" jq -se 'all(.rewards.code.unscorable == 0)' rl/metrics.jsonl
"$gradus" "${learn[@]}" "run.dir=$ROOT/bereft" train.steps=30 >bereft.out 2>&1 &
rank=$!
until [[ -s bereft/metrics.jsonl ]] || ! kill -0 "$rank" 2>/dev/null; do sleep 0.05; done
kill -KILL "$(pgrep -P "$rank" gradus-box)"
wait "$rank"
is "without its helper" "$?" 0
is "all steps" "$(wc -l <bereft/metrics.jsonl)" 30
holds "programs are unscorable, not wrong" jq -se '.[0].rewards.code.unscorable == 0 and .[-1].rewards.code.unscorable == 24' bereft/metrics.jsonl
has "the reward and the reason are named" "$(<bereft.out)" "warning: reward code cannot judge 24 of 24 responses (the first: the helper process of programs has ended)"
is "a line a step" "$(grep -c 'cannot judge' bereft.out)" "$(jq -s 'unique_by(.rollout) | map(select(.rewards.code.unscorable > 0)) | length' bereft/metrics.jsonl)"
# Orphans belong to process 1, which takes a moment to wait for those that are dead.
for _ in {1..50}; do
    pgrep -P 1 gradus-box >/dev/null || break
    sleep 0.1
done
is "nothing is left" "$(pgrep -c -P 1 gradus-box)" 0
finish
