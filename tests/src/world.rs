//! The real parts that a user of the tools has, started privately and ended by process id.
//!
//! A world test asks for what it needs and goes home where that is not to be had:
//!
//! ```no_run
//! use multiarch_tests::{need, world};
//! # fn the_test() {
//! need!(world::require(&["skopeo", "docker-registry"]));
//! let registry = need!(world::Registry::start());
//! # }
//! ```
//!
//! With `MULTIARCH_REQUIRE_WORLD=1`, as CI sets it, going home is a failure.

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
pub use packages::{NewerDocker, debian_packages, newer_docker};
pub use process::{Proc, run_with_rusage};
pub use programs::{missing, program, require};
pub use registry::{Asked, Registry};
pub use relay::{Door, Relay};
pub use tokens::TokenServer;

/// Why a test cannot run on this machine.
#[derive(Debug)]
pub struct Skip(String);

impl Skip {
    pub fn because(why: impl Into<String>) -> Skip {
        Skip(why.into())
    }

    /// Says why on stderr. What [`need!`](crate::need) calls before it leaves the test.
    ///
    /// # Panics
    /// Where the world is required: a machine that was set up for these tests must run them.
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

/// Root, for namespaces in which more than one user exists, and for files of other users.
pub fn require_root() -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Skip::because("not root")) }
}

/// A directory for what lives as long as one test. In /tmp and nowhere else: paths of unix sockets end at 108 bytes.
fn short_directory(prefix: &str) -> tempfile::TempDir {
    tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").expect("a directory in /tmp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_a_failure_where_the_world_is_required() {
        let skip = Skip::because("no skopeo");
        assert_eq!(skip.verdict(false), Ok("skipped: no skopeo".to_owned()));
        assert!(skip.verdict(true).is_err_and(|failure| failure.ends_with("=1: no skopeo")));
    }
}
