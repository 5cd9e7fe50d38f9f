//! The plan as text: one line for each image, or with `-v` every command and digest.

use super::{Build, OtherImage, ReleasePlan};
use crate::spec::{OnMismatch, Recipe};
use crate::stages::verify_bases::BaseCheck;
use image_model::digest::Digest;

impl ReleasePlan {
    pub fn to_text(&self, is_verbose: bool) -> String {
        let mut lines = vec![format!("plan for {}", self.place)];
        let mut add = |what: &str, text: String| lines.push(format!("  {what:<9} {text}"));
        for command in &self.prepare {
            add("prepare", command.join(" "));
        }
        if !self.emulators.missing.is_empty() {
            add("emulators", self.emulators.command.join(" "));
        }
        for group in self.groups() {
            let images =
                if group.len() == 1 { "1 image".to_string() } else { format!("{} images", group.len()) };
            let why = if group[0].why.is_empty() { String::new() } else { format!(" ({})", group[0].why) };
            let builder = match group[0].builder.name() {
                name if name == "rootfs" => "the built-in builder rootfs".to_string(),
                name => name,
            };
            add("build", format!("{images} with {builder}{why}"));
            self.images(&group, is_verbose).into_iter().for_each(|line| add("", line));
        }
        for OtherImage { platform, is_verified, .. } in &self.retained {
            let binaries = if *is_verified { "were verified before" } else { "are verified first" };
            add("retain", format!("{platform} as published; its binaries {binaries}"));
        }
        for OtherImage { platform, .. } in &self.removed {
            add("remove", format!("{platform}: it is published, but it is not in the spec"));
        }
        let mismatch = match self.on_mismatch {
            OnMismatch::Fix => "fix configs whose platform differs from the key in release.yaml",
            OnMismatch::Fail => "fail if the platform of a config differs from the key in release.yaml",
        };
        add("platform", mismatch.into());
        add("verify", "binaries for another platform stop the release".into());
        if !self.smoke.is_empty() {
            let command = self.smoke.join(" ");
            add("smoke", format!("{command}  in each image, under its emulator, without network"));
        }
        for (tag, was) in &self.tags {
            add("tag", format!("{}:{tag}  {}", self.place, current(was.as_ref(), is_verbose)));
        }
        lines.join("\n") + "\n"
    }

    /// Builds with the same builder for the same reason, in the order of the spec.
    fn groups(&self) -> Vec<Vec<&Build>> {
        let mut groups: Vec<Vec<&Build>> = Vec::new();
        for build in &self.builds {
            let is_alike = |group: &&mut Vec<&Build>| {
                group[0].builder.name() == build.builder.name() && group[0].why == build.why
            };
            match groups.iter_mut().find(is_alike) {
                Some(group) => group.push(build),
                None => groups.push(vec![build]),
            }
        }
        groups
    }

    fn images(&self, builds: &[&Build], is_verbose: bool) -> Vec<String> {
        let rows: Vec<[String; 2]> = builds
            .iter()
            .map(|build| [build.spec.platform.to_string(), source(&build.spec.recipe)])
            .collect();
        let width = |cell: usize| rows.iter().map(|row| row[cell].chars().count()).max().unwrap_or_default();
        let (first, second) = (width(0), width(1));
        let mut lines = Vec::new();
        for (build, [platform, source]) in builds.iter().zip(&rows) {
            let now = match self.published(&build.spec.platform) {
                None => "new".to_string(),
                Some(digest) => format!("published as {}", shown(digest, is_verbose)),
            };
            lines.push(format!("{platform:<first$}  {source:<second$}  {now}"));
            if is_verbose {
                lines.extend(build.commands.iter().map(|command| format!("  {command}")));
            }
            let bases = self.bases.iter().filter(|base| base.platform == build.spec.platform);
            // A base image of the right platform needs no line.
            let bases = bases.filter(|base| is_verbose || !matches!(base.check, BaseCheck::Right(_)));
            lines.extend(bases.map(|base| format!("  base {base}")));
        }
        lines
    }
}

/// `arm.dockerfile, stage final`, `2 files on docker.io/library/alpine:3`.
fn source(recipe: &Recipe) -> String {
    match recipe {
        Recipe::Dockerfile(recipe) => {
            let target = recipe.target.as_ref().map_or(String::new(), |target| format!(", stage {target}"));
            format!("{}{target}", recipe.dockerfile.display())
        }
        Recipe::Files(recipe) => {
            let files = match recipe.copy.as_slice() {
                [] => "no files".to_string(),
                [(_, to)] => format!("1 file to {to}"),
                many => format!("{} files", many.len()),
            };
            let base = recipe.from.as_ref().map_or(String::new(), |from| format!(" on {from}"));
            format!("{files}{base}")
        }
    }
}

fn current(digest: Option<&Digest>, is_verbose: bool) -> String {
    digest.map_or("new".to_string(), |digest| format!("is {} now", shown(digest, is_verbose)))
}

fn shown(digest: &Digest, is_verbose: bool) -> &str {
    if is_verbose { digest.as_str() } else { digest.short() }
}
