//! Tests of release.yaml: values and problems.

use super::*;
use error::Exit;
use std::fs;

/// A directory with files that specs refer to.
fn temp_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["Dockerfile", "arm.dockerfile", "app"] {
        fs::write(dir.path().join(name), name).unwrap();
    }
    fs::create_dir(dir.path().join("sub")).unwrap();
    dir
}

fn parse(text: &str) -> Result<Spec, Vec<Problem>> {
    let dir = temp_dir();
    let spec = Spec::parse(text, &dir.path().join("release.yaml"));
    // Paths without the random name of the directory.
    let plain = |text: &str| text.replace(&*dir.path().to_string_lossy(), "DIR");
    spec.map_err(|problems| {
        problems.into_iter().map(|p| Problem { line: p.line, text: plain(&p.text) }).collect()
    })
}

/// Problems of specs, one in each row.
fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(spec) => panic!("nothing wrong was found: {spec:?}"),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

const FULL: &str = r#"
image: docker.io/ckulka/multi-arch-example
tags: [latest, "1.0", 1.10]
builder: auto
platforms:
  linux/amd64:    { dockerfile: Dockerfile }
  linux/arm/v7:   { dockerfile: arm.dockerfile, tag: arm32v7, context: sub, target: run, build-args: { A: 1, TOKEN: } }
  linux/arm64/v8: { dockerfile: Dockerfile, builder: podman }
  linux/riscv64:  { builder: rootfs, from: docker.io/library/alpine:3, copy: { app: /app }, cmd: [/app], env: { A: b },
                    entrypoint: [], user: 1000, workdir: /, labels: { a.b: "" }, expose: [8080, 53/udp] }
