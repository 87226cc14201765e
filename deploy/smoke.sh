# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# smoke: one person goes the whole way (token, consent, enrol, verify, another person refused, withdraw, erase) on one colour's
# own socket, by a client in a tenant of its own.

help_smoke() {
    cat <<-'END'
	usage: deploy.sh smoke [blue|green]
	Enrol, verify and erase a person of a tenant of its own, on the active colour or the one that is named.

	The photos are the release's own samples. Ends with 1 and names the step that failed.
	END
}

command_smoke() {
    local colour=${1:-}
    reach_driver
    colour=${colour:-$(serving_colour)} || exit
    [[ " ${colours[*]} " == *" $colour "* ]] || fail "there is no colour $colour" "it is blue or green"
    driver_running "$colour" || fail "$colour does not run" "deploy.sh status"
    take_lock smoke "$colour"
    step "smoke test on $colour" smoke_colour "$colour"
}

# smoke_colour COLOUR
smoke_colour() {
    local colour=$1
    smoke_client "$colour"
    if dry; then
        say "    would run: velum smoke --socket $run_dir/$colour.sock"
        return
    fi
    indented driver_smoke "$colour" ||
        fail "the smoke test failed on $colour (the step is named above)" "deploy.sh logs $colour"
}

# Its client makes itself once, when there are databases to hold it: what `velum clients create --json` prints.
smoke_client() {
    local credential=$secrets_dir/smoke/client.json made
    [ ! -s "$credential" ] || return 0
    if dry; then
        say "    would make a client of the tenant smoke-test"
        return
    fi
    made=$(driver_velum "$1" clients create --tenant smoke-test --name smoke --json) ||
        fail "no client for the smoke test could be made (above)" "deploy.sh doctor"
    mkdir -p "$secrets_dir/smoke"
    chmod 700 "$secrets_dir/smoke"
    write_file 600 "$credential" <<<"$made"
    give -R "$uid_velum:$uid_velum" "$secrets_dir/smoke"
}
