#!/usr/bin/env bash
# Runs a Python program that drives a real Chromium (Debian's own) by pinned Playwright, with axe-core at hand. The first run
# fetches both, some 55 MB; scripts/setup.sh --tests makes that first run.
# usage: scripts/browser.sh [PROGRAM [ARGUMENTS...]]      without a program: only makes sure that all is there
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

command -v chromium >/dev/null || fail "no Chromium here: scripts/setup.sh --tests installs it"
requirements="$root/scripts/browser-requirements.txt"
venv="$cache/browser-$(sha256sum "$requirements" | cut -c 1-16)"
if [ ! -e "$venv/complete" ]; then
    rm -rf "$venv"
    step 1m "a place for Playwright" python3 -m venv "$venv"
    step 10m "Playwright and axe-core" "$venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: \
        --requirement "$requirements"
    touch "$venv/complete"
fi
[ $# -eq 0 ] || PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$@"
