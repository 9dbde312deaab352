//! A cluster's secret and the certificate authority that follows from it.
//!
//! Every node derives the same Ed25519 key and the same certificate of the authority from the secret, and
//! certifies its own identity key with it. So no service has to enrol nodes and the secret never crosses the
//! wire. There is no revocation: who must leave makes the others change the secret. Certificates are made anew
//! at each start and have no end that a wrong clock could hit.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SerialNumber,
};
use ring::hkdf;
use rustls_pki_types::CertificateDer;

use crate::identity::{Identity, pkcs8, random_seed};

/// The name in every member's certificate: members are told apart by key, not by name.
pub(crate) const SERVER_NAME: &str = "shoal.cluster";

/// A secret has at least this much entropy, in bits: what it derives is public, so it can be guessed offline.
const MIN_ENTROPY: usize = 128;
/// A random secret that is long enough practically always has as many different bytes.
const MIN_DIFFERENT: usize = 8;
/// Longer files are not secrets but mistakes.
const MAX_SECRET: usize = 64 << 10;

// The input that stands in for the secret where none is configured. Anybody can read it here: it keeps
// clusters apart from nothing, and says who is who among honest nodes only.
const INSECURE: &[u8] = b"shoal: no secret configured, this authority is public";

/// The authority of a cluster.
pub struct Cluster {
    issuer: Issuer<'static, KeyPair>,
    authority: rcgen::Certificate,
    insecure: bool,
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("read the cluster's secret {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the cluster's secret is too short or too regular: it needs 16 random bytes or more, \
         as `shoal cluster init` makes"
    )]
    Weak,
    #[error("the cluster's secret is longer than {MAX_SECRET} bytes")]
    Long,
    #[error("derive the cluster's authority from its secret")]
    Derive,
    #[error("the system gives no random bytes")]
    Random,
    #[error("make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A new secret: 32 random bytes as hexadecimal text, for a file that every node gets.
pub fn generate_secret() -> Result<String, ClusterError> {
    let bytes = random_seed().ok_or(ClusterError::Random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(crate) fn key_pair(seed: &[u8; 32]) -> Result<KeyPair, rcgen::Error> {
    KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8(seed), &PKCS_ED25519)
}

/// An upper bound of the entropy of a secret, in bits, from the alphabet that it is written in.
fn entropy(secret: &[u8]) -> usize {
    let per_byte = if secret.iter().all(u8::is_ascii_hexdigit) {
        4
    } else if secret.is_ascii() {
        6
    } else {
        8
    };
    secret.len() * per_byte
}

fn derive_seed(secret: &[u8]) -> Option<[u8; 32]> {
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"shoal cluster authority 1");
    let mut seed = [0; 32];
    salt.extract(secret).expand(&[b"ed25519"], hkdf::HKDF_SHA256).ok()?.fill(&mut seed).ok()?;
    Some(seed)
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "shoal cluster");
    params.serial_number = Some(SerialNumber::from(1));
    params.not_before = rcgen::date_time_ymd(1975, 1, 1);
    params.not_after = rcgen::date_time_ymd(4096, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Cluster {
    /// The authority of the cluster with this secret. White space around the secret does not matter.
    pub fn from_secret(secret: &[u8]) -> Result<Self, ClusterError> {
        let secret = secret.trim_ascii();
        let different: std::collections::HashSet<u8> = secret.iter().copied().collect();
        if secret.len() > MAX_SECRET {
            return Err(ClusterError::Long);
        }
        if entropy(secret) < MIN_ENTROPY || different.len() < MIN_DIFFERENT {
            return Err(ClusterError::Weak);
        }
        Self::derive(secret, false)
    }

    /// The authority of the cluster whose secret is in this file.
    pub fn from_file(path: &Path) -> Result<Self, ClusterError> {
        let secret =
            std::fs::read(path).map_err(|source| ClusterError::Read { path: path.into(), source })?;
        Self::from_secret(&secret)
    }

    /// The authority of those who configured no secret. Everybody is a member: serve the loopback
    /// interface only.
    pub fn insecure() -> Result<Self, ClusterError> {
        Self::derive(INSECURE, true)
    }

    fn derive(secret: &[u8], insecure: bool) -> Result<Self, ClusterError> {
        let key = key_pair(&derive_seed(secret).ok_or(ClusterError::Derive)?)?;
        let params = authority_params();
        let authority = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), authority, insecure })
    }

    /// Whether no secret was configured.
    pub fn is_insecure(&self) -> bool {
        self.insecure
    }

    /// The authority's certificate: the same on every node.
    pub(crate) fn authority(&self) -> &rcgen::Certificate {
        &self.authority
    }

    /// Certifies a member: the certificate's key is the node's identity.
    pub(crate) fn certify(&self, identity: &Identity) -> Result<rcgen::Certificate, ClusterError> {
        let mut params = CertificateParams::new([SERVER_NAME.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, identity.node().to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Ok(params.signed_by(&key_pair(identity.seed())?, &self.issuer)?)
    }

    pub(crate) fn authority_der(&self) -> CertificateDer<'static> {
        self.authority.der().clone()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("insecure", &self.insecure).finish_non_exhaustive()
    }
}
