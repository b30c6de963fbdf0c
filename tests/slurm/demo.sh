#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The demo's chain, whole, through Slurm: every training stage is cut at least twice, and the table is that of
# the chain that was left alone. demo.sh GRADUS SOURCE_DIR WORK_DIR [key=value ...]
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
. "$here/cluster.bash"

"$source_dir/jobs/run" "$source_dir/jobs/r1-demo.chain" --root "$work/whole" --gradus "$gradus" "${@:4}" >whole.out
is "the chain here" "$?" 0
training=(base zero dev1 dev2 dev3 r1 direct)
# whole/chain is the chain with absolute paths, and with the folder of all runs filled in.
sed "s|$work/whole/|\$ROOT/|g" whole/chain >cut.chain
for stage in "${training[@]}"; do
    sed -i "/^$stage /s|\$| run.walltime=$(jq -r '"\(.seconds / 3)s"' "whole/$stage/summary.json")|" cut.chain
done

start_cluster
"$source_dir/jobs/run" cut.chain --root "$work/cut" --gradus "$gradus" --slurm --site "$here/site.sh" "${@:4}"
is "submitted" "$?" 0
holds "all ends" await 5000 queue_is_empty
"$source_dir/jobs/status" "$work/cut"
is "status" "$?" 0
for stage in "${training[@]}"; do
    cuts="$(grep -c ' stopped ' "cut/batch/$stage")"
    holds "$stage was cut twice at least ($cuts)" test "$cuts" -ge 2
    holds "$stage: the same bits" same_run "whole/$stage" "cut/$stage"
done
is "the table" "$(jq -c '.stages[] | del(.tokens_per_s)' cut/summary.json)" \
    "$(jq -c '.stages[] | del(.tokens_per_s)' whole/summary.json)"
finish
