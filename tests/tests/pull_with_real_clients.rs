//! containerd, podman and skopeo pull every form of image through a daemon, anonymously and with
//! credentials, with no other host to fall back to, and hold the bytes that were pushed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;

use shoal_tests::{
    Cluster, Containerd, Credentials, Format, Image, ImageBuilder, Needs, Podman, ProgramError, Registry,
    Skopeo, available,
};

const REFERENCE: &str = "registry.test/library/app:v1";
const REPOSITORY: &str = "library/app";

#[derive(Clone, Copy, Debug)]
enum Client {
    Containerd,
    Podman,
    Skopeo,
}

impl Client {
    fn needs(self) -> Needs {
        match self {
            Self::Containerd => Needs::CONTAINERD,
            Self::Podman => Needs::PODMAN,
            Self::Skopeo => Needs::SKOPEO,
        }
    }

    /// Pulls into a store of its own and compares what arrived with what was pushed.
    async fn pull(
        self,
        mirror: SocketAddr,
        login: Option<&Credentials>,
        image: &Image,
    ) -> Result<(), ProgramError> {
        match self {
            Self::Containerd => {
                let containerd = Containerd::start().await;
                containerd.pull(REFERENCE, mirror, login).await?;
                containerd.verify(REFERENCE, image).await
            }
            Self::Podman => {
                let podman = Podman::new();
                podman.pull(REFERENCE, mirror, login).await?;
                podman.verify(REFERENCE, image).await
            }
            Self::Skopeo => {
                let skopeo = Skopeo::new();
                skopeo.pull(REFERENCE, mirror, login).await?;
                skopeo.verify(image)
            }
        }
    }
}

fn image(format: Format, multi_platform: bool) -> Image {
    let seed = u64::from(format == Format::Oci) * 2 + u64::from(multi_platform);
    let image = ImageBuilder::new(seed).format(format).layer(5 << 20).layer(700).compressible_layer(3 << 20);
    if multi_platform { image.multi_platform().build() } else { image.build() }
}

/// Pulls cold, and again by another client, which the cache answers.
async fn pulls(client: Client, format: Format, multi_platform: bool, login: Option<Credentials>) {
    if !available(client.needs()) {
        return;
    }
    let registry = match &login {
        Some(login) => Registry::private(login.clone()).await,
        None => Registry::start().await,
    };
    let image = image(format, multi_platform);
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(2).registry("registry.test", &registry.url());
    // podman and skopeo show credentials only to a mirror that asks for them.
    let builder = if login.is_some() { builder.mirror("challenge = true\n") } else { builder };
    let mut cluster = builder.start().await;
    for index in [0, 0, 1] {
        client.pull(cluster.node(index).mirror(), login.as_ref(), &image).await.unwrap();
        assert!(cluster.node_mut(index).is_alive());
    }
    assert!(
        registry.blob_bytes().await <= image.blob_bytes() * 102 / 100,
        "the registry sent {} bytes of a {} byte image",
        registry.blob_bytes().await,
        image.blob_bytes()
    );
    if login.is_some() {
        client.pull(cluster.node(0).mirror(), None, &image).await.expect_err("credentials are needed");
        let wrong = Credentials::new("alice", "guess");
        client.pull(cluster.node(0).mirror(), Some(&wrong), &image).await.expect_err("the right ones");
    }
}

macro_rules! pulls {
    ($($name:ident: $client:ident $format:ident $multi:literal $login:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            pulls(Client::$client, Format::$format, $multi, $login).await;
        }
    )*};
}

fn login() -> Option<Credentials> {
    Some(Credentials::new("alice", "correct horse"))
}

pulls! {
    containerd_oci: Containerd Oci false None;
    containerd_oci_multi_platform: Containerd Oci true None;
    containerd_schema2: Containerd DockerSchema2 false None;
    containerd_schema2_multi_platform: Containerd DockerSchema2 true None;
    containerd_private_oci: Containerd Oci false login();
    containerd_private_oci_multi_platform: Containerd Oci true login();
    containerd_private_schema2: Containerd DockerSchema2 false login();
    containerd_private_schema2_multi_platform: Containerd DockerSchema2 true login();
    podman_oci: Podman Oci false None;
    podman_oci_multi_platform: Podman Oci true None;
    podman_schema2: Podman DockerSchema2 false None;
    podman_schema2_multi_platform: Podman DockerSchema2 true None;
    podman_private_oci: Podman Oci false login();
    podman_private_oci_multi_platform: Podman Oci true login();
    podman_private_schema2: Podman DockerSchema2 false login();
    podman_private_schema2_multi_platform: Podman DockerSchema2 true login();
    skopeo_oci: Skopeo Oci false None;
    skopeo_oci_multi_platform: Skopeo Oci true None;
    skopeo_schema2: Skopeo DockerSchema2 false None;
    skopeo_schema2_multi_platform: Skopeo DockerSchema2 true None;
    skopeo_private_oci: Skopeo Oci false login();
    skopeo_private_oci_multi_platform: Skopeo Oci true login();
    skopeo_private_schema2: Skopeo DockerSchema2 false login();
    skopeo_private_schema2_multi_platform: Skopeo DockerSchema2 true login();
}
