# shellcheck shell=bash disable=SC2154 # names that common.sh gives
# The public certificate: self-made for trying out, or from an ACME authority by webroot. Sourced by deploy.sh.
#
# $VELUM_HOME/secrets/nginx/tls is a symbolic link to a folder tls.<moment> with fullchain.pem and privkey.pem. A new certificate
# is a new folder and one rename, so that nginx, which reads both files for each handshake, finds either the old ones or the new.

help_certs() {
    cat <<-END
	usage: deploy.sh certs self-made | issue | renew [--now] | install FOLDER | status [--days N]
	the public certificate: make one, get one, renew it, look at it

	  self-made         one for trying out, which nobody trusts; never in place of a real one
	  issue             from an ACME authority (ACME_SERVER), by a proof that nginx serves on port 80; needs certbot.
	                    From then on Debian's certbot renews it twice a day when it is due, and calls \`install\`
	  renew             does so now; --now also when it is not due
	  install FOLDER    fullchain.pem and privkey.pem of that folder; without it the folder that certbot names
	  status            who issued it, for whom, until when; ends with 1 when fewer than N days are left (14), when the key is
	                    readable for others, or when the two do not belong together
	END
}

command_certs() {
    local what=${1:-}
    [ $# -eq 0 ] || shift
    certs_link=$secrets_dir/nginx/tls
    certs_name=$(certs_host)
    case $what in
        self-made) certs_self_made ;;
        issue) certs_issue ;;
        renew) certs_renew "$@" ;;
        install) certs_install "${1:-${RENEWED_LINEAGE:-}}" ;;
        status) certs_status "$@" ;;
        *) fail "certs does not know \"$what\"" "deploy.sh help certs" ;;
    esac
}

# The name under which callers know the service.
certs_host() {
    local issuer
    issuer=$(conf_velum_value VELUM_ISSUER)
    [[ $issuer =~ ^https://([a-z0-9.-]+)(:[0-9]+)?(/.*)?$ ]] ||
        fail "VELUM_ISSUER is \"$issuer\", expected the public address" "set it in $home/deploy.conf, for instance https://velum.example"
    printf '%s' "${BASH_REMATCH[1]}"
}

certs_self_made() {
    local work
    if [ -e "$certs_link/fullchain.pem" ] && ! certs_is_self_made "$certs_link/fullchain.pem"; then
        fail "there is a certificate of an authority already" "deploy.sh certs status; remove $certs_link if it is to go"
    fi
    begin "a self-made certificate for $certs_name"
    work=$(mktemp -d)
    # Of its own and no authority: who trusts it trusts this name alone.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 -subj "/CN=$certs_name" \
        -addext "subjectAltName=DNS:$certs_name" -addext basicConstraints=critical,CA:FALSE -addext extendedKeyUsage=serverAuth \
        -keyout "$work/privkey.pem" -out "$work/fullchain.pem" 2>/dev/null
    certs_install "$work"
    rm -rf "$work"
    say "    callers do not trust it; to try: curl --cacert $certs_link/fullchain.pem $(conf_velum_value VELUM_ISSUER)/docs/"
}
certs_is_self_made() { [ "$(openssl x509 -noout -subject_hash -in "$1")" = "$(openssl x509 -noout -issuer_hash -in "$1")" ]; }

# certbot keeps its account, its keys and what it has issued in one folder; Debian's timer knows the usual one only.
certs_certbot() {
    local folder
    folder=$(conf ACME_FOLDER)
    local words=(certbot "$@" --non-interactive --config-dir "$folder")
    [ "$folder" = /etc/letsencrypt ] || words+=(--work-dir "$folder/work" --logs-dir "$folder/logs")
    need certbot certbot
    run "${words[@]}"
}

certs_issue() {
    local webroot=$home/acme/webroot email server
    email=$(conf ACME_EMAIL) server=$(conf ACME_SERVER)
    begin "a certificate for $certs_name from $server"
    run mkdir -p "$webroot"
    run chmod 755 "$home/acme" "$webroot"
    local account=(--register-unsafely-without-email)
    [ -z "$email" ] || account=(--email "$email")
    certs_certbot certonly --webroot --webroot-path "$webroot" --domain "$certs_name" --cert-name "$certs_name" --server "$server" \
        --agree-tos "${account[@]}" --key-type ecdsa --elliptic-curve secp256r1 --keep-until-expiring \
        --deploy-hook "$(certs_hook)" ||
        fail "the authority gave no certificate for $certs_name (above)" \
            "does http://$certs_name lead to this nginx? its port 80 must be open; then deploy.sh certs issue again"
    # The hook was not called where certbot had one that is good still.
    certs_catch_up
}

certs_renew() {
    local force=()
    case ${1:-} in
        --now) force=(--force-renewal) ;;
        "") ;;
        *) fail "certs renew does not know \"$1\"" "deploy.sh help certs" ;;
    esac
    [ -e "$(certs_lineage)" ] || fail "certbot knows no certificate for $certs_name" "deploy.sh certs issue"
    begin "renewal of the certificate for $certs_name"
    certs_certbot renew --cert-name "$certs_name" "${force[@]}" --no-random-sleep-on-renew --deploy-hook "$(certs_hook)" ||
        fail "the certificate was not renewed (above); the present one stays" "deploy.sh certs status says for how long"
    certs_catch_up
}
certs_lineage() { printf '%s/live/%s' "$(conf ACME_FOLDER)" "$certs_name"; }
certs_hook() { printf '%q --home %q certs install' "$here/deploy.sh" "$home"; }
certs_catch_up() {
    local lineage
    lineage=$(certs_lineage)
    dry || cmp -s "$lineage/fullchain.pem" "$certs_link/fullchain.pem" || certs_install "$lineage"
}

