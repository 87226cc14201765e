# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# DRIVER=process: the processes of this host. Where systemd is PID 1 they are its units (deploy/systemd); elsewhere processes of
# their own session with a pid file, for tests and containers. PostgreSQL, Redis, nginx and the keyholder are not its business.
#
# The verbs of a driver, the same for every driver; switch.sh calls no other:
#   driver_answers                    fails when it cannot be told what runs
#   driver_preflight RELEASE          fails when RELEASE cannot be started here
#   driver_base RELEASE               what both colours share runs
#   driver_stores_run                 true while the databases can be asked
#   driver_migrate RELEASE ARGS...    `velum migrate ARGS`, as the role that owns the schema
#   driver_start COLOUR RELEASE       returns when it was started, not when it is ready
#   driver_stop COLOUR                lets it finish what it has accepted
#   driver_running COLOUR             true while there is such a process
#   driver_ready COLOUR               true when `velum healthcheck` says so
#   driver_release COLOUR             what it runs, or ran last, as a line
#   driver_metrics PROCESS            what it has measured, in Prometheus' text format
#   driver_in_flight COLOUR           requests it is working on
#   driver_worker RELEASE             the worker runs on RELEASE from now on
#   driver_worker_release             what the worker runs, as a line; nothing when it does not run
#   driver_keyholder_is_here RELEASE  or it fails, saying where the keyholder changes to that release instead
#   driver_keyholder_release          what a keyholder of this host runs, or would run, as a line; nothing when there is none
#   driver_keyholder RELEASE          the keyholder of this host runs on RELEASE from now on
#   driver_velum COLOUR ARGS...       the program, with that colour's settings
#   driver_smoke COLOUR               `velum smoke` on that colour's own socket
#   driver_tool RELEASE ARGS...       the program for an operator, who may be asked, and who may write to the keys of the app
#   driver_in SERVICE COMMAND...      a command where the files of a service are, as its user
#   driver_logs SERVICE LINES [-f]    the last lines of its log
#   driver_services                   names that driver_logs knows
#   driver_logs_elsewhere SERVICE     of a service that this driver does not run: where its log is
#   driver_profiles                   a line for each service of PROFILES: profile, service, and whether it is running or stopped
#   driver_releases                   all that are here, newest first
#   driver_remove RELEASE
#   driver_destroy                    everything stops, and the data of this driver is removed

log_dir=$home/log

unit_of() { if [ "$1" = worker ]; then printf velum-worker.service; else printf 'velum@%s.service' "$1"; fi; }

# ---- what a process is given ------------------------------------------------------------------------------------------------
# environment_of PROCESS RELEASE    fills `environment`; PROCESS is blue, green, worker, migrate or tool
environment_of() {
    local process=$1 release=$releases_dir/$2 app=$secrets_dir/app line runtime=()
    runtime=("$release"/runtime/libonnxruntime.so*)
    environment=(
        PATH=/usr/bin:/bin HOME=/nonexistent
        VELUM_MODE=production
        VELUM_DATA_DIR="$data_dir/app" # production writes nothing there
        VELUM_SECRETS_DIR="$app"
        VELUM_FHE_DIR="$app/fhe"
        VELUM_MODELS_DIR="$release/models"
        VELUM_ONNXRUNTIME="${runtime[0]}"
        VELUM_DATABASE_URL_FILE="$app/database_url"
        VELUM_KEYSTORE_URL_FILE="$app/keystore_url"
        VELUM_LEDGER_URL_FILE="$app/ledger_url"
        VELUM_REDIS_URL_FILE="$app/redis_url"
        VELUM_REDIS_CA_FILE="$app/ca.pem"
        VELUM_TLS_CERTIFICATE_FILE="$app/tls/certificate.pem"
        VELUM_TLS_KEY_FILE="$app/tls/key.pem"
        VELUM_TLS_CA_FILE="$app/ca.pem"
        VELUM_KEYHOLDER_CLIENT_CERTIFICATE_FILE="$app/keyholder_client/certificate.pem"
        VELUM_KEYHOLDER_CLIENT_KEY_FILE="$app/keyholder_client/key.pem"
        VELUM_KEYHOLDER_CA_FILE="$app/ca.pem"
        VELUM_WORKER=separate
        VELUM_TRUSTED_PROXIES=127.0.0.1 # nginx over the socket counts as that, and says who calls
    )
    # Said in deploy.conf, it counts.
    while IFS= read -r line; do environment+=("$line"); done < <(conf_velum)
    case $process in
        blue | green)
            environment+=(
                VELUM_LISTEN="$(conf "${process^^}_LISTEN")"
                VELUM_METRICS_LISTEN="$(conf "${process^^}_METRICS_LISTEN")"
                VELUM_LISTEN_SOCKET="$run_dir/$process.sock"
            )
            ;;
        worker) environment+=(VELUM_METRICS_LISTEN="$(conf WORKER_METRICS_LISTEN)") ;;
        migrate)
            environment+=(
                VELUM_DATABASE_URL_FILE="$secrets_dir/migrate/database_url"
                VELUM_KEYSTORE_URL_FILE="$secrets_dir/migrate/keystore_url"
                VELUM_LEDGER_URL_FILE="$secrets_dir/migrate/ledger_url"
            )
            ;;
    esac
}

