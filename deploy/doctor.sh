# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# doctor: looks at the host and the installation, says what is wrong and how to mend it, and changes nothing.
#
# A check NAME is a function doctor_NAME that says one or more findings (`well`, `doubtful`, `wrong`). It runs in a shell of its
# own: one that ends by `fail` is a finding with that cause and that next step, and one that says nothing is a finding too, so that
# no check passes because it could not look.

help_doctor() {
    cat <<-'END'
	usage: deploy.sh doctor [--json | --metrics] [CHECK...]
	Look for what is wrong with host and installation, and say how to mend it. Changes nothing.

	  --json     one JSON object: {"at":...,"findings":[{"check","severity","finding","mend"}]}; severity is ok, warn or fail
	  --metrics  into $VELUM_HOME/state/metrics/velum_doctor.prom for Prometheus' node exporter; ends with 0 when it was written.
	             Once an hour: alerts tell of what is found
	  CHECK      these checks alone

	Ends with 1 when a finding is a fail. The checks:
	END
    printf '    %s\n' "$(printf '%s ' "${doctor_checks[@]}" | fold -s -w 90 | sed '2,$s/^/    /')"
}

doctor_checks=(settings processor clock disk inodes memory encryption swap memory_dumps reboot docker units
    secrets certificate door folders colours worker profiles alerts release migrations dependencies keyholder ledger jobs deadlines
    backups keystore_backups restore_drill)

command_doctor() {
    local form=text check checks=() findings severity text mend failed=0 doubtful=0 objects=""
    while [ $# -gt 0 ]; do
        case $1 in
            --json) form=json ;;
            --metrics) form=metrics ;;
            -*) fail "doctor does not know $1" "deploy.sh help doctor" ;;
            *)
                [[ " ${doctor_checks[*]} " == *" $1 "* ]] || fail "there is no check $1" "deploy.sh help doctor lists them"
                checks+=("$1")
                ;;
        esac
        shift
    done
    [ ${#checks[@]} -gt 0 ] || checks=("${doctor_checks[@]}")

    [ "$(id -u)" -eq 0 ] || [ "$form" != text ] || warn "not root: some checks cannot look"
    # What a deploy leaves half-done for seconds is no alert for an hour.
    [ "$form" != metrics ] || [ ! -e "$state_dir/lock" ] || flock --shared --timeout 600 "$state_dir/lock" true || true
    doctor_read_conf
    use_driver
    findings=$(for check in "${checks[@]}"; do doctor_look "$check"; done)
    while IFS=$'\t' read -r check severity text mend; do
        case $severity in
            fail) failed=$((failed + 1)) ;;
            warn) doubtful=$((doubtful + 1)) ;;
        esac
        case $form in
            text) doctor_line "$check" "$severity" "$text" "$mend" ;;
            json) objects+="${objects:+,}$(json check "$check" severity "$severity" finding "$text" mend "$mend")" ;;
        esac
    done <<<"$findings"
    case $form in
        json) json at "$(now)" findings:raw "[$objects]" ;;
        metrics)
            doctor_textfile <<<"$findings"
            return
            ;;
        text) say "$failed to mend, $doubtful to look at" ;;
    esac
    [ "$failed" -eq 0 ]
}

# Settings that cannot be read are a finding; the other checks go by those that can.
doctor_read_conf() {
    local line
    read_defaults
    [ -r "$home/deploy.conf" ] || return 0
    while IFS= read -r line || [ -n "$line" ]; do
        [[ $line != [A-Z]* ]] || ! (conf_line "$line" "") 2>/dev/null || conf_line "$line" ""
    done <"$home/deploy.conf"
}

# doctor_look CHECK    its findings, a line each: CHECK, severity, finding, mend, with tabs between
doctor_look() {
    local check=$1 output status=0 complaints cause="" next="" line
    complaints=$(mktemp)
    output=$("doctor_$check" 2>"$complaints") || status=$?
    while IFS= read -r line; do [ -z "$line" ] || printf '%s\t%s\n' "$check" "$line"; done <<<"$output"
    if [ "$status" -ne 0 ] || [ -z "$output" ]; then
        cause=$(sed -n '/^deploy.sh: next: /d; s/^deploy.sh: //p' "$complaints" | tail -n 1)
        next=$(sed -n 's/^deploy.sh: next: //p' "$complaints" | tail -n 1)
        printf '%s\tfail\t%s\t%s\n' "$check" "${cause:-this check could not look: $(tail -n 1 "$complaints")}" \
            "${next:-run it alone: deploy.sh doctor $check}"
    fi
    rm -f "$complaints"
}

