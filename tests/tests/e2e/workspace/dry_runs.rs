//! Every command with `--dry-run`: it writes nothing, and its last line says so.

use super::help::all_helps;
use crate::tools::{User, listing, run};
use crate::verify::made::{Layer, image, probe, publish};
use multiarch_tests::fake_registry::FakeRegistry;
use std::process::Stdio;

pub const LAST_LINE: &str = "dry run: nothing was written";

/// A registry with images, and files of a user for every command.
pub struct Prepared {
    pub user: User,
    pub registry: FakeRegistry,
}

impl Prepared {
    pub fn new() -> Self {
        let (user, registry) = (User::new(), FakeRegistry::start());
        let host = registry.host();
        for name in ["amd64", "arm64"] {
            let platform = format!("linux/{name}");
            let layer = Layer::new().file("app", &probe(&platform)).end();
            publish(&registry, &image(&platform, &["/app"], vec![layer]), name);
        }
        let layer = Layer::new().file("app", &probe("linux/arm64")).end();
        image("linux/amd64", &["/app"], vec![layer]).layout(&user, "wrong");
        let members = ["amd64", "arm64"].map(|name| format!("  - image: {host}/app:{name}\n"));
        user.write("spec.yaml", format!("image: {host}/app:spec\nmanifests:\n{}", members.concat()));
        let prepared = Self { user, registry };
        for line in [
            "create HOST/app:draft HOST/app:amd64 HOST/app:arm64",
            "push from-args --platforms linux/amd64 --template HOST/app:ARCH --target HOST/app:1",
            "edit HOST/app:1 --add HOST/app:arm64",
        ] {
            prepared.run("multiarch", line).exits(0);
        }
        prepared
    }

    /// Makes two releases, of which `report.json` describes the second one.
    pub fn release(&self) {
        let words = ["release", "--example", "--to", "oci:released", "--report", "report.json"];
        self.user.run("multiarch", &words).exits(0);
        let mut again = self.user.command("multiarch", &words);
        // Another time in the images, so that tags move.
        again.env("SOURCE_DATE_EPOCH", "1");
        run(again).exits(0);
    }

    pub fn run(&self, program: &str, line: &str) -> crate::tools::Ran {
        let line = line.replace("HOST", &self.registry.host());
        self.user.run(program, &line.split(' ').collect::<Vec<_>>())
    }
}

/// A command line for a command that has something to do.
pub fn line_for(program: &str, path: &[String]) -> Option<&'static str> {
    Some(match path.join(" ").as_str() {
        "fix" => "fix oci:wrong:v1 --from-binaries",
        "push" => "push HOST/app:draft",
        "push from-spec" => "push from-spec spec.yaml",
        "push from-args" => {
            "push from-args --platforms linux/amd64 --template HOST/app:ARCH --target HOST/app:new"
        }
        "edit" => "edit HOST/app:1 --remove linux/arm64",
        "copy" => "copy HOST/app:1 oci:copied:1",
        "release" => "release --example --to oci:released",
        "rollback" if program == "manifest-push" => "rollback HOST/app:1",
        "rollback" => "rollback report.json",
        _ => return None,
    })
}

#[test]
fn every_dry_run_writes_nothing_and_says_so_at_its_end() {
    let prepared = Prepared::new();
    prepared.release();
    let files = listing(&prepared.user.work());
    let mut count = 0;
    for help in all_helps(&prepared.user) {
        // Distributions need a clean clone; binfmt-setup needs a kernel of its own.
        let is_elsewhere = ["bench", "binfmt-setup"].contains(&help.program)
            || help.path.first().is_some_and(|first| ["binfmt", "dist"].contains(&first.as_str()));
        if is_elsewhere || !help.flags.contains("--dry-run") {
            continue;
        }
        let line = line_for(help.program, &help.path)
            .unwrap_or_else(|| panic!("no command line for {} {:?}", help.program, help.path));
        let before = prepared.registry.log().len();
        for format in ["text", "json"] {
            let ran = prepared.run(help.program, &format!("{line} --dry-run --format {format}")).exits(0);
            assert_eq!(ran.stderr.lines().last(), Some(LAST_LINE), "{ran}");
            if format == "json" {
                let written = &ran.json()["written"];
                assert!(*written == false || help.path == ["release"], "{ran}");
            }
            let quiet = prepared.run(help.program, &format!("{line} --dry-run --quiet")).exits(0);
            assert_eq!(quiet.stderr, "", "{quiet}");
        }
        assert!(listing(&prepared.user.work()) == files, "{line} writes");
        let log = prepared.registry.log().split_off(before);
        assert!(
            log.iter().all(|request| ["GET", "HEAD"].contains(&request.method.as_str())),
            "{line}: {log:?}"
        );
        count += 1;
    }
    assert!(count >= 14, "only {count} commands have --dry-run");
    assert_eq!(prepared.registry.violations(), [""; 0]);
}

#[test]
fn a_dry_run_of_the_filter_says_so_as_well() {
    let prepared = Prepared::new();
    prepared.run("multiarch", "copy oci:wrong:v1 docker-archive:wrong.tar:app").exits(0);
    let archive = std::fs::File::open(prepared.user.path("wrong.tar")).unwrap();
    let words = ["fix", "-", "--set-platform", "linux/arm64", "--dry-run"];
    let mut command = prepared.user.command("config-patcher", &words);
    command.stdin(Stdio::from(archive));
    let ran = run(command).exits(0).prints_nothing();
    assert_eq!(ran.stderr.lines().last(), Some(LAST_LINE), "{ran}");
}
