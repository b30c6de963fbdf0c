#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# test_run.sh SOURCE_DIR WORK_DIR: what jobs/run does with jobs that finish, stop, fail or hang.
set -uo pipefail
source_dir="$1"
work="$2"
rm -rf "$work"
mkdir -p "$work"
cd "$work" || exit 1

bad=0
checks=0
# is WHAT ACTUAL EXPECTED
is() {
    checks=$((checks + 1))
    if [[ $2 != "$3" ]]; then
        printf 'FAILED: %s\n  got:      %q\n  expected: %q\n' "$1" "$2" "$3"
        bad=$((bad + 1))
    fi
}
# has WHAT TEXT PART
has() {
    checks=$((checks + 1))
    if [[ $2 != *"$3"* ]]; then
        printf 'FAILED: %s\n  no %q in:\n%s\n' "$1" "$3" "$2"
        bad=$((bad + 1))
    fi
}
# Runs chain `c` of the current folder; output in `out`, code in `rc`.
run() {
    out="$("$source_dir/jobs/run" c.chain --root r --gradus "$source_dir/tests/chain/gradus" \
        --launcher env "$@" 2>&1)"
    rc=$?
}
# Status of the folder r: output in `out`, code in `rc`.
status() {
    out="$("$source_dir/jobs/status" r 2>&1)"
    rc=$?
}
calls() { cut -d ' ' -f 1 r/calls 2>/dev/null | tr '\n' ' '; }
case_folder() { mkdir "$work/$1" && cd "$work/$1" || exit 1; }

case_folder include
echo 0 >ok.in
mkdir parts
echo 0 >parts/ok.in
cat >parts/other.chain <<'END'
a ok.in
b ok.in after=a train.steps=1
c ok.in after=b
END
cat >c.chain <<'END'
a ok.in
x ok.in after=a
b ok.in after=x train.steps=2
include parts/other.chain
END
run
is "an included chain's jobs follow those before it" "$(calls)" "a x b c "
is "what stands before the include wins" "$(grep -c train.steps=2 r/calls)$(grep -c train.steps=1 r/calls)" 10
echo 'include parts/none.chain' >c.chain
run
is "an include of nothing is an error" $rc 2
has "and is told with its line" "$out" "c.chain:1: include wants a chain file"
printf 'a ok.in\na ok.in\n' >c.chain
run
has "a second job of one file is still an error" "$out" "c.chain:2: a second job named 'a'"

case_folder order
echo 0 >ok.in
echo 0.5 >eval.in
cat >c.chain <<'END'
# a comment
a ok.in                      # another
b ok.in after=a model.from=$ROOT/a train.steps=3
eval-b eval.in after=b,a model.from=${ROOT}/b row="b # SFT" from="a (SFT)"   data.note="two words"
END
run run.seed=7
is "a chain that succeeds ends with 0" $rc 0
is "with a line a job" "$(sed '/^$/,$d' <<<"$out" | tr -s ' ' | cut -d ' ' -f 1,2 | tr '\n' ,)" \
    "a done,b done,eval-b done,"
is "jobs run in order" "$(calls)" "a b eval-b "
is "arguments: deck's, chain's, caller's; ROOT in the place of \$ROOT" "$(sed -n 2p r/calls)" \
    "b run.dir=$PWD/r/b restart=latest model.from=$PWD/r/a train.steps=3 run.seed=7"
has "a quoted value keeps its blank" "$(sed -n 3p r/calls)" "data.note=two words run.seed=7"
is "a row of summary.json, steps and rate from the evaluated run" "$(jq -c . r/summary.json)" \
    '{"stages":[{"name":"b # SFT","from":"a (SFT)","pass_at_1":0.5,"stderr":0.01234,"cons_at_16":0.5,"format":1,"language":0.875,"mean_length":41.6,"steps":40,"tokens_per_s":1234.5}]}'
is "the table's row" "$(tr -s ' ' <r/summary.txt | sed -n 2p)" \
    "b # SFT a (SFT) 50 % +- 1.2 50 % 100 % 87.5 % 42 40 1235"
is "the table's columns stand in line" \
    "$(awk '{ n[length($0)]++ } END { print length(n) }' r/summary.txt)" 1
has "the table is shown" "$out" "$(cat r/summary.txt)"

status
is "the status of a chain that is done" "$rc $(sed '/^$/,$d' <<<"$out" | tr -s ' ' | tr '\n' ,)" \
    "0 a done 40 steps, 1235 tokens/s,b done 40 steps, 1235 tokens/s,eval-b done,"
has "with its table" "$out" "$(cat r/summary.txt)"
rm r/calls
run
is "finished jobs are skipped" "$rc $(calls)" "0 "
is "with a line a job, and no more before the table" \
    "$(sed '/^$/,$d' <<<"$out" | tr -s ' ' | tr '\n' ,)" \
    "a finished before ,b finished before ,eval-b finished before ,"
has "and named" "$out" "finished before"
run --from b
is "--from runs the job and its successors anew" "$rc $(calls)" "0 b eval-b "
is "and keeps the old run" "$(cat r/old/b.1/exit)" 0
is "and only those" "$(ls r/old)" "$(printf 'b.1\nb.1.log\neval-b.1\neval-b.1.log')"
rm -r r/calls r/a
run
is "successors of a job that was lost run anew" "$(calls)" "a b eval-b "

case_folder again
echo "75+ 75 75 75+ 75 0" >stop.in
echo 0 >ok.in
printf 'a stop.in\nb ok.in after=a\n' >c.chain
run
is "75 starts the job again while checkpoints come" "$rc $(calls)" "0 a a a a a a b "
has "the restarts are counted" "$out" "5 times cut off"

