#!/usr/bin/env bash
# The door to an installation of Velum: reads deploy.conf, finds the command, and hands over to deploy/.
# usage: deploy.sh [--home FOLDER] [--dry-run] COMMAND [ARGUMENTS...]      deploy.sh help lists the commands
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
# shellcheck source=deploy/common.sh
. "$here/deploy/common.sh"
trap 'explain_exit $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Which file holds which command, in the order of the help.
commands=(deploy:switch status:switch rollback:switch cleanup:switch smoke:smoke backup:backup restore:backup certs:certs
    secrets:secrets keyholder:keyholder doctor:doctor logs:logs velum:velum)

file_of() {
    local entry
    for entry in "${commands[@]}"; do
        [ "${entry%:*}" != "$1" ] || printf '%s' "$here/deploy/${entry#*:}.sh"
    done
}

overview() {
    local entry
    cat <<-END
	usage: deploy.sh [--home FOLDER] [--dry-run] COMMAND [ARGUMENTS...]

	END
    for entry in "${commands[@]}"; do
        [ ! -e "$(file_of "${entry%:*}")" ] || printf '  %-10s%s\n' "${entry%:*}" "$(help_of "${entry%:*}" | sed -n 2p)"
    done
    cat <<-END

	  --home FOLDER  where the installation lies; without it VELUM_HOME, or /srv/velum
	  --dry-run      say what would be done, and change nothing

	deploy.sh help COMMAND says more. docs/operations.md is the manual.
	END
}

# Each help begins with its usage line, and a second one that says what the command does.
help_of() (
    # shellcheck disable=SC1090 # one of the files above
    . "$(file_of "$1")"
    "help_$1"
)

command="" arguments=()
set_home "${VELUM_HOME:-/srv/velum}"
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run) dry_run=yes ;;
        --home)
            [ $# -gt 1 ] || fail "--home names no folder" "deploy.sh --home /srv/velum COMMAND"
            set_home "$2"
            shift
            ;;
        --help | -h) arguments=(${command:+"$command"} "${arguments[@]}") command=help ;;
        # Everything behind -- belongs to the command.
        --) arguments+=("${@:2}") && break ;;
        # And whatever follows belongs to the program.
        velum)
            [ -n "$command" ] || { command=velum && arguments=("${@:2}") && break; }
            arguments+=(velum)
            ;;
        *) if [ -z "$command" ]; then command=$1; else arguments+=("$1"); fi ;;
    esac
    shift
done

case $command in
    "")
        overview >&2
        exit 2
        ;;
    help)
        about=${arguments[0]:-}
        if [ -z "$about" ]; then
            overview
        elif [ -e "$(file_of "$about")" ]; then
            help_of "$about"
        else
            fail "there is no command $about" "deploy.sh help lists the commands"
        fi
        exit
        ;;
esac
file=$(file_of "$command")
[ -e "$file" ] || fail "there is no command $command" "deploy.sh help lists the commands"
[ "$command" = doctor ] || read_conf # the doctor does it himself: settings that cannot be read are a finding among others
# shellcheck disable=SC1090 # one of the files above
. "$file"
"command_$command" "${arguments[@]}"
