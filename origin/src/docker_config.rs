//! Credentials as docker, podman and their helpers keep them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use shoal_proto::RegistryName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::credentials::{CredentialError, Credentials, Secret, read_text};
use crate::well_known;

// A file with a login for each of a few thousand registries.
const MAX_FILE: u64 = 4 << 20;

// An answer is one small JSON object; tokens of cloud registries have a few KiB.
const MAX_ANSWER: u64 = 64 << 10;

// Helpers of clouds make a request of their own; a pull cannot wait much longer than this.
const HELPER_TIME: Duration = Duration::from_secs(10);

// The server under which docker's helpers keep the credentials for Docker Hub.
const HUB_SERVER: &str = "https://index.docker.io/v1/";

// What a helper answers as user when its secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: HashMap<String, Login>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The credentials for `registry` in the file at `path`: its own helper, the common store, then a login in
/// the file. `None` when there are none.
pub(crate) async fn credentials(
    path: &PathBuf,
    registry: &RegistryName,
) -> Result<Option<Credentials>, CredentialError> {
    let text = read_text(path, MAX_FILE).await?;
    // The reason tells a line and a column; the error's own text could quote a secret.
    let wrong = |error: serde_json::Error| CredentialError::Format {
        path: path.clone(),
        reason: format!("line {}, column {}", error.line(), error.column()),
    };
    let file: File = serde_json::from_str(&text).map_err(wrong)?;
    let names = well_known::credential_names(registry);
    let is_meant = |key: &str| names.contains(&host_of(key));

    let own = file.cred_helpers.iter().find(|(key, _)| is_meant(key));
    if let Some((key, helper)) = own {
        return ask_helper(helper, key).await;
    }
    if !file.creds_store.is_empty() {
        let hub = names.len() > 1;
        let server = if hub { HUB_SERVER } else { registry.as_str() };
        if let Some(found) = ask_helper(&file.creds_store, server).await? {
            return Ok(Some(found));
        }
    }
    Ok(file.auths.iter().find(|(key, _)| is_meant(key)).and_then(|(_, login)| login.credentials()))
}

/// Keys are `host`, `host:port`, or such a thing with a scheme or a path.
fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split_once('/').map_or(rest, |(host, _)| host)
}

impl Login {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identitytoken.is_empty() {
            return Some(Credentials::IdentityToken(Secret::new(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Some(Credentials::RegistryToken(Secret::new(self.registrytoken.clone())));
        }
        let (user, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let text = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = text.split_once(':')?;
            // Old versions of docker padded with zero bytes.
            (user.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        let empty = user.is_empty() && password.is_empty();
        (!empty).then(|| Credentials::Basic { user, password: Secret::new(password) })
    }
}

async fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>, CredentialError> {
    ask_helper_in(None, helper, server).await
}

/// Asks the helper in `folder`, or the one that `PATH` leads to.
pub(crate) async fn ask_helper_in(
    folder: Option<&Path>,
    helper: &str,
    server: &str,
) -> Result<Option<Credentials>, CredentialError> {
    let failed =
        |reason: String| CredentialError::Helper { helper: helper.chars().take(64).collect(), reason };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if helper.is_empty() || !helper.bytes().all(plain) {
        return Err(failed("its name must be letters, digits, - _ and .".to_owned()));
    }
    let program = format!("docker-credential-{helper}");
    let program = folder.map_or_else(|| PathBuf::from(&program), |folder| folder.join(&program));
    let run = run_helper(&program, server);
    let (success, output) = tokio::time::timeout(HELPER_TIME, run)
        .await
        .map_err(|_| failed(format!("no answer within {} s", HELPER_TIME.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    if !success {
        // Helpers tell by this sentence that they work and know no such server.
        let unknown = String::from_utf8_lossy(&output).contains("credentials not found");
        return if unknown { Ok(None) } else { Err(failed("it failed".to_owned())) };
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output).map_err(|_| failed("its answer is not the JSON due".to_owned()))?;
    let secret = Secret::new(answer.secret);
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::IdentityToken(secret)
    } else {
        Credentials::Basic { user: answer.username, password: secret }
    }))
}

/// Success, and what the helper wrote.
async fn run_helper(program: &Path, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper may answer without reading: its exit tells whether it worked.
        stdin.write_all(server.as_bytes()).await.ok();
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
