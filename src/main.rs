//! The `distill` program: everything is in the library, so that tests reach it too.

fn main() -> std::process::ExitCode {
    // Here alone, so that a commit has this file compiled again and no other; scripts/cargo sets it.
    distill::cli::main(option_env!("DISTILL_COMMIT"))
}
