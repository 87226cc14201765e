# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# deploy, rollback, status, cleanup: the order of a switch. Knows colours and releases, and of a driver only its verbs
# (deploy/driver-process.sh lists them).
#
# What is there is read from the facts: which colour serves from the symlink active.sock, what runs from the driver. A run that
# was killed anywhere leaves facts, and the next one goes on from them.

# shellcheck source=deploy/smoke.sh
. "$here/deploy/smoke.sh"

help_deploy() {
    cat <<-'END'
	usage: deploy.sh deploy RELEASE [--again] [--keyholder] | deploy RELEASE --stores
	Bring RELEASE into service beside what serves now, and switch when it has shown that it works.

	preflight, backup point, migration (refused if the running version could not go on beside it), idle colour started, ready,
	smoke test on its own socket, switch by one rename, old colour drained and stopped, worker on the new release.
	Any failure before the switch leaves the old colour serving. A deploy that was broken off is mended by running it again.

	  RELEASE      a folder in $VELUM_HOME/releases (DRIVER=process) or a tag of the image velum/app (DRIVER=compose)
	  --again      even if RELEASE serves already: for new settings, secrets or certificates
	  --keyholder  at the end the keyholder of this host too, for a second or so in which nobody is verified
	  --stores     what the colours stand on alone (DRIVER=compose: databases, Redis, keyholder, nginx), for a restore into it
	END
}
help_rollback() {
    cat <<-'END'
	usage: deploy.sh rollback [RELEASE]
	Go back to the release that served before, or to RELEASE.

	One rename while the other colour still runs it; else it is started there first and waited for. The schema stays: a release
	runs on a newer schema whose migrations were recorded as compatible. Run again, it goes back one release further.
	END
}
help_status() {
    cat <<-'END'
	usage: deploy.sh status [--json]
	Say which colour serves which release since when, what runs and is ready, and how old the last backup is.

	Ends with 0 when the active colour is ready and the worker runs, else with 1.
	END
}
help_cleanup() {
    cat <<-'END'
	usage: deploy.sh cleanup [--data]
	Remove releases that neither serve, nor are needed to roll back, nor run the keyholder; data never.

	KEEP_RELEASES of deploy.conf says how many stay.
	  --data   stop everything and remove all data as well, after the path of the installation was typed
	END
}

# ---- what served ------------------------------------------------------------------------------------------------------------
# $VELUM_HOME/state/served lists the releases that served, the present one first: a stack, popped by a rollback. It is brought
# in line with the facts at the beginning of each run, for the one before may have been killed right after its switch.
served() { state served; }
remember_served() {
    local release=$1 list=()
    [ -n "$release" ] || return 0
    mapfile -t list < <(served)
    [ "${list[0]:-}" != "$release" ] || return 0
    if [ "${list[1]:-}" = "$release" ]; then
        list=("${list[@]:1}")
    else
        list=("$release" "${list[@]}")
    fi
    printf '%s\n' "${list[@]:0:20}" | write_file 644 "$state_dir/served"
}
served_before() { served | sed -n 2p; }

active_release() {
    local colour
    colour=$(active_colour)
    [ -z "$colour" ] || driver_release "$colour"
}

# ---- deploy -----------------------------------------------------------------------------------------------------------------
command_deploy() {
    local release="" again="" keyholder="" stores="" argument active idle
    reach_driver
    for argument; do
        case $argument in
            --again) again=yes ;;
            --keyholder) keyholder=yes ;;
            --stores) stores=yes ;;
            -*) fail "deploy does not know $argument" "deploy.sh help deploy" ;;
            *)
                [ -z "$release" ] || fail "deploy takes one release" "deploy.sh help deploy"
                release=$argument
                ;;
        esac
    done
    [ -n "$release" ] || fail "which release?" "deploy.sh deploy RELEASE"
    sound_name "$release"
    [ -z "$keyholder" ] || driver_keyholder_is_here "$release"
    take_lock deploy "$release"
    remember_served "$(active_release)"
    active=$(active_colour)
    if [ -n "$stores" ]; then
        step "preflight" preflight "$release"
        say "no colour was started or stopped"
        return
    fi

    if [ -z "$again" ] && serves "$active" "$release"; then
        say "$release serves already, on $active"
    else
        idle=$(other_colour "${active:-green}")
        step "preflight" preflight "$release"
        step "backup point" backup_before "$release"
        step "migration" migrate "$release"
        bring_up "$idle" "$release"
        if conf_yes SMOKE_BEFORE_SWITCH; then step "smoke test on $idle" smoke_colour "$idle"; fi
        step "switch from ${active:-nothing} to $idle" switch_to "$idle" "$release" deploy
        active=$idle
    fi
    finish "$active" "$release" "$again"
    [ -z "$keyholder" ] || step "keyholder on $release" driver_keyholder "$release"
    conclude "$release" "$active"
}

