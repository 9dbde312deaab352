//! Sets of chunks of one blob.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use crate::ChunkIndex;

/// Words that need no memory of their own: blobs of up to 256 chunks, which nearly all layers are. A node looks at the
/// sets of all neighbours for each chunk that it asks for.
const INLINE: usize = 4;

/// Which chunks of a blob: a bitmap over `0..len`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSet {
    words: SmallVec<[u64; INLINE]>,
    len: u32,
    count: u32,
}

/// Why bytes are not a chunk set of the expected length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkSetError {
    #[error("a set over {len} chunks has {} bytes, this has {got}", .len.div_ceil(8))]
    Length { len: u32, got: usize },
    #[error("the set names chunks past the last of {len}")]
    PastEnd { len: u32 },
}

impl ChunkSet {
    /// The empty set over `len` chunks.
    pub fn empty(len: u32) -> Self {
        Self { words: smallvec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// The set of all `len` chunks.
    pub fn full(len: u32) -> Self {
        let mut set = Self { words: smallvec![u64::MAX; len.div_ceil(64) as usize], len, count: len };
        if let Some(last) = set.words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last = (1 << (len % 64)) - 1;
        }
        set
    }

    /// The number of chunks that the blob has.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// How many chunks are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    pub fn contains(&self, index: ChunkIndex) -> bool {
        self.words.get(index.slot() / 64).is_some_and(|word| word & (1 << (index.0 % 64)) != 0)
    }

    /// Adds a chunk; false when it was there or lies past the end.
    pub fn insert(&mut self, index: ChunkIndex) -> bool {
        if index.0 >= self.len || self.contains(index) {
            return false;
        }
        if let Some(word) = self.words.get_mut(index.slot() / 64) {
            *word |= 1 << (index.0 % 64);
            self.count += 1;
        }
        true
    }

    /// Removes a chunk; false when it was not there.
    pub fn remove(&mut self, index: ChunkIndex) -> bool {
        if !self.contains(index) {
            return false;
        }
        if let Some(word) = self.words.get_mut(index.slot() / 64) {
            *word &= !(1 << (index.0 % 64));
            self.count -= 1;
        }
        true
    }

    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        (0u32..).step_by(64).zip(&self.words).flat_map(|(base, word)| ones(base, *word))
    }

    /// The chunks that are not in the set, from `start` on, in order.
    pub fn missing_from(&self, start: ChunkIndex) -> impl Iterator<Item = ChunkIndex> + use<'_> {
        let first = start.0 - start.0 % 64;
        let words = (first..).step_by(64).zip(self.words.iter().skip(start.slot() / 64));
        let missing = words.flat_map(|(base, word)| ones(base, !word));
        let len = self.len;
        missing.skip_while(move |index| index.0 < start.0).take_while(move |index| index.0 < len)
    }

    /// The set of the first `most` chunks from `start` on that are not in this one.
    pub fn first_missing(&self, start: ChunkIndex, most: usize) -> Self {
        let mut missing = Self::empty(self.len);
        let mut most = u32::try_from(most).unwrap_or(u32::MAX);
        let (first, bit) = (start.slot() / 64, start.0 % 64);
        let words = self.words.len();
        for (place, (to, word)) in missing.words.iter_mut().zip(&self.words).enumerate().skip(first) {
            let mut rest = !word;
            if place == first {
                rest &= u64::MAX << bit;
            }
            if place + 1 == words && !self.len.is_multiple_of(64) {
                rest &= (1 << (self.len % 64)) - 1;
            }
            while rest.count_ones() > most {
                rest &= !(1 << (63 - rest.leading_zeros()));
            }
            most -= rest.count_ones();
            *to = rest;
            missing.count += rest.count_ones();
            if most == 0 {
                break;
            }
        }
        missing
    }

    /// The chunks that are in both sets, which are of the same length, in order.
    pub fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = ChunkIndex> + 'a {
        let words = self.words.iter().zip(&other.words).map(|(mine, theirs)| mine & theirs);
        (0u32..).step_by(64).zip(words).flat_map(|(base, word)| ones(base, word))
    }

    /// Adds what is in both of two sets of the same length as this one.
    pub fn add_common(&mut self, one: &Self, other: &Self) {
        for ((word, one), other) in self.words.iter_mut().zip(&one.words).zip(&other.words) {
            let new = one & other & !*word;
            *word |= new;
            self.count += new.count_ones();
        }
    }

    /// How many chunks are there without a gap from the first on.
    pub fn prefix(&self) -> u32 {
        let full = self.words.iter().take_while(|word| **word == u64::MAX).count();
        let rest = self.words.get(full).map_or(0, |word| word.trailing_ones());
        (u32::try_from(full).unwrap_or(u32::MAX).saturating_mul(64) + rest).min(self.len)
    }

    /// Whether every chunk of the range is in the set.
    pub fn contains_all(&self, range: Range<u32>) -> bool {
        range.map(ChunkIndex).all(|index| self.contains(index))
    }

    /// Little-endian bitmap, `len / 8` bytes rounded up: chunk 0 is the lowest bit of the first byte.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8) as usize);
        bytes
    }

    /// Reads a bitmap over `len` chunks; refuses any other length and bits past the end.
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Result<Self, ChunkSetError> {
        if bytes.len() != len.div_ceil(8) as usize {
            return Err(ChunkSetError::Length { len, got: bytes.len() });
        }
        let words: SmallVec<[u64; INLINE]> = bytes
            .chunks(8)
            .map(|part| part.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)))
            .collect();
        let past_end = !len.is_multiple_of(64) && words.last().is_some_and(|word| word >> (len % 64) != 0);
        if past_end {
            return Err(ChunkSetError::PastEnd { len });
        }
        let count = words.iter().map(|word| word.count_ones()).sum();
        Ok(Self { words, len, count })
    }
}

