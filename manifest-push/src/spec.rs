//! manifest-tool's YAML spec, and its arguments, read strictly: all problems are returned at once, each with its line.

use image_model::platform::Platform;
use image_model::reference::{Reference, is_tag};
use std::collections::BTreeMap;
use strict_yaml::{Entry, Node, Problem, Value, YamlReader, find};

mod arguments;

pub use arguments::{TemplateArguments, from_template};

/// A spec: an index to publish, and its images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub image: Reference,
    /// Additional tags.
    pub tags: Vec<String>,
    pub members: Vec<Member>,
    pub annotations: BTreeMap<String, String>,
    /// Keys that are accepted but have no effect, by line.
    pub notes: Vec<Problem>,
}

/// One image of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub image: Reference,
    /// The specified platform; empty parts are taken from the image.
    pub platform: Platform,
    /// Annotations of its entry in the index.
    pub annotations: BTreeMap<String, String>,
    pub line: usize,
}

/// A spec to publish, with its problems and where it comes from.
pub struct PublishRequest {
    pub source: SpecSource,
    pub spec: Option<Spec>,
    pub problems: Vec<Problem>,
    pub ignore_missing: bool,
}

/// Source of a spec and the operation that it is for, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecSource {
    /// `publish "spec.yaml"`, `edit "q.io/app:1"`.
    pub doing: String,
    /// The file. `None`: the command line, which has no lines.
    pub file: Option<String>,
}

impl SpecSource {
    pub fn file(file: String) -> Self {
        Self { doing: format!("publish \"{file}\""), file: Some(file) }
    }

    pub fn command_line(doing: String) -> Self {
        Self { doing, file: None }
    }

    /// A problem with its file and line.
    pub fn format_problem(&self, line: usize, text: &str) -> String {
        match &self.file {
            Some(file) => format!("{file}:{line}: {text}"),
            None => text.to_string(),
        }
    }
}

/// Maximum size of a spec, in bytes.
const SPEC_MAX: usize = 1 << 20;

/// Parses a spec. Returns what could be read, and all problems by line. A spec with problems must not be published; its
/// images can still be checked for more problems.
pub fn parse(text: &str) -> (Option<Spec>, Vec<Problem>) {
    read(text, PlatformParts::Required)
}

/// Parses a draft: a spec whose platforms may be incomplete.
pub fn parse_draft(text: &str) -> (Option<Spec>, Vec<Problem>) {
    read(text, PlatformParts::Optional)
}

/// Whether a platform needs both os and architecture.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PlatformParts {
    Required,
    Optional,
}

fn read(text: &str, whole: PlatformParts) -> (Option<Spec>, Vec<Problem>) {
    if text.len() > SPEC_MAX {
        return (None, vec![Problem::new(1, format!("the spec is larger than {SPEC_MAX} bytes"))]);
    }
    let (root, yaml) = match YamlReader::parse(text) {
        Ok(found) => found,
        Err(problem) => return (None, vec![problem]),
    };
    let mut reader = Reader { yaml, notes: Vec::new(), whole };
    let spec = reader.spec(&root);
    (spec, reader.yaml.into_problems())
}

struct Reader {
    yaml: YamlReader,
    notes: Vec<Problem>,
    whole: PlatformParts,
}

impl Reader {
    fn spec(&mut self, root: &Node) -> Option<Spec> {
        let entries = self.map(root, "the spec", &["image", "tags", "manifests", "annotations"])?;
        let missing = "\"image\" is missing: the name of the index";
        let image = self.yaml.required(root.line, entries, "image", missing);
        let image = image.and_then(|entry| self.reference(&entry.value, "image"));
        let tags = find(entries, "tags").map(|entry| self.tags(&entry.value)).unwrap_or_default();
        let annotations =
            find(entries, "annotations").map(|e| self.annotations(&e.value)).unwrap_or_default();
        let missing = "\"manifests\" is missing: the images for the index";
        let members = self.yaml.required(root.line, entries, "manifests", missing);
        let members = members.map(|entry| self.members(&entry.value)).unwrap_or_default();
        self.refuse_duplicates(&members, &|first| {
            format!("line {} already has {}", first.line, first.platform)
        });
        let notes = std::mem::take(&mut self.notes);
        Some(Spec { image: image?, tags, members, annotations, notes })
    }

