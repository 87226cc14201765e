#!/usr/bin/env bash
# Asks a server of its own everything that its OpenAPI document lets one ask, and much that it does not, and compares each
# answer with the document: schemathesis, all checks, all phases, the same requests on every run.
# usage: scripts/schemathesis.sh [MAX_EXAMPLES]      how many requests for each operation and phase, 100 unless told
# VELUM_TEST_BINARY names a program in place of the one that is built here.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"
examples=${1:-100}

pinned_venv schemathesis scripts/schemathesis-requirements.txt
shipped_program
velum=$VELUM_TEST_BINARY
unset VELUM_TEST_BINARY # which is no setting of the server

folder=$(mktemp -d)
server=""
on_exit() {
    local status=$?
    if [ -n "$server" ]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true # it writes until its end
    fi
    [ "$status" -eq 0 ] || [ ! -f "$folder/log" ] || grep -v '"level":"INFO"' "$folder/log" | tail -n 20 >&2 || true
    rm -rf "$folder"
    explain_exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT TERM

port=$((20000 + RANDOM % 12000))
export VELUM_DATA_DIR="$folder/data" VELUM_LISTEN="127.0.0.1:$port" VELUM_MODELS_DIR="$root/models" \
    VELUM_ONNXRUNTIME="${VELUM_ONNXRUNTIME:-$(echo "$root"/runtime/libonnxruntime.so.*)}" VELUM_TOKEN_LIFETIME_S=900 \
    VELUM_RATE_CLIENT=10000000 VELUM_RATE_ADDRESS=10000000 # rates have tests of their own
member() { "$venv/bin/python" -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

begin "a server with a client of every scope"
client=$("$velum" clients create --tenant schemathesis --role admin --json)
"$velum" serve >"$folder/log" 2>&1 &
server=$!
for attempt in $(seq 120); do
    "$velum" healthcheck >/dev/null 2>&1 && break
    if ! kill -0 "$server" || [ "$attempt" -eq 120 ]; then
        cat "$folder/log" >&2
        exit 1
    fi
    sleep 1
done
authority="$VELUM_DATA_DIR/tls/ca.pem"
CLIENT_CREDENTIAL=$(printf '%s:%s' "$(member client_id <<<"$client")" "$(member client_secret <<<"$client")" | base64 --wrap=0)
export CLIENT_CREDENTIAL TOKEN_URL="https://localhost:$port/oauth/token" # for its hooks

cd "$folder" # where it leaves its notes
export PYTHONPATH="$root/scripts" PYTHONDONTWRITEBYTECODE=1 # for its hooks
step "$((10 + examples / 5))m" "schemathesis, $examples examples" "$venv/bin/schemathesis" --config-file "$root/scripts/schemathesis.toml" \
    run "https://localhost:$port/openapi.json" --tls-verify "$authority" --max-examples "$examples" \
    --generation-deterministic --checks all --no-color
kill -0 "$server" 2>/dev/null || fail "the server ended on the way"
