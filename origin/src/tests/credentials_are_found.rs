//! Credentials are read from where container clients keep them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::credentials::{CredentialError, CredentialSource, Credentials, Secret};

async fn find(json: &str, registry: &str) -> Result<Option<Credentials>, CredentialError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, json).unwrap();
    CredentialSource::DockerConfig(path).load(&registry.parse().unwrap()).await
}

fn basic(user: &str, password: &str) -> Option<Credentials> {
    Some(Credentials::Basic { user: user.to_owned(), password: Secret::new(password.to_owned()) })
}

#[tokio::test]
async fn logins_in_the_file() {
    let json = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
        "r.example:5000": {"auth": "dTpwOnE="},
        "https://plain.example": {"username": "u", "password": "p"},
        "id.example": {"auth": "dTpw", "identitytoken": "refresh"},
        "reg.example": {"registrytoken": "bearer"},
        "empty.example": {}, "broken.example": {"auth": "???"}
    }, "HttpHeaders": {"User-Agent": "x"}}"#;
    assert_eq!(find(json, "docker.io").await.unwrap(), basic("hub", "pw"));
    assert_eq!(find(json, "r.example:5000").await.unwrap(), basic("u", "p:q"));
    assert_eq!(find(json, "plain.example").await.unwrap(), basic("u", "p"));
    let token = Some(Credentials::IdentityToken(Secret::new("refresh".to_owned())));
    assert_eq!(find(json, "id.example").await.unwrap(), token);
    let token = Some(Credentials::RegistryToken(Secret::new("bearer".to_owned())));
    assert_eq!(find(json, "reg.example").await.unwrap(), token);
    for registry in ["r.example", "empty.example", "broken.example", "other.example"] {
        assert_eq!(find(json, registry).await.unwrap(), None, "{registry}");
    }
}

#[tokio::test]
async fn a_broken_file_is_an_error_that_quotes_nothing() {
    let error = find(r#"{"auths": {"a": {"password": horse}}}"#, "a").await.unwrap_err();
    assert!(
        matches!(error, CredentialError::Format { .. }) && !error.to_string().contains("horse"),
        "{error}"
    );
    let absent = CredentialSource::DockerConfig(PathBuf::from("/nonexistent/config.json"));
    assert!(matches!(absent.load(&"a".parse().unwrap()).await, Err(CredentialError::Read { .. })));
}

/// Runs `script` as a credential helper.
async fn ask(script: &str) -> Result<Option<Credentials>, CredentialError> {
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("docker-credential-test");
    std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    crate::docker_config::ask_helper_in(Some(dir.path()), "test", "r.example").await
}

#[tokio::test]
async fn helpers_are_asked() {
    let echo = r#"read -r host; printf '{"ServerURL":"x","Username":"%s","Secret":"%s"}' "$1" "$host""#;
    assert_eq!(ask(echo).await.unwrap(), basic("get", "r.example"));
    let token = r#"printf '{"Username":"<token>","Secret":"refresh"}'"#;
    let want = Some(Credentials::IdentityToken(Secret::new("refresh".to_owned())));
    assert_eq!(ask(token).await.unwrap(), want);
    let unknown = "echo 'credentials not found in native keychain'; exit 1";
    assert_eq!(ask(unknown).await.unwrap(), None);
}

#[tokio::test]
async fn helpers_that_fail_are_errors() {
    for script in ["exit 1", "echo horse", "head -c 1000000 /dev/zero"] {
        let error = ask(script).await.unwrap_err();
        assert!(matches!(error, CredentialError::Helper { .. }), "{script}");
        assert!(!error.to_string().contains("horse"));
    }
    for name in ["../evil", "", "a b", "absent-helper"] {
        let json = format!(r#"{{"credHelpers": {{"r.example": "{name}"}}}}"#);
        assert!(matches!(find(&json, "r.example").await, Err(CredentialError::Helper { .. })), "{name}");
    }
}
