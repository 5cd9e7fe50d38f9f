//! The state of a running release: its step, images and tags. A release that fails reports it.

use crate::report::{
    DeclaredPlatform, EvidenceReport, Failure, PlatformReport, Report, SCHEMA_VERSION, SmokeResult, Step,
    TagReport,
};
use error::Error;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_store::plan::Progress;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The state of a running release. Stages update it from several threads.
#[derive(Default)]
pub struct RunState(Mutex<State>);

#[derive(Default)]
struct State {
    step: Step,
    platforms: Vec<PlatformReport>,
    /// Every tag of the spec.
    wanted: Vec<String>,
    tags: Vec<TagReport>,
    moved: Vec<String>,
    blobs: usize,
    manifests: usize,
}

impl RunState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, step: Step) {
        self.state().step = step;
    }

    pub fn add_image(&self, image: PlatformReport) {
        self.state().platforms.push(image);
    }

    /// Replaces the row of an image whose platform was fixed.
    pub fn set_fixed(
        &self,
        platform: &Platform,
        manifest: &Digest,
        config: &Digest,
        declared: DeclaredPlatform,
    ) {
        self.amend(platform, |row| {
            row.manifest = manifest.clone();
            row.config = config.clone();
            row.declared = declared;
        });
    }

    pub fn set_evidence(&self, platform: &Platform, evidence: &EvidenceReport) {
        self.amend(platform, |row| row.evidence = Some(evidence.clone()));
    }

    pub fn set_smoke(&self, platform: &Platform, smoke: &SmokeResult) {
        self.amend(platform, |row| row.smoke = Some(smoke.clone()));
    }

    fn amend(&self, platform: &Platform, change: impl FnOnce(&mut PlatformReport)) {
        if let Some(row) = self.state().platforms.iter_mut().find(|row| row.platform == *platform) {
            change(row);
        }
    }

    pub fn set_wanted_tags(&self, tags: Vec<String>) {
        self.state().wanted = tags;
    }

    /// The tags with their planned digests; before those are known, with the digests that they have.
    pub fn set_tags(&self, tags: &[TagReport]) {
        self.state().tags = tags.to_vec();
    }

    pub fn record_progress(&self, progress: &Progress<'_>) {
        let mut state = self.state();
        match progress {
            Progress::Blob(_) => state.blobs += 1,
            Progress::Document(_) => state.manifests += 1,
            Progress::Tag(tag, _) => state.moved.push((*tag).to_string()),
        }
    }

    /// The report of a release that failed with this error. `resolve` returns the digest that a tag has now, or `None`
    /// if the target does not answer. It is called only for tags that may have moved: the response to a write can be
    /// lost.
    pub fn failure_report(
        &self,
        image: &str,
        error: &Error,
        earlier: Option<PathBuf>,
        resolve: impl Fn(&str) -> Option<Option<Digest>>,
        took: Duration,
    ) -> Report {
        let state = self.state();
        let mut failure = Failure {
            step: state.step,
            error: format!("cannot {error}"),
            exit: error.kind as u8,
            problems: error.problems.clone(),
            blobs: state.blobs,
            manifests: state.manifests,
            moved: Vec::new(),
            not_moved: Vec::new(),
            unknown: Vec::new(),
            earlier,
        };
        let may_have_moved = matches!(state.step, Step::Publish | Step::ReadBack);
        let mut can_ask = may_have_moved;
        for TagReport { tag, was, now, .. } in &state.tags {
            if state.moved.contains(tag) {
                failure.moved.push(tag.clone());
            } else if !may_have_moved || was.as_ref() == Some(now) {
                failure.not_moved.push(tag.clone());
            } else {
                // If the target does not answer once, it will not answer the next time either, and waiting takes time.
                let found = if can_ask { resolve(tag) } else { None };
                can_ask = found.is_some();
                match found {
                    Some(found) if found.as_ref() == Some(now) => failure.moved.push(tag.clone()),
                    Some(_) => failure.not_moved.push(tag.clone()),
                    None => failure.unknown.push(tag.clone()),
                }
            }
        }
        let is_listed = |tag: &String| {
            [&failure.moved, &failure.not_moved, &failure.unknown].iter().any(|list| list.contains(tag))
        };
        let rest: Vec<String> = state.wanted.iter().filter(|tag| !is_listed(tag)).cloned().collect();
        failure.not_moved.extend(rest);
        let mut platforms = state.platforms.clone();
        platforms.sort_by_key(|row| row.platform.to_string());
        Report {
            schema_version: SCHEMA_VERSION,
            image: image.to_string(),
            digest: None,
            media_type: None,
            changed: state.blobs + state.manifests + failure.moved.len() > 0,
            platforms,
            tags: state.tags.clone(),
            seconds: took.as_secs_f64(),
            failed: Some(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of three tags one moved, one may have moved in a write whose response was lost, and one is unknown.
    #[test]
    fn a_failure_lists_tags_that_moved_did_not_move_and_may_have_moved() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let row = |tag: &str| TagReport {
            tag: tag.into(),
            was: Some(digest("old")),
            now: digest("new"),
            publish: None,
        };
        let error = Error::network("publish", "the line is dead");
        let check = |step: Step, answers: &[(&str, &str)], lists: [&[&str]; 3]| {
            let state = RunState::default();
            state.begin(step);
            state.set_tags(&["a", "b", "c"].map(row));
            state.set_wanted_tags(["a", "b", "c"].map(String::from).to_vec());
            if step == Step::Publish {
                state.state().moved.push("a".into());
            }
            let resolve = |tag: &str| {
                assert_ne!(tag, "a", "a tag that is known to have moved is not resolved");
                answers.iter().find(|(of, _)| *of == tag).map(|(_, names)| Some(digest(names)))
            };
            let report = state.failure_report("x", &error, None, resolve, Duration::ZERO);
            let failed = report.failed.unwrap();
            assert_eq!([failed.moved, failed.not_moved, failed.unknown], lists.map(|list| list.to_vec()));
            assert_eq!((failed.exit, failed.error.as_str()), (6, "cannot publish: the line is dead"));
        };
        check(Step::Smoke, &[], [&[], &["a", "b", "c"], &[]]);
        check(Step::Publish, &[("b", "new"), ("c", "old")], [&["a", "b"], &["c"], &[]]);
        check(Step::Publish, &[("b", "new")], [&["a", "b"], &[], &["c"]]);
        check(Step::Publish, &[("c", "new")], [&["a"], &[], &["b", "c"]]);
    }
}
