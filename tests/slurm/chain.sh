#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Chains through a real Slurm: cut by their budgets and by the time limit, cancelled, preempted, requeued and
# robbed of a node, they end in the bits of a run that was left alone, or stop and say why.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
. "$here/cluster.bash"

jobs="$source_dir/jobs"
# submit ROOT CHAIN [ARGUMENT...]: output in `out`, code in `rc`.
# TEST_NODE: the only node that the jobs may go to.
submit() {
    out="$("$jobs/run" "$2" --root "$1" --gradus "$gradus" --slurm --site "$here/site.sh" "${@:3}" 2>&1)"
    rc=$?
}
# status ROOT: output in `out`, code in `rc`.
status() {
    out="$("$jobs/status" "$1" 2>&1)"
    rc=$?
}
is_state() { [[ $(squeue --noheader --jobs="$1" --format=%T) == "$2" ]]; }
are_gone() { ! squeue --noheader --format=' %i ' | grep -qE " ($1|$2) "; }
id_of() { awk '$2 == "submitted" { id = $3 } END { print id }' "$1"; }
events() { awk -v event="$2" '$2 == event { n++ } END { print n + 0 }' "$1"; }
has_events() { (($(events "$1" "$2") >= $3)); }
steps() { { wc -l <"$1/metrics.jsonl"; } 2>/dev/null || echo 0; }
has_steps() { (($(steps "$1") >= $2)); }
ranks_of() {
    local pid words
    for pid in $(pgrep -x gradus); do
        mapfile -t -d '' words <"/proc/$pid/cmdline" && [[ " ${words[*]} " == *" run.dir=$1 "* ]] && echo "$pid"
    done 2>/dev/null
}
# Waits until a run has made so many steps, and stops its ranks there: freeze RUN STEPS.
freeze() {
    await 60 has_steps "$1" "$2" || echo "$1 did not come to step $2"
    # shellcheck disable=SC2046
    kill -STOP $(ranks_of "$work/$1") 2>/dev/null
}
# shellcheck disable=SC2046
thaw() { kill -CONT $(ranks_of "$work/$1") 2>/dev/null; }

# --- Left alone, here --------------------------------------------------------------------------
"$jobs/run" "$here/tiny.chain" --root "$work/whole" --gradus "$gradus" >whole.out
is "the chain here" "$?" 0
status whole
is "its status: exit code" "$rc" 0
has "its status: steps" "$out" "base             done      40 steps"
has "its status: the table" "$out" "$(cat whole/summary.txt)"

# Each training stage gets a third of the time that it took: cut at least twice, whatever the machine.
third() { jq -r '"\(.seconds / 3)s"' "whole/$1/summary.json"; }
sed "s|\.\./restart/|$source_dir/tests/restart/|; s|^\([a-z-]* *\)\([a-z]*\.in\)|\1$here/\2|" "$here/tiny.chain" >cut.chain
for stage in base zero dev; do sed -i "/^$stage /s|\$| run.walltime=$(third $stage)|" cut.chain; done
# Ranks on two nodes, and samples by two jobs, are to change nothing.
sed -i '/^base /s|$| nodes=2 ranks=2|; /^collect /s|$| array=2|; /^eval-zero /s|$| array=2|' cut.chain

start_cluster

# --- What is wrong with the command ------------------------------------------------------------
mkdir path
for command in bash env dirname basename realpath jq flock mkdir date cat sed awk tr id nproc mpirun; do
    ln -s "$(command -v $command)" path/
done
out="$(PATH="$work/path" "$jobs/run" cut.chain --root none --gradus "$gradus" --slurm 2>&1)"
is "no sbatch: exit code" "$?" 2
has "no sbatch: what to do" "$out" "there is no sbatch on the PATH"
submit cut cut.chain --site nowhere
is "an unknown site: exit code" "$rc" 2
has "an unknown site: those there are" "$out" "there are: example local"
submit "a root" cut.chain
is "a root with a blank: exit code" "$rc" 2
has "a root with a blank: why" "$out" "must not have blanks in its path"
is "nothing was submitted" "$(squeue --noheader)" ""

