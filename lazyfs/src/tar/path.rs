//! Paths of a tar: bytes between slashes.

use super::error::EntryProblem;
use crate::tree::{MAX_NAME, MAX_PATH};

/// The parts of a path after lexical cleaning: no `.`, no empty ones, `a/..` removed, and `..` that would leave
/// the root dropped.
pub(super) fn clean(path: &[u8]) -> Result<Vec<&[u8]>, EntryProblem> {
    if path.len() > MAX_PATH {
        return Err(EntryProblem::LongPath);
    }
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ if part.contains(&0) => return Err(EntryProblem::ZeroByte),
            _ if part.len() > MAX_NAME => return Err(EntryProblem::LongName),
            _ => parts.push(part),
        }
    }
    Ok(parts)
}
