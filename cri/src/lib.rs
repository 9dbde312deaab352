//! Pulls images as a kubelet does: through the container runtime interface at the socket of a containerd of one's own.

mod config;

use std::path::Path;

use api::image_service_client::ImageServiceClient;
use api::{AuthConfig, ImageSpec, ListImagesRequest, PullImageRequest, RemoveImageRequest};
use tonic::transport::{Channel, Endpoint};

pub use config::containerd_config;
pub use tonic::Status;

#[allow(clippy::all, unreachable_pub, missing_debug_implementations, reason = "generated")]
mod api {
    tonic::include_proto!("runtime.v1");
}

/// The interface's image service.
#[derive(Clone, Debug)]
pub struct Images(ImageServiceClient<Channel>);

impl Images {
    /// Fails until containerd serves it: its socket accepts before that.
    pub async fn connect(socket: &Path) -> Result<Self, Status> {
        let to_status = |error| Status::from_error(Box::new(error));
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(to_status)?;
        let mut client = ImageServiceClient::new(endpoint.connect().await.map_err(to_status)?);
        client.list_images(ListImagesRequest {}).await?;
        Ok(Self(client))
    }

    /// PullImage, as for a pod; with the user and password of its pull secret, where it has one.
    pub async fn pull(&mut self, image: &str, login: Option<(&str, &str)>) -> Result<(), Status> {
        let image = Some(ImageSpec { image: image.to_owned() });
        let auth = login
            .map(|(user, password)| AuthConfig { username: user.to_owned(), password: password.to_owned() });
        self.0.pull_image(PullImageRequest { image, auth }).await.map(drop)
    }

    /// RemoveImage. What it held goes with containerd's next garbage collection.
    pub async fn remove(&mut self, image: &str) -> Result<(), Status> {
        let image = Some(ImageSpec { image: image.to_owned() });
        self.0.remove_image(RemoveImageRequest { image }).await.map(drop)
    }
}
