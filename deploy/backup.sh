# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# backup: what is kept elsewhere, under which key, for how long, and whether it can be brought back. Databases are here, everything
# else in archives.sh, the way back in restore.sh.
#
# Databases: base backups and write-ahead log by pgBackRest, one stanza, one cipher pass and one folder for each cluster.
# Everything else (settings, Redis, keys): archives encrypted by age to public keys in secrets/backup/recipients, whose private
# halves are never on this host. Every run is followed by a real restore. What happened stands in state/backups.log, one JSON
# object a line, from which state/metrics/velum_backup.prom and state/restore-drill.json are made.
#
# Parts: main keystore ledger redis configuration secrets keyholder passes

# shellcheck source=deploy/archives.sh
. "$here/deploy/archives.sh"
# shellcheck source=deploy/restore.sh
. "$here/deploy/restore.sh"

readonly clusters=(main keystore ledger)
backup_log=$state_dir/backups.log
archives_dir=$backups_dir/archives

help_backup() {
    cat <<-'END'
	usage: deploy.sh backup [run [--full] [PART...] | verify [--identity FILE]... [PART...] | list | keys]
	Back everything up, try a restore of it, and delete what is older than it may be.

	  run      the default: each PART, or all of BACKUP_PARTS. Every database is restored beside the live one and compared with it
	           row by row (count and hash of each table); only then older backups are deleted
	  verify   the comparison alone. With --identity (private keys of age, on a medium that you bring) archives are opened as well
	           and compared with the files of this host
	  list     what there is, oldest first
	  keys     which keys open what, and where they must be kept; nothing is changed
	  --full   whole backups of all databases, even if a difference would do

	  PART     main, keystore, ledger (databases), redis, configuration, secrets, keyholder, passes
	END
}

command_backup() {
    local action=run full="" identities=() parts=()
    [[ ! ${1:-} =~ ^(run|verify|list|keys)$ ]] || { action=$1 && shift; }
    while [ $# -gt 0 ]; do
        case $1 in
            --full) full=yes ;;
            --identity)
                [ -r "${2:-}" ] || fail "there is no identity ${2:-}" "name a file that age-keygen made, on the medium that you brought"
                identities+=(-i "$2")
                shift
                ;;
            -*) fail "backup does not know $1" "deploy.sh help backup" ;;
            *) parts+=("$1") ;;
        esac
        shift
    done
    backup_begin "${parts[@]}"
    "backup_$action"
}

# backup_begin [PART...]    what every command of this file needs
backup_begin() {
    local part
    use_driver
    need jq jq
    need age age
    need curl curl
    parts=("$@")
    [ ${#parts[@]} -gt 0 ] || read -ra parts <<<"$(conf BACKUP_PARTS)"
    for part in "${parts[@]}"; do
        [[ $part =~ ^(main|keystore|ledger|redis|configuration|secrets|keyholder|passes)$ ]] ||
            fail "there is no part $part" "deploy.sh help backup names them"
    done
    repos=()
    [ "$(conf BACKUP_LOCAL)" != yes ] || repos+=(1)
    [ -z "$(conf BACKUP_S3_BUCKET)" ] || repos+=(2)
    [ ${#repos[@]} -gt 0 ] || fail "backups are to go nowhere" "set BACKUP_LOCAL=yes or BACKUP_S3_BUCKET in $home/deploy.conf"
}
parts=() repos=()

# Not the lock of a deploy: a backup may take long, and a deploy names its point beside it (backup_point).
backup_lock() {
    dry && return
    run mkdir -p "$state_dir" "$archives_dir"
    exec 8>>"$state_dir/backup.lock"
    flock --nonblock 8 || fail "another backup or restore is at work" "wait for its end: fuser -v $state_dir/backup.lock names it"
}

backup_lock_awaited() {
    run mkdir -p "$state_dir" "$archives_dir"
    exec 8>>"$state_dir/backup.lock"
    flock --nonblock 8 || {
        say "    a backup or a restore on trial is at work: waiting for its end"
        flock --timeout 600 8 || fail "a backup still is at work after ten minutes" "wait for its end (fuser -v $state_dir/backup.lock names it), then deploy again"
    }
}

is_cluster() { [[ " ${clusters[*]} " == *" $1 "* ]]; }
repo_name() { if [ "$1" = 1 ]; then printf local; else printf s3; fi; }
service_of() { if [ "$1" = main ]; then printf postgres; else printf '%s' "$1"; fi; }

# keep_days PART
keep_days() {
    case $1 in
        main) conf_number BACKUP_MAIN_DAYS ;;
        ledger) conf_number BACKUP_LEDGER_DAYS ;;
        keystore) keystore_days ;;
        *) conf_number BACKUP_ARCHIVE_DAYS ;;
    esac
}
# A setting of the program too: certificates of erasure promise it.
keystore_days() { conf_velum_value VELUM_KEYSTORE_BACKUP_DAYS 7; }

