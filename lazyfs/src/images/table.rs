//! The numbers of layers in their places, on disk: one line for each, the parent's number (or `-`) and the layer's
//! digest; the line's number is the layer's.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use shoal_proto::Digest;

use super::ImageError;
use crate::fs::SlotNumber;

type Place = (Option<SlotNumber>, Digest);

#[derive(Debug)]
pub(super) struct SlotTable {
    path: PathBuf,
    file: File,
    places: Vec<Place>,
    numbers: HashMap<Place, SlotNumber>,
}

impl SlotTable {
    /// What follows a line that makes no sense, as a crash leaves it, is dropped: numbers that were given out since
    /// are given out again, but in a new mount.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut places = Vec::new();
        let mut sound = 0;
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let Some(place) = parse(line, places.len()) else { break };
            places.push(place);
            sound += line.len();
        }
        let file = File::options().append(true).create(true).open(path)?;
        file.set_len(sound as u64)?;
        let numbers = places.iter().enumerate().map(|(at, place)| (*place, number(at))).collect();
        Ok(Self { path: path.to_owned(), file, places, numbers })
    }

    pub(super) fn find(&self, parent: Option<SlotNumber>, layer: &Digest) -> Option<SlotNumber> {
        self.numbers.get(&(parent, *layer)).copied()
    }

    pub(super) fn add(
        &mut self,
        parent: Option<SlotNumber>,
        layer: &Digest,
    ) -> Result<SlotNumber, ImageError> {
        let below = parent.map_or_else(|| "-".to_owned(), |parent| parent.0.to_string());
        self.append(&format!("{below} {layer}\n"))
            .map_err(|error| ImageError::Table { path: self.path.clone(), error })?;
        let new = number(self.places.len());
        self.places.push((parent, *layer));
        self.numbers.insert((parent, *layer), new);
        Ok(new)
    }

    /// A line that was written by half is taken back.
    fn append(&mut self, line: &str) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.or_else(|error| self.file.set_len(before).and(Err(error)))
    }

    /// In the order of their numbers; so a parent comes before its children.
    pub(super) fn iter(&self) -> impl Iterator<Item = (SlotNumber, Option<SlotNumber>, &Digest)> {
        self.places.iter().enumerate().map(|(at, (parent, layer))| (number(at), *parent, layer))
    }
}

fn parse(line: &[u8], before: usize) -> Option<Place> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (parent, layer) = line.split_once(' ')?;
    let parent = match parent {
        "-" => None,
        number => Some(SlotNumber(number.parse().ok().filter(|&number: &u32| (number as usize) < before)?)),
    };
    Some((parent, layer.parse().ok()?))
}

fn number(at: usize) -> SlotNumber {
    SlotNumber(u32::try_from(at).unwrap_or(u32::MAX))
}
