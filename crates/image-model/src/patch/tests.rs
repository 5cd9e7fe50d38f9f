use super::*;
use crate::digest::Digest;
use crate::manifest::media_type;

fn patched(config: &str, wanted: &str, ask: MatchRule) -> Option<String> {
    match patch_config(config.as_bytes(), &wanted.parse().unwrap(), ask).unwrap() {
        Patched::Unchanged => None,
        Patched::Changed(bytes) => Some(String::from_utf8(bytes).unwrap()),
    }
}

fn check(config: &str, wanted: &str, expected: &str) {
    assert_eq!(patched(config, wanted, MatchRule::Explicit).as_deref(), Some(expected));
    assert_eq!(patched(expected, wanted, MatchRule::Explicit), None, "a second patch has nothing to do");
}

#[test]
fn only_the_platform_changes() {
    check(
        r#"{"architecture":"amd64","config":{"StopTimeout":1.50},"container":"c0","os":"linux","x":"\u003c"}"#,
        "linux/arm/v7",
        r#"{"architecture":"arm","config":{"StopTimeout":1.50},"container":"c0","os":"linux","variant":"v7","x":"\u003c"}"#,
    );
    check(
        r#"{"os":"linux","architecture":"arm"}"#,
        "linux/arm/v7",
        r#"{"os":"linux","architecture":"arm","variant":"v7"}"#,
    );
    check(
        r#"{"architecture":"arm64","variant":"v8","os":"linux"}"#,
        "linux/amd64",
        r#"{"architecture":"amd64","os":"linux"}"#,
    );
    check(
        "{\n \"os\": \"linux\"\n}",
        "linux/arm64",
        "{\n \"architecture\": \"arm64\",\n \"os\": \"linux\"\n}",
    );
    check(
        r#"{"rootfs":1}"#,
        "linux/arm/v5",
        r#"{"architecture":"arm","variant":"v5","os":"linux","rootfs":1}"#,
    );
    check("{}", "linux/arm/v5", r#"{"architecture":"arm","variant":"v5","os":"linux"}"#);
    check(r#"{"architecture":null,"os":"linux"}"#, "linux/386", r#"{"architecture":"386","os":"linux"}"#);
    check(
        r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["a"]}"#,
        "windows/amd64:10.0.2",
        r#"{"architecture":"amd64","os":"windows","os.version":"10.0.2","os.features":["a"]}"#,
    );
    check(
        r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1","os.features":["a"]}"#,
        "linux/amd64",
        r#"{"architecture":"amd64","os":"linux"}"#,
    );
}

/// Docker and BuildKit sort a config's keys, and Go's struct of an index entry's platform happens to be sorted as well. So
/// a fixed document has the bytes and the digest that it would have had from the start.
#[test]
fn sorted_keys_stay_sorted() {
    check(
        r#"{"architecture":"arm","os":"linux"}"#,
        "linux/arm/v7",
        r#"{"architecture":"arm","os":"linux","variant":"v7"}"#,
    );
    check(
        r#"{"config":{"Cmd":["/app"]},"rootfs":{"type":"layers"}}"#,
        "windows/arm/v7:10.0.1",
        r#"{"architecture":"arm","config":{"Cmd":["/app"]},"os":"windows","os.version":"10.0.1","rootfs":{"type":"layers"},"variant":"v7"}"#,
    );
    check(
        r#"{ "b": 1, "created": 2 }"#,
        "linux/amd64",
        r#"{ "architecture": "amd64", "b": 1, "created": 2, "os": "linux" }"#,
    );
    check(
        r#"{"architecture":"amd64","os":"windows","os.version":"10.0.1"}"#,
        "linux/arm/v6",
        r#"{"architecture":"arm","os":"linux","variant":"v6"}"#,
    );
    // There and back again.
    let buildkit = r#"{"architecture":"arm","config":{"Env":["PATH=/bin"]},"created":"2026-01-01T00:00:00Z","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"variant":"v7"}"#;
    let wrong = patched(buildkit, "linux/amd64", MatchRule::Explicit).unwrap();
    check(&wrong, "linux/arm/v7", buildkit);
}

#[test]
fn a_correct_platform_is_unchanged() {
    let unchanged =
        |config: &str, wanted: &str, ask: MatchRule| assert_eq!(patched(config, wanted, ask), None);
    unchanged(r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#, "linux/arm64", MatchRule::Explicit);
    unchanged(r#"{"architecture":"arm64","os":"linux"}"#, "linux/arm64/v8", MatchRule::IndexEntry);
    assert!(
        patched(r#"{"architecture":"arm64","os":"linux"}"#, "linux/arm64/v8", MatchRule::Explicit).is_some()
    );
    assert!(
        patched(r#"{"architecture":"arm","os":"linux"}"#, "linux/arm/v7", MatchRule::IndexEntry).is_some()
    );
}

#[test]
fn ambiguous_keys_are_refused() {
    let refused = |config: &str| {
        patch_config(config.as_bytes(), &"linux/arm64".parse().unwrap(), MatchRule::Explicit).is_err()
    };
    assert!(refused(r#"{"architecture":"amd64","Architecture":"arm64","os":"linux"}"#));
    assert!(refused(r#"{"architecture":"amd64","os":"linux","os":"linux"}"#));
    assert!(refused(r#"{"v\u0061riant":"v8","architecture":"amd64","os":"linux"}"#));
}

#[test]
fn a_manifest_follows_its_config_with_digest_size_and_data() {
    let old = Digest::of(b"old");
    let text = format!(
        "{{ \"config\" : {{\"data\":\"b2xk\",\"size\": 3,\"digest\":\"{old}\",\"mediaType\":\"{}\"}}, \"layers\":[], \"n\":1e3 }}",
        media_type::OCI_CONFIG
    );
    let manifest = Document::new(text.clone().into_bytes(), None).unwrap();
    let now = patch_manifest(&manifest, b"newer").unwrap();
    let expected = text
        .replace(old.as_str(), Digest::of(b"newer").as_str())
        .replace("\"size\": 3", "\"size\": 5")
        .replace("b2xk", "bmV3ZXI=");
    assert_eq!(String::from_utf8_lossy(now.bytes()), expected);
}

#[test]
fn attestations_of_a_manifest_are_updated() {
    let subject = Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap();
    let old = Digest::of(b"x");
    let text = format!(
        r#"{{"config":{{"digest":"{old}","size":1}}, "subject": {{"size":1 , "digest":"{old}","x":1.50}},"layers":[]}}"#
    );
    let signature = Document::new(text.clone().into_bytes(), None).unwrap();
    let at = text.find("subject").unwrap();
    let now = text[at..].replace(old.as_str(), subject.digest().as_str()).replace("1 ,", "16 ,");
    let patched = patch_subject(&signature, &subject).unwrap();
    assert_eq!(String::from_utf8_lossy(patched.bytes()), format!("{}{now}", &text[..at]));
    let image = Document::new(br#"{"config":{},"layers":[]}"#.to_vec(), None).unwrap();
    assert!(patch_subject(&image, &subject).is_err());
}

#[test]
fn an_index_follows_its_members() {
    let member = Document::new(br#"{"manifests":[]}"#.to_vec(), None).unwrap();
    let old = Digest::of(b"x");
    let text = format!(
        "{{\"manifests\":[ {{\"digest\":\"{old}\",\"size\":1,\"platform\":{{\"architecture\":\"amd64\",\"os\":\"linux\",\"features\":[]}}}},\n{{\"digest\":\"{old}\",\"size\":1,\"annotations\":{{\"vnd.docker.reference.digest\":\"{old}\"}}}}]}}"
    );
    let index = Document::new(text.into_bytes(), None).unwrap();
    let platform: Platform = "linux/arm/v7".parse().unwrap();
    let new = member.digest().as_str();
    let changes = [
        EntryChange { index: 0, document: Some(&member), platform: Some(&platform), attested_digest: None },
        EntryChange { index: 1, document: None, platform: None, attested_digest: Some(new) },
    ];
    let size = member.bytes().len();
    let expected = format!(
        "{{\"manifests\":[ {{\"digest\":\"{new}\",\"size\":{size},\"platform\":{{\"architecture\":\"arm\",\"variant\":\"v7\",\"os\":\"linux\",\"features\":[]}}}},\n{{\"digest\":\"{old}\",\"size\":1,\"annotations\":{{\"vnd.docker.reference.digest\":\"{new}\"}}}}]}}"
    );
    assert_eq!(String::from_utf8_lossy(patch_index(&index, &changes).unwrap().bytes()), expected);
}

/// Configs of generators other than Docker, podman and buildah, with other key orders, times and keys. (Shortened
/// from what kaniko 1.9, jib 3.4, ko 0.15, Bazel's rules_oci and Cloud Native Buildpacks put into their configs.)
#[test]
fn configs_of_other_generators_change_only_in_their_platform() {
    let label = r#""architecture":"amd64""#;
    for config in [
        r#"{"architecture":"amd64","author":"kaniko","created":"0001-01-01T00:00:00Z","history":[{"author":"kaniko","created":"0001-01-01T00:00:00Z","created_by":"COPY app /app"}],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Cmd":["/app"],"Env":["PATH=/bin"],"Labels":null,"ArgsEscaped":true}}"#,
        r#"{"created":"1970-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Env":[],"Entrypoint":["java","-cp","@/app/jib-classpath-file","Main"],"ExposedPorts":{"8080/tcp":{}},"Labels":{},"WorkingDir":""},"history":[{"created":"1970-01-01T00:00:00Z","author":"Jib","created_by":"jib-maven-plugin:3.4.0","comment":"dependencies"}],"rootfs":{"type":"layers","diff_ids":[]}}"#,
        r#"{"author":"github.com/ko-build/ko","created":"1970-01-01T00:00:00Z","history":[{"comment":"from \u0026 to","empty_layer":true}],"rootfs":{"diff_ids":[],"type":"layers"},"config":{"Env":["KO_DATA_PATH=/var/run/ko"]},"architecture":"amd64","os":"linux"}"#,
        "{\n  \"os\": \"linux\",\n  \"architecture\":\"amd64\",\n  \"rootfs\": {\n    \"type\": \"layers\",\n    \"diff_ids\": []\n  },\n  \"config\": {}\n}\n",
        r#"{"architecture":"amd64","created":"1980-01-01T00:00:01Z","history":[{}],"os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Labels":{"io.buildpacks.lifecycle.metadata":"{\"app\":[{\"sha\":\"sha256:0\"}],\"n\":1.50}"}},"os.version":""}"#,
    ] {
        let lead = if config.starts_with("{\n") { "\n  " } else { "" };
        // Spaced as the first member is.
        let colon = if lead.is_empty() { ":" } else { ": " };
        let now = format!(r#""architecture"{}"arm",{lead}"variant"{colon}"v7""#, ":");
        assert_eq!(config.matches(label).count(), 1);
        check(config, "linux/arm/v7", &config.replace(label, &now));
    }
}

mod generated {
    use super::*;
    use proptest::prelude::*;

    /// Values as other programs write them: numbers that no float holds, escapes, NUL, half a surrogate pair.
    fn value() -> impl Strategy<Value = String> {
        let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{0,5}0)?([eE][+-]?[0-9]{1,3})?";
        let text = r#""([ -!#-\[\]-~é]|\\u(0000|003c|d800|2028)|\\[nrtbf/"\\]){0,6}""#;
        let leaf = prop_oneof![
            number.prop_map(String::from),
            text.prop_map(String::from),
            Just("null".to_string()),
            Just("true".to_string()),
        ];
        let deep = leaf.prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(|all| format!("[{}]", all.join(" , "))),
                // Keys of a label within other objects are none of ours.
                prop::collection::vec(
                    (prop_oneof![Just("os"), Just("architecture"), Just("x")], inner),
                    0..3
                )
                .prop_map(|all| {
                    let all: Vec<String> =
                        all.into_iter().map(|(key, value)| format!("\"{key}\" :{value}")).collect();
                    format!("{{{}}}", all.join(","))
                }),
            ]
        });
        prop_oneof![
            9 => deep,
            // serde_json stops at 128; the document is one level itself.
            1 => (1..120_usize).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
        ]
    }

    fn space() -> impl Strategy<Value = String> {
        "[ \t\r\n]{0,3}"
    }

    #[derive(Clone, Debug)]
    struct Written {
        members: Vec<(String, String)>,
        lead: String,
        colon: String,
        tail: String,
    }

    impl Written {
        fn text(&self, members: &[(String, String)]) -> String {
            let Self { lead, colon, tail, .. } = self;
            let all: Vec<String> =
                members.iter().map(|(key, value)| format!("{lead}\"{key}\"{colon}{value}")).collect();
            format!("{{{}{tail}}}", all.join(","))
        }
    }

    fn written() -> impl Strategy<Value = Written> {
        let label = |key: &'static str, values: &'static [&'static str]| {
            prop::option::of(
                prop::sample::select(values).prop_map(move |value| (key.to_string(), value.to_string())),
            )
        };
        let labels = (
            label("architecture", &["\"amd64\"", "\"arm\"", "null", "\"\\u0061md64\""]),
            label("os", &["\"linux\"", "\"darwin\"", "null", "\"\""]),
            label("variant", &["\"v7\"", "\"v6\"", "null", "\"\""]),
        );
        let others = prop::collection::btree_map("[a-z]{1,3}[0-9]|\\\\u0000[a-z]|été[0-9]", value(), 1..6);
        let colon = (space(), space()).prop_map(|(before, after)| format!("{before}:{after}"));
        (labels, others, space(), colon, space()).prop_flat_map(|((a, o, v), others, lead, colon, tail)| {
            let members: Vec<(String, String)> = a.into_iter().chain(o).chain(v).chain(others).collect();
            let spacing = (Just(lead), Just(colon), Just(tail));
            (Just(members).prop_shuffle(), spacing).prop_map(|(members, (lead, colon, tail))| Written {
                members,
                lead,
                colon,
                tail,
            })
        })
    }

    /// The members that a person would leave: values changed, what is missing among sorted keys in its order, else behind
    /// `architecture`, else in front.
    fn put_right(members: &[(String, String)]) -> Vec<(String, String)> {
        let wanted = [("architecture", "\"arm\""), ("variant", "\"v7\""), ("os", "\"linux\"")];
        let mut members = members.to_vec();
        let mut new = Vec::new();
        for (key, wanted) in wanted {
            match members.iter_mut().find(|(found, _)| found == key) {
                Some((_, value))
                    if serde_json::from_str::<Option<String>>(value)
                        .ok()
                        .flatten()
                        .is_some_and(|is| format!("\"{is}\"") == wanted) => {}
                Some((_, value)) => *value = wanted.into(),
                None => new.push((key.to_string(), wanted.to_string())),
            }
        }
        // Keys as they read, not as they are written.
        let read = |key: &str| serde_json::from_str::<String>(&format!("\"{key}\"")).unwrap();
        if members.len() > 1 && members.is_sorted_by(|a, b| read(&a.0) < read(&b.0)) {
            members.extend(new);
            members.sort_by_key(|(key, _)| read(key));
            return members;
        }
        let had_one = !new.iter().any(|(key, _)| key == "architecture");
        let at = members
            .iter()
            .position(|(key, _)| key == "architecture")
            .filter(|_| had_one)
            .map_or(0, |at| at + 1);
        members.splice(at..at, new);
        members
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 1_000 } else { 20_000 }))]

        #[test]
        fn no_byte_outside_the_platform_changes(config in written()) {
            let before = config.text(&config.members);
            let expected = config.text(&put_right(&config.members));
            let done = patched(&before, "linux/arm/v7", MatchRule::Explicit);
            prop_assert_eq!(done.unwrap_or_else(|| before.clone()), &*expected);
            prop_assert_eq!(patched(&expected, "linux/arm/v7", MatchRule::Explicit), None);
        }
    }
}