# ---- the record -------------------------------------------------------------------------------------------------------------
# record PART ACT RESULT NAME VALUE...
record() {
    local part=$1 act=$2 result=$3 torn=""
    shift 3
    dry && return
    # A full disk may have cut the last line: behind it begins a new one.
    [ ! -s "$backup_log" ] || [ "$(tail -c 1 "$backup_log" | wc -l)" -eq 1 ] || torn=$'\n'
    printf '%s%s\n' "$torn" "$(json at "$(now)" part "$part" act "$act" result "$result" "$@")" >>"$backup_log" ||
        fail "cannot write $backup_log" "df -h $state_dir"
    metrics
}

# The textfile format of Prometheus' node exporter. What failed leaves the moment of the last success as it was.
metrics() {
    mkdir -p "$state_dir/metrics"
    whole_lines "$backup_log" | jq --raw-output --slurp --argjson keep "$(($(keystore_days) * 86400))" '
        def labels: "{what=\"\(.part)\",repository=\"\(.repository)\"}";
        def newest(act): map(select(.act == act and .result == "passed")) | group_by([.part, .repository]) | map(last) | .[];
        def moment: .at | fromdateiso8601;
        "# TYPE velum_backup_last_success_timestamp_seconds gauge", (newest("backup") | "velum_backup_last_success_timestamp_seconds\(labels) \(moment)"),
        "# TYPE velum_backup_last_verified_timestamp_seconds gauge", (newest("verify") | "velum_backup_last_verified_timestamp_seconds\(labels) \(moment)"),
        "# TYPE velum_backup_verify_seconds gauge", (newest("verify") | "velum_backup_verify_seconds\(labels) \(.seconds // 0)"),
        "# TYPE velum_backup_size_bytes gauge", (newest("backup") | "velum_backup_size_bytes\(labels) \(.bytes // 0)"),
        "# TYPE velum_backup_oldest_timestamp_seconds gauge",
        (newest("expire") | select(.oldest > 0) | "velum_backup_oldest_timestamp_seconds\(labels) \(.oldest)"),
        "# TYPE velum_backup_keep_seconds gauge", "velum_backup_keep_seconds{what=\"keystore\"} \($keep)"' |
        write_file 644 "$state_dir/metrics/velum_backup.prom"
}

# drill RESULT NOTE FIGURES    what `velum evidence --restore-drill` takes
drill() { dry || json at "$(now)" result "$1" note "$2" figures:raw "$3" | write_file 644 "$state_dir/restore-drill.json"; }

# ---- clusters ---------------------------------------------------------------------------------------------------------------
# Where a cluster's own user sees its files: data (an image says it by itself), what pgBackRest is told, the folder of its backups.
conf_name=pgbackrest.conf
places_of() {
    if [ "$(conf DRIVER)" = compose ]; then
        places=("" "/etc/pgbackrest/$conf_name" /var/lib/pgbackrest)
    else
        places=("$data_dir/$(service_of "$1")" "$secrets_dir/backup/$1/$conf_name" "$backups_dir/$1")
    fi
}

