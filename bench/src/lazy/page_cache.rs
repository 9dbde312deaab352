//! Which pages of files are in the page cache, by cachestat(2) (Linux 6.5).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The system call's number, the same on all architectures.
const CACHESTAT: libc::c_long = 451;
const PAGE: u64 = 4096;

#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

/// The ranges of a file's bytes whose pages are cached.
pub(super) fn cached(file: &File) -> io::Result<Vec<Range<u64>>> {
    let pages = file.metadata()?.len().div_ceil(PAGE);
    let mut found = Vec::new();
    look(file, 0..pages, &mut found)?;
    Ok(found)
}

/// Halves the range until all of its pages, or none, are there.
fn look(file: &File, pages: Range<u64>, found: &mut Vec<Range<u64>>) -> io::Result<()> {
    let len = pages.end - pages.start;
    match count(file, &pages)? {
        0 => {}
        all if all >= len => found.push(pages.start * PAGE..pages.end * PAGE),
        _ => {
            let middle = pages.start + len / 2;
            look(file, pages.start..middle, found)?;
            look(file, middle..pages.end, found)?;
        }
    }
    Ok(())
}

/// How many of these pages are cached.
#[allow(unsafe_code, reason = "no crate here has this system call; it writes to the structure only")]
fn count(file: &File, pages: &Range<u64>) -> io::Result<u64> {
    if pages.is_empty() {
        return Ok(0);
    }
    let range = CachestatRange { off: pages.start * PAGE, len: (pages.end - pages.start) * PAGE };
    let mut stat = Cachestat::default();
    // SAFETY: both pointers are to structures of the layout that the kernel expects, alive during the call.
    let result = unsafe {
        libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0 as libc::c_uint)
    };
    if result == 0 { Ok(stat.nr_cache) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_just_written_is_cached() {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 10_000], 3 * PAGE).unwrap();
        let cached = cached(&file).unwrap();
        assert_eq!(cached.iter().map(|range| range.end - range.start).sum::<u64>(), 3 * PAGE, "{cached:?}");
        assert!(cached.iter().all(|range| range.start >= 3 * PAGE));
    }
}
