//! The registry against a client of forty lines, and against skopeo and crane where they are installed.

use std::io::{self, BufReader, Read};
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Errors stand for what the peer did: `UnexpectedEof` or `ConnectionReset`.
fn ask(host: &str, line: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Answer> {
    use std::io::{BufRead, Write};
    let mut stream = TcpStream::connect(host)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    let pair = |line: &String| line.split_once(": ").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let mut answer = Answer { status, headers: lines[1..].iter().map(pair).collect(), body: Vec::new() };
    if !line.starts_with("HEAD") && status != 204 {
        answer.body = vec![0; answer.header("Content-Length").parse().unwrap()];
        reader.read_exact(&mut answer.body)?;
    }
    Ok(answer)
}

fn get(registry: &FakeRegistry, path: &str) -> Answer {
    ask(&registry.host(), &format!("GET {path}"), &[], b"").unwrap()
}

fn put_manifest(registry: &FakeRegistry, path: &str, kind: &str, manifest: &Value) -> Answer {
    let bytes = manifest.to_string().into_bytes();
    ask(&registry.host(), &format!("PUT {path}"), &[("Content-Type", kind)], &bytes).unwrap()
}

fn image(config: &str, size: usize) -> Value {
    let config =
        json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "size": size, "digest": config });
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] })
}

/// One image `a/b:x`; gives the digest of its manifest.
fn seed(registry: &FakeRegistry) -> String {
    let config = registry.put_blob("a/b", b"{}");
    registry.put_manifest("a/b", "x", MANIFEST, image(&config, 2).to_string().as_bytes())
}

#[test]
fn a_manifest_keeps_its_bytes_its_type_and_its_digest() {
    let registry = FakeRegistry::start();
    let config = registry.put_blob("a/b", b"{}");
    let put = put_manifest(&registry, "/v2/a/b/manifests/x", MANIFEST, &image(&config, 2));
    assert_eq!(put.status, 201);
    let digest = put.header("Docker-Content-Digest").to_owned();
    for reference in ["x", &digest] {
        let got = get(&registry, &format!("/v2/a/b/manifests/{reference}"));
        assert_eq!((got.status, got.header("Content-Type")), (200, MANIFEST));
        assert_eq!(digest_of(&got.body), digest);
    }
    let head = ask(&registry.host(), "HEAD /v2/a/b/manifests/x", &[], b"").unwrap();
    assert_eq!(head.header("Docker-Content-Digest"), digest);
    assert_eq!(registry.tag("a/b", "x"), Some(digest.clone()));
    assert_eq!(registry.closure_complete("a/b", &digest), Ok(()));
    assert_eq!(get(&registry, "/v2/a/b/manifests/y").json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    let gone = ask(&registry.host(), &format!("DELETE /v2/a/b/manifests/{digest}"), &[], b"").unwrap();
    assert_eq!((gone.status, registry.tags("a/b").len()), (202, 0));
}

#[test]
fn nothing_is_accepted_before_what_it_names() {
    let registry = FakeRegistry::start();
    let absent = digest_of(b"absent");
    let refused = put_manifest(&registry, "/v2/a/b/manifests/x", MANIFEST, &image(&absent, 6));
    assert_eq!(
        (refused.status, &refused.json()["errors"][0]["code"]),
        (400, &json!("MANIFEST_BLOB_UNKNOWN"))
    );
    let child = json!({ "mediaType": MANIFEST, "size": 1, "digest": absent });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    assert_eq!(put_manifest(&registry, "/v2/a/b/manifests/x", INDEX, &index).status, 400);
    assert_eq!(registry.violations().len(), 2);
    assert!(registry.tag("a/b", "x").is_none());
}

#[test]
fn a_wrong_child_size_is_accepted_as_real_registries_do_and_recorded() {
    let registry = FakeRegistry::start();
    let digest = seed(&registry);
    let child = json!({ "mediaType": MANIFEST, "size": 1, "digest": digest });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child] });
    let put = put_manifest(&registry, "/v2/a/b/manifests/all", INDEX, &index);
    assert_eq!((put.status, registry.violations().len()), (201, 1));
    assert!(registry.closure_complete("a/b", put.header("Docker-Content-Digest")).is_err());
}

