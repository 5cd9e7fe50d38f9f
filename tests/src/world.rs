//! Real registries, engines and programs, started privately and ended by process id.
//!
//! A test requires what it needs, and is skipped where that is not installed:
//!
//! ```no_run
//! use multiarch_tests::{need, world};
//! # fn the_test() {
//! need!(world::require(&["skopeo", "docker-registry"]));
//! let registry = need!(world::Registry::start());
//! # }
//! ```
//!
//! With `MULTIARCH_REQUIRE_WORLD=1`, as CI sets it, a skipped test is a failure.

mod browser;
mod busybox;
mod containers;
mod engine;
mod namespace;
mod packages;
mod process;
mod programs;
mod registry;
mod relay;
mod tokens;

pub use browser::Browser;
pub use busybox::{FOREIGN, Foreign, foreign_busybox, rootfs_tar};
pub use containers::containers_env;
pub use engine::Engine;
pub use namespace::Namespace;
pub use packages::{NewerDocker, code_behind_a_check, debian_packages, debian_root, newer_docker};
pub use process::{Proc, run_with_rusage};
pub use programs::{missing, program, require};
pub use registry::{LoggedRequest, Registry};
pub use relay::{Relay, UnixSocketRelay};
pub use tokens::TokenServer;

/// Why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skip(String);

impl Skip {
    pub fn because(why: impl Into<String>) -> Skip {
        Skip(why.into())
    }

    /// Prints the reason on stderr. [`need!`](crate::need) calls it before it returns from the test.
    ///
    /// # Panics
    /// With `MULTIARCH_REQUIRE_WORLD=1`: a machine that was set up for these tests must run them.
    pub fn report(&self) {
        let required = std::env::var("MULTIARCH_REQUIRE_WORLD").is_ok_and(|value| value == "1");
        eprintln!("{}", self.verdict(required).unwrap_or_else(|failure| panic!("{failure}")));
    }

    fn verdict(&self, required: bool) -> Result<String, String> {
        let Skip(why) = self;
        if required {
            return Err(format!("cannot run here, and MULTIARCH_REQUIRE_WORLD=1: {why}"));
        }
        Ok(format!("skipped: {why}"))
    }
}

/// The value of a `Result<_, Skip>`, or the end of the test with its reason on stderr.
#[macro_export]
macro_rules! need {
    ($wanted:expr) => {
        match $wanted {
            Ok(value) => value,
            Err(skip) => {
                $crate::world::Skip::report(&skip);
                return;
            }
        }
    };
}

/// Requires root, for namespaces with more than one user, and for files of other users.
pub fn require_root() -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Skip::because("not root")) }
}

/// A temporary directory of one test. In /tmp, because paths of unix sockets are at most 108 bytes long.
fn short_directory(prefix: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").expect("a directory in /tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_a_failure_if_the_world_is_required() {
        let skip = Skip::because("no skopeo");
        assert_eq!(skip.verdict(false), Ok("skipped: no skopeo".to_owned()));
        assert!(skip.verdict(true).is_err_and(|failure| failure.ends_with("=1: no skopeo")));
    }
}