# well FINDING; doubtful FINDING MEND; wrong FINDING MEND
well() { printf 'ok\t%s\t\n' "${1//[$'\t\n']/ }"; }
doubtful() { printf 'warn\t%s\t%s\n' "${1//[$'\t\n']/ }" "$2"; }
wrong() { printf 'fail\t%s\t%s\n' "${1//[$'\t\n']/ }" "$2"; }

doctor_line() {
    printf '%-5s%-18s%s\n' "$2" "$1" "$3"
    [ -z "$4" ] || printf '%-5s%-18s-> %s\n' "" "" "$4"
}

doctor_textfile() {
    run mkdir -p "$state_dir/metrics"
    {
        printf '# TYPE velum_doctor_last_run_timestamp_seconds gauge\nvelum_doctor_last_run_timestamp_seconds %s\n' "$(date +%s)"
        printf '# TYPE velum_doctor_finding gauge\n'
        # One series for each check and severity, whatever the finding says.
        cut -f 1,2 | sort -u | awk -F '\t' '{ printf "velum_doctor_finding{check=\"%s\",severity=\"%s\"} 1\n", $1, $2 }'
    } | write_file 644 "$state_dir/metrics/velum_doctor.prom"
}

# ---- the host ---------------------------------------------------------------------------------------------------------------
doctor_settings() {
    local issuer
    conf_velum_lines=()
    read_conf
    issuer=$(conf_velum_value VELUM_ISSUER)
    case $issuer in
        https://velum.example*) wrong "VELUM_ISSUER is still the example" "write your own address into $home/deploy.conf" ;;
        https://*) well "$home/deploy.conf is read; the public address is $issuer" ;;
        *) wrong "VELUM_ISSUER, the public address, is not set" "add VELUM_ISSUER=https://... to $home/deploy.conf" ;;
    esac
}

doctor_processor() {
    local facts
    facts=$(lscpu) || fail "lscpu does not answer" "apt-get install util-linux"
    case $facts in
        *x86_64*)
            if grep -qw avx2 <<<"$facts" && grep -qw fma <<<"$facts"; then
                well "the processor has AVX2 and FMA"
            else
                wrong "the processor has no AVX2 or no FMA, and the program ends with an illegal instruction" \
                    "another machine, or a processor type of the hypervisor that shows them (x86-64-v3, host)"
            fi
            ;;
        *aarch64*) well "the processor is an aarch64" ;;
        *) wrong "the processor is neither x86_64 nor aarch64" "another machine" ;;
    esac
}

# Tokens, deadlines, leases of jobs and certificates all go by the clock.
doctor_clock() {
    local url offset whole keeper
    url=$(conf CLOCK_URL)
    if [ -n "$url" ]; then
        if offset=$(doctor_clock_offset "$url"); then
            whole=${offset#-}
            whole=${whole%.*}
            if [ "$whole" -ge 10 ]; then
                wrong "the clock is $offset s off, by $url" "apt-get install chrony; chronyc makestep"
            elif [ "$whole" -ge 2 ]; then
                doubtful "the clock is $offset s off, by $url" "apt-get install chrony; chronyc makestep"
            else
                well "the clock agrees with $url (difference $offset s)"
            fi
        else
            doubtful "the clock could not be compared: $url does not answer" "set CLOCK_URL in $home/deploy.conf to a server that this host reaches"
        fi
    fi
    if keeper=$(chronyc -c tracking 2>/dev/null); then
        case ${keeper##*,} in
            "Not synchronised") doubtful "chrony runs and has no source of time" "chronyc sources; a server or pool line in /etc/chrony/chrony.conf" ;;
            *) well "chrony keeps the clock" ;;
        esac
    elif [ "$(timedatectl show --property NTPSynchronized --value 2>/dev/null)" = yes ]; then
        well "the system keeps the clock"
    else
        doubtful "nothing keeps the clock right" "apt-get install chrony"
    fi
}
# How far ahead we are, in seconds with one decimal, by the Date of an HTTP answer. That has whole seconds, cut off, so half a
# second is added; an answer that took long says too little.
doctor_clock_offset() {
    local before=$EPOCHREALTIME after date there
    date=$(curl --silent --head --max-time 5 "$1" | tr -d '\r' | sed -n 's/^[Dd]ate: //p' | tail -n 1)
    after=$EPOCHREALTIME
    [ -n "$date" ] && there=$(date -d "$date" +%s 2>/dev/null) || return 1
    awk -v before="${before/,/.}" -v after="${after/,/.}" -v there="$there" \
        'BEGIN { if (after - before > 3) exit 1; printf "%.1f", (before + after) / 2 - there - 0.5 }'
}