#[test]
fn uploads_work_in_every_way_of_the_spec() {
    let registry = FakeRegistry::start_with(Options { relative_locations: true, ..Options::default() });
    let host = registry.host();
    let digest = digest_of(b"hello world");
    let start = |query: &str| ask(&host, &format!("POST /v2/a/b/blobs/uploads/{query}"), &[], b"").unwrap();

    let once =
        ask(&host, &format!("POST /v2/c/blobs/uploads/?digest={digest}"), &[], b"hello world").unwrap();
    assert_eq!(once.status, 201);

    let mounted = start(&format!("?mount={digest}&from=c"));
    assert_eq!((mounted.status, registry.has_blob("a/b", &digest)), (201, true));
    let unknown = start(&format!("?mount={}&from=c", digest_of(b"?")));
    assert_eq!(unknown.status, 202);
    assert_eq!(ask(&host, &format!("DELETE {}", unknown.header("Location")), &[], b"").unwrap().status, 204);

    let session = start("");
    let first =
        ask(&host, &format!("PATCH {}", session.header("Location")), &[("Content-Range", "0-4")], b"hello")
            .unwrap();
    assert_eq!((first.status, first.header("Range")), (202, "0-4"));
    let gap = ask(&host, &format!("PATCH {}", first.header("Location")), &[("Content-Range", "9-9")], b"!")
        .unwrap();
    assert_eq!((gap.status, gap.header("Range")), (416, "0-4"));
    assert_eq!(
        ask(&host, &format!("GET {}", first.header("Location")), &[], b"").unwrap().header("Range"),
        "0-4"
    );
    let last = format!("PUT {}&digest={digest}", first.header("Location"));
    assert_eq!(ask(&host, &last, &[], b" world").unwrap().status, 201);
    assert_eq!(ask(&host, &last, &[], b" world").unwrap().status, 404);
    assert_eq!(registry.blob("a/b", &digest).unwrap(), b"hello world");

    let session = start("");
    let wrong =
        ask(&host, &format!("PUT {}&digest={digest}", session.header("Location")), &[], b"x").unwrap();
    assert_eq!((wrong.status, &wrong.json()["errors"][0]["code"]), (400, &json!("DIGEST_INVALID")));
    assert_eq!(registry.open_uploads(), 0);
}

#[test]
fn without_resuming_only_the_latest_location_works() {
    let registry = FakeRegistry::start_with(Options { resumable: false, ..Options::default() });
    let host = registry.host();
    let first = ask(&host, "POST /v2/a/blobs/uploads/", &[], b"").unwrap();
    let place = first.header("Location").split_once(&host).unwrap().1.to_owned();
    registry.fault(Fault::when(|request| request.method == "PATCH", Act::CutRequest(3)));
    assert!(ask(&host, &format!("PATCH {place}"), &[], b"hello").is_err());
    assert_eq!(ask(&host, &format!("GET {place}"), &[], b"").unwrap().status, 404);
}

#[test]
fn blobs_are_read_whole_in_part_and_through_a_redirect() {
    let registry = FakeRegistry::start();
    let digest = registry.put_blob("a/b", b"0123456789");
    let path = format!("/v2/a/b/blobs/{digest}");
    let part = |range: &str| {
        let got = ask(&registry.host(), &format!("GET {path}"), &[("Range", range)], b"").unwrap();
        (got.status, String::from_utf8_lossy(&got.body).into_owned(), got.header("Content-Range").to_owned())
    };
    assert_eq!(get(&registry, &path).body, b"0123456789");
    assert_eq!(part("bytes=7-"), (206, "789".into(), "bytes 7-9/10".into()));
    assert_eq!(part("bytes=2-3"), (206, "23".into(), "bytes 2-3/10".into()));
    assert_eq!(part("bytes=-2"), (206, "89".into(), "bytes 8-9/10".into()));
    assert_eq!((part("bytes=10-").0, part("bytes=10-").2), (416, "bytes */10".into()));
    registry.redirect_blobs(true);
    let sent_on = get(&registry, &path);
    assert_eq!(sent_on.status, 307);
    let (host, rest) = sent_on.header("Location").strip_prefix("http://").unwrap().split_once('/').unwrap();
    assert_eq!(host, registry.blobs_host());
    assert_eq!(ask(host, &format!("GET /{rest}"), &[], b"").unwrap().body, b"0123456789");
    assert_eq!(get(&registry, &format!("/v2/other/blobs/{digest}")).status, 404);
}