on-mismatch: fail
smoke: [python, -c, import flask]
annotations: { org.opencontainers.image.source: https://example.com/ }
prepare: [[make, app], [true]]
x-mine: anything
"#;

#[test]
fn a_whole_spec_is_read_into_values() {
    let spec = parse(FULL).unwrap();
    assert_eq!(spec.image.to_string(), "docker.io/ckulka/multi-arch-example");
    assert_eq!(spec.tags, ["latest", "1.0", "1.10"]);
    assert_eq!((spec.on_mismatch, spec.smoke.len()), (OnMismatch::Fail, 3));
    assert_eq!(spec.prepare, [vec!["make", "app"], vec!["true"]]);
    assert_eq!(spec.annotations["org.opencontainers.image.source"], "https://example.com/");
    let shown: Vec<String> = spec
        .platforms
        .iter()
        .map(|p| format!("{} {} {}", p.platform, p.builder, p.tag.as_deref().unwrap_or("-")))
        .collect();
    assert_eq!(
        shown,
        [
            "linux/amd64 auto -",
            "linux/arm/v7 auto arm32v7",
            "linux/arm64/v8 podman -",
            "linux/riscv64 rootfs -"
        ]
    );

    let Recipe::Dockerfile(arm) = &spec.platforms[1].recipe else { panic!("{spec:?}") };
    assert_eq!(arm.dockerfile, spec.dir.join("arm.dockerfile"));
    assert_eq!((&arm.context, arm.target.as_deref()), (&spec.dir.join("sub"), Some("run")));
    assert_eq!(arm.build_args.0["A"].as_deref(), Some("1"));
    assert_eq!(arm.build_args.0["TOKEN"], None);

    let Recipe::Files(riscv) = &spec.platforms[3].recipe else { panic!("{spec:?}") };
    assert_eq!(riscv.from.as_ref().unwrap().to_string(), "docker.io/library/alpine:3");
    assert_eq!(riscv.copy, [(spec.dir.join("app"), "/app".to_string())]);
    let run = &riscv.run;
    assert_eq!(
        (run.entrypoint.as_deref(), run.cmd.as_deref()),
        (Some(&[][..]), Some(&["/app".to_string()][..]))
    );
    assert_eq!(
        (run.env["A"].as_str(), run.user.as_deref(), run.workdir.as_deref()),
        ("b", Some("1000"), Some("/"))
    );
    assert_eq!(run.labels["a.b"], "");
    assert_eq!(run.expose.iter().map(Port::to_string).collect::<Vec<_>>(), ["53/udp", "8080/tcp"]);
}

#[test]
fn missing_keys_have_defaults() {
    let spec = parse("image: oci:dist/out\nplatforms: { linux/amd64: { dockerfile: Dockerfile } }").unwrap();
    assert_eq!((spec.tags.as_slice(), spec.on_mismatch), (&["latest".to_string()][..], OnMismatch::Fix));
    assert_eq!(spec.image, Reference::OciLayout { dir: spec.dir.join("dist/out"), tag: None, digest: None });
    assert!(spec.smoke.is_empty() && spec.prepare.is_empty() && spec.annotations.is_empty());
    let Recipe::Dockerfile(recipe) = &spec.platforms[0].recipe else { panic!("{spec:?}") };
    assert_eq!(recipe.context, spec.dir);
}

#[test]
fn values_of_build_arguments_are_not_shown() {
    let shown = format!("{:?}", parse(&FULL.replace("A: 1,", "A: hunter2,")).unwrap());
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let text = "\
imag: a/b
tags: [latest, latest, '-x']
builder: kaniko
platforms:
  linux/amd64: { dockerfile: Dockerfil, cmd: [x] }
  linux/arm64: { dockerfile: Dockerfile }
  linux/arm64/v8: { dockerfile: Dockerfile }
  linux/arm64: { dockerfile: Dockerfile }
  linux: {}
  linux/386: { copy: { nope: app } }
on-mismatch: repair
";
    assert_eq!(
        problems(text),
        [
            "1: release.yaml has no key \"imag\"; did you mean \"image\"?",
            "1: there is no \"image\"; write image: HOST/REPOSITORY, or image: oci:DIR",
            "2: tag \"latest\" is listed twice; remove one of them",
            "2: \"-x\" is no tag: at most 128 letters, digits, '_', '.', '-', not first '.' or '-'",
            "3: there is no builder \"kaniko\"; write auto, docker, buildx, podman, buildah, rootfs, docker:CONTEXT or buildx:BUILDER",
            "5: \"cmd\" goes with builder rootfs, but this platform has a Dockerfile; write CMD in that",
            "5: there is no Dockerfile \"DIR/Dockerfil\"",
            "7: platform linux/arm64/v8 is the same as linux/arm64 on line 6; remove one of them",
            "8: key \"linux/arm64\" is there already, on line 6; remove one of them",
            "9: platform \"linux\" has no architecture: write OS/ARCHITECTURE[/VARIANT], for example linux/arm/v7",
            "10: destination \"app\" is no absolute path in the image; write /PATH, without \"..\"",
            "10: there is no \"DIR/nope\" to copy",
            "11: on-mismatch: unknown value \"repair\"; write fix or fail",
        ]
    );
}

#[test]
fn each_problem_has_a_suggestion() {
    const GOOD: &str = "linux/amd64: { dockerfile: Dockerfile }";
    let top = |line: &str, wanted: &str| {
        let said = problems(&format!("image: a/b\n{line}\nplatforms: {{ {GOOD} }}"));
        assert!(said.iter().any(|said| said == &format!("2: {wanted}")), "{line}: {said:?}");
    };
    top("tags: latest", "\"tags\" is a list of at least one tag; write tags: [latest]");
    top("tags: []", "\"tags\" is a list of at least one tag; write tags: [latest]");
    top("tags:", "\"tags\" is a list of at least one tag; write tags: [latest]");
    top(
        "builder: podman:arm",
        "there is no builder \"podman:arm\"; write auto, docker, buildx, podman, buildah, rootfs, docker:CONTEXT or buildx:BUILDER",
    );
    top("builder: dokcer", "there is no builder \"dokcer\"; did you mean docker?");
    top("builder:", "\"builder\" has no value; write builder: VALUE, or remove it");
    top("smoke: ls -l", "\"smoke\" is a list of words; write smoke: [\"ls\", \"-l\"]");
    top("smoke: [a, [b]]", "a word of \"smoke\" is one value, not a list");
    top("smoke: [a, ~]", "a word of \"smoke\" is empty; write \"\" if you mean that");
    top("prepare: [make, app]", "each command of \"prepare\" is a list of its own: [PROGRAM, ARGUMENT, ...]");
    top("prepare: make", "\"prepare\" is a list of commands; write prepare: [[PROGRAM, ARGUMENT, ...]]");
    top("annotations: [a]", "\"annotations\" is a map, not a list; write annotations: { NAME: VALUE }");
    top("annotations: { a: }", "\"a\" has no value; write a: VALUE, or a: \"\"");
    top(
        "push: true",
        "release.yaml has no key \"push\"; it has image, tags, builder, platforms, on-mismatch, smoke, annotations, prepare",
    );

    let image = |image: &str, wanted: &str| {
        let said = problems(&format!("image: {image}\nplatforms: {{ {GOOD} }}"));
        assert!(
            said.iter().any(|said| said.starts_with("1: ") && said.contains(wanted)),
            "{image}: {said:?}"
        );
    };
    image("a/b:1", "names a tag; write it under \"tags:\"");
    image("oci:out:1", "names a tag; write it under \"tags:\"");
    image(&format!("a/b@sha256:{}", "0".repeat(64)), "names a digest");
    image("Upper/Case", "is not a repository name");
    image("docker-archive:x.tar", "cannot hold several platforms");
    image("[a, b]", "\"image\" is one value, not a list");

    let platform = |row: &str, wanted: &str| {
        let said = problems(&format!("image: a/b\nplatforms:\n  linux/amd64: {row}"));
        assert!(said.iter().any(|said| said == &format!("3: {wanted}")), "{row}: {said:?}");
    };
    platform("", "nothing says how to build this platform; write dockerfile: FILE, or copy: { FILE: /PATH }");
    platform("Dockerfile", "linux/amd64 is a map, not one value; write { dockerfile: FILE }");
    platform("{ builder: docker }", "builder docker needs a Dockerfile; write dockerfile: FILE");
    platform(
        "{ builder: rootfs }",
        "builder rootfs needs files or a base image; write copy: { FILE: /PATH }, or from: IMAGE",
    );
    platform(
        "{ builder: rootfs, copy: { app: /app }, build_args: {} }",
        "a platform has no key \"build_args\"; did you mean \"build-args\"?",
    );
    platform(
        "{ builder: rootfs, copy: { app: /app }, dockerfile: Dockerfile }",
        "\"dockerfile\" goes with a Dockerfile, but this platform is made by rootfs; remove it",
    );
    platform(
        "{ builder: buildah, dockerfile: Dockerfile, labels: {} }",
        "\"labels\" goes with builder rootfs, but this platform has a Dockerfile; write LABEL in that",
    );
    platform(
        "{ dockerfile: Dockerfile, context: nope }",
        "there is no directory \"DIR/nope\" to be the build context",
    );
    platform(
        "{ dockerfile: Dockerfile, build-args: { a b: 1 } }",
        "\"a b\" is no name for a build argument: letters, digits and '_'",
    );
    const SECRET: &str = "write ID: { file: FILE }, or ID: { env: VARIABLE }";
    let secrets = |row: &str, wanted: &str| {
        platform(&format!("{{ dockerfile: Dockerfile, secrets: {row} }}"), wanted);
    };
    secrets("[npm]", &format!("\"secrets\" is a map, not a list; {SECRET}"));
    secrets("{ npm: hunter2 }", &format!("the spec says where a secret is, not what it is; {SECRET}"));
    secrets("{ npm: { value: x } }", &format!("a secret has no \"value\"; {SECRET}"));
    secrets("{ npm: { file: nope } }", "there is no file \"DIR/nope\" with the secret");
    secrets("{ npm: { env: A=b } }", "the name of a variable has letters, digits and '_'");
    secrets("{ 'a,src=/': { env: A } }", "\"a,src=/\" is no id of a secret: letters, digits, '_', '.', '-'");
    platform(
        "{ dockerfile: Dockerfile, build-contexts: { lib: nope } }",
        "there is no directory \"DIR/nope\" to be the build context",
    );
    platform(
        "{ copy: { app: /app }, cache-from: [a] }",
        "\"cache-from\" goes with a Dockerfile, but this platform is made by rootfs; remove it",
    );
    platform(
        "{ copy: { app: /../x } }",
        "destination \"/../x\" is no absolute path in the image; write /PATH, without \"..\"",
    );
    platform("{ copy: { app: } }", "\"app\" has no destination; write \"app\": /PATH");
    platform("{ copy: { app: /a }, cmd: /a }", "\"cmd\" is a list of words; write cmd: [\"/a\"]");
    platform("{ copy: { app: /a }, env: [A=b] }", "\"env\" is a map, not a list; write env: { NAME: VALUE }");
    platform("{ copy: { app: /a }, workdir: a }", "workdir \"a\" does not begin with \"/\"");
    platform(
        "{ copy: { app: /a }, expose: [70000] }",
        "a port is a number from 1 to 65535, with /udp or /sctp where it is not tcp",
    );
    platform("{ from: '-' }", "a base image cannot come from standard input; name it");
    platform(
        "{ dockerfile: Dockerfile, tag: latest }",
        "tag \"latest\" is taken already, under \"tags\": one of the two images would be lost",
    );
}

#[test]
fn no_platform_is_a_problem() {
    assert_eq!(problems("image: a/b\nplatforms: {}").len(), 1);
    assert!(problems("image: a/b")[0].contains("there is no \"platforms\""));
    assert!(problems("")[0].contains("a spec is a map"));
    assert!(problems("- a")[0].contains("a spec is a map"));
}

#[test]
fn files_that_prepare_creates_may_be_absent() {
    let text = "image: a/b\nprepare: [[make]]\nplatforms:\n  linux/amd64: { copy: { made: /made } }\n  linux/386: { dockerfile: made }";
    assert!(parse(text).is_ok());
    assert_eq!(problems(&text.replace("prepare: [[make]]", "x-prepare: []")).len(), 2);
}

#[test]
fn a_spec_of_more_than_1_mib_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("release.yaml");
    std::fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
    let error = Spec::load(&file).unwrap_err();
    assert_eq!(error.kind, error::Exit::BadInput);
    assert!(error.to_string().contains("it is larger than 1048576 bytes"), "{error}");
}

