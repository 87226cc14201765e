#!/usr/bin/env bash
# Runs nginx in front of Velum, in the foreground: the container's entrypoint and the service of a bare host.
# usage: nginx/start.sh            makes the configuration, checks it and runs it
#        nginx/start.sh check      makes and checks it, in a folder of its own
#        nginx/start.sh reload     the same for the nginx that runs, which then takes it up
#
# Settings, from the environment:
#   VELUM_ISSUER            the public address: the one name that is answered, and where plain HTTP is sent
#   VELUM_HOME              /srv/velum          below it run/active.sock, secrets/nginx/ and acme/webroot/
#   VELUM_REQUEST_TIMEOUT_S 30                  as Velum has it; nginx waits 5 s longer
#   NGINX_HTTP_PORT         80
#   NGINX_HTTPS_PORT        443
#   NGINX_STATUS_LISTEN     127.0.0.1:8090      /nginx_status and /livez, for the inside
#   NGINX_RATE              200                 requests a second of one address, and twice as many at once
#   NGINX_CONNECTIONS       100                 requests of one address at work at the same time
#   NGINX_BALANCERS         none                addresses and networks of balancers before this nginx, joined by commas
#   NGINX_BALANCERS_SPEAK   x-forwarded-for     or proxy-protocol: how they say whose request it is
#   NGINX_FOLDER            /run/velum-nginx    for the configuration that was made; a tmpfs will do
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)

fail() {
    printf 'nginx/start.sh: %s\n' "$*" >&2
    exit 1
}

home=${VELUM_HOME:-/srv/velum}
folder=${NGINX_FOLDER:-/run/velum-nginx}
http_port=${NGINX_HTTP_PORT:-80} https_port=${NGINX_HTTPS_PORT:-443}
status_listen=${NGINX_STATUS_LISTEN:-127.0.0.1:8090}
rate=${NGINX_RATE:-200} connections=${NGINX_CONNECTIONS:-100}
request_timeout=${VELUM_REQUEST_TIMEOUT_S:-30}
balancers=${NGINX_BALANCERS:-} speak=${NGINX_BALANCERS_SPEAK:-x-forwarded-for}
tls=$home/secrets/nginx/tls