# File systems below the home, each once: MOUNT SIZE FREE PERCENT-FREE, of `df --output=target,$1,$2`; kilobytes, or inodes
doctor_file_systems() {
    local folder folders=()
    for folder in "$home" "$state_dir" "$secrets_dir" "$data_dir" "$data_dir"/* "$backups_dir" /var/lib/docker /var/log; do
        [ ! -d "$folder" ] || folders+=("$folder")
    done
    df --block-size=1K --output="target,$1,$2" "${folders[@]}" |
        awk 'NR > 1 && $2 > 0 && !seen[$1]++ { print $1, $2, $3, int($3 * 100 / $2) }'
}

doctor_disk() {
    local mount size free percent wanted sound=true
    while read -r mount size free percent; do
        if [ "$percent" -lt 5 ]; then
            wrong "$mount has $percent % of its $((size / 1024)) MB left" "deploy.sh cleanup, or a larger disk: PostgreSQL stops when it is full"
            sound=false
        elif [ "$percent" -lt 15 ]; then
            doubtful "$mount has $percent % of its $((size / 1024)) MB left" "deploy.sh cleanup, or a larger disk"
            sound=false
        fi
    done < <(doctor_file_systems size avail)
    wanted=$(conf_number DISK_FREE_MIN_MB)
    free=$(df --output=avail --block-size=1M "$home" | tail -n 1)
    if [ "$((free))" -lt "$wanted" ]; then
        wrong "$home has $((free)) MB left, and a deploy wants $wanted (DISK_FREE_MIN_MB)" "deploy.sh cleanup, or a larger disk"
        sound=false
    fi
    [ $sound = false ] || well "every file system has room"
}

doctor_inodes() {
    local mount size free percent sound=true
    while read -r mount size free percent; do
        [ "$percent" -lt 8 ] || continue
        wrong "$mount has $percent % of its $size inodes left" "find $mount -xdev -type f | cut -d/ -f1-5 | sort | uniq -c | sort -n | tail"
        sound=false
    done < <(doctor_file_systems itotal iavail)
    [ $sound = false ] || well "every file system has room for more files"
}

doctor_memory() {
    local total available
    read -r total available < <(free -m | awk '/^Mem:/ { print $2, $7 }')
    if [ $((available * 100 / total)) -lt 8 ]; then
        doubtful "$available of $total MB of memory are left" "more memory, or fewer VELUM_COMPUTE_WORKERS"
    else
        well "$available of $total MB of memory are left"
    fi
}

# What holds data must lie on dm-crypt. PATH's file system may lie on a partition, on LVM, on RAID: lsblk follows them all.
doctor_encryption() {
    local folder disk
    local -A plain=()
    if [ "$(conf DISK_ENCRYPTION)" = elsewhere ]; then
        well "disks are encrypted outside of this host, as deploy.conf says (DISK_ENCRYPTION=elsewhere)"
        return
    fi
    for folder in "$data_dir" "$data_dir"/* "$secrets_dir" "$backups_dir"; do
        [ -d "$folder" ] || continue
        disk=$(doctor_disk_of "$folder")
        doctor_is_encrypted "$disk" || plain[$disk]+="${plain[$disk]:+, }$folder"
    done
    for disk in "${!plain[@]}"; do
        wrong "$disk is not encrypted, and holds ${plain[$disk]}" \
            "move them to a LUKS volume (docs/operations.md); DISK_ENCRYPTION=elsewhere if the disk itself is encrypted"
    done
    [ ${#plain[@]} -gt 0 ] || well "data, secrets and backups lie on encrypted volumes"
}
# What the file system of a path lies on, without the subvolume.
doctor_disk_of() { findmnt --noheadings --first-only --output SOURCE --target "$1" | sed 's/\[.*//'; }
doctor_is_encrypted() {
    case $1 in
        tmpfs | ramfs) return 0 ;; # memory
        *) doctor_on_crypt "$1" ;;
    esac
}
doctor_on_crypt() { [[ $'\n'$(lsblk --noheadings --raw --inverse --output TYPE "$1" 2>/dev/null)$'\n' == *$'\ncrypt\n'* ]]; }

