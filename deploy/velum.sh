# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# velum: the program of the release that serves, for an operator's commands.

help_velum() {
    cat <<-'END'
	usage: deploy.sh velum [--release RELEASE] ARGUMENTS...
	Run an operator's command of the release that serves, such as: velum clients create --tenant acme

	It has the settings and secrets of the installation and, unlike what serves, may write to its folder of keys (keys rotate).
	Where nothing serves, as on a host that takes a lost one's place, it is of the release that served last, or of the newest;
	--release names another.
	In a terminal it asks what it has to ask; `velum help` lists its commands. Its exit status is handed on.
	END
}

command_velum() {
    local release=""
    if [ "${1:-}" = --release ]; then
        release=${2:-}
        [ -n "$release" ] || fail "which release?" "deploy.sh velum --release RELEASE ARGUMENTS"
        shift 2
    fi
    [ $# -gt 0 ] || fail "which command?" "deploy.sh velum help"
    reach_driver
    release=$(release_at_hand "$release") || exit
    [ -n "$release" ] || fail "nothing serves yet, and no release is here" "deploy.sh deploy RELEASE"
    if dry; then
        say "    would run: velum $* (of release $release)"
        return
    fi
    driver_tool "$release" "$@" || exit
}
