//! Authentication: which host receives which secret, and the number of token requests.

use super::*;
use multiarch_tests::fake_registry::{Act, Auth, Authorization, Bearer, Fault, Listener};
use registry_client::{Login, Secret};

fn bearer(change: impl FnOnce(&mut Bearer)) -> Options {
    let mut bearer = Bearer::new("ann", "s3cret");
    change(&mut bearer);
    Options { auth: Auth::Bearer(bearer), ..Options::default() }
}

fn login(rig: &Rig, password: &str) -> RegistryOptions {
    let login = Login { host: rig.registry.host(), user: "ann".into(), password: Secret::new(password) };
    RegistryOptions { login: Some(login), ..rig.options.clone() }
}

fn store_with(rig: &Rig, options: RegistryOptions) -> RegistryStore {
    RegistryStore::writing(&Client::new(options).unwrap(), &rig.registry.host(), "team/app").unwrap()
}

/// The scopes of each token request.
fn token_requests(rig: &Rig) -> Vec<String> {
    let log = rig.registry.log();
    log.iter().filter(|l| l.listener == Listener::Token).map(|l| l.scopes.join(" ")).collect()
}

#[test]
fn one_challenge_and_one_token_are_enough_for_a_push() {
    let rig = Rig::new(bearer(|_| ()));
    let store = store_with(&rig, login(&rig, "s3cret"));
    push(&store, "1").unwrap();
    store.read_document(&tag("1")).unwrap();
    assert_eq!(token_requests(&rig), ["repository:team/app:pull,push"]);
    let unauthorized = rig.registry.log().iter().filter(|l| l.status == Some(401)).count();
    assert_eq!((unauthorized, rig.registry.violations().len()), (1, 0));
    // The connection of the challenge is reused: connecting takes longer than a request.
    let mut connections: Vec<usize> = rig.registry.log().iter().map(|l| l.connection).collect();
    connections.sort();
    connections.dedup();
    assert_eq!(connections.len(), 2, "one to the registry, one to the token server");
}

/// A registry without authentication needs no credential helper, even if the configured one is broken.
#[test]
fn credentials_that_are_not_needed_are_not_looked_up() {
    let rig = Rig::open();
    rig.auth_file(r#"{"auths":{"other.example":{}},"credsStore":"no-such-helper"}"#);
    push(&rig.store(), "1").unwrap();
    let host = rig.registry.host();
    rig.auth_file(&format!(r#"{{"auths":{{"{host}":{{}}}},"credsStore":"no-such-helper"}}"#));
    push(&rig.store(), "2").unwrap();
    assert_eq!(rig.warnings(), [""; 0]);
}

#[test]
fn everything_can_be_done_with_tokens() {
    let rig = Rig::new(bearer(|b| b.anonymous_pull = false));
    write_and_read_back(&Client::new(login(&rig, "s3cret")).unwrap(), &rig.registry.host());
    assert_eq!(rig.registry.violations(), [""; 0]);
}

#[test]
fn one_token_is_requested_for_all_repositories_of_a_job() {
    let rig = Rig::new(bearer(|_| ()));
    for name in ["a", "b"] {
        seed(&rig.registry, name);
    }
    let client = Client::new(login(&rig, "s3cret")).unwrap();
    let host = rig.registry.host();
    let a = RegistryStore::reading(&client, &host, "a").unwrap();
    let b = RegistryStore::reading(&client, &host, "b").unwrap();
    let target = RegistryStore::writing(&client, &host, "team/app").unwrap();
    a.read_document(&tag("1")).unwrap();
    b.read_document(&tag("1")).unwrap();
    assert!(target.mount_blob(&config(), &host, "a").unwrap());
    assert!(target.mount_blob(&layer(), &host, "b").unwrap());
    target.write_document(&image()).unwrap();
    assert_eq!(token_requests(&rig), ["repository:a:pull repository:b:pull repository:team/app:pull,push"]);
}

#[test]
fn many_threads_request_one_token() {
    let rig = Rig::new(bearer(|_| ()));
    seed(&rig.registry, "team/app");
    let store = store_with(&rig, login(&rig, "s3cret"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.has_blob(&config()).unwrap());
        }
    });
    assert_eq!(token_requests(&rig).len(), 1);
}

#[test]
fn a_server_that_reads_the_first_scope_only_is_asked_again_for_the_others() {
    let rig = Rig::new(bearer(|b| b.first_scope_only = true));
    for name in ["a", "z"] {
        seed(&rig.registry, name);
    }
    let client = Client::new(login(&rig, "s3cret")).unwrap();
    let host = rig.registry.host();
    let z = RegistryStore::reading(&client, &host, "z").unwrap();
    let a = RegistryStore::reading(&client, &host, "a").unwrap();
    for _ in 0..3 {
        z.read_document(&tag("1")).unwrap();
        a.read_document(&tag("1")).unwrap();
    }
    assert_eq!(token_requests(&rig), ["repository:z:pull repository:a:pull", "repository:a:pull"]);
    let unauthorized = rig.registry.log().iter().filter(|l| l.status == Some(401)).count();
    assert_eq!(unauthorized, 2, "a refused token is not used again");
}

#[test]
fn public_images_are_read_without_credentials() {
    let rig = Rig::new(bearer(|_| ()));
    seed(&rig.registry, "team/app");
    rig.source().read_document(&tag("1")).unwrap();
    assert_eq!(rig.registry.credentials().len(), 1, "the token, and no password");
    let error = push(&rig.store(), "2").unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted);
    assert!(error.to_string().contains("docker login"), "{error}");
}

