# shellcheck shell=bash disable=SC2034 # many names here are read by the files that are sourced after this one
# What every file of deploy/ uses: progress lines, errors, --dry-run, settings, lock, state. Sourced by deploy.sh, never run.
#
# A command NAME of deploy.sh lives in a file of deploy/ and is two functions: command_NAME ARGUMENTS... and help_NAME, which
# prints its help: a usage line, then a line that says what it does, then more. deploy.sh has read the settings before it calls
# command_NAME. What changes the installation calls take_lock first.

here=${here:?deploy.sh sets it: the folder of the repository}

# Under `pipefail` never end a pipe early (`| grep -q`, `| head`): who still writes into it is killed, and the pipe fails.

# ---- progress, errors, --dry-run --------------------------------------------------------------------------------------------
# begin NAME           ==> NAME
# say TEXT             a line of progress
# warn TEXT            a line on standard error; the run goes on
# step NAME CMD ARG..  begin NAME, run CMD (program or function, also in a dry run: what changes things inside is behind `run`),
#                      then its duration
# fail CAUSE NEXT      one sentence of cause, one of what to do now, and exit with 1; also from inside $( )
# run CMD ARG..        CMD, which changes something; a dry run prints it and does nothing
# dry                  true in a dry run

readonly said=70 # status of a shell that has told its cause already
dry_run=${dry_run:-}
step_name=""

say() { printf '%s\n' "$*"; }
begin() {
    step_name=$1
    say "==> $1"
}
warn() { printf 'deploy.sh: warning: %s\n' "$*" >&2; }
fail() {
    printf 'deploy.sh: %s\n' "${1%.}." >&2
    [ -z "${2:-}" ] || printf 'deploy.sh: next: %s\n' "$2" >&2
    exit "$said"
}
step() {
    local started=$EPOCHREALTIME
    begin "$1"
    shift
    "$@"
    say "    done in $(since "$started") s"
}
# indented CMD ARG..   CMD, with what it says on standard output four spaces to the right, as the lines of a step are
indented() { "$@" | sed 's/^/    /'; }
dry() { [ -n "$dry_run" ]; }
run() {
    if dry; then
        printf '    would run:%s\n' "$(printf ' %q' "$@")"
    else
        "$@"
    fi
}

# deploy.sh calls it in its trap on EXIT: which step failed, unless the cause was told; then what `undo` names, a function that
# takes back what a failed run has begun.
undo=""
explain_exit() {
    local status=$1
    [ "$status" -ne 0 ] || return 0
    trap - EXIT
    case $status in
        "$said") status=1 ;;
        130 | 143) printf 'deploy.sh: broken off; what was begun is finished by running it again.\n' >&2 ;;
        *) [ -z "$step_name" ] || printf 'deploy.sh: the step "%s" failed (exit status %s).\n' "$step_name" "$status" >&2 ;;
    esac
    set +e
    [ -z "$undo" ] || "$undo"
    exit "$status"
}

# need PROGRAM PACKAGE
need() { command -v "$1" >/dev/null || fail "the program $1 is missing" "apt-get install $2"; }

# confirm WORD QUESTION    true when exactly WORD is typed (standard input); in a dry run nothing is asked
confirm() {
    local typed=""
    dry && return 0
    printf '%s\nType %s to go on: ' "$2" "$1"
    read -r typed || true
    [ "$typed" = "$1" ]
}

# ---- time and text ----------------------------------------------------------------------------------------------------------
now() { date -u +%Y-%m-%dT%H:%M:%SZ; }

# since START    seconds with three decimals since START, a value of $EPOCHREALTIME
since() {
    local end=$EPOCHREALTIME
    local microseconds=$((${end/[.,]/} - ${1/[.,]/}))
    printf '%d.%03d' $((microseconds / 1000000)) $((microseconds % 1000000 / 1000))
}

# json NAME VALUE NAME VALUE...    one JSON object on one line; NAME:raw takes VALUE (number, true, null, object) as it is
json() {
    local text="" name value
    while [ $# -gt 0 ]; do
        name=$1 value=$2
        shift 2
        case $name in
            *:raw) name=${name%:raw} ;;
            *) value="\"$(json_text "$value")\"" ;;
        esac
        text+="${text:+,}\"$name\":$value"
    done
    printf '{%s}\n' "$text"
}
json_text() {
    local text=$1
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/\\t}
    printf '%s' "$text" | tr -d '\000-\037'
}

# at_least WANTED FOUND    of two versions
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort --version-sort | sed -n 1p)" = "$1" ]; }

