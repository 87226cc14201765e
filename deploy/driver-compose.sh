# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# DRIVER=compose: the verbs of driver-process.sh over Docker Compose v2 and docker-compose.prod.yml. A release is a tag of the
# image velum/app; what a colour runs is read from its container.
#
# Compose makes containers; what is there is asked of the engine itself. Each call of Compose resolves the whole file first, which
# takes longer than the engine's answer, and a switch asks often.

app_image=velum/app
# `required` of an env_file is understood since then.
compose_needed=2.24
compose_mend="scripts/docker-engine.sh install brings the compose plugin"

# Services of each profile that PROFILES may name: those from Debian's packages, and those of published images.
monitoring_services=(prometheus alertmanager exporter_postgres exporter_keystore exporter_ledger exporter_redis exporter_nginx exporter_host
    blackbox)
monitoring_published=(grafana)
logging_services=()
logging_published=(fluent_bit elasticsearch elasticsearch_setup kibana)

# compose ARGS...    with the variables that docker-compose.prod.yml asks for; `release` says which of worker and one-shot services,
# `settings_draft` what is tried in place of the settings that were written last
compose() {
    local name variables=() options=(--file "$here/docker-compose.prod.yml" --profile serve)
    for name in PUBLISH_ADDRESS HTTP_PORT HTTPS_PORT STORAGE_INTERNAL APP_CPUS APP_MEMORY WORKER_CPUS WORKER_MEMORY POSTGRES_CPUS POSTGRES_MEMORY \
        METRICS_DAYS LOG_DAYS; do
        variables+=("VELUM_$name=$(conf "$name")")
    done
    keyholder_is_here ||
        variables+=("VELUM_KEYHOLDER=$(conf_velum_value VELUM_KEYHOLDER)" VELUM_KEYHOLDER_INTERNAL=false)
    [ -z "${settings_draft:-}" ] || variables+=("VELUM_SETTINGS=$settings_draft")
    for name in $(conf PROFILES); do options+=(--profile "$name"); done
    # What containers say goes to Fluent Bit then.
    ! with_profile logging || options+=(--file "$here/docker-compose.logging.yml")
    env "${variables[@]}" VELUM_HOME="$home" VELUM_RELEASE="${release:-none}" VELUM_BLUE="${blue_release:-none}" \
        VELUM_GREEN="${green_release:-none}" docker compose --project-name "$(conf COMPOSE_PROJECT)" "${options[@]}" "$@"
}
compose_service() { case $1 in blue | green) printf 'app_%s' "$1" ;; *) printf '%s' "$1" ;; esac; }

keyholder_is_here() { [ -z "$(conf_velum_value VELUM_KEYHOLDER)" ]; }
with_profile() { [[ " $(conf PROFILES) " == *" $1 "* ]]; }
profiles_are_known() {
    local name
    for name in $(conf PROFILES); do
        [[ $name =~ ^(monitoring|logging)$ ]] || fail "PROFILES names $name" "monitoring and logging are what there is: correct $home/deploy.conf"
    done
}
# quietly CMD ARG..    as `run`, without what it says on standard output
quietly() { if dry; then run "$@"; else "$@" >/dev/null; fi; }
# services_of PROFILE
services_of() {
    local -n ours=$1_services published=$1_published
    printf '%s\n' "${ours[@]}" "${published[@]}" | sed '/^$/d'
}
# What both colours stand on.
stores() {
    printf '%s\n' postgres keystore ledger redis
    ! keyholder_is_here || printf 'keyholder\n'
    printf 'nginx\n'
}

