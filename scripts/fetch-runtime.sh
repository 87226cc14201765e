#!/usr/bin/env bash
# Puts the native ONNX Runtime library into runtime/: taken out of the pinned Python wheel, checked twice (the wheel by pip,
# the library here). Nothing is installed into any Python. Does nothing when the right file is already there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

version=1.31.1
machine=$(uname -m)
case "$(uname -s) $machine" in
    "Linux x86_64") library_sha256=fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3 ;;
    "Linux aarch64") library_sha256=8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467 ;;
    *) fail "no pinned ONNX Runtime for $(uname -s) $machine; build with '--features tract' (pure Rust) instead" ;;
esac

library="$root/runtime/libonnxruntime.so.$version"
holds() { printf '%s  %s\n' "$library_sha256" "$1" | sha256sum --check --status 2>/dev/null; }

if holds "$library"; then
    say "==> ONNX Runtime $version: already in runtime/"
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
mkdir -p "$root/runtime"
work=$(mktemp -d "$root/runtime/.fetch.XXXXXX")
on_exit() {
    local status=$?
    rm -rf "$work"
    explain_exit "$status"
}
trap on_exit EXIT

# The library does not depend on the Python version, so one wheel serves whatever Python is here.
step 10m "ONNX Runtime $version for $machine (24 MB)" \
    python3 -m pip download --quiet --no-deps --require-hashes --only-binary :all: --timeout 60 --retries 5 \
    --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_28_$machine" \
    --dest "$work" --requirement "$root/scripts/runtime-requirements.txt"
step 2m "library out of the wheel" \
    python3 -m zipfile --extract "$work/onnxruntime-$version-cp311-cp311-manylinux_2_28_$machine.whl" "$work/wheel"
found="$work/wheel/onnxruntime/capi/libonnxruntime.so.$version"
holds "$found" || fail "the library in the wheel is not the pinned one (sha256 $(sha256sum "$found" | cut -d ' ' -f 1))"
chmod 644 "$found"
mv "$found" "$library"
