#!/bin/bash
# Completes the root of the image around /opt/velum: whatever a program or library there loads comes along, and nothing else.
# usage: assemble.sh ROOT
set -euo pipefail
root=$1

# Debian's layout: /lib is /usr/lib.
mkdir -p "$root"/{etc/ssl,usr/lib64,usr/lib/ssl,var/lib/dpkg/status.d,tmp}
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
chmod 1777 "$root/tmp"

chmod 755 "$root"/opt/velum/bin/velum
strip --strip-all "$root/opt/velum/bin/velum"
chmod -R a+rX,go-w "$root/opt"

needed=$(ldd "$root"/opt/velum/bin/velum "$root"/opt/velum/runtime/*.so.*)
if grep 'not found' <<<"$needed"; then exit 1; fi
grep -o '/[^ ]*' <<<"$needed" | grep -v ':$' | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp --dereference "$library" "$root$library"
    # Scanners for known weaknesses read from here which package a file is of.
    package=$(dpkg-query --search "$(realpath "$library")" 2>/dev/null || dpkg-query --search "$library" ||
        dpkg-query --search "/usr$library")
    dpkg-query --status "${package%%:*}" >"$root/var/lib/dpkg/status.d/${package%%:*}"
done
dpkg-query --status ca-certificates >"$root/var/lib/dpkg/status.d/ca-certificates"

cp -r --dereference /etc/ssl/certs "$root/etc/ssl/certs"
cp /etc/ssl/openssl.cnf "$root/etc/ssl/"
ln -s /etc/ssl/certs /etc/ssl/openssl.cnf "$root/usr/lib/ssl/"
cp /etc/os-release "$root/etc/"
printf 'root:x:0:0:root:/:/none\nvelum:x:10001:10001:velum:/:/none\nkeyholder:x:10002:10002:keyholder:/:/none\n' >"$root/etc/passwd"
printf 'root:x:0:\nvelum:x:10001:\nkeyholder:x:10002:\nvelum-edge:x:10010:velum\n' >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
