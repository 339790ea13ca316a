//! Environment variables as text and numbers.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use crate::config::ConfigError;

/// Set by `distill launch` in its processes: the launcher's process id.
pub const LAUNCH_MARK: &str = "DISTILL_LAUNCH";

pub(super) const MASTER_ADDR: &str = "MASTER_ADDR";
pub(super) const MASTER_PORT: &str = "MASTER_PORT";

/// The environment, where an empty variable is a missing one.
pub(super) struct Variables<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variable }
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|text| !text.is_empty())
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// A number that is not negative, if the variable is set.
    pub(super) fn number<T: FromStr<Err: Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        let parse = |text: String| {
            text.parse().map_err(|reason| {
                error(name, format!("found `{text}`, expected a number from 0 on: {reason}"))
            })
        };
        self.text(name).map(parse).transpose()
    }

    /// `MASTER_ADDR`, if it is set: a name or an address, as resolvers take it.
    pub(super) fn host(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = self.text(MASTER_ADDR) else { return Ok(None) };
        let host = text.trim();
        // As in URLs.
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let is_address = host.parse::<IpAddr>().is_ok();
        let is_odd = |c: char| c.is_whitespace() || "/[]@,;".contains(c) || c == ':' && !is_address;
        if host.is_empty() || host.contains(is_odd) {
            let message =
                format!("found `{text}`, expected a host name or an address, without a port");
            return Err(error(MASTER_ADDR, message));
        }
        Ok(Some(host.to_string()))
    }

    /// `MASTER_PORT`, if it is set.
    pub(super) fn port(&self) -> Result<Option<u16>, ConfigError> {
        let Some(text) = self.text(MASTER_PORT) else { return Ok(None) };
        match text.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(error(MASTER_PORT, format!("found `{text}`, expected a port, 1 to 65535"))),
        }
    }
}

/// A variable of the environment that is not as it should be.
pub(super) fn error(variable: &str, message: String) -> ConfigError {
    ConfigError { file: std::path::PathBuf::new(), key: variable.to_string(), message }
}
