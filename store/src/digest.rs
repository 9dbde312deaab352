//! Content digests (SHA-256, SHA-512) of what is long, by the fastest way on this processor.

use shoal_proto::{Algorithm, Digest};

/// Hashes content as it streams by.
///
/// Inside works `ring`, whose assembly is about twice as fast as the `sha2` crate on machines without SHA
/// instructions and as fast on those with them; for a stream this is the bottleneck of a pull.
#[derive(Clone)]
pub struct ContentHasher {
    algorithm: Algorithm,
    context: ring::digest::Context,
}

impl std::fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContentHasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl ContentHasher {
    pub fn new(algorithm: Algorithm) -> Self {
        let implementation = match algorithm {
            Algorithm::Sha256 => &ring::digest::SHA256,
            Algorithm::Sha512 => &ring::digest::SHA512,
        };
        Self { algorithm, context: ring::digest::Context::new(implementation) }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        digest(self.algorithm, self.context.finish().as_ref())
    }

    /// The digest of content that is in memory as a whole, such as a manifest.
    pub fn digest(algorithm: Algorithm, content: &[u8]) -> Digest {
        use sha2::Digest as _;
        match algorithm {
            Algorithm::Sha256 => digest(algorithm, &sha2::Sha256::digest(content)),
            Algorithm::Sha512 => digest(algorithm, &sha2::Sha512::digest(content)),
        }
    }
}

fn digest(algorithm: Algorithm, hash: &[u8]) -> Digest {
    // The length is always the algorithm's. Were it not, a digest of zeros matches no content.
    Digest::from_hash(algorithm, hash).unwrap_or(Digest::sha256([0; 32]))
}

#[cfg(test)]
mod tests {
    use super::*;

    // FIPS 180-2, appendices B.1 and C.1.
    const ABC_256: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_512: &str = "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                           2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f";

    #[test]
    fn known_answers_streamed_and_at_once() {
        for (algorithm, want) in [(Algorithm::Sha256, ABC_256), (Algorithm::Sha512, ABC_512)] {
            let mut hasher = ContentHasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            assert_eq!(hasher.finish().to_string(), want);
            assert_eq!(ContentHasher::digest(algorithm, b"abc").to_string(), want);
        }
    }
}
