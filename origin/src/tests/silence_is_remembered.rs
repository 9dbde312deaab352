//! A registry that lets connections run into nothing costs one question in a while, not each of them.

use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::repository;
use crate::{Failure, Identity};

/// Connections that a socket takes although nobody accepts them, at most.
const QUEUE: usize = 16;

#[tokio::test]
async fn while_a_host_is_silent_questions_fail_without_trying_it() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    // Once its queue is full the kernel drops what else arrives, as a firewall would.
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.unwrap());
        assert!(queued.len() < QUEUE, "the queue has no end");
    }
    let config: crate::OriginsConfig = toml::from_str(&format!(
        "system_proxy = false\nconnect_timeout = '300ms'\n[registries.'registry.test']\nurl = 'http://{address}'"
    ))
    .unwrap();
    let origins = crate::Origins::new(config).unwrap();
    let origin = origins.admit(&"registry.test".parse().unwrap()).unwrap();
    let ask = async || {
        let reference = "v1".parse().unwrap();
        let head = origin.head_manifest(&repository(), &reference, &[], &Identity::Anonymous).await;
        let failure = head.unwrap_err().failure().clone();
        assert!(matches!(failure, Failure::Unreachable { .. }), "{failure}");
        origin.counters().requests
    };
    let tries = ask().await;
    assert_eq!(tries, 1, "tried again although nothing answers");
    assert_eq!(ask().await, tries, "the second question waited as well");
    drop((listener, queued));
}
