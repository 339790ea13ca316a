//! Exit codes of the program.

/// What was asked for is done.
pub const DONE: u8 = 0;
/// It failed, and an error line said why.
pub const FAILED: u8 = 1;
/// Arguments or configuration cannot be used.
pub const WRONG_USAGE: u8 = 2;
/// "Try again later" of BSD's sysexits: the state is saved, the same command continues.
pub const RESUME_ME: u8 = 75;
