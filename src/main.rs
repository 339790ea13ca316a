//! The `distill` program: everything is in the library, so that tests reach it too.

fn main() -> std::process::ExitCode {
    distill::cli::main()
}
