//! Usage errors of every command: text on stderr, and with `--format json` the error object on stdout.

use super::dry_runs::Prepared;
use super::help::{Help, all_helps};
use super::schemas::is_valid;
use crate::tools::Ran;
use multiarch_tests::need;
use multiarch_tests::world::require;

fn run(prepared: &Prepared, help: &Help, options: &[&str]) -> Ran {
    let path = help.path.iter().map(String::as_str);
    prepared.user.run(help.program, &path.chain(options.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_usage_error_is_an_object_as_well() {
    need!(require(&["python3"]));
    let prepared = Prepared::new();
    let helps = all_helps(&prepared.user);
    // `cargo xtask bench` passes its arguments to another program.
    let has_format = |help: &&Help| help.flags.contains("--format") && help.path != ["bench"];
    let commands: Vec<&Help> = helps.iter().filter(has_format).collect();
    for program in ["binfmt-setup", "config-patcher", "manifest-push", "multiarch", "xtask"] {
        assert!(commands.iter().filter(|help| help.program == program).count() >= 4, "{program}");
    }
    let shared = prepared.run("config-patcher", "inspect --schema").exits(0).stdout;
    for help in commands {
        let has_schema = help.flags.contains("--schema");
        let own = has_schema.then(|| run(&prepared, help, &["--schema"]).exits(0).stdout);
        prepared.user.write("schema.json", own.as_ref().unwrap_or(&shared));
        let text = run(&prepared, help, &["--no-such-option"]).exits(2).prints_nothing();
        let expected = "cannot parse the command line: unexpected argument '--no-such-option' found";
        // The -o of `fix` is --output.
        let short = help.text.contains("-o, --format").then_some(&["-o", "json"][..]);
        assert_eq!(short.is_none(), help.path == ["fix"], "{} {:?}", help.program, help.path);
        for format in [&["--format", "json"][..], &["--format=json"]].into_iter().chain(short) {
            let ran = run(&prepared, help, &[&["--no-such-option"], format].concat()).exits(2);
            assert_eq!(ran.stderr, text.stderr, "{ran}");
            let error = &ran.json()["error"];
            assert_eq!(error["exit"], 2, "{ran}");
            assert!(error["message"].as_str().unwrap().starts_with(expected), "{ran}");
            if format == ["--format=json"] {
                is_valid(&prepared, &ran, &ran.stdout);
            }
        }
        let help = run(&prepared, help, &["--format", "json", "--help"]).exits(0);
        assert!(help.stdout.contains("Usage:"), "{help}");
    }
    let version = prepared.run("multiarch", "--format json --version").exits(0);
    assert!(version.stdout.starts_with("multiarch "), "{version}");
    // The output options of multiarch are those of binfmt-setup as well.
    for line in ["-o json binfmt --no-such-option", "binfmt --format json probe --no-such-option"] {
        let ran = prepared.run("multiarch", line).exits(2);
        assert_eq!(ran.json()["error"]["exit"], 2, "{ran}");
    }
    prepared.run("config-patcher", "fix --no-such-option -o json").exits(2).prints_nothing();
    prepared.run("binfmt-setup", "run --no-such-option -- tool --format json").exits(2).prints_nothing();
}
