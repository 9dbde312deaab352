//! Proofs of identity that registries asked for, kept while they hold.
//!
//! One slot per repository and identity: a token is worth nothing for another repository or another
//! caller. A slot is locked while its token is fetched, so that many requests that need the same token cause one
//! request for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use shoal_proto::{RegistryName, Repository};
use tokio::time::Instant;
use url::Url;

use crate::challenge::{BearerChallenge, Challenge};
use crate::credentials::{CredentialSource, Credentials};
use crate::error::{Failure, Refusal};
use crate::http_client::HttpClient;
use crate::identity::{Identity, IdentityKey};
use crate::realm;
use crate::token::{TokenRequest, basic_header, bearer_header, scope};

// Credentials may change under a running daemon, so that Basic is read anew now and then.
const BASIC_LIFETIME: Duration = Duration::from_secs(600);

// After a failure, and for a proof that was just made, no further one is fetched for this long: callers who
// may not, and those who come while the token server is down, cause no storm.
const HOLD: Duration = Duration::from_secs(2);

// Repositories times identities in use on one node. A slot takes a few KiB.
const MAX_SLOTS: usize = 1024;

/// Which proof: tokens are for one repository and one identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ProofKey {
    pub(crate) repository: Repository,
    pub(crate) identity: IdentityKey,
}

/// The proofs for one registry.
pub(crate) struct Proofs {
    /// The URL that repositories of the registry are under.
    registry: Url,
    realms: Vec<Url>,
    slots: Mutex<HashMap<ProofKey, Arc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Held(Proof),
    Failed {
        failure: Failure,
        at: Instant,
    },
}

struct Proof {
    header: HeaderValue,
    /// What it answers, to be answered again before it expires.
    challenge: Challenge,
    made: Instant,
    renew: Instant,
}

/// What a proof is made with.
pub(crate) struct Prover<'a> {
    pub(crate) http: &'a HttpClient,
    pub(crate) who: &'a Identity,
    pub(crate) source: &'a CredentialSource,
    pub(crate) registry: &'a RegistryName,
}

impl Proofs {
    pub(crate) fn new(registry: Url, realms: Vec<Url>) -> Self {
        Self { registry, realms, slots: Mutex::default() }
    }

    /// The proof to send at once: the one that is held, renewed if it is about to expire.
    pub(crate) async fn current(
        &self,
        key: &ProofKey,
        prover: &Prover<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let Some(slot) = slot else { return Ok(None) };
        let mut state = slot.state.lock().await;
        match &*state {
            State::Held(proof) if Instant::now() < proof.renew => Ok(Some(proof.header.clone())),
            State::Held(proof) => {
                let challenge = proof.challenge.clone();
                self.make(&mut state, key, challenge, prover).await
            }
            State::Empty | State::Failed { .. } => Ok(None),
        }
    }

    /// The proof that answers a challenge which came though `rejected` was sent; `None` when the identity has
    /// nothing better.
    pub(crate) async fn answer(
        &self,
        key: &ProofKey,
        challenge: Challenge,
        rejected: Option<&HeaderValue>,
        prover: &Prover<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let slot = self.slot(key);
        let mut state = slot.state.lock().await;
        match &*state {
            // Another request got it in the meantime.
            State::Held(proof) if Some(&proof.header) != rejected && Instant::now() < proof.renew => {
                return Ok(Some(proof.header.clone()));
            }
            State::Held(proof) if proof.made.elapsed() < HOLD => return Ok(None),
            State::Failed { failure, at } if at.elapsed() < HOLD => return Err(failure.clone()),
            _ => {}
        }
        self.make(&mut state, key, challenge, prover).await
    }

    fn slot(&self, key: &ProofKey) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS && !slots.contains_key(key) {
            // Rare, and a lost proof costs one request: those go that nobody waits for or that expired.
            let now = Instant::now();
            slots.retain(|_, slot| match slot.state.try_lock() {
                Ok(state) => matches!(&*state, State::Held(proof) if now < proof.renew),
                Err(_) => true,
            });
            if slots.len() >= MAX_SLOTS {
                slots.clear();
            }
        }
        slots.entry(key.clone()).or_default().clone()
    }

    async fn make(
        &self,
        state: &mut State,
        key: &ProofKey,
        challenge: Challenge,
        prover: &Prover<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let made = match &challenge {
            Challenge::Basic => prover.basic().await,
            Challenge::Bearer(bearer) => self.fetch(key, bearer, prover).await.map(Some),
        };
        let now = Instant::now();
        match made {
            Ok(Some((header, lifetime))) => {
                // A quarter early, at most 30 s: clocks differ, and a request takes time.
                let renew = now + lifetime - (lifetime / 4).min(Duration::from_secs(30));
                *state = State::Held(Proof { header: header.clone(), challenge, made: now, renew });
                Ok(Some(header))
            }
            Ok(None) => Ok(None),
            Err(failure) => {
                *state = State::Failed { failure: failure.clone(), at: now };
                Err(failure)
            }
        }
    }

    async fn fetch(
        &self,
        key: &ProofKey,
        challenge: &BearerChallenge,
        prover: &Prover<'_>,
    ) -> Result<(HeaderValue, Duration), Failure> {
        let credentials = prover.credentials().await?;
        if let Some(Credentials::RegistryToken(token)) = &credentials {
            return Ok((bearer_header(token.expose())?, BASIC_LIFETIME));
        }
        let realm = Url::parse(&challenge.realm).map_err(|_| Failure::Malformed("a realm that is no URL"))?;
        if credentials.is_some() {
            realm::check_realm(&realm, &self.registry, &self.realms).map_err(Failure::Refused)?;
        } else if realm.scheme() != "https" && self.registry.scheme() == "https" {
            let host = realm.host_str().unwrap_or_default().to_owned();
            return Err(Failure::Refused(Refusal::Downgrade(host)));
        }
        let request = TokenRequest {
            realm,
            service: challenge.service.clone(),
            scope: scope(&key.repository, challenge.scope.as_deref()),
            registry: &self.registry,
        };
        request.send(prover.http, credentials.as_ref()).await
    }
}

impl Prover<'_> {
    async fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        match self.who {
            Identity::Anonymous => Ok(None),
            Identity::Node => Ok(self.source.load(self.registry).await?),
            Identity::Caller(caller) => Ok(caller.basic().cloned()),
        }
    }

    async fn basic(&self) -> Result<Option<(HeaderValue, Duration)>, Failure> {
        match self.credentials().await? {
            Some(Credentials::Basic { user, password }) => {
                Ok(Some((basic_header(&user, password.expose())?, BASIC_LIFETIME)))
            }
            Some(Credentials::RegistryToken(token)) => {
                Ok(Some((bearer_header(token.expose())?, BASIC_LIFETIME)))
            }
            Some(Credentials::IdentityToken(_)) | None => Ok(None),
        }
    }
}
