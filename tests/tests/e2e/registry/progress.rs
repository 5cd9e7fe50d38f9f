//! Progress of builds: on a terminal, a line with what is being built and for how long.

use crate::tools::{User, run};
use multiarch_tests::{need, world};
use std::process::Command;

/// A docker program whose builds take 1.5 s and then fail.
const DOCKER: &str = r#"case "$*" in
  version*) echo 20.10.24;;
  *inspect*) exit 1;;
  build*) sleep 1.5; echo "the end" >&2; exit 9;;
esac"#;

#[test]
fn a_terminal_shows_the_platforms_that_are_being_built_and_a_log_does_not() {
    need!(world::require(&["script"]));
    let user = User::new();
    user.script("docker", DOCKER);
    user.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let rows = ["linux/amd64", "linux/arm64"]
        .map(|p| format!("  {p}: {{ dockerfile: Dockerfile, builder: docker }}\n"));
    user.write("release.yaml", format!("image: oci:out\nplatforms:\n{}", rows.concat()));
    let release = user.command("xtask", &["release", "release.yaml"]);
    // script(1) gives the command a terminal, and its exit status back.
    let mut on_terminal = Command::new(world::program("script").unwrap());
    let line = format!("'{}' release release.yaml", release.get_program().display());
    on_terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(user.work());
    on_terminal.env_clear().envs(release.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let seen = run(on_terminal);
    assert_eq!(seen.code, Some(10), "{seen}");
    let drawn = seen.stdout.split('\r').find(|line| line.contains("build 0 of 2 done: "));
    let drawn = drawn.unwrap_or_else(|| panic!("{seen}"));
    assert!(drawn.contains("linux/amd64 ") && drawn.contains("linux/arm64 "), "{drawn}");

    let plain = run(release).exits(10);
    assert!(!plain.stderr.contains("of 2 done") && !plain.stderr.contains('\r'), "{plain}");
    assert!(plain.stderr.contains("cargo xtask: docker: the end"), "the end of the log is shown: {plain}");
    assert!(plain.stderr.contains("all that it said is in "), "and the path of the whole log: {plain}");
}
