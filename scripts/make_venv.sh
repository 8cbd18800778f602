#!/bin/sh
# Makes a virtual environment and installs the project into it: make_venv.sh DIRECTORY REQUIREMENT
# Uses uv when there is one, else Python's own venv. Debian keeps pip for venv in a package of its own; without it the pip of
# the system or virtualenv serves.
set -eu
venv=$1
requirement=$2

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s' "$name"
            return
        fi
    done
}

python=$(find_python)

make_venv() {
    if "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        "$python" -m venv "$venv"
    elif "$python" -c 'import virtualenv' >/dev/null 2>&1; then
        "$python" -m virtualenv --quiet "$venv"
    elif "$python" -c 'import pip, venv' >/dev/null 2>&1; then
        "$python" -m venv --without-pip "$venv"
        "$python" -m pip --quiet --python "$venv/bin/python" install pip
    else
        fail "$python has neither ensurepip nor pip, so that no virtual environment can be made." \
            "On Debian and Ubuntu: apt-get install python3-venv. Or install uv: https://docs.astral.sh/uv/"
    fi
}

if command -v uv >/dev/null 2>&1; then
    echo "Installing into $venv with uv ..."
    [ -x "$venv/bin/python" ] || uv venv --quiet --python '>=3.11' "$venv"
    uv pip install --quiet --python "$venv/bin/python" --editable "$requirement"
else
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, and none was found on the PATH: $PATH"
    echo "Installing into $venv with $python ..."
    if ! [ -x "$venv/bin/python" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        rm -rf "$venv"
        make_venv
    fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$requirement"
fi
