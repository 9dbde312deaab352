//! Whom a node lets in while the registry cannot be asked.

use shoal_origin::{Identity, OriginError};
use shoal_proto::{RegistryName, Repository};
use shoal_registry_proxy::{Caller, Refusal};

use super::access::{Access, Grant, NOTED_FOR};
use super::identity::candidates;
use super::refusals::{Subject, refusal};
use super::resolve::{age_of, look_up, noted, unix_now};

impl Access {
    /// A verdict to go by while the origin cannot be asked; `outage` is why it cannot. The members' word on open
    /// repositories counts.
    pub(super) async fn during_outage(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        caller: &Caller,
        (outage, subject): (&OriginError, Subject),
    ) -> Result<Grant, Refusal> {
        if let Some(grant) = self.remembered(registry, repository, caller, self.freshness.max_stale) {
            return Ok(grant);
        }
        if self.is_told_open(registry, repository).await {
            return Ok(Grant::open(caller));
        }
        Err(self.not_let_in(registry, repository, caller).unwrap_or_else(|| refusal(outage, subject)))
    }

    /// Whether members say that the repository is open, or said so when last asked. What they said is kept, because
    /// by the next time all of them may be gone.
    async fn is_told_open(&self, registry: &RegistryName, repository: &Repository) -> bool {
        let told = look_up(self.store.told_open(registry, repository.as_str()));
        let told_within = |time| told.is_some_and(|at| age_of(at) <= time);
        // What the origin said to this node itself weighs more than what others said some time ago.
        let closed = look_up(self.store.anonymous(registry, repository.as_str())) == Some(0);
        if !self.tracker.is_anonymous(registry, repository).await {
            return !closed && told_within(self.freshness.max_stale);
        }
        if !closed && !told_within(NOTED_FOR) {
            tokio::task::block_in_place(|| {
                noted(self.store.put_told_open(registry, repository.as_str(), unix_now()));
            });
        }
        true
    }

    /// What to tell a caller of a repository that is known as private: clients show their credentials only after
    /// they were asked for them, as the registry did.
    fn not_let_in(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        caller: &Caller,
    ) -> Option<Refusal> {
        let closed = self.closed_since(registry, repository);
        let [_, own] = candidates(caller);
        let asks = closed.as_ref().and_then(|closed| closed.challenge.clone());
        if let (Some(challenge), false) = (asks, matches!(own, Identity::Caller(_))) {
            return Some(Refusal::Unauthorized { challenges: vec![challenge] });
        }
        let private =
            closed.is_some() || look_up(self.store.anonymous(registry, repository.as_str())) == Some(0);
        private.then(|| Refusal::Denied {
            reason: format!(
                "{registry} cannot be asked now, and lately did not let these credentials read the repository \
                 through this node"
            ),
        })
    }
}
