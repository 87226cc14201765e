# shellcheck shell=bash disable=SC2034 # root, cache and venv are read by the scripts that source this
# Shared by the scripts beside it (sourced, never run): one announced line for each step, its duration, and which step
# failed. No step reads from the terminal and every step has a time limit.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/velum"
script=$(basename "$0")
step_name="start"
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$script" "$*" >&2
    step_name=""
    exit 1
}

# step LIMIT NAME COMMAND...    LIMIT as timeout(1) reads it, for instance 10m; COMMAND is a program, not a function
step() {
    local limit=$1 started=$SECONDS
    begin "$2"
    shift 2
    timeout --foreground --kill-after=10s "$limit" "$@" </dev/null || return
    say "    done in $((SECONDS - started)) s"
}

# The same for a talkative program: what it says is shown only when it fails.
quiet_step() {
    local limit=$1 started=$SECONDS status=0 log
    begin "$2"
    shift 2
    log=$(mktemp)
    timeout --foreground --kill-after=10s "$limit" "$@" </dev/null >"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    [ "$status" -eq 0 ] || return "$status"
    say "    done in $((SECONDS - started)) s"
}

# begin NAME    a step that the script runs itself, for instance because it needs the terminal
begin() {
    step_name=$1
    say "==> $1"
}

# On any failure the script names its step. A script that sets its own EXIT trap calls this from there.
trap 'explain_exit $?' EXIT
explain_exit() {
    { [ "$1" -eq 0 ] || [ -z "$step_name" ]; } && return
    if [ "$1" -eq 124 ]; then
        printf '%s: the step "%s" ran longer than its time limit\n' "$script" "$step_name" >&2
    else
        printf '%s: the step "%s" failed (exit status %s)\n' "$script" "$step_name" "$1" >&2
    fi
}

# The words to put before a command that needs root; none when there is no way. sudo may ask where somebody can answer.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        printf 'env'
    elif command -v sudo >/dev/null; then
        if [ -t 2 ]; then printf 'sudo'; else printf 'sudo --non-interactive'; fi
    fi
}

# Where this machine's packages of Debian come from.
debian_mirror() {
    local uri
    # shellcheck disable=SC2016 # the name is apt's
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sed -n '\#/debian/*$#p')
    [ -n "$uri" ] || fail "apt knows no archive of Debian here: apt-get update"
    uri=${uri%%$'\n'*}
    printf '%s' "${uri%/}"
}

# pinned_venv NAME REQUIREMENTS    a Python environment with exactly those packages, made once; leaves its folder in `venv`
pinned_venv() {
    local lock
    venv="$cache/$1-$(sha256sum "$2" | cut -c 1-16)"
    mkdir -p "$cache"
    # Several scripts at once may want it: one makes it, the others wait.
    exec {lock}>"$venv.lock"
    flock "$lock"
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$venv"
        step 5m "a place for $1" python3 -m venv "$venv"
        step 10m "$1, pinned" "$venv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: --requirement "$2"
        touch "$venv/complete"
    fi
    exec {lock}>&-
}

# shipped_program    builds the program as it is shipped, unless VELUM_TEST_BINARY names one; leaves its path there
shipped_program() {
    [ -z "${VELUM_TEST_BINARY:-}" ] || return 0
    step 60m "the program" cargo build --quiet --release --locked --bin velum
    export VELUM_TEST_BINARY="${CARGO_TARGET_DIR:-$root/target}/release/velum"
}

# missing_packages NAME...    prints those that are not installed
missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null) == *'ok installed' ]] || printf '%s\n' "$package"
    done
}

# install_packages NAME...    asks apt only for what is missing, so that a second run needs no network and no rights
install_packages() {
    local missing become
    mapfile -t missing < <(missing_packages "$@")
    if [ ${#missing[@]} -eq 0 ]; then
        say "==> Debian packages: all there"
        return
    fi
    become=$(as_root)
    [ -n "$become" ] || fail "these Debian packages are missing and neither root nor sudo is at hand: ${missing[*]}"
    local apt=(apt-get -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300)
    # shellcheck disable=SC2086 # "sudo --non-interactive" is two words on purpose
    step 5m "package lists" $become "${apt[@]}" update --quiet --quiet
    # shellcheck disable=SC2086
    quiet_step 15m "Debian packages: ${missing[*]}" $become env DEBIAN_FRONTEND=noninteractive \
        "${apt[@]}" install --yes --quiet --quiet --no-install-recommends "${missing[@]}"
}
