//! Credentials that callers showed for manifests which the origin let them read.
//!
//! A pull's credentials come to its mirror and never to a snapshotter. So who reads an image in parts on this machine
//! may borrow those with which the very manifest was read a moment ago. They stay in memory, and not for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::{Digest, RegistryName, Repository};
use shoal_registry_proxy::Authorization;

/// From a pull's question for its manifest until its last layer was prepared, and until a filesystem that died in
/// between has come back.
const KEPT: Duration = Duration::from_secs(600);
/// Manifests at a time: more than a node pulls within that time.
const MOST: usize = 256;

/// A manifest, through the repository through which it was read.
pub(super) type Manifest = (RegistryName, Repository, Digest);

type Entries = HashMap<Manifest, (Authorization, Instant)>;

#[derive(Clone, Debug, Default)]
pub(super) struct Shown(Arc<Mutex<Entries>>);

impl Shown {
    pub(super) fn note(&self, manifest: Manifest, authorization: Authorization) {
        let mut shown = self.lock();
        if shown.len() >= MOST && !shown.contains_key(&manifest) {
            let oldest = shown.iter().min_by_key(|(_, (_, at))| *at).map(|(manifest, _)| manifest.clone());
            oldest.iter().for_each(|manifest| drop(shown.remove(manifest)));
        }
        shown.insert(manifest, (authorization, Instant::now()));
    }

    pub(super) fn find(&self, manifest: &Manifest) -> Option<Authorization> {
        let shown = self.lock();
        shown.get(manifest).filter(|(_, at)| at.elapsed() < KEPT).map(|(shown, _)| shown.clone())
    }

    /// To be called now and then: what nobody may borrow any more does not stay in memory.
    pub(super) fn forget_old(&self) {
        self.lock().retain(|_, (_, at)| at.elapsed() < KEPT);
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: u64) -> Manifest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        ("registry.test".parse().unwrap(), "team/app".parse().unwrap(), Digest::sha256(digest))
    }

    #[test]
    fn only_the_very_manifest_is_opened_and_the_oldest_is_forgotten() {
        let shown = Shown::default();
        for number in 0..=MOST as u64 {
            shown.note(manifest(number), Authorization::new(&format!("Basic {number}")));
        }
        assert_eq!(shown.find(&manifest(0)), None);
        assert_eq!(shown.find(&manifest(7)), Some(Authorization::new("Basic 7")));
        assert_eq!(shown.lock().len(), MOST);
        let (registry, _, digest) = manifest(7);
        assert_eq!(shown.find(&(registry, "team/other".parse().unwrap(), digest)), None);
        assert!(!format!("{shown:?}").contains("Basic"));
    }
}
