#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One rank a GPU over NCCL: every grid (data, tensor, experts) trains as one GPU does, repeats its bits, goes on after a kill with the
# same bits, reads the other grids' checkpoints; a rank that is killed or stopped ends the job, with the group named.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
gpus="$(nvidia-smi -L 2>/dev/null | wc -l)"
((gpus >= 2)) || { echo "skipped: $gpus GPU"; exit 77; }
decks="$source_dir/tests/restart"

run 1 "$decks/problems.in"
is "problems" "$rc" 0
# Four key/value heads, so that four tensor ranks have one each.
cat >small.in <<X
include = $decks/pretrain.in
run.device = cuda
model.dtype = f32
model.kv_heads = 4
X
grids=(2x1 1x2)
((gpus < 4)) || grids+=(4x1 2x2 1x4)
((gpus < 8)) || grids+=(8x1 4x2 2x4)
ranks() { echo $((${1%x*} * ${1#*x})); }
# train GRID DIR key=value...
train() { run "$(ranks "$1")" small.in "grid.tensor=${1#*x}" "run.dir=$ROOT/$2" "${@:3}"; }

# losses DIR: step and loss, a line a step
losses() { jq -r '"\(.step) \(.loss)"' "$1/metrics.jsonl"; }
# Largest relative difference of the losses of two runs; 1 where steps differ.
difference() {
    paste -d ' ' <(losses "$1") <(losses "$2") | awk '
        { d = ($2 - $4) / $2; if (d < 0) d = -d; if ($1 != $3) d = 1; if (d > most) most = d }
        END { if (NR != 20) most = 1; print most }'
}
train 1x1 1x1
is "one GPU" "$rc" 0
for grid in "${grids[@]}"; do
    train "$grid" "$grid"
    is "$grid" "$rc" 0
    most="$(difference 1x1 "$grid")"
    echo "$grid: largest relative difference of a loss from one GPU's: $most"
    holds "$grid: losses equal to rounding ($most)" awk "BEGIN { exit !($most < 1e-4) }"
    train "$grid" "$grid.again"
    holds "$grid: the same bits again" same_run "$grid" "$grid.again"
    kill_at 10 "$(ranks "$grid")" "$grid.cut" small.in "grid.tensor=${grid#*x}"
    is "$grid is cut, not done" "$(cat "$grid.cut/exit" 2>/dev/null)" ""
    train "$grid" "$grid.cut"
    has "$grid goes on from a checkpoint" "$out" "restarted from"
    holds "$grid: the same bits after a kill" same_run "$grid" "$grid.cut"
done

# What the largest mixed grid wrote at step 8 is read at all others.
from="${grids[-1]}"
((gpus < 4)) || from=2x2
((gpus < 8)) || from=4x2
kill_at 9 "$(ranks "$from")" begun small.in "grid.tensor=${from#*x}"
for grid in 1x1 "${grids[@]}"; do
    cp -r begun "from.$grid"
    train "$grid" "from.$grid"
    is "$grid reads the checkpoint of $from" "$rc" 0
    has "$grid goes on from $from" "$out" "restarted from"
    most="$(difference 1x1 "from.$grid")"
    holds "$grid goes on from $from: losses equal to rounding ($most)" awk "BEGIN { exit !($most < 1e-4) }"
done

# A mixture of experts, its experts split over data ranks: data x tensor x expert.
cat >config.json <<X
{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 32, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64, "moe_intermediate_size": 16,
 "num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
 "vocab_size": 264, "max_position_embeddings": 192, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
 "tie_word_embeddings": false, "hidden_act": "silu", "attention_bias": false}
X
# The shape is the file's, so the keys of the small model give way.
{
    grep -v '^model\.\|^rollout\.' "$decks/tiny.in"
    grep -v '^include' "$decks/pretrain.in"
    printf '%s\n' 'run.device = cuda' 'model.dtype = f32' "model.config = $ROOT/config.json"
} >experts.in
experts() {
    local data tensor expert
    IFS=x read -r data tensor expert <<<"$1"
    run $((data * tensor)) experts.in "grid.tensor=$tensor" "grid.expert=$expert" "run.dir=$ROOT/$2" "${@:3}"
}
expert_grids=(2x1x2)
((gpus < 4)) || expert_grids+=(4x1x2 4x1x4 2x2x2)
((gpus < 8)) || expert_grids+=(8x1x8 4x2x4)
experts 1x1x1 moe
is "experts on one GPU" "$rc" 0
for grid in "${expert_grids[@]}"; do
    experts "$grid" "moe.$grid"
    is "experts $grid" "$rc" 0
    most="$(difference moe "moe.$grid")"
    echo "experts $grid: largest relative difference of a loss from one GPU's: $most"
    holds "experts $grid: losses equal to rounding ($most)" awk "BEGIN { exit !($most < 1e-3) }"
    experts "$grid" "moe.$grid.again"
    holds "experts $grid: the same bits again" same_run "moe.$grid" "moe.$grid.again"
done
# The checkpoint of the last grid goes on at one GPU.
rm -rf "moe.back" && cp -r "moe.${expert_grids[-1]}" moe.back
experts 1x1x1 moe.back train.steps=22
is "one GPU goes on from experts ${expert_grids[-1]}" "$rc" 0
has "one GPU goes on from a checkpoint" "$out" "restarted from"

# Reinforcement learning repeats its bits too, in bfloat16, generation and all.
for again in rl rl.again; do
    run "$gpus" "$decks/rl.in" run.device=cuda "model.from=$ROOT/1x1" model.kv_heads=4 "run.dir=$ROOT/$again" \
        rl.prompts=$((gpus * 3))
    is "$again" "$rc" 0
done
holds "rl: the same bits again" same_run rl rl.again

# A run in the background that has made some steps; its launcher's pid in `launcher`.
start() {
    mpirun -np "$gpus" "$gradus" small.in train.steps=1000000 ckpt.every=0 run.log_every=0 run.timeout=15 \
        "run.dir=$ROOT/$1" "${@:2}" >"$1.out" 2>&1 &
    launcher=$!
    for _ in $(seq 3000); do
        [[ $({ wc -l <"$1/metrics.jsonl"; } 2>/dev/null || echo 0) -ge 3 ]] && return
        sleep 0.02
    done
    echo "$1 did not start"
}
# fails DIR SECONDS: the run ends by itself, not with 0
fails() {
    local began=$SECONDS status
    wait "$launcher"
    status=$?
    echo "$1: ended with $status after $((SECONDS - began)) s: $(grep -m 1 'rank .* host' "$1.out")"
    holds "$1: it fails" test "$status" -ne 0
    holds "$1: within $2 s" test $((SECONDS - began)) -le "$2"
}
for tensor in 1 2; do
    start "killed.$tensor" "grid.tensor=$tensor"
    kill -KILL "$(pgrep -P "$launcher" | tail -n 1)"
    fails "killed.$tensor" 30
    start "stopped.$tensor" "grid.tensor=$tensor"
    stopped="$(pgrep -P "$launcher" | tail -n 1)"
    kill -STOP "$stopped"
    fails "stopped.$tensor" 60
    kill -KILL "$stopped" 2>/dev/null
    has "stopped.$tensor: the group that is stuck" "$(cat "stopped.$tensor.out")" "over \`"
done
finish
