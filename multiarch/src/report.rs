//! The report of a release: a JSON document, and a table for the terminal.

use error::{Error, text};
use image_evidence::verdict::Verdict;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_model::reference::Reference;
use image_store::atomic_file::TempFiles;
use image_store::directory::read_small;
use image_store::plan::TagStep;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tag_journal::{History, JournalEntry, JournalRun, store_name};

pub mod summary;

/// The version of the report's form. Form 1 is that of version 0.1.0: it is read, but not written.
pub const SCHEMA_VERSION: u8 = 2;
/// Bytes of a report that is read again. One has a few kilobytes.
const REPORT_MAX: u64 = 16 << 20;

/// The report file. Its fields stay; new ones may be added. Aliases are the names of form 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    #[serde(alias = "report")]
    pub schema_version: u8,
    /// The repository, or the OCI layout with its absolute path, so that it is found from any directory.
    pub image: String,
    /// Digest of the index; `null` if the release failed.
    pub digest: Option<Digest>,
    #[serde(alias = "media_type")]
    pub media_type: Option<String>,
    /// Whether the release wrote anything.
    pub changed: bool,
    pub platforms: Vec<PlatformReport>,
    /// Every tag of the release, with the digest that it had before.
    pub tags: Vec<TagReport>,
    pub seconds: f64,
    /// `null` if the release succeeded.
    #[serde(default)]
    pub failed: Option<Failure>,
}

/// The error that stopped a release, and what was published before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub step: Step,
    pub error: String,
    /// The exit code.
    pub exit: u8,
    pub problems: Vec<String>,
    /// Number of blobs and manifests that the target has. Without a tag they are not visible.
    pub blobs: usize,
    pub manifests: usize,
    /// Tags that refer to the new images.
    pub moved: Vec<String>,
    #[serde(alias = "not_moved")]
    pub not_moved: Vec<String>,
    /// Tags that may have moved: the response to the write was lost, and the registry did not answer again.
    pub unknown: Vec<String>,
    /// The report of the last successful release of the same spec and image.
    pub earlier: Option<PathBuf>,
}

/// One image of a release.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformReport {
    pub platform: Platform,
    /// Empty for an image that was published before and is retained.
    pub builder: String,
    pub manifest: Digest,
    pub config: Digest,
    /// Bytes of its layers, as they are stored.
    #[serde(alias = "layer_bytes")]
    pub layer_bytes: u64,
    #[serde(alias = "label")]
    pub declared: DeclaredPlatform,
    /// The verdict on its binaries.
    pub evidence: Option<EvidenceReport>,
    /// `null`: the spec has no smoke command, or `--no-smoke`.
    pub smoke: Option<SmokeResult>,
    /// Duration of the build.
    pub seconds: f64,
}

/// The platform that the config declared after the build, and the one that it declares now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeclaredPlatform {
    pub built: Platform,
    pub published: Platform,
}

impl DeclaredPlatform {
    /// Returns whether the release replaced what the builder declared.
    pub fn is_fixed(&self) -> bool {
        self.built != self.published
    }
}

/// The verdict on one image: its platform metadata compared with its binaries.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceReport {
    /// `consistent`, `foreign-payload` or `undetermined`; any other verdict stops the release.
    pub verdict: String,
    pub binaries: Option<Platform>,
    pub reasons: Vec<String>,
    /// Layers were read only until the binary platform was known, not to the end of the last layer.
    #[serde(default)]
    pub quick: bool,
}

impl EvidenceReport {
    /// The cell of the table.
    pub fn to_text(&self) -> String {
        format!("{}{}", self.verdict.replace('-', " "), if self.quick { ", quick check" } else { "" })
    }
}

impl From<&Verdict> for EvidenceReport {
    fn from(verdict: &Verdict) -> Self {
        Self {
            verdict: verdict.kind.text().replace(' ', "-"),
            binaries: verdict.binaries.clone(),
            reasons: verdict.reasons.clone(),
            quick: false,
        }
    }
}

