#!/usr/bin/env bash
# Feeds every reader of what strangers send with mutations of the seeds in fuzz/corpus, each for a while. Ends with 1 and the
# input that did it when one of them panics, loops, or takes more than 2 GB. docs/testing.md says more.
# usage: scripts/fuzz.sh [SECONDS [TARGET...]]      SECONDS for each target, 20 unless told, 0 to build only; all targets unless named
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

seconds=${1:-20}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || for seeds in fuzz/corpus/*/; do targets+=("$(basename "$seeds")"); done

# The target folder of the ordinary build: only what is instrumented is built anew.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}" RUSTC_WRAPPER="$root/fuzz/rustc.sh"
step 30m "build of the fuzz targets" cargo build --quiet --release --locked --manifest-path fuzz/Cargo.toml --bins
[ "$seconds" -gt 0 ] || exit 0

kept="$CARGO_TARGET_DIR/fuzz"
for target in "${targets[@]}"; do
    mkdir -p "$kept/corpus/$target"
    log="$kept/$target.log"
    begin "fuzzing $target for $seconds s"
    # What is found on the way is kept beside the build, so that a long run goes on where the last one ended.
    "$CARGO_TARGET_DIR/release/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=32768 \
        -artifact_prefix="$kept/$target-" "$kept/corpus/$target" "fuzz/corpus/$target" </dev/null >"$log" 2>&1 ||
        {
            tail -n 40 "$log" >&2
            fail "$target failed; again with: $CARGO_TARGET_DIR/release/fuzz_$target FILE (the file is named above)"
        }
    say "    $(grep --only-matching 'Done .*' "$log" | tail -n 1), $(grep --only-matching 'cov: [0-9]*' "$log" | tail -n 1)"
done
