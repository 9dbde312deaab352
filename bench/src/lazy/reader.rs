//! Reads all of an image, in a fixed order.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

/// As `cat` reads.
const PIECE: usize = 128 << 10;

/// Reads every regular file below a folder, in the order of their paths; returns how many bytes they have.
pub(super) fn read_all(root: &Path, stop: &AtomicBool) -> Result<u64> {
    let mut entries = fs::read_dir(root)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    let (mut bytes, mut piece) = (0, vec![0; PIECE]);
    for entry in entries {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        let (kind, path) = (entry.file_type()?, entry.path());
        if kind.is_dir() {
            bytes += read_all(&path, stop)?;
        } else if kind.is_file() {
            let mut file = File::open(&path)?;
            loop {
                match file.read(&mut piece).with_context(|| format!("read {}", path.display()))? {
                    0 => break,
                    read => bytes += read as u64,
                }
            }
        }
    }
    Ok(bytes)
}
