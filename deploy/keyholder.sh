# shellcheck shell=bash disable=SC2154,SC2034 # names that common.sh gives or reads
# keyholder: the keyholder on a host that it has to itself. On a host that is an edge too, a deploy starts it.

# shellcheck source=deploy/secrets.sh
. "$here/deploy/secrets.sh"

help_keyholder() {
    cat <<-'END'
	usage: deploy.sh keyholder RELEASE
	Run the keyholder of RELEASE on a host of its own, and nothing else; again with another RELEASE, to change to that.

	The first call makes the keys of the encryption. secret.key never leaves this host; public.key and evaluation.key belong to
	secrets/app/fhe on the edge, before `secrets init` there. Certificate and authority come from the edge, by `deploy.sh secrets
	keyholder FOLDER`. A change takes a second or so in which nobody is verified.
	END
}

command_keyholder() {
    reach_driver
    [ $# -eq 1 ] || fail "keyholder takes one release" "deploy.sh keyholder RELEASE"
    [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$ ]] || fail "\"$1\" is no name of a release" "letters, digits, dot, hyphen and underscore; for instance 1.4.0"
    [ ! -e "$secrets_dir/app" ] ||
        fail "this host is an edge ($secrets_dir/app), and nothing was changed" "deploy.sh deploy $1 --keyholder changes the keyholder of this host"
    grep -qxF -- "$1" <<<"$(driver_releases)" || fail "the release $1 is not here" "bring its image velum/app:$1, or its folder to $releases_dir"
    take_lock keyholder "$1"
    step "keys" keyholder_keys "$1"
    dry || keyholder_is_known
    step "keyholder on $1" "keyholder_by_$(conf DRIVER)" "$1"
    ! with_systemd || keyholder_timer
    if dry; then say "dry run: nothing was changed"; else say "the keyholder runs on $1"; fi
}

keyholder_keys() {
    local program=()
    if [ ! -e "$secrets_dir/keyholder/fhe/secret.key" ]; then
        if dry; then
            say "    would make them in $secrets_dir/keyholder/fhe"
            return
        fi
        secrets_program "$1"
        mkdir -p "$secrets_dir"/keyholder/{fhe,tls}
        secrets_generate "$secrets_dir/keyholder" fhe "${program[@]}"
    fi
    dry && return
    chmod 711 "$secrets_dir"
    secrets_owners # of what was brought here, too
}

keyholder_is_known() {
    local file
    for file in tls/certificate.pem tls/key.pem edge_ca.pem; do
        [ -s "$secrets_dir/keyholder/$file" ] || fail "$secrets_dir/keyholder/$file is missing" \
            "bring public.key and evaluation.key of $secrets_dir/keyholder/fhe to the edge; there: deploy.sh secrets init RELEASE, deploy.sh secrets keyholder FOLDER; bring what lies in FOLDER to $secrets_dir/keyholder, and run this again"
    done
}

keyholder_by_compose() {
    local release=$1
    make_folder "$uid_keyholder:$uid_keyholder" data/keyholder
    make_folder 0:0 state/metrics
    program_settings | write_file 644 "$state_dir/velum.env"
    VELUM_KEYHOLDER_PUBLISH=$(conf KEYHOLDER_PUBLISH) run compose --file "$here/docker-compose.keyholder.yml" \
        up --detach --wait --force-recreate keyholder || fail "the keyholder does not run (above)" "deploy.sh logs keyholder"
}

keyholder_by_process() {
    with_systemd || fail "there is no systemd here" "run velum keyholder by other means: docs/operations.md, Without deploy.sh"
    run mkdir -p "$data_dir/keyholder"
    give "$uid_keyholder:$uid_keyholder" "$data_dir/keyholder"
    { printf 'PROGRAM=%s\nVELUM_KEYHOLDER_LISTEN=%s\n' "$releases_dir/$1/bin/velum" "$(conf KEYHOLDER_PUBLISH)" && conf_velum; } |
        write_file 640 "$state_dir/keyholder.env"
    put_units velum-keyholder
    run systemctl enable --quiet velum-keyholder.service
    run systemctl restart velum-keyholder.service
    dry || sleep 2
    dry || systemctl is-active --quiet velum-keyholder.service ||
        fail "the keyholder does not run" "journalctl --unit velum-keyholder says why"
}

keyholder_timer() {
    put_units velum-backup
    if conf_yes BACKUP_BEFORE_DEPLOY; then run systemctl enable --quiet --now velum-backup.timer; fi
}
