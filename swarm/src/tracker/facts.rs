//! What nodes found out about origins and others may use: tags, and repositories open to anybody.

use std::collections::BTreeMap;
use std::time::Duration;

use shoal_proto::RegistryName;
use shoal_proto::message::TagRecord;

use crate::Time;

/// A map that forgets what was not written for longest.
#[derive(Debug)]
struct Bounded<K, V> {
    max: usize,
    next: u64,
    values: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Ord + Clone, V> Bounded<K, V> {
    fn new(max: usize) -> Self {
        Self { max, next: 0, values: BTreeMap::new(), order: BTreeMap::new() }
    }

    fn insert(&mut self, key: K, value: V) {
        self.next += 1;
        self.order.insert(self.next, key.clone());
        if let Some((old, _)) = self.values.insert(key, (self.next, value)) {
            self.order.remove(&old);
        }
        if self.values.len() > self.max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.values.get(key).map(|(_, value)| value)
    }
}

type Repository = (RegistryName, Box<str>);

/// The facts.
#[derive(Debug)]
pub(super) struct Facts {
    /// With the moment at which the origin said so.
    tags: Bounded<(Repository, Box<str>), (TagRecord, Time, Duration)>,
    /// Whether it is open, as the origin last said to anybody.
    anonymous: Bounded<Repository, bool>,
}

impl Facts {
    pub(super) fn new(max: usize) -> Self {
        Self { tags: Bounded::new(max), anonymous: Bounded::new(max) }
    }

    /// Keeps the younger of two records.
    pub(super) fn add_tag(&mut self, now: Time, record: TagRecord) {
        let key = ((record.registry.clone(), record.repository.clone()), record.tag.clone());
        let known = self.tags.get(&key).map(|(_, at, age)| now.since(*at).saturating_add(*age));
        if known.is_none_or(|known| record.age <= known) {
            let age = record.age;
            self.tags.insert(key, (record, now, age));
        }
    }

    pub(super) fn tag(
        &self,
        now: Time,
        registry: RegistryName,
        repository: Box<str>,
        tag: Box<str>,
    ) -> Option<TagRecord> {
        let (record, at, age) = self.tags.get(&((registry, repository), tag))?;
        Some(TagRecord { age: now.since(*at).saturating_add(*age), ..record.clone() })
    }

    pub(super) fn set_anonymous(&mut self, registry: RegistryName, repository: Box<str>, open: bool) {
        self.anonymous.insert((registry, repository), open);
    }

    pub(super) fn is_anonymous(&self, registry: RegistryName, repository: Box<str>) -> bool {
        self.anonymous.get(&(registry, repository)).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_repository_that_closes_is_open_no_more() {
        let mut facts = Facts::new(10);
        let registry: RegistryName = "registry.test".parse().unwrap();
        for open in [true, false, true] {
            facts.set_anonymous(registry.clone(), "team/app".into(), open);
            assert_eq!(facts.is_anonymous(registry.clone(), "team/app".into()), open);
        }
        assert!(!facts.is_anonymous(registry, "team/other".into()));
    }
}
