use std::process::ExitCode;

fn main() -> ExitCode {
    velum::commands::main()
}
