//! Commands that messages suggest, run as they are printed: by users of the single programs, and by users who have only
//! `multiarch`.

use crate::tools::{Ran, User, program, run};
use crate::verify::made::{Layer, image, index, probe, publish, put};
use image_store::store::memory::MemoryStore;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::FakeRegistry;
use std::os::unix::fs::symlink;
use std::process::Command;

/// A user whose PATH has these programs and nothing else.
struct Caller {
    user: User,
    /// The programs with the commands of config-patcher and of manifest-push.
    check: &'static str,
    publish: &'static str,
}

impl Caller {
    fn all() -> [Self; 3] {
        let with = |check: &'static str, publish: &'static str| {
            let user = User::new();
            std::fs::create_dir(user.path("programs")).unwrap();
            for name in [check, publish] {
                let file = if name.contains("multiarch") { "multiarch" } else { name };
                let _ = symlink(program(file), user.path("programs").join(name.replace(' ', "-")));
            }
            if check.starts_with("kubectl") {
                let pass = "#!/bin/sh\nshift\nexec kubectl-multiarch \"$@\"\n";
                user.write("programs/kubectl", pass);
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                std::fs::set_permissions(user.path("programs/kubectl"), mode).unwrap();
            }
            Self { user, check, publish }
        };
        [
            with("config-patcher", "manifest-push"),
            with("multiarch", "multiarch"),
            with("kubectl multiarch", "kubectl multiarch"),
        ]
    }

    /// Runs a line as a shell does.
    fn shell(&self, line: &str) -> Ran {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).current_dir(self.user.work()).env_clear();
        command.env("PATH", self.user.path("programs")).env("HOME", self.user.path("home"));
        run(command)
    }

    fn check(&self, arguments: &str) -> Ran {
        self.shell(&format!("{} {arguments}", self.check))
    }

    fn publish(&self, arguments: &str) -> Ran {
        self.shell(&format!("{} {arguments}", self.publish))
    }

    /// An image for arm64 that declares s390x, in a layout whose path needs quotes. Its name, quoted.
    fn wrong(&self, name: &str) -> String {
        let layer = Layer::new().file("app", &probe("linux/arm64")).end();
        let name = image("linux/s390x", &["/app"], vec![layer]).layout(&self.user, name);
        format!("'{name}'")
    }
}

/// The text between two others.
#[track_caller]
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before:?} is not in {text}")).1;
    rest.split(after).next().unwrap()
}

#[test]
fn the_advice_of_verify_works_as_printed_in_every_form() {
    for caller in Caller::all() {
        let text = caller.wrong("in text");
        let output = caller.check(&format!("verify {text}")).exits(1).stdout;
        let command = between(&output, "to fix it, run: ", "\n");
        assert!(command.starts_with(&format!("{} fix '", caller.check)), "{command}");
        caller.shell(command).exits(0);
        caller.check(&format!("verify {text}")).exits(0);

        let json = caller.wrong("in JSON");
        let found = caller.check(&format!("verify {json} --format json")).exits(1).json();
        caller.shell(found["images"][0]["fix"].as_str().unwrap()).exits(0);
        caller.check(&format!("verify {json}")).exits(0);

        let html = caller.wrong("in HTML");
        caller.check(&format!("verify {html} --html page.html --junit page.xml")).exits(1);
        let page = std::fs::read_to_string(caller.user.path("page.html")).unwrap();
        let advice = between(&page, "to fix it, run:</p>", "</section>");
        let command = between(advice, "<code>", "</code>").replace("&#39;", "'");
        caller.shell(&command).exits(0);
        caller.check(&format!("verify {html} --platform linux/arm64")).exits(0);
    }
}

/// Two images for amd64, of which the index lists one as arm64.
fn wrong_build() -> MemoryStore {
    let store = MemoryStore::new();
    let entries: Vec<serde_json::Value> = ["linux/amd64", "linux/arm64"]
        .iter()
        .map(|platform| {
            let layer = Layer::new().file("app", &probe("linux/amd64")).file("id", platform.as_bytes()).end();
            let mut entry = image(platform, &["/app"], vec![layer]).add_to(&store).descriptor();
            entry.platform = Some(platform.parse().unwrap());
            serde_json::to_value(entry).unwrap()
        })
        .collect();
    let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let index = image_model::manifest::Document::new(text.into_bytes(), None).unwrap();
    image_store::store::ImageStore::write_tag(&store, "x", &index).unwrap();
    store
}

