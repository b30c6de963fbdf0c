#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# SIGUSR1, SIGTERM, the time budget and the file `stop` end a run with 75 and a checkpoint; a rank
# that dies alone brings all down.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

run 1 "$here/problems.in"
is "problems" "$rc" 0
long=("$here/pretrain.in" train.steps=100000 ckpt.every=0 run.log_every=0)

# Waits until a run in the background has made some steps; its launcher's pid in `launcher`.
start() {
    mpirun -np 2 "$gradus" "${long[@]}" "run.dir=$ROOT/$1" "${@:2}" >"$1.out" 2>&1 &
    launcher=$!
    for _ in $(seq 1000); do
        [[ $({ wc -l <"$1/metrics.jsonl"; } 2>/dev/null || echo 0) -ge 3 ]] && return
        sleep 0.02
    done
    echo "$1 did not start"
}
ends() {
    wait "$launcher"
    is "$1: exit code" "$?" 75
    is "$1: file exit" "$(cat "$1/exit")" 75
    holds "$1: a checkpoint of the last step" test -f "$(newest "$1")/index.h5"
    is "$1: the checkpoint is that of the last metrics" "$(basename "$(newest "$1")")" \
        "$(printf 'chk%07d' "$(tail -n 1 "$1/metrics.jsonl" | jq .step)")"
}
start usr1
kill -USR1 "$(pgrep -P "$launcher" | head -n 1)"
ends usr1
start term
kill -TERM "$(pgrep -P "$launcher" | head -n 1)"
ends term
# The limit comes while the run still stops for USR1: that is no reason to stop without a checkpoint.
start both
kill -USR1 "$(pgrep -P "$launcher" | head -n 1)"
kill -TERM "$(pgrep -P "$launcher" | head -n 1)"
ends both
start twice train.tokens_per_step=250000
kill -TERM "$(pgrep -P "$launcher" | head -n 1)"
sleep 1.1
kill -TERM "$(pgrep -P "$launcher" | head -n 1)"
wait "$launcher"
is "twice: exit code" "$?" 75
is "twice: no checkpoint is waited for" "$(cat twice/exit twice/latest 2>/dev/null)" ""

# A checkpoint in between: the run goes on and says so.
start now
is "now: no checkpoint before" "$(cat now/latest 2>/dev/null)" ""
touch now/checkpoint_now
for _ in $(seq 500); do [[ -e now/latest ]] && break; sleep 0.02; done
at="$((10#$(sed 's/chk//' now/latest)))"
holds "now: a whole checkpoint" test -f "now/$(cat now/latest)/index.h5"
has "now: the log says so" "$(cat now/run.log)" "checkpoint_now: a checkpoint after step $at of"
holds "now: the file is gone" test ! -e now/checkpoint_now
steps="$(wc -l <now/metrics.jsonl)"
for _ in $(seq 500); do (($(wc -l <now/metrics.jsonl) > steps)) && break; sleep 0.02; done
holds "now: the run goes on" test "$(wc -l <now/metrics.jsonl)" -gt "$steps"
is "now: one is enough" "$(ls -d now/chk* | wc -l)" 1
kill -USR1 "$(pgrep -P "$launcher" | head -n 1)"
ends now

start file
touch file/stop
ends file
start time run.walltime=4s run.stop_margin=1s
ends time

# The automatic margin: all is on disk before the budget ends (and a second for the launcher to start).
began="$(date +%s.%N)"
start auto run.walltime=6s train.tokens_per_step=60000
ends auto
holds "auto: ends within the budget" awk "BEGIN { exit !($(stat -c %.9Y auto/exit) - $began < 7) }"

# A step takes more than half of the budget: the run stops after the first one, which it can save.
run 2 "$here/pretrain.in" "run.dir=$ROOT/half" run.walltime=5s train.tokens_per_step=400000
is "half: exit code" "$rc" 75
is "half: steps" "$(cat half/latest) $(wc -l <half/metrics.jsonl)" "chk0000001 1"
start dead
victim="$(pgrep -P "$launcher" | tail -n 1)"
kill -KILL "$victim"
wait "$launcher"
holds "a dead rank: the run fails" test "$?" -ne 0
is "a dead rank: none is left" "$(pgrep -P "$launcher" | wc -l)" 0

start hangs run.timeout=3s
victim="$(pgrep -P "$launcher" | tail -n 1)"
kill -STOP "$victim"
wait "$launcher"
holds "a rank that stands still: the run fails" test "$?" -ne 0
kill -KILL "$victim" 2>/dev/null
has "a rank that stands still: who waited, and where" "$(cat hangs.out)" "no progress"
is "a rank that stands still: file exit" "$(cat hangs/exit)" 70
has "a rank that stands still is named" "$(cat hangs.out)" "the others wait for rank 1 host $(hostname)"
has "what the others did is in the log" "$(cat hangs/run.log)" "rank 0 host $(hostname) in phase"

# A step longer than the time-out is no standstill as long as its parts go on.
run 2 "$here/pretrain.in" "run.dir=$ROOT/slow" train.steps=2 train.tokens_per_step=400000 run.timeout=2s
is "a long step is no standstill" "$rc" 0
finish