# in_cluster CLUSTER VERB ARGS...    deploy/pgbackrest/cluster.sh there; its cause becomes ours.
# at_cluster: the same, and the caller looks at the status.
in_cluster() {
    local status=0 complaints cause next
    complaints=$(mktemp)
    at_cluster "$@" 2>"$complaints" || status=$?
    if [ "$status" -ne 0 ]; then
        grep -v $'^cause\t' "$complaints" >&2 || true
        IFS=$'\t' read -r _ cause next < <(grep $'^cause\t' "$complaints") || cause="the cluster $1 does not answer to $2" next="deploy.sh doctor"
        rm -f "$complaints"
        fail "$cause" "$next"
    fi
    rm -f "$complaints"
}
apart="" # yes: while the service does not run
at_cluster() {
    local cluster=$1 places=() door=driver_in
    shift
    places_of "$cluster"
    [ -z "$apart" ] || [ "$(conf DRIVER)" = process ] || door=driver_apart
    # What it starts may outlive this run, and must not hold its locks; what is typed is for whoever asks.
    "$door" "$(service_of "$cluster")" bash -c "$(cat "$here/deploy/pgbackrest/cluster.sh")" cluster.sh "$cluster" "${places[@]}" "$@" 8>&- 9>&- </dev/null
}
# backups_of CLUSTER REPO    a JSON array, oldest first
backups_of() { in_cluster "$1" info "$2" | jq --argjson repo "$2" 'map(.backup[] | select(.database["repo-key"] == $repo))'; }

# settings_of CLUSTER    what pgBackRest is told of it
settings_of() {
    local cluster=$1 places=() told data socket="" port=""
    places_of "$cluster"
    told=$(in_cluster "$cluster" where) || exit
    { read -r data && read -r socket && read -r port; } <<<"$told" || true
    # Where the server listens is not known of one that does not run.
    sed "s#@stanza@#$cluster#; s#@data@#$data#; s#@socket@#$socket#; s#@port@#$port#; s#@folder@#${places[2]}#; /=\$/d" \
        "$here/deploy/pgbackrest/pgbackrest.conf" && settings_of_repos "$cluster" "${places[2]}" "${places[1]%/*}"
}

s3_ca() { [[ " ${repos[*]} " != *" 2 "* ]] || conf BACKUP_S3_CA_FILE; }

# write_settings CLUSTER NAME    the same, as NAME beside what it is told now. It holds the cipher pass, so it belongs to the
# cluster's own user alone.
write_settings() {
    local cluster=$1 name=$2 told ca pass=$secrets_dir/backup/$1.pass folder=$secrets_dir/backup/$1 owner
    [ -s "$pass" ] || fail "the cipher pass $pass is missing" "deploy.sh secrets init makes one; of an older installation, bring it back"
    [ "$(wc -c <"$pass")" -ge 32 ] || fail "the cipher pass $pass is short" "deploy.sh secrets check"
    run mkdir -p "$folder" "$backups_dir/$cluster"
    owner=$data_dir/$(service_of "$cluster")
    [ "$(id -u)" -ne 0 ] || run chown --reference="$owner" "$folder" "$backups_dir/$cluster"
    run chmod 700 "$folder" "$backups_dir/$cluster"
    told=$(settings_of "$cluster")
    ca=$(s3_ca)
    [ -z "$ca" ] || write_file 644 "$folder/s3_ca.pem" <"$ca"
    printf '%s\n' "$told" | write_file 600 "$folder/$name"
    dry || [ "$(id -u)" -ne 0 ] || chown --reference="$owner" "$folder/$name"
}

