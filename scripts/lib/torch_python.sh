# shellcheck shell=bash
# A Python with the program's PyTorch, on a machine where nothing is built or installed. Sourced.

# find_torch_python [PYTHON]: sets torch_python, and has programs find libtorch in its PyTorch: their own
# path to it is the one of the machine that built them.
find_torch_python() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/}/.cache}/distill candidates=("$@") candidate libraries
    if [ $# = 0 ]; then
        # Of the tests' Pythons the newest first, should there be several.
        mapfile -t candidates < <(ls -dt "$cache"/test-python-*/python 2>/dev/null)
        candidates=(python3 ${DISTILL_TEST_PYTHON:+"$DISTILL_TEST_PYTHON"} "${candidates[@]}")
    fi
    for candidate in "${candidates[@]}"; do
        libraries=$("$candidate" - 2>/dev/null <<'LIBRARIES'
import pathlib, sys, torch
assert sys.version_info >= (3, 11) and torch.__version__.startswith("2.11.")
folder = pathlib.Path(torch.__file__).parent
print(*[folder / "lib", *sorted(folder.parent.glob("nvidia/*/lib"))], sep=":")
LIBRARIES
        ) || continue
        # shellcheck disable=SC2034  # for the scripts that source this
        torch_python=$candidate
        export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        return
    done
    echo "error: no Python 3.11 or later with PyTorch 2.11 in ${candidates[*]}: pip install torch==2.11.0," \
        "or give another one with --python PATH" >&2
    return 1
}