#[test]
fn platforms_may_share_values_with_aliases() {
    let text = "image: a/b\nx-all: &all { dockerfile: Dockerfile, build-args: { A: b } }\nplatforms:\n  linux/amd64: *all\n  linux/386: { <<: *all, tag: i386 }";
    let spec = parse(text).unwrap();
    assert_eq!(spec.platforms[0].recipe, spec.platforms[1].recipe);
    assert_eq!(spec.platforms[1].tag.as_deref(), Some("i386"));
}

#[test]
fn a_file_is_shown_with_its_name_before_each_line() {
    let dir = temp_dir();
    let file = dir.path().join("release.yaml");
    fs::write(&file, "image: a/b\nplatforms:\n").unwrap();
    let error = Spec::load(&file).unwrap_err();
    assert_eq!(error.kind, Exit::BadInput);
    assert!(error.to_string().ends_with("it has 1 error"), "{error}");
    let wanted = format!("{}:2: \"platforms\" is a map of at least one platform", file.display());
    assert!(error.problems.len() == 1 && error.problems[0].starts_with(&wanted), "{:?}", error.problems);
    assert_eq!(Spec::load(&dir.path().join("none.yaml")).unwrap_err().kind, Exit::NotFound);
    assert_eq!(Spec::load(dir.path()).unwrap_err().kind, Exit::BadInput);
}

