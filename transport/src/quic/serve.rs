//! Answers neighbours' requests for chunks.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use shoal_proto::NodeId;
use shoal_proto::message::{ChunkReply, PeerRequest};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::frame::{FrameError, ReadFrameError, frame, read_only_frame};
use super::links::Close;
use super::shared::Shared;
use crate::Served;

/// Bytes of a request: a digest, a registry's name, and some numbers.
const REQUEST: usize = 1024;

/// What has to get through within the time of a stall: 13 KB/s, where that is 10 s.
const PIECE: u32 = 128 << 10;

/// Sent where a body ends before its announced length, so that it does not pass for whole.
const ABORTED: VarInt = VarInt::from_u32(1);

/// Why the rest of a body was not sent.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("read the chunk: {0}")]
    Read(#[from] std::io::Error),
    #[error("send the chunk: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("the neighbour takes nothing")]
    Stalled,
    #[error("the chunk's body has not the announced length of {0} bytes")]
    Length(u32),
}

/// Answers every request on a connection until one breaks the protocol or the connection ends.
pub(super) async fn serve_requests(shared: &Arc<Shared>, peer: NodeId, connection: &Connection) -> Close {
    // At most as many as a neighbour may have streams; dropped, and so cancelled, with the link.
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok((sender, receiver)) => {
                    answers.spawn(answer(shared.clone(), peer, sender, receiver));
                }
                Err(_) => return Close::Done,
            },
            Some(answered) = answers.join_next() => if let Ok(Err(error)) = answered {
                tracing::warn!(%peer, %error, "a neighbour broke the protocol, the link is closed");
                return Close::Protocol;
            }
        }
    }
}

async fn answer(
    shared: Arc<Shared>,
    peer: NodeId,
    mut sender: SendStream,
    mut receiver: RecvStream,
) -> Result<(), FrameError> {
    let request = match timeout(shared.stall, read_only_frame(&mut receiver, REQUEST)).await {
        Ok(Ok(bytes)) => PeerRequest::decode(&bytes)?,
        Ok(Err(ReadFrameError::Frame(error))) => return Err(error),
        // Cancelled, or the connection is gone, or a neighbour that does not say what it wants.
        Ok(Err(ReadFrameError::Stream(_))) | Err(_) => return Ok(()),
    };
    let Some(_upload) = shared.start_upload() else {
        // Like everything else that fails to be written here, seen by the other end.
        let _ = reply(&shared, &mut sender, ChunkReply::Busy).await;
        return Ok(());
    };
    let cancelled = sender.stopped();
    tokio::select! {
        _ = cancelled => {}
        result = send_answer(&shared, peer, request, &mut sender) => if let Err(error) = result {
            tracing::debug!(%peer, %error, "a chunk was not sent to its end");
            // Fails where the other end cancelled first.
            let _ = sender.reset(ABORTED);
        }
    }
    Ok(())
}

async fn send_answer(
    shared: &Shared,
    peer: NodeId,
    request: PeerRequest,
    sender: &mut SendStream,
) -> Result<(), BodyError> {
    // Held until the answer has arrived: with it goes the upload slot, and what is sent into QUIC's buffers is not
    // sent yet. A slot that ended there would let all neighbours share the link at once.
    let mut held = None;
    let served = match request {
        PeerRequest::Chunk(chunk) => shared.server.serve(peer, chunk),
        PeerRequest::Range(range) => shared.server.serve_range(peer, range),
    };
    match served.await {
        Served::Busy => reply(shared, sender, ChunkReply::Busy).await?,
        Served::NotHeld => reply(shared, sender, ChunkReply::NotHeld).await?,
        Served::Sending { len, mut body } => {
            reply(shared, sender, ChunkReply::Sending { len }).await?;
            send_body(shared, sender, len, &mut body).await?;
            held = Some((body, len));
        }
    }
    // Fails where the other end cancelled first.
    let _ = sender.finish();
    // The answer counts as being sent until it has arrived, so that closing waits for it. All of it may still be in
    // the buffers, and has as much time as it would have had piece by piece.
    let pieces = held.as_ref().map_or(0, |(_, len)| len / PIECE);
    let _ = timeout(shared.stall * (pieces + 1), sender.stopped()).await;
    Ok(())
}

async fn reply(shared: &Shared, sender: &mut SendStream, reply: ChunkReply) -> Result<(), BodyError> {
    let written = timeout(shared.stall, sender.write_chunk(frame(&reply.encode()))).await;
    Ok(written.map_err(|_| BodyError::Stalled)??)
}

async fn send_body(
    shared: &Shared,
    sender: &mut SendStream,
    len: u32,
    body: &mut BoxStream<'static, std::io::Result<bytes::Bytes>>,
) -> Result<(), BodyError> {
    let mut left = len as usize;
    while left > 0 {
        let mut part = body.next().await.ok_or(BodyError::Length(len))??;
        left = left.checked_sub(part.len()).ok_or(BodyError::Length(len))?;
        while !part.is_empty() {
            let piece = part.split_to(part.len().min(PIECE as usize));
            shared.upload.take(piece.len() as u64).await;
            timeout(shared.stall, sender.write_chunk(piece)).await.map_err(|_| BodyError::Stalled)??;
        }
    }
    Ok(())
}
