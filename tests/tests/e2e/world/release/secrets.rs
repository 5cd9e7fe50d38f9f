//! What a build gets besides its context: secrets that nobody else sees, a target, arguments, folders of other names.

use super::*;
use multiarch_tests::need;

const TOKEN: &str = "hunter2-in-a-variable";
const FILE: &str = "hunter2-in-a-file";

/// Says its secrets, as a careless build does, and keeps their lengths and an argument.
const BUILD: &str = "RUN --mount=type=secret,id=token --mount=type=secret,id=file \
    /bin/busybox cat /run/secrets/token /run/secrets/file && \
    /bin/busybox sh -c 'echo $(/bin/busybox cat /run/secrets/token /run/secrets/file | /bin/busybox wc -c) > /kept'\n\
    FROM made AS wanted\nARG WORD\nRUN /bin/busybox sh -c 'echo $WORD >> /kept'\nFROM made AS broken\nRUN /bin/false\n";

#[test]
fn secrets_reach_the_build_and_neither_its_log_nor_the_report() {
    need!(hand_through());
}

fn hand_through() -> Result<(), Skip> {
    let images = || -> Result<Vec<TestImage>, Skip> {
        Ok(seed_images()?.into_iter().filter(|image| image.name == "amd64").collect())
    };
    let world = World::start(Namespace::with_debian_emulators()?)?;
    for (builder, kit, has_contexts) in [("docker", "1", false), ("podman", "", true), ("buildah", "", true)]
    {
        let workshop = Workshop::new(images()?, "");
        let copy = if has_contexts { "COPY --from=more more /more\n" } else { "COPY rootfs.tar /more\n" };
        // podman and buildah share a cache, and what is taken from it says nothing.
        let text = format!("FROM scratch AS made\nLABEL builder={builder}\nADD rootfs.tar /\n{copy}{BUILD}");
        fs::write(workshop.path("amd64/Dockerfile"), text).unwrap();
        fs::write(workshop.path("secret"), format!("{FILE}\n")).unwrap();
        fs::create_dir(workshop.path("folder")).unwrap();
        fs::write(workshop.path("folder/more"), "more").unwrap();
        let spec = |builder: &str, more: &str| {
            let text = format!(
                "image: {}\nsmoke: [/bin/busybox, cat, /kept]\nplatforms:\n  linux/amd64:\n    \
                 {{ builder: {builder}, dockerfile: amd64/Dockerfile, context: amd64, target: wanted, \
                 build-args: {{ WORD: }}, secrets: {{ token: {{ env: TOKEN }}, file: {{ file: secret }} }}{more} }}\n",
                world.image()
            );
            fs::write(workshop.path("release.yaml"), text).unwrap();
        };
        let release = |variables: &[(&str, &str)]| -> Result<Said, Skip> {
            let mut command = world.enter(&mut workshop.release(&[])?);
            Ok(run(command.env("DOCKER_BUILDKIT", kit).envs(variables.iter().copied())))
        };
        let contexts = ", build-contexts: { more: folder }";
        spec(builder, if has_contexts { contexts } else { "" });
        let said = release(&[("TOKEN", TOKEN), ("WORD", "a-word")])?;
        assert_eq!(said.code, Some(0), "{builder}: {}", said.stderr);
        let length = TOKEN.len() + FILE.len() + 1;
        assert_eq!(workshop.reported(&workshop.images[0])["smoke"]["output"], format!("{length}\na-word"));
        let log = fs::read_to_string(workshop.path(".multiarch/logs/linux-amd64.log")).unwrap();
        assert!(log.contains("[secret]"), "{builder}: it was said, and is not there: {log}");
        let report = workshop.report().to_string();
        for text in [&log, &report, &said.stderr, &said.stdout] {
            assert!(!text.contains("hunter2"), "{builder}: {text}");
        }

        let said = release(&[("WORD", "a-word")])?;
        assert_eq!(said.code, Some(5), "{builder}: {}", said.stderr);
        assert!(said.stderr.contains("the variable TOKEN is not set"), "{}", said.stderr);
        if !has_contexts {
            spec(builder, contexts);
            let said = release(&[("TOKEN", TOKEN)])?;
            assert_eq!(said.code, Some(3), "{builder}: {}", said.stderr);
            assert!(
                said.stderr.contains("cannot build with docker: it has no \"build-contexts\""),
                "{}",
                said.stderr
            );
            // `auto` goes on to one that has them, and says why.
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
