#!/usr/bin/env bash
# What is done to one PostgreSQL cluster where its files are: in its container, or on this host as its user. deploy/backup.sh
# sends this text there as an argument of bash (nothing of it need be installed) and is its only caller.
# arguments: STANZA DATA CONFIG FOLDER VERB [ARGUMENTS...]
#   DATA     the cluster's data folder; empty: where PGDATA says
#   CONFIG   pgBackRest's settings
#   FOLDER   belongs to the backups of this cluster: repository, and the scratch cluster while there is one
# An error is one line on standard error: cause, tab, what to do.
set -euo pipefail
cd /
umask 077

die() {
    printf 'cause\t%s\t%s\n' "$1" "$2" >&2
    exit 70
}

stanza=$1 data=${2:-${PGDATA:-}} config=$3 folder=$4
shift 4
export PGUSER="${PGUSER:-postgres}" PGCONNECT_TIMEOUT=10 PGOPTIONS="-c statement_timeout=0 -c jit=off"
unset PGDATABASE PGHOST PGPORT PGDATA
scratch=$folder/scratch
[ -n "$data" ] || die "nobody says where the data of $stanza lie" "set PGDATA in the image of PostgreSQL"

# ---- pgBackRest -------------------------------------------------------------------------------------------------------------
# br ARGS...    its answer on standard output; its complaints become one sentence
br() {
    local complaints status=0
    complaints=$(mktemp)
    pgbackrest --config="$config" --stanza="$stanza" --log-level-console=off --log-level-stderr=warn "$@" 2>"$complaints" || status=$?
    if [ "$status" -ne 0 ]; then
        # What another pass has opened is no text.
        tr -cd '[:print:]\n' <"$complaints" >"$complaints.text"
        sed 's/^/    /' "$complaints.text" >&2
        explain "$(cat "$complaints.text")" "$status"
    fi
    rm -f "$complaints"
}

explain() {
    local text=$1 status=$2
    # Its last attempt names another error than its first.
    case $text in *FileWriteError* | *"unable to write"*) [ "$(free_mb "$folder")" -ge 16 ] || text="No space left on device" ;; esac
    case $text in
        *"No space left on device"*)
            die "the disk with the backups of $stanza is full; nothing half-written counts as a backup" "free or enlarge it: df -h $folder" ;;
        *CryptoError* | *FormatError* | *"[095]"*)
            die "the cipher pass of $stanza does not open its repository, or the repository is damaged" \
                "bring back the pass it was made with: secrets/backup/$stanza.pass" ;;
        *"unable to find primary cluster"*)
            die "the PostgreSQL of $stanza does not answer pgBackRest" "start it; the log of that PostgreSQL says more" ;;
        *"unable to connect"* | *"timeout connecting"* | *"unable to get address"* | *HostConnectError*)
            die "the repository of $stanza is away: $(one_line "$text")" "bring the storage back (BACKUP_S3_ENDPOINT), then run this again" ;;
        *"HTTP request failed with 403"* | *"HTTP request failed with 401"*)
            die "the S3 storage refuses the credentials" "look at secrets/backup/s3_key and s3_key_secret, and at the rights of that user" ;;
        *"HTTP request failed with 404"*)
            die "the S3 storage does not know the bucket" "make it, or correct BACKUP_S3_BUCKET" ;;
        *"unable to verify certificate"* | *"certificate"*)
            die "the certificate of the S3 storage is not trusted: $(one_line "$text")" "name its authority by BACKUP_S3_CA_FILE" ;;
        *"does not match"*"database"* | *"[028]"* | *"[051]"*)
            die "the repository of $stanza belongs to another cluster" "move that repository away, or restore from it (deploy.sh restore)" ;;
        *"[082]"* | *"was not archived before"*)
            die "the write-ahead log of $stanza does not reach its repository" "the log of that PostgreSQL says why; disk full or storage away" ;;
        *"[050]"* | *"another pgBackRest"* | *"is another"*)
            die "another pgBackRest is at work for $stanza" "wait for its end" ;;
        *"Permission denied"*)
            die "$(id -un) may not use the repository of $stanza: $(one_line "$text")" "deploy.sh backup run sets the rights again" ;;
        *"unable to open missing file"* | *"missing"* | *"Not a directory"*)
            die "the repository of $stanza is missing or not whole: $(one_line "$text")" "bring it back, or begin anew: deploy.sh backup run --full" ;;
        *) die "pgBackRest failed for $stanza (status $status): $(one_line "$text")" "read its lines above" ;;
    esac
}
free_mb() { df --output=avail --block-size=1M "$1" | tail -n 1; }

