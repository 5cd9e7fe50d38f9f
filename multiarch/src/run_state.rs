//! How far a release has come: the step it is at, its images, its tags. One that fails reports that.

use crate::stages::report::{EvidenceReport, Failure, PlatformReport, Report, Step, TagReport};
use crate::stages::smoke::Smoke;
use error::Error;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_store::plan::Progress;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Default)]
pub struct Trace(Mutex<State>);

#[derive(Default)]
struct State {
    step: Step,
    platforms: Vec<PlatformReport>,
    /// Every tag that the spec names.
    wanted: Vec<String>,
    tags: Vec<TagReport>,
    moved: Vec<String>,
    blobs: usize,
    manifests: usize,
}

impl Trace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn at(&self, step: Step) {
        self.state().step = step;
    }

    pub fn built(&self, image: PlatformReport) {
        self.state().platforms.push(image);
    }

    pub fn held(&self, platform: &Platform, evidence: &EvidenceReport) {
        self.amend(platform, |row| row.evidence = Some(evidence.clone()));
    }

    pub fn smoked(&self, platform: &Platform, smoke: &Smoke) {
        self.amend(platform, |row| row.smoke = Some(smoke.clone()));
    }

    fn amend(&self, platform: &Platform, change: impl FnOnce(&mut PlatformReport)) {
        if let Some(row) = self.state().platforms.iter_mut().find(|row| row.platform == *platform) {
            change(row);
        }
    }

    pub fn wanted(&self, tags: Vec<String>) {
        self.state().wanted = tags;
    }

    /// What is about to be done to the tags; before it is known, what they name.
    pub fn tags(&self, tags: &[TagReport]) {
        self.state().tags = tags.to_vec();
    }

    pub fn happened(&self, progress: &Progress<'_>) {
        let mut state = self.state();
        match progress {
            Progress::Blob(_) => state.blobs += 1,
            Progress::Document(_) => state.manifests += 1,
            Progress::Tag(tag, _) => state.moved.push((*tag).to_string()),
        }
    }

    /// The report of a release that this error ended. `named` says what a tag names now; it is asked for tags alone
    /// that may or may not have moved: the answer to a write can be lost.
    pub fn failed(
        &self,
        image: &str,
        error: &Error,
        earlier: Option<PathBuf>,
        named: impl Fn(&str) -> Option<Option<Digest>>,
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
        for TagReport { tag, was, now } in &state.tags {
            if state.moved.contains(tag) {
                failure.moved.push(tag.clone());
            } else if !may_have_moved || was.as_ref() == Some(now) {
                failure.not_moved.push(tag.clone());
            } else {
                // Where one question has no answer, the next one has none either, and waiting takes time.
                let found = if can_ask { named(tag) } else { None };
                can_ask = found.is_some();
                match found {
                    Some(found) if found.as_ref() == Some(now) => failure.moved.push(tag.clone()),
                    Some(_) => failure.not_moved.push(tag.clone()),
                    None => failure.unknown.push(tag.clone()),
                }
            }
        }
        let is_told = |tag: &String| {
            [&failure.moved, &failure.not_moved, &failure.unknown].iter().any(|list| list.contains(tag))
        };
        let rest: Vec<String> = state.wanted.iter().filter(|tag| !is_told(tag)).cloned().collect();
        failure.not_moved.extend(rest);
        let mut platforms = state.platforms.clone();
        platforms.sort_by_key(|row| row.platform.to_string());
        Report {
            report: 1,
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

    /// Of three tags one moved for sure, one by a write whose answer was lost, and of one nobody knows.
    #[test]
    fn what_moved_is_told_apart_from_what_did_not_and_from_what_nobody_knows() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let row = |tag: &str| TagReport { tag: tag.into(), was: Some(digest("old")), now: digest("new") };
        let error = Error::network("publish", "the line is dead");
        let check = |step: Step, answers: &[(&str, &str)], lists: [&[&str]; 3]| {
            let trace = Trace::default();
            trace.at(step);
            trace.tags(&["a", "b", "c"].map(row));
            trace.wanted(["a", "b", "c"].map(String::from).to_vec());
            if step == Step::Publish {
                trace.state().moved.push("a".into());
            }
            let named = |tag: &str| {
                assert_ne!(tag, "a", "what is known is not asked");
                answers.iter().find(|(of, _)| *of == tag).map(|(_, names)| Some(digest(names)))
            };
            let report = trace.failed("x", &error, None, named, Duration::ZERO);
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
