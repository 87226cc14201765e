#!/usr/bin/env bash
# Runs a command beside a throwaway PostgreSQL server and removes the server afterwards.
# usage: scripts/with-postgres.sh COMMAND...      the command finds it in VELUM_TEST_POSTGRES_URL: a superuser, beside whom
#                                                 there is a plain role `velum_app` with the same password
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || fail "which command? For instance: scripts/with-postgres.sh cargo test"
bin=$(printf "%s\n" /usr/lib/postgresql/*/bin | sort --version-sort | tail -n 1)
[ -x "$bin/initdb" ] || fail "no PostgreSQL server found under /usr/lib/postgresql: run scripts/setup.sh --tests"

folder=$(mktemp -d)
as_owner=()
if [ "$(id -u)" -eq 0 ]; then
    # Postgres refuses to run as root.
    owner=postgres
    chown "$owner" "$folder"
    as_owner=(setpriv --reuid "$owner" --regid "$owner" --clear-groups env HOME="$folder")
fi
cd "$folder" # a folder the owner may enter

on_exit() {
    local status=$?
    "${as_owner[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --mode immediate stop >/dev/null 2>&1 || true
    rm -rf "$folder"
    explain_exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT TERM

password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
printf '%s\n' "$password" >"$folder/password"
chmod 644 "$folder/password" # the folder itself is 0700
begin "throwaway PostgreSQL"
"${as_owner[@]}" "$bin/initdb" --pgdata "$folder/data" --username velum --pwfile "$folder/password" \
    --auth scram-sha-256 --encoding UTF8 --no-locale --no-sync >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }

# Nothing here must survive a power cut, so it need not wait for the disk.
settings="-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
for attempt in 1 2 3 4 5 6 7 8; do
    port=$((20000 + RANDOM % 12000)) # below the range the kernel hands out for outgoing connections
    "${as_owner[@]}" "$bin/pg_ctl" --pgdata "$folder/data" --log "$folder/server.log" --options "$settings -p $port" \
        --wait --timeout 60 start >/dev/null && break
    [ "$attempt" -lt 8 ] || { tail -n 20 "$folder/server.log" >&2; exit 1; }
done

# The program under test is neither superuser nor owner of the server: row-level security binds it.
PGPASSWORD=$password "$bin/psql" --quiet --host 127.0.0.1 --port "$port" --username velum --dbname postgres \
    --command "CREATE ROLE velum_app LOGIN PASSWORD '$password'"

export VELUM_TEST_POSTGRES_URL="postgres://velum:$password@127.0.0.1:$port/postgres"
cd "$OLDPWD"
begin "$*"
"$@"
