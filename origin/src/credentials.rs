//! Secrets for a registry, and where they come from.

use std::fmt;
use std::path::PathBuf;

use shoal_proto::RegistryName;

use crate::docker_config;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redacted")
    }
}

/// What proves an identity to a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    Basic {
        user: String,
        password: Secret,
    },
    /// An OAuth 2 refresh token.
    IdentityToken(Secret),
    /// A bearer token for the registry itself.
    RegistryToken(Secret),
}

/// Where this node's credentials for a registry are. They are read whenever a token is needed, because
/// some (12 hours for ECR) change under a running daemon.
#[derive(Clone, Debug)]
pub(crate) enum CredentialSource {
    None,
    Fixed { user: String, password: Secret },
    PasswordFile { user: String, file: PathBuf },
    DockerConfig(PathBuf),
}

/// Why credentials could not be read. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    #[error("cannot read {path}: {reason}")]
    Read { path: PathBuf, reason: String },
    #[error("{path} is not a configuration of docker: {reason}")]
    Format { path: PathBuf, reason: String },
    #[error("credential helper {helper}: {reason}")]
    Helper { helper: String, reason: String },
}

// A password or an access token; tokens of cloud registries have a few KiB.
const MAX_PASSWORD: u64 = 64 << 10;

impl CredentialSource {
    /// Reads the credentials; `None` when there are none for this registry.
    pub(crate) async fn load(&self, registry: &RegistryName) -> Result<Option<Credentials>, CredentialError> {
        match self {
            Self::None => Ok(None),
            Self::Fixed { user, password } => {
                Ok(Some(Credentials::Basic { user: user.clone(), password: password.clone() }))
            }
            Self::PasswordFile { user, file } => {
                let text = read_text(file, MAX_PASSWORD).await?;
                // Editors and `echo` end a file with a newline that is no part of the password.
                let password = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
                Ok(Some(Credentials::Basic { user: user.clone(), password }))
            }
            Self::DockerConfig(path) => docker_config::credentials(path, registry).await,
        }
    }
}

pub(crate) async fn read_text(path: &PathBuf, limit: u64) -> Result<String, CredentialError> {
    use tokio::io::AsyncReadExt;

    let failed = |reason: String| CredentialError::Read { path: path.clone(), reason };
    let file = tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).await.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > limit { Err(failed(format!("more than {limit} bytes"))) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_file_is_read_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let source = CredentialSource::PasswordFile { user: "u".to_owned(), file: file.clone() };
        let registry = "a.example".parse().unwrap();
        for password in ["one", "two"] {
            std::fs::write(&file, format!("{password}\n")).unwrap();
            let want =
                Credentials::Basic { user: "u".to_owned(), password: Secret::new(password.to_owned()) };
            assert_eq!(source.load(&registry).await.unwrap(), Some(want));
        }
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(source.load(&registry).await, Err(CredentialError::Read { .. })));
    }
}
