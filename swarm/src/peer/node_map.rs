//! A map of some dozens of nodes that is looked into for every message.

use std::cmp::Ordering;

use shoal_proto::NodeId;

/// Keyed by node, in the order of names. The first bytes of all names lie side by side and all of them are compared, 2 KiB
/// for the most links that a node has: a machine that simulates thousands of nodes has none of these lines in its caches,
/// and a search by halves would wait for each before it knows the next.
#[derive(Clone, Debug)]
pub(super) struct NodeMap<V> {
    starts: Vec<u32>,
    entries: Vec<(NodeId, V)>,
}

impl<V> Default for NodeMap<V> {
    fn default() -> Self {
        Self { starts: Vec::new(), entries: Vec::new() }
    }
}

fn start_of(node: &NodeId) -> u32 {
    let mut start = [0; 4];
    start.iter_mut().zip(node.as_bytes()).for_each(|(to, from)| *to = *from);
    u32::from_be_bytes(start)
}

impl<V> NodeMap<V> {
    /// Where the node is, else where it would be.
    fn find(&self, node: &NodeId) -> Result<usize, usize> {
        let start = start_of(node);
        let mut place = self.starts.iter().filter(|other| **other < start).count();
        // Names that begin alike are next to each other.
        loop {
            match self.entries.get(place).map(|(other, _)| other.cmp(node)) {
                Some(Ordering::Less) => place += 1,
                Some(Ordering::Equal) => return Ok(place),
                Some(Ordering::Greater) | None => return Err(place),
            }
        }
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&V> {
        self.entries.get(self.find(node).ok()?).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut V> {
        let place = self.find(node).ok()?;
        self.entries.get_mut(place).map(|(_, value)| value)
    }

    pub(super) fn contains_key(&self, node: &NodeId) -> bool {
        self.find(node).is_ok()
    }

    /// Puts a value in the place of any that was there.
    pub(super) fn insert(&mut self, node: NodeId, value: V) {
        self.remove(&node);
        if let Err(place) = self.find(&node) {
            self.starts.insert(place, start_of(&node));
            self.entries.insert(place, (node, value));
        }
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<V> {
        let place = self.find(node).ok()?;
        self.starts.remove(place);
        Some(self.entries.remove(place).1)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeId, &V)> {
        self.entries.iter().map(|(node, value)| (node, value))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.entries.iter().map(|(node, _)| node)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.iter_mut().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_the_ordered_map_that_it_replaces() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut map, mut reference) = (NodeMap::default(), BTreeMap::new());
        for value in 0..5000 {
            // Some names begin alike.
            let mut name = [0; 32];
            (name[3], name[4], name[31]) = (rng.u8(..12), rng.u8(..3), rng.u8(..3));
            let node = NodeId::from_bytes(name);
            assert_eq!(map.get(&node), reference.get(&node));
            if rng.u8(..3) > 0 {
                map.insert(node, value);
                reference.insert(node, value);
            } else {
                assert_eq!(map.remove(&node), reference.remove(&node));
            }
            assert_eq!(
                (map.contains_key(&node), map.len()),
                (reference.contains_key(&node), reference.len())
            );
            assert!(map.iter().eq(&reference));
            assert!(map.keys().eq(reference.keys()));
        }
    }
}
