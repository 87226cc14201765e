#!/usr/bin/env bash
# An S3 server for tests (pinned moto), on one port of this machine, everything in memory. It checks no signatures, so
# tests/deploy/s3.py stands before it and does.
# usage: scripts/s3-server.sh [PORT]      without a port: only makes sure that all is there
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

pinned_venv moto "$root/scripts/s3-requirements.txt"
[ $# -eq 0 ] || exec "$venv/bin/moto_server" --host 127.0.0.1 --port "$1"