# --- All at once -------------------------------------------------------------------------------
submit cut cut.chain
is "submitted" "$rc" 0
first="$(id_of cut/batch/problems)"
has "with its number" "$(tr -s ' ' <<<"$out")" "problems submitted $first"
submit cut cut.chain
is "again: exit code" "$rc" 0
is "again: nothing is submitted twice" "$(grep -c submitted <<<"$out") $(cat cut/batch/* | grep -c submitted)" "0 12"
out="$("$jobs/run" cut.chain --root cut --gradus "$gradus" 2>&1)"
is "here, while it is queued: exit code" "$?" 2
has "here, while it is queued: why" "$out" "cancel it, or leave the chain to slurm (--slurm)"
status cut
is "status of what waits: exit code" "$rc" 75
has "status of what waits: for what" "$out" "waiting   for zero, eval-zero.0, eval-zero.1 (job $(id_of cut/batch/eval-zero))"

# The time limit itself, which Slurm looks at every 30 s: the ranks stand still until it has sent USR1.
echo "base $source_dir/tests/restart/pretrain.in train.steps=40 time=1m run.walltime=none data.path=$work/whole/problems/base.jsonl" >one.chain
TEST_NODE=node2 submit limit one.chain
sed 's/ time=1m//' one.chain >rough.chain
echo "eval $here/evaluate.in after=base model.from=\$ROOT/base data.path=$work/whole/problems/eval.jsonl" >>rough.chain
TEST_NODE=node1 submit rough rough.chain

# A stage that fails.
cat >fail.chain <<X
problems $source_dir/tests/restart/problems.in ranks=1
bad   $source_dir/tests/restart/pretrain.in after=problems data.path=$work/nowhere.jsonl
next  $here/evaluate.in after=bad model.from=\$ROOT/bad
last  $here/evaluate.in after=next model.from=\$ROOT/bad
X
submit fail fail.chain

# A site whose modules are not there.
{ cat "$here/site.sh"; echo 'site_environment() { echo "no such module"; false; }'; } >modules.sh
submit modules one.chain --site "$work/modules.sh"

# Jobs that end as their decks say (tests/chain/gradus).
mkdir words
for word in "ok 0" "stall 75+ 75" "hard 70 0" "twice 70" "die die 0" "file stop 0"; do
    echo "${word#* }" >"words/${word%% *}.in"
    echo "${word%% *} words/${word%% *}.in ranks=1" >>words.chain
done
echo "after words/ok.in after=stall ranks=1" >>words.chain
gradus_is="$gradus" gradus="$source_dir/tests/chain/gradus"
submit words words.chain
is "jobs that end as told: submitted" "$rc" 0
gradus="$gradus_is"

# --- The rough life of one job -----------------------------------------------------------------
freeze limit/base 4
frozen=$SECONDS
job="$(id_of rough/batch/base)"

freeze rough/base 3
scancel --signal=TERM "$job"
thaw rough/base
holds "TERM: back in the queue" await 30 has_events rough/batch/base stopped 1
at="$(steps rough/base)"
holds "TERM: goes on" await 60 has_events rough/batch/base started 2
freeze rough/base $((at + 1))
status rough
has "status of what runs: step, rate, time" "$out" "base             running   step $(steps rough/base)/40, "
has "status of what runs: how often" "$out" "left, went on 1 time (job $job)"
scontrol requeue "$job"
thaw rough/base
holds "requeue: goes on" await 60 has_events rough/batch/base started 3
at="$(steps rough/base)"
freeze rough/base $((at + 1))
kill_node node1
# Slurm misses the node after SlurmdTimeout, and has it back when its daemon runs again.
holds "node lost: Slurm misses it" await 90 is_state "$job" PENDING
start_node node1
holds "node lost: goes on" await 60 has_events rough/batch/base started 4
has "node lost: Slurm knows" "$(scontrol show job "$job")" "Restarts=3"
at="$(steps rough/base)"
freeze rough/base $((at + 1))
scancel "$job"
holds "cancelled: it and what waits for it" await 60 are_gone "$job" "$(id_of rough/batch/eval)"
status rough
is "cancelled: status" "$rc" 75
has "cancelled: status says where" "$out" "base             stopped   at $(cat rough/base/latest); job $job was cancelled"
has "cancelled: and what that means" "$out" "eval             -         not begun: waits for base; job $(id_of rough/batch/eval) was cancelled by Slurm"
submit rough rough.chain
is "cancelled: submitted again" "$rc $(grep -c 'submitted  ' <<<"$out")" "0 2"

