#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# says WHAT CODE PART ARGUMENTS...: the program ends with CODE and prints PART
says() {
    local what="$1" code="$2" part="$3"
    shift 3
    out="$("$gradus" "$@" 2>&1)"
    is "$what: exit code" "$?" "$code"
    has "$what" "$out" "$part"
}
says "version" 0 "gradus 0." --version
says "help" 0 "--help-deck" --help
says "no deck" 2 "no deck is given"
says "an unknown option" 2 "unrecognised option '--chekc'" --chekc
says "no such deck" 2 "nowhere.in" nowhere.in
says "keys of a section" 0 "ckpt.keep = 2" --help-deck ckpt.
says "keys of no section" 2 "no key" --help-deck nothing.
says "no such run" 3 "nowhere" show nowhere
says "no such checkpoint" 3 "nowhere" --verify-checkpoint nowhere

cat >wrong.in <<X
stage = pretrain
run.dir = run
data.path = nowhere.jsonl
train.stesp = 5
train.lr = fast
rl.group = 4
X
says "all errors at once (1)" 2 "wrong.in:4: " --check wrong.in
has "all errors at once (2)" "$out" "train.steps"
has "all errors at once (3)" "$out" "wrong.in:5: "
has "all errors at once (4)" "$out" "wrong.in:6: "
run 2 wrong.in
is "errors of a deck on ranks" "$rc" 2
is "errors of a deck are told once" "$(grep -c 'wrong.in:4: ' <<<"$out")" 1
is "nothing is made" "$(ls)" "wrong.in"

# Every deck of the demo resolves, and says what is not there yet.
for deck in $(grep -o 'inputs/demo/[a-z0-9-]*\.in' "$source_dir/jobs/r1-demo.chain" | sort -u); do
    "$gradus" --check "$source_dir/$deck" run.dir=run >check.out 2>&1 ||
        "$gradus" --check "$source_dir/$deck" run.dir=run model.from=x >check.out 2>&1
    is "$deck resolves: all but its inputs is there" "$? $(tail -n 1 check.out)" \
        "$([[ $deck == *problems.in ]] && echo "0 needs no model" || echo "3 inputs are missing or cannot be used: see above")"
done
rm check.out
# A plan for ranks that need not exist.
out="$("$gradus" --check "$source_dir/inputs/bench/cpu-25m.in" --ranks 512 grid.tensor=8)"
is "a plan for 512 ranks" "$?" 0
has "a plan for 512 ranks: grid" "$out" "64 data x 8 tensor"
out="$("$gradus" --check "$source_dir/inputs/bench/cpu-25m.in" --ranks 3 grid.tensor=3 2>&1)"
is "a model that does not divide" "$?" 2
has "a model that does not divide: why" "$out" "model.heads = 8 does not divide by grid.tensor = 3"
finish