# certs_install FOLDER
certs_install() {
    local from=$1 into next old responder=""
    [ -n "$from" ] || fail "certs install names no folder" "deploy.sh certs install FOLDER, with fullchain.pem and privkey.pem in it"
    certs_check_pair "$from"
    openssl x509 -noout -checkend 0 -in "$from/fullchain.pem" >/dev/null || fail "the certificate in $from has expired" "get another one"
    ! certs_responder "$certs_link" || responder=yes
    into=$certs_link.$(date -u +%Y%m%dT%H%M%S.%NZ) next=$certs_link.next
    if [ ! -d "$secrets_dir/nginx" ]; then
        run mkdir -p -m 700 "$secrets_dir/nginx"
        give "$uid_nginx:$uid_nginx" "$secrets_dir/nginx"
    fi
    run mkdir -m 700 "$into"
    for file in fullchain.pem privkey.pem; do
        run install -m 600 "$from/$file" "$into/$file"
    done
    give -R "$uid_nginx:$uid_nginx" "$into"
    old=$(readlink "$certs_link" || true)
    # A folder can not be replaced by a link; it is empty unless somebody has put files there.
    if [ -d "$certs_link" ] && [ ! -L "$certs_link" ]; then run mv -T "$certs_link" "$certs_link.0"; fi
    run ln -sfn "${into##*/}" "$next"
    run mv -fT "$next" "$certs_link"
    certs_forget "${into##*/}" "$old"
    say "    $certs_link: for $certs_name until $(certs_end "$from/fullchain.pem"); nginx shows it from the next handshake on"
    dry || ! certs_responder "$into" || responder=yes
    [ -z "$responder" ] || certs_reload
}

# All but the newest and the one before it, which a handshake may be reading.
certs_forget() {
    local each
    for each in "$certs_link".*; do
        case ${each##*/} in
            "$1" | "$2") ;;
            *) [ ! -d "$each" ] || run rm -rf "$each" ;;
        esac
    done
}