#[test]
fn the_example_specs_are_valid() {
    let load = |name: &str| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/multi-arch-example");
        Spec::load(&dir.join(name)).unwrap_or_else(|error| panic!("{error}: {:#?}", error.problems))
    };
    let programs = load("release.yaml");
    let made: Vec<Platform> = crate::example_binaries::platforms().collect();
    assert_eq!(programs.platforms.iter().map(|p| p.platform.clone()).collect::<Vec<_>>(), made);
    for one in &programs.platforms {
        let Recipe::Files(recipe) = &one.recipe else { panic!("{one:?}") };
        let program = crate::example_binaries::path(&programs.dir.join("dist/programs"), &one.platform);
        assert_eq!(recipe.copy, [(program, "/hello".to_string())]);
        assert_eq!(recipe.run.cmd.as_deref(), Some(&["/hello".to_string()][..]));
    }
    let flask = load("release.docker.yaml");
    let tags: Vec<&str> = flask.platforms.iter().filter_map(|p| p.tag.as_deref()).collect();
    assert_eq!(tags, ["amd64", "arm32v5", "arm32v7", "arm64v8"]);
    for one in &flask.platforms {
        let Recipe::Dockerfile(recipe) = &one.recipe else { panic!("{one:?}") };
        assert!(
            recipe.build_args.0["BASE"].as_ref().is_some_and(|base| base.contains("/python:")),
            "{one:?}"
        );
    }
}