#[test]
fn a_token_that_expires_early_is_renewed() {
    let rig = Rig::new(bearer(|b| b.life = Duration::from_millis(700)));
    let store = store_with(&rig, login(&rig, "s3cret"));
    push(&store, "1").unwrap();
    std::thread::sleep(Duration::from_millis(800));
    push(&store, "2").unwrap();
    rig.registry.revoke_tokens();
    push(&store, "3").unwrap();
    assert_eq!(rig.registry.tags("team/app"), ["1", "2", "3"]);
    assert_eq!(token_requests(&rig).len(), 3);
}

#[test]
fn a_token_that_expires_during_an_upload_is_renewed() {
    let rig = Rig::new(bearer(|_| ()));
    let store = store_with(&rig, login(&rig, "s3cret"));
    let ended = Fault::when(
        |r| r.method == "PUT" && r.is_upload(),
        Act::Answer {
            status: 401,
            headers: vec![(
                "WWW-Authenticate".into(),
                format!("Bearer realm=\"http://{}/token\",service=\"fake\"", rig.registry.token_host()),
            )],
            body: Vec::new(),
        },
    );
    rig.registry.fault(ended);
    write(&store, &config(), CONFIG).unwrap();
    assert_eq!((token_requests(&rig).len(), rig.registry.open_uploads()), (2, 0));
    assert_eq!(
        rig.registry.count("POST", |path| path.contains("uploads")),
        2,
        "the first one was unauthorized"
    );
}

#[test]
fn scopes_of_a_challenge_are_requested_from_the_token_server() {
    let rig = Rig::new(bearer(|_| ()));
    let store = store_with(&rig, login(&rig, "s3cret"));
    push(&store, "1").unwrap();
    let wants_more = |scope: &str, k: usize| {
        let realm = format!("http://{}/token", rig.registry.token_host());
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"{scope}\"");
        let headers = vec![("WWW-Authenticate".to_string(), challenge)];
        let act = Act::Answer { status: 401, headers, body: Vec::new() };
        rig.registry.fault(Fault::when(|r| r.listener == Listener::Registry, act).nth(k));
    };
    rig.registry.take_log();
    rig.registry.revoke_tokens();
    wants_more("aws", 2);
    assert!(store.has_blob(&config()).unwrap());
    let own = "repository:team/app:pull,push";
    assert_eq!(token_requests(&rig), [own.to_string(), format!("aws {own}")]);
    // A registry that requires another scope each time ends in an error.
    rig.registry.take_log();
    (1..9).for_each(|k| wants_more(&format!("more-{k}"), k));
    assert_eq!(store.has_blob(&config()).unwrap_err().kind, Exit::NotPermitted);
    assert_eq!(token_requests(&rig).len(), 2);
}

#[test]
fn a_wrong_password_is_reported_once_and_never_shown() {
    let rig = Rig::new(bearer(|_| ()));
    let store = store_with(&rig, login(&rig, "canary"));
    let error = push(&store, "1").unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted);
    assert!(!error.to_string().contains("canary") && !format!("{error:?}").contains("canary"));
    assert!(error.to_string().contains("unknown user or wrong password"), "{error}");
    assert_eq!(token_requests(&rig).len(), 1);
    let trace = rig.trace.lock().unwrap().join("\n");
    assert!(!trace.contains("canary") && !trace.contains("Y2FuYXJ5"), "{trace}");
}

