//! The examples for CI: every release command in them works.

use crate::tools::{User, run};
use multiarch_tests::fake_registry::FakeRegistry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files with the commands, and the variable in each that is the repository to publish to.
const FILES: [(&str, &str); 3] = [
    ("ci/github-actions.yml", "IMAGE"),
    ("ci/gitlab-ci.yml", "CI_REGISTRY_IMAGE"),
    ("ci/docker-hub/hooks/build", "image"),
];

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/multi-arch-example")
}

/// The lines with `cargo xtask`, without the YAML in front.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- ").trim_start_matches("run: "));
    lines.filter(|line| line.starts_with("cargo xtask ")).map(str::to_string).collect()
}

#[test]
fn each_example_prints_the_plan_and_releases_to_its_repository() {
    let registry = FakeRegistry::start();
    for (at, (file, place)) in FILES.into_iter().enumerate() {
        let repository = format!("team/app{at}");
        let text = fs::read_to_string(example().join(file)).unwrap();
        let commands = commands(&text);
        assert_eq!(commands.len(), 2, "{file}");
        let user = User::new();
        user.has_cargo_xtask();
        user.run("xtask", &["example-programs", "programs"]).exits(0);
        let platforms = "platforms:\n  linux/amd64: { copy: { programs/linux-amd64/hello: /hello } }\n";
        user.write("spec.yaml", format!("image: nowhere.invalid/team/app\n{platforms}"));
        let image = format!("{}/{repository}", registry.host());
        let shell = |line: &str| {
            let mut command = user.command("xtask", &[]);
            let variables: Vec<(String, String)> = command
                .get_envs()
                .filter_map(|(name, value)| Some((name.to_str()?.into(), value?.to_str()?.into())))
                .collect();
            command = Command::new("bash");
            command.args(["-euc", line]).current_dir(user.work()).env_clear().envs(variables);
            command.env("SPEC", "spec.yaml").env("spec", "spec.yaml").env(place, &image);
            command.env("GITHUB_STEP_SUMMARY", user.path("summary.md"));
            run(command)
        };
        let shown = shell(&commands[0]).exits(0);
        assert!(shown.stderr.contains(&format!("plan for {image}")), "{file}: {shown}");
        assert_eq!(registry.tags(&repository), [""; 0], "{file}");
        let done = shell(&commands[1]).exits(0);
        assert_eq!(registry.tags(&repository), ["latest"], "{file}: {done}");
        let summary = fs::read_to_string(user.path("summary.md")).unwrap();
        let digest = registry.tag(&repository, "latest").unwrap();
        assert!(summary.contains(&format!("| `latest` | new | `{digest}` |")), "{file}: {summary}");
        assert!(summary.contains("| `linux/amd64` | rootfs | ok | consistent |"), "{file}: {summary}");
        // A second run appends to the page, with the previous digest of the tag.
        shell(&commands[1]).exits(0);
        let summary = fs::read_to_string(user.path("summary.md")).unwrap();
        assert!(summary.contains(&format!("| `latest` | `{digest}` | `{digest}` |")), "{file}: {summary}");
        assert_eq!(summary.matches("### Release of").count(), 2, "{file}");
    }
}

#[test]
fn a_failed_release_is_reported_on_the_job_page() {
    let user = User::new();
    user.write("amd64", "the program");
    user.write(
        "release.yaml",
        "image: oci:out\nprepare: [[\"false\"]]\nplatforms:\n  linux/amd64: { copy: { amd64: /app } }\n",
    );
    user.release(&["release.yaml", "--summary", "page.md"]).exits(10);
    let page = fs::read_to_string(user.path("page.md")).unwrap();
    let expected = format!(
        "### Release of `oci:{}` failed\n\n`cannot prepare with \"false\": ",
        user.path("out").display()
    );
    assert!(page.starts_with(&expected), "{page}");
}