doctor_swap() {
    local area areas sound=true
    [ "$(conf DISK_ENCRYPTION)" != elsewhere ] || { well "swap lies on disks that are encrypted outside of this host" && return; }
    areas=$(swapon --show=NAME --noheadings --raw) || fail "swapon does not answer" "swapon --show"
    for area in $areas; do
        case $area in
            /dev/zram*) continue ;; # memory
            /dev/*) ! doctor_on_crypt "$area" || continue ;;
            *) ! doctor_is_encrypted "$(doctor_disk_of "$area")" || continue ;;
        esac
        wrong "the swap $area is not encrypted, and keys in memory may be written to it" \
            "swapoff $area and remove it from /etc/fstab, or encrypt it with a random key (crypttab: swap)"
        sound=false
    done
    [ $sound = false ] || well "${areas:+swap is encrypted}${areas:-there is no swap}"
}

# Memory of a process that crashes holds keys and photos.
doctor_memory_dumps() {
    local pid limit sound=true pattern
    pattern=$(</proc/sys/kernel/core_pattern)
    while read -r pid; do
        limit=$(awk '/^Max core file size/ { print $5 }' "/proc/$pid/limits" 2>/dev/null) || continue
        [ "${limit:-0}" != 0 ] || continue
        wrong "process $pid ($(tr '\0' ' ' <"/proc/$pid/cmdline" | cut -c 1-120)) would write its memory to disk when it crashes ($pattern)" \
            "LimitCORE=0 in its unit, ulimits: core: 0 in its service, or ulimit -c 0 before it is started; then start it anew"
        sound=false
    done < <(doctor_processes)
    [ $sound = false ] || well "no process of this installation writes its memory to disk"
}
doctor_processes() {
    case $(conf DRIVER) in
        compose) containers --quiet | xargs --no-run-if-empty docker inspect --format '{{.State.Pid}}' ;;
        *) pgrep --full "$releases_dir/[^ ]*/bin/velum" || true ;;
    esac
}

doctor_reboot() {
    if [ -e /run/reboot-required ]; then
        doubtful "the host waits for a reboot after updates" "reboot when it suits: the stack comes back by itself, and doctor says so"
    else
        well "no reboot is due"
    fi
}

doctor_docker() {
    local engine compose
    [ "$(conf DRIVER)" = compose ] || { well "not used (DRIVER=process)" && return; }
    need docker docker.io
    engine=$(docker version --format '{{.Server.Version}}' 2>/dev/null) ||
        fail "the Docker engine does not answer" "systemctl start docker; are you in the group docker?"
    compose=$(docker compose version --short 2>/dev/null) ||
        fail "docker compose (version 2) is missing; docker-compose with a hyphen is version 1 and will not do" "$compose_mend"
    at_least 20.10 "$engine" || wrong "the Docker engine is $engine; 20.10 is the oldest that is known to work" "apt-get install docker.io"
    at_least "$compose_needed" "${compose#v}" || wrong "docker compose is $compose; $compose_needed is the oldest that will do" "$compose_mend"
    well "Docker $engine, compose $compose"
}

# What comes back by itself after a reboot.
doctor_units() {
    local unit sound=true wanted=(docker.service)
    [ -d /run/systemd/system ] || { well "no systemd here: whoever starts this host starts the installation" && return; }
    [ "$(conf DRIVER)" = compose ] || wanted=(velum-boot.service velum-worker.service)
    for unit in "${wanted[@]}"; do
        systemctl is-enabled --quiet "$unit" && continue
        wrong "$unit does not start with the host" "systemctl enable $unit"
        sound=false
    done
    while read -r unit _; do
        wrong "the unit $unit has failed" "systemctl status $unit"
        sound=false
    done < <(systemctl list-units --failed --plain --no-legend 'velum*')
    [ $sound = false ] || well "the installation comes back after a reboot"
}

