//! Arguments of `push from-args`: platforms, and a template for the names of their images.

use super::{Member, PlatformParts, Reader, Spec, canonical_platform};
use image_model::platform::Platform;
use std::collections::BTreeMap;
use strict_yaml::{Node, Problem, Value, YamlReader};

/// Arguments of `push from-args`, as typed.
pub struct TemplateArguments<'a> {
    pub platforms: &'a [String],
    pub template: &'a str,
    pub target: &'a str,
    pub tags: &'a [String],
    pub annotations: &'a [String],
}

/// Returns the spec of these arguments, and all problems. The line of a problem is the number of its platform.
pub fn from_template(arguments: &TemplateArguments<'_>) -> (Option<Spec>, Vec<Problem>) {
    let mut reader =
        Reader { yaml: YamlReader::default(), notes: Vec::new(), whole: PlatformParts::Required };
    let text = |line: usize, text: &str| Node { line, value: Value::Text(text.into()) };
    let image = reader.reference(&text(1, arguments.target), "--target");
    let tags = arguments.tags.iter().map(|tag| text(1, tag)).collect();
    let tags = reader.tags(&Node { line: 1, value: Value::List(tags) });
    let mut annotations = BTreeMap::new();
    for pair in arguments.annotations {
        match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => drop(annotations.insert(key.into(), value.into())),
            _ => reader.yaml.problem(1, format!("invalid annotation \"{pair}\": expected KEY=VALUE")),
        }
    }
    let mut members = Vec::new();
    for (i, words) in arguments.platforms.iter().enumerate() {
        members.extend(reader.templated(i + 1, words, arguments.template));
    }
    reader.refuse_duplicates(&members, &|first| format!("{} is the same platform", first.platform));
    let spec = image.map(|image| Spec { image, tags, members, annotations, notes: Vec::new() });
    (spec, reader.yaml.into_problems())
}

impl Reader {
    fn templated(&mut self, line: usize, words: &str, template: &str) -> Option<Member> {
        let parts: Vec<&str> = words.split('/').collect();
        let (os, architecture, variant) = match parts.as_slice() {
            [os, architecture] => (*os, *architecture, None),
            [os, architecture, variant] => (*os, *architecture, Some(*variant)),
            _ => {
                self.yaml.problem(line, format!("invalid platform \"{words}\": expected OS/ARCH[/VARIANT]"));
                return None;
            }
        };
        let platform = canonical_platform(Platform::new(os, architecture, variant));
        let platform = self.yaml.accept(line, platform)?;
        // As manifest-tool: in this order, and only the first of each.
        let name = template.replacen("ARCH", architecture, 1).replacen("OS", os, 1);
        let name = name.replacen("VARIANT", variant.unwrap_or_default(), 1);
        let image = self.reference(&Node { line, value: Value::Text(name) }, "--template")?;
        Some(Member { image, platform, annotations: BTreeMap::new(), line })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(platforms: &str, template: &str, annotations: &str) -> (Option<Spec>, Vec<Problem>) {
        let split = |text: &str| text.split(',').filter(|t| !t.is_empty()).map(str::to_string).collect();
        let (platforms, annotations): (Vec<String>, Vec<String>) = (split(platforms), split(annotations));
        from_template(&TemplateArguments {
            platforms: &platforms,
            template,
            target: "foo/bar:v1",
            tags: &["v1.0".to_string()],
            annotations: &annotations,
        })
    }

    #[test]
    fn templates_are_filled_as_manifest_tool_fills_them() {
        let names = |platforms: &str, template: &str| {
            let (spec, problems) = arguments(platforms, template, "");
            assert_eq!(problems, []);
            let member = |m: &Member| format!("{} {}", m.image, m.platform);
            spec.unwrap().members.iter().map(member).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            names("linux/amd64,linux/arm/v5", "foo/bar-ARCHVARIANT:v1"),
            "docker.io/foo/bar-amd64:v1 linux/amd64, docker.io/foo/bar-armv5:v1 linux/arm/v5"
        );
        assert_eq!(names("linux/s390x", "a/OS-ARCH:ARCH1"), "docker.io/a/linux-s390x:ARCH1 linux/s390x");
    }

    #[test]
    fn all_problems_of_arguments_are_reported_at_once() {
        let (_, problems) = arguments("linux,linux/aarch64,linux/amd64,linux/amd64/v1", "A/ARCH", "x");
        let format_problem: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let format_problem = format_problem.join("\n");
        for part in [
            "1: invalid annotation \"x\"",
            "1: invalid platform \"linux\"",
            "is an alias; write \"linux/arm64\"",
            "is not a repository name",
        ] {
            assert!(format_problem.contains(part), "{part} is not in:\n{format_problem}");
        }
        let (spec, problems) = arguments("linux/amd64,linux/amd64/v1", "a/ARCH", "k=v=w");
        assert!(problems[0].text.contains("duplicate platform"), "{problems:?}");
        assert_eq!(spec.unwrap().annotations["k"], "v=w");
    }
}
