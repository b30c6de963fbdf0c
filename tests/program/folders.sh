#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Hugging Face folders in and out: the same bytes where nothing was trained, of every folder `hf/*` in
# GRADUS_REFERENCE and of folders made here, on 1 and 2 ranks; trained, in other types, of a model that
# never was one; damaged ones are refused.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
write_model="$(dirname "$gradus")/tests/program/write_model"
decks="$source_dir/tests/restart"
echo "stage = import" >import.in
echo "stage = export" >export.in
# import RANKS FOLDER RUN key=value...; export RANKS RUN FOLDER key=value...
import() { run "$1" import.in "import.path=$2" "run.dir=$3" "${@:4}"; }
export_run() { run "$1" export.in "model.from=$2" "export.path=$3" "run.dir=$3.run" "${@:4}"; }
# Whether FOLDER holds the same files as ORIGINAL, but for expected.safetensors.
same_folder() { diff -r -x expected.safetensors "$1" "$2"; }

# A model that never was a folder, and its tokenizer.
run 1 "$decks/problems.in"
is "problems" "$rc" 0
for form in llama: qwen2:model.qkv_bias=true qwen3:model.qk_norm=true; do
    name="${form%%:*}"
    # shellcheck disable=SC2086
    run 2 "$decks/pretrain.in" "run.dir=$ROOT/$name" train.steps=2 ${form#*:}
    is "pretrain $name" "$rc" 0
    export_run 2 "$name" "new/$name"
    is "export of $name, new" "$rc" 0
    is "its family" "$(jq -r .model_type "new/$name/config.json")" "$name"
    is "its files" "$(cd "new/$name" && echo *)" \
        "config.json generation_config.json model.safetensors tokenizer.json tokenizer_config.json"
done
is "tokens of the byte tokenizer" "$(jq '.model.vocab | length' new/llama/tokenizer.json)" 256
is "ids are bytes" "$(jq -c '.model.vocab | [.["A"], .["Ġ"], .["Ċ"], .["ÿ"], .["Ā"]]' new/llama/tokenizer.json)" "[65,32,10,255,0]"
is "special tokens" "$(jq -r '.added_tokens[] | "\(.id)\(.content)"' new/llama/tokenizer.json | head -n 2 | xargs)" "256<bos> 257<eos>"
run 2 "$decks/pretrain.in" "run.dir=$ROOT/both" train.steps=1 model.qkv_bias=true model.qk_norm=true
export_run 1 both new/both
is "a model of no family: exit code" "$rc" 3
has "a model of no family" "$out" "of no family that is exported"
holds "a model of no family leaves nothing" test ! -e new/both

# A mixture of experts that begins here, from a config.json.
for kind in fp8 stacked; do
    "$write_model" $kind "shape/$kind" || exit 1
    rm shape/$kind/*.safetensors
    printf 'stage = pretrain\npolicy.template = demo\ntrain.max_length = 192\ntrain.micro_tokens = 512\n' >begin.in
    run 2 begin.in "run.dir=begun_$kind" "data.path=$ROOT/problems/base.jsonl" train.steps=1 \
        train.tokens_per_step=1024 "model.config=shape/$kind/config.json"
    is "pretrain of a config.json, $kind" "$rc" 0
    ((rc == 0)) || echo "$out"
    export_run 2 "begun_$kind" "new/begun_$kind"
    is "export of it" "$rc" 0
    ((rc == 0)) || echo "$out"
done

for kind in mixed fp8 tied stacked; do
    "$write_model" "$kind" "made/$kind" new/llama/tokenizer.json || exit 1
    echo "a note" >"made/$kind/README.md"
done
folders=(made/* new/llama new/qwen2 new/qwen3 new/begun_fp8 new/begun_stacked)
for folder in "${GRADUS_REFERENCE:+$GRADUS_REFERENCE/hf}"/*/; do
    [[ ! -f $folder/config.json ]] || folders+=("${folder%/}")
done
for folder in "${folders[@]}"; do
    name="${folder//\//_}"
    for ranks in 1 2; do
        import $ranks "$folder" "in/$name.$ranks"
        is "import of $folder on $ranks ranks" "$rc" 0
        ((rc == 0)) || { echo "$out"; continue; }
        export_run $((3 - ranks)) "in/$name.$ranks" "out/$name.$ranks"
        is "export of $folder" "$rc" 0
        holds "export of $folder is the folder" same_folder "$folder" "out/$name.$ranks"
    done
done
echo "${#folders[@]} folders"
has "a tensor that repeats another is told" "$(cat in/made_tied.1/run.log)" "lm_head.weight repeats model.embed_tokens.weight"
has "a tensor that is not used is told" "$(cat in/made_tied.1/run.log)" "layers.0.self_attn.rotary_emb.inv_freq is not used"
has "the tensors of the prediction module" "$(cat in/made_fp8.1/run.log)" "model.layers.2.shared_head.head.weight repeats lm_head.weight"
"$gradus" --verify-checkpoint in/made_fp8.2 >verified
is "a checkpoint of 8-bit weights is whole" "$?" 0

# Finished runs, other keys, places that are taken.
import 2 made/mixed in/made_mixed.1
has "an import again" "$out" "nothing to do"
is "an import again: exit code" "$rc" 0
import 1 made/tied in/made_mixed.1
is "an import of another folder in the same place: exit code" "$rc" 2
has "an import of another folder in the same place" "$out" "import.path: "
export_run 1 in/made_mixed.1 out/made_mixed.1
has "an export again" "$out" "nothing to do"
export_run 1 in/made_mixed.1 out/made_mixed.1 restart=none
is "an export anew takes the place of its own" "$rc" 0
holds "an export anew" same_folder made/mixed out/made_mixed.1
rm -r out/made_mixed.1
export_run 1 in/made_mixed.1 out/made_mixed.1
holds "an export whose folder is gone is made again" same_folder made/mixed out/made_mixed.1
run 1 export.in model.from=in/made_mixed.1 export.path=made/tied run.dir=out/other
is "a folder that is there: exit code" "$rc" 3
has "a folder that is there" "$out" "there is something already"
holds "a folder that is there stays" test -s made/tied/model.safetensors
mkdir in_the_way.tmp
echo mine >in_the_way.tmp/file
export_run 2 in/made_mixed.1 in_the_way
is "a folder where the unfinished one belongs: exit code" "$rc" 3
is "a folder where the unfinished one belongs stays" "$(cat in_the_way.tmp/file)" mine
# An import that was cut off: what it left is not taken for a checkpoint.
mkdir -p in/cut/chk0000000.tmp
echo half >in/cut/chk0000000.tmp/shard_00000.h5
import 2 made/mixed in/cut
is "an import after one that was cut off" "$rc" 0
is "the unfinished checkpoint is gone" "$(cd in/cut && echo chk*)" chk0000000

out="$("$gradus" --check import.in import.path=made/fp8 run.dir=none)"
is "--check of an import: exit code" "$?" 0
has "--check of an import: sizes" "$out" "every tensor has its place; the checkpoint takes"
has "--check of an import: the folder" "$out" "deepseek_v3"
out="$("$gradus" --check import.in import.path=nowhere run.dir=none)"
is "--check of an import from nowhere" "$?" 3
out="$("$gradus" --check export.in export.path=x model.from=in/made_fp8.1 run.dir=none export.dtype=f32)"
is "--check of an export: exit code" "$?" 0
has "--check of an export" "$out" "written as BF16, without quantization_config"
holds "--check makes nothing" test ! -e none -a ! -e x

# Training: from an import, in float32; exported in the folder's types.
jq -c '{prompt, response: .reference}' problems/train.jsonl >sft.jsonl
sft=(sft.in "data.path=$ROOT/sft.jsonl" train.steps=2)
cat >sft.in <<X
stage = sft
policy.template = plain
train.max_length = 192
train.micro_tokens = 512
train.tokens_per_step = 2048
train.lr = 1e-3
X
run 2 "${sft[@]}" run.dir=still model.from=in/made_mixed.2 train.lr=0 optim.weight_decay=0
is "sft that changes nothing" "$rc" 0
export_run 2 still out/still
is "its export" "$rc" 0
holds "rounded once, every weight is what it was" same_folder made/mixed out/still
run 2 "${sft[@]}" run.dir=moved model.from=in/made_mixed.2/chk0000000
is "sft" "$rc" 0
export_run 2 moved out/moved
is "export of trained weights" "$rc" 0
for file in made/mixed/*; do
    [[ $file == *.safetensors ]] || holds "${file##*/} is carried along" cmp "$file" "out/moved/${file##*/}"
done
for file in made/mixed/*.safetensors; do
    bytes=$((8 + $(od -An -tu8 -N8 "$file")))
    holds "names, types and places of ${file##*/}" cmp -n "$bytes" "$file" "out/moved/${file##*/}"
    holds "the weights of ${file##*/} have changed" test "$(cmp -l "$file" "out/moved/${file##*/}" | wc -l)" -gt 100
done
import 1 out/moved in/moved
is "import of an export" "$rc" 0
export_run 1 in/moved out/moved_again
holds "import and export of an export" same_folder out/moved out/moved_again
run 1 "$source_dir/inputs/demo/evaluate.in" run.dir=eval model.from=in/new_llama.1 \
    "data.path=$ROOT/problems/eval.jsonl" model.hidden=32 model.layers=2 model.intermediate=64 \
    model.max_positions=192 train.max_length=192 rollout.max_new_tokens=8 eval.n=2
is "evaluate from an import" "$rc" 0
run 1 "$source_dir/inputs/demo/evaluate.in" run.dir=eval2 model.from=llama \
    "data.path=$ROOT/problems/eval.jsonl" model.hidden=32 model.layers=2 model.intermediate=64 \
    model.max_positions=192 train.max_length=192 rollout.max_new_tokens=8 eval.n=2
is "evaluate of the same weights, never exported" \
    "$(jq -c '[.pass_at_1, .mean_length, .format]' eval/result.json)" "$(jq -c '[.pass_at_1, .mean_length, .format]' eval2/result.json)"

# Other types and splits.
export_run 2 in/made_fp8.1 out/fp8_bf16 export.dtype=bf16 export.shard_bytes=600000
is "8-bit weights as BF16" "$rc" 0
is "their scales are gone" "$(jq -c '.weight_map | [has("model.layers.0.mlp.up_proj.weight_scale_inv"), has("model.layers.0.mlp.up_proj.weight")]' out/fp8_bf16/model.safetensors.index.json)" "[false,true]"
is "and quantization_config" "$(jq -c '[.quantization_config, .torch_dtype]' out/fp8_bf16/config.json)" '[null,"bfloat16"]'
import 2 out/fp8_bf16 in/fp8_bf16
is "import of them" "$rc" 0
export_run 1 in/made_fp8.2 out/fp8_f32 export.dtype=f32
import 1 out/fp8_f32 in/fp8_f32
export_run 2 in/fp8_f32 out/fp8_f32_bf16 export.dtype=bf16 export.shard_bytes=600000
holds "8-bit to F32 to BF16 is 8-bit to BF16" diff -r -x config.json out/fp8_bf16 out/fp8_f32_bf16
run 2 "${sft[@]}" run.dir=still_fp8 model.from=in/made_fp8.2 train.lr=0 optim.weight_decay=0
is "sft of 8-bit weights" "$rc" 0
((rc == 0)) || echo "$out"
export_run 2 still_fp8 out/still_fp8 export.dtype=bf16 export.shard_bytes=600000
holds "8-bit weights in training are what BF16 makes of them" diff -r out/fp8_bf16 out/still_fp8
export_run 1 still_fp8 out/trained_fp8
is "trained 8-bit weights" "$rc" 0
is "their config" "$(jq -c .quantization_config out/trained_fp8/config.json)" null
import 1 out/trained_fp8 in/trained_fp8
has "their types" "$out" "(BF16, F32)"

# Damage: each a clear error that names file or tensor, before anything is written.
# refused WHAT WORDS: of the folder `broken`
refused() {
    import 2 broken in/broken
    is "$1: exit code" "$rc" 3
    has "$1" "$out" "$2"
    holds "$1: no checkpoint" test ! -e in/broken/latest
    rm -rf broken in/broken
}
cp -r made/mixed broken
truncate -s -1 broken/model-00003-of-00005.safetensors
refused "a file that is cut off" "model-00003-of-00005.safetensors: tensor"
cp -r made/mixed broken
rm broken/model-00002-of-00005.safetensors
refused "a file that is missing" "model-00002-of-00005.safetensors: No such file"
cp -r made/mixed broken
jq '.num_hidden_layers = 3' made/mixed/config.json >broken/config.json
refused "a layer that is missing" "model.layers.2.self_attn.q_proj.weight [32, 32] is missing"
cp -r made/mixed broken
jq '.num_hidden_layers = 1' made/mixed/config.json >broken/config.json
refused "a layer too many" "model.layers.1.self_attn.q_proj.weight BF16 [32, 32]: the model has no such parameter"
cp -r made/mixed broken
jq '.intermediate_size = 64' made/mixed/config.json >broken/config.json
refused "another shape" "mlp.gate_proj.weight is [96, 32], the model needs [64, 32]"
cp -r made/mixed broken
jq '.model_type = "mamba"' made/mixed/config.json >broken/config.json
refused "an unknown family" "mamba"
cp -r made/fp8 broken
jq 'del(.quantization_config)' made/fp8/config.json >broken/config.json
refused "8-bit weights without a word" "quantization_config"
cp -r made/tied broken
printf 'x' | dd of=broken/model.safetensors bs=1 seek=$(($(stat -c %s broken/model.safetensors) - 70000)) conv=notrunc status=none
printf 'y' | dd of=broken/model.safetensors bs=1 seek=$((8 + $(od -An -tu8 -N8 broken/model.safetensors) + 7)) conv=notrunc status=none
refused "a head that is tied and is not" "lm_head.weight is not equal to model.embed_tokens.weight"
cp -r made/mixed broken
rm broken/config.json
refused "no config.json" "config.json"
mkdir broken
refused "an empty folder" "config.json"
cp -r made/mixed broken
jq '.added_tokens += [{"id": 264, "content": "<more>", "special": true}]' made/mixed/tokenizer.json >broken/tokenizer.json
refused "a tokenizer of another model" "vocab_size = 264, but the tokenizer"
cp -r made/mixed broken
{ printf '{"a": ' && head -c 300000 /dev/zero | tr '\0' '[' && echo '}'; } >broken/config.json
refused "a config.json of brackets" "nest too deep"
cp -r made/mixed bare
rm bare/tokenizer.json
import 1 bare in/bare
is "a folder without a tokenizer" "$rc" 0
has "a folder without a tokenizer: says so" "$out" "bare holds no tokenizer.json"

# Full disks.
mkdir -p small
if mount -t tmpfs -o size=1m none small 2>/dev/null; then
    import 2 made/fp8 small/in
    is "a full disk, import: exit code" "$rc" 3
    has "a full disk, import" "$out" "pace"
    export_run 2 in/made_fp8.1 small/out "run.dir=$ROOT/small.run"
    is "a full disk, export: exit code" "$rc" 3
    has "a full disk, export" "$out" "No space left"
    holds "a full disk leaves no folder" test ! -e small/out
    umount small
else
    echo "not run: a full disk (mounting a tmpfs is not permitted here)"
fi
finish
