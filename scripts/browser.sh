#!/usr/bin/env bash
# Runs a Python program that drives a real Chromium (Debian's own) by pinned Playwright, with axe-core at hand. The first run
# fetches both, some 55 MB; scripts/setup.sh --tests makes that first run.
# usage: scripts/browser.sh [PROGRAM [ARGUMENTS...]]      without a program: only makes sure that all is there
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

command -v chromium >/dev/null || fail "no Chromium here: scripts/setup.sh --tests installs it"
pinned_venv playwright "$root/scripts/browser-requirements.txt"
[ $# -eq 0 ] || PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$@"
