//! Who may read a repository: the origin's word, remembered for a while.
//!
//! A cached image is served to a caller only if the origin serves its repository to anybody, or has lately
//! served it to this very caller. Verdicts about callers stay in memory; that a repository is open to
//! anybody is kept on disk and told to the cluster.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_origin::{Failure, Identity, IdentityKey, Origin, OriginError};
use shoal_proto::message::NodeMessage;
use shoal_proto::{RegistryName, Repository};
use shoal_registry_proxy::Caller;
use shoal_store::Store;
use tracing::warn;

use super::identity::candidates;
use super::resolve::{age_of, look_up, noted, unix_now};
use crate::config::Freshness;
use crate::swarm::TrackerQueries;

/// Verdicts in memory: a node's pods rarely use more than some hundred identities times repositories.
const MAX_VERDICTS: usize = 10_000;
/// A repository that refused anonymous access is not asked anonymously again for this long.
const CLOSED_FOR: Duration = Duration::from_secs(600);

/// How long a fact on disk is left as it is.
pub(super) const NOTED_FOR: Duration = Duration::from_secs(60);

type RepositoryKey = (RegistryName, Repository);

/// What was found out about a caller and a repository.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    /// As whom the origin let us read.
    pub identity: Identity,
    /// The other identity that the caller may use.
    pub fallback: Identity,
    /// Whether it lets anybody.
    pub public: bool,
}

impl Grant {
    /// The repository is open to anybody.
    pub(super) fn open(caller: &Caller) -> Self {
        let [identity, fallback] = candidates(caller);
        Self { identity, fallback, public: true }
    }

    /// The origin let in the caller itself, or this node for it.
    fn own(caller: &Caller) -> Self {
        let [fallback, identity] = candidates(caller);
        Self { identity, fallback, public: false }
    }
}

/// Why nobody answered a question to an origin.
#[derive(Clone, Debug)]
pub(crate) enum AskError {
    /// The origin said no to every identity that this caller may use.
    Refused(OriginError),
    /// The origin cannot be asked now; an earlier answer may do.
    Outage(OriginError),
}

#[derive(Debug, Default)]
struct Verdicts {
    granted: HashMap<(RepositoryKey, IdentityKey), Instant>,
    closed: HashMap<RepositoryKey, Closed>,
}

/// A repository that the origin does not serve to anybody.
#[derive(Clone, Debug)]
pub(super) struct Closed {
    since: Instant,
    /// What the origin asked of who came without credentials; `None`: it only said no.
    pub(super) challenge: Option<String>,
}

/// Remembers verdicts and asks for new ones.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    pub(super) store: Store,
    pub(super) tracker: TrackerQueries,
    pub(super) freshness: Freshness,
    verdicts: Arc<Mutex<Verdicts>>,
}

impl Access {
    pub(crate) fn new(store: Store, tracker: TrackerQueries, freshness: Freshness) -> Self {
        Self { store, tracker, freshness, verdicts: Arc::default() }
    }

    /// A verdict that is fresh enough to go by without asking.
    pub(crate) fn fresh(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        caller: &Caller,
    ) -> Option<Grant> {
        self.remembered(registry, repository, caller, self.freshness.access_ttl)
    }

    pub(super) fn remembered(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        caller: &Caller,
        max_age: Duration,
    ) -> Option<Grant> {
        let open = look_up(self.store.anonymous(registry, repository.as_str())).filter(|at| *at > 0);
        if open.is_some_and(|at| age_of(at) <= max_age) {
            return Some(Grant::open(caller));
        }
        let key = (registry.clone(), repository.clone());
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = Grant::own(caller);
        let when = verdicts.granted.get(&(key, grant.identity.key()))?;
        (when.elapsed() <= max_age).then_some(grant)
    }

