#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Hardware that fails: what the self-test tells, checkpoints that cannot be stored, ranks that stand still.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

holds "the library of faults" make_faults
run 1 "$here/problems.in"
is "problems" "$rc" 0
host="$(hostname)"
test=("$here/problems.in" run.self_test=true "run.dir=$ROOT/test")

run 2 "${test[@]}"
is "self-test: exit code" "$rc" 0
for step in product memory "sum over world" "sum over data" "sum over tensor" "sum over expert" file; do
    has "self-test: $step" "$out" "self-test: $step"
done
is "self-test: its files are gone" "$(find test -name '.self_test*')" ""
# told WHAT FAULTS TEXT: the self-test ends the run with 70 and says TEXT.
told() {
    broken "$2" 2 "${test[@]}"
    is "$1: exit code" "$rc" 70
    has "$1" "$out" "$3"
}
told "a wrong product" 1:product:*:1+:wrong "rank 1 host $host: product: element (0, 0)"
told "a wrong product, later" 0:product:*:2:wrong "rank 0 host $host: product: element (0, 0)"
told "a wrong sum" 1:collective:*:30+:wrong "of a sum over the 2 ranks of \`world\`"
told "a disk that does not write" "1:pwrite:*.self_test*:1:EIO" "rank 1 host $host: file: cannot write $ROOT/test/.self_test.1: Input/output error"
told "a disk that does not sync" "0:fsync:*.self_test*:1:EIO" "rank 0 host $host: file: cannot sync"
told "a disk that does not read" "1:pread:*.self_test*:1:EIO" "rank 1 host $host: file: cannot read"
broken 1:product:*:1+:sleep=2000 2 "${test[@]}"
is "a slow rank: exit code" "$rc" 0
has "a slow rank is told" "$out" "self-test: rank 1 host $host is slow: product took "
has "with the factor" "$out" "times the median"
broken 1:product:*:1:stop 2 "${test[@]}" run.timeout=10s
is "a rank that stands still in the self-test" "$rc" 70
has "and its phase" "$out" "in phase self_test.product"

run 2 "$here/pretrain.in" "run.dir=$ROOT/whole"
is "the undisturbed run" "$rc" 0
broken 0:fsync:*/index.h5:3:EIO 2 "$here/pretrain.in" "run.dir=$ROOT/once"
is "one checkpoint is not stored: exit code" "$rc" 0
has "it is told" "$out" "the checkpoint of step 8 could not be stored"
has "with the cause" "$out" "Input/output error; the run goes on"
is "HDF5 closes in order" "$(grep -c "infinite loop" <<<"$out")" 0
holds "and the run ends as the undisturbed one" same_run whole once
broken 1:pwrite:*/shard_*:1+:ENOSPC 2 "$here/pretrain.in" "run.dir=$ROOT/never"
is "the last checkpoint is not stored: exit code" "$rc" 3
has "it is told, with rank" "$out" "the checkpoint of step 20 could not be stored: rank 1"
is "all steps were made" "$(wc -l <never/metrics.jsonl)" 20
is "nothing half is left" "$(find never -name 'chk*')" ""

# A rank stands still: before MPI begins, as files are read, at the end.
for at in 1:init:*:1:stop "1:open:*/meminfo:1:stop" 0:open:*/run.log:1:stop 1:finalize:*:1:stop; do
    began=$SECONDS
    broken "${at}" 2 "$here/pretrain.in" "run.dir=$ROOT/still" train.steps=2 run.timeout=10s
    ((rc == 0)) && continue  # no such call here
    is "$at: exit code" "$rc" 70
    has "$at: a rank says so" "$out" "no progress"
    holds "$at: within the time-out" test $((SECONDS - began)) -lt 40
done
finish
