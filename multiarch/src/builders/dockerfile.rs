//! A partial reader of Dockerfiles: base images of the stages, and whether they run programs.
//!
//! It answers what must be known before the build. If the answer is uncertain, it is the conservative one.

use crate::spec::BuildArgs;
use image_model::platform::Platform;
use std::collections::BTreeMap;

#[cfg(test)]
mod tests;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    pub stages: Vec<Stage>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    /// Line of its FROM, counted from 1.
    pub line: usize,
    /// The name in `FROM`, with build arguments expanded.
    pub base: String,
    pub name: Option<String>,
    pub asked: Asked,
    /// It has a RUN.
    runs: bool,
    /// The sources of COPY and mounts: stages by name or number, and images.
    sources: Vec<String>,
}

/// The platform of a FROM.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// No `--platform`, or the target platform.
    Target,
    /// The platform of the builder: `--platform=$BUILDPLATFORM`.
    Builder,
    /// A fixed platform.
    Named(String),
}

impl Dockerfile {
    /// `platform` is the target platform: the value of TARGETPLATFORM and its parts.
    pub fn parse(text: &str, build_args: &BuildArgs, platform: &Platform) -> Self {
        let mut variables: BTreeMap<String, String> = BTreeMap::from([
            ("TARGETPLATFORM".into(), platform.to_string()),
            ("TARGETOS".into(), platform.os.clone()),
            ("TARGETARCH".into(), platform.architecture.clone()),
            ("TARGETVARIANT".into(), platform.variant.clone().unwrap_or_default()),
            ("BUILDPLATFORM".into(), BUILDER.into()),
            ("BUILDOS".into(), BUILDER.into()),
            ("BUILDARCH".into(), BUILDER.into()),
        ]);
        let mut found = Self::default();
        for (line, instruction, rest) in instructions(text) {
            match (instruction.as_str(), found.stages.last_mut()) {
                ("ARG", None) => {
                    for one in words(&rest) {
                        let (name, default) = one.split_once('=').unwrap_or((one, ""));
                        let given = match build_args.0.get(name) {
                            Some(Some(value)) => Some(value.clone()),
                            Some(None) => std::env::var(name).ok(),
                            None => None,
                        };
                        let value = given.unwrap_or_else(|| expand(unquoted(default), &variables));
                        variables.entry(name.to_string()).or_insert(value);
                    }
                }
                ("FROM", _) => found.stages.push(stage(line, &rest, platform, &variables)),
                ("RUN", Some(stage)) => {
                    stage.runs = true;
                    stage.sources.extend(mounted(&rest));
                }
                ("COPY", Some(stage)) => stage.sources.extend(flag(&rest, "--from=").map(str::to_string)),
                _ => {}
            }
        }
        found
    }

    /// Returns whether a stage of the target platform has a RUN, including stages that the target does not need.
    pub fn runs_programs(&self) -> bool {
        self.stages.iter().any(|stage| stage.runs && stage.asked != Asked::Builder)
    }

    /// The stages whose base images are neither `scratch` nor a stage above.
    pub fn bases(&self) -> impl Iterator<Item = &Stage> {
        (0..self.stages.len()).filter(|at| self.pulls(*at)).map(|at| &self.stages[at])
    }

    /// The base images that a build of `target` needs. The default target is the last stage.
    pub fn needed_bases(&self, target: Option<&str>) -> Vec<&Stage> {
        let needed = self.needed(target);
        let pulled = (0..self.stages.len()).filter(|at| needed[*at] && self.pulls(*at));
        pulled.map(|at| &self.stages[at]).collect()
    }

    /// For each stage, whether a build of `target` needs it.
    fn needed(&self, target: Option<&str>) -> Vec<bool> {
        let mut needed = vec![false; self.stages.len()];
        let mut next: Vec<usize> = self.target(target).into_iter().collect();
        while let Some(at) = next.pop() {
            if std::mem::replace(&mut needed[at], true) {
                continue;
            }
            next.extend(self.base_stage(at));
            next.extend(self.stages[at].sources.iter().filter_map(|source| self.source_stage(at, source)));
        }
        needed
    }

    fn pulls(&self, at: usize) -> bool {
        self.stages[at].base != "scratch" && self.base_stage(at).is_none()
    }

    /// Returns whether a stage that the target needs has the same first layers for several platforms: none, or an image of a platform
    /// that is not the target platform.
    pub fn begins_alike(&self, target: Option<&str>) -> bool {
        let needed = self.needed(target);
        let alike = |stage: &Stage| stage.base == "scratch" || stage.asked != Asked::Target;
        (0..self.stages.len())
            .any(|at| needed[at] && self.base_stage(at).is_none() && alike(&self.stages[at]))
    }

    /// The first stage of the image itself: its base is the base image.
    pub fn root(&self, target: Option<&str>) -> Option<&Stage> {
        let mut at = self.target(target)?;
        while let Some(below) = self.base_stage(at) {
            at = below;
        }
        Some(&self.stages[at])
    }

    fn target(&self, name: Option<&str>) -> Option<usize> {
        match name {
            Some(name) => self.source_stage(self.stages.len(), name),
            None => self.stages.len().checked_sub(1),
        }
    }

    /// The stage that a stage is FROM.
    fn base_stage(&self, at: usize) -> Option<usize> {
        self.named_above(at, &self.stages[at].base)
    }

    /// The stage with this name or number.
    fn source_stage(&self, at: usize, source: &str) -> Option<usize> {
        let numbered = source.parse().ok().filter(|number| *number < at);
        self.named_above(at, source).or(numbered)
    }

