//! Panics of `tch`'s infallible methods, and our own, as errors instead of backtraces.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Result, anyhow};

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Guards that this thread is in.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
}

/// Keeps panic messages off the screen: [`guard`] reports them. A panic outside of a guard still
/// prints one line.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("unknown panic");
        let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        tracing::debug!("panic: {text}{}", place.clone().unwrap_or_default());
        let message = match text.contains("Torch(") || text.contains("torch") {
            true => first_line(text),
            false => format!("internal error: {}{}", first_line(text), place.unwrap_or_default()),
        };
        if GUARDS.get() == 0 {
            tracing::error!("{message}");
        }
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(message));
    }));
}

/// Runs `body`; a panic in it becomes an error with libtorch's own first line.
///
/// The model's code uses `tch`'s plain operators, which panic: that keeps the mathematics
/// readable. Everything that computes is therefore called through here.
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    GUARDS.set(GUARDS.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(body));
    GUARDS.set(GUARDS.get() - 1);
    match result {
        Ok(result) => result,
        Err(payload) => {
            let recorded = LAST_PANIC.with(|last| last.borrow_mut().take());
            let message = recorded.unwrap_or_else(|| {
                let text = payload
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| payload.downcast_ref::<&str>().copied());
                first_line(text.unwrap_or("unknown panic"))
            });
            Err(anyhow!(message))
        }
    }
}

/// What libtorch says, without the C++ stack that follows it: its first line, or of NCCL's errors, whose
/// reason comes last, all lines but for the place in libtorch's source.
pub(super) fn first_line(text: &str) -> String {
    let text = match text.find("Torch(\"") {
        Some(at) => text[at + 7..].replace("\\n", "\n"),
        None => text.to_string(),
    };
    let end = text.find("\nException raised from").unwrap_or(text.len());
    let lines = text[..end].lines().map(str::trim).filter(|line| !line.is_empty());
    let is_nccl = text.trim_start().starts_with("NCCL error");
    let line = lines.take(if is_nccl { usize::MAX } else { 1 }).collect::<Vec<_>>().join(" ");
    let line = match line.strip_prefix("NCCL error in: ").and_then(|rest| rest.split_once(", ")) {
        Some((_place, what)) => format!("NCCL error: {what}"),
        None => line,
    };
    line.trim_end_matches("\")").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_nccl_keeps_its_reason() {
        let text = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled \
                    system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.28.9\n\
                    ncclSystemError: System call failed.\nLast error:\nno socket interface found\n\
                    Exception raised from create at NCCLUtils.cpp:94 (most recent call first):\nframe #0";
        assert_eq!(
            first_line(text),
            "NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version \
             2.28.9 ncclSystemError: System call failed. Last error: no socket interface found"
        );
        assert_eq!(
            first_line("shape '[2]' is invalid\nmore\nException raised from"),
            "shape '[2]' is invalid"
        );
    }
}