# Every value goes into a file in which blanks and semicolons have a meaning.
check_settings() {
    local name value
    [[ ${VELUM_ISSUER:-} =~ ^https://([a-z0-9-]+(\.[a-z0-9-]+)*)(:[0-9]{1,5})?(/.*)?$ ]] ||
        fail "VELUM_ISSUER is \"${VELUM_ISSUER:-}\", expected the public address, for instance https://velum.example"
    server_name=${BASH_REMATCH[1]} public=https://${BASH_REMATCH[1]}${BASH_REMATCH[3]}
    [[ ! $server_name =~ ^[0-9.]+$ ]] ||
        fail "VELUM_ISSUER names an address, expected a name: callers do not say to which address they speak"
    for name in home folder; do
        [[ ${!name} =~ ^/[A-Za-z0-9._/-]+$ ]] || fail "the folder \"${!name}\" is no plain absolute path"
    done
    for value in "NGINX_HTTP_PORT $http_port" "NGINX_HTTPS_PORT $https_port" "NGINX_RATE $rate" \
        "NGINX_CONNECTIONS $connections" "VELUM_REQUEST_TIMEOUT_S $request_timeout"; do
        [[ ${value#* } =~ ^[1-9][0-9]{0,4}$ ]] || fail "${value% *} is \"${value#* }\", expected a number from 1 to 99999"
    done
    [[ $status_listen =~ ^[0-9a-fA-F.:]*(\[[0-9a-fA-F:]+\])?:[0-9]+$ ]] ||
        fail "NGINX_STATUS_LISTEN is \"$status_listen\", expected an address and a port"
    [[ $balancers =~ ^[0-9a-fA-F.:/,\ ]*$ ]] || fail "NGINX_BALANCERS is \"$balancers\", expected addresses and networks"
    case $speak in
        x-forwarded-for | proxy-protocol) ;;
        *) fail "NGINX_BALANCERS_SPEAK is \"$speak\", expected x-forwarded-for or proxy-protocol" ;;
    esac
    [ -r "$home/secrets/nginx/inner_ca.pem" ] ||
        fail "cannot read $home/secrets/nginx/inner_ca.pem, the authority of Velum's own certificate: deploy.sh secrets init makes it"
}

# listens PORT PARAMETERS    what follows the word `listen`: IPv4, and IPv6 where the kernel has it
listens() {
    printf '%s' "$1${2:+ $2}"
    [ ! -e /proc/net/if_inet6 ] || printf ';\n    listen %s' "[::]:$1${2:+ $2}"
}

balancers_conf() {
    local each
    for each in ${balancers//,/ }; do
        printf 'set_real_ip_from %s;\n' "$each"
    done
    if [ "$speak" = proxy-protocol ]; then
        printf 'real_ip_header proxy_protocol;\n'
    else
        # From the right, as long as each is one of them: what a client wrote into the header does not count.
        printf 'real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n'
    fi
}

# A certificate that names no responder of OCSP (those of Let's Encrypt have not since 2025) is read anew for each handshake: a
# renewed one counts at once, and nginx need not be told. One that names a responder has that one's answer stapled to it, which
# nginx does for certificates only that it has read at its start: whoever renews it calls `start.sh reload`.
certificate_conf() {
    local nameservers
    if ! names_responder; then
        # shellcheck disable=SC2016 # a variable of nginx (tls.conf)
        printf 'ssl_certificate $certificate_folder/fullchain.pem;\nssl_certificate_key $certificate_folder/privkey.pem;\n'
        return
    fi
    nameservers=$(awk '$1 == "nameserver" { print ($2 ~ /:/ ? "[" $2 "]" : $2) }' /etc/resolv.conf 2>/dev/null | tr '\n' ' ')
    printf 'ssl_certificate %s/fullchain.pem;\nssl_certificate_key %s/privkey.pem;\n' "$tls" "$tls"
    printf 'ssl_stapling on;\nssl_stapling_verify on;\nssl_trusted_certificate issuers.pem;\n'
    [ -z "$nameservers" ] || printf 'resolver %s;\n' "$nameservers"
}
names_responder() { [ -n "$(openssl x509 -noout -ocsp_uri -in "$tls/fullchain.pem" 2>/dev/null)" ]; }

# make FOLDER    the configuration
make() {
    local into=$1 accepts="" workers text file name
    declare -A values
    [ "$speak" != proxy-protocol ] || accepts=proxy_protocol
    workers=$(nproc)
    values=(
        [WORKERS]=$((workers < 4 ? workers : 4))
        [NAME]=$server_name [PUBLIC]=$public
        [HTTP_LISTEN]=$(listens "$http_port" "$accepts")
        [HTTPS_LISTEN]=$(listens "$https_port" "ssl http2${accepts:+ $accepts}")
        [HTTP_LISTEN_DEFAULT]=$(listens "$http_port" "default_server${accepts:+ $accepts}")
        [HTTPS_LISTEN_DEFAULT]=$(listens "$https_port" "ssl http2 default_server${accepts:+ $accepts}")
        [STATUS_LISTEN]=$status_listen
        [SOCKET]=$home/run/active.sock [INNER_CA]=$home/secrets/nginx/inner_ca.pem
        [WEBROOT]=$home/acme/webroot [TLS]=$tls
        [RATE]=$rate [BURST]=$((2 * rate)) [CONNECTIONS]=$connections
        [ANSWER_TIMEOUT]=$((request_timeout + 5))
    )
    mkdir -p "$into" "$folder/temporary"
    for file in "$here"/*.conf; do
        text=$(<"$file")
        for name in "${!values[@]}"; do
            text=${text//"@$name@"/"${values[$name]}"}
        done
        printf '%s\n' "$text" >"$into/${file##*/}"
    done
    balancers_conf >"$into/balancers.conf"
    certificate_conf >"$into/certificate.conf"
    # What an answer of OCSP is checked with.
    if names_responder; then
        cat "$tls/fullchain.pem" /etc/ssl/certs/ca-certificates.crt 2>/dev/null >"$into/issuers.pem" || true
    fi
}

# try FOLDER
try() {
    # Through a pipe: nginx opens /dev/stdout by its name, which it cannot where that is somebody else's file, or a socket.
    nginx -t -q -p "$folder" -c "$1/nginx.conf" -e stderr | cat ||
        fail "nginx does not take this configuration; what runs was left as it is"
}

put_in_place() {
    rm -rf "$folder/conf.old"
    [ ! -e "$folder/conf" ] || mv -T "$folder/conf" "$folder/conf.old"
    mv -T "$folder/conf.new" "$folder/conf"
}

check_settings
umask 077
case ${1:-} in
    check)
        if [ -w "$folder" ]; then folder=$(mktemp -d "$folder/check.XXXXXX"); else folder=$(mktemp -d); fi
        trap 'rm -rf "$folder"' EXIT
        make "$folder/conf"
        try "$folder/conf"
        printf 'the configuration is good\n'
        ;;
    reload)
        [ -s "$folder/nginx.pid" ] || fail "no nginx runs from $folder"
        make "$folder/conf.new"
        try "$folder/conf.new"
        put_in_place
        kill -HUP "$(<"$folder/nginx.pid")"
        ;;
    "")
        # The key is read by those who answer requests, so they must not be others than who starts them.
        [ "$(id -u)" -ne 0 ] || fail "run this as the user of nginx (10005), not as root"
        make "$folder/conf.new"
        try "$folder/conf.new"
        put_in_place
        exec nginx -p "$folder" -c "$folder/conf/nginx.conf" -e stderr -g 'daemon off;' \
            2> >(exec perl "$here/log-filter.pl" >&2) > >(exec cat)
        ;;
    *) fail "what is \"$1\"? usage: nginx/start.sh [check | reload]" ;;
esac
