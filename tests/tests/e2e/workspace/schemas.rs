//! `--schema`: real outputs of every command with a JSON form of its own are valid, by another's validator.

use super::dry_runs::Prepared;
use super::help::all_helps;
use crate::tools::{Ran, User};
use multiarch_tests::need;
use multiarch_tests::world::{Skip, program, require};
use std::collections::BTreeSet;
use std::process::Command;

/// Command lines of a command: results first, then `!` and failures. They are run one after the other.
fn lines(program: &str, command: &str) -> &'static [&'static str] {
    match command {
        "inspect" if program == "manifest-push" => {
            &["inspect HOST/app:1", "inspect HOST/app:draft", "! inspect oci:none"]
        }
        "inspect" => &["inspect oci:wrong:v1", "inspect HOST/app:1", "! inspect oci:none"],
        "verify" => &[
            "verify oci:wrong:v1",
            "verify oci:wrong:v1 HOST/app:1 oci:wrong:gone",
            "! verify --all-tags oci:none",
        ],
        "why" => &[
            "why oci:wrong:v1",
            "why HOST/app:1 --platform linux/arm64",
            "! why oci:none",
            "! why HOST/app:1 --platform linux/s390x",
        ],
        "fix" => &[
            "fix oci:wrong:v1 --from-binaries --check",
            "fix oci:wrong:v1 --from-binaries --dry-run",
            "fix oci:wrong:v1 --from-binaries",
            "fix oci:wrong:v1 --from-binaries",
            "! fix oci:none --from-binaries",
        ],
        "push" => &[
            "push HOST/app:draft --dry-run",
            "push HOST/app:draft",
            "push HOST/app:draft",
            "push from-spec spec.yaml",
            "! push from-spec none.yaml",
        ],
        "create" => {
            &["create HOST/app:a HOST/app:amd64 HOST/app:arm64", "! create HOST/app:a HOST/app:amd64"]
        }
        "edit" => &[
            "edit HOST/app:1 --remove linux/arm64 --dry-run",
            "edit HOST/app:1 --remove linux/arm64",
            "! edit HOST/app:1 --remove linux/arm64",
        ],
        "copy" => {
            &["copy HOST/app:1 oci:copied:1", "copy HOST/app:1 oci:copied:1", "! copy oci:none oci:copied:1"]
        }
        "rollback" if program == "multiarch" => &[
            "rollback report.json --dry-run",
            "rollback report.json",
            "rollback report.json",
            "! rollback oci:none:1",
        ],
        "rollback" => &["rollback HOST/app:1 --dry-run", "rollback HOST/app:1", "! rollback HOST/app:none"],
        "release" => &[
            "release --example --to oci:released --dry-run",
            "release --example --to oci:released",
            "release --example --to oci:released --dry-run --only linux/amd64",
            "release --example --to oci:released --only linux/amd64",
            "! release none.yaml",
            "! release failing.yaml --report failed.json",
        ],
        other => panic!("no command line for {program} {other}"),
    }
}

