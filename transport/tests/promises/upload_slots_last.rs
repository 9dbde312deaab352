use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use shoal_transport::{Bulk, FetchedChunk, LinkEvent, QuicConfig, Served};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;

use crate::support::{MIB, Node, Serve, config, info, nothing, soon, tls};

/// The sender's patience. The line takes four times as long for a chunk.
const STALL: Duration = Duration::from_millis(200);
const LINE: f64 = 1.3e6;

/// Tells, when a body and with it its upload slot is given up, how much the line had carried by then.
struct Slot {
    carried: Arc<AtomicUsize>,
    tell: Option<oneshot::Sender<usize>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = self.tell.take().unwrap().send(self.carried.load(Ordering::SeqCst));
    }
}

/// A line to `server` that carries so many bytes a second towards whoever calls.
async fn slow_line(server: SocketAddr, carried: Arc<AtomicUsize>) -> SocketAddr {
    let (near, far) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    far.connect(server).await.unwrap();
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let (mut client, mut free_at) = (None, tokio::time::Instant::now());
        loop {
            tokio::select! {
                Ok((len, from)) = near.recv_from(&mut up) => {
                    client = Some(from);
                    let _ = far.send(&up[..len]).await;
                }
                Ok(len) = async { tokio::time::sleep_until(free_at).await; far.recv(&mut down).await } => {
                    free_at = free_at.max(tokio::time::Instant::now()) + Duration::from_secs_f64(len as f64 / LINE);
                    carried.fetch_add(len, Ordering::SeqCst);
                    let _ = near.send_to(&down[..len], client.unwrap()).await;
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn until_a_slow_line_has_carried_the_bytes() {
    let carried = Arc::new(AtomicUsize::new(0));
    let (tell, told) = oneshot::channel();
    let slot = std::sync::Mutex::new(Some(Slot { carried: carried.clone(), tell: Some(tell) }));
    let serve = Serve(move |_, _| {
        let slot = slot.lock().unwrap().take().unwrap();
        let whole = stream::once(async { Ok(Bytes::from(vec![7; MIB])) });
        // What follows the chunk is never asked for.
        let body = whole.chain(stream::once(async move {
            let _slot = slot;
            std::future::pending().await
        }));
        Served::Sending { len: MIB as u32, body: body.boxed() }
    });
    let mut server = Node::with(QuicConfig { stall: STALL, ..config() }, &tls(1), Arc::new(serve));
    let mut client = Node::new(2, nothing());
    let line = slow_line(server.endpoint.local_addr(), carried).await;
    soon("a link", client.endpoint.connect(info(server.id, line))).await.unwrap();
    assert_eq!(client.event().await, LinkEvent::Up(server.id));
    assert_eq!(server.event().await, LinkEvent::Up(client.id));

    assert_eq!(client.fetch(server.id, MIB).await, Ok(FetchedChunk::Bytes(vec![7; MIB].into())));
    let carried = soon("the slot", told).await.unwrap();
    assert!(carried > MIB / 2, "the slot was given up when {carried} bytes had arrived");
}
