//! Platforms and addresses, as people write them.

use anyhow::bail;

/// `linux/amd64` and the like: what the image of this machine is called.
pub(crate) fn host_platform() -> String {
    format!("linux/{}", shoal_proto::host_architecture())
}

/// Checks that a platform is written as os/architecture.
pub(crate) fn platform(text: &str) -> Result<String, String> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    match text.split_once('/') {
        Some((os, architecture)) if plain(os) && plain(architecture) => Ok(text.to_owned()),
        _ => Err("write os/architecture, such as linux/arm64".to_owned()),
    }
}

/// Host and port, as they go into a URL.
pub(crate) fn host_and_port(text: &str) -> anyhow::Result<&str> {
    let port = text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if text.contains('/') || port.is_none() {
        bail!("{text:?}: write HOST:PORT, without http:// and without a path");
    }
    Ok(text)
}
