# Sourced by the scripts beside it: the folder, a temporary folder, and steps that are timed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=$(mktemp -d)
plain_path=$PATH
current=""
beside="" # the process group of what runs beside the steps
begin=$SECONDS

finish() {
    local status=$?
    if [ -n "$beside" ]; then kill -TERM -- "-$beside" 2>/dev/null || true; fi
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

# start_beside COMMAND...: runs the command beside the steps that follow, one at a time; what it prints
# is kept for the step that waits for it: step NAME join_beside.
start_beside() {
    set -m # a process group of its own
    "$@" >"$work/beside" 2>&1 </dev/null &
    set +m
    beside=$!
}

join_beside() {
    local status=0
    wait "$beside" || status=$?
    beside=""
    cat "$work/beside"
    return "$status"
}

# new_environment FOLDER [PYTHON]: a virtual environment that alone stands before the system's PATH.
new_environment() {
    "${2:-python3}" -m venv "$1"
    PATH="$1/bin:$plain_path"
    hash -r
}

# smoke TEXT: the compiled core is loaded from a path with TEXT in it, serves, and is traced.
smoke() {
    (cd "$work" && python -m ntensor.info && python - "$1" <<'PYTHON'
import sys

import torch

import ntensor
from ntensor import _cpu

assert (sys.argv[1] in _cpu.__file__), _cpu.__file__
core = torch.randn(7, 2, 3, 5, requires_grad=True)
factors = [torch.randn(4, k, requires_grad=True) for k in (2, 3, 5)]
expected = torch.einsum("xlei,nl,ne,ni->nx", core, *factors)
gradients = torch.autograd.grad(expected.sum(), [core, *factors])
compiled = torch.compile(ntensor.synthesis_projection, fullgraph=True)
for function in (ntensor.synthesis_projection, compiled):
    for backend in ("native", "reference"):
        x = function(core, *factors, backend=backend)
        torch.testing.assert_close(x, expected)
        torch.testing.assert_close(torch.autograd.grad(x.sum(), [core, *factors]), gradients)
PYTHON
    )
}

# instrumented FLAGS VARIABLE=VALUE...: a copy of the tree, $work/source, and the package built from it
# with these compiler flags and build variables, $work/site. It has the shortest vectors and the longest
# ones that run here, those between with every_level=1; bfloat16 in pairs is emulated where the machine
# has none.
instrumented() {
    local flags=$1 levels=portable
    shift
    if [ -n "${every_level:-}" ] && grep -qw avx2 /proc/cpuinfo; then levels+=';avx2'; fi
    if grep -qw avx512_bf16 /proc/cpuinfo; then levels+=';avx512bf16'; else levels+=';emulated'; fi
    mkdir "$work/source"
    cp -r setup.py pyproject.toml README.md LICENSE MANIFEST.in benchmarks csrc examples ntensor tests tools \
        "$work/source"
    rm -f "$work"/source/ntensor/_c*.so
    env NTENSOR_BUILD_TYPE=Debug NTENSOR_CUDA=off "NTENSOR_SIMD_LEVELS=$levels" "CXXFLAGS=$flags" "$@" \
        pip install -q --no-deps --target "$work/site" "$work/source"
}

all_green() {
    printf '\n%s: green in %d s\n' "$0" $((SECONDS - begin))
}