# ---- secrets and certificates -----------------------------------------------------------------------------------------------
# What `secrets check` says, line by line: PATH: PROBLEM: MEND
doctor_secrets() {
    local line problems=""
    # shellcheck source=/dev/null
    . "$here/deploy/secrets.sh"
    [ -d "$secrets_dir" ] || fail "there is no $secrets_dir" "deploy.sh secrets init RELEASE"
    # The last lines only count the ones before.
    problems=$(secrets_check 2>&1 >/dev/null) && problems=""
    while IFS= read -r line; do
        [[ $line =~ ^\ +([^:]+:\ [^:]+):\ (.*)$ ]] || continue
        wrong "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    done <<<"$problems"
    [ -n "$problems" ] || well "secrets are there, strong, and closed to others"
}

# The public certificate, as a file of this host.
doctor_certificate() {
    local file=$secrets_dir/nginx/tls/fullchain.pem key=$secrets_dir/nginx/tls/privkey.pem host sound=true
    if [ ! -e "$file" ]; then
        if [ "$(conf DRIVER)" = compose ]; then
            wrong "there is no public certificate ($file)" "deploy.sh certs issue"
        else
            well "the public certificate does not lie below $secrets_dir"
        fi
        return
    fi
    openssl x509 -in "$file" -noout 2>/dev/null || fail "$file is no certificate" "deploy.sh certs issue"
    host=$(doctor_host)
    if ! openssl x509 -in "$file" -noout -checkend 0 >/dev/null; then
        wrong "the public certificate has expired" "deploy.sh certs renew --now" && sound=false
    elif ! openssl x509 -in "$file" -noout -checkend $((14 * 86400)) >/dev/null; then
        doubtful "the public certificate ends $(doctor_end <"$file"), and should have been renewed by now" "deploy.sh certs renew" && sound=false
    fi
    if [[ $(openssl x509 -in "$file" -noout -checkhost "$host") != *"does match"* ]]; then
        wrong "the public certificate is for another name than $host" "deploy.sh certs issue, or correct VELUM_ISSUER in $home/deploy.conf" && sound=false
    fi
    if [ "$(openssl x509 -in "$file" -noout -pubkey)" != "$(openssl pkey -in "$key" -pubout 2>/dev/null)" ]; then
        wrong "$key does not belong to the public certificate" "deploy.sh certs issue, or put the right key there" && sound=false
    fi
    [ $sound = false ] || well "the public certificate is for $host and ends $(doctor_end <"$file")"
}
doctor_end() { openssl x509 -noout -enddate | sed 's/^notAfter=//' | xargs -I{} date -u -d {} +%Y-%m-%d; }
doctor_host() { conf_velum_value VELUM_ISSUER | sed -E 's#^https://##; s#[:/].*##'; }

# What callers meet: name, certificate and answer. nginx is asked on this host; whether the name leads here, and through which
# balancers, is seen from outside (the alert VelumDoorClosed).
doctor_door() {
    local host port served file=$secrets_dir/nginx/tls/fullchain.pem told status verified
    host=$(doctor_host)
    if [ "$(conf DRIVER)" = compose ]; then port=$(conf HTTPS_PORT); else port=$(conf NGINX_HTTPS_PORT); fi
    if [ "$(conf NGINX_BALANCERS_SPEAK)" = proxy-protocol ]; then
        well "nginx speaks to its balancers alone (PROXY protocol); look from outside"
        return
    fi
    told=$(openssl s_client -connect "127.0.0.1:$port" -servername "$host" -verify_hostname "$host" </dev/null 2>&1) || true
    served=$(openssl x509 2>/dev/null <<<"$told") ||
        fail "nobody answers by TLS at 127.0.0.1:$port for the name $host" "start nginx; deploy.sh logs nginx"
    verified=$(sed -n 's/^ *Verify return code: //p' <<<"$told" | tail -n 1 | tr -d '()')
    if ! openssl x509 -noout -checkend 0 <<<"$served" >/dev/null; then
        wrong "callers are shown a certificate that has expired" "deploy.sh certs renew --now"
    elif [ "$(openssl x509 -noout -fingerprint <<<"$served")" != "$(openssl x509 -in "$file" -noout -fingerprint 2>/dev/null)" ]; then
        doubtful "callers are shown another certificate than $file" "which program listens on port $port? ss -ltnp; does its configuration name these files?"
    elif [[ $verified != 0* ]]; then
        doubtful "callers do not trust the certificate: ${verified#* }" "deploy.sh certs issue gets one of a public authority"
    else
        well "callers are shown a certificate that they trust, until $(doctor_end <<<"$served")"
    fi
    status=$(curl --silent --show-error --insecure --max-time 10 --output /dev/null --write-out '%{http_code}' \
        --connect-to "::127.0.0.1:$port" "https://$host:$port/.well-known/jwks.json" 2>&1) || fail "nginx gives no answer: $status" "deploy.sh logs nginx"
    if [ "$status" = 200 ]; then
        well "https://$host answers"
    else
        wrong "https://$host answers $status" "deploy.sh status; deploy.sh logs nginx"
    fi
}

