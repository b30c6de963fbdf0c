# SPDX-License-Identifier: Apache-2.0
# Sourced: the table of a chain's rows, from what its evaluations have left in ROOT.

# One JSON object a row, from the evaluation's result.json and the evaluated run's summary.json.
rows() {
    local name source
    for name in "${names[@]}"; do
        [[ -n ${row[$name]+set} ]] || continue
        source="$ROOT/${after[$name]%%,*}/summary.json"
        ! jq -e 'has("accuracy")' "$ROOT/$name/result.json" >/dev/null 2>&1 || source="$ROOT/$name/summary.json"
        [[ -e $source ]] || source=/dev/null
        jq --arg name "${row[$name]}" --arg from "${row_from[$name]:--}" --slurpfile run "$source" '
            {name: $name, from: $from, pass_at_1, stderr, cons_at_16, format, language, mean_length,
             steps: $run[0].steps, tokens_per_s: $run[0].tokens_per_s}
            + if has("accuracy") then {accuracy} else {} end' \
            "$ROOT/$name/result.json" || return 1
    done
}

# Columns of tab-separated lines in line: the first two to the left, the others to the right.
align() {
    awk -F '\t' '
        { for (i = 1; i <= NF; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
        END {
            for (r = 1; r <= NR; r++) {
                line = ""
                for (i = 1; i <= NF; i++)
                    line = line sprintf(i <= 2 ? "%-*s   " : "%*s   ", width[i], cell[r, i])
                sub(/ +$/, "", line)
                print line
            }
        }'
}

# Writes ROOT/summary.json and ROOT/summary.txt, each whole or not at all: two jobs of a batch system may
# end at once. A chain without rows has none. Fails where a result.json cannot be read.
write_table() {
    local mine="$ROOT/summary.$$.tmp"
    ((${#row[@]})) || return 0
    rows >"$mine" || { rm -f "$mine"; return 1; }
    jq -s '{stages: .}' "$mine" >"$mine.json"
    jq -r '
        def percent: if . == null then "-" else "\(. * 1000 | round / 10) %" end;
        def whole: if . == null then "-" else "\(round)" end;
        def measured($error): percent + (if . == null or $error == null then "" else " +- \($error * 1000 | round / 10)" end);
        (.stages | any(.accuracy != null)) as $models
        | ["stage", "weights from", "pass@1", "cons@16", "format", "language", "mean length", "steps",
           "tokens/s"] + (if $models then ["held-out accuracy"] else [] end),
        (.stages[] | .stderr as $error | [.name, .from, (.pass_at_1 | measured($error)),
         (.cons_at_16 | percent), (.format | percent), (.language | percent), (.mean_length | whole),
         (.steps | whole), (.tokens_per_s | whole)] + (if $models then [.accuracy | measured($error)] else [] end))
        | @tsv' "$mine.json" | align >"$mine"
    mv "$mine.json" "$ROOT/summary.json"
    mv "$mine" "$ROOT/summary.txt"
}