# as_user USER GROUP GROUPS    fills `become`, the words before a command that is to run as a service's user, with no right
# beyond. Whoever is not root is that user.
as_user() {
    become=()
    [ "$(id -u)" -ne 0 ] ||
        become=(setpriv --reuid "$1" --regid "$2" --groups "$3" --inh-caps=-all --bounding-set=-all --no-new-privs)
}
as_velum() { as_user "$uid_velum" "$uid_velum" "$gid_edge"; }

# velum_of PROCESS RELEASE ARGS...    the program as that process would see the world
velum_of() {
    local environment=() become=() process=$1 release=$2
    shift 2
    environment_of "$process" "$release"
    as_velum
    env -i "${environment[@]}" "${become[@]}" "$releases_dir/$release/bin/velum" "$@"
}

# ---- processes --------------------------------------------------------------------------------------------------------------
pid_file() { printf '%s/%s.pid' "$state_dir" "$1"; }

# The process id of a running process, or nothing. A pid file of before a reboot, or of a process that has ended and whose
# number another one has now, counts as none.
pid_of() {
    local pid="" started=""
    if with_systemd; then
        pid=$(systemctl show --property MainPID --value "$(unit_of "$1")")
        [ "$pid" = 0 ] || printf '%s' "$pid"
    elif [ -e "$(pid_file "$1")" ]; then
        read -r pid started <"$(pid_file "$1")" || true
        ! same_process "$pid" "$started" || printf '%s' "$pid"
    fi
}

# launch PROCESS RELEASE COMMAND    starts `velum COMMAND` and returns
launch() {
    local process=$1 release=$2 command=$3 environment=() become=()
    environment_of "$process" "$release"
    # The file says what is meant to run before anything does.
    set_state "$process.release" "$release"
    if with_systemd; then
        printf '%s\n' "PROGRAM=$releases_dir/$release/bin/velum" "${environment[@]}" | write_file 640 "$state_dir/$process.env"
        run systemctl reset-failed "$(unit_of "$process")" 2>/dev/null || true
        run systemctl start --no-block "$(unit_of "$process")"
        return
    fi
    if dry; then
        say "    would start: velum $command of release $release as $process"
        return
    fi
    as_velum
    mkdir -p "$log_dir"
    # It writes its own pid file, and only then lets go of the lock: however this run ends, the next one knows of it. A session
    # of its own, so that a terminal's Ctrl-C does not reach it.
    (
        trap - EXIT
        self=$BASHPID
        printf '%s %s\n' "$self" "$(started_at "$self")" | write_file 644 "$(pid_file "$process")"
        ulimit -n "$(ulimit -H -n)"
        ulimit -c 0 # memory that is written to disk holds keys and photos
        cd "$home" || exit
        exec setsid env -i "${environment[@]}" "${become[@]}" "$releases_dir/$release/bin/velum" "$command" \
            9>&- </dev/null >>"$log_dir/$process.log" 2>&1
    ) &
    # Started, or not: somebody must be there before this run asks whether he is ready.
    local attempt
    for attempt in {1..100}; do
        [ -n "$(pid_of "$process")" ] && return
        kill -0 $! 2>/dev/null || break
        sleep 0.02
    done
    fail "$process did not start (attempt $attempt)" "deploy.sh logs $process"
}