# --- The limit -----------------------------------------------------------------------------------
# Slurm looks every 30 s whether the end is 30 s away, and sends the signal up to 30 s early. It wakes ranks.
await $((45 - SECONDS + frozen)) has_events limit/batch/base stopped 1 || thaw limit/base

# --- The ends -------------------------------------------------------------------------------------
holds "all ends" await 150 queue_is_empty
[[ -z $(squeue --noheader) ]] || { squeue; head -n 50 "$work"/*/batch/*; }

for stage in base zero dev; do
    holds "$stage was cut twice at least ($(events cut/batch/$stage stopped))" has_events cut/batch/$stage stopped 2
    holds "cut $stage: the same bits" same_run "whole/$stage" "cut/$stage"
done
holds "the same samples" cmp whole/collect/sft.jsonl cut/collect/sft.jsonl
is "the table" "$(jq -c '.stages[] | del(.tokens_per_s)' cut/summary.json)" \
    "$(jq -c '.stages[] | del(.tokens_per_s)' whole/summary.json)"
status cut
is "the chain's status" "$rc" 0
has "with its table" "$out" "$(cat cut/summary.txt)"
submit cut cut.chain
is "a finished chain: nothing to submit" "$rc $(grep -c 'finished before' <<<"$out") $(squeue --noheader)" "0 12 "

holds "rough: the same bits" same_run whole/base rough/base
is "rough: all done" "$("$jobs/status" rough | grep -c ' done')" 2
has "limit: Slurm's signal" "$(cat limit/base/run.log)" "SIGUSR1"
holds "limit: back in the queue" has_events limit/batch/base stopped 1
holds "limit: the same bits" same_run whole/base limit/base

status fail
is "a failed stage: status" "$rc" 3
has "a failed stage: its code" "$out" "bad              failed    exit code 3"
has "a failed stage: why" "$out" "$work/nowhere.jsonl"
has "a failed stage: the next" "$out" "next             -         not begun: waits for bad"
is "a failed stage: what waited for it never began" "$(ls -d fail/next* fail/last* 2>/dev/null)" ""
# What is mended goes on, and what is done is not done again.
sed -i "s|$work/nowhere.jsonl|$work/whole/problems/base.jsonl train.steps=2|" fail.chain
submit fail fail.chain
has "mended: the first is kept" "$out" "problems         finished before"
is "mended: the rest is submitted" "$(grep -c 'submitted  ' <<<"$out")" 3

status modules
is "no modules: status" "$rc" 2
has "no modules: why" "$out" "modules.sh: site_environment failed"

status words
is "75 without a checkpoint: tries" "$(grep -c '^stall ' words/calls)" 4
has "75 without a checkpoint: why" "$out" "'stall' was stopped 3 times in a row before it had got further"
is "what waited for it never began" "$(grep -c '^after ' words/calls)" 0
is "70 is tried once more" "$(grep -c '^hard ' words/calls) $(cat words/hard/exit)" "2 0"
is "but not twice" "$(grep -c '^twice ' words/calls) $(cat words/twice/exit)" "2 70"
is "and so is a kill" "$(grep -c '^die ' words/calls) $(cat words/die/exit)" "2 0"
is "a file stop ends the job" "$(grep -c '^file ' words/calls)" 1
has "and status says so" "$out" "file             stopped   at chk0000001"

holds "mended: ends" await 60 queue_is_empty
is "mended: all done" "$("$jobs/status" fail | grep -c ' done')" 4
finish