case_folder stall
echo "75+ 75" >stop.in
printf 'a stop.in\n' >c.chain
run
is "75 without a new checkpoint ends after three" "$rc $(calls)" "75 a a a a "
has "and says so" "$out" "without getting further"

case_folder stop_file
echo "stop 0" >stop.in
printf 'a stop.in\n' >c.chain
run
is "a stop file ends the chain with 75" "$rc $(calls)" "75 a "
status
is "and the status says where" "$rc $out" "75 a                stopped   at chk0000001"
run
is "and the same command goes on" "$rc $(calls)" "0 a a "

case_folder failure
echo "3 0" >bad.in
echo 0 >ok.in
printf 'a ok.in\nb bad.in after=a\nc ok.in after=b\n' >c.chain
run
is "a failing job ends the chain with its code" "$rc $(calls)" "3 a b "
has "and is named" "$out" "job 'b' failed with exit code 3"
has "with its log" "$out" "b attempt 0: 3"
status
is "the status of a failure" "$rc" 3
is "says which, why and what has not begun" "$(tail -n +2 <<<"$out")" \
    "b                failed    exit code 3
    b attempt 0: 3
c                -         not begun: waits for b"
run
is "afterwards the chain goes on where it failed" "$rc $(calls)" "0 a b b c "

case_folder killed
echo "75+ die 0" >die.in
printf 'a die.in\n' >c.chain
run
is "an old exit file does not hide a kill" "$rc $(calls)" "137 a a "
status
is "nor from the status" "$rc $(head -n 1 <<<"$out")" "70 a                failed    killed, or failed at its start"
run
is "a killed job goes on" "$rc $(calls)" "0 a a a "

case_folder branch
echo 0 >ok.in
printf 'a ok.in\nb ok.in after=a\nc ok.in after=a\n' >c.chain
run
rm r/calls
run --from c
is "--from leaves other branches" "$rc $(calls)" "0 c "

case_folder errors
echo 0 >ok.in
printf 'a ok.in\na ok.in\nb none.in\nc ok.in after=z\nd ok.in wrong\ne ok.in train.x="open\nf\ng ok.in row=g\n' >c.chain
run
is "a wrong chain ends with 2 before anything runs" "$rc $(calls)" "2 "
is "all errors at once, with file and line" "$(grep -o '^c.chain:[0-9]*' <<<"$out" | tr '\n' ' ')" \
    "c.chain:2 c.chain:3 c.chain:4 c.chain:5 c.chain:6 c.chain:7 c.chain:8 "
run --from nothing
has "--from wants a job of the chain" "$out" "--from nothing: no such job"

case_folder sizes
echo 0 >ok.in
printf 'a ok.in ranks=3 nodes=2 time=30m\nb ok.in\n' >c.chain
cat >launcher <<'END'
#!/bin/sh
echo "$ROOT" "$1" "$2" >>sizes
shift 2
exec "$@"
END
chmod +x launcher
mkdir path
ln -s "$PWD/launcher" path/mpirun
out="$(PATH="$PWD/path:$PATH" "$source_dir/jobs/run" c.chain --root r --gradus "$source_dir/tests/chain/gradus" 2>&1)"
is "ranks of a job, and of one that does not say" "$(cut -d ' ' -f 2- sizes | tr '\n' ,)" "-np 3,-np 2,"
printf 'a ok.in ranks=0\nb ok.in time=soon\n' >c.chain
run
is "sizes that are none" "$rc $(grep -o '^c.chain:[0-9]*' <<<"$out" | tr '\n' ' ')" "2 c.chain:1 c.chain:2 "
for time in 90=90 90s=90 30m=1800 2h=7200 1d=86400 05:30=330 01:00:09=3609 1-00:00:10=86410 1:2:3= 5x= =; do
    is "time ${time%=*}" "$(. "$source_dir/jobs/lib/chain.bash"; seconds_of "${time%=*}")" "${time##*=}"
done

case_folder array
echo 0 >ok.in
echo 0.5 >eval.in
printf 'a ok.in\ne eval.in after=a array=2 ranks=3 eval.n=4 row="e"\n' >c.chain
run
is "an array's jobs, then what merges them" "$rc $(calls)" "0 a e.0 e.1 e "
has "a shard's keys" "$(grep '^e.1 ' r/calls)" "restart=latest eval.n=4 data.num_shards=2 data.shard=1"
has "the merge's keys" "$(grep '^e ' r/calls)" "restart=latest eval.n=4 rollout.merge=$PWD/r/e.0 $PWD/r/e.1"
is "one row, of the weights that it waits for" "$(jq -c '.stages[] | [.name, .steps]' r/summary.json)" '["e",40]'
status
is "the chain that is kept holds the same jobs" "$rc $(grep -c ' done' <<<"$out")" "0 4"

case_folder signal
echo "usr1 0" >wait.in
printf 'a wait.in\n' >c.chain
"$source_dir/jobs/run" c.chain --root r --gradus "$source_dir/tests/chain/gradus" --ranks 1 \
    >out 2>&1 &
runner=$!
for ((i = 0; i < 100; i++)); do
    [[ ! -e r/waiting ]] || break
    sleep 0.1
done
status
is "the status of what runs" "$rc $out" "75 a                running   a attempt 0: usr1"
has "two at once are refused" "$(run; echo "$rc $out")" "2 jobs/run: another jobs/run works"
kill -TERM $runner
wait $runner
is "a stop reaches the ranks through mpirun, ends with 75" $? 75
has "and says where" "$(cat out)" "a: stopped at chk0000001"
run
is "afterwards the job goes on" "$rc $(calls)" "0 a a "

echo "$checks checks, $bad failed"
((bad == 0))
