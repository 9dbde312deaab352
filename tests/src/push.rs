//! Puts an image into a registry: OCI distribution specification, "Push", monolithic uploads.

use bytes::Bytes;
use reqwest::{Method, Response, StatusCode};
use shoal_proto::Digest;

use crate::http::{Credentials, client};
use crate::image::Image;

pub(crate) async fn push(
    base: &str,
    login: Option<&Credentials>,
    image: &Image,
    repository: &str,
    tag: &str,
) {
    let pusher = Pusher { client: client(), base, login, repository };
    for blob in image.blobs() {
        pusher.blob(&blob.digest, &blob.bytes).await;
    }
    for manifest in image.manifests() {
        pusher.manifest(&manifest.digest.to_string(), &manifest.media_type, &manifest.bytes).await;
    }
    pusher.manifest(tag, &image.root.media_type, &image.root.bytes).await;
}

struct Pusher<'a> {
    client: reqwest::Client,
    base: &'a str,
    login: Option<&'a Credentials>,
    repository: &'a str,
}

impl Pusher<'_> {
    async fn blob(&self, digest: &Digest, bytes: &Bytes) {
        let start = format!("{}/v2/{}/blobs/uploads/", self.base, self.repository);
        let started = self.send(Method::POST, &start, "", Bytes::new(), StatusCode::ACCEPTED).await;
        let location = started.headers()["location"].to_str().unwrap();
        let upload =
            if location.starts_with('/') { format!("{}{location}", self.base) } else { location.to_owned() };
        let joint = if upload.contains('?') { '&' } else { '?' };
        let url = format!("{upload}{joint}digest={digest}");
        self.send(Method::PUT, &url, "application/octet-stream", bytes.clone(), StatusCode::CREATED).await;
    }

    async fn manifest(&self, reference: &str, media_type: &str, bytes: &Bytes) {
        let url = format!("{}/v2/{}/manifests/{reference}", self.base, self.repository);
        self.send(Method::PUT, &url, media_type, bytes.clone(), StatusCode::CREATED).await;
    }

    async fn send(&self, method: Method, url: &str, kind: &str, body: Bytes, want: StatusCode) -> Response {
        let mut request = self.client.request(method.clone(), url).header("content-length", body.len());
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if let Some(login) = self.login {
            request = request.header("authorization", login.basic());
        }
        let response = request.body(body).send().await.unwrap_or_else(|e| panic!("{method} {url}: {e}"));
        if response.status() != want {
            panic!("{method} {url}: {}: {}", response.status(), response.text().await.unwrap_or_default());
        }
        response
    }
}
