#!/usr/bin/env bash
# Brings a Debian machine with a Rust toolchain to where Velum builds and runs: packages and the ONNX Runtime library.
# Starts no service, changes no setting, may be run again at any time.
# usage: scripts/setup.sh [--tests]      --tests: also what scripts/test.sh needs (PostgreSQL, Redis, Chromium, g++, shellcheck, venv)
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

command -v cargo >/dev/null || fail "no Rust toolchain found: install rustup (https://rustup.rs), then run this again"
command -v dpkg-query >/dev/null || fail "this script knows Debian and its relatives only; docs/operations.md lists what is needed"

packages=(ca-certificates gcc libc6-dev libpq-dev python3 python3-pip)
# util-linux: setpriv, for Postgres refuses to run as root
[ "${1:-}" = --tests ] && packages+=(chromium curl g++ postgresql python3-venv redis-server shellcheck util-linux)

no_cluster=/etc/postgresql-common/createcluster.d/velum-test.conf
if [ "${1:-}" = --tests ] && ! compgen -G "/usr/lib/postgresql/*/bin/initdb" >/dev/null; then
    # Debian's package makes and starts a database server of its own; the tests bring theirs, so it is told not to.
    # shellcheck disable=SC2046 # none, "env" or "sudo --non-interactive"
    step 1m "no database server of Debian's own" $(as_root) \
        sh -c "mkdir -p ${no_cluster%/*} && echo 'create_main_cluster = false' >$no_cluster"
    install_packages "${packages[@]}"
    # shellcheck disable=SC2046
    step 1m "that setting removed again" $(as_root) rm -f "$no_cluster"
else
    install_packages "${packages[@]}"
fi

"$root/scripts/fetch-runtime.sh"
