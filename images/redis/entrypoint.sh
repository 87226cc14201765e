#!/bin/bash
# SECRETS   folder with users.acl, server.crt, server.key, ca.pem
set -euo pipefail
umask 077
secrets=${SECRETS:?}
for file in users.acl server.crt server.key ca.pem; do
    [ -r "$secrets/$file" ] || { echo "entrypoint: $secrets/$file cannot be read; deploy.sh secrets check" >&2; exit 1; }
done
exec redis-server /etc/redis/velum.conf --aclfile "$secrets/users.acl" --tls-cert-file "$secrets/server.crt" \
    --tls-key-file "$secrets/server.key" --tls-ca-cert-file "$secrets/ca.pem" "$@"
