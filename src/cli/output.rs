//! Standard output, and what ends a command on standard error.

use std::io::{self, Write};

use anyhow::Result;

/// Writes to standard output; a closed pipe, as of `head`, is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Writes an error to standard error, which nobody may read any more.
pub fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "error: {text}");
}
