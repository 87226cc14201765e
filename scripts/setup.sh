#!/usr/bin/env bash
# Brings a Debian machine with a Rust toolchain to where Velum builds and runs: packages and the ONNX Runtime library.
# Starts no service, changes no setting, may be run again at any time.
# usage: scripts/setup.sh [--tests]      --tests: also what scripts/test.sh needs: PostgreSQL, Redis, nginx, Prometheus, Chromium, linters
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

command -v cargo >/dev/null || fail "no Rust toolchain found: install rustup (https://rustup.rs), then run this again"
command -v dpkg-query >/dev/null || fail "this script knows Debian and its relatives only; docs/operations.md lists what is needed"

packages=(ca-certificates gcc libc6-dev libpq-dev python3 python3-pip)
# util-linux: setpriv, for Postgres refuses to run as root. The second half is for tests of deploy.sh and of the monitoring.
[ "${1:-}" != --tests ] || packages+=(chromium curl g++ libnginx-mod-stream nginx-light postgresql python3-venv redis-server shellcheck
    util-linux
    age certbot faketime jq nghttp2-client openssl pebble pgbackrest prometheus prometheus-alertmanager
    prometheus-{blackbox,nginx,node,postgres,redis}-exporter sqlite3 testssl.sh yamllint)

no_cluster=/etc/postgresql-common/createcluster.d/velum-test.conf
no_start=/usr/sbin/policy-rc.d
if [ "${1:-}" = --tests ] && [ -n "$(missing_packages "${packages[@]}")" ]; then
    # Debian's packages make and start servers of their own; the tests bring theirs, so they are told not to.
    become=$(as_root)
    undo=("$no_cluster")
    [ -e "$no_start" ] || undo+=("$no_start")
    # shellcheck disable=SC2086 # $become is none, "env" or "sudo --non-interactive"
    trap 'status=$?; $become rm -f "${undo[@]}"; explain_exit $status' EXIT
    # shellcheck disable=SC2086
    step 1m "no servers of Debian's own" $become sh -c "
        mkdir -p ${no_cluster%/*} && echo 'create_main_cluster = false' >$no_cluster
        [ -e $no_start ] || { printf '#!/bin/sh\nexit 101\n' >$no_start && chmod 755 $no_start; }"
    install_packages "${packages[@]}"
    # shellcheck disable=SC2086
    step 1m "those settings removed again" $become rm -f "${undo[@]}"
    trap 'explain_exit $?' EXIT
else
    install_packages "${packages[@]}"
fi

"$root/scripts/fetch-runtime.sh"
[ "${1:-}" != --tests ] || "$root/scripts/browser.sh"
