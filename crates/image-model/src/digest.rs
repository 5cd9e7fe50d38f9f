//! Content digests: `algorithm:hex`, checked before they are used in a path or a URL.

use error::Error;
use sha2::{Digest as _, Sha256, Sha512};
use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

/// A well-formed digest: `sha256:` and 64, or `sha512:` and 128 lowercase hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(transparent)]
pub struct Digest(String);

/// A text that is not a digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a digest: expected sha256: and 64, or sha512: and 128 lowercase hexadecimal digits")]
pub struct DigestError(String);

impl Digest {
    /// Returns the sha256 digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::sha256();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// Returns the hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Returns `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first twelve digits, for messages.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// Returns whether it is the digest of these bytes.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::like(self);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let wrong = || DigestError(text.chars().take(160).collect());
        let (algorithm, hex) = text.split_once(':').ok_or_else(wrong)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(wrong()),
        };
        let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() != length || !is_hex {
            return Err(wrong());
        }
        Ok(Self(text.to_string()))
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Computes a digest piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// sha256
    Sha256(Box<Sha256>),
    /// sha512
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A hasher for sha256.
    pub fn sha256() -> Self {
        Self::Sha256(Box::default())
    }

    /// A hasher for the algorithm of `digest`.
    pub fn like(digest: &Digest) -> Self {
        match digest.algorithm() {
            "sha512" => Self::Sha512(Box::default()),
            _ => Self::sha256(),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest(format!("sha256:{}", hex(&hasher.finalize()))),
            Self::Sha512(hasher) => Digest(format!("sha512:{}", hex(&hasher.finalize()))),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)] as char);
        out.push(DIGITS[usize::from(byte & 15)] as char);
    }
    out
}

/// Passes bytes on and checks, at their end, that they were the promised ones. A reader that came to
/// the end without an error has read exactly the content of `digest`, `size` bytes long.
pub struct Verified<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    seen: u64,
    what: String,
}

impl<R: Read> Verified<R> {
    /// `what` names the content in an error: `blob of "127.0.0.1:5000/app"`.
    pub fn new(inner: R, expected: &Digest, size: u64, what: impl Into<String>) -> Self {
        let hasher = Some(Hasher::like(expected));
        Self { inner, hasher, expected: expected.clone(), size, seen: 0, what: what.into() }
    }

    fn wrong(&self, why: String) -> io::Error {
        Error::integrity(format!("read {} {}", self.what, self.expected), why).into_io()
    }
}

impl<R: Read> Read for Verified<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        self.seen += count as u64;
        if self.seen > self.size {
            return Err(self.wrong(format!("it is longer than the {} bytes that were promised", self.size)));
        }
        if count > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..count]);
            }
            return Ok(count);
        }
        // The error is returned once; later reads return the end.
        if let Some(hasher) = self.hasher.take() {
            if self.seen != self.size {
                return Err(self.wrong(format!("{} bytes came, {} were promised", self.seen, self.size)));
            }
            let found = hasher.finish();
            if found != self.expected {
                return Err(self.wrong(format!("the content has digest {found}")));
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use error::Exit;

    // printf abc | sha256sum
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_are_those_of_sha256sum() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert!(ABC.parse::<Digest>().unwrap().matches(b"abc"));
        assert!(!ABC.parse::<Digest>().unwrap().matches(b"abd"));
    }

    #[test]
    fn a_digest_that_could_be_a_path_is_refused() {
        for text in [
            "sha256:../../../etc/passwd",
            "md5:ba7816bf8f01cfea414140de5dae2223",
            &ABC.to_uppercase(),
            &ABC[..ABC.len() - 1],
            "sha256:",
            "",
            &ABC.replace("ba78", "BA78"),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_bytes_are_reported_at_the_end() {
        let digest: Digest = ABC.parse().unwrap();
        let check = |bytes: &[u8], size: u64| {
            let mut out = Vec::new();
            let result = Verified::new(bytes, &digest, size, "blob").read_to_end(&mut out);
            result.map_err(|e| Error::from_io("read", e).kind)
        };
        assert_eq!(check(b"abc", 3), Ok(3));
        assert_eq!(check(b"abd", 3), Err(Exit::Integrity));
        assert_eq!(check(b"ab", 3), Err(Exit::Integrity));
        assert_eq!(check(b"abcd", 3), Err(Exit::Integrity));
        assert_eq!(check(b"abc", 4), Err(Exit::Integrity));
    }
}
