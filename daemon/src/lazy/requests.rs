//! What the process with the filesystems asks, and the answers.

use bytes::Bytes;
use futures_util::future::join_all;
use shoal_lazyfs::link::messages::{
    self, Answer, Ask, Failed, FailureKind, Hello, ImageInfo, ImageRef, IndexInfo, LayerInfo, RangeRef,
    Revoke, Revoked, VERSION,
};
use shoal_lazyfs::source::Urgency;
use shoal_proto::message::Part;
use shoal_proto::{Digest, DigestError};
use shoal_registry_proxy::Refusal;

use super::claims::Claims;
use super::images::{Image, ImageError, Images, Layer};
use super::ranges::{RangeError, Ranges};
use crate::metrics::Metrics;

/// Sources that were wrong and are named in one request.
const MAX_WRONG: usize = 64;

/// Why a request is not answered with what it asks for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Range(#[from] RangeError),
    #[error("{0} is no layer of the image")]
    NoLayer(Digest),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("the request lacks {0}")]
    Lacks(&'static str),
    #[error("the request names too many sources")]
    TooMany,
    #[error("this daemon speaks version {VERSION} of the protocol")]
    Version,
}

impl RequestError {
    fn kind(&self) -> FailureKind {
        match self {
            Self::Image(ImageError::Refused(refusal)) => match refusal {
                Refusal::Throttled { .. } | Refusal::UpstreamFailed { .. } | Refusal::Unavailable { .. } => {
                    FailureKind::Unavailable
                }
                _ => FailureKind::Refused,
            },
            Self::Range(RangeError::NoSuchRange(_)) => FailureKind::Invalid,
            Self::Range(_) => FailureKind::Unavailable,
            Self::Image(ImageError::Manifest(_)) | Self::NoLayer(_) => FailureKind::Refused,
            _ => FailureKind::Invalid,
        }
    }
}

/// Answers requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    images: Images,
    claims: Claims,
    ranges: Ranges,
    metrics: Metrics,
}

impl Requests {
    pub(crate) fn new(images: Images, claims: Claims, ranges: Ranges, metrics: Metrics) -> Self {
        Self { images, claims, ranges, metrics }
    }

    pub(super) async fn answer(&self, ask: Ask) -> Answer {
        self.metrics.lazy_requests.inc();
        let answer = match ask {
            Ask::Hello(hello) => greet(hello),
            Ask::Resolve(image) => self.resolve(&image).await.map(Answer::Image),
            Ask::Range(range) => self.range(range).await.map(Answer::Range),
            Ask::Revoke(revoke) => self.revoke(&revoke).await.map(Answer::Revoked),
            Ask::Cancel(_) | Ask::Report(_) => Err(RequestError::Lacks("a question")),
        };
        answer.unwrap_or_else(|error| failed(error.kind(), &error))
    }

    async fn resolve(&self, asked: &ImageRef) -> Result<ImageInfo, RequestError> {
        let (image, borrowed) = self.images.resolve(asked).await?;
        let layers = join_all(image.layers.iter().map(|layer| self.layer(layer))).await;
        let Image { name, manifest, config, .. } = &*image;
        Ok(ImageInfo {
            name: name.clone(),
            manifest: manifest.to_string(),
            config: config.to_string(),
            layers,
            borrowed,
        })
    }

    /// A layer, with its index if that was built from the tar that the configuration claims. Else a configuration
    /// could plant the files of its layers under another image's chain id.
    async fn layer(&self, layer: &Layer) -> LayerInfo {
        let missing = messages::Index::Missing;
        let index = match self.claims.of(&layer.wanted).await {
            Ok(claim) if claim.diff_id != layer.diff_id => missing(format!(
                "the configuration claims the DiffID {}, the layer has {}",
                layer.diff_id, claim.diff_id
            )),
            Ok(claim) => messages::Index::Known(IndexInfo {
                id: Bytes::copy_from_slice(&claim.index),
                file: claim.file.to_string(),
                len: claim.file_len,
            }),
            Err(why) => missing(why.to_string()),
        };
        LayerInfo {
            digest: layer.wanted.digest.to_string(),
            size: layer.wanted.size,
            media_type: layer.media_type.clone(),
            diff_id: layer.diff_id.to_string(),
            chain_id: layer.chain_id.to_string(),
            index: Some(index),
        }
    }

    async fn revoke(&self, asked: &Revoke) -> Result<Revoked, RequestError> {
        let index = asked.index.as_ref().try_into().map_err(|_| RequestError::Lacks("an index"))?;
        self.claims.revoke(asked.layer.parse()?, index).await;
        Ok(Revoked {})
    }

    async fn range(&self, asked: RangeRef) -> Result<messages::Range, RequestError> {
        let urgency = match asked.urgency() {
            messages::Urgency::Demand => Urgency::Demand,
            messages::Urgency::Prefetch => Urgency::Prefetch,
            messages::Urgency::Fill => Urgency::Fill,
        };
        let RangeRef { image, layer, index, start, end, wrong, .. } = asked;
        if wrong.len() > MAX_WRONG {
            return Err(RequestError::TooMany);
        }
        let digest: Digest = layer.parse()?;
        let part = match index {
            Some(file) => Part::Index(file.parse()?),
            None => Part::Layer,
        };
        let image = self.images.let_read(&image.ok_or(RequestError::Lacks("an image"))?).await?;
        let layer = image.layers.iter().find(|layer| layer.wanted.digest == digest);
        let layer = layer.ok_or(RequestError::NoLayer(digest))?;
        let (bytes, source) = self.ranges.get(&layer.wanted, part, start..end, urgency, &wrong).await?;
        Ok(messages::Range { bytes, source })
    }
}

fn greet(hello: Hello) -> Result<Answer, RequestError> {
    if hello.version == VERSION { Ok(Answer::Hello(hello)) } else { Err(RequestError::Version) }
}

fn failed(kind: FailureKind, error: &dyn std::fmt::Display) -> Answer {
    Answer::Failed(Failed { kind: kind.into(), text: error.to_string() })
}