halt() {
    local process=$1 pid patience
    pid=$(pid_of "$process")
    [ -n "$pid" ] || return 0
    if with_systemd; then
        run systemctl stop "$(unit_of "$process")" # the unit knows how long it may take
        return
    fi
    run kill -TERM "$pid"
    dry && return
    # The program ends within that by itself.
    patience=$((SECONDS + $(conf_velum_value VELUM_STOP_TIMEOUT_S 25) + 10))
    while [ "$(pid_of "$process")" = "$pid" ]; do
        if [ "$SECONDS" -ge "$patience" ]; then
            warn "$process (process $pid) does not end by itself and is killed"
            kill -KILL "$pid" || true
            patience=$((SECONDS + 10))
        fi
        sleep 0.05
    done
    rm -f "$(pid_file "$process")"
}

# ---- the verbs --------------------------------------------------------------------------------------------------------------
driver_answers() { :; }

driver_preflight() {
    local release=$1 folder=$releases_dir/$1 program=$releases_dir/$1/bin/velum checked idle
    need curl curl
    need setpriv util-linux
    [ -x "$program" ] ||
        fail "there is no release $release: $program is missing" "put the release there; deploy.sh status lists those that are"
    "$program" --version >/dev/null || fail "the program of release $release does not start" "$program --version says why"
    local part
    for part in models/manifest.toml samples; do
        [ -e "$folder/$part" ] || fail "the release $release is incomplete: $part is missing" "bring the release there again"
    done
    [ -d "$secrets_dir/app" ] || fail "there are no secrets in $secrets_dir/app" "deploy.sh secrets init"
    idle=$(other_colour "$(active_colour)")
    checked=$(velum_of "$idle" "$release" config check 2>&1) || {
        printf '%s\n' "$checked" >&2
        fail "release $release refuses its settings (above)" "correct $home/deploy.conf or the files in $secrets_dir/app"
    }
    nginx_is_sound
}

