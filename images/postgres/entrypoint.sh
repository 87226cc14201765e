#!/bin/bash
# Makes the cluster on its first start, brings roles and passwords in line with the secrets on every start, then serves.
#   CLUSTER        main, keystore or ledger: the name of its database
#   SECRETS        folder with server.crt, server.key, ca.pem and ROLE.password
#   arguments      go to the server
set -euo pipefail
umask 077

say() { printf 'entrypoint: %s\n' "$*" >&2; }
fail() {
    say "$1; $2"
    exit 1
}

secrets=${SECRETS:?}
cluster=${CLUSTER:?}
roles=(velum velum_owner velum_metrics)
case $cluster in main | keystore | ledger) ;; *) fail "CLUSTER is $cluster" "expected main, keystore or ledger" ;; esac
for file in server.crt server.key ca.pem "${roles[@]/%/.password}"; do
    [ -r "$secrets/$file" ] || fail "$secrets/$file cannot be read" "deploy.sh secrets check"
done
[ -w "$(dirname "$PGDATA")" ] || fail "$(dirname "$PGDATA") cannot be written by user $(id -u)" "give it to that user"

settings=(-c config_file=/etc/postgresql/postgresql.conf -c ssl_cert_file="$secrets/server.crt"
    -c ssl_key_file="$secrets/server.key" -c ssl_ca_file="$secrets/ca.pem")

# with_server FOLDER FUNCTION    runs FUNCTION beside a server that nobody else can reach
with_server() {
    local folder=$1 status=0 log=${TMPDIR:-/tmp}/first-steps.log
    pg_ctl --pgdata "$folder" --silent --wait --timeout 300 --log "$log" \
        --options "$(printf ' %q' "${settings[@]}") -c listen_addresses= -c archive_mode=off -c ssl=off -c unix_socket_directories=/tmp" start ||
        { cat "$log" >&2; fail "the cluster does not start" "its log is above"; }
    PGHOST=/tmp "$2" || status=$?
    pg_ctl --pgdata "$folder" --silent --wait --mode fast stop
    rm -f "$log"
    return "$status"
}

# Roles that are there already keep what they own; their passwords become what the secrets say. `velum_owner` owns the schema
# and migrates; `velum` serves, bound by row-level security, and may not change the schema; `velum_metrics` reads counters.
bring_roles_in_line() {
    local role
    for role in "${roles[@]}"; do
        # psql reads the password itself: what stands among its arguments, every process of the host may see.
        PASSWORD_FILE=$secrets/$role.password psql --quiet --no-psqlrc --dbname postgres --set ON_ERROR_STOP=1 \
            --set role="$role" <<-'END'
		\set password `cat "$PASSWORD_FILE"`
		SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
		ALTER ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
		END
    done
    psql --quiet --no-psqlrc --dbname postgres --set ON_ERROR_STOP=1 --set database="$cluster" <<-'END'
	GRANT pg_monitor TO velum_metrics;
	REVOKE CONNECT, TEMPORARY ON DATABASE postgres, template1 FROM PUBLIC;
	SELECT format('CREATE DATABASE %I OWNER velum_owner', :'database')
	    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
	REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
	GRANT CONNECT ON DATABASE :"database" TO velum, velum_metrics;
	\connect :"database"
	ALTER SCHEMA public OWNER TO velum_owner;
	REVOKE CREATE ON SCHEMA public FROM PUBLIC;
	GRANT USAGE ON SCHEMA public TO velum;
	GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO velum;
	GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO velum;
	ALTER DEFAULT PRIVILEGES FOR ROLE velum_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO velum;
	ALTER DEFAULT PRIVILEGES FOR ROLE velum_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO velum;
	END
}

# A first start that is killed leaves a draft, which the next one throws away.
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    say "first start: making the cluster $cluster"
    rm -rf "$PGDATA.draft"
    initdb --pgdata "$PGDATA.draft" --username postgres --auth-local peer --auth-host reject --encoding UTF8 --no-locale \
        --data-checksums >/dev/null
    with_server "$PGDATA.draft" bring_roles_in_line
    mv "$PGDATA.draft" "$PGDATA"
# A cluster that is being restored is read-only until it has caught up: its roles come with it, or at the next start.
elif [ ! -e "$PGDATA/recovery.signal" ] && [ ! -e "$PGDATA/standby.signal" ]; then
    with_server "$PGDATA" bring_roles_in_line
fi

exec postgres -D "$PGDATA" "${settings[@]}" "$@"