# nginx staples answers of OCSP only to a certificate that it has read at its start (nginx/start.sh).
certs_responder() { [ -n "$(openssl x509 -noout -ocsp_uri -in "$1/fullchain.pem" 2>/dev/null)" ]; }
certs_reload() {
    local settings=() become=()
    begin "reload of nginx: the certificate names a responder of OCSP"
    case $(conf DRIVER) in
        compose)
            use_driver
            run driver_in nginx /opt/velum/nginx/start.sh reload
            ;;
        *)
            mapfile -t settings < <(conf_velum | grep -E '^VELUM_(ISSUER|REQUEST_TIMEOUT_S)='; conf_nginx)
            [ "$(id -u)" -ne 0 ] || become=(setpriv --reuid "$uid_nginx" --regid "$uid_nginx" --groups "$gid_edge")
            run "${become[@]}" env VELUM_HOME="$home" "${settings[@]}" "$here/nginx/start.sh" reload
            ;;
    esac || warn "nginx was not reloaded: it shows the new certificate after its next start"
}

certs_check_pair() {
    local file
    for file in fullchain.pem privkey.pem; do
        [ -r "$1/$file" ] || fail "there is no $1/$file" "deploy.sh certs issue, or deploy.sh certs self-made"
    done
    openssl x509 -noout -in "$1/fullchain.pem" 2>/dev/null || fail "$1/fullchain.pem is no certificate" "deploy.sh certs issue"
    [ "$(openssl x509 -noout -pubkey -in "$1/fullchain.pem")" = "$(openssl pkey -pubout -in "$1/privkey.pem" 2>/dev/null)" ] ||
        fail "$1/privkey.pem is not the key of the certificate beside it" "put the right key there, or deploy.sh certs issue"
    openssl x509 -noout -checkhost "$certs_name" -in "$1/fullchain.pem" | grep -q 'does match' ||
        fail "the certificate in $1 is not for $certs_name" "deploy.sh certs issue, or correct VELUM_ISSUER in $home/deploy.conf"
}
certs_issuer() {
    if certs_is_self_made "$1"; then printf 'itself: for trying out alone'; else openssl x509 -noout -issuer -in "$1" | cut -d= -f2-; fi
}
certs_end() { date -u -d "$(openssl x509 -noout -enddate -in "$1" | cut -d= -f2)" +%Y-%m-%d; }

certs_status() {
    local days_min=14 file=$certs_link/fullchain.pem key=$certs_link/privkey.pem end days owner mode
    case ${1:-} in
        "") ;;
        --days) days_min=${2:-} ;;
        *) fail "certs status does not know \"$1\"" "deploy.sh help certs" ;;
    esac
    [[ $days_min =~ ^[0-9]{1,4}$ ]] || fail "--days wants a number" "deploy.sh certs status --days 14"
    certs_check_pair "$certs_link"
    end=$(date -d "$(openssl x509 -noout -enddate -in "$file" | cut -d= -f2)" +%s)
    days=$(((end - $(date +%s)) / 86400))
    read -r owner mode < <(stat -L -c '%u %a' "$key")
    say "for         $(openssl x509 -noout -ext subjectAltName -in "$file" | tail -n +2 | sed 's/^ *//')"
    say "issued by   $(certs_issuer "$file")"
    say "until       $(certs_end "$file"), $days days left"
    say "key         $(openssl pkey -noout -text -in "$key" | head -n 1 | tr -d :), mode $mode, user $owner"
    say "OCSP        $(if certs_responder "$certs_link"; then printf stapled; else printf 'no responder named, so nothing to staple'; fi)"
    [ $((8#$mode & 8#077)) -eq 0 ] || fail "$key can be read by others (mode $mode)" "chmod 600 $key"
    [ "$(id -u)" -ne 0 ] || [ "$owner" -eq "$uid_nginx" ] ||
        fail "$key belongs to user $owner, and nginx ($uid_nginx) cannot read it" "chown $uid_nginx $key"
    [ "$end" -gt "$(date +%s)" ] || fail "the certificate has expired" "deploy.sh certs renew --now"
    [ "$days" -ge "$days_min" ] || fail "the certificate ends in $days days" "deploy.sh certs renew --now"
}
