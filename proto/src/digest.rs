//! Content digests, as in the OCI image specification, "Digests".

use std::fmt;
use std::str::FromStr;

/// The hash functions that a digest may name: both that the OCI specification registers and that
/// registries accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Sha256,
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    pub fn hash_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// FIPS 180-4's functions of the empty message.
const SHA256_OF_NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SHA512_OF_NOTHING: &str = "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                                 47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

/// The digest of a blob or manifest: `sha256:<64 hex>` or `sha512:<128 hex>`, lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // A sha256 uses the first half; the rest stays zero, so that derived equality is right.
    hash: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("a digest has the form algorithm:hex, this has no colon")]
    NoColon,
    #[error("digest algorithm {0:?} is not supported: use sha256 or sha512")]
    Algorithm(String),
    #[error("a {algorithm} digest has {want} lower-case hexadecimal digits", algorithm = .0.name(), want = .0.hash_len() * 2)]
    Hex(Algorithm),
}

impl Digest {
    /// Makes a digest from a computed hash; `None` when the length is not the algorithm's.
    pub fn from_hash(algorithm: Algorithm, bytes: &[u8]) -> Option<Self> {
        let mut hash = [0; 64];
        hash.get_mut(..algorithm.hash_len()).filter(|slot| slot.len() == bytes.len())?.copy_from_slice(bytes);
        Some(Self { algorithm, hash })
    }

    pub fn sha256(hash: [u8; 32]) -> Self {
        let mut wide = [0; 64];
        wide[..32].copy_from_slice(&hash);
        Self { algorithm: Algorithm::Sha256, hash: wide }
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash itself: 32 or 64 bytes.
    pub fn hash(&self) -> &[u8] {
        self.hash.get(..self.algorithm.hash_len()).unwrap_or_default()
    }

    /// Whether content of this many bytes can have this digest: only nothing has the digest of nothing.
    pub fn fits_size(&self, size: u64) -> bool {
        let nothing = match self.algorithm {
            Algorithm::Sha256 => SHA256_OF_NOTHING,
            Algorithm::Sha512 => SHA512_OF_NOTHING,
        };
        (size == 0) == (self.hex() == nothing)
    }

    /// The hash in lower-case hexadecimal, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.hash())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, digits) = text.split_once(':').ok_or(DigestError::NoColon)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            // The name comes from outside and ends up in messages: keep it short.
            other => return Err(DigestError::Algorithm(other.chars().take(32).collect())),
        };
        let lower = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !lower || digits.len() != algorithm.hash_len() * 2 {
            return Err(DigestError::Hex(algorithm));
        }
        let bytes = hex::decode(digits).map_err(|_| DigestError::Hex(algorithm))?;
        Self::from_hash(algorithm, &bytes).ok_or(DigestError::Hex(algorithm))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nothing_has_the_digest_of_nothing() {
        for nothing in [format!("sha256:{SHA256_OF_NOTHING}"), format!("sha512:{SHA512_OF_NOTHING}")] {
            let nothing: Digest = nothing.parse().unwrap();
            assert!(nothing.fits_size(0) && !nothing.fits_size(1), "{nothing}");
        }
        let other = Digest::sha256([7; 32]);
        assert!(other.fits_size(1) && !other.fits_size(0));
    }

    #[test]
    fn both_algorithms_round_trip() {
        for text in [format!("sha256:{}", "a1".repeat(32)), format!("sha512:{}", "0f".repeat(64))] {
            assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_digests_are_refused() {
        let upper = format!("sha256:{}", "A1".repeat(32));
        let short = format!("sha256:{}", "a1".repeat(31));
        let multibyte = format!("sha256:{}", "é".repeat(32));
        let md5 = "md5:d41d8cd98f00b204e9800998ecf8427e";
        for text in ["", ":", "sha256", "sha256:", &upper, &short, &multibyte, md5, "../../etc"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
