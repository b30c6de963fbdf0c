# SPDX-License-Identifier: Apache-2.0
# Sourced: a chain as jobs of a batch system that wait for each other. What is one system's stands in
# SYSTEM/batch.bash, SYSTEM being the name of the option (`slurm` for --slurm):
#
#   batch_check                  fails, saying why, where the system's commands are not there
#   batch_site FILE              reads the site file, after the defaults of what it may set
#   batch_submit NAME [ID...]    submits the job NAME, to be started once jobs ID... have ended with 0;
#                                prints its number
#   batch_queue                  a line a job of this user: NUMBER waiting|running|ending REASON
#   batch_cancel ID
#   batch_fate ID                words for how a job ended that is not in the queue any more
#   batch_end_time               in a job: when its time ends, in seconds since 1970; nothing: never
#   batch_again                  in a job: puts it back into the queue, before it ends
#   launch                       in a job: array, what starts the ranks, set by batch_site
#
# ROOT/batch/NAME is the journal of a job, a line an event: DATE submitted ID, started ID, stopped ID
# BEFORE AFTER (the newest checkpoint at the start and now, `-`: none), retried ID CODE AFTER, ended ID CODE.

# note NAME EVENT ID [WORD...]
note() {
    local name="$1"
    shift
    echo "$(date +%FT%T) $*" >>"$ROOT/batch/$name"
}
# The number under which a job was submitted last; nothing where it never was.
job_id() { awk '$2 == "submitted" { id = $3 } END { print id }' "$ROOT/batch/$1" 2>/dev/null; }
# The journal since the last submission.
journal() { awk '$2 == "submitted" { text = "" } { text = text $0 "\n" } END { printf "%s", text }' "$ROOT/batch/$1" 2>/dev/null; }

# Loads the system that was asked for, else the one in which the chain of ROOT has been submitted.
use_batch_system() {
    local submitted site_there=''
    read -r submitted site_there < <(cat "$ROOT/batch/.system" 2>/dev/null)
    if [[ -n $system ]]; then
        . "$here/../$system/batch.bash"
        batch_check || exit 2
        batch_site "${site:=${site_there:-local}}"
    elif [[ -n $submitted && -r $here/../$submitted/batch.bash ]]; then
        . "$here/../$submitted/batch.bash"
        # Elsewhere, where that system's commands are not, nothing is known about its queue.
        batch_check 2>/dev/null && system_there="$submitted"
    fi
}

# Fills queue[ID] = "waiting REASON" | "running ..." | "ending ..." .
declare -A queue=()
load_queue() {
    local id rest lines
    lines="$(batch_queue)" || fail "the queue cannot be read (above); nothing has been done"
    queue=()
    while read -r id rest; do
        [[ -z $id ]] || queue[$id]="$rest"
    done <<<"$lines"
}

# queued NAME: its state in the queue, nothing where it is not there.
queued() {
    local id
    id="$(job_id "$1")"
    [[ -z $id ]] || echo "${queue[$id]:-}"
}

# Before jobs run here: none of them may be in a queue.
refuse_queued() {
    local name
    [[ -n ${system_there:-} ]] || return 0
    load_queue
    for name in "${names[@]}"; do
        [[ -z $(queued "$name") ]] ||
            fail "'$name' is job $(job_id "$name") of $system_there: cancel it, or leave the chain to $system_there (--$system_there)"
    done
}

# A job that ends may still come to be done, failed or queued again: waits for that.
await_ending() {
    local tries=0 name
    load_queue
    for name in "${names[@]}"; do
        while [[ $(queued "$name") == ending* ]]; do
            ((++tries < 60)) || fail "job $(job_id "$name") of '$name' is still ending; try again in a minute"
            sleep 2
            load_queue
        done
    done
}

# Whether `name` stands on a way from job `from` on.
comes_from() {
    local dependency
    [[ $1 != "$2" ]] || return 0
    for dependency in ${after[$1]//,/ }; do
        ! comes_from "$dependency" "$2" || return 0
    done
    return 1
}

report_job() { printf '%-16s %-24s %8s\n' "$1" "$2" "${3:-}"; }

# Submits what is neither finished nor queued. Every job waits for those of its `after` that have not finished.
submit_chain() {
    local name dependency ids id state
    local -A id_of=() ran=()
    await_ending
    for name in "${names[@]}"; do
        [[ -z $from_job || -z $(queued "$name") ]] || ! comes_from "$name" "$from_job" ||
            fail "--from $from_job: '$name' is queued as job $(job_id "$name"); cancel it first"
    done
    mkdir -p "$ROOT/batch" || fail "cannot make the folder '$ROOT/batch'"
    echo "$system $site" >"$ROOT/batch/.system"
    write_chain "$chain" >"$ROOT/chain.tmp" && mv "$ROOT/chain.tmp" "$ROOT/chain"
    for name in "${names[@]}"; do
        ids=() state="$(queued "$name")"
        for dependency in ${after[$name]//,/ }; do
            [[ -z ${id_of[$dependency]:-} ]] || ids+=("${id_of[$dependency]}")
            [[ -n ${ran[$dependency]:-} ]] || continue
            # It waits for a job that has failed, which is submitted anew; or was made from an older run.
            [[ -z $state ]] || { batch_cancel "$(job_id "$name")"; state=''; }
            ! finished "$name" || move_aside "$name"
        done
        [[ $name != "$from_job" ]] || move_aside "$name"
        if [[ -n $state ]]; then
            id_of[$name]="$(job_id "$name")"
            report_job "$name" "queued before" "${id_of[$name]}"
        elif finished "$name"; then
            report_job "$name" "finished before"
        else
            id="$(batch_submit "$name" "${ids[@]}")"
            [[ -n $id ]] ||
                fail "'$name' could not be submitted (above); those before it are: give the same command again"
            note "$name" submitted "$id"
            id_of[$name]="$id" ran[$name]=1
            report_job "$name" submitted "$id"
        fi
    done
    echo "jobs/status $root tells how far it is"
}
