//! Releases on a full disk, with a clock that jumps, and with commands that are killed. Nothing is published, and the next run
//! completes the release.

use super::{spec, user_with_spec};
use crate::tools::{User, listing, run};
use multiarch_tests::fake_registry::FakeRegistry;
use multiarch_tests::{need, world};
use std::fs::File;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// Every size of the work directory's file system, up to the first one that is large enough.
#[test]
fn a_full_disk_in_the_work_directory_publishes_nothing() {
    need!(world::require_root());
    need!(world::require(&["unshare", "mount"]));
    let registry = FakeRegistry::start();
    let user = user_with_spec(&spec(&format!("{}/team/app", registry.host())));
    std::fs::create_dir(user.path("w")).unwrap();
    let mut failures = 0;
    for pages in 2..200 {
        let command = user.command("xtask", &["release", "app/release.yaml", "--work-dir", "w"]);
        let mut inside = Command::new("unshare");
        let script = format!("mount -t tmpfs -o size={},mode=700 tmpfs w && exec \"$@\"", pages * 4096);
        inside
            .args(["--mount", "sh", "-c", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            value.map(|value| inside.env(key, value));
        }
        let ran = run({
            inside.current_dir(user.work());
            inside
        });
        if ran.code == Some(0) {
            assert!(failures > 5, "{failures}");
            assert_eq!(
                registry.closure_complete("team/app", &registry.tag("team/app", "latest").unwrap()),
                Ok(())
            );
            return;
        }
        failures += 1;
        let ran = ran.exits(9);
        assert!(ran.stderr.contains("no space left on device"), "{pages}: {ran}");
        // With room for all but the report, the error says what was done.
        let is_published = !registry.tags("team/app").is_empty();
        let says_so = ran.stderr.contains("the image was published as") && ran.stderr.contains("rollback");
        assert_eq!(is_published, says_so, "{pages}: {ran}");
        if is_published {
            let tag = format!("{}/team/app:latest", registry.host());
            user.run("multiarch", &["rollback", &tag])
                .exits(3)
                .assert_stderr_contains("the push created the tag");
            return assert!(failures > 5, "{failures}");
        }
    }
    panic!("no size is enough");
}

/// A builder or a command of the spec that the kernel kills, as when memory runs out.
#[test]
fn a_command_that_is_killed_is_a_failed_command() {
    let registry = FakeRegistry::start();
    let image = format!("{}/team/app", registry.host());
    let user = user_with_spec(&(spec(&image) + "prepare: [[sh, -c, \"kill -9 $$\"]]\n"));
    let ran = user.release(&["app/release.yaml"]).exits(10);
    assert!(ran.stderr.contains("signal: 9") && ran.stderr.contains("nothing was published"), "{ran}");
    // An engine whose build is killed, and whose child lives on and keeps the output open.
    let engine = user.work().with_file_name("bin").join("podman");
    let script =
        "#!/bin/sh\ncase \"$1\" in build) sleep 300 & echo building; kill -9 $$;; *) echo 4.3.1;; esac\n";
    std::fs::write(&engine, script).unwrap();
    std::fs::set_permissions(&engine, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    user.write("app/Dockerfile", "FROM scratch\nADD amd64 /app\n");
    let text = format!(
        "image: {image}\nplatforms:\n  linux/amd64: {{ builder: podman, dockerfile: Dockerfile, secrets: {{ a: {{ env: PATH }} }} }}\n"
    );
    user.write("app/release.yaml", text);
    let ran = user.release(&["app/release.yaml"]).exits(10);
    assert!(ran.stderr.contains("signal: 9"), "{ran}");
    assert!(registry.tags("team/app").is_empty());
}

/// A clock that was wrong while files were written must not stop a release, and must not remove what it uses.
#[test]
fn files_from_the_future_and_from_1970_do_not_disturb_a_release() {
    let age = |user: &User, to: SystemTime| {
        let dirs = [user.work().with_file_name("home"), user.path("app")];
        for dir in dirs {
            for path in listing(&dir).into_keys().map(|path| dir.join(path)).filter(|path| path.is_file()) {
                File::options().write(true).open(path).unwrap().set_modified(to).unwrap();
            }
        }
    };
    for to in [SystemTime::UNIX_EPOCH, SystemTime::now() + Duration::from_secs(75 * 365 * 86_400)] {
        let user = user_with_spec(&spec("oci:out"));
        let first = user.release(&["app/release.yaml"]).exits(0);
        age(&user, to);
        let again = user.release(&["app/release.yaml"]).exits(0).assert_stderr_contains("nothing to do");
        assert_eq!(super::digest_of(&again), super::digest_of(&first));
        user.write("app/amd64", format!("a program of {to:?}"));
        user.release(&["app/release.yaml"]).exits(0);
        user.run("multiarch", &["verify", "oci:app/out:latest"]).exits(0);
        user.run("multiarch", &["rollback", "oci:app/out:latest"]).exits(0);
    }
}
