//! Names as 64-bit hashes, under a key that nobody else knows: so nobody can make two names collide.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::OnceLock;

/// What must be secret of the hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameKey([u8; 32]);

impl NameKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key of this process alone.
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

/// A hasher that has eaten the key; each name starts from here.
static START: OnceLock<(NameKey, DefaultHasher)> = OnceLock::new();

fn start(key: NameKey) -> (NameKey, DefaultHasher) {
    let mut hasher = DefaultHasher::new();
    hasher.write(&key.0);
    (key, hasher)
}

/// Lets this process use a key of earlier ones, so that what they kept can be read. `false`: names were hashed by
/// another key already.
pub fn use_key(key: NameKey) -> bool {
    START.get_or_init(|| start(key)).0 == key
}

/// The hash of a plain name: no slash at either end, no `.`, no `..`.
pub fn name_hash(name: &[u8]) -> u64 {
    let mut hasher = START.get_or_init(|| start(NameKey::random())).1.clone();
    hasher.write(name);
    hasher.finish()
}