/// Result of a smoke test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum SmokeResult {
    Passed {
        milliseconds: u64,
        output: String,
    },
    Failed {
        why: String,
        output: String,
    },
    /// This host cannot run it: no emulator, no user namespaces.
    #[serde(alias = "not_run")]
    NotRun {
        why: String,
    },
}

/// One tag, with its digest before and after the release, and the journal's record of its move.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TagReport {
    pub tag: String,
    /// `None`: the tag did not exist.
    pub was: Option<Digest>,
    pub now: Digest,
    /// The run in the journal that moved the tag; `None` if the tag did not move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<String>,
}

impl From<&TagStep> for TagReport {
    fn from(step: &TagStep) -> Self {
        let (tag, was, now) = (step.tag.clone(), step.was.clone(), step.document.digest().clone());
        Self { tag, was, now, publish: None }
    }
}

impl TagReport {
    /// The move as the journal has it. Reports of 0.1.0 do not have its run.
    pub fn entry(&self, image: &str) -> JournalEntry {
        JournalEntry {
            time: 0,
            publish: self.publish.clone().unwrap_or_default(),
            image: image.into(),
            tag: self.tag.clone(),
            old: self.was.clone(),
            new: self.now.clone(),
            undoes: None,
            release: None,
        }
    }
}

/// The tags with the digests that they had before this release, and before the interrupted run that it continues.
///
/// Tags that this run does not move were moved by an earlier one: a rerun must not lose what a rollback needs. If the
/// journal does not have that run (it was made on another machine), the existing report has it.
pub fn with_previous_digests(
    tags: Vec<TagReport>,
    image: &Reference,
    run: &JournalRun,
    history: &History,
    earlier: Option<Report>,
) -> Vec<TagReport> {
    let store = store_name(image);
    let earlier = earlier.map_or_else(Vec::new, |report| report.tags);
    let before = |tag: TagReport| {
        let is_moved = tag.was.as_ref() != Some(&tag.now);
        let publish = is_moved.then(|| run.publish.clone());
        let known = tag.was.as_ref().and_then(|was| history.last_move(&store, &tag.tag, was));
        let same = |left: &&TagReport| left.tag == tag.tag && left.now == tag.now;
        match known.filter(|known| !is_moved || known.publish == run.publish) {
            Some(known) => TagReport { was: known.old, publish: Some(known.publish), ..tag },
            None if is_moved => TagReport { publish, ..tag },
            None => earlier.iter().find(same).cloned().unwrap_or(tag),
        }
    };
    tags.into_iter().map(before).collect()
}

/// The report in this file, if there is one and it is about this image.
pub fn read(path: &Path, image: &str) -> Option<Report> {
    let found: Report = serde_json::from_slice(&read_small(path, REPORT_MAX).ok()?).ok()?;
    (found.image == image).then_some(found)
}

impl Report {
    /// The moves of its tags, the last first: tags of members were set before those of the index.
    pub fn moves(&self) -> Vec<JournalEntry> {
        self.tags.iter().rev().map(|tag| tag.entry(&self.image)).collect()
    }

    /// The table for the terminal: one row for each platform.
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self.platforms.iter().map(PlatformReport::row).collect();
        cli::table(
            &["PLATFORM", "BUILDER", "METADATA", "BINARIES", "SMOKE", "LAYERS", "MANIFEST", "TIME"],
            &rows,
        )
    }

    /// Writes the report atomically and durably: a reader never sees half of it, and a rollback needs it.
    pub fn write(&self, temp_files: &TempFiles, path: &Path) -> Result<(), Error> {
        let doing = || format!("write the report \"{}\"", path.display());
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::local(doing(), e.to_string()))?;
        let write = || temp_files.write_durably(path, format!("{text}\n").as_bytes(), 0o644);
        write().map_err(|e| Error::from_io(doing(), e))
    }
}

