//! Machine-readable reports: JSON with its schema, SARIF, JUnit.

use super::made::{Layer, exe, image, index, probe, put, verify};
use crate::tools::User;
use crate::workspace::sources::workspace;
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::need;
use multiarch_tests::world::{program, require};
use std::process::Command;

/// Returns references of an image for every verdict, of an index, and of an image that does not exist.
pub fn images(user: &User) -> Vec<String> {
    let (amd64, arm64) = (probe("linux/amd64"), probe("linux/arm64"));
    let one = |name: &str, layers: Vec<Layer>| {
        image("linux/arm64", &["/app"], layers.into_iter().map(Layer::end).collect()).layout(user, name)
    };
    let app = |program: &[u8]| Layer::new().file("app", program);
    let dir = user.path("index");
    put(index(), &OciLayout::open_or_create(&dir).unwrap(), "v1");
    vec![
        one("right", vec![app(&arm64)]),
        one("wrong", vec![app(&amd64)]),
        one("mixed", vec![app(&amd64).file("bin/sh", &arm64)]),
        one("payload", vec![app(&arm64).file("lib/<b>&\u{202e}t.exe", &exe())]),
        image("linux/arm64", &[], vec![Layer::new().file("app", b"#!/bin/sh\n").end()])
            .layout(user, "script"),
        format!("oci:{}:v1", dir.display()),
        format!("oci:{}:gone", dir.display()),
    ]
}

#[test]
fn the_json_is_valid_by_its_schema() {
    need!(require(&["python3"]));
    let user = User::new();
    let schema = verify(&user, &["--schema"]).exits(0).stdout;
    user.write("schema.json", &schema);
    let names = images(&user);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ran = verify(&user, &[&names[..], &["--format", "json"]].concat()).exits(5);
    user.write("result.json", &ran.stdout);
    assert_valid(
        &user,
        "result.json",
        "del result['images'][1]['verdict'], result['images'][1]['declaredPlatform']",
    );
    // An image whose layers are damaged, and one whose layers are absent.
    let layers = || {
        let blobs =
            std::fs::read_dir(user.path("index/blobs/sha256")).unwrap().map(|blob| blob.unwrap().path());
        blobs.filter(|blob| {
            serde_json::from_slice::<serde_json::Value>(&std::fs::read(blob).unwrap()).is_err()
        })
    };
    for blob in layers() {
        let size = std::fs::metadata(&blob).unwrap().len() as usize;
        std::fs::write(blob, vec![b'x'; size]).unwrap();
    }
    let ran = verify(&user, &[names[5], "--no-cache", "--format", "json"]).exits(7);
    user.write("unread.json", &ran.stdout);
    assert_valid(&user, "unread.json", "del result['images'][0]['error']");
    layers().for_each(|blob| std::fs::remove_file(blob).unwrap());
    let ran = verify(&user, &[names[5], "--no-cache", "--format", "json"]).exits(1);
    user.write("incomplete.json", &ran.stdout);
    assert_eq!(ran.json()["images"][0]["verdict"], "incomplete", "{ran}");
    assert_valid(&user, "incomplete.json", "del result['images'][0]['reasons']");
}

