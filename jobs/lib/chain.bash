# SPDX-License-Identifier: Apache-2.0
# Sourced by jobs/run, jobs/status and the jobs of a batch system: reads chain files, and tells what a job
# of a chain has left in ROOT, the folder of all runs. jobs/run --help says what a chain file holds.

fail() {
    echo "${program:-jobs}: $*" >&2
    exit 2
}

# --- Chain files --------------------------------------------------------------------------------
# A job of a chain by its name: its deck, the jobs it waits for (A,B), its keys (one a line), its row
# of the table, and what it asks of the machine: ranks, nodes, seconds.
names=()
declare -A deck=() after=() arguments=() row=() row_from=() ranks_of=() nodes_of=() time_of=()
errors=()

# Splits a line at blanks outside of double quotes into the array `words`; `#` begins a comment.
split() {
    local rest="$1"
    words=()
    while [[ $rest =~ ^[[:space:]]*(([^[:space:]\"#]|\"[^\"]*\")([^[:space:]\"]|\"[^\"]*\")*)(.*)$ ]]; do
        words+=("${BASH_REMATCH[1]//\"/}")
        rest="${BASH_REMATCH[4]}"
    done
    [[ $rest =~ ^[[:space:]]*(#.*)?$ ]]
}

# Prints a time as seconds: 90, 90s, 30m, 2h, 1d, MM:SS, HH:MM:SS, D-HH:MM:SS. Fails on anything else.
seconds_of() {
    local days=0 text="$1"
    if [[ $text =~ ^([1-9][0-9]*)([smhd]?)$ ]]; then
        case "${BASH_REMATCH[2]}" in
            m) echo $((BASH_REMATCH[1] * 60)) ;;
            h) echo $((BASH_REMATCH[1] * 3600)) ;;
            d) echo $((BASH_REMATCH[1] * 86400)) ;;
            *) echo "${BASH_REMATCH[1]}" ;;
        esac
    elif [[ $text =~ ^(([0-9]+)-)?(([0-9]+):)?([0-5]?[0-9]):([0-5][0-9])$ ]]; then
        days=${BASH_REMATCH[2]:-0}
        echo $((((10#$days * 24 + 10#${BASH_REMATCH[4]:-0}) * 60 + 10#${BASH_REMATCH[5]}) * 60 +
                10#${BASH_REMATCH[6]}))
    else
        return 1
    fi
}

# parse_word NAME WHERE WORD: one word behind a job's deck. `shards` becomes what array= says.
parse_word() {
    local name="$1" where="$2" word="$3" value="${3#*=}"
    case "$word" in
        after=*) after[$name]="$value" ;;
        row=*) row[$name]="$value" ;;
        from=*) row_from[$name]="$value" ;;
        ranks=* | nodes=* | array=*)
            [[ $value =~ ^[1-9][0-9]*$ ]] || errors+=("$where: $word: a positive number is wanted")
            case "$word" in
                ranks=*) ranks_of[$name]="$value" ;;
                nodes=*) nodes_of[$name]="$value" ;;
                *) shards="$value" ;;
            esac ;;
        time=*)
            time_of[$name]="$(seconds_of "$value")" ||
                errors+=("$where: $word: a time is wanted, like 90s, 30m, 2h or 00:30:00") ;;
        *.*=*) word="${word//\$\{ROOT\}/$ROOT}"
               arguments[$name]+="${word//\$ROOT/$ROOT}"$'\n' ;;
        *) errors+=("$where: '$word' is none of after=, row=, from=, ranks=, nodes=, time=, array=, prefix.name=value") ;;
    esac
}

# add_shards NAME WHERE: the samples of NAME are made by jobs NAME.0, NAME.1 ... which it waits for and merges.
add_shards() {
    local name="$1" shard k all=() before="${after[$1]}"
    for ((k = 0; k < shards; k++)); do
        shard="$name.$k"
        [[ -z ${deck[$shard]+set} ]] || errors+=("$2: a second job named '$shard'")
        deck[$shard]="${deck[$name]}" after[$shard]="$before"
        arguments[$shard]="${arguments[$name]}data.num_shards=$shards"$'\n'"data.shard=$k"$'\n'
        [[ -z ${ranks_of[$name]+set} ]] || ranks_of[$shard]="${ranks_of[$name]}"
        [[ -z ${nodes_of[$name]+set} ]] || nodes_of[$shard]="${nodes_of[$name]}"
        [[ -z ${time_of[$name]+set} ]] || time_of[$shard]="${time_of[$name]}"
        names+=("$shard")
        after[$name]+="${after[$name]:+,}$shard"
        all+=("$ROOT/$shard")
    done
    arguments[$name]+="rollout.merge=${all[*]}"$'\n'
}

