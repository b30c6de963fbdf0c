#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Truncated shard, flipped bit, missing shard, full disk, a deck of another model: each a clear error
# with its exit code, and the checkpoint before stays good.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

run 1 "$here/problems.in"
is "problems" "$rc" 0
run 2 "$here/pretrain.in" "run.dir=$ROOT/good" ckpt.keep=3
is "pretrain" "$rc" 0
ls good

# flip FILE OFFSET: changes one bit
flip() {
    local byte
    byte="$(od -An -tu1 -j "$2" -N1 "$1")"
    # shellcheck disable=SC2059
    printf "\\x$(printf '%02x' $((byte ^ 4)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# damaged NAME: a copy of the good run, its newest checkpoint in `newest`
damaged() {
    cp -r good "$1"
    newest="$(newest "$1")"
    shard="$newest/shard_00001.h5"
}
# Whether --verify-checkpoint refuses it, and names the file.
refused() {
    out="$("$gradus" --verify-checkpoint "$newest" 2>&1)"
    is "$1: --verify-checkpoint" "$?" 3
    has "$1: --verify-checkpoint names the file" "$out" "$2"
    out="$("$gradus" --verify-checkpoint "$(dirname "$newest")/chk0000016" 2>&1)"
    is "$1: the checkpoint before is good" "$?" 0
}
# A run that wants these weights by name ends with 3 and names the file.
named() {
    run 2 "$here/pretrain.in" "run.dir=$ROOT/$1.named" "model.from=$newest" train.steps=1
    is "$1: model.from" "$rc" 3
    has "$1: model.from names the file" "$out" "$2"
    is "$1: file exit" "$(cat "$1.named/exit")" 3
}
# A restart goes back to the checkpoint before, and says so.
falls_back() {
    run 2 "$here/pretrain.in" "run.dir=$ROOT/$1" train.steps=24
    is "$1: restart" "$rc" 0
    has "$1: restart from the checkpoint before" "$out" "restarted from $ROOT/$1/chk0000016"
    has "$1: restart says why" "$out" "$2"
}

out="$("$gradus" --verify-checkpoint good 2>&1)"
is "a good checkpoint" "$?" 0

damaged truncated
truncate -s -1000 "$shard"
refused truncated shard_00001.h5
named truncated shard_00001.h5
falls_back truncated shard_00001.h5

damaged missing
rm "$shard"
refused missing shard_00001.h5
named missing shard_00001.h5
falls_back missing shard_00001.h5

damaged index
flip "$newest/index.h5" $(($(stat -c %s "$newest/index.h5") / 2))
refused index index.h5

damaged flipped
flip "$shard" $(($(stat -c %s "$shard") / 2))
refused flipped shard_00001.h5
named flipped shard_00001.h5
falls_back flipped chk0000020.damaged
has "flipped: the file is named" "$out" shard_00001.h5
holds "flipped: nothing is thrown away" test -f flipped/chk0000020.damaged/index.h5
# Where there is no other, it is an error.
mkdir only
cp -r flipped/chk0000020.damaged only/chk0000020
run 2 "$here/pretrain.in" "run.dir=$ROOT/only" train.steps=24
is "flipped, the only one: exit code" "$rc" 3
has "flipped, the only one: the file is named" "$out" shard_00001.h5
has "flipped, the only one: what to do" "$out" "use another run.dir or restart = none"
holds "flipped, the only one: it stays" test -f only/chk0000020/index.h5

run 2 "$here/pretrain.in" "run.dir=$ROOT/other" "model.from=$ROOT/good" model.hidden=64
is "another model" "$rc" 3
has "another model: the key" "$out" "model.hidden = 64, the checkpoint has 32"
run 2 "$here/pretrain.in" "run.dir=$ROOT/good" model.hidden=64 train.steps=24
is "another model in the same run directory" "$rc" 3
has "another model in the same run directory: what to do" "$out" "use another run.dir"

# A file of the data is damaged: file and line are named.
sed '3s/.*/{"prompt": "1+1=?", /' problems/base.jsonl >broken.jsonl
run 2 "$here/pretrain.in" "run.dir=$ROOT/broken" "data.path=$ROOT/broken.jsonl"
is "a broken line" "$rc" 3
has "a broken line is named" "$out" "broken.jsonl:3"

# Numbers that are not finite end the run before they reach a checkpoint.
run 2 "$here/pretrain.in" "run.dir=$ROOT/nan" train.lr=1e30 train.warmup=6 ckpt.every=1
is "not finite: exit code" "$rc" 4
is "not finite: file exit" "$(cat nan/exit)" 4
has "not finite is said, with rank and phase" "$out" "rank 0 host"
out="$("$gradus" --verify-checkpoint nan 2>&1)"
is "not finite: the checkpoint before is good" "$?" 0

mkdir small
if mount -t tmpfs -o size=8m none small 2>/dev/null; then
    run 2 "$here/pretrain.in" "run.dir=$ROOT/small/run" model.hidden=64 ckpt.keep=9 ckpt.every=1
    is "a full disk: exit code" "$rc" 3
    has "a full disk is said" "$out" "pace"
    out="$("$gradus" --verify-checkpoint small/run 2>&1)"
    is "a full disk: the checkpoint before is good" "$?" 0
    umount small
else
    echo "not run: a full disk (mounting a tmpfs is not permitted here)"
fi
finish