#[test]
fn errors_are_those_of_the_program_that_runs_and_not_in_a_second_json_value() {
    let user = User::new();
    let names = images(&user);
    for program in ["config-patcher", "multiarch"] {
        for format in ["text", "json"] {
            let words = ["verify", &names[6], &names[0], &names[6], "--format", format, "--quiet"];
            let ran = user.run(program, &words).exits(5);
            let errors: Vec<&str> = ran.stderr.lines().collect();
            assert_eq!(errors.len(), 2, "{ran}");
            let prefix = format!("{program}: cannot ");
            assert!(errors.iter().all(|line| line.starts_with(&prefix)), "{ran}");
            if format == "json" {
                assert_eq!(ran.json()["images"].as_array().unwrap().len(), 3, "{ran}");
            }
        }
    }
    std::fs::create_dir(user.path("empty")).unwrap();
    user.write("empty/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    user.write("empty/index.json", r#"{"schemaVersion":2,"manifests":[]}"#);
    let ran = user.run("multiarch", &["verify", "--all-tags", "oci:empty", "--format", "json"]).exits(3);
    assert_eq!(ran.json()["error"]["exit"], 3, "{ran}");
}

/// Asserts that the result is valid by `schema.json`, and invalid after the change `damage`.
fn assert_valid(user: &User, result: &str, damage: &str) {
    let check = format!(
        "import json, jsonschema\n\
         schema, result = (json.load(open(name)) for name in ('schema.json', '{result}'))\n\
         kind = jsonschema.validators.validator_for(schema)\n\
         kind.check_schema(schema)\n\
         kind(schema).validate(result)\n\
         {damage}\n\
         assert list(kind(schema).iter_errors(result)), 'the schema lets everything pass'\n"
    );
    let mut python = Command::new(program("python3").unwrap());
    let done = python.args(["-c", &check]).current_dir(user.work()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn the_sarif_is_valid_by_the_oasis_schema() {
    need!(require(&["python3"]));
    let user = User::new();
    user.write("schema.json", include_str!("../../../fixtures/sarif/sarif-schema-2.1.0.json"));
    let names = images(&user);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    verify(&user, &[&names[..], &["--strict", "--sarif", "all.sarif"]].concat()).exits(5);
    verify(&user, &[names[0], "--sarif", "nothing.sarif"]).exits(0);
    assert_valid(&user, "all.sarif", "del result['runs'][0]['results'][0]['message']");
    assert_valid(&user, "nothing.sarif", "result['runs'][0]['tool']['driver']['colour'] = 'red'");
}

#[test]
fn sarif_has_a_result_for_each_image_that_is_not_consistent() {
    let user = User::new();
    let names = images(&user);
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    arguments.extend(["--sarif", "out.sarif"]);
    verify(&user, &arguments).exits(5);
    let log: serde_json::Value =
        serde_json::from_slice(&std::fs::read(user.path("out.sarif")).unwrap()).unwrap();
    assert_eq!((log["version"].as_str(), log["runs"].as_array().unwrap().len()), (Some("2.1.0"), 1));
    let rules = log["runs"][0]["tool"]["driver"]["rules"].as_array().unwrap();
    let mut found: Vec<(String, String)> = Vec::new();
    for result in log["runs"][0]["results"].as_array().unwrap() {
        let rule = result["ruleId"].as_str().unwrap();
        // ruleIndex and ruleId must refer to the same rule.
        assert_eq!(rules[result["ruleIndex"].as_u64().unwrap() as usize]["id"], rule);
        let place = &result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
        assert!(
            place.as_str().is_some_and(|uri| uri.starts_with("oci%3A/") && !uri.contains(':')),
            "{place}"
        );
        assert!(result["message"]["text"].as_str().is_some_and(|text| text.contains("oci:")), "{result}");
        found.push((rule.to_string(), result["level"].as_str().unwrap().to_string()));
    }
    found.sort();
    let wanted = [
        ("foreign-payload", "note"),
        ("index-differs", "error"),
        ("mislabeled", "error"),
        ("mislabeled", "error"),
        ("mixed", "error"),
        ("not-read", "error"),
        ("undetermined", "note"),
    ];
    assert_eq!(found, wanted.map(|(rule, level)| (rule.to_string(), level.to_string())));
    // With --strict, a note is an error.
    verify(&user, &[&names[3], "--strict", "--sarif", "strict.sarif"]).exits(1);
    assert!(
        std::fs::read_to_string(user.path("strict.sarif"))
            .unwrap()
            .contains("\"level\":\"error\",\"locations\"")
    );
}

#[test]
fn sarif_rules_explain_themselves() {
    let user = User::new();
    let name = images(&user).swap_remove(0);
    verify(&user, &[&name, "--sarif", "out.sarif"]).exits(0);
    let log: serde_json::Value =
        serde_json::from_slice(&std::fs::read(user.path("out.sarif")).unwrap()).unwrap();
    let driver = &log["runs"][0]["tool"]["driver"];
    for key in ["version", "semanticVersion"] {
        assert_eq!(driver[key], env!("CARGO_PKG_VERSION"));
    }
    let page = std::fs::read_to_string(workspace().join("docs/config-patcher.md")).unwrap();
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let anchors: Vec<String> =
        headings.map(|line| line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-")).collect();
    for rule in driver["rules"].as_array().unwrap() {
        let help = rule["help"]["markdown"].as_str().unwrap();
        assert!(rule["help"]["text"].as_str().unwrap().len() > 60, "{rule}");
        let (_, anchor) = help.split_once("docs/config-patcher.md#").unwrap();
        let anchor = anchor.trim_end_matches(['`', ')']);
        assert!(anchors.iter().any(|known| known == anchor), "{anchor} is not in {anchors:?}");
    }
}

#[test]
fn junit_has_a_case_for_each_image() {
    need!(require(&["python3"]));
    let user = User::new();
    let names = images(&user);
    let mut arguments: Vec<&str> = names.iter().map(String::as_str).collect();
    arguments.extend(["--junit", "out.xml"]);
    verify(&user, &arguments).exits(5);
    // Python's parser: the number of elements, and the counters of the suites.
    let count = "import xml.etree.ElementTree as T\n\
                 root = T.parse('out.xml').getroot()\n\
                 print(*(len(root.findall('.//' + kind)) for kind in ('testcase', 'failure', 'error', 'skipped')))\n\
                 print(*(sum(int(suite.get(key)) for suite in root) for key in ('tests', 'failures', 'errors', 'skipped')))\n\
                 print(root[1][0][0].text)\n";
    let mut python = Command::new(program("python3").unwrap());
    let done = python.args(["-c", count]).current_dir(user.work()).output().unwrap();
    let output = String::from_utf8_lossy(&done.stdout).into_owned();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..2], ["8 3 1 1", "8 3 1 1"], "{}", String::from_utf8_lossy(&done.stderr));
    assert!(output.contains("/app (command, layer 0) is for linux/amd64"), "{output}");
    assert!(output.contains("to fix it, run: config-patcher fix"), "{output}");
}

#[test]
fn an_unwritable_report_is_an_error_before_any_request() {
    let user = User::new();
    let name = images(&user).swap_remove(0);
    let ran = verify(&user, &[&name, "--html", "nowhere/page.html"]).exits(5);
    assert!(ran.stdout.is_empty() && ran.stderr.contains("nowhere/page.html"), "{ran}");
    assert!(verify(&user, &["--schema", &name]).exits(2).stdout.is_empty());
}