# whole_lines FILE    the JSON objects of a record that grows by lines. A full disk or a power cut may have torn one of them.
whole_lines() { jq --compact-output --raw-input 'fromjson? | objects' "$1"; }

# ---- files ------------------------------------------------------------------------------------------------------------------
# write_file MODE PATH    standard input becomes PATH by one rename, so that nobody sees half a file
write_file() {
    local mode=$1 path=$2 temporary
    if dry; then
        say "    would write: $path (mode $mode)"
        cat >/dev/null
        return
    fi
    temporary=$(mktemp "$(dirname "$path")/.$(basename "$path").XXXXXX") ||
        fail "cannot write beside $path" "look at free space and rights: df -h $(dirname "$path")"
    if ! { cat >"$temporary" && chmod "$mode" "$temporary" && sync "$temporary" && mv -fT "$temporary" "$path"; }; then
        rm -f "$temporary"
        fail "cannot write $path" "look at free space and rights: df -h $(dirname "$path")"
    fi
}

# ---- who runs what: the same numbers in images and on bare metal -------------------------------------------------------------
readonly uid_velum=10001 uid_keyholder=10002 uid_postgres=10003 uid_redis=10004 uid_nginx=10005
readonly gid_edge=10010 # velum and nginx: the folder of the sockets

# The name in the certificate that the program shows to nginx and to us.
readonly inner_name=velum.internal

# give OWNER:GROUP PATH...    chown where we are root; elsewhere everything belongs to whoever runs this
give() {
    [ "$(id -u)" -ne 0 ] || run chown "$@"
}

# ---- settings ---------------------------------------------------------------------------------------------------------------
# deploy/deploy.conf.example lists every setting with its default, one `#NAME=default` a line: what is not there is unknown.
# $VELUM_HOME/deploy.conf says what differs. Lines VELUM_NAME=value are settings of the program and passed on as they are.
# conf NAME            prints the value
# conf_velum           prints the VELUM_NAME=value lines
# conf_velum_value VELUM_NAME [DEFAULT]    prints what they say of one; the last line counts
# conf_nginx           prints the NGINX_NAME=value lines that say something
# read_conf            reads both files
# read_defaults        reads the first alone
declare -A conf_values=()
conf_velum_lines=()

