# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh and backup.sh give or read
# restore: databases as they were at a moment, beside the live ones (a drill) or in their place. A part of backup.sh, which sources it.

help_restore() {
    cat <<-'END'
	usage: deploy.sh restore --to TIME [--into scratch|live] [--repo local|s3] [--release RELEASE] [PART...]
	Bring a database back as it was at TIME.

	  --to TIME       2026-11-21T08:30:00Z, or latest
	  --into scratch  the default, a drill: restored beside the live one, looked at, timed, wiped
	  --into live     in place of the live one, after a typed confirmation: stops the program, restores, replays erasures, starts
	  --repo          where from; without it the local repository where there is one
	  --release       whose program migrates and replays; without it that of the release that serves, or served last, or is newest
	  PART            main, keystore or ledger; unless named all three for a drill, main into live. TIME counts for main; the key
	                  store and the ledger of erasures come to their newest moment, the key store to TIME when it is named alone
	END
}

command_restore() {
    local to="" into=scratch from="" release="" parts=()
    while [ $# -gt 0 ]; do
        case $1 in
            --to) to=${2:-} && shift ;;
            --into) into=${2:-} && shift ;;
            --repo) from=${2:-} && shift ;;
            --release) release=${2:-} && shift ;;
            -*) fail "restore does not know $1" "deploy.sh help restore" ;;
            *) parts+=("$1") ;;
        esac
        shift || fail "a value is missing" "deploy.sh help restore"
    done
    [[ $into =~ ^(scratch|live)$ ]] || fail "--into is \"$into\"" "scratch, or live"
    [[ $from =~ ^(local|s3|)$ ]] || fail "--repo is \"$from\"" "local, or s3"
    to=$(moment_of "$to")
    if [ ${#parts[@]} -eq 0 ]; then
        parts=(main)
        [ "$into" = live ] || parts=("${clusters[@]}")
    fi
    local part repo
    for part in "${parts[@]}"; do
        is_cluster "$part" || fail "$part is no database" "main, keystore or ledger; docs/operations.md says how the rest comes back"
    done
    backup_begin "${parts[@]}"
    repo=${repos[0]}
    case $from in
        local) repo=1 ;;
        s3) repo=2 ;;
    esac
    [[ " ${repos[*]} " == *" $repo "* ]] || fail "there is no repository $from" "BACKUP_LOCAL and BACKUP_S3_BUCKET in $home/deploy.conf"
    [ "$repo" = 1 ] || storage_answers
    # A host that is new has none.
    for part in "${parts[@]}"; do
        [ -e "$secrets_dir/backup/$part/pgbackrest.conf" ] || write_settings "$part" pgbackrest.conf
    done
    if [ "$into" = live ]; then restore_live; else restore_scratch; fi
}

# As PostgreSQL reads it; nothing for the newest.
moment_of() {
    local moment
    [ -n "$1" ] || fail "to which moment?" "--to 2026-11-21T08:30:00Z, or --to latest"
    [ "$1" != latest ] || return 0
    { [[ $1 =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}[T\ ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)$ ]] &&
        moment=$(date -u -d "$1" +'%Y-%m-%d %H:%M:%S.%6N+00' 2>/dev/null); } ||
        fail "\"$1\" is no moment with its time zone" "--to 2026-11-21T08:30:00Z, for instance"
    [ "$(date -d "$moment" +%s)" -le "$EPOCHSECONDS" ] || fail "$1 is yet to come" "--to latest takes everything there is"
    printf '%s' "$moment"
}

# target_of CLUSTER    prints moment, backup set and timeline, each perhaps nothing
target_of() {
    local cluster=$1 set moment=$to timeline=""
    # See help_restore: only the main database goes back in time, or the key store by itself.
    [ "$cluster" = main ] || { [ "$cluster" = keystore ] && [ "${parts[*]}" = keystore ]; } || moment=""
    set=$(backups_of "$cluster" "$repo" | jq --raw-output --argjson before "$(date -d "${moment:-now}" +%s)" \
        'map(select(.timestamp.stop <= $before)) | last | .label // ""')
    [ -n "$set" ] || fail "there is no backup of $cluster in $(repo_name "$repo") from before ${moment:-now}" "deploy.sh backup list shows what there is"
    # What an earlier restore has replaced lies on the timeline that was left then.
    if [ -n "$moment" ] && [ -e "$backup_log" ]; then
        timeline=$(whole_lines "$backup_log" | jq --slurp --raw-output --arg part "$cluster" --argjson moment "$(date -d "$moment" +%s)" \
            'map(select(.part == $part and .act == "restore" and .left and (.at | fromdateiso8601) > $moment)) | first | .left // ""')
    fi
    printf '%s\n%s\n%s\n' "$moment" "$set" "$timeline"
}

