#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo's chain, whole: it learns what it is there to learn.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

"$source_dir/jobs/run" "$source_dir/jobs/r1-demo.chain" --root "$work/root" --gradus "$gradus"
is "the chain" "$?" 0
# true CONDITION: a jq expression over the rows by name
true_that() {
    holds "$1" jq -e "(.stages | map({(.name): .}) | add) as {\$base, \$zero, \$dev1, \$dev2, \$dev3, \$helpful, \$harmless, \$r1, \$direct} | $1" \
        root/summary.json
}
true_that '$zero.pass_at_1 >= $base.pass_at_1 + 0.15'
true_that '$dev2.pass_at_1 >= $dev1.pass_at_1 + 0.10 or $dev2.pass_at_1 > 0.90'
# dev3 pays for the requests that it learns beside the problems; r1 wins most of it back.
true_that '$r1.pass_at_1 + $r1.stderr >= $dev3.pass_at_1'
true_that '$r1.pass_at_1 >= $base.pass_at_1 + 0.15'
true_that '[$helpful, $harmless] | all(.accuracy > 0.8)'
true_that '[$dev1, $dev2, $dev3, $r1] | all(.format > 0.95)'
true_that '$direct.pass_at_1 < $dev1.pass_at_1'
true_that '[$base, $zero, $dev1, $dev2, $dev3, $r1] | all(.steps > 0 and .tokens_per_s > 0)'
is "a row each" "$(jq '.stages | length' root/summary.json)" 9
is "problems of a row" "$(jq .problems root/eval-r1/result.json)" 256
# Split by problem: no prompt of the evaluation stands in what the stages train on.
for data in train base direct; do
    is "evaluation problems in $data.jsonl" "$(comm -12 <(jq -r .prompt root/problems/eval.jsonl | sort -u) \
        <(jq -r .prompt "root/problems/$data.jsonl" | sort -u) | wc -l)" 0
done
finish