# info REPO    what there is, as JSON. A repository that cannot be read stands in it as an error among the others.
info() {
    local found
    found=$(br --repo="$1" --output=json info | tr -cd '[:print:]\n')
    case $found in *'"code":99'*) explain "$found" 99 ;; esac
    printf '%s\n' "$found"
}
# The first complaint, without moment and process.
one_line() { sed -n 's/^ *[A-Z]*ERROR: *//p; s/^ERROR: *//p' <<<"$1" | head -n 1 | cut -c 1-300; }

# ---- the live cluster -------------------------------------------------------------------------------------------------------
server_bin() { printf '/usr/lib/postgresql/%s/bin' "$(cat "$1/PG_VERSION")"; }

# Whether a server works on FOLDER. The number in its file may be another process's by now.
server_runs() {
    local pid
    pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = postgres ]
}

# Port and folder of the socket are in the file that the running server keeps.
find_server() {
    server_runs "$data" || die "the PostgreSQL of $stanza does not run ($data)" "start it"
    port=$(sed -n 4p "$data/postmaster.pid")
    socket=$(sed -n 5p "$data/postmaster.pid")
    [ -n "$socket" ] || die "the PostgreSQL of $stanza has no Unix socket" "set unix_socket_directories"
    export PGHOST=$socket PGPORT=$port
}
ask() { psql -XqAt -v ON_ERROR_STOP=1 -d "${database:-postgres}" "$@"; }

