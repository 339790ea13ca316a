//! A repository at a revision as a folder: from the cache where it is there, else fetched by one process of a machine.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use tracing::{info, warn};

use super::address::Address;
use super::cache::{Cache, make_folder};
use super::download::{bring, patiently};
use super::files::{Holder, Wanted, beside, holder, parts};
use super::server::{Contents, Failure, Server};
use super::settings::Settings;
use super::{licence, lock};
use crate::dist::environment;
use crate::durable;

/// The commits that addresses were when this process first asked: they stay these until it ends.
static KNOWN: LazyLock<Mutex<HashMap<Address, String>>> = LazyLock::new(Mutex::default);

/// How old an answer may be that another process of the same run got: ranks start at about one time.
const SHARED_ANSWER: Duration = Duration::from_secs(60);

/// The folder of all that an encoder is loaded from.
///
/// # Errors
/// It is not in the cache, and cannot be fetched: what to do.
pub fn weights(address: &Address) -> Result<PathBuf> {
    folder(address, Wanted::Weights)
}

/// The folder of what says of which encoder the weights are, `config.json`; perhaps with the weights.
///
/// # Errors
/// As of [`weights`].
pub fn description(address: &Address) -> Result<PathBuf> {
    folder(address, Wanted::Description)
}

/// The address with the commit that its revision is now; or, of the newest revision, the one that it was at
/// `former`, if that is the same repository: so a run goes on with what it began with.
///
/// # Errors
/// As of [`weights`].
pub fn pinned(address: &Address, former: Option<&Address>) -> Result<Address> {
    if address.commit().is_some() {
        return Ok(address.clone());
    }
    let is_same = |former: &&Address| former.repository() == address.repository();
    let former = former.filter(is_same).and_then(Address::commit);
    if let Some(commit) = former.filter(|_| address.is_newest()) {
        return Ok(address.at(commit));
    }
    let commit = Hub::of(address)?.commit(address)?;
    Ok(address.at(&commit))
}

fn folder(address: &Address, wanted: Wanted) -> Result<PathBuf> {
    let hub = Hub::of(address)?;
    let commit = match address.commit() {
        Some(commit) => commit.to_string(),
        None => hub.commit(address)?,
    };
    let folder = hub.cache.snapshot(&commit);
    if !hub.cache.has(&commit, wanted) {
        hub.fetch(&address.at(&commit), wanted)?;
        info!("{address} is in {}", folder.display());
    }
    if wanted == Wanted::Weights {
        hub.note_revisions(address, &commit)?;
    }
    Ok(folder)
}

/// A hub and the folder of a repository of it.
struct Hub {
    settings: Settings,
    cache: Cache,
}

impl Hub {
    fn of(address: &Address) -> Result<Self> {
        let settings = Settings::from_environment()?;
        let cache = Cache::of(&settings.cache, address);
        Ok(Self { settings, cache })
    }

    /// The commit that the revision of `address` is: as this process, or just now another of the run, was told, else
    /// as the hub says. Where that cannot be reached it is the one that was fetched last.
    fn commit(&self, address: &Address) -> Result<String> {
        if let Some(commit) = known().get(address) {
            return Ok(commit.clone());
        }
        let commit = self.ask(address)?;
        known().insert(address.clone(), commit.clone());
        Ok(commit)
    }

    fn ask(&self, address: &Address) -> Result<String> {
        let revision = address.revision();
        if self.settings.offline {
            return self.cache.commit_of(revision).ok_or_else(|| self.not_here(address));
        }
        let _lock = lock::hold(&self.cache.lock("distill"), &address.to_string())?;
        if let Some(commit) = self.answer_of_another(revision) {
            return Ok(commit);
        }
        match patiently_asked(&self.server()?, address) {
            Ok(Contents { commit, licence, .. }) => {
                licence::tell(address, licence.as_ref());
                self.note_answer(revision, &commit)?;
                Ok(commit)
            }
            Err(Failure::Lasting(error)) => Err(error.context(address.to_string())),
            Err(Failure::Passing(error)) => match self.cache.commit_of(revision) {
                Some(commit) if self.cache.has(&commit, Wanted::Weights) => {
                    warn!(
                        "{error:#}: {address} is taken as it was fetched before, commit {commit}"
                    );
                    Ok(commit)
                }
                _ => Err(unreachable(error, address)),
            },
        }
    }

