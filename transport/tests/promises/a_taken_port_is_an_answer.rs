use std::net::UdpSocket;

use shoal_transport::{BindError, QuicConfig, QuicEndpoint};
use tokio::sync::mpsc;

use crate::support::{nothing, tls};

#[tokio::test]
async fn also_to_who_asks_on_a_runtimes_thread() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (events, _) = mpsc::channel(1);
    let bound = QuicEndpoint::bind(QuicConfig::new(address), &tls(1), nothing(), events);
    let error = bound.expect_err("the port is taken");
    assert!(matches!(error, BindError::Socket { listen, .. } if listen == address), "{error}");
}
