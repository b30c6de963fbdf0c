# SPDX-License-Identifier: Apache-2.0
# Sourced by tests that run the executable: NAME.sh GRADUS SOURCE_DIR WORK_DIR.
set -uo pipefail
gradus="$1" source_dir="$2" work="$3"
here="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)"
. "$source_dir/jobs/environment"
rm -rf "$work"
mkdir -p "$work"
cd "$work" || exit 1
export ROOT="$work" TERM=dumb

bad=0
checks=0
# is WHAT ACTUAL EXPECTED
is() {
    checks=$((checks + 1))
    [[ $2 == "$3" ]] && return
    printf 'FAILED: %s\n  got:      %q\n  expected: %q\n' "$1" "$2" "$3"
    bad=$((bad + 1))
}
# has WHAT TEXT PART
has() {
    checks=$((checks + 1))
    [[ $2 == *"$3"* ]] && return
    printf 'FAILED: %s\n  no %q in:\n%s\n' "$1" "$3" "$2"
    bad=$((bad + 1))
}
# holds WHAT COMMAND...
holds() {
    local what="$1"
    shift
    checks=$((checks + 1))
    "$@" && return
    printf 'FAILED: %s\n' "$what"
    bad=$((bad + 1))
}
finish() {
    echo "$checks checks, $bad failed"
    ((checks > 0 && bad == 0))
}

# run RANKS DECK key=value...: output in `out`, exit code in `rc`.
run() {
    local ranks="$1"
    shift
    out="$(mpirun -np "$ranks" "$gradus" "$@" 2>&1)"
    rc=$?
}

# Builds the library that makes calls fail (tests/restart/faults.cpp).
make_faults() {
    "${CXX:-c++}" -std=c++20 -O1 -shared -fPIC -o "$work/faults.so" "$source_dir/tests/restart/faults.cpp" -ldl
}
# broken FAULTS RANKS DECK key=value...: as `run`, with these faults.
broken() {
    local faults="$1" ranks="$2"
    shift 2
    out="$(GRADUS_FAULTS="$faults" mpirun -np "$ranks" env LD_PRELOAD="$work/faults.so" "$gradus" "$@" 2>&1)"
    rc=$?
}

# Kills all ranks of a run at once when metrics.jsonl has reached STEP: kill_at STEP RANKS DIR DECK
# key=value... Says how far the run had come.
kill_at() {
    local step="$1" ranks="$2" dir="$3" launcher lines=()
    shift 3
    mpirun -np "$ranks" "$gradus" "$@" "run.dir=$dir" >"$dir.out" 2>&1 &
    launcher=$!
    while kill -0 "$launcher" 2>/dev/null; do
        [[ ! -f $dir/metrics.jsonl ]] || mapfile -t lines <"$dir/metrics.jsonl"
        if ((${#lines[@]} >= step)); then
            # shellcheck disable=SC2046
            kill -KILL $(pgrep -P "$launcher") 2>/dev/null
            break
        fi
        sleep 0.005
    done
    wait "$launcher" 2>/dev/null
}

# Metrics without what is declared as times and rates.
metrics() { jq -c 'del(.seconds, .tokens_per_s)' "$1/metrics.jsonl"; }
# The newest checkpoint of a run.
newest() { echo "$1/$(cat "$1/latest")"; }
# Whether two runs ended in the same parameters, metrics and rollouts, bit for bit.
same_run() {
    local a="$1" b="$2" file good=0
    diff <(metrics "$a") <(metrics "$b") >/dev/null || { echo "metrics differ"; good=1; }
    is "checkpoint of the same step" "$(cat "$b/latest")" "$(cat "$a/latest")"
    for file in "$(newest "$a")"/shard_*.h5; do
        cmp "$file" "$(newest "$b")/${file##*/}" || good=1
    done
    [[ ! -d $a/rollouts ]] || diff -r "$a/rollouts" "$b/rollouts" || good=1
    return $good
}