# The one database with tables of its own.
find_database() {
    local name found=()
    while IFS= read -r name; do
        [ "$(database=$name ask -c "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace NOT IN
            (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_' OR nspname = 'information_schema')")" -eq 0 ] || found+=("$name")
    done < <(ask -c "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
    [ ${#found[@]} -le 1 ] || die "the cluster of $stanza has several databases with tables: ${found[*]}" "keep one in each cluster"
    database=${found[0]:-postgres}
}

# Data, socket, port; of a cluster that does not run, data alone.
where() {
    printf '%s\n' "$data"
    server_runs "$data" || return 0
    alive
    printf '%s\n' "$socket" "$port"
}
alive() {
    find_server
    ask -c "SELECT 1" >/dev/null || die "the PostgreSQL of $stanza does not let $PGUSER in over $socket" "let its own user in by 'local all $PGUSER peer'"
}

# Whatever is written goes to the repository within a minute.
archiving() {
    local command
    find_server
    command="pgbackrest --config=$config --stanza=$stanza archive-push %p"
    if [ "$(ask -c 'SHOW archive_command')" != "$command" ]; then
        ask -v command="$command" <<<"ALTER SYSTEM SET archive_command = :'command';"
    fi
    [ "$(ask -c 'SHOW archive_timeout')" != 0 ] || ask -c "ALTER SYSTEM SET archive_timeout = '60s'"
    ask -c 'SELECT pg_reload_conf()' >/dev/null
    if [ "$(ask -c 'SHOW archive_mode')" = off ]; then
        ask -c "ALTER SYSTEM SET archive_mode = 'on'"
        die "the PostgreSQL of $stanza began without archive_mode" "restart it once; the setting is written now"
    fi
}

# Nothing is written to a repository any more.
no_archiving() {
    find_server
    ask -c "ALTER SYSTEM SET archive_command = '/bin/true'" -c 'SELECT pg_reload_conf()' >/dev/null
}

# What a deleted row held stays in its page, and a backup copies pages. Tables written anew hold living rows alone. Nobody reads or
# writes a table meanwhile, so those in which nothing was changed since the last time are left alone.
scrub() {
    local table changes attempt done_before=$folder/scrubbed
    find_server
    find_database
    [ -e "$done_before" ] || touch "$done_before"
    while IFS='|' read -r table changes; do
        ! grep -qxF "$table|$changes|$(file_of "$table")" "$done_before" || continue
        for attempt in {1..5}; do
            PGOPTIONS="$PGOPTIONS -c lock_timeout=3s" ask -c "VACUUM (FULL) $table" && break
            [ "$attempt" -lt 5 ] ||
                die "the table $table of $stanza could not be written anew in $attempt attempts (above)" "run this again, at a quieter hour if it was in use"
            sleep 1
        done
        { grep -vF "$table|" "$done_before" || true; printf '%s\n' "$table|$changes|$(file_of "$table")"; } >"$done_before.new"
        mv "$done_before.new" "$done_before"
    done < <(ask -c "SELECT format('%I.%I', schemaname, relname) || '|' || n_tup_upd + n_tup_del || ' since ' || pg_postmaster_start_time()
        FROM pg_stat_user_tables ORDER BY 1")
}
file_of() { ask -c "SELECT pg_relation_filenode('$1')"; }

# ---- what a cluster holds, so that two can be compared ----------------------------------------------------------------------
# One line a table: rows, and the sum of their hashes, which does not depend on their order. Then the definitions, the roles.
readonly contents="
SET bytea_output = 'hex'; SET datestyle = 'ISO'; SET timezone = 'UTC'; SET extra_float_digits = 1;
SELECT format(
    'SELECT json_build_object(''table'', %L, ''rows'', count(*), ''sum'', coalesce(sum(a), 0) || '':'' || coalesce(sum(b), 0))
     FROM (SELECT (''x'' || left(d, 16))::bit(64)::bigint::numeric AS a, (''x'' || right(d, 16))::bit(64)::bigint::numeric AS b
           FROM (SELECT encode(sha256(convert_to(ROW(t.*)::text, ''UTF8'')), ''hex'') AS d FROM ONLY %I.%I t) x) y',
    nspname || '.' || relname, nspname, relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY nspname, relname
\\gexec
SELECT json_build_object('table', '(definitions)', 'rows', count(*), 'sum', md5(string_agg(what, E'\\n' ORDER BY what COLLATE \"C\"))) FROM (
    SELECT concat_ws(' ', 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull) AS what
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
        WHERE attnum > 0 AND NOT attisdropped AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid)) FROM pg_constraint
    UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname !~ '^pg_'
    UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT concat_ws(' ', 'policy', polrelid::regclass, polname, pg_get_expr(polqual, polrelid)) FROM pg_policy) definitions;
SELECT json_build_object('table', '(roles)', 'rows', count(*), 'sum',
    md5(string_agg(concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcanlogin, rolpassword), E'\\n' ORDER BY rolname COLLATE \"C\")))
    FROM pg_authid;
"

# mark NAME    a named point in the write-ahead log, and what the cluster holds exactly there. For the moment in which both are
# taken nobody writes: a lock on all tables, given back with the savepoint while the snapshot stays.
mark() {
    local name=$1 attempt held="" segment said
    said=$(mktemp)
    find_server
    find_database
    for attempt in {1..12}; do
        # Writers wait 300 ms at most for an attempt; the last one may be longer, so that autovacuum steps aside.
        held=$(PGOPTIONS="$PGOPTIONS -c lock_timeout=$((attempt < 12 ? 300 : 3000))" ask -v name="$name" 2>"$said" <<-END
			SELECT coalesce('LOCK TABLE ' || string_agg(format('%I.%I', nspname, relname), ', ') || ' IN SHARE MODE', 'SELECT')
			    AS lock FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			    WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema' \gset
			BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
			SAVEPOINT quiet;
			:lock ;
			SELECT pg_create_restore_point(:'name') AS lsn \gset
			ROLLBACK TO SAVEPOINT quiet;
			SELECT json_build_object('mark', :'name', 'lsn', :'lsn', 'segment', pg_walfile_name(:'lsn'));
			SELECT pg_switch_wal() \g /dev/null
			$contents
			COMMIT;
		END
        ) && break
        held=""
        sleep 0.5
    done
    if [ -z "$held" ]; then
        cat "$said" >&2
        die "the tables of $stanza could not be compared (above; attempt $attempt)" "run this again, at a quieter hour if they were in use"
    fi
    rm -f "$said"
    segment=$(sed -n '1s/.*"segment" : "\([0-9A-F]*\)".*/\1/p' <<<"$held")
    archived "$segment"
    printf '%s\n' "$held"
}

# point NAME    such a name alone, for a deploy to come back to
point() {
    find_server
    ask -v name="$1" <<<"SELECT pg_create_restore_point(:'name');" >/dev/null
    archived "$(ask -c 'SELECT pg_walfile_name(pg_switch_wal())')"
}

# A commit and a new segment: what was written until now can be asked for by its time.
flush() {
    find_server
    [[ $(ask -c 'SHOW archive_command') == *"--stanza=$stanza "* ]] ||
        die "the PostgreSQL of $stanza does not archive to this repository" "nothing of it can be added"
    ask -c 'SELECT txid_current()' >/dev/null
    archived "$(ask -c 'SELECT pg_walfile_name(pg_switch_wal())')"
}

archived() {
    local segment=$1 end=$((SECONDS + 120))
    until [ "$(ask -c "SELECT coalesce(last_archived_wal, '') >= '$segment' FROM pg_stat_archiver")" = t ]; do
        [ "$SECONDS" -lt "$end" ] ||
            die "the write-ahead log of $stanza does not reach its repository (segment $segment)" \
                "the log of that PostgreSQL says why; disk full or storage away"
        sleep 0.2
    done
}

# ---- restore ----------------------------------------------------------------------------------------------------------------
# fetch INTO REPO TYPE TARGET SET TIMELINE [OPTIONS...]    TYPE: name, time, or nothing for everything there is. The last three
# may be empty too.
fetch() {
    local into=$1 repo=$2 type=$3 target=$4 set=$5 timeline=$6 options
    shift 6
    options=(--repo="$repo" --pg1-path="$into" --type="${type:-default}" "$@")
    [ -z "$type" ] || options+=(--target="$target" --target-action=promote)
    [ -z "$set" ] || options+=(--set="$set")
    [ -z "$timeline" ] || options+=(--target-timeline="$timeline")
    br "${options[@]}" restore
}

# try_out REPO TYPE TARGET SET TIMELINE    restores beside the live cluster, starts, says what is in it, and leaves nothing.
# The scratch cluster listens on a socket in a folder of its own alone, and neither archives nor sends anything.
try_out() {
    local repo=$1 type=$2 target=$3 set=$4 timeline=$5 began=$EPOCHREALTIME fetched
    clear_scratch
    trap clear_scratch EXIT
    mkdir -p "$scratch"
    fetch "$scratch" "$repo" "$type" "$target" "$set" "$timeline" --archive-mode=off
    fetched=$EPOCHREALTIME
    start_scratch
    await "$scratch"
    find_database
    [ "$(ask -c "SELECT current_setting('archive_mode') || current_setting('listen_addresses')")" = off ] ||
        die "the scratch cluster of $stanza would talk to the outside" "this is a fault of deploy/pgbackrest/cluster.sh: report it"
    ask <<<"$contents"
    printf '{"fetched_ms": %d, "ready_ms": %d, "replayed": "%s"}\n' "$(ms "$began" "$fetched")" "$(ms "$began" "$EPOCHREALTIME")" "$(last_replayed)"
}
ms() { printf '%d' $(((${2/[.,]/} - ${1/[.,]/}) / 1000)); }

start_scratch() {
    local options
    sockets=$(mktemp -d --tmpdir velum-scratch.XXXXXX)
    printf 'local all all trust\n' >"$sockets/hba.conf" # whoever may enter the folder
    cat >"$sockets/postgresql.conf" <<-END
		hba_file = '$sockets/hba.conf'
		ident_file = '/dev/null'
		shared_buffers = '64MB'
		fsync = off
		hot_standby = off
	END
    # On the command line, where nothing that was restored outweighs it.
    options="-c config_file=$sockets/postgresql.conf -c listen_addresses= -c unix_socket_directories=$sockets -c port=5432"
    options+=" -c archive_mode=off -c archive_command= -c primary_conninfo= -c ssl=off -c shared_preload_libraries= -c logging_collector=off"
    options+=" -c log_destination=stderr -c max_wal_senders=0 -c cluster_name=scratch"
    "$(server_bin "$scratch")/pg_ctl" --pgdata "$scratch" --silent --no-wait --log "$sockets/log" --options "$options" start </dev/null
    export PGHOST=$sockets PGPORT=5432
}

# Until recovery is over. A server that ends by itself says why in its log.
await() {
    local folder=$1 log=${sockets:-}/log told gone=0
    until [ "$(ask -c 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
        sleep 0.2
        # It may not have begun yet.
        if server_runs "$folder"; then gone=0; else gone=$((gone + 1)); fi
        [ "$gone" -ge 15 ] || continue
        [ -e "$log" ] || die "the restored PostgreSQL of $stanza ended" "its log says why"
        told=$(grep -E 'FATAL|PANIC' "$log" | grep -v 'not accepting connections\|starting up' | tail -n 1 | sed 's/.*\(FATAL\|PANIC\): *//')
        case $told in
            *"ended before configured recovery target"*)
                die "the archive of $stanza ends behind segment $(last_replayed), before what was asked for" \
                    "deploy.sh backup list shows what there is; deploy.sh restore --to latest takes all of it" ;;
            *"before consistent recovery point"*) die "the backup of $stanza ended after the moment that was asked for" "name a later moment" ;;
            *) die "the restored PostgreSQL of $stanza ended: ${told:-no reason given}" "try another backup: deploy.sh backup list" ;;
        esac
    done
}
last_replayed() { sed -n 's/.*restored log file "\([0-9A-F]\{24\}\)".*/\1/p' "$sockets/log" | tail -n 1; }

clear_scratch() {
    ! server_runs "$scratch" || "$(server_bin "$scratch")/pg_ctl" --pgdata "$scratch" --silent --mode immediate stop >/dev/null 2>&1 || true
    rm -rf "${scratch:?}" "${sockets:-/nonexistent}"
}

# replace REPO TYPE TARGET SET TIMELINE    in place of the live cluster, which must not run
replace() {
    local repo=$1 type=$2 target=$3 set=$4 timeline=$5 options=()
    ! server_runs "$data" || die "the PostgreSQL of $stanza runs" "stop it first"
    # Of what is there, only what differs is fetched.
    if [ -e "$data/PG_VERSION" ] || [ -e "$data/backup.manifest" ]; then
        rm -f "$data/postmaster.pid"
        options=(--delta)
    elif [ -n "$(ls -A "$data" 2>/dev/null)" ]; then
        die "$data holds something that is no cluster" "move it away"
    fi
    fetch "$data" "$repo" "$type" "$target" "$set" "$timeline" "${options[@]}"
}

# On which timeline the cluster is; each restore begins another.
timeline() {
    "$(server_bin "$data")/pg_controldata" --pgdata "$data" | sed -n "s/^Latest checkpoint's TimeLineID: *//p"
}

# Of a cluster that this host runs by itself; a container has its engine for it.
halt() {
    # A restore removes what says how it was started.
    [ ! -e "$data/postmaster.opts" ] || cp "$data/postmaster.opts" "$folder/started-as"
    ! server_runs "$data" ||
        "$(server_bin "$data")/pg_ctl" --pgdata "$data" --silent --mode fast --timeout 120 stop
}
resume() {
    local command=()
    [ -e "$folder/started-as" ] || die "nobody knows how the PostgreSQL of $stanza is started" "start it yourself, then go on from there"
    mapfile -t command < <(xargs -n 1 printf '%s\n' <"$folder/started-as")
    "$(server_bin "$data")/pg_ctl" --pgdata "$data" --silent --no-wait --log "$folder/server.log" \
        --options "$(printf '%q ' "${command[@]:1}")" start </dev/null
}
restored() {
    local end=$((SECONDS + 60))
    until server_runs "$data" && [ -n "$(sed -n 5p "$data/postmaster.pid")" ]; do
        [ "$SECONDS" -lt "$end" ] || die "the restored PostgreSQL of $stanza did not start" "its log says why"
        sleep 0.2
    done
    find_server
    await "$data"
    ask -c 'SELECT timeline_id FROM pg_control_checkpoint()'
}

verb=$1
shift
case $verb in
    info | where | alive | archiving | no_archiving | scrub | mark | point | flush | try_out | replace | timeline | halt | resume | restored) "$verb" "$@" ;;
    br) br "$@" ;;
    *) die "cluster.sh has no verb $verb" "this is a fault of deploy/backup.sh: report it" ;;
esac