#[test]
fn the_edit_that_verify_and_fix_suggest_works_as_printed() {
    for caller in Caller::all() {
        for command in ["verify", "fix --from-binaries"] {
            let dir = format!("wrong build, {command}");
            put(wrong_build(), &OciLayout::open_or_create(&caller.user.path(&dir)).unwrap(), "v1");
            let name = format!("'oci:{}:v1'", caller.user.path(&dir).display());
            let ran = caller.check(&format!("{command} {name}")).exits(1);
            let output = ran.stdout + &ran.stderr;
            let edit = between(&output, "until then, run: ", "\n");
            assert!(edit.starts_with(&format!("{} edit '", caller.publish)), "{edit}");
            caller.shell(edit).exits(0);
            caller.check(&format!("verify {name}")).exits(0);
        }
    }
}

#[test]
fn the_fix_that_push_and_edit_suggest_works_as_printed() {
    for caller in Caller::all() {
        let registry = FakeRegistry::start();
        let host = registry.host();
        let layer = |platform: &str| vec![Layer::new().file("app", &probe(platform)).end()];
        publish(&registry, &image("linux/amd64", &["/app"], layer("linux/amd64")), "amd64");
        publish(&registry, &image("linux/amd64", &["/app"], layer("linux/arm64")), "arm64");
        publish(&registry, &image("linux/amd64", &["/app"], layer("linux/s390x")), "s390x");
        let push = format!(
            "push from-args --platforms linux/amd64,linux/arm64 --template {host}/app:ARCH --target {host}/app:1"
        );
        let edit = format!("edit {host}/app:1 --add linux/s390x={host}/app:s390x");
        for command in [push, edit] {
            let ran = caller.publish(&command).exits(3);
            let fix = between(&ran.stderr, "fix it with --relabel or `", "`");
            assert!(fix.starts_with(&format!("{} fix {host}/app:", caller.check)), "{fix}");
            caller.shell(fix).exits(0);
            caller.publish(&command).exits(0);
        }
        caller.check(&format!("verify {host}/app:1")).exits(0);
        let undo = caller.publish("rollback localhost:1/none:1").exits(5);
        assert!(undo.stderr.contains(&format!("digest: {} copy ", caller.publish)), "{undo}");
        assert_eq!(registry.violations(), [""; 0]);
    }
}

#[test]
fn an_index_that_declares_a_wrong_platform_is_fixed_as_inspect_prints() {
    let [caller, ..] = Caller::all();
    put(index(), &OciLayout::open_or_create(&caller.user.path("an index")).unwrap(), "v1");
    let name = format!("'oci:{}:v1'", caller.user.path("an index").display());
    let output = caller.publish(&format!("inspect {name}")).exits(0).stdout;
    caller.shell(between(&output, "; fix: ", "\n")).exits(0);
    caller.check(&format!("verify {name}")).exits(0);
}

#[test]
fn the_fix_that_the_deprecated_option_suggests_does_the_same() {
    for caller in Caller::all() {
        let name = caller.wrong("old form");
        let old = format!("fix {name} --platform linux/arm64 --output 'oci:a copy:v1' --force");
        let ran = caller.check(&old).exits(0);
        let command = between(&ran.stderr, "in 1.0; write: ", "\n");
        assert!(command.starts_with(&format!("{} fix '", caller.check)), "{command}");
        std::fs::remove_dir_all(caller.user.path("a copy")).unwrap();
        let again = caller.shell(command).exits(0).prints(ran.line());
        assert!(!again.stderr.contains("deprecated"), "{again}");
        caller.check("verify 'oci:a copy:v1'").exits(0);
        caller.check(&format!("verify {name}")).exits(1);
    }
}

#[test]
fn help_shows_the_program_that_was_called() {
    for caller in Caller::all() {
        for command in ["inspect", "verify", "fix"] {
            let help = caller.check(&format!("{command} --help")).exits(0).stdout;
            assert!(help.contains(&format!("Usage: {} {command}", caller.check)), "{help}");
            let example = format!("  {} {command} HOST/app:1", caller.check);
            assert!(help.contains(&example), "{help}");
        }
        let help = caller.publish("edit --help").exits(0).stdout;
        assert!(help.contains(&format!("  {} edit HOST/app:1 --remove", caller.publish)), "{help}");
    }
}