#[test]
fn the_json_of_every_command_is_as_its_schema_specifies() {
    need!(require(&["python3"]));
    let helps = all_helps(&User::new());
    let commands: BTreeSet<(&str, String)> = helps
        .iter()
        .filter(|help| help.flags.contains("--schema"))
        .filter(|help| help.path.first().is_some_and(|first| first != "binfmt"))
        .map(|help| (help.program, help.path.join(" ")))
        .collect();
    let of = |program: &str| {
        let own = commands.iter().filter(|(name, _)| *name == program);
        own.map(|(_, command)| command.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("binfmt-setup"), "probe register status unregister");
    assert_eq!(of("config-patcher"), "fix inspect verify why");
    assert_eq!(of("manifest-push"), "copy create edit inspect push rollback");
    assert_eq!(of("multiarch"), "copy create edit fix inspect push release rollback verify why");
    // Those of binfmt-setup are in another test, since they need emulators.
    for (program, command) in commands.into_iter().filter(|(program, _)| *program != "binfmt-setup") {
        let prepared = Prepared::new();
        if command == "rollback" {
            prepared.release();
        }
        let failing = "image: oci:failing\nprepare: [[\"false\"]]\nplatforms:\n  \
                       linux/amd64: { copy: { spec.yaml: /x }, cmd: [/x] }\n";
        prepared.user.write("failing.yaml", failing);
        let schema = prepared.run(program, &format!("{command} --schema")).exits(0);
        prepared.user.write("schema.json", &schema.stdout);
        for line in lines(program, &command) {
            let (line, fails) = line.strip_prefix("! ").map_or((*line, false), |line| (line, true));
            let ran = prepared.run(program, &format!("{line} --format json"));
            assert_eq!(ran.json()["schemaVersion"], 2, "{ran}");
            assert_eq!(ran.json().get("error").is_some(), fails, "{ran}");
            assert!(!fails || ran.code != Some(0), "{ran}");
            is_valid(&prepared, &ran, &ran.stdout);
        }
        if command == "release" {
            let failed = std::fs::read_to_string(prepared.user.path("failed.json")).unwrap();
            is_valid(&prepared, &schema, &failed);
        }
    }
}

/// In a table of its own, so that the table of the host is not changed.
#[test]
fn the_json_of_binfmt_setup_is_as_its_schema_specifies() {
    need!(require(&["python3", "qemu-arm-static"]));
    let prepared = Prepared::new();
    let private = prepared.run("binfmt-setup", "run --platform linux/arm/v7 -- true");
    need!(if private.code == Some(0) { Ok(()) } else { Err(Skip::because(private.stderr)) });
    let program = crate::tools::program("binfmt-setup");
    for (command, lines) in [
        ("status", &["status", "run --platform linux/arm/v7 -- PROGRAM status"][..]),
        ("probe", &["probe", "probe linux/amd64", "run -- PROGRAM probe linux/arm/v7", "! probe nonsense"]),
        (
            "register",
            &[
                "register arm --persist --replace --dry-run",
                "register linux/amd64 --dry-run",
                "run --platform linux/amd64 -- PROGRAM register arm",
                "! register nonsense",
            ],
        ),
        (
            "unregister",
            &[
                "unregister all --persist --dry-run",
                "run --platform linux/arm/v7 -- PROGRAM unregister arm",
                "! unregister nonsense",
            ],
        ),
    ] {
        let schema = prepared.run("binfmt-setup", &format!("{command} --schema")).exits(0);
        prepared.user.write("schema.json", &schema.stdout);
        for line in lines {
            let (line, code) = line.strip_prefix("! ").map_or((*line, 0), |line| (line, 3));
            let line = line.replace("PROGRAM", program.to_str().unwrap());
            let ran = prepared.run("binfmt-setup", &format!("{line} --format json")).exits(code);
            is_valid(&prepared, &ran, &ran.stdout);
            let has_rows = |key: &str| ran.stdout.contains(&format!("\"{key}\": [\n"));
            let is_private = line.contains(" -- ");
            assert!(
                !is_private || has_rows("entries") || has_rows("platforms") || has_rows("steps"),
                "{ran}"
            );
        }
    }
}

/// Valid by `schema.json`; not any more without a key, or with another key.
#[track_caller]
pub fn is_valid(prepared: &Prepared, ran: &Ran, text: &str) {
    prepared.user.write("output.json", text);
    let check = "import copy, json, jsonschema\n\
                 schema, output = (json.load(open(name)) for name in ('schema.json', 'output.json'))\n\
                 assert schema['$schema'] == 'https://json-schema.org/draft/2020-12/schema'\n\
                 kind = jsonschema.validators.validator_for(schema)\n\
                 kind.check_schema(schema)\n\
                 kind(schema).validate(output)\n\
                 for key in output:\n    \
                     damaged = copy.copy(output)\n    \
                     del damaged[key]\n    \
                     assert list(kind(schema).iter_errors(damaged)) or key == 'writes', key\n\
                 assert list(kind(schema).iter_errors(dict(output, other=1)))\n";
    let mut python = Command::new(program("python3").unwrap());
    let done = python.args(["-c", check]).current_dir(prepared.user.work()).output().unwrap();
    assert!(done.status.success(), "{}\n{ran}", String::from_utf8_lossy(&done.stderr));
}
