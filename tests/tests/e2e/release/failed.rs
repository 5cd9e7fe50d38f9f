//! Reports of releases that fail. No report overwrites what a rollback of another release needs.

use super::{spec, user_with_spec};
use crate::tools::User;
use multiarch_tests::fake_registry::{Act, Auth, FakeRegistry, Fault, Options};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

const TAGS: [&str; 3] = ["arm32v7", "latest", "1.0"];

struct Stage {
    registry: FakeRegistry,
    user: User,
}

impl Stage {
    fn new() -> Self {
        Self::at(FakeRegistry::start())
    }

    fn at(registry: FakeRegistry) -> Self {
        let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
        Self { registry, user }
    }

    fn release(&self, code: u8) -> Value {
        let args = ["app/release.yaml", "--work-dir", "w", "--summary", "summary.md"];
        self.user.release(&args).exits(code).assert_stderr_contains("report: w/report.json");
        self.report("w/report.json")
    }

    fn report(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.user.path(name)).unwrap()).unwrap()
    }

    fn tags(&self) -> [Option<String>; 3] {
        TAGS.map(|tag| self.registry.tag("team/app", tag))
    }

    /// Reports in `w/released` that are about this image.
    fn released(&self, image: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(self.user.path("w/released")).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|file| self.report(file.to_str().unwrap())["image"].as_str().unwrap().ends_with(image))
            .collect()
    }
}

#[test]
fn a_failed_release_reports_its_step_and_a_rollback_of_it_has_nothing_to_do() {
    let stage = Stage::new();
    let before_the_first = stage.tags();
    stage.release(0);
    let first = stage.tags();
    stage.user.write("app/armv7", "the second program for armv7");
    stage.release(0);
    let second = stage.tags();
    let text = spec(&format!("{}/team/app", stage.registry.host()));
    let refused = |path: &'static str| {
        Fault::when(
            move |requests| requests.method == "HEAD" && requests.path.contains(path),
            Act::status(403),
        )
        .forever()
    };
    let other = crate::samples::Image::new("linux/amd64", "x");
    let rows: [(&str, u8, &str, Option<Fault>); 4] = [
        ("plan", 4, "", Some(refused("/manifests/"))),
        ("prepare", 10, "prepare: [[\"false\"]]\n", None),
        ("build", 5, "prepare: [[rm, armv7]]\n", None),
        ("smoke", 1, "smoke: [/absent]\n", None),
    ];
    for (step, code, more, fault) in rows {
        fs::write(stage.user.path("app/armv7"), other.layer.as_slice()).unwrap();
        stage.user.write("app/release.yaml", text.clone() + more);
        fault.into_iter().for_each(|fault| stage.registry.fault(fault));
        let report = stage.release(code);
        stage.registry.clear_faults();
        let failed = &report["failed"];
        if step == "smoke" && failed.is_null() {
            continue; // No private namespaces on this host.
        }
        assert_eq!((&failed["step"], &failed["exit"]), (&step.into(), &code.into()), "{report}");
        assert!(failed["error"].as_str().unwrap().starts_with("cannot "), "{report}");
        assert_eq!((&report["digest"], &report["changed"]), (&Value::Null, &false.into()), "{report}");
        assert_eq!(failed["moved"].as_array().unwrap().len(), 0, "{report}");
        assert_eq!(failed["notMoved"], serde_json::json!(TAGS), "{report}");
        let page = fs::read_to_string(stage.user.path("summary.md")).unwrap();
        let page = page.rsplit("### ").next().unwrap();
        assert!(page.contains(" failed\n") && page.contains("; no tag moved.\n"), "{page}");
        assert_eq!(stage.tags(), second, "{step}");
        let ran = stage.user.run("xtask", &["rollback", "w/report.json"]).exits(0).prints_nothing();
        let ran = ran
            .assert_stderr_contains("nothing to roll back: the release failed at the ")
            .assert_stderr_contains("w/released/");
        assert_eq!(stage.tags(), second, "{ran}");
    }
    // The release before the failed ones can be rolled back.
    let earlier = stage.report("w/report.json")["failed"]["earlier"].as_str().unwrap().to_string();
    stage.user.run("xtask", &["rollback", &earlier]).exits(0);
    assert_eq!(stage.tags(), first);
    assert_ne!(first, before_the_first);
}

