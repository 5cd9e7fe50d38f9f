//! Secrets, targets, build arguments and additional build contexts. Secrets occur in no log and no report.

use super::*;
use multiarch_tests::need;

const TOKEN: &str = "hunter2-in-a-variable";
const FILE: &str = "hunter2-in-a-file";

/// Prints its secrets, as a careless build does, and writes their lengths and an argument to a file.
const BUILD: &str = "RUN --mount=type=secret,id=token --mount=type=secret,id=file \
    /bin/busybox cat /run/secrets/token /run/secrets/file && \
    /bin/busybox sh -c 'echo $(/bin/busybox cat /run/secrets/token /run/secrets/file | /bin/busybox wc -c) > /kept'\n\
    FROM made AS wanted\nARG WORD\nRUN /bin/busybox sh -c 'echo $WORD >> /kept'\nFROM made AS broken\nRUN /bin/false\n";

#[test]
fn builds_get_secrets_and_logs_and_reports_do_not_have_them() {
    need!(hand_through());
}

fn hand_through() -> Result<(), Skip> {
    let images = || -> Result<Vec<TestImage>, Skip> {
        Ok(example_images()?.into_iter().filter(|image| image.name == "amd64").collect())
    };
    let world = World::start(Namespace::with_debian_emulators()?)?;
    for (builder, kit, has_contexts) in [("docker", "1", false), ("podman", "", true), ("buildah", "", true)]
    {
        let workshop = Workshop::new(images()?, "");
        let copy = if has_contexts { "COPY --from=more more /more\n" } else { "COPY rootfs.tar /more\n" };
        // podman and buildah share a cache, and a cached step prints nothing.
        let text = format!("FROM scratch AS made\nLABEL builder={builder}\nADD rootfs.tar /\n{copy}{BUILD}");
        fs::write(workshop.path("amd64/Dockerfile"), text).unwrap();
        fs::write(workshop.path("secret"), format!("{FILE}\n")).unwrap();
        fs::create_dir(workshop.path("directory")).unwrap();
        fs::write(workshop.path("directory/more"), "more").unwrap();
        let spec = |builder: &str, more: &str| {
            let text = format!(
                "image: {}\nsmoke: [/bin/busybox, cat, /kept]\nplatforms:\n  linux/amd64:\n    \
                 {{ builder: {builder}, dockerfile: amd64/Dockerfile, context: amd64, target: wanted, \
                 build-args: {{ WORD: }}, secrets: {{ token: {{ env: TOKEN }}, file: {{ file: secret }} }}{more} }}\n",
                world.image()
            );
            fs::write(workshop.path("release.yaml"), text).unwrap();
        };
        let release = |variables: &[(&str, &str)]| -> Result<Output, Skip> {
            let mut command = world.enter(&mut workshop.release(&[])?);
            Ok(run(command.env("DOCKER_BUILDKIT", kit).envs(variables.iter().copied())))
        };
        let contexts = ", build-contexts: { more: directory }";
        spec(builder, if has_contexts { contexts } else { "" });
        let output = release(&[("TOKEN", TOKEN), ("WORD", "a-word")])?;
        assert_eq!(output.code, Some(0), "{builder}: {}", output.stderr);
        let length = TOKEN.len() + FILE.len() + 1;
        assert_eq!(workshop.reported(&workshop.images[0])["smoke"]["output"], format!("{length}\na-word"));
        let log = fs::read_to_string(workshop.path(".multiarch/logs/linux-amd64.log")).unwrap();
        assert!(log.contains("[secret]"), "{builder}: the printed secret is not replaced: {log}");
        let report = workshop.report().to_string();
        for text in [&log, &report, &output.stderr, &output.stdout] {
            assert!(!text.contains("hunter2"), "{builder}: {text}");
        }

        let output = release(&[("WORD", "a-word")])?;
        assert_eq!(output.code, Some(5), "{builder}: {}", output.stderr);
        assert!(output.stderr.contains("the variable TOKEN is not set"), "{}", output.stderr);
        if !has_contexts {
            spec(builder, contexts);
            let output = release(&[("TOKEN", TOKEN)])?;
            assert_eq!(output.code, Some(3), "{builder}: {}", output.stderr);
            assert!(
                output.stderr.contains("cannot build with docker: it has no \"build-contexts\""),
                "{}",
                output.stderr
            );
            // `auto` selects another builder and prints the reason.
            spec("auto", contexts);
            let shown = run(world
                .enter(&mut workshop.release(&["--dry-run"])?)
                .env("DOCKER_BUILDKIT", kit)
                .env("TOKEN", TOKEN));
            assert!(
                shown.stderr.contains("podman (docker: it has no \"build-contexts\""),
                "{}",
                shown.stderr
            );
        }
    }
    Ok(())
}
