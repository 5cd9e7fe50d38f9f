//! What a release did, for people and for programs.

use crate::stages::smoke::Smoke;
use crate::work_dir::paths::Own;
use crate::work_dir::records;
use error::Error;
use error::text;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_store::plan::TagStep;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The report file. Its fields stay; new ones may come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this form.
    pub report: u8,
    /// Where it was published; a layout's folder from the root, so that it is found from anywhere.
    pub image: String,
    /// The index; `null` where the release did not come to its end.
    pub digest: Option<Digest>,
    pub media_type: Option<String>,
    /// Did the release write anything?
    pub changed: bool,
    pub platforms: Vec<PlatformReport>,
    /// Every tag that the release is about, with what it named before.
    pub tags: Vec<TagReport>,
    pub seconds: f64,
    /// `null` where it came to its end.
    #[serde(default)]
    pub failed: Option<Failure>,
}

/// What stopped a release, and what had been published by then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub step: Step,
    pub error: String,
    /// The exit code.
    pub exit: u8,
    pub problems: Vec<String>,
    /// Sent to the target, or found there; without a tag nobody sees them.
    pub blobs: usize,
    pub manifests: usize,
    /// Tags that name the new images already.
    pub moved: Vec<String>,
    pub not_moved: Vec<String>,
    /// Tags that may have moved: the answer was lost, and asking again had none.
    pub unknown: Vec<String>,
    /// The report of the last release of the same spec and image that came to its end.
    pub earlier: Option<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlatformReport {
    pub platform: Platform,
    /// Empty for a member that was published before and is kept.
    pub builder: String,
    pub manifest: Digest,
    pub config: Digest,
    /// Bytes of its layers, as they are stored.
    pub layer_bytes: u64,
    pub label: LabelReport,
    /// What the binaries say.
    pub evidence: Option<EvidenceReport>,
    /// `null`: the spec has no smoke command, or `--no-smoke`.
    pub smoke: Option<Smoke>,
    /// How long the build took.
    pub seconds: f64,
}

/// What the config said after the build, and what it says now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabelReport {
    pub built: Platform,
    pub published: Platform,
}

/// What a container would execute, held against the label.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceReport {
    /// `consistent`, `foreign payload`, `undetermined`; with anything else nothing is published.
    pub verdict: String,
    pub binaries: Option<Platform>,
    pub reasons: Vec<String>,
    /// Read until the image's own program was known; without it, to the last byte of the last layer.
    #[serde(default)]
    pub quick: bool,
}

impl EvidenceReport {
    pub fn shown(&self) -> String {
        format!("{}{}", self.verdict, if self.quick { ", quick look" } else { "" })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TagReport {
    pub tag: String,
    pub was: Option<Digest>,
    pub now: Digest,
}

impl From<&TagStep> for TagReport {
    fn from(step: &TagStep) -> Self {
        Self { tag: step.tag.clone(), was: step.was.clone(), now: step.document.digest().clone() }
    }
}

/// Where no tag moved, the report that is there already has what the tags named before: it must not be lost. `report`
/// counts where the work folder was taken away.
pub fn as_before(own: &Own, report: &Path, tags: Vec<TagReport>) -> Vec<TagReport> {
    let found = [own.released().as_path(), report].into_iter().find_map(|path| read(path, &own.image));
    let earlier = found.map_or_else(Vec::new, |found| found.tags);
    let before = |tag: TagReport| {
        let same = |left: &&TagReport| left.tag == tag.tag && left.now == tag.now;
        match earlier.iter().find(same) {
            Some(left) if tag.was.as_ref() == Some(&tag.now) => left.clone(),
            _ => tag,
        }
    };
    tags.into_iter().map(before).collect()
}

/// The report that is there, if it is about this image.
pub fn read(path: &Path, image: &str) -> Option<Report> {
    let found: Report = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (found.image == image).then_some(found)
}

impl Report {
    /// One row a platform.
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self.platforms.iter().map(PlatformReport::row).collect();
        cli::table(
            &["PLATFORM", "BUILDER", "LABEL", "BINARIES", "SMOKE", "LAYERS", "MANIFEST", "TIME"],
            &rows,
        )
    }

    /// Writes the report as a whole and durably: a reader never sees half of it, and a rollback needs it.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let doing = || format!("write the report \"{}\"", path.display());
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::local(doing(), e.to_string()))?;
        let write = || records::write_durably(path, format!("{text}\n").as_bytes(), 0o644);
        write().map_err(|e| Error::from_io(doing(), e))
    }
}

impl PlatformReport {
    fn row(&self) -> Vec<String> {
        let label = match self.label.built == self.label.published {
            true => "right".to_string(),
            false => format!("{} put right", self.label.built),
        };
        let smoke = match &self.smoke {
            Some(Smoke::Passed { milliseconds, .. }) => format!("passed, {milliseconds} ms"),
            Some(Smoke::Failed { .. }) => "FAILED".to_string(),
            Some(Smoke::NotRun { .. }) => "not run".to_string(),
            None => "-".to_string(),
        };
        let builder = if self.builder.is_empty() { "(published before)" } else { &self.builder };
        vec![
            self.platform.to_string(),
            builder.to_string(),
            label,
            self.evidence.as_ref().map_or("-".to_string(), EvidenceReport::shown),
            smoke,
            text::format_bytes(self.layer_bytes),
            self.manifest.short().to_string(),
            format!("{:.1} s", self.seconds),
        ]
    }
}

/// The steps of a release, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    #[default]
    Plan,
    Bases,
    Prepare,
    Emulators,
    Build,
    Label,
    Binaries,
    Smoke,
    /// Looking at what `--only` keeps.
    Kept,
    Publish,
    /// Everything is published; it is read once more.
    ReadBack,
}

impl Step {
    /// "it failed at the X"
    pub fn text(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Bases => "look at base images",
            Self::Prepare => "prepare commands",
            Self::Emulators => "registration of emulators",
            Self::Build => "build",
            Self::Label => "check of labels",
            Self::Binaries => "check of binaries",
            Self::Smoke => "smoke test",
            Self::Kept => "look at what is kept",
            Self::Publish => "publication",
            Self::ReadBack => "reading back",
        }
    }
}
