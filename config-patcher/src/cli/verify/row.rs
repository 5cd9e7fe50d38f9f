//! One image of those that were asked for, with what came of it.

use crate::detect::verdict::Kind;
use crate::verify::{Depth, Finding};
use image_store::error::StoreError;
use image_store::manifest::Descriptor;
use image_store::platform::Platform;
use image_store::store::ImageSource;
use image_store::tree::{Image, Node};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One name that was asked for, and what it names.
pub struct Named {
    pub name: String,
    pub source: Arc<dyn ImageSource>,
    pub depth: Depth,
    pub node: Result<Node, StoreError>,
}

/// One image of those, with its verdict.
pub struct Row<'a> {
    pub named: &'a Named,
    pub entry: Option<&'a Descriptor>,
    pub image: &'a Image,
    pub finding: Result<Finding, StoreError>,
}

impl Row<'_> {
    pub fn label(&self) -> Platform {
        self.image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default()
    }

    pub fn said(&self) -> Option<&Platform> {
        self.entry.and_then(|entry| entry.platform.as_ref())
    }

    /// The index entry and the label say the same, or there is no entry.
    pub fn entry_agrees(&self) -> bool {
        self.said().is_none_or(|said| self.label().answers_entry(said))
    }

    pub fn is_wrong(&self, strict: bool) -> bool {
        let Ok(finding) = &self.finding else { return false };
        let kind = finding.verdict.kind;
        matches!(kind, Kind::Mislabelled | Kind::Mixed)
            || (strict && matches!(kind, Kind::ForeignPayload | Kind::Undetermined))
            || !self.entry_agrees()
    }

    /// The label for people.
    pub fn label_text(&self) -> String {
        let label = self.label();
        if label.architecture.is_empty() { "(none)".into() } else { label.to_string() }
    }

    /// What the binaries are for, for people: several platforms where they contradict each other.
    pub fn binaries_text(&self) -> String {
        let Ok(finding) = &self.finding else { return "-".into() };
        match (&finding.verdict.binaries, finding.verdict.kind) {
            (Some(platform), _) => platform.to_string(),
            (None, Kind::Mixed) => {
                let names: BTreeSet<String> =
                    finding.verdict.shown.iter().map(|shown| shown.platform.to_string()).collect();
                names.into_iter().collect::<Vec<_>>().join(" + ")
            }
            (None, _) => "-".into(),
        }
    }

    /// The verdict in words, and whether the index agrees.
    pub fn verdict_text(&self) -> String {
        let verdict = self.finding.as_ref().map_or("not read", |finding| finding.verdict.kind.text());
        let differs = if self.entry_agrees() || self.finding.is_err() { "" } else { DIFFERS };
        format!("{verdict}{differs}")
    }

    /// The command that puts the label right, where there is one.
    pub fn fix(&self) -> Option<String> {
        let finding = self.finding.as_ref().ok()?;
        let name = quoted(&self.named.name);
        match (finding.verdict.kind, &finding.verdict.binaries) {
            (Kind::Mislabelled, Some(platform)) => {
                let member = self
                    .entry
                    .map_or(String::new(), |_| format!(" --member {}", self.image.document.digest()));
                Some(format!("config-patcher fix {name}{member} --platform {platform}"))
            }
            // The binaries agree with the label, so the index is what is wrong, and the other way round above.
            (Kind::Consistent | Kind::ForeignPayload, _) if !self.entry_agrees() => {
                let label = self.label();
                Some(format!(
                    "config-patcher fix {name} --member {} --platform {label}",
                    self.image.document.digest()
                ))
            }
            _ => None,
        }
    }
}

const DIFFERS: &str = ", label differs from the index";

/// A reference as a shell takes it for one word.
fn quoted(name: &str) -> String {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@=+,%".contains(&b));
    if is_plain && !name.is_empty() { name.into() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

/// What a report is made of.
pub struct Results<'a> {
    pub named: &'a [Named],
    pub rows: &'a [Row<'a>],
    pub strict: bool,
}