parse_job() {
    local where="$1" folder="$2" included="$3" name="${words[0]}" dependency word shards=''
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ && $name != old && $name != batch && $name != *.log ]] ||
        errors+=("$where: '$name' cannot name a job (letters, digits, . _ -; not 'old', 'batch', '*.log')")
    if [[ -n ${deck[$name]+set} ]]; then
        [[ -n $included ]] || errors+=("$where: a second job named '$name'")
        return
    fi
    if ((${#words[@]} < 2)) || [[ ${words[1]} == *=* ]]; then
        errors+=("$where: job '$name' names no deck")
        return
    fi
    deck[$name]="${words[1]}"
    [[ ${words[1]} == /* ]] || deck[$name]="$(realpath -m "$folder/${words[1]}")"
    [[ -r ${deck[$name]} ]] || errors+=("$where: cannot read the deck '${deck[$name]}'")
    after[$name]='' arguments[$name]=''
    for word in "${words[@]:2}"; do parse_word "$name" "$where" "$word"; done
    for dependency in ${after[$name]//,/ }; do
        [[ $dependency != "$name" && -n ${deck[$dependency]+set} ]] ||
            errors+=("$where: '$name' waits for '$dependency', which is no earlier job")
    done
    [[ -z ${row[$name]+set} || -n ${after[$name]} ]] ||
        errors+=("$where: '$name' has a row but no after= that says whose weights it evaluates")
    [[ -z $shards ]] || add_shards "$name" "$where"
    names+=("$name")
}

# read_lines FILE [INCLUDED]
read_lines() {
    local file="$1" included="${2:-}" folder number=0 line other
    folder="$(cd "$(dirname "$file")" && pwd)"
    while IFS= read -r line || [[ -n $line ]]; do
        number=$((number + 1))
        if ! split "$line"; then
            errors+=("$file:$number: a double quote is not closed")
        elif [[ ${words[0]:-} == include ]]; then
            other="$folder/${words[1]:-}"
            if ((${#words[@]} != 2)) || [[ ! -f $other ]]; then
                errors+=("$file:$number: include wants a chain file; there is none '${words[*]:1}'")
            elif [[ -n $included ]]; then
                errors+=("$file:$number: an included chain includes another: include that one too")
            else
                read_lines "$other" included
            fi
        elif ((${#words[@]})); then
            parse_job "$file:$number" "$folder" "$included"
        fi
    done <"$file"
}

# read_chain FILE: fills the tables above, or ends with 2 and all errors of the file.
read_chain() {
    read_lines "$1"
    ((${#names[@]} + ${#errors[@]})) || errors+=("$1: no job in it")
    [[ -z ${from_job:-} || -n ${deck[$from_job]+set} ]] || errors+=("--from $from_job: no such job in $1")
    ((${#errors[@]} == 0)) || { printf '%s\n' "${errors[@]}" >&2; exit 2; }
}

# write_chain: the chain as one file without includes and relative paths, which jobs/status reads.
write_chain() {
    local name word
    echo "# SPDX-License-Identifier: Apache-2.0"
    echo "# The jobs of this folder, as jobs/run read them from $1 on $(date '+%F %T')."
    for name in "${names[@]}"; do
        printf '%s "%s"' "$name" "${deck[$name]}"
        [[ -z ${after[$name]} ]] || printf ' after=%s' "${after[$name]}"
        [[ -z ${row[$name]+set} ]] || printf ' row="%s"' "${row[$name]}"
        [[ -z ${row_from[$name]+set} ]] || printf ' from="%s"' "${row_from[$name]}"
        [[ -z ${ranks_of[$name]+set} ]] || printf ' ranks=%s' "${ranks_of[$name]}"
        [[ -z ${nodes_of[$name]+set} ]] || printf ' nodes=%s' "${nodes_of[$name]}"
        [[ -z ${time_of[$name]+set} ]] || printf ' time=%s' "${time_of[$name]}"
        while IFS= read -r word; do
            [[ -z $word ]] || printf ' %s="%s"' "${word%%=*}" "${word#*=}"
        done <<<"${arguments[$name]}"
        echo
    done
}

# --- What a job has left in ROOT ----------------------------------------------------------------
# What the job's `exit` file says; nothing where it has not ended by itself.
exit_of() { tr -cd '0-9' 2>/dev/null <"$ROOT/$1/exit"; }

finished() { [[ $(exit_of "$1") == 0 ]]; }

# How far a job has come, as a word: its newest checkpoint (`latest` is a link or a file), `part-N` after N files of finished
# samples and replies, where it samples in parts; nothing at its start.
place_of() {
    local place parts
    place="$(readlink "$ROOT/$1/latest" 2>/dev/null || cat "$ROOT/$1/latest" 2>/dev/null)"
    if [[ -e $ROOT/$1/parts.json || -e $ROOT/$1/sampling ]]; then
        parts="$(find "$ROOT/$1"/{rollouts,sampling} -name '*.h5' 2>/dev/null | wc -l)"
        parts=$((parts + $(cat "$ROOT/$1"/{judge,rewrite}.jsonl 2>/dev/null | wc -l)))
        ((parts == 0)) || place+="${place:++}part-$parts"
    fi
    echo "$place"
}

# code_after NAME STATUS: the exit code of a job whose launcher has ended with STATUS. Launchers differ in
# which rank's code they tell; the exit file is rank 0's word.
code_after() {
    local code
    code="$(exit_of "$1")"
    if [[ -z $code ]]; then
        # Killed, or ended before it had a run directory: the launcher's code is all there is.
        code=$2
        ((code != 0)) || { code=70; echo "no exit file in $ROOT/$1" >>"$ROOT/$1.log"; }
    fi
    echo "$code"
}

# last_lines NAME N: the end of a job's log without what a progress line has overwritten.
last_lines() { tail -n "$2" "$ROOT/$1.log" 2>/dev/null | sed 's/\r*$//; s/.*\r//; s/\x1b\[[0-9;]*[A-Za-z]//g'; }

# clock SECONDS
clock() {
    if (($1 < 3600)); then printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); else
        printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
    fi
}
