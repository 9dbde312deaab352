//! A node's identity: an Ed25519 key that it made itself and keeps in a file.

use std::io;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use shoal_proto::{Keypair, NodeId};

/// The key of a node. What shows the key in no output is on purpose: `Debug` names the node only.
#[derive(Clone)]
pub struct Identity {
    seed: [u8; 32],
    keypair: Keypair,
    node: NodeId,
}

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("read the node's key {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("create the node's key {path}: {source}")]
    Create { path: PathBuf, source: io::Error },
    #[error("{path} is not an Ed25519 key (PKCS #8 in PEM); move it away to let a new identity be made")]
    NotAKey { path: PathBuf },
    #[error("the system gives no random bytes")]
    Random,
    #[error("32 bytes are not taken as an Ed25519 key")]
    Key,
}

// What precedes the 32 bytes of an Ed25519 private key in PKCS #8 (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// An Ed25519 private key in the form that TLS libraries read.
pub(crate) fn pkcs8(seed: &[u8; 32]) -> PrivatePkcs8KeyDer<'static> {
    PrivatePkcs8KeyDer::from([PKCS8_PREFIX.as_slice(), seed].concat())
}

pub(crate) fn random_seed() -> Option<[u8; 32]> {
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).ok()?;
    Some(seed)
}

impl Identity {
    /// A new identity that is kept nowhere.
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_seed(random_seed().ok_or(IdentityError::Random)?)
    }

    /// The identity with this secret key.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, IdentityError> {
        let keypair = Keypair::ed25519_from_bytes(seed).map_err(|_| IdentityError::Key)?;
        let node = NodeId::of(&keypair.public()).ok_or(IdentityError::Key)?;
        Ok(Self { seed, keypair, node })
    }

    /// Reads the identity from a file; makes one, readable by its owner only, where there is no file. When two
    /// processes do so at once, both have the one that was there first.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let identity = Self::generate()?;
        match identity.save_new(path) {
            Ok(()) => Ok(identity),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(IdentityError::Create { path: path.into(), source }),
        }
    }

    fn load(path: &Path) -> Result<Self, IdentityError> {
        let pem = std::fs::read(path).map_err(|source| IdentityError::Read { path: path.into(), source })?;
        let not_a_key = || IdentityError::NotAKey { path: path.into() };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| not_a_key())?;
        let seed = key.secret_pkcs8_der().strip_prefix(&PKCS8_PREFIX).ok_or_else(not_a_key)?;
        Self::from_seed(seed.try_into().map_err(|_| not_a_key())?)
    }

    /// Writes the whole file beside its place, then puts it there unless something is there by then.
    fn save_new(&self, path: &Path) -> io::Result<()> {
        use std::io::Write;

        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // A temporary file of this kind has mode 0600 from its creation on.
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        let pem = crate::cluster::key_pair(&self.seed).map_err(io::Error::other)?.serialize_pem();
        file.write_all(pem.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map(drop).map_err(|e| e.error)
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The key, to sign claims with.
    pub fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.node).finish()
    }
}
