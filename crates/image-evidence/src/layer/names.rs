//! Hashes of paths with a secret key, so that nobody can construct two paths with the same hash.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::OnceLock;

/// The secret key of the hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameKey([u8; 32]);

impl NameKey {
    /// A key from random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A random key for this process.
    fn random() -> Self {
        use std::hash::BuildHasher;
        let mut bytes = [0; 32];
        let random = std::hash::RandomState::new();
        for (number, part) in bytes.chunks_mut(8).enumerate() {
            part.copy_from_slice(&random.hash_one(number).to_le_bytes());
        }
        Self(bytes)
    }
}

/// The key, and a hasher that was fed with it.
static START: OnceLock<(NameKey, DefaultHasher)> = OnceLock::new();

fn start(key: NameKey) -> (NameKey, DefaultHasher) {
    let mut hasher = DefaultHasher::new();
    hasher.write(&key.0);
    (key, hasher)
}

/// Sets the key of this process, so that facts from earlier processes can be used. `false`: paths were already hashed with
/// another key.
pub fn use_key(key: NameKey) -> bool {
    START.get_or_init(|| start(key)).0 == key
}

/// The hash of a normalized path.
pub fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = START.get_or_init(|| start(NameKey::random())).1.clone();
    hasher.write(name);
    hasher.finish()
}
