//! Which index a layer has, as text for a command line.

use anyhow::Context;
use shoal_lazyfs::index::IndexId;
use shoal_lazyfs::source::ClaimedIndex;

/// The index's id, its file's length, its file's digest.
pub(crate) fn argument(index: &ClaimedIndex) -> String {
    format!("{}@{}@{}", hex::encode(index.id.0), index.len, index.file)
}

pub(super) fn parse(text: &str) -> anyhow::Result<ClaimedIndex> {
    let (id, rest) = text.split_once('@').context("no index id")?;
    let (len, file) = rest.split_once('@').context("no length")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(id, &mut bytes)?;
    Ok(ClaimedIndex { id: IndexId(bytes), file: file.parse()?, len: len.parse()? })
}

#[cfg(test)]
mod tests {
    use shoal_proto::Digest;

    use super::*;

    #[test]
    fn an_argument_is_read_as_it_was_written() {
        let index = ClaimedIndex { id: IndexId([1; 32]), file: Digest::sha256([2; 32]), len: 3 };
        assert_eq!(parse(&argument(&index)).unwrap(), index);
        let file = index.file;
        for text in ["", &file.to_string(), &format!("01@3@{file}"), &format!("{}@3@", "01".repeat(32))] {
            parse(text).unwrap_err();
        }
    }
}
