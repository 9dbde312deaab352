use std::path::Path;

use rustix::mount::{UnmountFlags, unmount};

/// Unmounts, lazily, what a test that failed has left below a folder. By the kernel's call: the program `umount` looks
/// at the folder first, and waits for ever if it is on a filesystem that nobody serves.
pub(crate) fn detach_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    for place in places.filter(|place| place.starts_with(folder)).collect::<Vec<_>>().into_iter().rev() {
        let _ = unmount(place, UnmountFlags::DETACH);
    }
}