/// The chunks that the set bits of a word stand for.
fn ones(base: u32, word: u64) -> impl Iterator<Item = ChunkIndex> {
    std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
        .take_while(|word| *word != 0)
        .map(move |word| ChunkIndex(base + word.trailing_zeros()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(len in 0u32..300, start in 0u32..320, most in 0usize..320, ops in prop::collection::vec((any::<bool>(), 0u32..320), 0..200)) {
            let mut set = ChunkSet::empty(len);
            let mut model = BTreeSet::new();
            for (add, index) in ops {
                if add {
                    prop_assert_eq!(set.insert(ChunkIndex(index)), index < len && model.insert(index));
                } else {
                    prop_assert_eq!(set.remove(ChunkIndex(index)), model.remove(&index));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(set.iter().map(|i| i.0).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.prefix(), (0..len).take_while(|i| model.contains(i)).count() as u32);
            let missing: Vec<u32> = (start..len).filter(|index| !model.contains(index)).collect();
            prop_assert_eq!(set.missing_from(ChunkIndex(start)).map(|i| i.0).collect::<Vec<_>>(), missing);
            let first: Vec<ChunkIndex> = set.missing_from(ChunkIndex(start)).take(most).collect();
            let missing = set.first_missing(ChunkIndex(start), most);
            prop_assert_eq!(missing.count() as usize, first.len());
            prop_assert_eq!(missing.iter().collect::<Vec<_>>(), first);
            let odd: Vec<ChunkIndex> = (0..len).filter(|index| index % 3 == 1).map(ChunkIndex).collect();
            let mut other = ChunkSet::empty(len);
            (0..set.prefix()).for_each(|index| { other.insert(ChunkIndex(index)); });
            odd.iter().for_each(|index| { other.insert(*index); });
            let both: Vec<ChunkIndex> = set.iter().filter(|index| other.contains(*index)).collect();
            prop_assert_eq!(set.common(&other).collect::<Vec<_>>(), both);
            let mut sum = ChunkSet::full(len);
            odd.iter().for_each(|index| { sum.remove(*index); });
            let mut expected = sum.clone();
            set.common(&other).for_each(|index| { expected.insert(index); });
            sum.add_common(&set, &other);
            prop_assert_eq!(sum, expected);
            prop_assert_eq!(ChunkSet::from_bytes(len, &set.to_bytes()).unwrap(), set);
        }
    }

    #[test]
    fn full_has_every_chunk_and_no_more() {
        for len in [0, 1, 63, 64, 65, 1024] {
            let set = ChunkSet::full(len);
            assert!(set.is_full());
            assert_eq!(set.iter().count(), len as usize);
            assert_eq!(set.prefix(), len);
            assert_eq!(ChunkSet::from_bytes(len, &set.to_bytes()).unwrap(), set);
        }
    }

    #[test]
    fn bits_past_the_end_are_refused() {
        assert_eq!(ChunkSet::from_bytes(3, &[0b1000]), Err(ChunkSetError::PastEnd { len: 3 }));
        assert!(matches!(ChunkSet::from_bytes(3, &[0, 0]), Err(ChunkSetError::Length { .. })));
    }
}
