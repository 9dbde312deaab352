use std::time::{Duration, Instant};

use bytes::Bytes;
use shoal_lazyfs::index::{HEADER_LEN, Head, Header, SpanIndex};
use shoal_lazyfs::link::Link;
use shoal_lazyfs::source::{Given, Giver, LayerSource, SourceError, Urgency};
use shoal_lazyfs::{SpanError, VerifiedSpan};
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
        let first = link.index(&layer, 0..HEADER_LEN as u64, Urgency::Demand, &[]).await?;
        let header = Header::decode(first.bytes.as_ref().try_into().unwrap()).unwrap();
        let head = link.index(&layer, 0..header.head_len(), Urgency::Demand, &[]).await?;
        Ok(Self { link: link.clone(), layer, head: Head::decode(&head.bytes).unwrap() })
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

    /// The span's bytes: asked for again while nobody has them, and a few times if they are wrong, of others then.
    pub async fn read(&self, span: SpanIndex) -> Bytes {
        let deadline = Instant::now() + PATIENCE;
        let (mut of_layer, mut of_index) = (Vec::new(), Vec::new());
        while of_layer.len() < 4 && of_index.len() < 4 {
            let (compressed, window) = match self.pieces(span, &of_layer, &of_index).await {
                Ok(pieces) => pieces,
                Err(SourceError::Unavailable(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => panic!("{span:?}: {error}"),
            };
            match VerifiedSpan::decode(&self.head.index, span, &compressed.bytes, &window.bytes) {
                Ok(span) => return span.bytes().clone(),
                Err(SpanError::Window(_)) => of_index.push(window.from),
                Err(_) => of_layer.push(compressed.from),
            }
        }
        panic!("{span:?} of {} came wrong each time", self.layer)
    }

    /// Not of these, if others have them: what came may not be the span.
    async fn pieces(
        &self,
        span: SpanIndex,
        of_layer: &[Giver],
        of_index: &[Giver],
    ) -> Result<(Given, Given), SourceError> {
        let compressed = self.head.index.spans.compressed_range(span).unwrap();
        let compressed = self.link.layer(&self.layer, compressed, Urgency::Demand, of_layer).await?;
        let window = match self.head.window_range(span) {
            Some(window) => self.link.index(&self.layer, window, Urgency::Demand, of_index).await?,
            None => Given::by_itself(Bytes::new()),
        };
        Ok((compressed, window))
    }
}
