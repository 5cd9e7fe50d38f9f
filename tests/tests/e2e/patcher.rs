//! `config-patcher` as a user runs it, with each kind of store: its writes, its requests, its output.

use crate::samples::Image;
use crate::tools::{Ran, User};
use multiarch_tests::fake_registry::{FakeRegistry, Options};
use std::sync::Arc;

mod attested;
mod buildkit;
mod fix_budgets;
mod index;
mod local;
mod moved;
mod registry;
mod secrets;

const REPOSITORY: &str = "team/app";

/// A registry with an arm image that declares amd64.
struct Rig {
    registry: Arc<FakeRegistry>,
    user: User,
    wrong: Image,
    right: Image,
}

impl Rig {
    fn new() -> Self {
        Self::with(Options::default())
    }

    fn with(options: Options) -> Self {
        let registry = Arc::new(FakeRegistry::start_with(options));
        let wrong = Image::new("linux/amd64", "arm's own");
        wrong.publish(&registry, REPOSITORY, "arm32v7");
        Self { registry, user: User::new(), right: wrong.relabeled("arm", "v7"), wrong }
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/{REPOSITORY}:{tag}", self.registry.host())
    }

    fn fix(&self, args: &[&str]) -> Ran {
        self.user.config_patcher(
            &[&["fix", &self.image("arm32v7"), "--set-platform", "linux/arm/v7"], args].concat(),
        )
    }

    fn digest_of_tag(&self, tag: &str) -> Option<String> {
        self.registry.tag(REPOSITORY, tag)
    }

    /// `METHOD OBJECT STATUS` of each request.
    fn requests(&self) -> Vec<String> {
        let word = |path: &str| -> String {
            let last = path.split('?').next().unwrap().rsplit('/').next().unwrap();
            match path {
                _ if path.contains("/blobs/uploads") => "upload".into(),
                _ if last == self.wrong.config_digest() => "old config".into(),
                _ if last == self.wrong.digest() => "old manifest".into(),
                _ if last == self.wrong.layer_digest() => "layer".into(),
                _ => last.into(),
            }
        };
        let log = self.registry.log();
        log.iter().map(|l| format!("{} {} {}", l.method, word(&l.path), l.status.unwrap_or(0))).collect()
    }

    fn assert_nothing_written(&self) {
        let log = self.registry.log();
        assert!(log.iter().all(|l| matches!(l.method.as_str(), "GET" | "HEAD")), "{log:?}");
        assert_eq!(self.digest_of_tag("arm32v7").as_deref(), Some(self.wrong.digest()));
    }

    fn assert_sound(&self) {
        assert_eq!(self.registry.violations(), [""; 0]);
        for tag in self.registry.tags(REPOSITORY) {
            self.registry.closure_complete(REPOSITORY, &self.digest_of_tag(&tag).unwrap()).unwrap();
        }
    }
}
