use crate::tree::{MAX_ENTRIES, MAX_NAME, MAX_PATH, MAX_TEXT};

/// Why a layer's tar is refused. A layer that containerd would refuse is refused here too; what only goes
/// beyond a bound of this crate is left to containerd.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("tar header at byte {offset}: {source}")]
    Header { offset: u64, source: tar_core::parse::ParseError },
    #[error("tar header at byte {offset} is longer than {limit} bytes")]
    LongHeader { offset: u64, limit: usize },
    #[error("the tar ends in the middle of an entry")]
    Truncated,
    #[error("the tar has more than {MAX_ENTRIES} entries")]
    TooManyEntries,
    #[error("names, link targets and extended attributes of the tar have more than {MAX_TEXT} bytes")]
    TooMuchText,
    #[error("the paths of the tar's entries are too long to walk")]
    TooMuchWork,
    #[error("{path:?}: {problem}")]
    Entry { path: String, problem: EntryProblem },
}

/// What is wrong with one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    #[error("a zero byte in a name or link target")]
    ZeroByte,
    #[error("a name longer than {MAX_NAME} bytes")]
    LongName,
    #[error("a path or link target longer than {MAX_PATH} bytes")]
    LongPath,
    #[error("the path leads through more than 255 symbolic links")]
    TooManySymlinks,
    #[error("a part of the path is no folder")]
    NotADirectory,
    #[error("a link without a target")]
    NoTarget,
    #[error("a hard link to what is not there")]
    MissingTarget,
    #[error("a hard link to a folder")]
    LinkToDirectory,
    #[error("the name of a whiteout names nothing")]
    EmptyWhiteout,
    #[error("a whiteout of what the same layer holds")]
    WhiteoutOfOwn,
    #[error("entries of type {0:?} are not supported")]
    Type(char),
    #[error("an owner that does not fit 32 bits")]
    Owner,
    #[error("a modification time that is no number of seconds since 1970")]
    Time,
    #[error("a device number out of range")]
    Device,
    #[error("an extended attribute that Linux does not take")]
    Xattr,
    #[error("a map of a sparse file that does not fit its sizes")]
    SparseMap,
}
