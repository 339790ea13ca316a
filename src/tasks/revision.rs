//! Which state of a hub's repository a run takes: settled as its configuration is read, and kept when it goes on.

use std::path::Path;

use toml::{Table, Value};

use crate::artifacts::paths;
use crate::config::KeyError;
use crate::hub::{Address, pinned};

/// The configuration that the run in `dir` has; empty where there is none yet.
pub(super) fn former_tables(dir: &Path) -> Table {
    let text = std::fs::read_to_string(paths::config(dir)).unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// Writes the commit into the `weights` of a table at `key` that are a hub's: that of the `former` table of the run
/// where no revision is asked for.
///
/// # Errors
/// The hub does not have them, or cannot be asked: the key, and what is wrong.
pub(super) fn pin_weights(
    key: &str,
    table: &mut Table,
    former: Option<&Value>,
) -> Result<(), KeyError> {
    let Some(Value::String(weights)) = table.get_mut("weights") else { return Ok(()) };
    if !Address::is_meant(weights) {
        return Ok(());
    }
    let wrong = |error| (format!("{key}.weights"), format!("= \"{weights}\": {error:#}"));
    let former = former.and_then(|table| table.get("weights")).and_then(Value::as_str);
    let former = former.filter(|text| Address::is_meant(text));
    let former = former.and_then(|text| Address::parse(split(text).0).ok());
    let (address, part) = split(weights);
    let address = Address::parse(address).map_err(&wrong)?;
    let address = pinned(&address, former.as_ref()).map_err(&wrong)?;
    *weights = format!("{address}{part}");
    Ok(())
}

/// An address, and what stands behind it from `#` on.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find('#').unwrap_or(text.len()))
}