    fn server(&self) -> Result<Server> {
        Server::new(Settings::from_environment()?)
    }

    /// What another process of this run was told a moment ago: a thousand ranks would ask a thousand times.
    fn answer_of_another(&self, revision: &str) -> Option<String> {
        let rank = environment::of_this_process().ok().flatten();
        if rank.is_none_or(|rank| rank.world_size < 2) {
            return None;
        }
        let path = self.cache.asked(revision);
        let age = fs::metadata(&path).ok()?.modified().ok()?.elapsed().ok()?;
        (age < SHARED_ANSWER).then(|| fs::read_to_string(&path).ok())?
    }

    fn note_answer(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.cache.asked(revision);
        make_folder(&path)?;
        durable::write(&path, commit.as_bytes())
    }

    /// Brings what is wanted of the commit of `address`, the weights last: where they are, all is.
    fn fetch(&self, address: &Address, wanted: Wanted) -> Result<()> {
        let commit = address.revision();
        if self.settings.offline {
            return Err(self.not_here(address));
        }
        let _lock = lock::hold(&self.cache.lock("distill"), &address.to_string())?;
        if self.cache.has(commit, wanted) {
            return Ok(());
        }
        let server = self.server()?;
        let bring_all = || {
            let contents = patiently_asked(&server, address)?;
            licence::tell(address, contents.licence.as_ref());
            for file in beside(&contents.files, wanted) {
                bring(&server, &self.cache, address, file)?;
            }
            if wanted == Wanted::Description {
                return Ok(());
            }
            let lasting = |error: Error| Failure::Lasting(error);
            let files = match holder(&contents.files).map_err(lasting)? {
                Holder::File(file) => vec![file],
                Holder::Index(index) => {
                    bring(&server, &self.cache, address, index)?;
                    let path = self.cache.snapshot(commit).join(index);
                    let read = || parts(&fs::read_to_string(&path)?);
                    read()
                        .with_context(|| index.to_string())
                        .map_err(lasting)?
                        .into_iter()
                        .collect()
                }
            };
            files.iter().try_for_each(|file| bring(&server, &self.cache, address, file))
        };
        bring_all().map_err(|failure| match failure {
            Failure::Lasting(error) => error.context(address.to_string()),
            Failure::Passing(error) => unreachable(error, address),
        })
    }

    /// Notes which revisions `commit` is, once it is here: what was fetched last is what is taken without a network.
    fn note_revisions(&self, address: &Address, commit: &str) -> Result<()> {
        let found: Vec<Address> = {
            let known = known();
            let is_this = |(one, its): &(&Address, &String)| {
                one.repository() == address.repository() && *its == commit
            };
            known.iter().filter(is_this).map(|(one, _)| one.clone()).collect()
        };
        let changed =
            |one: &&Address| self.cache.commit_of(one.revision()).as_deref() != Some(commit);
        found.iter().filter(changed).try_for_each(|one| self.cache.note(one.revision(), commit))
    }

    fn not_here(&self, address: &Address) -> Error {
        anyhow!(
            "{address} is not in {}, and HF_HUB_OFFLINE forbids to fetch it: unset that, or fetch it on a machine with \
             a network that shares this folder (`hf download {}`)",
            self.settings.cache.display(),
            address.repository()
        )
    }
}

fn patiently_asked(server: &Server, address: &Address) -> Result<Contents, Failure> {
    patiently(|| server.contents(address))
}

fn unreachable(error: Error, address: &Address) -> Error {
    error.context(format!(
        "{address} could not be fetched, and is not in the cache: is there a network? (HF_ENDPOINT names another hub, \
         HTTPS_PROXY a way to it.) What has come stays, and the same command goes on from there"
    ))
}

fn known() -> std::sync::MutexGuard<'static, HashMap<Address, String>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
