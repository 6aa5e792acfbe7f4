#!/usr/bin/env bash
# Sets up and regenerates every table and figure (./run_all.sh), or sets up and runs the tests (./run_all.sh --test).
# All other options go to `python -m bncap run`, whose --help lists them.
set -euo pipefail
called_from="$PWD"  # file names among the options are the caller's
cd "$(dirname "${BASH_SOURCE[0]}")"

case "$(uname -s)" in
    MINGW* | MSYS* | CYGWIN*)
        echo "error: Windows itself is not supported; run this in WSL (https://learn.microsoft.com/windows/wsl)" >&2
        exit 1
        ;;
esac

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local name
    for name in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$name" >/dev/null && is_new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed, and none was found" >&2
    exit 1
}

# An environment that is already active is used as it is; otherwise .venv is made.
active="${VIRTUAL_ENV:-${CONDA_PREFIX:-}}"
if [[ -n "$active${KAGGLE_KERNEL_RUN_TYPE:-}" ]]; then
    python=python
    if ! is_new_enough python; then
        echo "error: ${active:-Kaggle} has $(python --version 2>&1 || true), and 3.11 or newer is needed: deactivate it, or make a newer one" >&2
        exit 1
    fi
    if [[ -n "$active" ]]; then echo "using the active environment $active"; fi
    stamp="$(python -c 'import sys; print(sys.prefix)')/.bncap-setup"
    [[ -w "$(dirname "$stamp")" ]] || stamp="${TMPDIR:-/tmp}/.bncap-setup"
else
    if [[ ! -x .venv/bin/python ]]; then
        found="$(find_python)"
        "$found" -m venv .venv
    fi
    python="$PWD/.venv/bin/python"
    stamp=.venv/.bncap-setup
fi

wanted="$("$python" -c 'import hashlib; print(hashlib.sha256(b"".join(open(f, "rb").read() for f in ("requirements.txt", "pyproject.toml"))).hexdigest())') $PWD"
if [[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]]; then
    echo "setting up (some minutes the first time) ..."
    if [[ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ]]; then
        # The torch of a Kaggle image fits its driver and is never replaced.
        grep -vE '^(torch|torchvision|triton|cuda-.*|nvidia-.*)==' requirements.txt | "$python" -m pip install --quiet -r /dev/stdin
    else
        "$python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    fi
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$wanted" >"$stamp"
fi

if [[ "${1:-}" == "--test" ]]; then
    shift
    # A file's tests stay together, as some share what took long to make.
    exec "$python" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
fi
cd "$called_from"
exec "$python" -m bncap run "$@"
