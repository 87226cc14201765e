#!/usr/bin/env bash
# Tries deploy.sh on real servers and processes: tests/deploy. As root also with the users and rights of production, and with a
# disk that is full.
# usage: scripts/deploy-test.sh [--full] [process | stack | NAME...]
#   process   DRIVER=process (the default): nothing is lost, runs are repeatable, ten kinds of sabotage. 3 deploys, 2 rollbacks and
#             4 sabotages under load, some four minutes; with --full 30, 10 and 17, some twenty
#   stack     DRIVER=compose, with a Docker engine
#   NAME      of a module tests/deploy/test_NAME.py
# VELUM_TEST_BINARY names a program in place of the one that is built here; VELUM_TEST_SHOW=1 shows what deploy.sh says,
# VELUM_TEST_KEEP=1 keeps the installation.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

limit=45m
if [ "${1:-}" = --full ]; then
    shift
    export VELUM_TEST_DEPLOYS=30 VELUM_TEST_ROLLBACKS=10 VELUM_TEST_SABOTAGES=17
    limit=90m
fi
modules=()
for name in "${@:-process}"; do
    case $name in
        process) modules+=(tests.deploy.test_deploy tests.deploy.test_sabotage) ;;
        *)
            [ -e "tests/deploy/test_$name.py" ] || fail "there is no tests/deploy/test_$name.py"
            modules+=("tests.deploy.test_$name")
            ;;
    esac
done

scripts/setup.sh --tests
pinned_venv http2-client tests/deploy/requirements.txt
shipped_program
export PYTHONDONTWRITEBYTECODE=1
step "$limit" "deploy.sh: ${modules[*]}" "$venv/bin/python" -m unittest --verbose "${modules[@]}"