restore_scratch() {
    local cluster
    backup_lock
    local began=$EPOCHREALTIME figures=""
    for cluster in "${parts[@]}"; do try_restore "$cluster"; done
    dry && return
    drill passed "restored into scratch clusters to ${to:-the newest moment}: ${parts[*]}" "{\"seconds\":$(since "$began"),\"databases\":{$figures}}"
    say "==> drill: ${parts[*]} restored in $(since "$began") s; the record is $state_dir/restore-drill.json"
}
try_restore() {
    local cluster=$1 moment set timeline target restored replayed last="" rows began=$EPOCHREALTIME
    begin "$cluster: restored into a scratch cluster"
    # What was written until now is asked for by its moment, so it must be there; a dead cluster cannot be asked for it.
    dry || ( in_cluster "$cluster" flush ) 2>/dev/null || warn "the live $cluster does not answer: what had not reached the repository yet is missing"
    target=$(target_of "$cluster")
    { read -r moment && read -r set && read -r timeline; } <<<"$target" || timeline=""
    dry && say "    would restore $set" && return
    # Looked up before: what the live cluster writes meanwhile may come back as well, and need not.
    [ -n "$moment" ] || last=$(segments_of "$cluster" "$repo" | tail -n 1)
    restored=$(in_cluster "$cluster" try_out "$repo" "${moment:+time}" "$moment" "$set" "$timeline")
    # PostgreSQL takes the first segment that is missing for the end.
    if [ -z "$moment" ]; then
        replayed=$(jq --raw-output 'select(.replayed).replayed' <<<"$restored")
        [[ ! "$replayed" < "$last" ]] ||
            fail "the write-ahead log of $cluster has a gap behind $replayed: what was written after it, up to $last, does not come back" \
                "deploy.sh backup run --full $cluster, so that the next restore begins behind the gap"
    fi
    rows=$(jq 'select(.table and (.table | startswith("(") | not))' <<<"$restored")
    jq --raw-output '"    \(.table): \(.rows)"' <<<"$rows"
    rows=$(jq --slurp 'map(.rows) | add // 0' <<<"$rows")
    record "$cluster" drill passed repository "$(repo_name "$repo")" label "$set" to "${moment:-latest}" seconds:raw "$(since "$began")" \
        rows:raw "$rows"
    figures+="${figures:+,}\"$cluster\":{\"seconds\":$(since "$began"),\"rows\":$rows}"
    say "    to ${moment:-the newest moment}, from $set, in $(since "$began") s"
}

# Where an engine runs it, the engine stops it.
cluster_stop() {
    if [ "$(conf DRIVER)" = process ]; then run in_cluster "$1" halt; else run driver_service_stop "$(service_of "$1")"; fi
}
cluster_start() {
    if [ "$(conf DRIVER)" = process ]; then run in_cluster "$1" resume; else run driver_service_start "$(service_of "$1")"; fi
}

# By a program of its own, for neither colour runs. A ledger that was restored may lack its last minute, which the others know.
replay() {
    local how=replay
    [[ " ${parts[*]} " != *" ledger "* ]] || how=rebuild
    run driver_tool "$1" erasures "$how"
}

restore_live() {
    local cluster active began=$EPOCHREALTIME targets=() target moment set timeline left worker colour
    active=$(active_colour)
    release=$(release_at_hand "$release") || exit
    [[ " ${parts[*]} " != *" ledger "* ]] || [ -z "$to" ] || [ "${parts[*]}" != ledger ] ||
        fail "the ledger of erasures is restored to its newest moment alone: it says who must stay erased" "deploy.sh restore --to latest --into live ledger"
    take_lock restore
    backup_lock
    begin "what there is"
    for cluster in "${parts[@]}"; do
        dry || ( in_cluster "$cluster" flush ) 2>/dev/null || {
            warn "the live $cluster does not answer: what had not reached the repository yet is lost"
            apart=yes
        }
        target=$(target_of "$cluster")
        targets+=("$target")
        { read -r moment && read -r set && read -r timeline; } <<<"$target" || timeline=""
        say "    $cluster: to ${moment:-the newest moment}, from $set of $(repo_name "$repo")"
        no_gaps "$cluster" "$repo"
        apart=""
    done
    say "    What was written since is replaced; it stays in the repository, and one can come back to $(now) as long as that is kept."
    confirm "${parts[*]}" "This stops the program and replaces, in $home: ${parts[*]}." ||
        fail "not confirmed; nothing was changed" "type the names exactly as they are shown"

    worker=$(driver_worker_release)
    for colour in "${colours[@]}"; do
        ! driver_running "$colour" || step "stop $colour" driver_stop "$colour"
    done
    [ -z "$worker" ] || step "stop the worker" driver_stop worker
    for cluster in "${parts[@]}"; do
        target=${targets[0]} targets=("${targets[@]:1}")
        { read -r moment && read -r set && read -r timeline; } <<<"$target" || timeline=""
        step "stop $cluster" cluster_stop "$cluster"
        apart=yes
        left=$( (in_cluster "$cluster" timeline) 2>/dev/null) || left=null
        step "restore $cluster" run in_cluster "$cluster" replace "$repo" "${moment:+time}" "$moment" "$set" "$timeline"
        apart=""
        step "start $cluster" cluster_start "$cluster"
        timeline=$(dry || in_cluster "$cluster" restored)
        say "    $cluster answers, on timeline $timeline"
        record "$cluster" restore passed repository "$(repo_name "$repo")" label "$set" to "${moment:-latest}" left:raw "${left:-null}" \
            seconds:raw "$(since "$began")"
    done
    note restore parts "${parts[*]}" to "${to:-latest}"
    if [ -z "$release" ]; then
        say "==> restored in $(since "$began") s. No release is here, so nothing was migrated and no erasure replayed: bring one, then run this again"
        return
    fi
    # A backup of before an upgrade lacks what came with it.
    step "migration" run driver_migrate "$release"
    step "erasures replayed" replay "$release"
    dry || exec 8>&- # what is started now would hold it
    if [ -n "$active" ]; then
        step "start $active with $release" driver_start "$active" "$release"
        step "worker on $release" driver_worker "$release"
    fi
    if dry; then
        say "    nothing was changed"
        return
    fi
    if [ -z "$active" ]; then
        say "==> restored in $(since "$began") s. Nothing served here before. Now: deploy.sh deploy $release"
        return
    fi
    cat <<-END
	==> restored in $(since "$began") s. Now:
	    1. deploy.sh status: $active is ready only if the databases agree with the ledger of erasures
	    2. deploy.sh smoke: enrols and verifies a test person
	    3. deploy.sh backup run --full: backups begin anew on what was restored
	    4. docs/operations.md, After a restore: what came back with the database and must be done again (disabled officers, clients)
	END
}
