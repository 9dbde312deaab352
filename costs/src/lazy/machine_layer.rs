//! A layer like those of distributions: programs and libraries of this machine, as a gzipped tar.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use shoal_proto::{Algorithm, Digest};
use shoal_store::ContentHasher;

use crate::sample::Layer;

/// Where distributions keep most of what they install.
const FROM: [&str; 2] = ["/usr/lib", "/usr/bin"];
/// Larger files are left out: a layer of one file says little.
const MAX_FILE: u64 = 16 << 20;
/// What most tools compress layers with.
const LEVEL: u32 = 6;

/// A layer, and the digest of its tar.
#[derive(Debug)]
pub(super) struct MachineLayer {
    pub(super) layer: Layer,
    pub(super) diff_id: Digest,
}

/// Hashes what passes.
struct Hashed<W> {
    to: W,
    hasher: ContentHasher,
    len: u64,
}

impl<W> Hashed<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: ContentHasher::new(Algorithm::Sha256), len: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Of about `size` bytes of files, or fewer where the machine has no more.
pub(super) fn make(folder: &Path, size: u64) -> Result<MachineLayer> {
    let file = folder.join("machine-layer");
    let layer = Hashed::new(File::create(&file).with_context(|| format!("create {}", file.display()))?);
    let mut tar = tar::Builder::new(Hashed::new(GzEncoder::new(layer, Compression::new(LEVEL))));
    for from in FROM {
        add_folder(&mut tar, Path::new(from), size)?;
    }
    let tar = tar.into_inner()?;
    ensure!(tar.len > 0, "no files in {FROM:?}");
    let layer = tar.to.finish()?;
    layer.to.sync_all()?;
    let layer = Layer { file, digest: layer.hasher.finish(), size: layer.len };
    Ok(MachineLayer { layer, diff_id: tar.hasher.finish() })
}

fn add_folder<W: Write>(tar: &mut tar::Builder<Hashed<W>>, folder: &Path, size: u64) -> Result<()> {
    let mut entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_unstable_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if tar.get_ref().len >= size {
            return Ok(());
        }
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            add_folder(tar, &path, size)?;
        } else if kind.is_file() && entry.metadata()?.len() <= MAX_FILE {
            let mut file = File::open(&path).with_context(|| format!("read {}", path.display()))?;
            tar.append_file(path.strip_prefix("/")?, &mut file)?;
        }
    }
    Ok(())
}
