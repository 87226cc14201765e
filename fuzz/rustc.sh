#!/bin/sh
# Cargo's RUSTC_WRAPPER for fuzzing: instruments the crates that Cargo.toml here gives line tables to, and no other. The flags
# are those of cargo-fuzz without a sanitizer, and all of them stable: coverage counters, and comparisons that can be learnt.
compiler=$1
shift
case " $* " in
*" debuginfo=line-tables-only "*)
    exec "$compiler" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
*) exec "$compiler" "$@" ;;
esac
