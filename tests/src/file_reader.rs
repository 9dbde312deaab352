use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;

use crate::Kubelet;
use crate::program::PATIENCE;

/// A container that hashes the files that it is told of, until it is told of no more. Its image needs `sh` and
/// `sha256sum`.
#[derive(Debug)]
pub struct FileReader {
    container: Child,
    asks: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl FileReader {
    /// Returns when it runs.
    pub async fn start(kubelet: &Kubelet, image: &str) -> Self {
        let script = "echo runs; while read -r path; do sha256sum $path || echo failed; done";
        let mut container = kubelet.start_container(image, "reader", &["/bin/sh", "-c", script]);
        let answers = BufReader::new(container.stdout.take().unwrap()).lines();
        let mut reader = Self { asks: container.stdin.take(), answers, container };
        assert_eq!(reader.answer().await, "runs");
        reader
    }

    pub async fn ask(&mut self, path: &str) {
        self.asks.as_mut().unwrap().write_all(format!("{path}\n").as_bytes()).await.unwrap();
    }

    /// The SHA-256 of a file, in hex, and its path; or `failed`.
    pub async fn answer(&mut self) -> String {
        let answer = timeout(PATIENCE, self.answers.next_line()).await.expect("an answer in time");
        answer.unwrap().expect("the container goes on")
    }

    pub async fn sum(&mut self, path: &str) -> String {
        self.ask(path).await;
        self.answer().await
    }

    pub async fn end(mut self) {
        self.asks = None;
        let ended = timeout(PATIENCE, self.container.wait()).await.expect("the container ends in time");
        assert!(ended.unwrap().success());
    }
}