# ---- the installation -------------------------------------------------------------------------------------------------------
# nginx comes to the sockets by the group of the folder.
doctor_folders() {
    local mode group
    [ -d "$run_dir" ] || fail "there is no $run_dir" "deploy.sh deploy RELEASE makes it"
    read -r mode group < <(stat -c '%a %g' "$run_dir")
    if [ "$mode" != 2770 ] || { [ "$(id -u)" -eq 0 ] && [ "$group" != "$gid_edge" ]; }; then
        wrong "$run_dir has mode $mode and group $group, so that nginx cannot reach the sockets" "chmod 2770 $run_dir; chgrp $gid_edge $run_dir"
    else
        well "nginx may reach the sockets, and nobody else"
    fi
}

doctor_colours() {
    local active idle
    active=$(serving_colour) || exit
    idle=$(other_colour "$active")
    if ! driver_running "$active"; then
        wrong "active.sock leads to $active, which does not run" "deploy.sh rollback, or deploy.sh deploy RELEASE --again"
    elif ! driver_ready "$active"; then
        wrong "$active runs and is not ready" "deploy.sh logs $active; the findings below"
    else
        well "$active serves $(driver_release "$active")"
    fi
    if driver_running "$active" && driver_running "$idle" && ! conf_yes KEEP_OLD_RUNNING; then
        doubtful "both colours run: a deploy was broken off" "run the same deploy again"
    fi
}

doctor_worker() {
    local release count
    case $(conf DRIVER) in
        compose) count=$(containers --quiet --filter label=com.docker.compose.service=worker | wc -l) ;;
        *) count=$(pgrep --full "^$releases_dir/[^ ]*/bin/velum[^ ]* worker" | wc -l) ;;
    esac
    release=$(driver_worker_release)
    if [ -z "$release" ]; then
        wrong "no worker runs: erasures wait" "deploy.sh deploy RELEASE"
    elif [ "$count" -gt 1 ]; then
        doubtful "$count workers run, and only one is known here: another may be of an older release" \
            "end the others (pgrep -af 'velum worker'), or let it be if you started them"
    else
        well "one worker runs"
    fi
}

# They come back by themselves after a crash, but not after an image that could not be pulled.
doctor_profiles() {
    local profile service running stopped=""
    while read -r profile service running; do
        [ "$running" = running ] || stopped+=" $service"
    done < <(driver_profiles)
    if [ -n "$stopped" ]; then
        wrong "of the profiles $(conf PROFILES) these do not run:$stopped" "deploy.sh logs SERVICE; deploy.sh deploy RELEASE --again starts what can be started"
    else
        well "${profile:+what PROFILES names runs}${profile:-PROFILES names none}"
    fi
}

# Where nobody has written his own, nobody is told.
doctor_alerts() {
    local file found sound=true
    if [[ " $(conf PROFILES) " != *" monitoring "* ]]; then
        well "PROFILES does not name monitoring"
        return
    fi
    for file in alertmanager.yml targets.yml; do
        found=$(grep -Eo '^[^#]*(velum\.example|smtp_smarthost: localhost:25$)' "$here/monitoring/$file" | grep -Eo '[^ ]*velum\.example|localhost:25' |
            sort -u | paste -sd' ') || true
        [ -e "$here/monitoring/$file" ] || fail "there is no $here/monitoring/$file" "bring the whole folder monitoring/ here"
        [ -n "$found" ] || continue
        wrong "monitoring/$file still has the examples: $found" \
            "write your own into $here/monitoring/$file (docs/runbook.md, Setting it up); Alertmanager reads its file when it is restarted"
        sound=false
    done
    [ $sound = false ] || well "alerts go to addresses of your own, and your own door is asked"
}

doctor_release() {
    local active worker
    active=$(serving_colour) || exit
    active=$(driver_release "$active") worker=$(driver_worker_release)
    if [ -n "$worker" ] && [ "$worker" != "$active" ]; then
        wrong "$active serves, and the worker runs $worker" "deploy.sh deploy $active"
    else
        well "$active serves and works"
    fi
}

