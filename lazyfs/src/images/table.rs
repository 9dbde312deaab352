//! The numbers of layers in their places, on disk: one line for each, the parent's number (or `-`), the layer's digest
//! and the id of its index; which line of that kind it is, is the layer's number. Between them `hide` or `show` and a
//! number, where a layer is not shown any more in its place, or again; and `gone` for a number that is never used.
//! Kernels remember what they were told of a number, so it stands for one tree for ever.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use shoal_proto::Digest;

use super::ImageError;
use crate::fs::{MAX_SLOTS, SlotNumber};
use crate::index::IndexId;

/// A layer as one index shows it, and what is right below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) parent: Option<SlotNumber>,
    pub(super) layer: Digest,
    pub(super) index: IndexId,
}

#[derive(Debug)]
pub(super) struct SlotTable {
    path: PathBuf,
    file: File,
    places: Vec<Option<Place>>,
    numbers: HashMap<Place, SlotNumber>,
    hidden: HashSet<SlotNumber>,
}

enum Line {
    Place(Place),
    Gone,
    Hide(SlotNumber),
    Show(SlotNumber),
}

impl SlotTable {
    /// What follows a line that makes no sense, as a crash leaves it, is dropped. See [`Self::keep_free`].
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (mut places, mut hidden) = (Vec::new(), HashSet::new());
        let (mut sound, mut changes) = (0, 0);
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            match parse(line, places.len()) {
                Some(Line::Place(place)) => places.push(Some(place)),
                Some(Line::Gone) => places.push(None),
                Some(Line::Hide(number)) => changes += usize::from(hidden.insert(number)),
                Some(Line::Show(number)) => changes += usize::from(hidden.remove(&number)),
                None => break,
            }
            sound += line.len();
        }
        if changes > places.len() {
            sound = rewrite(path, &places, &hidden)?;
        }
        let file = File::options().append(true).create(true).open(path)?;
        file.set_len(sound as u64)?;
        let known = places.iter().enumerate().filter_map(|(at, place)| Some(((*place)?, number(at))));
        let numbers = known.collect();
        Ok(Self { path: path.to_owned(), file, places, numbers, hidden })
    }

    pub(super) fn find(&self, place: &Place) -> Option<SlotNumber> {
        self.numbers.get(place).copied()
    }

    /// The number of a place, where something is shown from now on.
    pub(super) fn show(&mut self, place: Place) -> Result<SlotNumber, ImageError> {
        if let Some(known) = self.find(&place) {
            if self.hidden.contains(&known) {
                self.append(&format!("show {}\n", known.0))?;
                self.hidden.remove(&known);
            }
            return Ok(known);
        }
        let new = number(self.places.len());
        if new.0 >= MAX_SLOTS {
            return Err(ImageError::Full);
        }
        self.append(&line(Some(&place)))?;
        self.places.push(Some(place));
        self.numbers.insert(place, new);
        Ok(new)
    }

    /// Gives out none of the first `count` numbers from now on: they stood for something, whatever became of the file.
    pub(super) fn keep_free(&mut self, count: u32) -> Result<(), ImageError> {
        let lacking = (count.min(MAX_SLOTS) as usize).saturating_sub(self.places.len());
        if lacking > 0 {
            self.append(&line(None).repeat(lacking))?;
            self.places.extend(std::iter::repeat_n(None, lacking));
        }
        Ok(())
    }

    pub(super) fn hide(&mut self, slot: SlotNumber) -> Result<(), ImageError> {
        self.append(&format!("hide {}\n", slot.0))?;
        self.hidden.insert(slot);
        Ok(())
    }

    /// A line that was written by half is taken back.
    fn append(&mut self, line: &str) -> Result<(), ImageError> {
        let append = || {
            let before = self.file.metadata()?.len();
            let written = (&self.file).write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
            written.or_else(|error| self.file.set_len(before).and(Err(error)))
        };
        append().map_err(|error| ImageError::Table { path: self.path.clone(), error })
    }

    /// What is shown, in the order of numbers; so a parent comes before its children.
    pub(super) fn shown(&self) -> Vec<(SlotNumber, Place)> {
        let all = self.places.iter().enumerate().filter_map(|(at, place)| Some((number(at), (*place)?)));
        all.filter(|(number, _)| !self.hidden.contains(number)).collect()
    }

    /// Layers that were shown once and are shown in no place now.
    pub(super) fn only_hidden(&self) -> HashSet<Digest> {
        let mut layers: HashSet<_> = self.places.iter().flatten().map(|place| place.layer).collect();
        for (_, place) in self.shown() {
            layers.remove(&place.layer);
        }
        layers
    }
}

/// Without what was changed back since. Returns the file's length.
fn rewrite(path: &Path, places: &[Option<Place>], hidden: &HashSet<SlotNumber>) -> io::Result<usize> {
    let mut text: String = places.iter().map(|place| line(place.as_ref())).collect();
    for number in hidden {
        // Cannot fail: it goes to memory.
        let _ = writeln!(text, "hide {}", number.0);
    }
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
    Ok(text.len())
}

fn line(place: Option<&Place>) -> String {
    let Some(Place { parent, layer, index }) = place else { return "gone\n".to_owned() };
    let below = parent.map_or_else(|| "-".to_owned(), |parent| parent.0.to_string());
    format!("{below} {layer} {}\n", hex::encode(index.0))
}

fn parse(line: &[u8], before: usize) -> Option<Line> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    if line == "gone" {
        return Some(Line::Gone);
    }
    let (first, second) = line.split_once(' ')?;
    let known =
        |number: &str| Some(SlotNumber(number.parse().ok().filter(|&at: &u32| (at as usize) < before)?));
    Some(match first {
        "hide" => Line::Hide(known(second)?),
        "show" => Line::Show(known(second)?),
        below => {
            let parent = if below == "-" { None } else { Some(known(below)?) };
            let (layer, index) = second.split_once(' ')?;
            let mut id = IndexId([0; 32]);
            hex::decode_to_slice(index, &mut id.0).ok()?;
            Line::Place(Place { parent, layer: layer.parse().ok()?, index: id })
        }
    })
}

fn number(at: usize) -> SlotNumber {
    SlotNumber(u32::try_from(at).unwrap_or(u32::MAX))
}