#[test]
fn tags_that_a_failed_release_moved_are_in_its_report_and_are_restored() {
    let stage = Stage::new();
    stage.release(0);
    let first = stage.tags();
    stage.user.write("app/armv7", "the second program for armv7");
    let last = |requests: &multiarch_tests::fake_registry::Request| {
        requests.method == "PUT" && requests.path.ends_with("/manifests/1.0")
    };
    stage.registry.fault(Fault::when(last, Act::status(403)).forever());
    let broken = stage.release(4);
    stage.registry.clear_faults();
    let failed = &broken["failed"];
    assert_eq!(failed["step"], "publish", "{broken}");
    assert_eq!(failed["moved"], serde_json::json!(["arm32v7", "latest"]), "{broken}");
    assert_eq!(failed["notMoved"], serde_json::json!(["1.0"]), "{broken}");
    assert!(failed["blobs"].as_u64() > Some(0) && failed["manifests"].as_u64() > Some(0), "{broken}");
    let half = stage.tags();
    assert_eq!(TAGS.map(|tag| tag == "1.0"), [0, 1, 2].map(|at| half[at] == first[at]));
    let ran = stage.user.run("xtask", &["rollback", "w/report.json"]).exits(0);
    assert_eq!(ran.stdout.lines().count(), 2, "{ran}");
    assert_eq!(stage.tags(), first);

    // It fails again, and another spec is released in the same work directory before the rerun.
    stage.registry.fault(Fault::when(last, Act::status(403)).forever());
    stage.release(4);
    stage.registry.clear_faults();
    let other = spec(&format!("{}/team/other", stage.registry.host()));
    stage.user.write("app/other.yaml", other);
    stage.user.release(&["app/other.yaml", "--work-dir", "w"]).exits(0);
    let successful = stage.release(0);
    let was: Vec<Option<&str>> =
        successful["tags"].as_array().unwrap().iter().map(|tag| tag["was"].as_str()).collect();
    assert!(was.iter().all(|was| first.iter().any(|first| first.as_deref() == *was)), "{successful}");
    stage.user.run("xtask", &["rollback", "w/report.json"]).exits(0);
    assert_eq!(stage.tags(), first);
}

/// The registry has moved the tag, but its response is lost: the tag is resolved again.
#[test]
fn a_tag_whose_response_was_lost_is_reported_correctly() {
    let stage = Stage::new();
    let lost = |requests: &multiarch_tests::fake_registry::Request| {
        requests.method == "PUT" && requests.path.ends_with("/manifests/latest")
    };
    stage.registry.fault(Fault::when(lost, Act::LostAnswer).forever());
    let failed = stage.release(6)["failed"].take();
    assert_eq!(failed["moved"], serde_json::json!(["arm32v7", "latest"]), "{failed}");
    assert_eq!(failed["notMoved"], serde_json::json!(["1.0"]), "{failed}");
    assert_eq!(stage.tags().map(|tag| tag.is_some()), [true, true, false]);
}

#[test]
fn specs_and_images_that_share_a_work_directory_can_all_be_rolled_back() {
    let stage = Stage::new();
    let host = stage.registry.host();
    let names = |repository: &str, tag: &str| stage.registry.tag(repository, tag).unwrap();
    let release = |file: &str| stage.user.release(&[file, "--work-dir", "w"]).exits(0);
    stage.user.write("app/debug.yaml", spec(&format!("{host}/team/app")).replace("latest, \"1.0\"", "debug"));
    for version in ["one", "two"] {
        stage.user.write("app/amd64", version);
        release("app/release.yaml");
        release("app/debug.yaml");
    }
    let two = (names("team/app", "latest"), names("team/app", "debug"));
    // The spec has another image now.
    stage.user.write("app/release.yaml", spec(&format!("{host}/team/moved")));
    release("app/release.yaml");
    assert_eq!(stage.report("w/report.json")["image"], format!("{host}/team/moved"));
    let released = stage.released("/team/app");
    assert_eq!((released.len(), stage.released("/team/moved").len()), (2, 1));
    for file in &released {
        stage.user.run("xtask", &["rollback", file.to_str().unwrap()]).exits(0);
    }
    let one = (names("team/app", "latest"), names("team/app", "debug"));
    assert!(one.0 != two.0 && one.1 != two.1, "{one:?}");
    // Both tags refer to the first version.
    assert_eq!(one.0, one.1);
}

/// A warning that every user can read the credentials is suppressed by --quiet.
#[test]
fn quiet_suppresses_warnings_of_a_rollback_and_of_the_check_of_base_images() {
    use std::os::unix::fs::PermissionsExt;
    let auth = Auth::Basic { user: "ann".into(), password: "s3cret".into() };
    let stage = Stage::at(FakeRegistry::start_with(Options { auth, ..Options::default() }));
    stage.user.log_in(&stage.registry.host(), "ann", "s3cret");
    stage.release(0);
    stage.user.write("app/armv7", "the second program for armv7");
    stage.release(0);
    let logins = stage.user.work().with_file_name("home/.docker/config.json");
    fs::set_permissions(&logins, fs::Permissions::from_mode(0o644)).unwrap();
    stage.user.script("docker", "case \"$*\" in version*) echo 20.10.24;; *inspect*) exit 1;; esac");
    stage.user.write("Dockerfile", format!("FROM {}/team/app:latest\n", stage.registry.host()));
    stage.user.write(
        "base.yaml",
        "image: oci:out\nbuilder: docker\nplatforms: { linux/amd64: { dockerfile: Dockerfile } }\n",
    );
    for args in [&["rollback", "w/report.json", "--dry-run"][..], &["release", "base.yaml", "--dry-run"]] {
        stage.user.run("xtask", args).exits(0).assert_stderr_contains("chmod 600");
        let quiet = stage.user.run("xtask", &[args, &["-q"]].concat()).exits(0);
        assert_eq!(quiet.stderr, "", "{quiet}");
    }
}
