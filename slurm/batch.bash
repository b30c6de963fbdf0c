# SPDX-License-Identifier: Apache-2.0
# Sourced: what jobs/lib/batch.bash wants of a batch system, by Slurm's commands. Facts about Slurm 22.05,
# each of them in tests/slurm: a job that is put back into the queue before it ends keeps those that
# wait for it; one that fails first has lost them, even if it is put back later.

batch_check() {
    local command
    for command in sbatch squeue scontrol; do
        command -v "$command" >/dev/null && continue
        echo "--slurm: there is no $command on the PATH: give this command on a machine of the Slurm cluster," \
             "or without --slurm to run the chain here" >&2
        return 1
    done
}

# batch_site NAME|FILE: see slurm/sites/example.sh for what a site file sets.
batch_site() {
    local folder="$here/../slurm/sites"
    site_file="$1"
    [[ $1 == */* ]] || site_file="$folder/$1.sh"
    if [[ ! -r $site_file ]]; then
        echo "--site $1: there is no $site_file; there are: $(basename -as .sh "$folder"/*.sh | tr '\n' ' ')" >&2
        exit 2
    fi
    site_file="$(realpath "$site_file")"
    site_time=1h site_lead=2m site_ranks_per_node=1 site_sbatch=()
    site_launcher=(srun --mpi=pmix --kill-on-bad-exit=1)
    site_environment() { :; }
    . "$site_file" || { echo "--site $1: $site_file cannot be read (above)" >&2; exit 2; }
    launch=("${site_launcher[@]}")
}

batch_submit() {
    local name="$1" n list=() wait=() limit lead nodes per_node
    shift
    n="${ranks_of[$name]:-$ranks}"
    nodes="${nodes_of[$name]:-$(((n + site_ranks_per_node - 1) / site_ranks_per_node))}"
    per_node=$(((n + nodes - 1) / nodes))
    limit="${time_of[$name]:-$(seconds_of "$site_time")}" lead="$(seconds_of "$site_lead")"
    [[ -n $limit && -n $lead ]] || fail "$site_file: site_time and site_lead are times, like 90s, 30m, 2h"
    ((lead <= limit / 2)) || lead=$((limit / 2))
    if (($#)); then
        wait=("--dependency=afterok$(printf ':%s' "$@")" --kill-on-invalid-dep=yes)
    fi
    mapfile -t list < <(printf '%s' "${arguments[$name]}")
    # --signal without `B:` goes to the ranks, not to the script.
    sbatch --parsable --job-name="$name" --output="$ROOT/$name.log" --open-mode=append --requeue \
        --nodes="$nodes" --ntasks="$n" --ntasks-per-node="$per_node" \
        --time=$((limit / 60)):$((limit % 60)) --signal="USR1@$lead" \
        "${wait[@]}" "${site_sbatch[@]}" \
        "$here/../slurm/stage.sbatch" "$(realpath "$here")" "$ROOT" "$site_file" "$launcher" \
        "$name" "$gradus" "${deck[$name]}" "${list[@]}" "${overrides[@]}" | cut -d ';' -f 1
}

batch_queue() {
    local lines
    lines="$(squeue --noheader --user="$(id -un)" --format='%i %T %r')" || return 1
    awk '{ state = "waiting" }
         $2 == "COMPLETING" { state = "ending" }
         $2 ~ /^(RUNNING|SUSPENDED|CONFIGURING|STOPPED|SIGNALING|STAGE_OUT)$/ { state = "running" }
         NF { print $1, state, $3 }' <<<"$lines"
}

batch_cancel() { scancel "$1"; }

batch_fate() {
    local state=''
    ! command -v sacct >/dev/null ||
        state="$(sacct --noheader --allocations --parsable2 --jobs="$1" --format=State 2>/dev/null | tail -n 1)"
    [[ -n $state ]] ||
        state="$(scontrol show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\) Reason=\([^ ]*\).*/\1 \2/p' | tail -n 1)"
    case "$state" in
        TIMEOUT*) echo "was killed at its time limit: a step and a checkpoint took longer than site_lead" ;;
        CANCELLED*DependencyNeverSatisfied*) echo "was cancelled by Slurm: what it waits for has failed" ;;
        CANCELLED*) echo "was cancelled" ;;
        NODE_FAIL*) echo "lost its node" ;;
        OUT_OF_ME*) echo "was out of memory" ;;
        PREEMPTED*) echo "gave way to another job" ;;
        *JobLaunchFailure) echo "could not be started by Slurm" ;;
        '') echo "is not known to Slurm any more" ;;
        *) echo "ended as ${state%% *}" ;;
    esac
}

batch_end_time() {
    local end="${SLURM_JOB_END_TIME:-}"
    # Slurm before 22.11 does not set it; a job without a limit has no date there.
    [[ -n $end ]] || end="$(date -d "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)" +%s 2>/dev/null)"
    echo "$end"
}

batch_again() { scontrol requeue "$SLURM_JOB_ID"; }
