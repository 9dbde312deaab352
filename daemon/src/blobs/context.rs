//! Where and as whom the origin is asked for a blob.

use std::ops::Range;

use shoal_origin::{BlobStream, Failure, Identity, Kind, Origin, OriginError};
use shoal_proto::{Digest, Repository};
use tracing::debug;

/// Where and as whom the origin is asked for a blob, when this node may read from it.
#[derive(Clone, Debug)]
pub(crate) struct OriginContext {
    pub repository: Repository,
    pub kind: Kind,
    /// As whom the origin let the caller read.
    pub identity: Identity,
    /// The other identity that this caller may use: an account may have a limit of its own, and a repository may
    /// open to all, or close, while its blobs are read.
    pub fallback: Identity,
}

impl OriginContext {
    /// Begins to read a range of something that is `size` bytes long.
    pub(crate) async fn read(
        &self,
        origin: &Origin,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let Self { repository, kind, identity, fallback } = self;
        let read = |who| origin.read_blob(repository, kind.clone(), digest, size, range.clone(), who);
        let error = match read(identity).await {
            Err(error) if is_about_the_caller(&error) && origin.tells_apart(identity, fallback) => error,
            done => return done,
        };
        debug!(%digest, %error, "asking as the caller's other identity");
        // What was said first is what the tracker and the client should know, unless the second try helped.
        read(fallback).await.map_err(|_| error)
    }
}

/// Whether somebody else may be answered otherwise.
fn is_about_the_caller(error: &OriginError) -> bool {
    matches!(error.failure(), Failure::Unauthorized { .. } | Failure::Forbidden | Failure::Throttled { .. })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode, header};
    use futures_util::TryStreamExt;
    use shoal_origin::{CredentialsConfig, Origins, OriginsConfig, RegistryConfig};

    use super::*;

    /// A registry that gives its blobs to whoever shows credentials.
    async fn registry() -> String {
        let app = Router::new().fallback(|headers: HeaderMap| async move {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"x\"")];
            match headers.contains_key(header::AUTHORIZATION) {
                true => Ok("content"),
                false => Err((StatusCode::UNAUTHORIZED, challenge)),
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        url
    }

    #[tokio::test]
    async fn where_one_identity_is_refused_the_callers_other_one_is_tried() {
        let (username, password) = ("node".to_owned(), Some("secret".to_owned()));
        let credentials = Some(CredentialsConfig { username, password, password_file: None });
        let registry =
            RegistryConfig { url: Some(registry().await), credentials, ..RegistryConfig::default() };
        let registries = [("registry.test".to_owned(), registry)].into();
        let config = OriginsConfig { registries, system_proxy: false, ..OriginsConfig::default() };
        let origin = Origins::new(config).unwrap().admit(&"registry.test".parse().unwrap()).unwrap();
        let read = async |identity: Identity, fallback: Identity| {
            let repository = "team/app".parse().unwrap();
            let context = OriginContext { repository, kind: Kind::Blob, identity, fallback };
            let stream = context.read(&origin, &Digest::sha256([1; 32]), 7, 0..7).await?;
            stream.try_collect::<Vec<_>>().await
        };
        let (nobody, node) = (Identity::Anonymous, Identity::Node);
        assert_eq!(read(nobody.clone(), node.clone()).await.unwrap().concat(), b"content");
        assert_eq!(read(node, nobody.clone()).await.unwrap().concat(), b"content");
        let refused = read(nobody.clone(), nobody).await.unwrap_err();
        assert!(matches!(refused.failure(), Failure::Unauthorized { .. }), "{refused}");
    }
}
