use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_lazyfs::VerifiedSpan;
use shoal_lazyfs::index::{HEADER_LEN, Head, Header, SpanIndex};
use shoal_lazyfs::link::Link;
use shoal_lazyfs::source::{LayerSource, SourceError, Urgency};
use shoal_proto::Digest;

/// How long bytes may be missing: as a reader of a file waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads spans of one layer over a daemon's socket, as the process with the filesystems does.
#[derive(Clone, Debug)]
pub struct SpanReader {
    link: Link,
    layer: Digest,
    head: Head,
}

impl SpanReader {
    /// Gets what there is to know of the layer.
    pub async fn open(link: &Link, layer: Digest) -> Result<Self, SourceError> {
        let first = link.index(&layer, 0..HEADER_LEN as u64, Urgency::Demand).await?;
        let header = Header::decode(first.as_ref().try_into().unwrap()).unwrap();
        let head = link.index(&layer, 0..header.head_len(), Urgency::Demand).await?;
        Ok(Self { link: link.clone(), layer, head: Head::decode(&head).unwrap() })
    }

    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes that a span costs: of the layer, and of the index.
    pub fn cost(&self, span: SpanIndex) -> u64 {
        let compressed = self.head.index.spans.compressed_range(span).unwrap();
        let window = self.head.window_range(span).unwrap_or_default();
        compressed.end - compressed.start + window.end - window.start
    }

    /// One attempt: what came may not be the span.
    pub async fn attempt(&self, span: SpanIndex) -> Result<Option<Bytes>, SourceError> {
        let compressed = self.head.index.spans.compressed_range(span).unwrap();
        let compressed = self.link.layer(&self.layer, compressed, Urgency::Demand).await?;
        let window = match self.head.window_range(span) {
            Some(window) => self.link.index(&self.layer, window, Urgency::Demand).await?,
            None => Bytes::new(),
        };
        let decoded = VerifiedSpan::decode(&self.head.index, span, &compressed, &window);
        Ok(decoded.ok().map(|span| span.bytes().clone()))
    }

    /// The span's bytes: asked for again while nobody has them, and a few times if they are wrong.
    pub async fn read(&self, span: SpanIndex) -> Bytes {
        let deadline = Instant::now() + PATIENCE;
        let mut wrong = 0;
        while wrong < 4 {
            match self.attempt(span).await {
                Ok(Some(bytes)) => return bytes,
                Ok(None) => wrong += 1,
                Err(SourceError::Unavailable(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{span:?}: {error}"),
            }
        }
        panic!("{span:?} of {} came wrong each time", self.layer)
    }
}