    /// Asks the origin as each identity that the caller may use, until one is let in, and remembers who was.
    pub(crate) async fn ask<T, F>(
        &self,
        origin: &Origin,
        repository: &Repository,
        caller: &Caller,
        question: impl Fn(Identity) -> F,
    ) -> Result<(Grant, T), AskError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        let [anonymous, own] = candidates(caller);
        let mut challenge = None;
        if !self.is_closed(origin.name(), repository) {
            match question(anonymous.clone()).await {
                Ok(answer) => {
                    self.granted(origin.name(), repository, &anonymous);
                    return Ok((Grant::open(caller), answer));
                }
                // An account may have a limit of its own.
                Err(error) if error.is_outage() && !is_throttled(&error) => {
                    return Err(AskError::Outage(error));
                }
                Err(error) => {
                    if is_closed(error.failure()) {
                        self.closed(origin.name(), repository, error.failure());
                    }
                    challenge = Some(error);
                }
            }
        }
        match question(own.clone()).await {
            Ok(answer) => {
                self.granted(origin.name(), repository, &own);
                Ok((Grant::own(caller), answer))
            }
            Err(error) if error.is_outage() => Err(AskError::Outage(error)),
            Err(error) => Err(AskError::Refused(more_telling(challenge, error))),
        }
    }

    /// Once a minute is enough: it counts for hours.
    fn note_open(&self, registry: &RegistryName, repository: &Repository) {
        let known = look_up(self.store.anonymous(registry, repository.as_str()));
        if known.is_some_and(|at| at > 0 && age_of(at) < NOTED_FOR) {
            return;
        }
        tokio::task::block_in_place(|| {
            noted(self.store.put_anonymous(registry, repository.as_str(), unix_now()));
        });
    }

    fn is_closed(&self, registry: &RegistryName, repository: &Repository) -> bool {
        self.closed_since(registry, repository).is_some_and(|closed| closed.since.elapsed() <= CLOSED_FOR)
    }

    fn tell(&self, registry: &RegistryName, repository: &Repository, open: bool) {
        let (registry, repository) = (registry.clone(), repository.as_str().into());
        self.tracker.tell(NodeMessage::Anonymous { registry, repository, open });
    }

    /// What is remembered of the origin's last refusal of who came without credentials.
    pub(super) fn closed_since(&self, registry: &RegistryName, repository: &Repository) -> Option<Closed> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.closed.get(&(registry.clone(), repository.clone())).cloned()
    }

    fn closed(&self, registry: &RegistryName, repository: &Repository, why: &Failure) {
        self.tell(registry, repository, false);
        // The time 0 is too long ago for anybody.
        tokio::task::block_in_place(|| {
            noted(self.store.put_anonymous(registry, repository.as_str(), 0));
        });
        let challenge = match why {
            Failure::Unauthorized { challenge } => challenge.clone(),
            _ => None,
        };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        trim(&mut verdicts.closed, |closed| closed.since);
        let closed = Closed { since: Instant::now(), challenge };
        verdicts.closed.insert((registry.clone(), repository.clone()), closed);
    }

    fn granted(&self, registry: &RegistryName, repository: &Repository, identity: &Identity) {
        if matches!(identity, Identity::Anonymous) {
            self.note_open(registry, repository);
            self.tell(registry, repository, true);
            return;
        }
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        trim(&mut verdicts.granted, |when| *when);
        let key = ((registry.clone(), repository.clone()), identity.key());
        verdicts.granted.insert(key, Instant::now());
    }
}

/// Makes room by dropping the older half.
fn trim<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, when: impl Fn(&V) -> Instant) {
    if map.len() < MAX_VERDICTS {
        return;
    }
    let mut times: Vec<Instant> = map.values().map(&when).collect();
    times.sort_unstable();
    if let Some(median) = times.get(times.len() / 2).copied() {
        map.retain(|_, value| when(value) > median);
    }
}

fn is_throttled(error: &OriginError) -> bool {
    matches!(error.failure(), Failure::Throttled { .. })
}

fn is_closed(failure: &Failure) -> bool {
    matches!(failure, Failure::Unauthorized { .. } | Failure::Forbidden)
}

/// Of two refusals the one that helps the caller: what was said to credentials, unless they only brought
/// a "not found" to the challenge that anonymous access got.
fn more_telling(earlier: Option<OriginError>, later: OriginError) -> OriginError {
    match earlier {
        Some(earlier) if matches!(later.failure(), Failure::Credentials(_)) => {
            // The client can still show its own; that the node's are of no use only the log can tell.
            warn!(error = %later, "the credentials of this node's configuration cannot be used");
            earlier
        }
        _ => later,
    }
}
