//! A set of some swarms of a machine.

use smallvec::SmallVec;

use super::Key;

/// Keys in order. Up to four, which is what a node mostly has, need no memory of their own, for the set changes with
/// every message.
#[derive(Clone, Debug, Default)]
pub(super) struct KeySet(SmallVec<[Key; 4]>);

impl KeySet {
    pub(super) fn insert(&mut self, key: Key) {
        if let Err(place) = self.0.binary_search(&key) {
            self.0.insert(place, key);
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        if let Ok(place) = self.0.binary_search(&key) {
            self.0.remove(place);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Key> + '_ {
        self.0.iter().copied()
    }
}

impl Extend<Key> for KeySet {
    fn extend<I: IntoIterator<Item = Key>>(&mut self, keys: I) {
        keys.into_iter().for_each(|key| self.insert(key));
    }
}

impl IntoIterator for KeySet {
    type Item = Key;
    type IntoIter = smallvec::IntoIter<[Key; 4]>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_the_ordered_set_that_it_replaces() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut set, mut reference) = (KeySet::default(), BTreeSet::new());
        for _ in 0..1000 {
            let key = rng.u32(..12);
            if rng.bool() {
                set.extend([key]);
                reference.insert(key);
            } else {
                set.remove(key);
                reference.remove(&key);
            }
            assert!(set.iter().eq(reference.iter().copied()));
        }
        assert!(set.into_iter().eq(reference));
    }
}