doctor_migrations() {
    local active told
    active=$(serving_colour) || exit
    told=$(driver_migrate "$(driver_release "$active")" status 2>&1) ||
        fail "the databases could not be asked for their migrations: $(tail -n 1 <<<"$told")" "are the databases up? the owner's addresses right?"
    if grep -q ' missing$' <<<"$told"; then
        wrong "a migration is pending: $(sed -n 's/ missing$//p' <<<"$told" | paste -sd, | cut -c 1-120)" "deploy.sh deploy $(driver_release "$active") --again"
    else
        well "every migration of $(driver_release "$active") is applied"
    fi
}

# doctor_measured METRIC    the highest value that the active colour tells of a series; METRIC is its beginning
doctor_measured() { awk -v wanted="$1" 'index($0, wanted) == 1 { if (!seen || $NF > most) most = $NF; seen = 1 } END { if (seen) print most }' <<<"$measured"; }
# Fills `measured`.
doctor_scrape() {
    local active
    active=$(serving_colour) || exit
    measured=$(driver_metrics "$active") || fail "$active tells no metrics" "deploy.sh status; deploy.sh logs $active"
}

doctor_dependencies() {
    local measured="" name what sound=true
    doctor_scrape
    for what in "store:the main database" "keystore:the key store"; do
        name=${what%%:*}
        [ "$(doctor_measured "velum_dependency_up{dependency=\"$name\"}")" != 0 ] || {
            wrong "the app does not reach ${what#*:}: requests are answered 503" "start it; deploy.sh logs $(active_colour) says why not"
            sound=false
        }
    done
    if [ "$(doctor_measured 'velum_dependency_up{dependency="redis"}')" = 0 ]; then
        doubtful "the app does not reach Redis: nothing fails, and each process counts by itself" "start it: it is found again within a second"
        sound=false
    fi
    [ $sound = false ] || well "databases and Redis answer"
}

