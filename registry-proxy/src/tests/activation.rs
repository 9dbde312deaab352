//! A listener inherited from systemd: the socket is open before the daemon is.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::net::TcpStream;

use super::client::{Reply, request, send_http1};
use super::shelf::Shelf;
use crate::{ListenError, Listeners, Proxy, ProxyConfig};

/// Runs only as the child of the test below.
#[tokio::test]
#[ignore = "started by another test"]
async fn child() {
    let listeners = Listeners::bind(&["systemd:mirror".parse().unwrap()]).unwrap();
    assert_eq!(listeners.tcp_addresses().len(), 1, "the socket of another name is not taken");
    let proxy = Proxy::new(Arc::new(Shelf::default()), &ProxyConfig::default()).unwrap();
    proxy.serve(listeners, std::future::pending()).await;
}

#[tokio::test]
async fn a_client_that_came_before_the_daemon_is_served() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let early = TcpStream::connect(address).await.unwrap();
    // The shell puts the socket where systemd would: two descriptors from 3 on, the second for this mirror.
    let script = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=other:mirror; \
                  exec \"$0\" --exact tests::activation::child --ignored 3<&0 4<&0 </dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let reply = Reply::read(send_http1(early, request("GET", "/v2/", &[])).await).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn without_systemd_the_error_says_so() {
    let error = Listeners::bind(&["systemd".parse().unwrap()]).unwrap_err();
    assert!(matches!(error, ListenError::NotInherited(_)));
    assert!(error.to_string().contains("systemd"));
}