    /// A map whose keys are checked.
    fn map<'a>(&mut self, node: &'a Node, what: &str, known: &[&str]) -> Option<&'a [Entry]> {
        let entries = self.yaml.map(node.line, &node.value, |kind| {
            format!("{what} must be a map with the keys {}, not {kind}", known.join(", "))
        })?;
        self.yaml.check_keys(entries, known, "known are", |key| format!("unknown key \"{key}\" in {what}"));
        Some(entries)
    }

    fn text<'a>(&mut self, node: &'a Node, what: &str) -> Option<&'a str> {
        let wrong = |kind: &str| format!("\"{what}\" must be one value, not {kind}");
        self.yaml.text(node.line, &node.value, wrong)
    }

    fn list<'a>(&mut self, node: &'a Node, what: &str) -> &'a [Node] {
        if let Value::Null = node.value {
            return &[];
        }
        let wrong = |kind: &str| format!("\"{what}\" must be a list, not {kind}");
        self.yaml.list(node.line, &node.value, wrong).unwrap_or_default()
    }

    fn reference(&mut self, node: &Node, what: &str) -> Option<Reference> {
        let text = self.text(node, what)?;
        self.yaml.accept(node.line, text.parse())
    }

    fn tags(&mut self, node: &Node) -> Vec<String> {
        let mut tags: Vec<String> = Vec::new();
        for item in self.list(node, "tags") {
            let Some(tag) = self.text(item, "tags") else { continue };
            if !is_tag(tag) {
                let text = format!(
                    "invalid tag \"{tag}\": use at most 128 of letters, digits, '_', '.' and '-', not starting with '.' or '-'"
                );
                self.yaml.problem(item.line, text);
            } else if tags.iter().any(|have| have == tag) {
                self.yaml.problem(item.line, format!("duplicate tag \"{tag}\""));
            } else {
                tags.push(tag.to_string());
            }
        }
        tags
    }

    fn annotations(&mut self, node: &Node) -> BTreeMap<String, String> {
        if let Value::Null = node.value {
            return BTreeMap::new();
        }
        let wrong = |kind: &str| format!("\"annotations\" must be a map, not {kind}");
        let entries = self.yaml.map(node.line, &node.value, wrong).unwrap_or_default();
        let text =
            |entry: &Entry| Some((entry.key.clone(), self.text(&entry.value, &entry.key)?.to_string()));
        entries.iter().filter_map(text).collect()
    }

    fn members(&mut self, node: &Node) -> Vec<Member> {
        let items = self.list(node, "manifests");
        if items.is_empty() {
            self.yaml.problem(node.line, "\"manifests\" is empty; an empty index is not published");
        }
        items.iter().filter_map(|item| self.member(item)).collect()
    }

    fn member(&mut self, node: &Node) -> Option<Member> {
        let entries = self.map(node, "an entry of \"manifests\"", &["image", "platform", "annotations"])?;
        let missing = "\"image\" is missing in an entry of \"manifests\"";
        let image = self.yaml.required(node.line, entries, "image", missing);
        let image = image.and_then(|entry| self.reference(&entry.value, "image"));
        let platform = match find(entries, "platform") {
            Some(entry) => self.platform(&entry.value)?,
            None => Platform::default(),
        };
        let annotations =
            find(entries, "annotations").map(|e| self.annotations(&e.value)).unwrap_or_default();
        Some(Member { image: image?, platform, annotations, line: node.line })
    }

    fn platform(&mut self, node: &Node) -> Option<Platform> {
        const KNOWN: [&str; 8] = [
            "architecture",
            "os",
            "variant",
            "osversion",
            "os.version",
            "osfeatures",
            "os.features",
            "features",
        ];
        let entries = self.map(node, "\"platform\"", &KNOWN)?;
        let mut platform = Platform::default();
        for entry in entries {
            match entry.key.as_str() {
                "architecture" => {
                    platform.architecture = self.text(&entry.value, "architecture")?.to_string()
                }
                "os" => platform.os = self.text(&entry.value, "os")?.to_string(),
                "variant" => platform.variant = Some(self.text(&entry.value, "variant")?.to_string()),
                "osversion" | "os.version" => {
                    platform.os_version = Some(self.text(&entry.value, &entry.key)?.to_string());
                }
                "osfeatures" | "os.features" => {
                    let items = self.list(&entry.value, &entry.key);
                    platform.os_features = items
                        .iter()
                        .filter_map(|item| self.text(item, &entry.key).map(str::to_string))
                        .collect();
                }
                "features" => {
                    // manifest-tool 2 ignores this key; writing it would change the digest.
                    self.list(&entry.value, "features");
                    let text = "\"features\" (CPU features) is ignored, as manifest-tool does";
                    self.notes.push(Problem::new(entry.line, text));
                }
                _ => {}
            }
        }
        if self.whole == PlatformParts::Required && platform.architecture.is_empty() != platform.os.is_empty()
        {
            self.yaml.problem(node.line, "\"platform\" needs both \"os\" and \"architecture\", or neither");
            return None;
        }
        self.yaml.accept(node.line, canonical_platform(platform))
    }

    /// Reports two images for one platform: clients could select either.
    fn refuse_duplicates(&mut self, members: &[Member], where_first: &dyn Fn(&Member) -> String) {
        for (i, member) in members.iter().enumerate() {
            let same = |other: &&Member| {
                !other.platform.architecture.is_empty()
                    && other.platform.matches(&member.platform)
                    && other.platform.os_features == member.platform.os_features
            };
            if let Some(first) = members[..i].iter().find(same) {
                let text = format!("duplicate platform {}; {}", member.platform, where_first(first));
                self.yaml.problem(member.line, text);
            }
        }
    }
}

