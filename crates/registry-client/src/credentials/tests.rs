//! Tests of the lookup of credentials.

use super::*;

fn shown(credential: &Credential) -> String {
    match credential {
        Credential::Anonymous => "anonymous".into(),
        Credential::Password { user, password } => format!("{user}:{}", password.reveal()),
        Credential::Identity { user, token } => format!("{user} identity {}", token.reveal()),
        Credential::Registry(token) => format!("token {}", token.reveal()),
    }
}

fn found(file: &str, host: &str, repository: &str) -> String {
    let parsed = parse(file.as_bytes(), "x.json").unwrap();
    match parsed.find(host, repository, "x.json", &Mutex::default()) {
        Ok(Some(found)) => shown(&found.credential),
        Ok(None) => "none".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_login_is_found_without_running_a_helper() {
    let mentions = |file: &str, host: &str| parse(file.as_bytes(), "x").unwrap().mentions(host);
    let by_helper = r#"{"auths":{"https://index.docker.io/v1/":{},"q.io/ns":{}},"credsStore":"desktop"}"#;
    assert!(mentions(by_helper, "docker.io") && mentions(by_helper, "q.io"));
    assert!(!mentions(by_helper, "127.0.0.1:5000"));
    assert!(mentions(r#"{"credHelpers":{"gcr.io":"gcloud"}}"#, "gcr.io"));
    assert!(!mentions("{}", "gcr.io"));
}

#[test]
fn entries_are_found_like_docker_and_podman_do() {
    // dTpw is u:p, YTpiOmM= is a:b:c, dTpwAAA= is u:p with two NULs.
    let file = r#"{"auths":{
            "https://index.docker.io/v1/": {"auth":"dTpw"},
            "quay.io": {"username":"q","password":"1"},
            "quay.io/ns": {"auth":"YTpiOmM="},
            "quay.io/ns/repo": {"username":"r","password":"2"},
            "https://old.example/v2/": {"auth":"dTpwAAA="},
            "box:5000": {"identitytoken":"I","auth":"dTpw"},
            "gcr.io": {"registrytoken":"R"},
            "https://spelt.example/ns": {"username":"n","password":"3"},
            "spelt.example": {"username":"s","password":"4"},
            "empty.example": {"auth":"","identitytoken":"","username":""},
            "other.example": {}
        }}"#;
    let check = |host: &str, repository: &str, meant: &str| {
        assert_eq!(found(file, host, repository), meant, "{host}/{repository}");
    };
    check("docker.io", "library/alpine", "u:p");
    check("quay.io", "x", "q:1");
    check("quay.io", "ns/x", "a:b:c");
    check("quay.io", "nsx/x", "q:1");
    check("quay.io", "ns/repo", "r:2");
    check("quay.io", "ns/repo/deep", "r:2");
    check("old.example", "x", "u:p");
    check("box:5000", "x", "u identity I");
    check("box", "x", "none");
    check("gcr.io", "x", "token R");
    check("spelt.example", "ns/x", "n:3");
    check("spelt.example", "x", "s:4");
    check("empty.example", "x", "none");
    check("other.example", "x", "none");
    check("evil-quay.io", "x", "none");
}

#[test]
fn an_invalid_entry_is_reported_without_its_content() {
    for (auth, reason) in [("s3cret!", "base64"), ("czNjcmV0", "no ':'"), ("/////w==", "UTF-8")] {
        let said = found(&format!(r#"{{"auths":{{"h.example":{{"auth":"{auth}"}}}}}}"#), "h.example", "x");
        assert!(said.contains(reason) && said.contains("x.json") && !said.contains("s3cret"), "{said}");
    }
}

fn recording() -> (Reporting, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&warnings);
    (
        Reporting {
            warn: Arc::new(move |text| recorded.lock().unwrap().push(text.into())),
            ..Reporting::default()
        },
        warnings,
    )
}

#[test]
fn places_are_searched_in_order_and_a_given_file_is_the_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let write = |path: &str, user: &str, host: &str| {
        let file = home.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"p"}}}}}}"#);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    write(".docker/config.json", "docker", "a.example");
    write("run/containers/auth.json", "podman", "a.example");
    write("run/containers/auth.json", "podman", "b.example");
    write(".config/containers/auth.json", "config", "c.example");
    let named = write("named.json", "named", "a.example");
    let inline = r#"{"auths":{"i.example":{"username":"inline","password":"p"}}}"#;
    let run = home.join("run");
    let find = |auth_file: Option<&Path>, login: Option<Login>, host: &str, more: &[(&str, &str)]| {
        let env = |name: &str| match name {
            "HOME" => Some(home.as_os_str().to_owned()),
            "XDG_RUNTIME_DIR" => Some(run.as_os_str().to_owned()),
            _ => more.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)),
        };
        let auth_file = auth_file.map(Path::to_path_buf);
        let options = RegistryOptions { login, auth_file, ..RegistryOptions::default() };
        shown(&CredentialSources::new(&options, env).find(host, "x").unwrap().credential)
    };
    assert_eq!(find(None, None, "a.example", &[]), "docker:p");
    assert_eq!(find(None, None, "b.example", &[]), "podman:p");
    assert_eq!(find(None, None, "c.example", &[]), "config:p");
    assert_eq!(find(None, None, "d.example", &[]), "anonymous");
    assert_eq!(find(None, None, "i.example", &[("DOCKER_AUTH_CONFIG", inline)]), "inline:p");
    assert_eq!(find(None, None, "a.example", &[("DOCKER_AUTH_CONFIG", inline)]), "docker:p");
    assert_eq!(find(Some(&named), None, "a.example", &[]), "named:p");
    assert_eq!(find(Some(&named), None, "b.example", &[("DOCKER_AUTH_CONFIG", inline)]), "anonymous");
    let as_env = named.to_str().unwrap();
    assert_eq!(find(None, None, "a.example", &[("REGISTRY_AUTH_FILE", as_env)]), "named:p");
    let login = || Some(Login { host: "a.example".into(), user: "me".into(), password: Secret::new("pw") });
    assert_eq!(find(Some(&named), login(), "a.example", &[]), "me:pw");
    assert_eq!(find(None, login(), "b.example", &[]), "podman:p");
}

