//! Command lines of manifest-tool, with the program name replaced.

use super::*;
use std::io::Write;
use std::process::Stdio;

const PLATFORMS: &str = "linux/amd64,linux/arm/v5,linux/arm/v7,linux/arm64/v8";

/// Returns a registry with the sample images under names that a template produces.
fn with_template() -> (Rig, String) {
    let rig = Rig::new();
    for (image, tag) in rig.images.iter().zip(["linux-amd64", "linux-armv5", "linux-armv7", "linux-arm64v8"])
    {
        image.publish(&rig.registry, REPOSITORY, tag);
    }
    let template = rig.name("OS-ARCHVARIANT");
    (rig, template)
}

#[test]
fn from_args_and_from_spec_push_the_same_list() {
    let (rig, template) = with_template();
    let expected = expected_list(&rig.images);
    let target = rig.name("latest");
    let line = ["push", "from-args", "--platforms", PLATFORMS, "--template", &template, "--target", &target];
    let digest = Digest::of(expected.as_bytes());
    let printed = format!("Digest: {digest} {}", expected.len());
    rig.user
        .manifest_push(&[&["--insecure", "--plain-http"], &line[..], &["--tags", "1.0,1"]].concat())
        .exits(0)
        .prints(&printed);
    for tag in ["latest", "1.0", "1"] {
        assert_eq!(rig.digest_of_tag(tag).as_deref(), Some(digest.as_str()));
    }
    rig.assert_sound();
    rig.push(&[]).exits(0).prints(&printed).assert_stderr_contains("nothing to do in");
    let oci = ["-debug=true", "push", "-type", "oci", "from-args", "-platforms", PLATFORMS];
    let rest = ["-template", &template, "-target", &target, "-annotations", "a.b=c"];
    let ran = rig.user.manifest_push(&[&oci[..], &rest].concat()).exits(0).assert_stderr_contains("GET");
    let (media_type, bytes) = rig.registry.manifest(REPOSITORY, "latest").unwrap();
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    assert_eq!(ran.line(), format!("Digest: {} {}", Digest::of(&bytes), bytes.len()));
    assert!(String::from_utf8(bytes).unwrap().contains("\"a.b\": \"c\""));
    rig.assert_sound();
}

#[test]
fn all_problems_of_arguments_are_reported_at_once() {
    let (rig, template) = with_template();
    let target = rig.name("latest");
    let push = |platforms: &str, more: &[&str]| {
        let line =
            ["push", "from-args", "--platforms", platforms, "--template", &template, "--target", &target];
        rig.user.manifest_push(&[&line[..], more].concat())
    };
    push("linux/amd64,linux/s390x,linux/riscv64", &[])
        .exits(5)
        .assert_stderr_contains("manifest-push: cannot read")
        .assert_stderr_contains("s390x")
        .assert_stderr_contains("riscv64")
        .assert_stderr_contains(&format!("cannot publish \"{target}\": 2 errors"));
    push("linux/amd64,linux/s390x", &["--ignore-missing", "--dry-run"])
        .exits(0)
        .assert_stderr_contains("skipped: cannot read");
    push("linux,linux/aarch64", &[])
        .exits(3)
        .assert_stderr_contains("OS/ARCH[/VARIANT]")
        .assert_stderr_contains("is an alias; write \"linux/arm64\"");
    push("linux/amd64", &["--annotations", "a=b"]).exits(3).assert_stderr_contains("--type oci");
    rig.assert_nothing_written();
}

/// The output of Go's encoder: indented by four spaces, keys of the image-spec, `\u003c`.
#[test]
fn inspect_raw_prints_what_manifest_tool_prints() {
    let rig = Rig::new();
    rig.push(&[]).exits(0);
    let latest = rig.name("latest");
    let shown = rig.user.manifest_push(&["inspect", "--raw", &latest]).exits(0).stdout;
    let digest = rig.digest_of_tag("latest").unwrap();
    let head = format!(
        "{{\n    \"name\": \"{latest}\",\n    \"digest\": \"{digest}\",\n    \"schemaVersion\": 2,\n    \"mediaType\": \"application/vnd.docker.distribution.manifest.list.v2+json\",\n    \"manifests\": [\n        {{\n            \"schemaVersion\": 2,\n            \"mediaType\": \"application/vnd.docker.distribution.manifest.v2+json\",\n            \"config\": {{\n                \"mediaType\": \"application/vnd.docker.container.image.v1+json\",\n                \"digest\": \"{}\",\n                \"size\": {}\n            }},",
        rig.images[0].config_digest(),
        rig.images[0].config.len()
    );
    assert!(shown.starts_with(&head), "{shown}");
    let arm = rig.name("arm32v7");
    let shown = rig.user.manifest_push(&["inspect", "--raw", &arm]).exits(0);
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!((&json["os"], &json["architecture"]), (&"linux".into(), &"arm".into()));
    assert_eq!(json["layers"][0]["digest"], rig.images[2].layer_digest());
    let shown = rig.user.manifest_push(&["inspect", "--raw", "--expand-config", &arm]).exits(0).stdout;
    let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&json["config"]["variant"], &json["config"]["config"]["Cmd"][0]),
        (&"v7".into(), &"/app".into())
    );
    assert!(!shown.contains("StopTimeout"), "Go's struct does not have it: {shown}");
    rig.user.manifest_push(&["inspect", "--expand-config", &arm]).exits(2);
}

