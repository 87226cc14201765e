#!/usr/bin/env bash
# Builds the images of docker-compose.prod.yml on the engine in DOCKER_HOST, with a program that is compiled on this machine (it must
# be Debian 12, as the images are). To compile inside, where images can be pulled: VELUM_BLUE=RELEASE docker compose build app_blue.
# usage: scripts/images.sh [--program FILE] RELEASE [SERVICE...]      the services are app_blue, postgres, redis, nginx, prometheus
#   --program FILE   a velum that was compiled before; without it `cargo build --release` makes one
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

program=""
if [ "${1:-}" = --program ]; then
    program=${2:-}
    [ -x "$program" ] || fail "there is no program $program"
    shift 2
fi
[[ ${1:-} =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "which release? For instance: scripts/images.sh 1.4.0"
release=$1
shift
services=("$@")
[ $# -gt 0 ] || services=(app_blue postgres redis nginx prometheus)

scripts/base-image.sh
if [[ " ${services[*]} " == *" app_blue "* ]]; then
    if [ -z "$program" ]; then
        step 90m "the program" cargo build --quiet --release --locked --bin velum
        program=${CARGO_TARGET_DIR:-target}/release/velum
    fi
    scripts/fetch-runtime.sh
    # What the stage `prebuilt` of images/app/Dockerfile takes.
    rm -rf target/prebuilt
    install -D "$program" target/prebuilt/bin/velum
    install -D --mode 644 --target-directory target/prebuilt/runtime runtime/libonnxruntime.so.*
fi
export BINARY=prebuilt VELUM_RELEASE=$release VELUM_BLUE=$release VELUM_HOME=/srv/velum
REVISION=$(git rev-parse HEAD 2>/dev/null || true)
export REVISION
# All at once: most of the time goes into fetching and unpacking packages, one after the other within each.
quiet_step 30m "images of ${services[*]}" docker compose --file docker-compose.prod.yml --profile '*' build "${services[@]}"
rm -rf target/prebuilt
docker image ls --format '    {{.Repository}}:{{.Tag}}  {{.Size}}' 'velum/*'
