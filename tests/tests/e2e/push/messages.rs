//! Error messages: they quote the input and suggest a solution.

use super::*;

struct Row<'a> {
    line: &'a str,
    exit: u8,
    says: &'a [&'a str],
    never: &'a str,
}

#[test]
fn errors_refer_to_what_was_typed() {
    let rig = Rig::new();
    Image::new("linux/amd64", "arm's own").publish(&rig.registry, REPOSITORY, "linux-arm");
    Image::new("linux/amd64", "again").publish(&rig.registry, REPOSITORY, "again");
    rig.push(&[]).exits(0);
    let host = rig.registry.host();
    let rows = [
        Row {
            line: "push from-args --platforms linux/arm --template R:OS-ARCH --target R:new",
            exit: 3,
            says: &["declares linux/amd64 but would be published as linux/arm", "cannot publish \"R:new\""],
            never: "spec",
        },
        Row {
            line: "push from-args --platforms linux/amd64,linux/amd64/v1 --template R:ARCH --target R:new",
            exit: 3,
            says: &["duplicate platform linux/amd64/v1; linux/amd64 is the same platform"],
            never: "line",
        },
        Row {
            line: "edit R:latest --add linux/s390x=R:amd64",
            exit: 3,
            says: &["declares linux/amd64 but would be published as linux/s390x", "cannot edit \"R:latest\""],
            never: "spec",
        },
        Row {
            line: "edit R:latest --add R:gone",
            exit: 5,
            says: &["cannot read \"R:gone\"", "cannot edit \"R:latest\""],
            never: "arguments",
        },
        Row {
            line: "create R:new R:gone",
            exit: 5,
            says: &["cannot read \"R:gone\"", "cannot draft \"R:new\""],
            never: "arguments",
        },
        Row {
            line: "edit R:latest --annotation a=b",
            exit: 3,
            says: &["cannot edit \"R:latest\"", "convert it to an OCI index with --type oci"],
            never: "read",
        },
        Row { line: "push from-spce", exit: 2, says: &["did you mean from-spec?"], never: "draft" },
        Row { line: "push from-spce spec.yaml", exit: 2, says: &["did you mean from-spec?"], never: "draft" },
        Row {
            line: "push from-arg --platforms x",
            exit: 2,
            says: &["did you mean from-args?"],
            never: "draft",
        },
        Row {
            line: "inspect https://R:latest",
            exit: 2,
            says: &["is a URL; remove \"https://\""],
            never: "repository name",
        },
        Row {
            line: "rm R:latest",
            exit: 5,
            says: &["no draft", "rm does not remove published images"],
            never: "create",
        },
        Row {
            line: "copy --platform linux/s390x R:latest oci:x",
            exit: 5,
            says: &["it has linux/amd64"],
            never: "spec",
        },
        Row {
            line: "copy --platform linux/arm R:amd64 oci:x",
            exit: 5,
            says: &["a single image that declares linux/amd64"],
            never: "spec",
        },
    ];
    let name = format!("{host}/{REPOSITORY}");
    for Row { line, exit, says, never } in rows {
        let words: Vec<String> =
            line.split(' ').map(|word| word.replace("R:", &format!("{name}:"))).collect();
        let ran = rig.user.manifest_push(&words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.code, Some(exit.into()), "{line}: {ran}");
        for says in says {
            assert!(ran.stderr.contains(&says.replace("R:", &format!("{name}:"))), "{line}: {says}: {ran}");
        }
        // The file of the spec has the word in its name.
        let stderr = ran.stderr.replace("from-spec", "").replace("spec.yaml", "");
        assert!(!stderr.contains(never), "{line}: {never}: {ran}");
    }
}

