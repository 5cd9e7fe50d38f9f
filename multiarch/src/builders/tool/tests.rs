//! Tests of how a step is printed, executed and logged.

use super::*;

fn recipe(args: &[(&str, Option<&str>)]) -> DockerfileRecipe {
    let args = args.iter().map(|(name, value)| ((*name).to_string(), value.map(str::to_string)));
    DockerfileRecipe {
        target: Some("run time".into()),
        build_args: BuildArgs(args.collect()),
        ..DockerfileRecipe::new("D".into(), ".".into())
    }
}

#[test]
fn secret_build_arguments_are_neither_shown_nor_arguments() {
    let step = Step::new(&["build"]).recipe(&recipe(&[("TOKEN", Some("hunter2")), ("FROM_ENV", None)]));
    assert_eq!(
        step.shown("docker"),
        "docker build --target 'run time' --build-arg FROM_ENV --build-arg TOKEN --file D ."
    );
    assert!(step.arguments.iter().all(|argument| !argument.to_string_lossy().contains("hunter2")));
    assert_eq!(step.environment, [("TOKEN".to_string(), "hunter2".to_string())]);
}

#[test]
fn no_build_argument_configures_the_engine() {
    for name in [
        "HTTP_PROXY",
        "GIT_SSH_COMMAND",
        "_CONTAINERS_USERNS_CONFIGURED",
        "STORAGE_DRIVER",
        "BASH_ENV",
        "PATH",
        "VERSION",
        "DOCKER_TOKEN",
        "REGISTRY_PASSWORD",
        "GODEBUG",
    ] {
        let step = Step::new(&["build"]).recipe(&recipe(&[(name, Some("value"))]));
        assert!(step.environment.is_empty(), "{name}");
        assert!(step.arguments.contains(&format!("{name}=value").into()), "{name}");
        // Only secrets are replaced in a log.
        assert!(step.secrets.is_empty(), "{name}");
    }
}

#[test]
fn a_context_is_never_an_option() {
    let recipe = DockerfileRecipe { context: "--volume=:host".into(), ..recipe(&[]) };
    let step = Step::new(&["build"]).recipe(&recipe);
    assert_eq!(step.arguments.last().unwrap(), "./--volume=:host");
}

#[test]
fn secrets_are_replaced_in_lines_of_any_length() {
    let hidden = |value: &str, shown| Hidden { value: value.into(), shown };
    let secrets = [hidden("hunter2", "[secret]"), hidden("hunter2hunter2", "[long]")];
    let check = |text: &str, expected: &str| {
        let mut log = Vec::new();
        copy_redacted(text.as_bytes(), &mut log, &secrets).unwrap();
        assert_eq!(String::from_utf8(log).unwrap(), expected);
    };
    check("", "");
    check("hunter2", "[secret]");
    check("a hunter2hunter2\nhunter", "a [long]\nhunter");
    for before in CHUNK - 20..CHUNK + 2 {
        let dots = ".".repeat(before);
        check(&format!("{dots}hunter2 hunter2hunter2{dots}"), &format!("{dots}[secret] [long]{dots}"));
    }
    // One byte at a time.
    struct Slowly<'a>(&'a [u8]);
    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let count = self.0.len().min(1);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
    let mut log = Vec::new();
    copy_redacted(Slowly(b"is hunter2!"), &mut log, &secrets).unwrap();
    assert_eq!(log, b"is [secret]!");
}

#[test]
fn a_failed_step_is_reported_with_command_status_and_end_of_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("logs/build.log");
    let shell = Tool::at("sh", Path::new("sh"));
    shell.run(&Step::new(&["-c", "echo before"]), &log).unwrap();
    let script = "for i in $(seq 30); do echo line $i; done; echo bad password-9 >&2; exit 7";
    let mut step = Step::new(&["-c", script]);
    step.hide("password-9".into(), "[secret]");
    let error = shell.run(&step, &log).unwrap_err();
    assert!(error.to_string().contains("it ended with exit status: 7"), "{error}");
    assert!(error.to_string().contains("build.log"), "{error}");
    assert_eq!(error.kind, error::Exit::CommandFailed);
    assert!(error.to_string().contains("nothing was published"), "{error}");
    assert_eq!(error.problems.len(), LINES_SHOWN);
    assert_eq!(error.problems[0], "sh: line 12");
    assert_eq!(error.problems[LINES_SHOWN - 1], "sh: bad [secret]");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("$ sh -c 'echo before'\nbefore\n$ sh -c"), "{text}");
}

#[test]
fn a_missing_program_is_named() {
    let none = Tool::at("none", Path::new("/nonexistent/none"));
    assert_eq!(none.ask(&["version"]), Err("it is not installed".into()));
    let sh = Tool::at("sh", Path::new("sh"));
    assert_eq!(
        sh.ask(&["-c", "echo a >&2; echo 'no daemon' >&2; echo >&2; exit 1"]),
        Err("no daemon".into())
    );
    assert_eq!(sh.ask(&["-c", "exit 3"]), Err("it ends with exit status: 3".into()));
    assert_eq!(sh.ask(&["-c", "echo yes"]), Ok("yes".into()));
}

#[test]
fn every_key_of_a_recipe_is_an_argument_and_a_secret_is_one_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("npmrc");
    std::fs::write(&file, "registry=x\n_authToken=hunter2hunter2\n").unwrap();
    let secret = |id: &str, source| Secret { id: id.into(), source };
    let recipe = DockerfileRecipe {
        secrets: vec![
            secret("npm", SecretSource::File(file.clone())),
            secret("path", SecretSource::Variable("PATH".into())),
        ],
        build_contexts: [("lib".to_string(), "../lib".to_string())].into(),
        cache_from: vec!["type=registry,ref=a/b".into()],
        cache_to: vec!["type=inline".into()],
        ..DockerfileRecipe::new("D".into(), ".".into())
    };
    let step = Step::new(&["build"]).recipe(&recipe);
    let shown = step.shown("docker").replace(&*dir.path().to_string_lossy(), "DIR");
    assert_eq!(
        shown,
        "docker build --secret id=npm,src=DIR/npmrc --secret id=path,env=PATH --build-context lib=../lib \
         --cache-from type=registry,ref=a/b --cache-to type=inline --file D ."
    );
    // The log does not have it, although the build prints it.
    let log = dir.path().join("log");
    let mut step = Step::new(&["-c", "cat \"$0\"; echo \"PATH is $PATH\" >&2; exit 1"]).arg(&file);
    step.secrets = Step::new(&[]).recipe(&recipe).secrets;
    let error = Tool::at("sh", Path::new("sh")).run(&step, &log).unwrap_err();
    assert_eq!(error.problems, ["sh: [secret]", "sh: [secret]", "sh: PATH is [secret]"]);
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("hunter2") && text.contains("[secret]\n[secret]\nPATH is [secret]\n"), "{text}");
}

#[test]
fn a_build_does_not_wait_for_background_programs() {
    let dir = tempfile::tempdir().unwrap();
    let mut step = Step::new(&["-c", "sleep 30 & echo done"]);
    step.hide("password-9".into(), "[secret]");
    let begun = std::time::Instant::now();
    Tool::at("sh", Path::new("sh")).run(&step, &dir.path().join("log")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
}