# containers [OPTIONS...]    of this installation, those of one-shot commands left out; the newest first
containers() {
    docker ps --filter "label=com.docker.compose.project=$(conf COMPOSE_PROJECT)" --filter label=com.docker.compose.oneoff=False "$@"
}
# container_of SERVICE [OPTIONS...]    its id. Of several the newest: a run was killed while one took the other's place
container_of() {
    local found
    found=$(containers --all --quiet --filter "label=com.docker.compose.service=$(compose_service "$1")" "${@:2}" 2>/dev/null)
    printf '%s' "${found%%$'\n'*}"
}
running_container_of() { container_of "$1" --filter status=running; }
release_of() {
    local image
    [ -n "$1" ] || return 0
    image=$(docker inspect --format '{{.Config.Image}}' "$1")
    printf '%s\n' "${image#"$app_image:"}"
}
inside() {
    local container
    container=$(running_container_of "$1")
    if [ -z "$container" ]; then
        printf 'deploy.sh: %s does not run.\n' "$1" >&2
        return 1
    fi
    docker exec "$container" "${@:2}"
}

driver_answers() {
    need docker docker.io
    docker version >/dev/null 2>&1 || fail "the Docker engine does not answer" "systemctl start docker, or set DOCKER_HOST"
}

driver_preflight() {
    local version said_by_compose
    need curl curl
    need jq jq
    version=$(docker compose version --short 2>/dev/null) || version=""
    at_least "$compose_needed" "${version#v}" ||
        fail "Docker Compose $compose_needed or later is missing${version:+, this is $version}" "$compose_mend"
    docker image inspect "$app_image:$1" >/dev/null 2>&1 ||
        fail "there is no release $1: the image $app_image:$1 is missing" "docker load or build it; deploy.sh status lists those that are"
    [ -d "$secrets_dir/app" ] || fail "there are no secrets in $secrets_dir/app" "deploy.sh secrets init $1"
    profiles_are_known
    for version in METRICS_DAYS LOG_DAYS; do conf_number "$version" >/dev/null; done
    said_by_compose=$(compose config --quiet 2>&1) || {
        printf '%s\n' "$said_by_compose" >&2
        fail "docker-compose.prod.yml cannot be used (above)" "correct it or $home/deploy.conf"
    }
    settings_are_sound "$1"
}