# Whether that is what it is told now, and there is a backup to which a point can belong.
in_place() {
    local folder=$secrets_dir/backup/$1 told ca
    [ -e "$folder/pgbackrest.conf" ] || return 1
    told=$(settings_of "$1") || exit
    [ "$told" = "$(cat "$folder/pgbackrest.conf")" ] || return 1
    ca=$(s3_ca)
    [ -z "$ca" ] || cmp --quiet "$ca" "$folder/s3_ca.pem" || return 1
    not_away "$1"
    told=$(newest_label "$1" "${repos[0]}") || exit
    [ -n "$told" ]
}

# Archiving goes by the settings that are there: others take their place when they have shown that they open the repository.
configure() {
    storage_answers
    write_settings "$1" pgbackrest.conf.new
    dry && return
    conf_name=pgbackrest.conf.new
    not_away "$1"
    in_cluster "$1" br start # if a run was killed that had stopped it
    in_cluster "$1" br stanza-create
    conf_name=pgbackrest.conf
    mv -f "$secrets_dir/backup/$1/pgbackrest.conf.new" "$secrets_dir/backup/$1/pgbackrest.conf"
    in_cluster "$1" archiving
}

# An empty place where backups were made is a disk that is not mounted or another bucket, and no place to begin anew.
not_away() {
    local repo recorded label
    [ -z "${full:-}" ] && [ -e "$backup_log" ] || return 0
    for repo in "${repos[@]}"; do
        recorded=$(whole_lines "$backup_log" | jq --slurp --arg part "$1" --arg repository "$(repo_name "$repo")" 'map(select(.part == $part and .repository == $repository))
            | [.[] | if .act == "forget" then 0 elif .act == "backup" then 1 else empty end] | last // 0')
        [ "$recorded" -ne 0 ] || continue
        label=$(newest_label "$1" "$repo") || exit
        [ -n "$label" ] ||
            fail "the repository of $1 is away: backups to $(repo_name "$repo") are on record, and none is there" \
                "bring the disk or bucket back; to begin anew: deploy.sh backup run --full $1"
    done
}

settings_of_repos() {
    local cluster=$1 folder=$2 settings=$3 repo pass endpoint ca
    pass=$(cat "$secrets_dir/backup/$cluster.pass")
    for repo in "${repos[@]}"; do
        printf "repo$repo-%s\n" "cipher-type=aes-256-cbc" "cipher-pass=$pass" bundle=y \
            "retention-full-type=$(if [ "$cluster" = keystore ]; then printf count; else printf time; fi)" \
            "retention-full=$(if [ "$cluster" = keystore ]; then printf 9999; else keep_days "$cluster"; fi)"
        [ "$repo" = 2 ] || {
            printf 'repo1-path=%s/repository\n' "$folder"
            continue
        }
        endpoint=$(conf BACKUP_S3_ENDPOINT)
        [[ $endpoint =~ ^https://([^/:]+)(:([0-9]+))?/?$ ]] ||
            fail "BACKUP_S3_ENDPOINT is \"$endpoint\", expected https://HOST[:PORT]" "correct $home/deploy.conf"
        printf 'repo2-%s\n' type=s3 "path=/velum/$cluster" "s3-bucket=$(bucket_of "$cluster")" "s3-endpoint=${BASH_REMATCH[1]}" \
            "storage-port=${BASH_REMATCH[3]:-443}" "s3-region=$(conf BACKUP_S3_REGION)" "s3-uri-style=$(conf BACKUP_S3_URI_STYLE)" \
            "s3-key=$(s3_secret s3_key)" "s3-key-secret=$(s3_secret s3_key_secret)"
        ca=$(conf BACKUP_S3_CA_FILE)
        [ -z "$ca" ] || printf 'repo2-storage-ca-file=%s/s3_ca.pem\n' "$settings"
    done
}

# ---- run --------------------------------------------------------------------------------------------------------------------
backup_run() {
    backup_lock
    check_retention
    each_part back_up "${parts[@]}"
    drill_record
}

# each_part FUNCTION PART...    each in a shell of its own: one that fails hinders no other, and is named in the end
each_part() {
    local function=$1 part status told cause failures=() began=$EPOCHREALTIME
    shift
    told=$(mktemp)
    for part in "$@"; do
        status=0
        set +e
        (
            set -e
            "$function" "$part"
        ) 2>"$told"
        status=$?
        set -e
        cat "$told" >&2
        [ "$status" -ne 0 ] || continue
        failures+=("$part")
        cause=$(sed -n '/^deploy.sh: next:/d; /^deploy.sh: warning:/d; s/^deploy.sh: //p' "$told" | tail -n 1)
        record "$part" "${function/back_up/backup}" failed cause "$cause"
        ! is_cluster "$part" || drill failed "$part: $cause" "{}"
    done
    rm -f "$told"
    step_name=""
    [ ${#failures[@]} -eq 0 ] || fail "failed: ${failures[*]} (causes above)" "mend the cause, then: deploy.sh backup run ${failures[*]}"
    say "==> all done in $(since "$began") s: $*"
}

# What these numbers promise elsewhere.
check_retention() {
    local days
    days=$(keystore_days)
    [[ $days =~ ^[0-9]+$ ]] || fail "VELUM_KEYSTORE_BACKUP_DAYS is \"$days\"" "give it a whole number"
    # A key may outlive its destruction by a day in pages and log of the live key store, and a run may be missed.
    [ "$days" -eq 0 ] || [ "$days" -ge 3 ] ||
        fail "VELUM_KEYSTORE_BACKUP_DAYS=$days cannot be kept by a daily run" "set it to 3 or more, or to 0 for no backup of the key store"
    [ "$(conf_number BACKUP_LEDGER_DAYS)" -ge $(($(conf_number BACKUP_MAIN_DAYS) + $(conf_number BACKUP_FULL_EVERY_DAYS) + 365)) ] ||
        fail "the ledger of erasures must be kept a year longer than any backup of the main database" "raise BACKUP_LEDGER_DAYS or lower BACKUP_MAIN_DAYS"
}

back_up() {
    case $1 in
        keystore)
            if [ "$(keystore_days)" -eq 0 ]; then
                no_keystore
                return
            fi
            # Whatever becomes of the next backup, older ones go in time.
            trap 'expire_keystore_late' EXIT
            back_up_cluster keystore
            trap - EXIT
            ;;
        main | ledger) back_up_cluster "$1" ;;
        *) back_up_files "$1" ;;
    esac
}

base_backup() {
    local cluster=$1 repo=$2 kind label began=$EPOCHREALTIME
    if dry && [ ! -e "$secrets_dir/backup/$cluster/pgbackrest.conf" ]; then
        say "    would make the first backup of $cluster"
        return
    fi
    kind=$(kind_of_backup "$cluster" "$repo")
    begin "$cluster: $kind backup to $(repo_name "$repo")"
    run in_cluster "$cluster" br --repo="$repo" --type="$kind" backup
    dry && return
    label=$(newest_label "$cluster" "$repo")
    record "$cluster" backup passed repository "$(repo_name "$repo")" label "$label" kind "$kind" seconds:raw "$(since "$began")" \
        bytes:raw "$(backups_of "$cluster" "$repo" | jq 'map(.info.repository.delta) | add // 0')"
    say "    $label, done in $(since "$began") s"
}

back_up_cluster() {
    local cluster=$1 repo mark
    begin "$cluster: settings"
    [ "$cluster" != keystore ] || no_versions keystore
    configure "$cluster"
    if [ "$cluster" = keystore ]; then
        begin "keystore: tables written anew, without what was deleted"
        run in_cluster keystore scrub
    fi
    for repo in "${repos[@]}"; do base_backup "$cluster" "$repo"; done
    dry && return
    mark=$(take_mark "$cluster")
    for repo in "${repos[@]}"; do compare "$cluster" "$repo" "$mark"; done
    expire "$cluster"
}

# full when there is none, or the last is old enough; what lies between is the difference to it. The key store always whole: a
# difference would need its predecessor to live on.
kind_of_backup() {
    local cluster=$1 repo=$2 last
    last=$(backups_of "$cluster" "$repo" | jq 'map(select(.type == "full") | .timestamp.start) | max // 0')
    if [ -n "${full:-}" ] || [ "$cluster" = keystore ] ||
        [ $((EPOCHSECONDS - last)) -ge $(($(conf_number BACKUP_FULL_EVERY_DAYS) * 86400 - 7200)) ]; then
        printf full
    else
        printf diff
    fi
}
newest_label() { backups_of "$1" "$2" | jq --raw-output 'last | .label // ""'; }

# ---- comparison with the source ---------------------------------------------------------------------------------------------
# take_mark CLUSTER    prints its name, then what the cluster holds there
take_mark() {
    local name
    name=velum_$(date -u +%Y%m%dT%H%M%SZ)_$RANDOM
    printf '%s\n' "$name"
    in_cluster "$1" mark "$name"
}

# compare CLUSTER REPO MARK
compare() {
    local cluster=$1 repo=$2 name source restored rows tables began=$EPOCHREALTIME
    begin "$cluster: restored from $(repo_name "$repo") into a scratch cluster, and compared"
    name=$(head -n 1 <<<"$3")
    source=$(grep '"table"' <<<"$3")
    restored=$(in_cluster "$cluster" try_out "$repo" name "$name" "" "")
    if ! diff <(printf '%s\n' "$source") <(grep '"table"' <<<"$restored") >&2; then
        fail "the restored $cluster differs from its source (above)" "do not rely on that backup: deploy.sh backup run --full $cluster"
    fi
    rows=$(jq --slurp 'map(select(.table | startswith("(") | not).rows) | add // 0' <<<"$source")
    tables=$(grep -c '"table" : "[^(]' <<<"$source" || true)
    record "$cluster" verify passed repository "$(repo_name "$repo")" label "$(newest_label "$cluster" "$repo")" mark "$name" \
        tables:raw "$tables" rows:raw "$rows" seconds:raw "$(since "$began")"
    no_gaps "$cluster" "$repo"
    say "    equal: $tables tables, $rows rows; restored and compared in $(since "$began") s"
}

# Segments that are missing between two that are there: no moment in between can be restored.
no_gaps() {
    local cluster=$1 repo=$2 name timeline="" number last=0
    while IFS= read -r name; do
        number=$((16#${name:8:8} * 256 + 16#${name:16:8}))
        if [ "${name:0:8}" = "$timeline" ] && [ "$number" -gt $((last + 1)) ]; then
            warn "$cluster, $(repo_name "$repo"): $((number - last - 1)) segments of the write-ahead log are missing before $name; \
what they cover cannot be restored"
        fi
        timeline=${name:0:8} last=$number
    done < <(segments_of "$cluster" "$repo")
}
segments_of() {
    in_cluster "$1" br --repo="$2" repo-ls --recurse "archive/$1" | sed -n 's#.*/\([0-9A-F]\{24\}\)-[0-9a-f]*\..*#\1#p' | sort -u
}

backup_verify() {
    backup_lock
    each_part verify "${parts[@]}"
    drill_record
}
verify() {
    local repo mark
    if is_cluster "$1"; then
        [ "$1" != keystore ] || [ "$(keystore_days)" -ne 0 ] || return 0
        configure "$1"
        mark=$(take_mark "$1")
        for repo in "${repos[@]}"; do compare "$1" "$repo" "$mark"; done
    else
        verify_files "$1"
    fi
}

# ---- what is too old --------------------------------------------------------------------------------------------------------
expire() {
    local repo
    begin "$1: what is older than $(keep_days "$1") days goes"
    for repo in "${repos[@]}"; do
        if [ "$1" = keystore ]; then
            expire_keystore "$repo"
        else
            run in_cluster "$1" br --repo="$repo" expire
            record_oldest "$1" "$repo"
        fi
    done
}
record_oldest() {
    local oldest
    oldest=$(starts "$1" "$2" | sed -n 1p)
    record "$1" expire passed repository "$(repo_name "$2")" oldest:raw "${oldest:-0}"
}
# When each backup began, oldest first: what it holds is as old as that.
starts() { backups_of "$1" "$2" | jq 'map(.timestamp.start) | sort | .[]'; }

# Certificates of erasure say until when a backup of the key store may hold a destroyed key, so no byte may be older: neither
# backup nor write-ahead log. Two days earlier than that, because a key may lie in pages and log of the live key store until it is
# written anew (a day at most), and because one daily run may be missed.
expire_keystore() {
    local repo=$1 promised fresh newest oldest
    promised=$(($(keystore_days) * 86400))
    fresh=$(starts keystore "$repo" | awk -v limit=$((EPOCHSECONDS - promised + 2 * 86400 + 3600)) '$1 >= limit' | wc -l)
    newest=$(starts keystore "$repo" | tail -n 1)
    [ -n "$newest" ] || return 0
    if [ "$fresh" -gt 0 ] || [ $((EPOCHSECONDS - newest + 25 * 3600)) -lt "$promised" ]; then
        # pgBackRest leaves one in any case, and deletes the log before the oldest that stays.
        run in_cluster keystore br --repo="$repo" "--repo$repo-retention-full=$((fresh > 0 ? fresh : 1))" expire
    else
        # Not even the last may stay. As long as the key store itself lives, it is not the only copy.
        ( in_cluster keystore alive ) ||
            fail "the newest backup of the key store is too old to be kept, but the key store does not answer and it may be the only copy" \
                "restore the key store, or delete that repository ($(repo_name "$repo")) by hand: certificates of erasure promise it"
        forget keystore "$repo"
        run in_cluster keystore br stanza-create
        warn "no backup of the key store is left in $(repo_name "$repo"): no newer one could be made, and certificates of erasure promise that older ones go"
    fi
    dry && return
    record_oldest keystore "$repo"
    oldest=$(starts keystore "$repo" | sed -n 1p)
    [ -z "$oldest" ] || [ $((EPOCHSECONDS - oldest)) -lt "$promised" ] ||
        fail "a backup of the key store is older than $(keystore_days) days" "delete it by hand: certificates of erasure promise it"
}
# After a failed run.
expire_keystore_late() {
    local status=$? repo
    trap - EXIT
    conf_name=pgbackrest.conf # whichever was being tried
    [ -e "$secrets_dir/backup/keystore/pgbackrest.conf" ] || exit "$status"
    warn "keystore: no new backup was made; what is too old goes all the same"
    for repo in "${repos[@]}"; do
        ! grep -q "^repo$repo-" "$secrets_dir/backup/keystore/pgbackrest.conf" || ( expire_keystore "$repo" ) || true
    done
    exit "$status"
}
# forget CLUSTER REPO    everything that is there, log included
forget() {
    run in_cluster "$1" br stop
    run in_cluster "$1" br --repo="$2" --force stanza-delete
    run in_cluster "$1" br start
    record "$1" forget passed repository "$(repo_name "$2")"
    record "$1" expire passed repository "$(repo_name "$2")" oldest:raw 0
}
no_keystore() {
    local repo
    begin "keystore: no backup is kept (VELUM_KEYSTORE_BACKUP_DAYS=0)"
    [ -e "$secrets_dir/backup/keystore/pgbackrest.conf" ] || return 0
    run in_cluster keystore no_archiving
    for repo in "${repos[@]}"; do forget keystore "$repo"; done
    run rm -f "$secrets_dir/backup/keystore/pgbackrest.conf"
}

# ---- list, keys -------------------------------------------------------------------------------------------------------------
backup_list() {
    local part repo name
    printf '%-14s%-7s%-36s%-6s%-22s%s\n' part where label kind made bytes
    for part in "${parts[@]}"; do
        if is_cluster "$part"; then
            [ -e "$secrets_dir/backup/$part/pgbackrest.conf" ] || continue
            for repo in "${repos[@]}"; do
                backups_of "$part" "$repo" | jq --raw-output '.[] | [.label, .type, (.timestamp.stop | todate), .info.repository.delta] | @tsv' |
                    while IFS=$'\t' read -r -a name; do printf '%-14s%-7s%-36s%-6s%-22s%s\n' "$part" "$(repo_name "$repo")" "${name[@]}"; done
            done
        else
            for repo in "${repos[@]}"; do
                archives_of "$part" "$repo" | while IFS= read -r name; do
                    printf '%-14s%-7s%-36s\n' "$part" "$(repo_name "$repo")" "$name"
                done
            done
        fi
    done
}

backup_keys() {
    local part state
    printf '%-16s%-44s%s\n' opens key 'where it must be kept'
    for part in "${clusters[@]}"; do
        state="in the archive of passes, too"
        [ -s "$secrets_dir/backup/$part.pass" ] || state="MISSING: deploy.sh secrets init"
        printf '%-16s%-44s%s\n' "$part" "secrets/backup/$part.pass" "$state"
    done
    for part in configuration secrets keyholder passes; do
        printf '%-16s%-44s%s\n' "$part" "recipients/$part.txt" "its identity in a safe, never on this host ($(
            grep -c '^age1' "$secrets_dir/backup/recipients/$part.txt" 2>/dev/null || printf 'MISSING: age-keygen on another machine'))"
    done
    for part in configuration secrets keyholder passes; do ( recipient_of "$part" >/dev/null ) || status=1; done
    say "With the four identities and the storage everything here is brought back; without them nothing is."
    [ -z "${status:-}" ] || fail "not all keys are as they must be (above)" "mend it, then look again"
}

# ---- what a deploy asks for -------------------------------------------------------------------------------------------------
# backup_point RELEASE    a name in the write-ahead log of each database to come back to; a whole backup where there is none yet
backup_point() {
    local cluster name
    name=deploy_$(printf '%s' "$1" | tr -c 'A-Za-z0-9._-' _ | cut -c 1-30)_$(date -u +%Y%m%dT%H%M%SZ)
    backup_begin
    storage_answers
    for cluster in "${clusters[@]}"; do
        [[ " ${parts[*]} " == *" $cluster "* ]] || continue
        [ "$cluster" != keystore ] || [ "$(keystore_days)" -ne 0 ] || continue
        # Beside a backup that is at work a point can be named, but nothing can be set up.
        if ! in_place "$cluster"; then
            dry || backup_lock_awaited
            configure "$cluster"
        elif ! dry; then
            in_cluster "$cluster" br start # if a run was killed that had stopped it
            in_cluster "$cluster" archiving
        fi
        if dry; then
            say "    would name a point of $cluster: $name"
        elif [ -z "$(newest_label "$cluster" "${repos[0]}")" ]; then
            base_backup "$cluster" "${repos[0]}" # its first
        else
            in_cluster "$cluster" point "$name"
        fi
    done
    exec 8>&- # what is started now would hold it
    say "    the point is named $name"
}

# The last comparison of every database, as one record.
drill_record() {
    local figures
    dry && return
    [[ " ${parts[*]} " =~ \ (main|keystore|ledger)\  ]] || return 0
    figures=$(whole_lines "$backup_log" | jq --slurp --compact-output 'map(select(.act == "verify" and .result == "passed" and .tables)) | group_by(.part) | map(last) |
        {seconds: (map(.seconds) | add), tables: (map(.tables) | add), rows: (map(.rows) | add),
         databases: (map({(.part): {at, seconds, tables, rows}}) | add)}')
    drill passed "each database restored into a scratch cluster and compared with its source, table by table: count of rows and hash" "$figures"
}
