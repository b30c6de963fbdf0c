# SPDX-License-Identifier: Apache-2.0
# Sourced: a Slurm of our own for a test. slurmctld, two slurmd that stand for two nodes of this machine, and a
# munged, with their own key, socket, ports and folders: a Slurm that is installed here is neither needed
# nor disturbed. Ends the test with 77 (skipped) where these programs are not installed.

# After TERM ranks have that long for their checkpoint (default 30).
readonly kKillWait=10

for program in slurmctld slurmd munged sbatch squeue scontrol scancel sinfo; do
    command -v "$program" >/dev/null || PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || {
        echo "skipped: $program is not installed (Debian: slurm-wlm)"
        exit 77
    }
done
export PATH="$PATH:/usr/sbin:/sbin"
unset "${!SLURM@}" "${!SBATCH@}" 2>/dev/null

# port_is_free PORT
port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Job numbers differ from those of another such Slurm: Open MPI names a job's shared memory by them.
write_conf() {
    local port=$((20000 + RANDOM % 5000 * 4)) i host
    host="$(hostname -s)"
    for i in 0 1 2; do port_is_free $((port + i)) || { write_conf; return; }; done
    cat >"$cluster/slurm.conf" <<X
ClusterName=gradus
FirstJobId=$((port * 100))
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$cluster/munge/socket,cred_expire=5
CredType=cred/munge
MpiDefault=pmix
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=$kKillWait
SlurmdTimeout=20
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool/%n
TmpFS=$cluster/tmp/%n
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.%n.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.%n.log
NodeName=node[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=4 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
X
}

start_node() { slurmd -N "$1" -f "$SLURM_CONF"; }

start_cluster() {
    local n
    # Sockets have short paths.
    cluster="$(mktemp -d /tmp/gradus-slurm.XXXXXX)" || exit 1
    trap stop_cluster EXIT
    trap 'exit 1' INT TERM
    mkdir -p "$cluster"/{munge,state,spool/node1,spool/node2,tmp/node1,tmp/node2}
    chmod 700 "$cluster/munge"
    head -c 1024 /dev/urandom >"$cluster/munge/key"
    chmod 400 "$cluster/munge/key"
    write_conf
    export SLURM_CONF="$cluster/slurm.conf"
    munged --force --num-threads=2 --key-file="$cluster/munge/key" --socket="$cluster/munge/socket" \
        --pid-file="$cluster/munge/pid" --log-file="$cluster/munge/log" --seed-file="$cluster/munge/seed" &&
        slurmctld -f "$SLURM_CONF" && start_node node1 && start_node node2
    for ((n = 0; n < 200; n++)); do
        [[ $(sinfo --noheader --states=idle --format=%D 2>/dev/null) == 2 ]] && break
        sleep 0.1
    done
    if ((n == 200)); then
        echo "FAILED: Slurm does not come up:"
        sinfo
        tail -n 20 "$cluster"/*.log
        exit 1
    fi
}

# cluster_processes [WORD]: those of this Slurm, with WORD in their environment or command line.
cluster_processes() {
    local folder
    for folder in /proc/[0-9]*; do
        [[ ${folder#/proc/} != "$$" ]] && grep -qzxF "SLURM_CONF=$SLURM_CONF" "$folder/environ" 2>/dev/null &&
            cat "$folder/environ" "$folder/cmdline" 2>/dev/null | tr '\0' '\n' | grep -q -e "${1:-.}" && echo "${folder#/proc/}"
    done
}

# Ends a node as a loss of power does: its daemon and what watches its steps first, so that nobody can tell. Its
# folders are lost, as those in memory are: a socket of a step that is left there would keep the next from starting.
kill_node() {
    local tasks watchers
    mapfile -t tasks < <(cluster_processes "SLURMD_NODENAME=$1\$")
    mapfile -t watchers < <(for pid in "${tasks[@]}"; do ps -o ppid= "$pid"; done | while read -r pid; do
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) != slurmstepd ]] || echo "$pid"; done | sort -u)
    kill -KILL "$(cat "$cluster/slurmd.$1.pid")" "${watchers[@]}" "${tasks[@]}" 2>/dev/null
    rm -rf "$cluster/spool/$1" "$cluster/tmp/$1"
    mkdir "$cluster/spool/$1" "$cluster/tmp/$1"
}

stop_cluster() {
    local status=$? n file
    scancel --user="$(id -un)" 2>/dev/null
    for ((n = 0; n < 100; n++)); do
        [[ -n $(squeue --noheader 2>/dev/null) ]] || break
        sleep 0.1
    done
    for file in "$cluster"/slurmd.*.pid "$cluster"/slurmctld.pid "$cluster"/munge/pid; do
        [[ ! -s $file ]] || kill "$(cat "$file")" 2>/dev/null
    done
    for ((n = 0; n < 50; n++)); do
        [[ -e $cluster/slurmctld.pid || -e $cluster/munge/pid ]] || break
        sleep 0.1
    done
    # shellcheck disable=SC2046
    kill -KILL $(cluster_processes) 2>/dev/null
    mkdir -p "$work/slurm"
    cp "$cluster"/*.log "$cluster/slurm.conf" "$work/slurm" 2>/dev/null
    rm -rf "$cluster"
    exit "$status"
}

# await SECONDS COMMAND...: until it succeeds; fails after that time.
await() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}
queue_is_empty() { [[ -z $(squeue --noheader) ]]; }
