//! Asks a neighbour for a chunk.

use bytes::Bytes;
use quinn::{Connection, ReadError, RecvStream, WriteError};
use shoal_proto::NodeId;
use shoal_proto::message::{ChunkReply, PeerRequest};
use tokio::sync::watch;
use tokio::time::timeout;

use super::frame::{FrameError, ReadFrameError, frame, read_frame};
use super::links::Close;
use super::shared::Shared;
use crate::{FetchError, FetchedChunk};

/// Bytes of the head of an answer.
const REPLY: usize = 64;

/// Packets that are taken out of QUIC's buffers at once. Taken one by one, each would lock the connection, set a timer
/// and check whether the neighbour may send more.
const PARTS: usize = 16;

/// One request on its way. Dropping it tells the neighbour to stop.
pub(super) struct Fetch<'a> {
    pub(super) shared: &'a Shared,
    pub(super) node: NodeId,
    pub(super) connection: &'a Connection,
    /// Bytes that the chunk has.
    pub(super) expected: u32,
    /// Bytes that came so far.
    pub(super) arrived: watch::Sender<u64>,
}

impl Fetch<'_> {
    /// Asks and receives. Closes the connection where the neighbour broke the protocol.
    pub(super) async fn run(&self, request: &PeerRequest) -> Result<FetchedChunk, FetchError> {
        let result = self.ask(request).await;
        if let Err(error) = &result
            && is_abuse(error)
        {
            tracing::warn!(peer = %self.node, %error, "a neighbour broke the protocol, the link is closed");
            Close::Protocol.close(self.connection);
        }
        result
    }

    async fn ask(&self, request: &PeerRequest) -> Result<FetchedChunk, FetchError> {
        let (mut sender, mut receiver) =
            self.progress(self.connection.open_bi()).await?.map_err(|e| self.lost(e))?;
        let sent = self.progress(sender.write_chunk(frame(&request.encode()))).await?;
        sent.map_err(|error| match error {
            WriteError::ConnectionLost(source) => self.lost(source),
            _ => FetchError::Aborted(self.node),
        })?;
        // Fails only where the neighbour stopped the stream, which the answer tells.
        let _ = sender.finish();

        let head = self.progress(read_frame(&mut receiver, REPLY)).await?;
        let head = head.map_err(|error| match error {
            ReadFrameError::Frame(source) => self.malformed(source),
            ReadFrameError::Stream(error) => self.failed(error),
        })?;
        let head = head.ok_or_else(|| self.malformed(FrameError::Cut))?;
        match ChunkReply::decode(&head).map_err(|error| self.malformed(error.into()))? {
            ChunkReply::Busy => Ok(FetchedChunk::Busy),
            ChunkReply::NotHeld => Ok(FetchedChunk::NotHeld),
            ChunkReply::Sending { len } if len == self.expected => {
                Ok(FetchedChunk::Bytes(self.body(&mut receiver).await?))
            }
            ChunkReply::Sending { len: announced } => {
                Err(FetchError::WrongLength { node: self.node, announced, expected: self.expected })
            }
        }
    }

    /// Reads the whole body into one piece of memory, and that nothing follows.
    async fn body(&self, receiver: &mut RecvStream) -> Result<Bytes, FetchError> {
        let (node, expected) = (self.node, self.expected);
        let mut body = self.shared.memory.take(expected as usize);
        let mut parts = [const { Bytes::new() }; PARTS];
        loop {
            let read = self.progress(receiver.read_chunks(&mut parts)).await?;
            let Some(read) = read.map_err(|error| self.failed(error))? else { break };
            let before = body.len();
            for part in parts.iter_mut().take(read).map(std::mem::take) {
                if body.len() + part.len() > expected as usize {
                    return Err(FetchError::TooLong { node, expected });
                }
                body.push(&part);
            }
            let came = (body.len() - before) as u64;
            self.arrived.send_modify(|bytes| *bytes += came);
            self.shared.download.take(came).await;
        }
        if body.len() < expected as usize {
            return Err(FetchError::TooShort { node, got: body.len(), expected });
        }
        Ok(body.freeze())
    }

    async fn progress<T>(&self, step: impl Future<Output = T>) -> Result<T, FetchError> {
        let waited = self.shared.stall;
        timeout(waited, step).await.map_err(|_| FetchError::Stalled { node: self.node, waited })
    }

    fn malformed(&self, source: FrameError) -> FetchError {
        FetchError::Frame { node: self.node, source }
    }

    fn lost(&self, source: quinn::ConnectionError) -> FetchError {
        FetchError::LinkLost { node: self.node, source }
    }

    fn failed(&self, error: ReadError) -> FetchError {
        match error {
            ReadError::ConnectionLost(source) => self.lost(source),
            _ => FetchError::Aborted(self.node),
        }
    }
}

/// What an honest neighbour never does, however unlucky.
fn is_abuse(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::WrongLength { .. }
            | FetchError::TooShort { .. }
            | FetchError::TooLong { .. }
            | FetchError::Frame { .. }
    )
}