sound_name() {
    [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$ ]] ||
        fail "\"$1\" is no name of a release" "letters, digits, dot, hyphen and underscore; for instance 1.4.0"
}

conclude() { if dry; then say "dry run: nothing was changed"; else say "$1 serves, on $2"; fi; }

# Whether COLOUR serves RELEASE this moment.
serves() { [ -n "$1" ] && [ "$(driver_release "$1")" = "$2" ] && driver_running "$1" && driver_ready "$1"; }

preflight() {
    local free wanted name
    # What is asked for later is right, too.
    for name in READY_TIMEOUT_S DRAIN_TIMEOUT_S DISK_FREE_MIN_MB; do wanted=$(conf_number "$name"); done
    for name in SMOKE_BEFORE_SWITCH KEEP_OLD_RUNNING BACKUP_BEFORE_DEPLOY; do conf_yes "$name" || true; done
    free=$(df --output=avail --block-size=1M "$home" | tail -n 1)
    [ "$free" -ge "$wanted" ] ||
        fail "only $((free)) MB are free below $home, $wanted are wanted (DISK_FREE_MIN_MB)" "deploy.sh cleanup, or a larger disk"
    [[ $(conf_velum_value VELUM_ISSUER) == https://* ]] ||
        fail "VELUM_ISSUER, the public address, is not set" "add VELUM_ISSUER=https://... to $home/deploy.conf"
    driver_preflight "$1"
    driver_base "$1"
}

# A dry run starts no database to be asked.
nobody_to_ask() { dry && ! driver_stores_run; }

backup_before() {
    if ! conf_yes BACKUP_BEFORE_DEPLOY; then
        say "    none: BACKUP_BEFORE_DEPLOY is no"
        return
    fi
    if nobody_to_ask; then
        say "    would name a point in each database, or back it up where that was never done"
        return
    fi
    [ -e "$here/deploy/backup.sh" ] || fail "deploy/backup.sh is missing" "bring the whole folder deploy/ here"
    # shellcheck source=/dev/null
    . "$here/deploy/backup.sh"
    backup_point "$1"
}

# The schema changes while the version before works on it, as colour or as worker, so every step must be one that it can live
# with: what runs says what it knows, the new program compares.
migrate() {
    local release=$1 running=() each known
    if nobody_to_ask; then
        say "    would run: velum migrate up, of release $release; what is pending is not known, for the databases do not run"
        return
    fi
    mapfile -t running < <(running_releases)
    [ ${#running[@]} -gt 0 ] || check_migrations "$release"
    for each in "${running[@]}"; do
        known=$(driver_migrate "$each" status --json) ||
            fail "the databases could not be asked for their migrations" "deploy.sh doctor"
        check_migrations "$release" --beside - <<<"$known"
    done
    if dry; then
        say "    would run: velum migrate up, of release $release"
        return
    fi
    indented driver_migrate "$release" up ||
        fail "the migration failed, and what serves goes on" "mend the cause (above), then deploy again"
}
check_migrations() {
    local release=$1
    shift
    indented driver_migrate "$release" check "$@" ||
        fail "$release cannot migrate the databases beside what runs (above)" "CHANGELOG.md names the release to deploy before it"
}
running_releases() {
    local active
    active=$(active_colour)
    {
        if [ -n "$active" ] && driver_running "$active"; then driver_release "$active"; fi
        driver_worker_release
    } | sed '/^$/d' | sort -u
}

# bring_up COLOUR RELEASE    whatever an earlier run left on that colour is stopped first
bring_up() {
    local colour=$1 release=$2
    if driver_running "$colour"; then
        step "stop $colour, which does not serve" driver_stop "$colour"
    fi
    idle_at_work=$colour
    undo=stop_idle
    step "start $colour with $release" driver_start "$colour" "$release"
    step "wait until $colour is ready" wait_ready "$colour" "$release"
}

# What a failed run has started is stopped again, unless it serves by now.
idle_at_work=""
stop_idle() {
    [ -n "$idle_at_work" ] && [ "$(active_colour)" != "$idle_at_work" ] || return 0
    say "    $idle_at_work is stopped again; what served goes on"
    driver_stop "$idle_at_work"
}

wait_ready() {
    local colour=$1 release=$2 end
    if dry; then
        say "    would wait until $colour is ready"
        return
    fi
    end=$((SECONDS + $(conf_number READY_TIMEOUT_S)))
    until driver_ready "$colour"; do
        if ! driver_running "$colour"; then
            driver_logs "$colour" 10 >&2
            fail "$release ended before it was ready (its last lines are above)" "deploy.sh logs $colour"
        fi
        if [ "$SECONDS" -ge "$end" ]; then
            driver_logs "$colour" 10 >&2
            driver_velum "$colour" healthcheck --socket "$run_dir/$colour.sock" --name "$inner_name" >&2 || true
            fail "$release was not ready after $(conf READY_TIMEOUT_S) s (its last lines are above)" \
                "deploy.sh doctor; deploy.sh logs $colour"
        fi
        sleep 0.2
    done
}

# ---- the switch -------------------------------------------------------------------------------------------------------------
# One rename. nginx looks the name up for each connection to us, so it need not be told.
switch_to() {
    local colour=$1 release=$2 why=$3 started=$EPOCHREALTIME
    if ! dry && [ ! -S "$run_dir/$colour.sock" ]; then
        fail "$run_dir/$colour.sock is no socket" "deploy.sh logs $colour"
    fi
    point_at "$colour"
    dry || say "    switched in $(since "$started") s"
    remember_served "$release"
    note "$why" colour "$colour" release "$release"
}
point_at() {
    run ln -sfn "$1.sock" "$run_dir/.active.next"
    run mv -fT "$run_dir/.active.next" "$run_dir/active.sock"
}

# finish COLOUR RELEASE [again]    what remains after a switch, also one of a run that was killed
finish() {
    local active=$1 release=$2 again=${3:-} old
    old=$(other_colour "$active")
    if driver_running "$old"; then
        step "drain $old" drain "$old" "$active"
        if conf_yes KEEP_OLD_RUNNING; then
            say "==> $old keeps running (KEEP_OLD_RUNNING)"
        else
            step "stop $old" driver_stop "$old"
        fi
    fi
    if [ -n "$again" ] || [ "$(driver_worker_release)" != "$release" ]; then
        step "worker on $release" driver_worker "$release"
    fi
}

# Until OLD has answered what it has accepted: three times in a row nothing in flight, and a second at least, in which
# connections that were made just before the switch have said what they want. If NEW ends meanwhile, the switch is undone.
drain() {
    local old=$1 new=$2 end quiet=0 in_flight begun=$EPOCHREALTIME
    if dry; then
        say "    would wait until $old works on no request"
        return
    fi
    end=$((SECONDS + $(conf_number DRAIN_TIMEOUT_S)))
    until [ "$quiet" -ge 3 ] && [ "${EPOCHREALTIME/[.,]/}" -ge $((${begun/[.,]/} + 1000000)) ]; do
        undo_if_ended "$new" "$old"
        driver_running "$old" || return 0
        in_flight=$(driver_in_flight "$old" 2>/dev/null) || in_flight=unknown
        if [ "$in_flight" = 0 ]; then quiet=$((quiet + 1)); else quiet=0; fi
        if [ "$SECONDS" -ge "$end" ]; then
            warn "$old still works on requests ($in_flight) after $(conf DRAIN_TIMEOUT_S) s; it is told to stop and finishes what it can"
            return 0
        fi
        sleep 0.3
    done
    undo_if_ended "$new" "$old" # the old one is about to be told to stop
}
# undo_if_ended NEW OLD
undo_if_ended() {
    if ! driver_running "$1" && driver_running "$2"; then
        switch_back "$2"
    fi
}
switch_back() {
    local old=$1
    point_at "$old"
    remember_served "$(driver_release "$old")"
    note "switched back" colour "$old" release "$(driver_release "$old")"
    fail "the new colour ended right after the switch, and $old serves again" "deploy.sh logs $(other_colour "$old")"
}

# ---- rollback ---------------------------------------------------------------------------------------------------------------
command_rollback() {
    local release=${1:-} active idle started=$EPOCHREALTIME
    reach_driver
    [ $# -le 1 ] || fail "rollback takes one release at most" "deploy.sh help rollback"
    take_lock rollback "$@"
    remember_served "$(active_release)"
    active=$(active_colour)
    [ -n "$active" ] || fail "nothing serves yet, so there is nothing to go back from" "deploy.sh deploy RELEASE"
    release=${release:-$(served_before)}
    [ -n "$release" ] || fail "no release served before $(driver_release "$active")" "deploy.sh rollback RELEASE names one"
    sound_name "$release"
    idle=$(other_colour "$active")
    if serves "$active" "$release"; then
        say "$release serves already, on $active"
    else
        if serves "$idle" "$release"; then
            say "$idle still runs $release"
        else
            # It served once, so it is not examined again: whatever else is wrong here, going back must be possible, and soon.
            grep -qxF -- "$release" <<<"$(driver_releases)" ||
                fail "the release $release is not here any more" "deploy.sh status lists those that are; bring it back, or deploy another"
            bring_up "$idle" "$release"
        fi
        step "switch from $active to $idle" switch_to "$idle" "$release" rollback
        dry || say "    back on $release after $(since "$started") s"
        active=$idle
    fi
    finish "$active" "$release"
    conclude "$release" "$active"
}

# ---- status -----------------------------------------------------------------------------------------------------------------
command_status() {
    local as_json="" active colour worker since="" backup healthy=true name service running
    local -A shown=()
    reach_driver
    case ${1:-} in
        "") ;;
        --json) as_json=yes ;;
        *) fail "status does not know $1" "deploy.sh help status" ;;
    esac
    active=$(active_colour)
    # The link is as old as the switch.
    [ -z "$active" ] || since=$(date -u -d "@$(stat -c %Y "$run_dir/active.sock")" +%Y-%m-%dT%H:%M:%SZ)
    worker=$(driver_worker_release)
    backup=$(last_backup)
    for colour in "${colours[@]}"; do shown[$colour]=$(condition "$colour"); done
    { [ -n "$active" ] && [ "${shown[$active]}" = ready ] && [ -n "$worker" ]; } || healthy=false

    if [ -n "$as_json" ]; then
        # Names of releases need no escape: sound_name let them in.
        json healthy:raw "$healthy" active "$active" since "$since" release "$(active_release)" \
            previous_release "$(served_before)" \
            blue:raw "$(json release "$(driver_release blue)" condition "${shown[blue]}")" \
            green:raw "$(json release "$(driver_release green)" condition "${shown[green]}")" \
            worker_release "$worker" profiles:raw "{$(driver_profiles | sed 's/\(.*\) \(.*\) \(.*\)/"\2":"\3"/' | paste -sd,)}" last_backup:raw "${backup:-null}" \
            releases:raw "[$(driver_releases | sed 's/.*/"&"/' | paste -sd,)]"
    else
        for colour in "${colours[@]}"; do
            printf '%-11s %-10s %-20s %s\n' "$colour" "${shown[$colour]}" "$(driver_release "$colour")" \
                "$([ "$colour" != "$active" ] || printf 'serves since %s' "$since")"
        done
        printf '%-11s %-10s %s\n' worker "$([ -n "$worker" ] && printf running || printf stopped)" "$worker"
        while read -r name service running; do printf '%-11s %-10s %s\n' "$name" "$running" "$service"; done < <(driver_profiles)
        printf '%-11s %s\n' before "$(served_before)"
        printf '%-11s%s\n' backup "$(in_words "$backup")"
        printf '%-11s %s\n' here "$(driver_releases | paste -sd' ')"
    fi
    [ "$healthy" = true ]
}
condition() {
    if ! driver_running "$1"; then
        printf stopped
    elif driver_ready "$1"; then
        printf ready
    else
        printf 'not ready'
    fi
}
in_words() {
    local name words=""
    for name in at part act result; do words+=$(sed -n "s/.*\"$name\":\"\([^\"]*\)\".*/ \1/p" <<<"$1"); done
    printf '%s' "${words:- none yet}"
}
# The last line of the backups' record, a JSON object. A full disk may have torn one.
last_backup() { [ ! -e "$state_dir/backups.log" ] || sed -n '/^{"at":.*}$/h; ${ x; p; }' "$state_dir/backups.log"; }

# ---- cleanup ----------------------------------------------------------------------------------------------------------------
command_cleanup() {
    local release kept=() keep removed=0
    reach_driver
    case ${1:-} in
        "") ;;
        --data)
            destroy
            return
            ;;
        *) fail "cleanup does not know $1" "deploy.sh help cleanup" ;;
    esac
    take_lock cleanup
    remember_served "$(active_release)"
    keep=$(conf_number KEEP_RELEASES)
    # What runs, what one can go back to, then the newest until there are enough.
    mapfile -t kept < <({
        active_release
        driver_worker_release
        driver_keyholder_release
        for colour in "${colours[@]}"; do ! driver_running "$colour" || driver_release "$colour"; done
        served | sed -n 1,2p
    } | awk 'NF && !seen[$0]++')
    while IFS= read -r release; do
        if grep -qxF -- "$release" <<<"$(printf '%s\n' "${kept[@]}")"; then
            continue
        elif [ ${#kept[@]} -lt "$keep" ]; then
            kept+=("$release")
        else
            step "remove release $release" driver_remove "$release"
            removed=$((removed + 1))
        fi
    done < <(driver_releases)
    say "removed $removed, kept: ${kept[*]:-none}"
}

destroy() {
    take_lock cleanup --data
    confirm "$home" "This stops everything and removes all data below $data_dir, keys of persons included. Secrets and backups stay." ||
        fail "not confirmed; nothing was removed" "type the path exactly as it is shown"
    step "stop everything, remove the data" driver_destroy
    run rm -f "$state_dir/served" "$state_dir"/*.release "$state_dir"/*.pid "$state_dir"/*.env
    note "data removed"
}