#[test]
fn builders_have_names_and_instances() {
    let check = |text: &str, known: bool| {
        assert_eq!(BuilderChoice::parse(text).map(|choice| choice.to_string()), known.then(|| text.into()));
    };
    for text in
        ["auto", "docker", "docker:arm-node", "buildx", "buildx:farm_1", "podman", "buildah", "rootfs"]
    {
        check(text, true);
    }
    for text in ["docker:", "docker:--help", "docker:a b", "podman:x", "auto:x", "kaniko"] {
        check(text, false);
    }
}

#[test]
fn secrets_contexts_and_caches_are_parsed() {
    let keys = "secrets: { npm: { file: app }, token: { env: TOKEN } }, build-contexts: { lib: sub, \
                base: 'docker-image://alpine:3' }, cache-from: [a/b], cache-to: ['type=inline']";
    let spec = parse(&format!(
        "image: a/b\nplatforms: {{ linux/amd64: {{ dockerfile: Dockerfile, builder: 'docker:far', {keys} }} }}"
    ))
    .unwrap();
    let Recipe::Dockerfile(recipe) = &spec.platforms[0].recipe else { panic!("{spec:?}") };
    assert_eq!(spec.platforms[0].builder, BuilderChoice::Docker(Some("far".into())));
    let secret = |id: &str, source| Secret { id: id.into(), source };
    assert_eq!(
        recipe.secrets,
        [
            secret("npm", SecretSource::File(spec.dir.join("app"))),
            secret("token", SecretSource::Variable("TOKEN".into()))
        ]
    );
    assert_eq!(recipe.build_contexts["lib"], spec.dir.join("sub").display().to_string());
    assert_eq!(recipe.build_contexts["base"], "docker-image://alpine:3");
    assert_eq!(
        (recipe.cache_from.as_slice(), recipe.cache_to.as_slice()),
        (&["a/b".into()][..], &["type=inline".into()][..])
    );
}

#[test]
fn control_characters_are_refused_where_they_would_be_read_as_something_else() {
    for (keys, key) in [
        (r#"user: "root\nX""#, "user"),
        (r#"user: "a b""#, "user"),
        (r#"workdir: "/a\rb""#, "workdir"),
        (r#"env: { "A\nB": x }"#, "env"),
        (r#"env: { A: "x\0" }"#, "env"),
        (r#"labels: { "a\nb": x }"#, "labels"),
    ] {
        let text = format!("image: a/b\nplatforms: {{ linux/amd64: {{ copy: {{ app: /app }}, {keys} }} }}");
        let problems = parse(&text).unwrap_err();
        let expected = format!("\"{key}\" contains a line break or another character");
        assert!(problems.len() == 1 && problems[0].text.starts_with(&expected), "{keys}: {problems:?}");
        assert_eq!(problems[0].line, 2, "{keys}");
    }
    let text = r#"image: a/b
platforms: { linux/amd64: { copy: { app: /app }, user: "app:app", env: { A: "two\nlines" }, cmd: ["a\nb"] } }"#;
    parse(text).unwrap();
}
