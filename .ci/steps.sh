# Sourced by the scripts beside it: the folder, a temporary folder, and steps that are timed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
current=""
begin=$SECONDS

finish() {
    local status=$?
    rm -rf "$work"
    if [ "$status" -ne 0 ]; then
        printf '\n%s: FAILED in "%s" after %d s\n' "$0" "$current" $((SECONDS - begin)) >&2
    fi
}
trap finish EXIT

# step NAME COMMAND...: runs the command and prints its time; its failure ends the script.
step() {
    current=$1
    shift
    printf '\n=== %s\n' "$current"
    local start=$SECONDS
    "$@"
    printf -- '--- %s: %d s\n' "$current" $((SECONDS - start))
}

# new_environment FOLDER: a virtual environment whose programs come first on PATH.
new_environment() {
    python3 -m venv "$1"
    PATH="$1/bin:$PATH"
    hash -r
}

all_green() {
    printf '\n%s: green in %d s\n' "$0" $((SECONDS - begin))
}