impl PlatformReport {
    fn row(&self) -> Vec<String> {
        let declared = if self.declared.is_fixed() {
            format!("fixed, was {}", self.declared.built)
        } else {
            "ok".to_string()
        };
        let smoke = match &self.smoke {
            Some(SmokeResult::Passed { milliseconds, .. }) => format!("passed, {milliseconds} ms"),
            Some(SmokeResult::Failed { .. }) => "FAILED".to_string(),
            Some(SmokeResult::NotRun { .. }) => "not run".to_string(),
            None => "-".to_string(),
        };
        let builder = if self.builder.is_empty() { "(published before)" } else { &self.builder };
        vec![
            self.platform.to_string(),
            builder.to_string(),
            declared,
            self.evidence.as_ref().map_or("-".to_string(), EvidenceReport::to_text),
            smoke,
            text::format_bytes(self.layer_bytes),
            self.manifest.short().to_string(),
            format!("{:.1} s", self.seconds),
        ]
    }
}

/// The steps of a release, in their order. Aliases are the names of form 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    #[default]
    Plan,
    #[serde(alias = "bases")]
    VerifyBases,
    Prepare,
    #[serde(alias = "emulators")]
    RegisterEmulators,
    Build,
    #[serde(alias = "label")]
    FixPlatform,
    #[serde(alias = "binaries")]
    Verify,
    Smoke,
    /// Verification of the images that `--only` retains.
    #[serde(alias = "kept")]
    VerifyRetained,
    Publish,
    /// Verification of the target after everything is published.
    #[serde(alias = "read_back")]
    ReadBack,
}

impl Step {
    /// The noun phrase for "it failed in the ...".
    pub fn display_name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::VerifyBases => "verification of base images",
            Self::Prepare => "prepare commands",
            Self::RegisterEmulators => "registration of emulators",
            Self::Build => "build",
            Self::FixPlatform => "check of declared platforms",
            Self::Verify => "verification of binaries",
            Self::Smoke => "smoke test",
            Self::VerifyRetained => "verification of retained images",
            Self::Publish => "publication",
            Self::ReadBack => "verification after publication",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As version 0.1.0 wrote it.
    const FORM_1: &str = r#"{"report":1,"image":"127.0.0.1:5000/a","digest":null,"media_type":null,"changed":true,
        "platforms":[{"platform":{"os":"linux","architecture":"amd64"},"builder":"rootfs",
            "manifest":"sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "config":"sha256:0000000000000000000000000000000000000000000000000000000000000000","layer_bytes":7,
            "label":{"built":{"os":"linux","architecture":"amd64"},"published":{"os":"linux","architecture":"amd64"}},
            "evidence":{"verdict":"foreign payload","binaries":null,"reasons":[],"quick":true},
            "smoke":{"result":"not_run","why":"x"},"seconds":0.1}],
        "tags":[{"tag":"1","was":null,
            "now":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}],
        "seconds":1.0,"failed":{"step":"read_back","error":"e","exit":6,"problems":[],"blobs":1,"manifests":1,
            "moved":["1"],"not_moved":["2"],"unknown":[],"earlier":null}}"#;

    #[test]
    fn a_report_of_version_0_1_0_is_read_and_the_new_form_is_camel_case() {
        let report: Report = serde_json::from_str(FORM_1).unwrap();
        assert_eq!((report.schema_version, report.platforms[0].layer_bytes), (1, 7));
        let failed = report.failed.as_ref().unwrap();
        assert_eq!(
            (failed.step, failed.not_moved.as_slice()),
            (Step::ReadBack, ["2".to_string()].as_slice())
        );
        let now = serde_json::to_value(&report).unwrap();
        assert_eq!(now["failed"]["step"], "read-back");
        assert_eq!(now["platforms"][0]["smoke"]["result"], "not-run");
        for key in ["/schemaVersion", "/mediaType", "/failed/notMoved", "/platforms/0/layerBytes"] {
            assert!(now.pointer(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_step_of_version_0_1_0_is_read() {
        let check = |old: &str, step: Step| {
            assert_eq!(serde_json::from_value::<Step>(old.into()).unwrap(), step, "{old}");
        };
        check("plan", Step::Plan);
        check("bases", Step::VerifyBases);
        check("emulators", Step::RegisterEmulators);
        check("label", Step::FixPlatform);
        check("binaries", Step::Verify);
        check("kept", Step::VerifyRetained);
    }
}
