//! A bar for work that counts its pieces.

use indicatif::{ProgressBar, ProgressStyle};

use super::screen;

/// Does `work` with a bar that shows how many of how many pieces are done, as `work` tells it. The bar
/// is gone when the work is done.
pub fn with_bar<T>(
    verb: &'static str,
    work: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T,
) -> T {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {human_pos}/{human_len} ({eta})");
    // On the shared screen, so that log lines do not tear it.
    let bar = screen::bars().add(ProgressBar::new(0)).with_message(verb);
    let bar = match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    let result = work(&|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    result
}