#[test]
fn tags_come_in_pages_that_name_the_next() {
    let registry = FakeRegistry::start_with(Options { tag_page: 2, ..Options::default() });
    for tag in ["c", "a", "b", "e", "d"] {
        registry.set_tag("a/b", tag, &digest_of(b""));
    }
    let (mut path, mut tags, mut pages) = ("/v2/a/b/tags/list?n=100".to_owned(), Vec::new(), 0);
    loop {
        let page = get(&registry, &path);
        tags.extend(
            page.json()["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()),
        );
        pages += 1;
        let Some(next) = page.header("Link").strip_prefix('<') else { break };
        path = next.split('>').next().unwrap().to_owned();
    }
    assert_eq!((tags.join(""), pages), ("abcde".to_owned(), 3));
}

#[test]
fn referrers_are_listed_where_the_api_is_on() {
    for on in [false, true] {
        let registry = FakeRegistry::start_with(Options { referrers: on, ..Options::default() });
        let subject = seed(&registry);
        let mut signature = image(&digest_of(b"{}"), 2);
        signature["subject"] = json!({ "mediaType": MANIFEST, "size": 1, "digest": subject });
        signature["artifactType"] = json!("application/x-signature");
        let put = put_manifest(&registry, "/v2/a/b/manifests/sig", MANIFEST, &signature);
        assert_eq!(put.header("OCI-Subject"), if on { &subject } else { "" });
        let list = get(&registry, &format!("/v2/a/b/referrers/{subject}"));
        assert_eq!(list.status, if on { 200 } else { 404 });
        if on {
            assert_eq!(list.json()["manifests"][0]["artifactType"], "application/x-signature");
        }
    }
}

#[test]
fn a_token_is_worth_what_it_was_granted_and_as_long_as_it_says() {
    let mut bearer = Bearer::new("ann", "s3cret");
    bearer.life = Duration::from_millis(300);
    bearer.forbidden = vec!["not/mine".to_owned()];
    let registry = FakeRegistry::start_with(Options { auth: Auth::Bearer(bearer), ..Options::default() });
    seed(&registry);
    let host = registry.host();
    let refused = get(&registry, "/v2/a/b/manifests/x");
    let challenge = refused.header("WWW-Authenticate");
    assert_eq!(refused.status, 401);
    assert!(challenge.contains("scope=\"repository:a/b:pull\""), "{challenge}");
    let token = |query: &str, basic: Option<&str>| {
        let headers: Vec<_> = basic.iter().map(|basic| ("Authorization", *basic)).collect();
        ask(&registry.token_host(), &format!("GET /token?service=fake&{query}"), &headers, b"").unwrap()
    };
    let try_with = |line: &str, answer: &Answer| {
        let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
        let done = ask(&host, line, &[("Authorization", &bearer)], b"").unwrap();
        (done.status, done.header("WWW-Authenticate").split("error=").nth(1).unwrap_or("").to_owned())
    };
    let (read, start) = ("GET /v2/a/b/manifests/x", "POST /v2/a/b/blobs/uploads/");
    let anonymous = token("scope=repository:a/b:pull,push", None);
    assert_eq!(try_with(read, &anonymous).0, 200);
    assert_eq!(try_with(start, &anonymous), (401, "\"insufficient_scope\"".into()));
    let basic = "Basic YW5uOnMzY3JldA==";
    assert_eq!(token("scope=repository:a/b:pull", Some("Basic eDp5")).status, 401);
    let known = token("scope=repository:a/b:pull,push&scope=repository:not/mine:pull", Some(basic));
    assert_eq!(try_with(start, &known).0, 202);
    let mount = format!("{start}?mount={}&from=not/mine", digest_of(b""));
    assert_eq!(try_with(&mount, &known), (401, "\"insufficient_scope\"".into()));
    std::thread::sleep(Duration::from_millis(320));
    assert_eq!(try_with(read, &known), (401, "\"invalid_token\"".into()));
    let minted = registry.mint_token(&["repository:a/b:pull"], Duration::from_secs(9));
    assert_eq!(
        try_with(read, &Answer { body: json!({ "token": minted }).to_string().into(), ..known }).0,
        200
    );
    let where_it_went: Vec<_> = registry
        .credentials()
        .into_iter()
        .filter(|seen| seen.secret == "ann:s3cret")
        .map(|seen| seen.host)
        .collect();
    assert_eq!(where_it_went, [registry.token_host()]);
    assert_eq!(
        registry.log().iter().find(|logged| logged.status == Some(200)).unwrap().listener,
        Listener::Token
    );
}

#[test]
fn an_identity_token_is_exchanged_by_post() {
    for (refresh_token, status) in [(None, 404), (Some("identity".to_owned()), 200), (Some("x".into()), 401)]
    {
        let bearer = Bearer { refresh_token, ..Bearer::new("ann", "s3cret") };
        let registry = FakeRegistry::start_with(Options { auth: Auth::Bearer(bearer), ..Options::default() });
        let form =
            b"grant_type=refresh_token&service=fake&scope=repository%3Aa%3Apull&refresh_token=identity";
        let got = ask(&registry.token_host(), "POST /token", &[], form).unwrap();
        assert_eq!(got.status, status);
        let log = registry.log();
        assert_eq!((log[0].listener, log[0].scopes.join(" ")), (Listener::Token, "repository:a:pull".into()));
        assert_eq!(registry.credentials()[0].secret, "identity");
    }
}

#[test]
fn basic_lets_in_whom_it_knows() {
    let auth = Auth::Basic { user: "ann".into(), password: "s3cret".into() };
    let registry = FakeRegistry::start_with(Options { auth, ..Options::default() });
    for (value, status) in [("Basic YW5uOnMzY3JldA==", 200), ("Basic YW5uOng=", 401), ("Bearer x", 401)] {
        let got = ask(&registry.host(), "GET /v2/", &[("Authorization", value)], b"").unwrap();
        assert_eq!(got.status, status, "{value}");
    }
}

#[test]
fn every_fault_shows_as_what_it_is() {
    use io::ErrorKind::{ConnectionReset, UnexpectedEof};
    let kind_at = |act: Act, body: &[u8]| {
        let registry = FakeRegistry::start();
        registry.fault(Fault::at(1, act));
        let line = format!("POST /v2/a/blobs/uploads/?digest={}", digest_of(body));
        let kind =
            ask(&registry.host(), &line, &[], body).map_err(|error| error.kind()).map(|got| got.status);
        (kind, registry.has_blob("a", &digest_of(body)), registry.log()[0].status, registry.faults_fired())
    };
    for body in [&b""[..], &[7; 100_000]] {
        assert_eq!(kind_at(Act::ResetBefore, body), (Err(ConnectionReset), false, None, 1));
        assert_eq!(kind_at(Act::CloseBefore, body), (Err(UnexpectedEof), false, None, 1));
        assert_eq!(kind_at(Act::LostAnswer, body), (Err(ConnectionReset), true, None, 1));
        assert_eq!(kind_at(Act::status(503), body), (Ok(503), false, Some(503), 1));
    }
    let registry = FakeRegistry::start();
    let digest = registry.put_blob("a", b"0123456789");
    let line = format!("GET /v2/a/blobs/{digest}");
    let read = |act: Act| {
        registry.fault(Fault::when(|request| request.is_blob(), act));
        ask(&registry.host(), &line, &[], b"")
    };
    assert_eq!(read(Act::TruncateBody(4)).err().unwrap().kind(), UnexpectedEof);
    assert_eq!(read(Act::ResetBody(4)).err().unwrap().kind(), ConnectionReset);
    assert_eq!(read(Act::FlipBit(3)).unwrap().body, b"0122456789");
    assert_ne!(read(Act::wrong_digest()).unwrap().header("Docker-Content-Digest"), digest);
    assert_eq!(read(Act::retry_after(429, "1")).unwrap().header("Retry-After"), "1");
    assert_eq!(read(Act::DropHeader("ETag".into())).unwrap().header("ETag"), "");
    assert_eq!(read(Act::SetBody(b"<html>".to_vec())).unwrap().body, b"<html>");
    let away = Act::Redirect { status: 302, location: "http://127.0.0.9:1{path}".into() };
    assert!(read(away).unwrap().header("Location").ends_with(&digest));
    assert_eq!(read(Act::Trickle(Duration::from_millis(1))).unwrap().body.len(), 10);
    let began = std::time::Instant::now();
    assert_eq!(read(Act::Delay(Duration::from_millis(80))).unwrap().body.len(), 10);
    assert!(began.elapsed() >= Duration::from_millis(80));
}

#[test]
fn faults_are_counted_from_when_they_are_scripted() {
    let registry = FakeRegistry::start();
    get(&registry, "/v2/");
    registry.fault(Fault::when(|request| request.route() == "/v2/", Act::status(500)).nth(2).times(2));
    let statuses: Vec<u16> = (0..4).map(|_| get(&registry, "/v2/").status).collect();
    assert_eq!(statuses, [200, 500, 500, 200]);
    assert_eq!((registry.count("GET", |path| path == "/v2/"), registry.faults_fired()), (5, 2));
}

#[test]
fn a_hook_sees_every_request_before_and_after_it_is_processed() {
    let registry = FakeRegistry::start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    registry.on_request(move |request, when| notes.lock().unwrap().push((request.number, when)));
    get(&registry, "/v2/");
    assert_eq!(*seen.lock().unwrap(), [(1, When::Before), (1, When::After)]);
}

/// Copies with skopeo, a client that was not written for this registry.
#[test]
fn skopeo_copies_from_and_to_the_registry() {
    if !Path::new("/usr/bin/skopeo").exists() {
        eprintln!("skipped: no /usr/bin/skopeo");
        return;
    }
    for auth in [Auth::None, Auth::Bearer(Bearer::new("ann", "s3cret"))] {
        let registry = FakeRegistry::start_with(Options { auth, ..Options::default() });
        let layer = vec![1; 3_000_000];
        let config = json!({ "architecture": "arm64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer)] } });
        let config = config.to_string();
        let mut manifest = image(&registry.put_blob("a/b", config.as_bytes()), config.len());
        let kind = "application/vnd.oci.image.layer.v1.tar";
        manifest["layers"] =
            json!([{ "mediaType": kind, "size": layer.len(), "digest": registry.put_blob("a/b", &layer) }]);
        let digest = registry.put_manifest("a/b", "x", MANIFEST, manifest.to_string().as_bytes());
        let host = registry.host();
        let (from, to) = (format!("docker://{host}/a/b:x"), format!("docker://{host}/c/d:y"));
        let copied = std::process::Command::new("/usr/bin/skopeo")
            .args(["copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(["--src-creds=ann:s3cret", "--dest-creds=ann:s3cret", &from, &to])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        assert_eq!(registry.tag("c/d", "y"), Some(digest.clone()));
        assert_eq!(registry.closure_complete("c/d", &digest), Ok(()));
        // Without TLS verification skopeo tries https first; the rest must be clean.
        let tried_https = |what: &&String| !what.contains("TLS handshake");
        assert_eq!(registry.violations().iter().filter(tried_https).count(), 0);
    }
}

#[test]
fn a_client_can_be_killed_before_its_request_takes_effect() {
    use std::io::Write;
    for (act, stored) in [(None, true), (Some(Act::ResetBefore), false)] {
        let registry = FakeRegistry::start();
        let (victims, killed) = std::sync::mpsc::channel::<u32>();
        let killed = Mutex::new(killed);
        registry.on_request(move |_, when| {
            if when == When::Before {
                let id = i32::try_from(killed.lock().unwrap().recv().unwrap()).unwrap();
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL)
                    .unwrap();
            }
        });
        act.into_iter().for_each(|act| registry.fault(Fault::at(1, act)));
        let digest = digest_of(b"hello");
        let path = format!("/v2/a/blobs/uploads/?digest={digest}");
        // A client with a process id: sends all of it in one write, then stays until its stdin ends.
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        let (name, port) = (file.path().display(), registry.host().replace(':', "/"));
        let mut client = std::process::Command::new("bash")
            .args(["-c", &format!("exec cat {name} - >/dev/tcp/{port}")])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Child::wait would close it.
        let stdin = client.stdin.take();
        victims.send(client.id()).unwrap();
        assert!(!client.wait().unwrap().success());
        drop(stdin);
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while stored && !registry.has_blob("a", &digest) && std::time::Instant::now() < until {
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(registry.has_blob("a", &digest), stored);
    }
}

#[test]
fn large_blobs_go_to_disk_and_not_to_memory() {
    use std::io::Write;
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
        line.trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let registry = FakeRegistry::start();
    let before = peak();
    let (block, blocks) = (vec![7; 1 << 20], 192);
    let mut stream = TcpStream::connect(registry.host()).unwrap();
    let start = ask(&registry.host(), "POST /v2/a/blobs/uploads/", &[], b"").unwrap();
    let place = start.header("Location").trim_start_matches("http://").split_once('/').unwrap().1.to_owned();
    write!(stream, "PATCH /{place} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..blocks {
        write!(stream, "{:x}\r\n", block.len()).unwrap();
        stream.write_all(&block).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 202");
    assert_eq!(registry.log().last().map(|logged| logged.request_bytes), Some(blocks << 20));
    // The margin is for other tests of this process.
    assert!(peak() - before < 128 << 10, "{} KiB", peak() - before);
}

#[test]
fn dropping_ends_threads_that_still_wait() {
    let registry = FakeRegistry::start();
    registry.fault(Fault::at(1, Act::Delay(Duration::from_secs(60))));
    let host = registry.host();
    let waiting = thread::spawn(move || ask(&host, "GET /v2/", &[], b"").is_err());
    while registry.log().is_empty() {
        thread::sleep(Duration::from_millis(2));
    }
    let began = std::time::Instant::now();
    drop(registry);
    waiting.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}