# By what deploy.conf says now, before it is written for anybody.
settings_are_sound() {
    local release=$1 blue_release=$1 settings_draft resolved checked
    settings_draft=$(mktemp)
    program_settings >"$settings_draft"
    resolved=$(compose config --format json)
    rm -f "$settings_draft"
    checked=$(alone app_blue config check 2>&1) || {
        printf '%s\n' "$checked" >&2
        fail "release $release refuses its settings (above)" "correct $home/deploy.conf or the files in $secrets_dir/app"
    }
    # The container that runs goes on; one that starts anew, after a power cut for instance, would not. Where its image is not
    # built yet, its first start is the check.
    [ "$(conf NGINX_CONF)" = none ] || ! docker image inspect "$(of_service nginx .image)" >/dev/null 2>&1 || checked=$(alone nginx check 2>&1) || {
        printf '%s\n' "$checked" >&2
        fail "nginx would not start with its files as they are (above)" "correct them, then deploy again"
    }
}
# of_service NAME FILTER    of what Compose has `resolved`
of_service() { jq --raw-output --arg name "$1" ".services[\$name] | $2" <<<"$resolved"; }
# alone SERVICE ARGS...    its program with its user, settings and secrets, and without network, sockets or data: Compose would
# make networks and folders for it.
alone() {
    local environment words=() folder status=0
    environment=$(mktemp)
    # Compose writes $ twice.
    of_service "$1" '.environment | to_entries[] | select(.value != null) | "\(.key)=\(.value)" | gsub("[$][$]"; "$")' >"$environment"
    mapfile -t words < <(of_service "$1" '"--user", .user, (.tmpfs // [] | .[] | "--tmpfs", .)')
    while IFS= read -r folder; do
        [[ $folder != "$secrets_dir"/* ]] || [ ! -d "$folder" ] || words+=(--volume "$folder:$folder:ro")
    done < <(of_service "$1" '.volumes // [] | .[].source')
    docker run --rm --network none --read-only --cap-drop ALL --security-opt no-new-privileges --ulimit core=0 --env-file "$environment" \
        "${words[@]}" "$(of_service "$1" .image)" "${@:2}" || status=$?
    rm -f "$environment"
    return "$status"
}

driver_base() {
    local release=$1 wanted profile
    make_folder "$uid_velum:$gid_edge" run
    # Whatever is made in it belongs to the group that nginx is in.
    run chmod 2770 "$run_dir"
    make_folder 0:0 acme state/metrics
    make_folder "$uid_velum:$uid_velum" secrets/smoke
    make_folder "$uid_postgres:$uid_postgres" data/{postgres,keystore,ledger} backups/{main,keystore,ledger}
    make_folder "$uid_redis:$uid_redis" data/redis
    ! keyholder_is_here || make_folder "$uid_keyholder:$uid_keyholder" data/keyholder
    program_settings | write_file 644 "$state_dir/velum.env"
    # What runs is left as it is: a deploy changes the program and nothing that both colours stand on.
    mapfile -t wanted < <(stores)
    run compose up --detach --wait --no-recreate "${wanted[@]}" ||
        fail "what the colours stand on does not all run, or not in time (above)" "deploy.sh logs SERVICE says why; then deploy again"
    for profile in monitoring logging; do
        if with_profile "$profile"; then start_profile "$profile"; else end_profile "$profile"; fi
    done
    # The engine starts containers again by itself.
    ! with_systemd || install_units velum-backup velum-doctor
}
driver_stores_run() {
    local service
    for service in postgres keystore ledger; do driver_running "$service" || return 1; done
}
make_folder() {
    local owner=$1 folder
    for folder in "${@:2}"; do
        [ -d "$home/$folder" ] || run mkdir -p "$home/$folder"
        give "$owner" "$home/$folder"
    done
}

# Who watches hinders nobody: what cannot be started is named, and the deploy goes on.
start_profile() {
    local group
    case $1 in
        monitoring) make_folder 10006:10006 data/{prometheus,alertmanager} ;;
        logging)
            make_folder 10007:10007 data/fluent-bit
            make_folder 1000:1000 data/elasticsearch
            ;;
    esac
    # Apart, for published images may be out of reach.
    for group in services published; do
        local -n group_services=$1_$group
        [ ${#group_services[@]} -eq 0 ] || run compose up --detach "${group_services[@]}" ||
            warn "of the profile $1 these were not started: ${group_services[*]} (above)"
    done
}
# One that PROFILES does not name any more; its data stay.
end_profile() {
    local service id found=()
    while read -r id service; do
        ! grep -qxF -- "$service" <<<"$(services_of "$1")" || found+=("$id")
    done < <(containers --all --format '{{.ID}} {{.Label "com.docker.compose.service"}}')
    [ ${#found[@]} -eq 0 ] || quietly docker rm --force "${found[@]}"
}

# What the containers of Velum and nginx are given besides docker-compose.prod.yml.
program_settings() {
    # Over the socket nginx counts as 127.0.0.1, and says who calls.
    printf 'VELUM_TRUSTED_PROXIES=127.0.0.1\n'
    conf_velum
    conf_nginx
}

driver_migrate() {
    local release=$1
    shift
    compose run --rm --no-TTY --no-deps migrate migrate "$@"
}

driver_start() {
    local blue_release="" green_release="" release=$2
    local -n release_here=$1_release
    release_here=$2
    run compose up --detach --no-deps --force-recreate "$(compose_service "$1")"
}
# How long it may take its container knows. One that ends and is started again, over and over, does not run this moment.
driver_stop() {
    local found
    mapfile -t found < <(containers --all --quiet --filter "label=com.docker.compose.service=$(compose_service "$1")")
    [ ${#found[@]} -eq 0 ] || quietly docker stop "${found[@]}"
}
driver_running() { [ -n "$(running_container_of "$1")" ]; }
driver_release() { release_of "$(container_of "$1")"; }
driver_velum() {
    local colour=$1
    shift
    inside "$colour" velum "$@"
}
driver_ready() { driver_velum "$1" healthcheck --socket "$run_dir/$1.sock" --name "$inner_name" >/dev/null 2>&1; }
driver_smoke() {
    driver_velum "$1" smoke --socket "$run_dir/$1.sock" --name "$inner_name" --credential "$secrets_dir/smoke/client.json"
}
# A terminal is handed on. Behind a pipe Compose takes standard input as it is.
driver_tool() {
    local release=$1 options=(--rm --no-deps --quiet-pull)
    { [ -t 0 ] && [ -t 1 ]; } || options+=(--no-TTY)
    compose --progress quiet run "${options[@]}" tools "${@:2}"
}
driver_metrics() {
    local address
    # This host reaches the inner networks' addresses, though nothing of them is published.
    for address in $(docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$(container_of "$1")"); do
        curl --silent --fail --max-time 10 "http://$address:9464/metrics" && return
    done
    return 1
}
driver_in_flight() {
    driver_metrics "$1" |
        awk '$1 ~ /^velum_http_requests_in_flight/ { sum += $2; seen = 1 } END { if (!seen) exit 1; print sum }'
}

driver_worker() {
    local release=$1
    run compose up --detach --no-deps --force-recreate worker
}
driver_worker_release() { release_of "$(running_container_of worker)"; }

driver_keyholder_is_here() {
    keyholder_is_here ||
        fail "the keyholder is on another host ($(conf_velum_value VELUM_KEYHOLDER)), and nothing was changed" \
            "deploy without --keyholder, then bring $1 to the keyholder where it runs"
}
driver_keyholder_release() { release_of "$(container_of keyholder)"; }
driver_keyholder() {
    local release=$1
    run compose run --rm --no-TTY --no-deps keyholder_migrate
    # At later starts it comes before the keyholder, so it is of the same release; the old one would keep its image.
    run compose create --force-recreate keyholder_migrate
    run compose up --detach --no-deps --force-recreate keyholder
}

driver_in() { inside "$@"; }
# For restores: a service that others stand on, stopped and started again, and its files while it does not run.
driver_service_stop() { driver_stop "$1"; }
driver_service_start() { run compose up --detach --wait --no-recreate "$1"; }
driver_apart() {
    local service=$1
    shift
    compose run --rm --no-TTY --no-deps --entrypoint "$1" "$service" "${@:2}"
}
driver_logs_elsewhere() { :; }
driver_services() {
    local profile
    printf '%s\n' blue green worker
    stores
    for profile in $(conf PROFILES); do services_of "$profile"; done
}
driver_profiles() {
    local profile service condition running
    running=$(containers --filter status=running --format '{{.Label "com.docker.compose.service"}}')
    for profile in $(conf PROFILES); do
        while IFS= read -r service; do
            [ "$service" != elasticsearch_setup ] || continue # one shot
            if grep -qxF -- "$service" <<<"$running"; then condition=running; else condition=stopped; fi
            printf '%s %s %s\n' "$profile" "$service" "$condition"
        done < <(services_of "$profile")
    done
}
driver_logs() {
    local container
    container=$(container_of "$1")
    [ -n "$container" ] || fail "$1 was never started" "deploy.sh status"
    docker logs --tail "$2" "${@:3}" "$container" 2>&1
}

driver_releases() { docker image ls "$app_image" --format '{{.Tag}}' | grep -v '^<none>$' || true; }
driver_remove() {
    local service
    # A stopped container holds its image.
    for service in blue green worker keyholder_migrate; do
        [ "$(driver_release "$service")" != "$1" ] || run compose rm --force "$(compose_service "$service")"
    done
    run docker image rm "$app_image:$1"
}
driver_destroy() {
    run compose --profile '*' down --remove-orphans
    run rm -rf "${data_dir:?}" "${run_dir:?}"
}
