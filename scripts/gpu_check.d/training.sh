# shellcheck shell=bash
# What the parts that train share: a folder that goes at the end, and training runs in it. Sourced.
# device, program and shards come from scripts/gpu_check.
set -euo pipefail

: "${device:?}" "${program:?}" "${shards:?}"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# train NAME COMMAND...: the command with the config and a run directory of this name, under the
# `overrides`. 75 is the exit code of a run that was stopped.
overrides=()
train() {
    local name=$1
    shift
    "$@" --config "$out/config.toml" --set run.dir="$out/$name" "${overrides[@]}" \
        >"$out/$name.log" 2>&1 || {
        local code=$?
        [ "$code" = 75 ] || tail -n 30 "$out/$name.log" >&2
        return "$code"
    }
}