# Paths, after set_home.
home="" secrets_dir="" run_dir="" state_dir="" data_dir="" backups_dir="" releases_dir=""
set_home() {
    home=$1
    [[ $home == /* ]] || fail "the home $home is no absolute path" "say --home /srv/velum, for instance"
    secrets_dir=$home/secrets run_dir=$home/run state_dir=$home/state data_dir=$home/data
    backups_dir=$home/backups releases_dir=$home/releases
}

conf() {
    [ -n "${conf_values[$1]+set}" ] || fail "$1 is no setting of deploy.conf" "add it to deploy/deploy.conf.example"
    printf '%s' "${conf_values[$1]}"
}
conf_nginx() {
    local name
    for name in "${!conf_values[@]}"; do
        [[ $name != NGINX_* || $name == NGINX_CONF || -z ${conf_values[$name]} ]] || printf '%s=%s\n' "$name" "${conf_values[$name]}"
    done | sort
}
conf_velum_value() {
    local line value=${2:-}
    for line in "${conf_velum_lines[@]}"; do
        [[ $line != "$1="* ]] || value=${line#*=}
    done
    printf '%s' "$value"
}
conf_velum() { [ ${#conf_velum_lines[@]} -eq 0 ] || printf '%s\n' "${conf_velum_lines[@]}"; }

read_conf() {
    local line file=$home/deploy.conf
    read_defaults
    [ -e "$file" ] || fail "there is no $file" "copy deploy/deploy.conf.example there and set VELUM_ISSUER (or say --home FOLDER)"
    owned_safely "$file"
    local number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        [[ $line =~ ^[[:space:]]*(#.*)?$ ]] || conf_line "$line" "$file, line $number"
    done <"$file"
}
read_defaults() {
    local line
    while IFS= read -r line; do
        [[ $line =~ ^#VELUM_ || ! $line =~ ^#([A-Z][A-Z0-9_]*)=(.*)$ ]] || conf_values[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
    done <"$here/deploy/deploy.conf.example"
}

# Whoever can write the settings decides what root runs.
owned_safely() {
    local owner mode
    read -r owner mode < <(stat -L -c '%u %a' "$1")
    { [ "$owner" -eq 0 ] || [ "$owner" -eq "$(id -u)" ]; } ||
        fail "$1 belongs to user $owner" "chown root $1"
    [ $((8#$mode & 8#022)) -eq 0 ] || fail "$1 can be written by others (mode $mode)" "chmod go-w $1"
}

conf_line() {
    local line=$1 where=$2 name value
    [[ $line =~ ^([A-Z][A-Z0-9_]*)=(.*)$ ]] || fail "$where: expected NAME=value" "correct the line: $line"
    name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    [[ ! $value =~ ^[\"\'] ]] || fail "$where: the value of $name stands in quotes" "write it without: it is taken as it is"
    case $name in
        VELUM_DATABASE_URL | VELUM_KEYSTORE_URL | VELUM_LEDGER_URL | VELUM_REDIS_URL | VELUM_KEYHOLDER_JOURNAL_URL | \
            VELUM_JWT_SIGNING_KEY | VELUM_CLIENT_SECRET_PEPPER | VELUM_BLIND_INDEX_KEY)
            fail "$where: $name is a secret and this file holds none" "put it below $secrets_dir (secrets/README.md says where)"
            ;;
        VELUM_MODE | VELUM_LISTEN | VELUM_LISTEN_SOCKET | VELUM_METRICS_LISTEN | VELUM_WORKER | VELUM_DATA_DIR | \
            VELUM_SECRETS_DIR | VELUM_FHE_DIR | VELUM_SMOKE_*)
            fail "$where: $name is set by deploy.sh for each process" "remove the line"
            ;;
        VELUM_*) conf_velum_lines+=("$name=$value") ;;
        *)
            [ -n "${conf_values[$name]+set}" ] ||
                fail "$where: $name is unknown" "deploy/deploy.conf.example lists every setting"
            conf_values[$name]=$value
            ;;
    esac
}

# conf_number NAME    the value, which must be a whole number
conf_number() {
    local value
    value=$(conf "$1")
    [[ $value =~ ^[0-9]+$ ]] || fail "the setting $1 is \"$value\", expected a whole number" "correct $home/deploy.conf"
    printf '%s' "$value"
}

# conf_yes NAME    true when the setting says yes, false when it says no
conf_yes() {
    case ${conf_values[$1]} in
        yes) return 0 ;;
        no) return 1 ;;
        *) fail "the setting $1 is \"${conf_values[$1]}\", expected yes or no" "correct $home/deploy.conf" ;;
    esac
}

# ---- state ------------------------------------------------------------------------------------------------------------------
# state NAME                what $VELUM_HOME/state/NAME says, or nothing
# set_state NAME VALUE
# note WHAT NAME VALUE...   a line of $VELUM_HOME/state/deploys.log: {"at":...,"what":WHAT,NAME:VALUE,...}
state() { [ ! -e "$state_dir/$1" ] || cat "$state_dir/$1"; }
set_state() { printf '%s\n' "$2" | write_file 644 "$state_dir/$1"; }
note() {
    dry && return
    # History, and nothing is decided by it: a full disk must not stop a switch half-way.
    { json at "$(now)" what "$@" >>"$state_dir/deploys.log"; } 2>/dev/null || warn "cannot write $state_dir/deploys.log"
}

# ---- lock -------------------------------------------------------------------------------------------------------------------
# take_lock WORDS...    from here to the end of this shell no other run changes anything. A dry run needs none.
# The lock is the kernel's: it ends with its holders, however they end. A process that outlives the run must not inherit it:
# start it with `{lock_fd}>&-`, as the drivers do.
lock_fd=9
take_lock() {
    local holder=""
    dry && return
    mkdir -p "$state_dir"
    exec 9>>"$state_dir/lock"
    if ! flock --nonblock 9; then
        holder=$(cat "$state_dir/lock")
        if [ -n "$holder" ] && ! holder_lives "$holder"; then
            say "a run that was killed ($(holder_words "$holder")) left a command at work: waiting for its end"
            flock --timeout 120 9 || fail "what a killed run has started still works on" "fuser -v $state_dir/lock names it"
        else
            fail "another run is at work: $(holder_words "$holder")" "wait for its end; nothing was changed"
        fi
    fi
    # For whoever comes meanwhile; on a full disk he is told less.
    { printf '%s %s %s %s\n' "$$" "$(started_at $$)" "$(now)" "$*" >"$state_dir/lock"; } 2>/dev/null || true
}
holder_lives() {
    local pid started rest
    read -r pid started rest <<<"$1"
    same_process "$pid" "$started"
}
holder_words() {
    local pid started at words
    read -r pid started at words <<<"$1"
    printf '"deploy.sh %s", process %s, since %s' "${words:-?}" "${pid:-?}" "${at:-?}"
}

# A process id alone may be another process by now; with the moment of its start (and of the boot) it is not.
# started_at PID          when PID began, in ticks since the boot, and which boot; nothing when there is none
# same_process PID WHEN   true when PID runs and began at WHEN
started_at() {
    local line boot fields
    line=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
    IFS= read -r boot </proc/sys/kernel/random/boot_id
    # The name in the second field may hold blanks and brackets: what is counted begins after its last bracket.
    read -ra fields <<<"${line##*) }"
    [ "${fields[0]}" = Z ] || printf '%s@%s' "${fields[19]}" "$boot"
}
same_process() { [[ ${1:-} =~ ^[0-9]+$ ]] && [ -n "${2:-}" ] && [ "$(started_at "$1")" = "$2" ]; }

# ---- systemd ----------------------------------------------------------------------------------------------------------------
with_systemd() { [ -d /run/systemd/system ] && [ "$(id -u)" -eq 0 ]; }

# install_units NAME...    those of deploy/systemd that begin so, with the folders of this installation in the place of /srv/velum
# and /opt/velum. What looks at the installation and, if deploys are backed up, what backs it up every night, run from now on.
# put_units NAME...        the same, and nothing runs from it
install_units() {
    put_units "$@"
    run systemctl enable --quiet --now velum-doctor.timer
    if conf_yes BACKUP_BEFORE_DEPLOY; then
        run systemctl enable --quiet --now velum-backup.timer
    elif ! systemctl is-enabled --quiet velum-backup.timer 2>/dev/null; then
        say "    no backup every night is set up: BACKUP_BEFORE_DEPLOY is no (systemctl enable --now velum-backup.timer)"
    fi
}
put_units() {
    local name unit changed=""
    for name in "$@"; do
        for unit in "$here/deploy/systemd/$name"*; do
            if ! real_folders "$unit" | cmp --quiet - "/etc/systemd/system/$(basename "$unit")"; then
                real_folders "$unit" | write_file 644 "/etc/systemd/system/$(basename "$unit")"
                changed=yes
            fi
        done
    done
    [ -z "$changed" ] || run systemctl daemon-reload
}
real_folders() { sed -e "s#/srv/velum#$home#g" -e "s#/opt/velum#$here#g" "$1"; }

# ---- driver -----------------------------------------------------------------------------------------------------------------
# use_driver    brings the verbs of DRIVER (deploy/driver-*.sh lists them)
use_driver() {
    local driver
    driver=$(conf DRIVER)
    case $driver in
        compose | process) ;;
        *) fail "DRIVER is \"$driver\", expected compose or process" "correct $home/deploy.conf" ;;
    esac
    # shellcheck disable=SC1090 # one of the two
    . "$here/deploy/driver-$driver.sh"
}
# reach_driver    the same, and fails when it cannot say what runs: nothing must be concluded from its silence
reach_driver() {
    use_driver
    driver_answers
}

# ---- the two colours --------------------------------------------------------------------------------------------------------
readonly colours=(blue green)
other_colour() { if [ "$1" = blue ]; then printf green; else printf blue; fi; }

# The symlink is the switch: this is the one place that says which colour serves. Nothing before the first deploy.
active_colour() {
    local target
    target=$(readlink "$run_dir/active.sock" 2>/dev/null) || return 0
    case $target in
        blue.sock | green.sock) printf '%s' "${target%.sock}" ;;
        *) fail "$run_dir/active.sock leads to $target" "rm $run_dir/active.sock, then deploy again" ;;
    esac
}
# serving_colour    the same, and fails where nothing serves yet
serving_colour() {
    local colour
    colour=$(active_colour) || exit
    [ -n "$colour" ] || fail "nothing serves yet" "deploy.sh deploy RELEASE"
    printf '%s' "$colour"
}
# release_at_hand [RELEASE]    the one that is named, if it is here. Else the one that serves; where none does, as on a host that
# takes another one's place, the one that served last or the newest; nothing where none is here.
release_at_hand() {
    local wanted=${1:-} here_now colour
    here_now=$(driver_releases)
    if [ -n "$wanted" ]; then
        grep -qxF -- "$wanted" <<<"$here_now" || fail "there is no release $wanted here" "deploy.sh status lists those that are"
        printf '%s' "$wanted"
        return
    fi
    colour=$(active_colour) || exit
    [ -z "$colour" ] || wanted=$(driver_release "$colour")
    if [ -z "$wanted" ]; then
        wanted=$(state served | sed -n 1p)
        grep -qxF -- "$wanted" <<<"$here_now" || wanted=${here_now%%$'\n'*}
        [ -z "$wanted" ] || warn "nothing serves yet: release $wanted is taken"
    fi
    printf '%s' "$wanted"
}