/// A wrong password, not a missing one: the message has its user and its source.
#[test]
fn rejected_credentials_are_identified_and_never_printed() {
    const WRONG: &str = "starling-0b7d";
    let basic = Auth::Basic { user: "ann".into(), password: "right".into() };
    let bearer = Auth::Bearer(Bearer { anonymous_pull: false, ..Bearer::new("ann", "right") });
    for auth in [basic, bearer] {
        let rig = Rig::with(Options { auth, ..Options::default() });
        let (latest, host) = (rig.name("amd64"), rig.registry.host());
        let refused = |options: &[&str], from: &str| {
            let ran = rig.user.manifest_push(&[options, &["inspect", &latest]].concat()).exits(4);
            let says = format!(
                "authentication failed for user \"ann\" (credentials from {from}); run: docker login {host}"
            );
            assert!(ran.stderr.contains(&says), "{says}: {ran}");
            assert!(!ran.stderr.replace(&format!("--password {WRONG}"), "").contains(WRONG), "{ran}");
        };
        let ran = rig.user.manifest_push(&["inspect", &latest]).exits(4);
        assert!(
            ran.stderr.contains(&format!("run: docker login {host}"))
                && !ran.stderr.contains("authentication failed"),
            "{ran}"
        );
        refused(&["--username", "ann", "--password", WRONG], "the command line");
        rig.user.log_in(&host, "ann", WRONG);
        refused(&[], &format!("{}/home/.docker/config.json", rig.user.work().parent().unwrap().display()));
        rig.user.script(
            "docker-credential-keeper",
            &format!(r#"cat >/dev/null; echo '{{"Username":"ann","Secret":"{WRONG}"}}'"#),
        );
        rig.user.write("by-helper.json", r#"{"credsStore":"keeper"}"#);
        refused(&["--auth-file", "by-helper.json"], "docker-credential-keeper");
    }
}

#[test]
fn an_incomplete_draft_is_reported_with_what_is_missing() {
    let rig = Rig::new();
    Image::new("linux/amd64", "again").publish(&rig.registry, REPOSITORY, "again");
    let (list, amd64, again) = (rig.name("list"), rig.name("amd64"), rig.name("again"));
    rig.user.manifest_push(&["create", &list, &amd64, &again]).exits(0);
    let ran = rig.user.manifest_push(&["inspect", &list]).exits(3);
    for says in
        ["duplicate platform", "cannot inspect the draft of", &format!("manifest-push annotate {list} IMAGE")]
    {
        assert!(ran.stderr.contains(says), "{says}: {ran}");
    }
    assert!(!ran.stderr.contains("publish"), "{ran}");
    rig.user
        .manifest_push(&["rm", &rig.name("none")])
        .exits(5)
        .assert_stderr_contains(&format!("there are drafts of {list}"));
}

#[test]
fn a_forced_mismatch_is_a_warning() {
    let rig = Rig::new();
    Image::new("linux/amd64", "arm's own").publish(&rig.registry, REPOSITORY, "arm32v7");
    Image::new("linux/amd64", "arm's other").publish(&rig.registry, REPOSITORY, "arm32v5");
    let ran = rig.push(&["--force"]).exits(0);
    let warnings: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    for (tag, platform) in [("arm32v7", "linux/arm/v7"), ("arm32v5", "linux/arm/v5")] {
        let one = format!("{} declares linux/amd64 and is published as {platform} (--force)", rig.name(tag));
        assert_eq!(warnings.iter().filter(|line| line.contains(&one)).count(), 1, "{one}: {ran}");
    }
    assert_eq!(warnings.len(), 2, "{ran}");
    let add = format!("linux/s390x={}", rig.name("amd64"));
    rig.user
        .manifest_push(&["edit", "--force", &rig.name("latest"), "--add", &add])
        .exits(0)
        .assert_stderr_contains("warning: ");
}

#[test]
fn a_docker_list_is_converted_to_an_oci_index_on_request() {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let before = rig.digest_of_tag("latest").unwrap();
    let latest = rig.name("latest");
    rig.user.manifest_push(&["edit", &latest, "--type", "oci", "--annotation", "a=b"]).exits(0);
    let (media_type, bytes) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    let text = String::from_utf8(bytes).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&list["mediaType"], &list["annotations"]["a"]), (&media_type.into(), &"b".into()));
    let (_, old) = rig.registry.manifest(REPOSITORY, &before).unwrap();
    let old = String::from_utf8(old).unwrap();
    let members = &old[old.find("\"manifests\"").unwrap()..old.rfind(']').unwrap()];
    assert!(text.contains(members), "the entries keep every byte: {text}");
    rig.assert_sound();
    rig.user
        .manifest_push(&["edit", &latest, "--type", "docker"])
        .exits(3)
        .assert_stderr_contains("it has annotations, which");
}

#[test]
fn the_type_may_precede_or_follow_the_subcommand() {
    let rig = Rig::new();
    let check = |args: &[&str]| {
        rig.user.manifest_push(&[args, &["spec.yaml", "--dry-run"]].concat()).exits(0).line().to_string()
    };
    let before = check(&["push", "--type", "oci", "from-spec"]);
    assert_eq!(check(&["push", "from-spec", "--type", "oci"]), before);
    assert_eq!(check(&["push", "from-spec", "-type=oci"]), before);
    assert_ne!(check(&["push", "from-spec"]), before);
}

#[test]
fn a_plan_prints_short_image_names() {
    let rig = Rig::new();
    let amd64 = rig.name("amd64");
    let plan = |args: &[&str]| {
        rig.user.manifest_push(&[&["copy", "--dry-run", &amd64], args].concat()).exits(0).stderr
    };
    let (to_layout, to_other) =
        (plan(&["oci:dir"]), plan(&[&format!("{}/team/other:1", rig.registry.host())]));
    let tag = |plan: &str| plan.lines().find(|line| line.starts_with("  tag ")).unwrap().to_string();
    assert!(tag(&to_layout).contains("  oci:dir  new"), "{to_layout}");
    assert!(to_layout.contains("  copy from ") && !to_layout.contains("mount"), "{to_layout}");
    assert!(tag(&to_other).contains("/team/other:1  new"), "{to_other}");
    assert!(to_other.contains("  mount or copy from "), "{to_other}");
}
