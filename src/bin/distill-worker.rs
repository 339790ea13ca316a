//! The decoding worker: a process that `distill` starts, and that does not load libtorch.

use std::process::ExitCode;

fn main() -> ExitCode {
    distill_data::worker::main()
}
