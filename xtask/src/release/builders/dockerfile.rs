//! What is read of a Dockerfile: which images its stages start from, and whether they run programs.
//!
//! The engine reads it for good; this is for what must be known before. Where it cannot be known, the answer is
//! the careful one.

use crate::release::spec::BuildArgs;
use image_store::platform::Platform;
use std::collections::BTreeMap;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    pub stages: Vec<Stage>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Stage {
    /// The line of its FROM, counted from 1.
    pub line: usize,
    /// `FROM` with build arguments put in.
    pub base: String,
    pub name: Option<String>,
    /// It is of the builder's own platform: `--platform=$BUILDPLATFORM`.
    is_for_builder: bool,
    /// It has a RUN.
    runs: bool,
}

impl Dockerfile {
    /// `platform` is the one that is built for; it is what TARGETPLATFORM and its parts say.
    pub fn parse(text: &str, build_args: &BuildArgs, platform: &Platform) -> Self {
        let mut variables: BTreeMap<String, String> = BTreeMap::from([
            ("TARGETPLATFORM".into(), platform.to_string()),
            ("TARGETOS".into(), platform.os.clone()),
            ("TARGETARCH".into(), platform.architecture.clone()),
            ("TARGETVARIANT".into(), platform.variant.clone().unwrap_or_default()),
            ("BUILDPLATFORM".into(), BUILDER.into()),
        ]);
        let mut found = Self::default();
        for (line, instruction, rest) in instructions(text) {
            match (instruction.as_str(), found.stages.last_mut()) {
                ("ARG", None) => {
                    let (name, default) = rest.split_once('=').unwrap_or((&rest, ""));
                    let given = match build_args.0.get(name) {
                        Some(Some(value)) => Some(value.clone()),
                        Some(None) => std::env::var(name).ok(),
                        None => None,
                    };
                    let value = given.unwrap_or_else(|| expand(unquoted(default), &variables));
                    variables.entry(name.to_string()).or_insert(value);
                }
                ("FROM", _) => found.stages.push(stage(line, &rest, &variables)),
                ("RUN", Some(stage)) => stage.runs = true,
                _ => {}
            }
        }
        found
    }

    /// Whether a stage of the image's platform has a RUN. Stages that are not needed for the target count too.
    pub fn runs_programs(&self) -> bool {
        self.stages.iter().any(|stage| stage.runs && !stage.is_for_builder)
    }

    /// The base images that are neither `scratch` nor a stage above.
    pub fn bases(&self) -> impl Iterator<Item = &Stage> {
        self.stages
            .iter()
            .enumerate()
            .filter(|(at, stage)| {
                let above = &self.stages[..*at];
                let is_stage = above
                    .iter()
                    .filter_map(|other| other.name.as_deref())
                    .any(|n| n.eq_ignore_ascii_case(&stage.base));
                stage.base != "scratch" && !is_stage
            })
            .map(|(_, stage)| stage)
    }
}

/// Stands for the builder's platform, whatever that is.
const BUILDER: &str = "\u{0}builder";

fn stage(line: usize, rest: &str, variables: &BTreeMap<String, String>) -> Stage {
    let mut words = rest.split_whitespace().peekable();
    let mut is_for_builder = false;
    while let Some(flag) = words.next_if(|word| word.starts_with("--")) {
        if let Some(said) = flag.strip_prefix("--platform=") {
            is_for_builder = expand(unquoted(said), variables) == BUILDER;
        }
    }
    let base = expand(words.next().unwrap_or_default(), variables);
    let name = match words.next() {
        Some(word) if word.eq_ignore_ascii_case("as") => words.next().map(str::to_string),
        _ => None,
    };
    Stage { line, base, name, is_for_builder, runs: false }
}

/// The instructions with their lines: name in capitals, and the rest, continued lines joined, comments and
/// here-documents left out.
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

/// Puts variables in: `$A`, `${A}`, `${A:-default}`, `${A:+other}`. One that is not known is empty.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, args: &[(&str, &str)]) -> Dockerfile {
        let args =
            args.iter().map(|(name, value)| ((*name).to_string(), Some((*value).to_string()))).collect();
        Dockerfile::parse(text, &BuildArgs(args), &"linux/arm/v7".parse().unwrap())
    }

    #[test]
    fn bases_are_what_no_stage_is() {
        let check = |text: &str, args: &[(&str, &str)], bases: &[(usize, &str)]| {
            let found = parse(text, args);
            let found: Vec<(usize, &str)> =
                found.bases().map(|stage| (stage.line, stage.base.as_str())).collect();
            assert_eq!(found, bases, "{text}");
        };
        check("FROM alpine:3", &[], &[(1, "alpine:3")]);
        check("FROM scratch\nADD a /", &[], &[]);
        check("# c\n\nfrom golang AS build\nFROM scratch\nCOPY --from=build a /", &[], &[(3, "golang")]);
        check("FROM a as One\nFROM one", &[], &[(1, "a")]);
        check("ARG BASE=python:3-slim\nFROM arm32v7/$BASE", &[], &[(2, "arm32v7/python:3-slim")]);
        check("ARG BASE=x\nFROM ${BASE}", &[("BASE", "scratch")], &[]);
        check(
            "ARG A\nFROM ${A:-b}/c:${TARGETARCH}${TARGETVARIANT:+-}$TARGETVARIANT",
            &[],
            &[(2, "b/c:arm-v7")],
        );
        check("FROM a \\\n  # not the end\n\n  AS b\nFROM b", &[], &[(1, "a")]);
        check("# escape=`\nFROM a `\n AS b\nFROM b\\c", &[], &[(2, "a"), (4, "b\\c")]);
        check(
            "FROM --platform=linux/amd64 a\nRUN <<EOF\nFROM nowhere\nEOF\nFROM b",
            &[],
            &[(1, "a"), (5, "b")],
        );
        check("FROM a\nCOPY <<-'x' <<y /\nFROM n\n\tx\nFROM n\ny\nFROM b", &[], &[(1, "a"), (7, "b")]);
    }

    #[test]
    fn programs_run_where_a_stage_of_the_image_has_a_run() {
        let check = |text: &str, runs: bool| assert_eq!(parse(text, &[]).runs_programs(), runs, "{text}");
        check("FROM alpine\nCOPY a /\nCMD [\"RUN\"]", false);
        check("FROM alpine\nrun true", true);
        check(
            "FROM --platform=$BUILDPLATFORM golang AS b\nRUN go build\nFROM scratch\nCOPY --from=b a /",
            false,
        );
        check("FROM --platform=$TARGETPLATFORM golang\nRUN go build", true);
        check("ARG P=${BUILDPLATFORM}\nFROM --platform=$P golang\nRUN go build", false);
        check("FROM --platform=linux/s390x golang\nRUN go build", true);
        check("FROM a\n# RUN x\nLABEL a=\\\nRUN", false);
        check("FROM a\nLABEL a=b\\\n\nRUN x", false);
        check("", false);
    }
}
