#!/usr/bin/env bash
# The second command of the README: set-up, then every check that a change must pass. Continuous integration runs this.
# Needs a Debian machine with a Rust toolchain and root or sudo (for packages); asks nothing; starts a PostgreSQL server of
# its own in a temporary folder and stops it again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$root"

scripts/setup.sh --tests

step 5m "formatting" cargo fmt --check
step 5m "formatting of the fuzz targets" cargo fmt --check --manifest-path fuzz/Cargo.toml
# From pinned packages, a download of some 150 MB; takes half a minute.
step 10m "models rebuilt byte for byte" models/convert/rebuild.sh
step 5m "shell scripts" shellcheck --external-sources .ci/run scripts/*.sh models/convert/*.sh fuzz/*.sh
step 45m "clippy" cargo clippy --release --locked -- --deny warnings
# A test may stop at the first thing that is wrong.
step 45m "clippy, tests" cargo clippy --release --locked --tests -- --deny warnings \
    --allow clippy::unwrap_used --allow clippy::expect_used --allow clippy::panic

# Licences, banned crates and sources of every dependency; deny.toml gives the reasons.
deny_version=0.20.2
deny="$cache/cargo-deny-$deny_version/bin/cargo-deny"
if [ ! -x "$deny" ]; then
    step 30m "cargo-deny $deny_version (built once)" env --unset=CARGO_TARGET_DIR \
        cargo install --quiet --locked --root "$cache/cargo-deny-$deny_version" "cargo-deny@$deny_version"
fi
step 5m "licences, bans, sources" "$deny" --locked check licenses bans sources
begin "security advisories"
if timeout 2m "$deny" fetch db </dev/null >/dev/null 2>&1; then
    step 5m "security advisories, checked" "$deny" --locked --offline check advisories
else
    say "    skipped: the advisory database cannot be reached from here"
fi

if cargo nextest --version >/dev/null 2>&1; then
    tests=(cargo nextest run --release --locked)
    named_tract=(-E 'test(tract)')
else # cargo's own runner
    tests=(cargo test --release --locked)
    named_tract=(tract)
fi
# First the pure-Rust inference that --features tract puts in place of the native library; then everything else, so that
# the summary of the main run stands at the end.
tract=("${tests[@]}" --features tract --test face)
step 60m "build of the tests, pure-Rust inference" "${tract[@]}" --no-run
step 20m "tests of pure-Rust inference" "${tract[@]}" "${named_tract[@]}"
step 60m "build of the tests" "${tests[@]}" --no-run
step 40m "tests, with PostgreSQL and SQLite" scripts/with-postgres.sh "${tests[@]}"
# What strangers send, mutated: 20 seconds for each reader. docs/testing.md tells of longer runs.
step 30m "fuzzing" scripts/fuzz.sh 20
# The document against the server: this is the program as it is shipped.
step 90m "schemathesis" scripts/schemathesis.sh
say "==> all checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
