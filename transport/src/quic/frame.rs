//! Frames on a stream: four bytes of length, big-endian, then a message.

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{ReadError, ReadExactError, RecvStream};
use shoal_proto::wire::WireError;

/// Bytes of a frame's length.
const HEADER: usize = 4;
/// What is set aside before a frame's bytes arrive: what a neighbour announces costs it nothing.
const SET_ASIDE: usize = 64 << 10;

/// What a neighbour must not send.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {len} bytes is larger than {limit}")]
    TooLarge { len: usize, limit: usize },
    #[error("the stream ends within a frame")]
    Cut,
    #[error("there is more on the stream than one frame")]
    Trailing,
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFrameError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Stream(#[from] ReadError),
}

impl From<WireError> for ReadFrameError {
    fn from(error: WireError) -> Self {
        Self::Frame(error.into())
    }
}

/// The message in its frame.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + message.len());
    // Every message is bounded far below 4 GiB; one that is not is refused by its reader.
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// The next frame; `None` where the stream ends before it.
pub(super) async fn read_frame(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<Option<Bytes>, ReadFrameError> {
    let mut header = [0; HEADER];
    match stream.read_exact(&mut header).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(FrameError::Cut.into()),
        Err(ReadExactError::ReadError(error)) => return Err(error.into()),
    }
    let len = u32::from_be_bytes(header) as usize;
    if len > limit {
        return Err(FrameError::TooLarge { len, limit }.into());
    }
    let mut message = BytesMut::with_capacity(len.min(SET_ASIDE));
    while message.len() < len {
        let part = stream.read_chunk(len - message.len(), true).await?.ok_or(FrameError::Cut)?;
        message.extend_from_slice(&part.bytes);
    }
    Ok(Some(message.freeze()))
}

/// The only frame of a stream.
pub(super) async fn read_only_frame(stream: &mut RecvStream, limit: usize) -> Result<Bytes, ReadFrameError> {
    let message = read_frame(stream, limit).await?.ok_or(FrameError::Cut)?;
    match stream.read_chunk(1, true).await? {
        None => Ok(message),
        Some(_) => Err(FrameError::Trailing.into()),
    }
}
