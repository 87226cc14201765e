#!/usr/bin/env bash
# Makes debian:bookworm-slim for the engine in DOCKER_HOST out of Debian's packages: for machines that reach a Debian mirror and
# no registry. Does nothing where the image is there; elsewhere `docker build` pulls the published one by itself.
# usage: scripts/base-image.sh
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

readonly image=debian:bookworm-slim
if docker image inspect "$image" >/dev/null 2>&1; then
    say "==> $image: already there"
    exit 0
fi
command -v mmdebstrap >/dev/null || install_packages mmdebstrap

work=$(mktemp -d)
on_exit() {
    local status=$?
    rm -rf "$work"
    explain_exit "$status"
}
trap on_exit EXIT

# What the published image leaves out too: manuals, translations, documentation but for the licences.
without=()
for path in /usr/share/man /usr/share/info /usr/share/groff /usr/share/lintian /usr/share/linda /usr/share/locale /usr/share/doc; do
    without+=("--dpkgopt=path-exclude=$path/*")
done
without+=("--dpkgopt=path-include=/usr/share/locale/locale.alias" "--dpkgopt=path-include=/usr/share/doc/*/copyright")

# The merged /usr comes from mmdebstrap's own hook: without it a package does that work and brings all of Perl along.
mirror=$(debian_mirror)
# As in the published image: what apt has fetched is not kept.
# shellcheck disable=SC2016 # $1 is for mmdebstrap's shell
clean='printf "%s\n" "DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb || true\"; };" \
    "Dir::Cache::pkgcache \"\";" "Dir::Cache::srcpkgcache \"\";" >"$1/etc/apt/apt.conf.d/docker-clean"
    rm -f "$1"/var/cache/apt/*.bin'
quiet_step 10m "$image out of packages" mmdebstrap --customize-hook="$clean" --variant=minbase "${without[@]}" \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr --include=usr-is-merged bookworm "$work/base.tar" \
    "deb $mirror bookworm main" "deb $mirror bookworm-updates main" "deb $mirror-security bookworm-security main"
quiet_step 5m "$image into the engine" docker import --change 'CMD ["bash"]' "$work/base.tar" "$image"
say "    $(docker image inspect --format '{{.Size}}' "$image") bytes"