/// Returns the platform, or an error if it is unknown or an alias (`aarch64`).
pub fn canonical_platform(platform: Platform) -> Result<Platform, String> {
    // Missing parts are completed, since only whole platforms can be parsed.
    let typed = Platform {
        architecture: or(&platform.architecture, "amd64"),
        os: or(&platform.os, "linux"),
        ..platform.clone()
    };
    match typed.to_string().parse::<Platform>() {
        Ok(parsed) if parsed.architecture == typed.architecture && parsed.os == typed.os => {
            platform.check_known(&typed.to_string()).map_err(|e| e.to_string())?;
            Ok(platform)
        }
        Ok(parsed) => Err(format!("platform \"{typed}\" is an alias; write \"{parsed}\"")),
        Err(error) => Err(error.to_string()),
    }
}

fn or(one: &str, other: &str) -> String {
    if one.is_empty() { other.into() } else { one.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str = "\
image: ckulka/multi-arch-example:latest
manifests:
  - image: ckulka/multi-arch-example:amd64
    platform:
      architecture: amd64
      os: linux
  - image: ckulka/multi-arch-example:arm32v7
    platform:
      architecture: arm
      os: linux
      variant: v7
";

    fn good(text: &str) -> Spec {
        let (spec, problems) = parse(text);
        assert_eq!(problems, []);
        spec.unwrap()
    }

    #[test]
    fn a_list_of_more_than_1_mib_is_refused() {
        let (spec, problems) = super::parse(&"#".repeat((1 << 20) + 1));
        assert!(spec.is_none());
        assert_eq!(problems.len(), 1);
        assert!(format!("{:?}", problems[0]).contains("the spec is larger than 1048576 bytes"));
    }

    #[test]
    fn the_spec_of_the_example_is_read() {
        let spec = good(SEED);
        assert_eq!(spec.image.to_string(), "docker.io/ckulka/multi-arch-example:latest");
        let platforms: Vec<String> = spec.members.iter().map(|m| m.platform.to_string()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm/v7"]);
    }

    #[test]
    fn numbers_and_windows_keys_are_text() {
        let spec = good(
            "image: a/b\ntags: [1.10, 2]\nmanifests:\n- image: a/b:w\n  platform: {os: windows, architecture: amd64, osversion: 10.0.1, os.features: [win32k]}\n- image: a/b:i\n  platform: {os: linux, architecture: 386}\n- image: a/b:x\nx-note: anything\n",
        );
        assert_eq!(spec.tags, ["1.10", "2"]);
        assert_eq!(spec.members[0].platform.to_string(), "windows/amd64:10.0.1");
        assert_eq!(spec.members[1].platform.architecture, "386");
        assert_eq!(spec.members[2].platform, Platform::default());
    }

    fn problems(text: &str) -> Vec<String> {
        parse(text).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn all_problems_are_reported_at_once_with_their_lines() {
        let text = SEED
            .replace("variant: v7", "varient: v7")
            .replace("architecture: arm\n", "architecture: aarch64\n")
            + "  - image: Not/Valid\n    platform: {os: linux, architecture: amd64}\ntags: [-x]\n";
        let found = problems(&text);
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].contains("is an alias; write \"linux/arm64\""), "{found:#?}");
        assert!(
            found[1].starts_with("11: unknown key \"varient\" in \"platform\"; did you mean \"variant\"?"),
            "{found:#?}"
        );
        assert!(found[2].starts_with("12: ") && found[2].contains("is not a repository name"), "{found:#?}");
        assert!(found[3].starts_with("14: invalid tag \"-x\""), "{found:#?}");
    }

    #[test]
    fn duplicate_platforms_are_found_under_any_alias() {
        let text = SEED
            .replace("arm\n      os: linux\n      variant: v7", "amd64\n      os: linux\n      variant: v1");
        assert!(
            problems(&text)[0].contains("duplicate platform linux/amd64/v1; line 3"),
            "{:?}",
            problems(&text)
        );
    }

    #[test]
    fn ignored_keys_are_reported() {
        let spec = good(&SEED.replace("variant: v7", "variant: v7\n      features: [sse4]"));
        assert!(spec.notes[0].text.contains("features"), "{:?}", spec.notes);
    }

    #[test]
    fn problems_of_an_empty_spec_list_the_missing_keys() {
        assert!(problems("").iter().any(|p| p.contains("must be a map")));
        assert!(problems("image: a\n").iter().any(|p| p.contains("\"manifests\" is missing")));
        assert!(problems("image: a\nmanifests: []\n").iter().any(|p| p.contains("\"manifests\" is empty")));
        assert!(
            problems("image: a\nimage: b\nmanifests: [{image: c}]\n")
                .iter()
                .any(|p| p.contains("there already"))
        );
    }
}