    fn named_above(&self, at: usize, name: &str) -> Option<usize> {
        let is_it = |stage: &Stage| stage.name.as_deref().is_some_and(|n| n.eq_ignore_ascii_case(name));
        self.stages[..at].iter().rposition(is_it)
    }
}

impl Stage {
    /// Only the builder knows the name of the base image.
    pub fn is_the_builders_secret(&self) -> bool {
        self.base.contains(BUILDER)
    }
}

/// Placeholder for the platform of the builder, which is not known here.
const BUILDER: &str = "\u{0}builder";

fn stage(line: usize, rest: &str, target: &Platform, variables: &BTreeMap<String, String>) -> Stage {
    let asked = match flag(rest, "--platform=").map(|said| expand(unquoted(said), variables)) {
        None => Asked::Target,
        Some(said) if said.contains(BUILDER) => Asked::Builder,
        // The classic builder has no TARGETPLATFORM, and ignores an empty flag.
        Some(said) if said.is_empty() => Asked::Target,
        Some(said) => {
            // Engines also accept an architecture without an OS.
            let whole = if said.contains('/') { said } else { format!("linux/{said}") };
            match whole.parse::<Platform>() {
                Ok(platform) if platform.matches(target) => Asked::Target,
                _ => Asked::Named(whole),
            }
        }
    };
    let mut words = rest.split_whitespace().skip_while(|word| word.starts_with("--"));
    let base = expand(words.next().unwrap_or_default(), variables);
    let name = match words.next() {
        Some(word) if word.eq_ignore_ascii_case("as") => words.next().map(str::to_string),
        _ => None,
    };
    Stage { line, base, name, asked, runs: false, sources: Vec::new() }
}

/// The value of a flag, which must be before the first word that is not a flag.
fn flag<'a>(rest: &'a str, name: &str) -> Option<&'a str> {
    rest.split_whitespace().take_while(|word| word.starts_with("--")).find_map(|word| word.strip_prefix(name))
}

/// The sources of mounts of a RUN: `--mount=type=bind,from=STAGE,...`.
fn mounted(rest: &str) -> Vec<String> {
    let flags = rest.split_whitespace().take_while(|word| word.starts_with("--"));
    let mounts = flags.filter_map(|flag| flag.strip_prefix("--mount="));
    mounts
        .flat_map(|mount| mount.split(','))
        .filter_map(|part| part.strip_prefix("from=").map(str::to_string))
        .collect()
}

/// Splits at spaces outside of quotes.
fn words(text: &str) -> Vec<&str> {
    let mut quote = None;
    let is_gap = |c: char| match (quote, c) {
        (None, '"' | '\'') => {
            quote = Some(c);
            false
        }
        (Some(open), _) => {
            if c == open {
                quote = None;
            }
            false
        }
        (None, _) => c.is_whitespace(),
    };
    text.split(is_gap).filter(|word| !word.is_empty()).collect()
}

/// The instructions with their lines: name in uppercase, and arguments; continued lines are joined, comments and
/// here-documents are skipped.
fn instructions(text: &str) -> Vec<(usize, String, String)> {
    let escape = escape_character(text);
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut whole = line.to_string();
        while let Some(start) = whole.strip_suffix(escape) {
            whole = start.to_string();
            // Comments and empty lines in between do not end the instruction.
            let next = lines
                .by_ref()
                .map(|(_, line)| line.trim())
                .find(|line| !line.is_empty() && !line.starts_with('#'));
            let Some(next) = next else { break };
            whole.push(' ');
            whole.push_str(next);
        }
        let (name, rest) = whole.split_once(char::is_whitespace).unwrap_or((&whole, ""));
        let name = name.to_uppercase();
        if matches!(name.as_str(), "RUN" | "COPY" | "ADD") {
            for word in here_documents(rest) {
                let _ = lines.by_ref().find(|(_, line)| line.trim_start_matches('\t') == word);
            }
        }
        found.push((at + 1, name, rest.trim().to_string()));
    }
    found
}

/// The character that continues a line: a directive in the first comments may change it.
fn escape_character(text: &str) -> char {
    for line in text.lines() {
        let Some((key, value)) =
            line.trim().strip_prefix('#').and_then(|directive| directive.split_once('='))
        else {
            break;
        };
        if key.trim().eq_ignore_ascii_case("escape") {
            return if value.trim() == "`" { '`' } else { '\\' };
        }
    }
    '\\'
}

/// The words that end the here-documents of an instruction: `<<EOF`, `<<-"EOF"`.
fn here_documents(rest: &str) -> Vec<String> {
    rest.split_whitespace()
        .filter_map(|word| word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<"))
        .map(|word| word.strip_prefix('-').unwrap_or(word).trim_matches(['"', '\'']).to_string())
        .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .collect()
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = |quote| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

/// Expands variables: `$A`, `${A}`, `${A:-default}`, `${A:+other}`. Unknown ones are empty.
fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (inside, left) = braced.unwrap_or((&after[..end], &after[end..]));
        let value = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        out.push_str(&match (inside.split_once(":-"), inside.split_once(":+")) {
            (Some((name, default)), _) => value(name).cloned().unwrap_or_else(|| expand(default, variables)),
            (None, Some((name, other))) => value(name).map(|_| other.to_string()).unwrap_or_default(),
            (None, None) => value(inside).cloned().unwrap_or_default(),
        });
        rest = left;
    }
    out.push_str(rest);
    out
}
