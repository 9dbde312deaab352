//! Frames: four bytes of length, big-endian, then a message.

use std::io;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// Bytes of one request: names and digests, a token, and some numbers; or a report about some hundred images.
pub const MAX_REQUEST: usize = 256 << 10;
/// Bytes of one answer: the longest range ([`limit::RANGE`](shoal_proto::message::limit::RANGE)) and its envelope, or an
/// image of some hundred layers.
const MAX_REPLY: usize = (32 << 20) + (64 << 10);

pub type FrameReader = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
pub type FrameWriter = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// Why nothing more can be read from a connection, or written to it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("not a message of this protocol: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Cuts a connection into frames, of at most so many bytes each.
fn frames(stream: UnixStream, receive: usize, send: usize) -> (FrameReader, FrameWriter) {
    let codec = |most| LengthDelimitedCodec::builder().max_frame_length(most).new_codec();
    let (reader, writer) = stream.into_split();
    (FramedRead::new(reader, codec(receive)), FramedWrite::new(writer, codec(send)))
}

/// The daemon's side.
pub fn server_frames(stream: UnixStream) -> (FrameReader, FrameWriter) {
    frames(stream, MAX_REQUEST, MAX_REPLY)
}

/// The filesystem's side.
pub fn client_frames(stream: UnixStream) -> (FrameReader, FrameWriter) {
    frames(stream, MAX_REPLY, MAX_REQUEST)
}

/// The next message; `None` at the connection's end.
pub async fn receive<M: Message + Default>(reader: &mut FrameReader) -> Result<Option<M>, FrameError> {
    let Some(frame) = reader.next().await else { return Ok(None) };
    Ok(Some(M::decode(frame?.freeze())?))
}

/// Sends a message.
pub async fn send<M: Message>(writer: &mut FrameWriter, message: &M) -> Result<(), FrameError> {
    Ok(writer.send(Bytes::from(message.encode_to_vec())).await?)
}
