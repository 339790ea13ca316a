//! A word on weights whose licence is not one of the usual free ones, once for each user.

use std::fs;

use tracing::warn;

use super::address::Address;
use crate::durable;

/// What hubs call licences that ask for little more than to be named.
const FREE: [&str; 12] = [
    "apache-2.0",
    "mit",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "isc",
    "unlicense",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-3.0",
    "zlib",
    "0bsd",
];

/// Tells of the `licence` of a repository, its name and where it is to be read, unless it was told before.
pub(super) fn tell(address: &Address, licence: Option<&(String, Option<String>)>) {
    let Some((name, link)) = licence else { return };
    if FREE.contains(&name.to_ascii_lowercase().as_str()) {
        return;
    }
    let repository = address.repository();
    let told = durable::user_cache().map(|cache| {
        let mark = format!("{}--{}", address.owner, address.name);
        cache.join("distill/licences-told").join(mark)
    });
    if told.as_ref().is_some_and(|told| told.exists()) {
        return;
    }
    let link = link.as_deref().map(|link| format!(", {link}")).unwrap_or_default();
    warn!(
        "{repository} is under a licence of its own (`{name}`{link}): read whether it allows what you do with these \
         weights and with what is trained from them. This is said once"
    );
    if let Some(told) = told {
        // Said again, if it cannot be noted.
        _ = told.parent().map(fs::create_dir_all);
        _ = fs::write(&told, name);
    }
}
