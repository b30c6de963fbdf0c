# SPDX-License-Identifier: Apache-2.0
# Sourced by the script of a batch job: runs one job of a chain until the job's time ends, then sees to it
# that the system starts it again. `launch`, `batch_end_time` and `batch_again` are the batch system's.

readonly kMaxStalls=3 # stops in a row without getting further

# stalls NAME: how many stops the journal ends with that came before a new checkpoint.
stalls() {
    journal "$1" | awk '$2 == "stopped" { n = $4 == $5 ? n + 1 : 0 } END { print n + 0 }'
}

give_up() {
    echo "jobs: '$name' $1"
    note "$name" ended "$id" "$code"
    exit "$code"
}

# Back into the queue. The system ends this script when it has done so.
again() {
    batch_again || give_up "could not be put back into the queue (above); give jobs/run's command again"
    sleep 60
    exit "$code"
}

# run_stage ID NAME GRADUS DECK key=value...: ends the script with the job's exit code.
run_stage() {
    local id="$1" name="$2" before code now end limit=() executable=("$3" "$4")
    shift 4
    before="$(place_of "$name")"
    note "$name" started "$id"
    rm -f "$ROOT/$name/exit"
    end="$(batch_end_time)"
    if [[ -n $end ]]; then
        # The name under which newer Slurms tell it, and which run.walltime = auto reads.
        export SLURM_JOB_END_TIME="$end"
        limit=(run.walltime=auto)
    fi
    "${launch[@]}" "${executable[@]}" "run.dir=$ROOT/$name" restart=latest "${limit[@]}" "$@" </dev/null
    code="$(code_after "$name" $?)"
    now="$(place_of "$name")"
    case "$code" in
        0) note "$name" ended "$id" 0
           # The last of the rows to be done makes the table.
           (read_chain "$ROOT/chain" && write_table) 2>/dev/null
           exit 0 ;;
        75) [[ ! -e $ROOT/$name/stop ]] || give_up "was stopped by the file stop; jobs/run's command goes on"
            note "$name" stopped "$id" "${before:--}" "${now:--}"
            (($(stalls "$name") < kMaxStalls)) ||
                give_up "was stopped $kMaxStalls times in a row before it had got further: it needs more time"
            again ;;
        70 | 1[3-9][0-9])
            # What the machine may have done: one more try from every checkpoint.
            journal "$name" | grep -q " retried .* ${now:--}\$" && give_up "failed twice at the same place, with code $code"
            note "$name" retried "$id" "$code" "${now:--}"
            echo "jobs: '$name' ended with $code: once more from ${now:-the start}"
            again ;;
        *) give_up "failed with exit code $code; the jobs that wait for it are not started" ;;
    esac
}