#[test]
fn at_most_two_tokens_are_requested_for_a_request() {
    let rig = Rig::new(bearer(|b| b.forbidden = vec!["team/app".into()]));
    let client = Client::new(login(&rig, "s3cret")).unwrap();
    let store = RegistryStore::writing(&client, &rig.registry.host(), "team/app").unwrap();
    let _other = RegistryStore::reading(&client, &rig.registry.host(), "other").unwrap();
    assert_eq!(store.has_blob(&config()).unwrap_err().kind, Exit::NotPermitted);
    assert_eq!(
        token_requests(&rig),
        ["repository:team/app:pull,push repository:other:pull", "repository:team/app:pull,push"]
    );
}

#[test]
fn invalid_responses_of_a_token_server_are_errors() {
    let answer = |body: &str| Act::Answer { status: 200, headers: Vec::new(), body: body.into() };
    let away = Act::Redirect { status: 302, location: "http://127.0.0.2:1/".into() };
    for (act, why) in [
        (answer("<html>"), "not valid JSON"),
        (answer("{}"), "no token"),
        (answer(&format!("{{\"token\":\"{}\"}}", "x".repeat(2 << 20))), "longer than"),
        (Act::status(403), "403"),
        (away, "302"),
    ] {
        let rig = Rig::new(bearer(|_| ()));
        rig.registry.fault(Fault::when(|r| r.listener == Listener::Token, act).forever());
        let error = store_with(&rig, login(&rig, "s3cret")).has_blob(&config()).unwrap_err();
        assert!(matches!(error.kind, Exit::NotPermitted | Exit::BadInput), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(token_requests(&rig).len(), 1, "{why}");
    }
}

#[test]
fn token_requests_are_retried() {
    let rig = Rig::new(bearer(|_| ()));
    let acts = [Act::status(503), Act::ResetBefore, Act::LostAnswer, Act::TruncateBody(3)];
    for (act, k) in acts.into_iter().zip(1..) {
        rig.registry.fault(Fault::when(|r| r.listener == Listener::Token, act).nth(k));
    }
    push(&store_with(&rig, login(&rig, "s3cret")), "1").unwrap();
    rig.registry.revoke_tokens();
    rig.registry.fault(Fault::when(|r| r.listener == Listener::Token, Act::status(503)).forever());
    rig.registry.take_log();
    let error = store_with(&rig, login(&rig, "s3cret")).has_blob(&config()).unwrap_err();
    assert_eq!((error.kind, token_requests(&rig).len()), (Exit::Network, 5), "{error}");
}

#[test]
fn credentials_are_not_sent_to_a_token_server_in_another_domain() {
    let rig = Rig::new(Options { token_address: [127, 0, 0, 3].into(), ..bearer(|_| ()) });
    seed(&rig.registry, "team/app");
    let store = store_with(&rig, login(&rig, "canary"));
    store.read_document(&tag("1")).unwrap();
    store.has_blob(&config()).unwrap();
    assert!(rig.registry.credentials().iter().all(|seen| !seen.secret.contains("canary")));
    let warnings = rig.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("another domain"), "{warnings:?}");
}

#[test]
fn credentials_are_sent_to_a_token_server_that_the_user_trusts() {
    let rig =
        Rig::new(Options { token_address: [127, 0, 0, 3].into(), ..bearer(|b| b.anonymous_pull = false) });
    seed(&rig.registry, "team/app");
    let options = RegistryOptions { auth_hosts: vec!["127.0.0.3".into()], ..login(&rig, "s3cret") };
    store_with(&rig, options).read_document(&tag("1")).unwrap();
    assert_eq!(rig.warnings(), [""; 0]);
    let seen: Vec<Listener> = rig
        .registry
        .credentials()
        .iter()
        .filter(|c| c.secret.contains("s3cret"))
        .map(|c| c.listener)
        .collect();
    assert_eq!(seen, [Listener::Token]);
}