#[test]
fn a_file_that_cannot_be_read_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let error = |path: &Path| {
        let options = RegistryOptions { auth_file: Some(path.into()), ..RegistryOptions::default() };
        let sources = CredentialSources::new(&options, |_| None);
        let error = sources.check().unwrap_err();
        assert_eq!(error.kind, error::Exit::NotPermitted);
        assert_eq!(sources.find("h", "x").unwrap_err().to_string(), error.to_string());
        error.to_string()
    };
    assert!(error(dir.path()).contains("not a regular file"));
    assert!(error(&dir.path().join("absent")).contains("no such file"));
    let spoilt = dir.path().join("config.json");
    std::fs::write(&spoilt, "{\"auths\": {\"h\": s3cret}}").unwrap();
    let said = error(&spoilt);
    assert!(said.contains("config.json") && said.contains("line 1") && !said.contains("s3cret"), "{said}");
}

#[test]
fn a_file_that_others_can_read_causes_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"h":{"auth":"dTpw"}}}"#).unwrap();
    for (mode, warnings) in [(0o600, 0), (0o640, 0), (0o666, 1), (0o604, 1)] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (reporting, heard) = recording();
        read_file(&file, &reporting).unwrap();
        assert_eq!(heard.lock().unwrap().len(), warnings, "{mode:o}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let credential = Credential::Password { user: "u".into(), password: Secret::new("s3cret") };
    assert!(!format!("{credential:?}").contains("s3cret"));
}

#[test]
fn a_file_of_more_than_4_mib_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let read = |size: usize| {
        std::fs::write(&file, vec![b' '; size]).unwrap();
        read_file(&file, &Reporting::default()).map(drop)
    };
    assert!(read(4 << 20).is_ok());
    let error = read((4 << 20) + 1).unwrap_err();
    assert!(error.to_string().contains("it is larger than 4194304 bytes"), "{error}");
}