const CANARY: &str = "canary-3f9a";
/// Each test has its own password, because one of them searches the command lines of all processes.
const OTHER: &str = "wren-71c2";

fn with_password(password: &str) -> Rig {
    let bearer = Bearer { anonymous_pull: false, ..Bearer::new("ann", password) };
    Rig::with(Options { auth: Auth::Bearer(bearer), ..Options::default() })
}

/// A password from every source; it must not occur in output or process lists.
#[test]
fn a_password_is_used_and_never_printed() {
    let rig = with_password(CANARY);
    rig.push(&[]).exits(4);
    let spec = ["push", "from-spec", "spec.yaml", "-v", "--debug"];
    let ran = rig
        .user
        .manifest_push(&[&["--username", "ann", "--password", CANARY], &spec[..]].concat())
        .exits(0)
        .assert_stderr_contains("--password-stdin");
    // The process list has the password with --password only.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let spy = Arc::clone(&seen);
    rig.registry.on_request(move |_, _| spy.lock().unwrap().extend(command_lines_with(CANARY)));
    let words = ["--username", "ann", "--password-stdin", "push", "from-spec", "spec.yaml", "--debug"];
    let mut command = rig.user.command("manifest-push", &words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{CANARY}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(*seen.lock().unwrap(), [""; 0]);
    rig.user.write("cfg/config.json", docker_config(&rig.registry.host()));
    rig.user.manifest_push(&[&["--docker-cfg", "cfg"], &spec[..]].concat()).exits(0);
    rig.user.manifest_push(&[&["--docker-cfg", "cfg/config.json"], &spec[..]].concat()).exits(0);
    rig.user
        .manifest_push(&[&["--docker-cfg", "none"], &spec[..]].concat())
        .exits(4)
        .assert_stderr_contains("none");
    rig.user.manifest_push(&[&["--username", "ann"], &spec[..]].concat()).exits(2);
    std::fs::remove_dir_all(rig.user.path("cfg")).unwrap();
    let output_text = [ran.stdout, ran.stderr, String::from_utf8(output.stderr).unwrap()].concat();
    assert!(!output_text.contains(CANARY), "{output_text}");
    for (path, (.., content)) in listing(rig.user.work().parent().unwrap()) {
        let found = content.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!found, "{}", path.display());
    }
}

/// Returns the command lines of processes that contain this word.
fn command_lines_with(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(word)).collect()
}

fn docker_config(host: &str) -> String {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("ann:{CANARY}"));
    serde_json::json!({"auths": {host: {"auth": auth}}}).to_string()
}

/// The password of the command line is sent only to the registry that is written to.
#[test]
fn a_password_is_sent_only_to_the_target_registry() {
    let ours = with_password(OTHER);
    let theirs = with_password(OTHER);
    let image = Image::new("linux/s390x", "theirs");
    image.publish(&theirs.registry, "their/app", "1");
    let spec = format!(
        "image: {}\nmanifests:\n- image: {}\n- image: {}/their/app:1\n",
        ours.name("latest"),
        ours.name("amd64"),
        theirs.registry.host()
    );
    ours.user.write("both.yaml", spec);
    ours.user
        .manifest_push(&["--username", "ann", "--password", OTHER, "push", "from-spec", "both.yaml"])
        .exits(4)
        .assert_stderr_contains(&theirs.registry.host());
    let secrets = |rig: &Rig| rig.registry.credentials().into_iter().map(|c| c.secret).collect::<Vec<_>>();
    let is_ours = |secret: &String| secret.contains(OTHER);
    assert!(secrets(&ours).iter().any(is_ours));
    assert!(!secrets(&theirs).iter().any(is_ours), "{:?}", secrets(&theirs));
}
