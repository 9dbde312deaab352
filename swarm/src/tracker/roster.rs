//! Nodes of which one is drawn at random.

use std::collections::BTreeMap;

use super::NodeKey;

/// A set with cheap random draws.
#[derive(Clone, Debug, Default)]
pub(super) struct Roster {
    list: Vec<NodeKey>,
    places: BTreeMap<NodeKey, usize>,
}

impl Roster {
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn contains(&self, node: NodeKey) -> bool {
        self.places.contains_key(&node)
    }

    pub(super) fn insert(&mut self, node: NodeKey) {
        if !self.contains(node) {
            self.places.insert(node, self.list.len());
            self.list.push(node);
        }
    }

    pub(super) fn remove(&mut self, node: NodeKey) {
        let Some(place) = self.places.remove(&node) else { return };
        self.list.swap_remove(place);
        if let Some(moved) = self.list.get(place) {
            self.places.insert(*moved, place);
        }
    }

    pub(super) fn set(&mut self, node: NodeKey, member: bool) {
        if member { self.insert(node) } else { self.remove(node) }
    }

    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<NodeKey> {
        if self.list.is_empty() {
            return None;
        }
        self.list.get(rng.usize(..self.list.len())).copied()
    }

    /// All of a small set in random rotation, or so many draws of a large one.
    pub(super) fn sample(&self, count: usize, rng: &mut fastrand::Rng) -> Vec<NodeKey> {
        if self.list.len() <= count {
            let mut all = self.list.clone();
            rng.shuffle(&mut all);
            return all;
        }
        (0..count).filter_map(|_| self.draw(rng)).collect()
    }
}