#[test]
fn no_token_is_requested_from_an_unsafe_realm() {
    for (realm, why) in [
        ("ftp://127.0.0.1/", "not an http"),
        ("http://ann:x@127.0.0.1/", "user name"),
        ("http://169.254.169.254/token", "is not a public address"),
        ("http://[::ffff:169.254.169.254]/token", "is not a public address"),
    ] {
        let rig = Rig::open();
        let headers = vec![("WWW-Authenticate".to_string(), format!("Bearer realm=\"{realm}\""))];
        rig.registry.fault(Fault::at(1, Act::Answer { status: 401, headers, body: Vec::new() }).forever());
        let error = store_with(&rig, login(&rig, "canary")).has_blob(&config()).unwrap_err();
        assert_eq!(error.kind, Exit::NotPermitted, "{error}");
        assert!(error.to_string().contains(why), "{error}");
        assert!(rig.registry.credentials().is_empty());
    }
}

#[test]
fn basic_authentication_is_used_after_a_challenge() {
    let auth = Auth::Basic { user: "ann".into(), password: "pass:wörd".into() };
    let rig = Rig::new(Options { auth, ..Options::default() });
    push(&store_with(&rig, login(&rig, "pass:wörd")), "1").unwrap();
    let log = rig.registry.log();
    assert_eq!(log[0].authorization, Authorization::None);
    assert!(log[1..].iter().all(|l| l.authorization == Authorization::Basic));
    let error = push(&store_with(&rig, login(&rig, "wrong")), "1").unwrap_err();
    assert!(error.kind == Exit::NotPermitted && !error.to_string().contains("wrong"), "{error}");
    let error = push(&rig.store(), "1").unwrap_err();
    assert!(error.to_string().contains("docker login 127.0.0.1:"), "{error}");
}

#[test]
fn an_identity_token_is_exchanged_or_else_used_as_a_password() {
    let rig = Rig::new(bearer(|b| b.refresh_token = Some("identity".into())));
    rig.auth_file(&format!(r#"{{"auths":{{"{}":{{"identitytoken":"identity"}}}}}}"#, rig.registry.host()));
    push(&rig.store(), "1").unwrap();
    assert_eq!(rig.registry.count("POST", |path| path == "/token"), 1);
    let rig =
        Rig::new(Options { auth: Auth::Bearer(Bearer::new("<token>", "identity")), ..Options::default() });
    rig.auth_file(&format!(r#"{{"auths":{{"{}":{{"identitytoken":"identity"}}}}}}"#, rig.registry.host()));
    push(&rig.store(), "1").unwrap();
    let requests: Vec<String> =
        rig.registry.log().into_iter().filter(|l| l.listener == Listener::Token).map(|l| l.method).collect();
    assert_eq!(requests, ["POST", "GET"]);
}

#[test]
fn a_registry_token_is_sent_unchanged() {
    let rig = Rig::new(bearer(|_| ()));
    let token = rig.registry.mint_token(&["repository:team/app:pull,push"], Duration::from_secs(60));
    rig.auth_file(&format!(r#"{{"auths":{{"{}":{{"registrytoken":"{token}"}}}}}}"#, rig.registry.host()));
    push(&rig.store(), "1").unwrap();
    assert_eq!(token_requests(&rig).len(), 0);
    rig.registry.revoke_tokens();
    assert_eq!(push(&rig.store(), "1").unwrap_err().kind, Exit::NotPermitted);
}

#[test]
fn a_mount_from_a_forbidden_repository_becomes_an_upload() {
    let rig = Rig::new(bearer(|b| b.forbidden = vec!["not/mine".into()]));
    seed(&rig.registry, "not/mine");
    let store = store_with(&rig, login(&rig, "s3cret"));
    assert!(!store.mount_blob(&config(), &rig.registry.host(), "not/mine").unwrap());
    let before = rig.registry.log().len();
    assert!(!store.mount_blob(&layer(), &rig.registry.host(), "not/mine").unwrap());
    assert_eq!(rig.registry.log().len(), before, "a refused mount is not tried again");
    push(&store, "1").unwrap();
    assert_eq!(rig.registry.closure_complete("team/app", image().digest().as_str()), Ok(()));
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let rig = Rig::new(bearer(|_| ()));
    seed(&rig.registry, "team/app");
    rig.registry.redirect_blobs(true);
    let store = store_with(&rig, login(&rig, "s3cret"));
    assert_eq!(read(&store, &layer()).unwrap(), LAYER);
    assert!(store.has_blob(&layer()).unwrap());
    let blobs = rig.registry.blobs_host();
    assert!(rig.registry.credentials().iter().all(|seen| seen.host != blobs));
    assert!(rig.registry.log().iter().any(|l| l.listener == Listener::Blobs));
}