doctor_keyholder() {
    local measured="" address why
    doctor_scrape
    address=$(conf_velum_value VELUM_KEYHOLDER)
    if [ "$(doctor_measured 'velum_dependency_up{dependency="keyholder"}')" = 0 ]; then
        why=$(doctor_why_no_keyholder "$address")
        wrong "the app does not reach the keyholder: nobody is verified${why:+ ($why)}" \
            "start it where it lies; if it runs: its certificate, VELUM_KEYHOLDER, VELUM_KEYHOLDER_ADMITTED_EDGES"
    else
        well "the keyholder answers${address:+ at $address}"
    fi
}
# Only where this host may speak to it; between containers the app alone does.
doctor_why_no_keyholder() {
    local app=$secrets_dir/app
    [ "$(conf DRIVER)" = process ] && [[ $1 == https://* ]] || return 0
    curl --silent --show-error --max-time 5 --output /dev/null --cacert "$app/ca.pem" --cert "$app/keyholder_client/certificate.pem" \
        --key "$app/keyholder_client/key.pem" "$1" 2>&1 | head -n 1 | tr '\t' ' '
}

doctor_ledger() {
    local measured="" told
    doctor_scrape
    if [ "$(doctor_measured 'velum_dependency_up{dependency="erasure_ledger"}')" = 0 ]; then
        told=$(driver_velum "$(active_colour)" erasures status 2>&1 | tail -n 1 | tr '\t' ' ')
        wrong "databases and erasure ledger do not agree: ${told:-the ledger does not answer}" \
            "velum erasures replay after a restore, rebuild after one of the ledger; docs/operations.md, After a restore"
    else
        well "databases and erasure ledger agree"
    fi
}

doctor_jobs() {
    local measured="" dead waiting sound=true
    doctor_scrape
    dead=$(doctor_measured 'velum_jobs{state="dead"}') waiting=$(doctor_measured velum_jobs_oldest_due_age_seconds)
    if [ "${dead:-0}" != 0 ]; then
        wrong "$dead jobs were given up" "velum jobs dead names cause and id; then velum jobs retry ID" && sound=false
    fi
    if [ "$(printf '%.0f' "${waiting:-0}")" -gt 600 ]; then
        wrong "a job has been due for $((${waiting%.*} / 60)) minutes" "is the worker up? deploy.sh status; velum jobs list" && sound=false
    fi
    [ $sound = false ] || well "no job was given up, and none waits"
}

doctor_deadlines() {
    local measured="" kind late sound=true
    doctor_scrape
    for kind in erasures:erasure access_requests:access; do
        late=$(doctor_measured "velum_${kind%:*}_overdue_seconds")
        [ "$(printf '%.0f' "${late:-0}")" -gt 0 ] || continue
        wrong "a request of a person (${kind#*:}) has been late for $(($(printf '%.0f' "$late") / 3600)) hours" \
            "answer it: the console names it"
        sound=false
    done
    [ $sound = false ] || well "no request of a person is late"
}

# ---- backups ----------------------------------------------------------------------------------------------------------------
# doctor_record PART ACT RESULT    the newest such line of the record, or nothing
doctor_record() {
    whole_lines "$state_dir/backups.log" | jq --compact-output --slurp --arg part "$1" --arg act "$2" --arg result "$3" \
        'map(select(.part == $part and .act == $act and .result == $result)) | last // empty'
}
doctor_age() { printf '%s' $(($(date +%s) - $(date -d "$(jq --raw-output .at <<<"$1")" +%s))); }

doctor_backups() {
    local part last tried age sound=true
    need jq jq
    [ -s "$state_dir/backups.log" ] || fail "there has never been a backup" "deploy.sh backup, then its timer"
    for part in $(conf BACKUP_PARTS); do
        last=$(doctor_record "$part" backup passed) tried=$(doctor_record "$part" backup failed)
        if [ -z "$last" ]; then
            wrong "$part was never backed up${tried:+: $(jq --raw-output '.cause // ""' <<<"$tried")}" "deploy.sh backup run $part" && sound=false
            continue
        fi
        age=$(doctor_age "$last")
        if [ "$age" -gt $((26 * 3600)) ]; then
            wrong "the last good backup of $part is $((age / 3600)) hours old${tried:+; one failed: $(jq --raw-output '.cause // ""' <<<"$tried")}" \
                "deploy.sh backup run $part" && sound=false
        fi
        last=$(doctor_record "$part" verify passed)
        if [ -z "$last" ] && [[ " main keystore ledger " == *" $part "* ]]; then
            wrong "no backup of $part was ever restored on trial, so it is a hope" "deploy.sh backup verify $part" && sound=false
        elif [ -n "$last" ] && age=$(doctor_age "$last") && [ "$age" -gt $((8 * 86400)) ]; then
            doubtful "the last trial of a backup of $part is $((age / 86400)) days old" "deploy.sh backup verify $part" && sound=false
        fi
    done
    [ $sound = false ] || well "every part is backed up and was restored on trial"
}

# Certificates of erasure name the day after which no backup of a key is left.
doctor_keystore_backups() {
    local days oldest age
    need jq jq
    days=$(conf_velum_value VELUM_KEYSTORE_BACKUP_DAYS 7)
    [ -s "$state_dir/backups.log" ] || fail "there has never been a backup" "deploy.sh backup, then its timer"
    # Of each repository the newest word counts.
    oldest=$(whole_lines "$state_dir/backups.log" | jq --raw-output --slurp 'map(select(.part == "keystore" and .act == "expire" and .result == "passed"))
        | group_by(.repository) | map(last.oldest // 0) | map(select(. > 0)) | min // 0')
    if [ "$oldest" = 0 ]; then
        well "no backup of the key store is known"
        return
    fi
    age=$(($(date +%s) - oldest))
    if [ "$age" -gt $((days * 86400 + 6 * 3600)) ]; then
        wrong "a backup of the key store is $((age / 86400)) days old, and certificates of erasure promise $days" \
            "deploy.sh backup run keystore deletes it; delete copies elsewhere by hand"
    else
        well "no backup of the key store is older than $days days"
    fi
}

doctor_restore_drill() {
    local file=$state_dir/restore-drill.json age
    need jq jq
    [ -s "$file" ] || fail "there was never a restore drill" "deploy.sh restore --to latest"
    age=$(doctor_age "$(<"$file")")
    if [ "$(jq --raw-output .result "$file")" != passed ]; then
        wrong "the last restore drill failed: $(jq --raw-output '.note // ""' "$file")" "deploy.sh restore --to latest"
    elif [ "$age" -gt $((100 * 86400)) ]; then
        doubtful "the last restore drill was $((age / 86400)) days ago" "deploy.sh restore --to latest"
    else
        well "the last restore drill passed, $((age / 86400)) days ago"
    fi
}
