#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A model of Qwen2.5-1.5B's true shape with random weights (3 GB of BF16), with Qwen2's own tokenizer:
# imported on 2 ranks, evaluated on 8 questions of GSM8K for 32 tokens on 2 tensor ranks, exported,
# compared. A rank's memory stays below its share of the float32 weights and 1 GiB.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
tokenizer="${GRADUS_REFERENCE:-}/tokenizers/qwen2/tokenizer.json" questions="${GRADUS_DATA:-}/gsm8k/test.jsonl"
if [[ ! -r $tokenizer || ! -r $questions ]]; then
    echo "skipped: wants tokenizers/qwen2/tokenizer.json in GRADUS_REFERENCE and gsm8k/test.jsonl in GRADUS_DATA"
    exit 77
fi
if (($(df --output=avail -k . | tail -n 1) < 12 * 1000 * 1000)); then
    echo "skipped: 12 GB of disk are wanted in $work"
    exit 77
fi
write_model="$(dirname "$gradus")/tests/program/write_model"
trap 'rm -rf "$work"' EXIT
"$write_model" large folder "$tokenizer" || exit 1
du -hL folder/model.safetensors

# peak RUN MOST: bytes of the largest rank, at most MOST
gib=$((1 << 30))
peak() {
    local bytes
    bytes="$(jq '.peak_bytes | floor' "$1/summary.json")"
    echo "$1: $((bytes >> 20)) MiB a rank at most, $(jq '.seconds * 10 | round / 10' "$1/summary.json") s"
    holds "$1: peak memory of a rank, $bytes bytes, is at most $2" test "$bytes" -le "$2"
}
printf 'stage = import\nimport.path = folder\nrun.dir = import\n' >import.in
printf 'stage = export\nmodel.from = import\nexport.path = out\nrun.dir = export\n' >export.in
run 2 import.in
is "import" "$rc" 0
peak import $gib
cat >evaluate.in <<X
stage = evaluate
run.dir = evaluate
model.from = import
grid.tensor = 2
data.path = $questions
data.limit = 8
eval.n = 1
rollout.max_new_tokens = 32
rollout.slots = 8
train.max_length = 512
train.micro_tokens = 512
policy.template = qwen2.5
X
run 2 evaluate.in
is "evaluate" "$rc" 0
((rc == 0)) || echo "$out"
is "questions" "$(jq .problems evaluate/result.json)" 8
is "tokens" "$(jq '.mean_length <= 32 and .mean_length > 0' evaluate/result.json)" true
parameters=1543714304
peak evaluate $((parameters * 4 / 2 + gib))
# An export that is killed leaves nothing in its place, and the next one makes it whole.
mpirun -np 2 "$gradus" export.in >killed.out 2>&1 &
launcher=$!
until [[ -s out.tmp/model.safetensors ]] || ! kill -0 $launcher 2>/dev/null; do sleep 0.1; done
# shellcheck disable=SC2046
kill -KILL $(pgrep -P $launcher) 2>/dev/null
wait $launcher 2>/dev/null
holds "a killed export is not in place" test ! -e out
run 2 export.in
is "export" "$rc" 0
peak export $gib
holds "the export is the folder" diff -r folder out
# So with an import: the checkpoint is there when it is whole.
mpirun -np 2 "$gradus" import.in run.dir=import2 >killed.out 2>&1 &
launcher=$!
until [[ -s import2/chk0000000.tmp/shard_00000.h5 ]] || ! kill -0 $launcher 2>/dev/null; do sleep 0.1; done
# shellcheck disable=SC2046
kill -KILL $(pgrep -P $launcher) 2>/dev/null
wait $launcher 2>/dev/null
holds "a killed import is no checkpoint" test ! -e import2/latest -a ! -e import2/chk0000000
run 2 import.in run.dir=import2
is "import after a killed one" "$rc" 0
holds "it is the same" cmp import/chk0000000/shard_00001.h5 import2/chk0000000/shard_00001.h5
echo "in all $((SECONDS / 60)) min $((SECONDS % 60)) s"
finish
