//! Memory that is quick to get. In a virtual machine the host takes back what the guest does not use, and the first
//! touch of a page then waits for the host: on the machine of docs/benchmarks.md a GiB of the page cache cost
//! 0.3 CPU seconds to write in memory that the host had provided, and 3 to 4 in memory that it had not. Which of
//! the two a step got would be a matter of luck.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, memfd_create};

/// Linux tells the host of free memory in blocks of this size (x86-64 and most others).
const REPORTED: u64 = 2 << 20;
/// So much of each block stays in use, so that none is free as a whole.
const KEPT: u64 = 128 << 10;
/// Left alone, so that nobody is killed for it.
const SPARE: u64 = 2 << 30;

/// While this lives, free memory that the host has provided stays so.
#[derive(Debug)]
pub struct WarmMemory {
    // Held for its pages.
    _file: File,
}

impl WarmMemory {
    /// Empties the page cache, which needs root, and lets the host provide all memory that is then free: the kernel
    /// takes what it hands out from anywhere in it. Takes some seconds for each 10 GiB.
    ///
    /// # Errors
    /// If there is less memory than was free a moment ago.
    pub fn provide() -> Result<Self> {
        // A cache full of what was built just now would be thrown out page by page while it is measured.
        rustix::fs::sync();
        let _ = std::fs::write("/proc/sys/vm/drop_caches", "3");
        let blocks = free()?.saturating_sub(SPARE) / REPORTED;
        let file = File::from(memfd_create("warm", MemfdFlags::CLOEXEC).context("make a file in memory")?);
        let block = vec![1; usize::try_from(REPORTED)?];
        for number in 0..blocks {
            file.write_all_at(&block, number * REPORTED).context("touch memory")?;
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for number in 0..blocks {
            fallocate(&file, hole, number * REPORTED + KEPT, REPORTED - KEPT).context("free memory")?;
        }
        Ok(Self { _file: file })
    }
}

/// Bytes that nobody uses, not even as a cache.
fn free() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let free = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kib: u64 = free.and_then(|line| line.split_whitespace().next()).unwrap_or_default().parse()?;
    Ok(kib * 1024)
}
