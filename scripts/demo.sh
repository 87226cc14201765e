#!/usr/bin/env bash
# The first command of the README: set-up, build, then two real faces enrolled, matched on ciphertexts and told apart.
# usage: scripts/demo.sh [ARGUMENTS OF velum demo]
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

scripts/setup.sh
step 60m "release build (several minutes the first time)" cargo build --release --locked
begin "velum demo"
"${CARGO_TARGET_DIR:-target}/release/velum" demo "$@"
