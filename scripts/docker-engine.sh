#!/usr/bin/env bash
# A container engine for tests, on its own socket and in a folder of its own. Where an engine answers already, that one is used.
# usage: scripts/docker-engine.sh install         engine, Compose v2 and buildx from Debian; starts nothing
#        scripts/docker-engine.sh start FOLDER    the last line says where it is: DOCKER_HOST=unix://...
#        scripts/docker-engine.sh stop FOLDER     stops it and removes what it left on this machine, but not FOLDER: images stay
# Exit status 77 and a line "skipped: why" where no engine can run.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

readonly skipped=77 # as automake has it
skip() {
    say "skipped: $1"
    step_name=""
    exit "$skipped"
}

install_engine() {
    command -v dockerd >/dev/null || install_packages docker.io iptables
    if ! docker compose version >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
        install_plugins
    fi
    say "    $(docker version --format 'client {{.Client.Version}}' 2>/dev/null || true), $(docker compose version), $(docker buildx version)"
}

# Debian 12 has neither plugin, the next release has both. They depend on libc alone, and are fetched past apt's own lists: no
# other package of this machine moves to another release.
install_plugins() {
    local become work apt
    become=$(as_root)
    [ -n "$become" ] || fail "Docker's plugins are missing and neither root nor sudo is at hand"
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial"
    printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' "$(debian_mirror)" \
        /usr/share/keyrings/debian-archive-keyring.gpg >"$work/trixie.sources"
    apt=(apt-get --quiet --quiet -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o APT::Sandbox::User=root
        -o Dir::Etc::sourcelist="$work/trixie.sources" -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists="$work/lists"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
    quiet_step 5m "package lists of the next Debian" "${apt[@]}" update
    (cd "$work" && quiet_step 10m "Docker's plugins compose and buildx" "${apt[@]}" download docker-compose docker-buildx)
    # shellcheck disable=SC2086 # "sudo --non-interactive" is two words on purpose
    quiet_step 5m "their installation" $become dpkg --install "$work"/docker-compose_*.deb "$work"/docker-buildx_*.deb
    rm -rf "$work"
}

# What would stop an engine, in words; nothing when it can be tried.
obstacle() {
    local name
    [ "$(uname -s)" = Linux ] || { printf 'this is no Linux'; return; }
    [ "$(id -u)" -eq 0 ] || { printf 'an engine needs root, and this is user %s' "$(id -un)"; return; }
    [ -d /sys/fs/cgroup ] || { printf 'there are no control groups'; return; }
    unshare --mount --net --pid --fork true 2>/dev/null || { printf 'namespaces cannot be made here (a container without rights?)'; return; }
    for name in memory cpu pids; do
        grep -qsw "$name" /proc/cgroups /sys/fs/cgroup/cgroup.controllers || { printf 'control group %s is missing' "$name"; return; }
    done
    iptables --table nat --list-rules >/dev/null 2>&1 || printf 'iptables cannot be used'
}

start_engine() {
    local folder=$1 why
    if docker info >/dev/null 2>&1; then
        say "    an engine answers already"
        say "DOCKER_HOST=${DOCKER_HOST:-unix:///var/run/docker.sock}"
        return
    fi
    mkdir -p "$folder"
    folder=$(cd "$folder" && pwd)
    export DOCKER_HOST="unix://$folder/docker.sock"
    why=$(obstacle)
    [ -z "$why" ] || skip "$why"
    [ ! -e "$folder/pid" ] || ! kill -0 "$(cat "$folder/pid")" 2>/dev/null || fail "an engine runs in $folder already"
    begin "container engine in $folder"
    # What the machine had before is left to it at the end.
    iptables-save >"$folder/iptables.before"
    cat /proc/sys/net/ipv4/ip_forward >"$folder/ip_forward.before"
    ip link show docker0 >/dev/null 2>&1 || : >"$folder/bridge_is_ours"
    rm -f "$folder/pid"
    setsid dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/pid" --host "$DOCKER_HOST" \
        </dev/null >"$folder/log" 2>&1 &
    local dockerd=$! attempt
    for attempt in {1..150}; do
        ! docker info >/dev/null 2>&1 || break
        kill -0 "$dockerd" 2>/dev/null || break
        sleep 0.2
    done
    if ! docker info >/dev/null 2>&1; then
        why=$(grep -o 'failed to start daemon.*\|level=fatal.*' "$folder/log" | tail -n 1)
        stop_engine "$folder" >/dev/null
        skip "the engine does not start: ${why:-see $folder/log} ($attempt attempts)"
    fi
    say "    $(docker info --format 'engine {{.ServerVersion}}, {{.Driver}}, cgroup v{{.CgroupVersion}}')"
    say "DOCKER_HOST=$DOCKER_HOST"
}

# A table that was not there before is not in the file, and `iptables-restore` leaves it alone.
restore_rules() {
    local table chain
    iptables-restore <"$1"
    for table in nat filter; do
        ! grep -qx "\*$table" "$1" || continue
        iptables --table "$table" --flush
        iptables --table "$table" --delete-chain
        for chain in INPUT FORWARD OUTPUT; do iptables --table "$table" --policy "$chain" ACCEPT 2>/dev/null || true; done
    done
}

stop_engine() {
    local folder=$1 pid interface
    [ -e "$folder/log" ] || { say "    no engine of ours in $folder"; return 0; }
    begin "container engine in $folder stopped"
    pid=$(cat "$folder/pid" 2>/dev/null || true)
    if [ -n "$pid" ] && kill "$pid" 2>/dev/null; then
        # It stops every container first, each with its own time.
        for _ in {1..600}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.2
        done
        kill -KILL "$pid" 2>/dev/null || true
    fi
    findmnt --raw --noheadings --output TARGET | { grep "^$folder/" || true; } | sort --reverse |
        while read -r mount; do umount --lazy "$mount" || true; done
    # Docker leaves its bridges and rules behind.
    for interface in $(ip -brief link show type bridge | cut -d ' ' -f 1 | grep '^br-' || true); do
        grep -qs "$interface" "$folder/log" "$folder"/data/network/files/local-kv.db && ip link delete "$interface"
    done
    [ ! -e "$folder/bridge_is_ours" ] || ip link delete docker0 2>/dev/null || true
    [ ! -e "$folder/iptables.before" ] || restore_rules "$folder/iptables.before"
    [ ! -e "$folder/ip_forward.before" ] || cat "$folder/ip_forward.before" >/proc/sys/net/ipv4/ip_forward
    rm -rf "$folder/exec" "$folder/pid" "$folder/docker.sock" "$folder"/*.before "$folder/bridge_is_ours" "$folder/log"
}

case ${1:-}/$# in
    install/1) install_engine ;;
    start/2) start_engine "$2" ;;
    stop/2) stop_engine "$2" ;;
    *) fail "usage: scripts/docker-engine.sh install | start FOLDER | stop FOLDER" ;;
esac