# nginx reads its files at its next start, perhaps after a power cut: a broken one is found now.
nginx_is_sound() {
    local file checked check=()
    file=$(conf NGINX_CONF)
    case $file in
        none) return ;;
        "") [ ! -x "$here/nginx/start.sh" ] || mapfile -t check < <(nginx_of_ours) ;;
        *) check=(nginx -t -q -c "$file") ;;
    esac
    [ ${#check[@]} -gt 0 ] || return 0
    [ -x /usr/sbin/nginx ] || need nginx nginx
    checked=$(PATH=$PATH:/usr/sbin "${check[@]}" 2>&1) || {
        printf '%s\n' "$checked" >&2
        fail "nginx would not start with its files as they are (above)" "correct them, then deploy again"
    }
}
# Word by word: nginx/start.sh, with what deploy.conf says to it.
nginx_of_ours() {
    printf '%s\n' env VELUM_HOME="$home"
    conf_velum | grep -E '^VELUM_(ISSUER|REQUEST_TIMEOUT_S)=' || true
    conf_nginx
    printf '%s\n' "$here/nginx/start.sh" check
}

driver_base() {
    run mkdir -p "$run_dir" "$log_dir"
    run chmod 750 "$log_dir"
    give "$uid_velum:$gid_edge" "$run_dir"
    # Whatever is made in it belongs to the group that nginx is in.
    run chmod 2770 "$run_dir"
    if with_systemd; then
        install_units velum
        run systemctl enable --quiet velum-boot.service velum-worker.service
    fi
}
driver_stores_run() { :; } # the host's own

driver_migrate() {
    local release=$1
    shift
    velum_of migrate "$release" migrate "$@"
}

driver_start() { launch "$1" "$2" serve; }
driver_stop() { halt "$1"; }
driver_running() { [ -n "$(pid_of "$1")" ]; }
driver_release() { state "$1.release"; }
driver_ready() {
    [ -n "$(driver_release "$1")" ] &&
        driver_velum "$1" healthcheck --socket "$run_dir/$1.sock" --name "$inner_name" >/dev/null 2>&1
}
driver_velum() {
    local colour=$1
    shift
    velum_of "$colour" "$(driver_release "$colour")" "$@"
}
driver_smoke() {
    driver_velum "$1" smoke --socket "$run_dir/$1.sock" --name "$inner_name" --credential "$secrets_dir/smoke/client.json" \
        --samples "$releases_dir/$(driver_release "$1")/samples"
}
driver_tool() { velum_of tool "$@"; }
driver_metrics() { curl --silent --fail --max-time 10 "http://$(conf "${1^^}_METRICS_LISTEN")/metrics"; }
driver_in_flight() {
    driver_metrics "$1" |
        awk '$1 ~ /^velum_http_requests_in_flight/ { sum += $2; seen = 1 } END { if (!seen) exit 1; print sum }'
}

driver_worker() {
    halt worker
    launch worker "$1" worker
}
driver_worker_release() { [ -z "$(pid_of worker)" ] || state worker.release; }

# Elsewhere than under systemd, and on another host, it is somebody else's.
driver_keyholder_is_here() {
    { with_systemd && [ -e "$state_dir/keyholder.env" ]; } ||
        fail "no keyholder is run from here, and nothing was changed" \
            "deploy without --keyholder, then restart the keyholder where it runs, on bin/velum of $1"
}
# By its file, for it may be stopped and be started again. What leads there by a link counts, too.
driver_keyholder_release() {
    local program folder
    [ -e "$state_dir/keyholder.env" ] || return 0
    program=$(sed -n 's/^PROGRAM=//p' "$state_dir/keyholder.env" | tail -n 1 | tr -d "\"'")
    folder=$(readlink -m "/${program%/bin/velum}")
    [ "${folder%/*}" != "$(readlink -m "$releases_dir")" ] || printf '%s\n' "${folder##*/}"
}
driver_keyholder() {
    local file=$state_dir/keyholder.env rest
    rest=$(grep -v '^PROGRAM=' "$file") || true
    printf '%s\n' "PROGRAM=$releases_dir/$1/bin/velum" ${rest:+"$rest"} | write_file 640 "$file"
    run systemctl restart velum-keyholder.service
}

driver_in() {
    local service=$1 become=()
    shift
    case $service in
        blue | green | worker) as_velum ;;
        keyholder) as_user "$uid_keyholder" "$uid_keyholder" "$uid_keyholder" ;;
        # Debian's own servers have Debian's users.
        postgres | keystore | ledger) [ "$(id -u)" -ne 0 ] || become=(runuser -u postgres --) ;;
        redis) [ "$(id -u)" -ne 0 ] || become=(runuser -u redis --) ;;
        nginx) ;;
        *) fail "there is no service $service" "the services are blue, green, worker, keyholder, postgres, keystore, ledger, redis, nginx" ;;
    esac
    "${become[@]}" "$@"
}

driver_services() { printf '%s\n' blue green worker; }
driver_logs_elsewhere() {
    case $1 in
        nginx) printf 'journalctl --unit velum-nginx; of an nginx of your own: /var/log/nginx' ;;
        postgres | keystore | ledger) printf 'the logs of PostgreSQL are in /var/log/postgresql' ;;
        redis) printf 'less /var/log/redis/redis-server.log' ;;
        keyholder) printf 'journalctl --unit velum-keyholder, on its host' ;;
    esac
}
driver_profiles() { :; } # of containers alone
driver_logs() {
    local service=$1 lines=$2
    shift 2
    if with_systemd; then
        journalctl --no-pager --output cat --unit "$(unit_of "$service")" --lines "$lines" "$@"
    elif [ -e "$log_dir/$service.log" ]; then
        tail --lines "$lines" "$@" "$log_dir/$service.log"
    fi
}

driver_releases() {
    [ ! -d "$releases_dir" ] || find "$releases_dir" -mindepth 1 -maxdepth 1 -type d -printf '%T@ %f\n' | sort -rn | cut -d ' ' -f 2-
}
driver_remove() { run rm -rf "${releases_dir:?}/${1:?}"; }

driver_destroy() {
    local process
    for process in blue green worker; do halt "$process"; done
    run rm -rf "${data_dir:?}" "${run_dir:?}" "${log_dir:?}"
}
