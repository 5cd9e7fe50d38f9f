//! Faults of registries and connections, and which requests are retried.

use super::*;
use multiarch_tests::fake_registry::{Act, Fault};
use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

/// A push and a pull, with every kind of request.
fn job(store: &RegistryStore) -> Result<(), Error> {
    push(store, "1")?;
    assert_eq!(store.resolve(&tag("1"))?, Some(image().descriptor()));
    assert_eq!(store.read_document(&tag("1"))?, image());
    assert!(store.has_blob(&config())?);
    assert_eq!(read(store, &layer())?, LAYER);
    assert_eq!(store.tags()?, ["1"]);
    Ok(())
}

#[test]
fn a_transient_fault_of_any_request_is_retried() {
    let acts = || {
        let statuses = [408, 425, 429, 499, 500, 502, 503, 504, 522].map(Act::status);
        let broken = [
            Act::ResetBefore,
            Act::CloseBefore,
            Act::LostAnswer,
            Act::CutRequest(2),
            Act::TruncateBody(2),
            Act::ResetBody(2),
        ];
        statuses.into_iter().chain(broken)
    };
    for act in acts() {
        for k in 1.. {
            let rig = Rig::open();
            rig.registry.fault(Fault::at(k, act.clone()));
            let store = rig.store();
            job(&store).unwrap_or_else(|error| panic!("{act:?} at {k}: {error}"));
            assert_eq!(rig.registry.violations(), [""; 0], "{act:?} at {k}");
            assert_eq!(rig.registry.tag("team/app", "1").as_deref(), Some(image().digest().as_str()));
            assert_eq!(rig.registry.closure_complete("team/app", image().digest().as_str()), Ok(()));
            if rig.registry.faults_fired() == 0 {
                assert!(k > 11, "{k} requests were expected");
                break;
            }
        }
    }
}

#[test]
fn a_permanent_fault_ends_after_five_attempts() {
    for act in [Act::status(503), Act::ResetBefore, Act::CloseBefore, Act::retry_after(429, "0")] {
        let rig = Rig::open();
        let store = rig.store();
        rig.registry.fault(Fault::at(1, act.clone()).forever());
        type Job<'a> = &'a dyn Fn() -> Result<(), Error>;
        let jobs: [Job; 4] = [
            &|| store.read_document(&tag("1")).map(drop),
            &|| store.has_blob(&config()).map(drop),
            &|| store.write_tag("1", &image()),
            &|| write(&store, &config(), CONFIG),
        ];
        for job in jobs {
            let error = job().unwrap_err();
            assert_eq!(error.kind, Exit::Network, "{error}");
            assert!(error.to_string().contains("(5 attempts)"), "{error}");
            assert_eq!(rig.requests().len(), 5, "{act:?}: {error}");
        }
    }
}

#[test]
fn an_upload_is_tried_five_times_in_new_sessions() {
    let rig = Rig::open();
    rig.registry.fault(Fault::when(|r| r.method == "PUT", Act::CutRequest(3)).forever());
    let error = write(&rig.store(), &config(), CONFIG).unwrap_err();
    assert_eq!(error.kind, Exit::Network, "{error}");
    let count = |method: &str| rig.registry.count(method, |path| path.contains("uploads"));
    assert_eq!((count("PUT"), count("POST"), rig.registry.open_uploads()), (5, 5, 0));
}

#[test]
fn an_upload_whose_response_was_lost_is_not_sent_again() {
    let rig = Rig::open();
    rig.registry.fault(Fault::when(|r| r.method == "PUT", Act::LostAnswer));
    write(&rig.store(), &config(), CONFIG).unwrap();
    assert_eq!(rig.registry.count("PUT", |_| true), 1);
    assert_eq!(rig.registry.violations(), [""; 0]);
}

#[test]
fn a_refused_blob_is_not_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        for answer in
            ["202 Accepted\r\nLocation: /v2/a/blobs/uploads/1", "413 Too Large\r\nConnection: close"]
        {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).unwrap() > 0, "{head}");
            }
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
        }
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let long = vec![7; 8 << 20];
    let blob = Descriptor::of(media_type::OCI_LAYER, &long);
    let store = RegistryStore::writing(&Rig::open().client(), &host, "a").unwrap();
    assert_eq!(write(&store, &blob, &long).unwrap_err().kind, Exit::BadInput);
    assert_eq!(server.join().unwrap(), 0, "bytes of a body that the server refused");
}

#[test]
fn a_lost_session_is_replaced() {
    let rig = Rig::open();
    rig.registry.fault(Fault::when(|r| r.method == "PUT", Act::status(404)).times(2));
    write(&rig.store(), &config(), CONFIG).unwrap();
    assert_eq!(rig.registry.count("POST", |_| true), 3);
}

#[test]
fn retry_after_is_obeyed() {
    let rig = Rig::open();
    seed(&rig.registry, "team/app");
    let store = rig.source();
    let began = Instant::now();
    rig.registry.fault(Fault::at(1, Act::retry_after(429, "1")));
    store.has_blob(&config()).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    let began = Instant::now();
    for invalid in ["-1", "0", "abc", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        rig.registry.fault(Fault::at(1, Act::retry_after(503, invalid)));
        store.has_blob(&config()).unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_retry_after_above_the_limit_is_an_error_at_once() {
    let rig = Rig::open();
    rig.registry.fault(Fault::at(1, Act::retry_after(429, "999999")).forever());
    let error = rig.source().has_blob(&config()).unwrap_err();
    assert_eq!((error.kind, rig.requests().len()), (Exit::Network, 1));
    assert!(error.to_string().contains("999999 s"), "{error}");
}

#[test]
fn client_errors_are_not_retried() {
    for (status, kind) in [
        (400, Exit::BadInput),
        (401, Exit::NotPermitted),
        (403, Exit::NotPermitted),
        (405, Exit::NotPermitted),
        (409, Exit::Conflict),
        (413, Exit::BadInput),
        (415, Exit::BadInput),
        (418, Exit::BadInput),
        (422, Exit::BadInput),
    ] {
        let rig = Rig::open();
        rig.registry.fault(Fault::at(1, Act::status(status)).forever());
        let error = rig.store().write_tag("1", &image()).unwrap_err();
        assert_eq!((error.kind, rig.requests().len()), (kind, 1), "{error}");
        assert!(error.to_string().contains("SCRIPTED: scripted fault"), "{error}");
    }
    // A long error body does not change the error.
    for status in [403, 503] {
        let rig = Rig::open();
        let long = Act::Answer { status, headers: Vec::new(), body: vec![b'x'; 20 << 20] };
        rig.registry.fault(Fault::at(1, long).forever());
        let error = rig.source().read_document(&tag("1")).unwrap_err();
        assert_eq!(error.kind, if status == 403 { Exit::NotPermitted } else { Exit::Network });
        assert!(error.to_string().len() < 1300);
    }
    let rig = Rig::open();
    assert_eq!(rig.source().read_document(&tag("1")).unwrap_err().kind, Exit::NotFound);
    assert_eq!(rig.requests(), ["GET 404"]);
}

#[test]
fn a_registry_without_head_for_manifests_gets_a_get() {
    let rig = Rig::open();
    seed(&rig.registry, "team/app");
    let store = rig.source();
    for act in [
        Act::status(405),
        Act::DropHeader("Docker-Content-Digest".into()),
        Act::DropHeader("Content-Type".into()),
    ] {
        rig.registry.fault(Fault::when(|r| r.method == "HEAD", act));
        assert_eq!(store.resolve(&tag("1")).unwrap(), Some(image().descriptor()));
        assert_eq!(rig.requests().len(), 2);
    }
    rig.registry.fault(Fault::when(|r| r.method == "HEAD", Act::status(405)));
    assert_eq!(store.resolve(&tag("absent")).unwrap(), None);
}

#[test]
fn a_silent_registry_times_out() {
    let mut rig = Rig::open();
    seed(&rig.registry, "team/app");
    rig.options.idle_timeout = Duration::from_millis(150);
    let store = rig.source();
    rig.registry.fault(Fault::at(1, Act::Delay(Duration::from_secs(5))).times(2));
    let began = Instant::now();
    assert!(store.has_blob(&config()).unwrap());
    assert!(began.elapsed() < Duration::from_secs(4));
    rig.registry.fault(Fault::at(1, Act::Delay(Duration::from_secs(5))).forever());
    let error = store.has_blob(&config()).unwrap_err();
    assert_eq!(error.kind, Exit::Network);
    assert!(error.to_string().contains("timed out"), "{error}");
}

/// A body that arrives byte by byte never reaches the time limit of a single read.
#[test]
fn a_slow_response_times_out() {
    let mut rig = Rig::open();
    (rig.options.timeout, rig.options.idle_timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    seed(&rig.registry, "team/app");
    let noise = super::content::noise(700);
    rig.registry.put_blob("team/app", &noise);
    let blob = Descriptor::of(media_type::OCI_LAYER, &noise);
    let long = [image().bytes(), &b" ".repeat(1500)].concat();
    rig.registry.put_manifest("team/app", "long", media_type::OCI_MANIFEST, &long);
    let store = rig.source();
    let given_up = |error: Error, began: Instant| {
        assert_eq!(error.kind, Exit::Network, "{error}");
        assert!(error.to_string().contains("gave up after 1 s, --timeout"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    let drops = |pause: u64| {
        rig.registry.clear_faults();
        let act = Act::Trickle(Duration::from_millis(pause));
        rig.registry.fault(Fault::when(|r| r.method == "GET", act).forever());
        Instant::now()
    };
    // 20 bytes per second are below the minimum rate.
    let began = drops(50);
    given_up(store.read_document(&tag("long")).unwrap_err(), began);
    let began = drops(50);
    given_up(read(&store, &blob).unwrap_err(), began);
    // 400 are above it: a layer may take longer than the timeout, a manifest may not.
    let began = drops(2);
    given_up(store.read_document(&tag("long")).unwrap_err(), began);
    let began = drops(2);
    assert_eq!(read(&store, &blob).unwrap(), noise);
    assert!(began.elapsed() > rig.options.timeout);
}

#[test]
fn a_refused_connection_is_a_network_error() {
    let rig = Rig::open();
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let store = RegistryStore::reading(&rig.client(), &format!("127.0.0.1:{port}"), "a").unwrap();
    let error = store.has_blob(&config()).unwrap_err();
    assert_eq!(error.kind, Exit::Network);
    assert!(error.to_string().contains("refused") && error.to_string().contains("(5 attempts)"), "{error}");
}

/// distribution does not replace its files atomically: while others push the same image, blobs are unknown for a moment.
#[test]
fn a_manifest_whose_blobs_are_unknown_for_a_moment_is_written() {
    let unknown = |code: &str| {
        let body = format!("{{\"errors\":[{{\"code\":\"DIGEST_INVALID\"}},{{\"code\":\"{code}\"}}]}}");
        Act::Answer { status: 400, headers: Vec::new(), body: body.into_bytes() }
    };
    let is_put = |request: &multiarch_tests::fake_registry::Request| {
        request.method == "PUT" && request.path.contains("/manifests/")
    };
    let rig = Rig::open();
    rig.registry.fault(Fault::when(is_put, unknown("MANIFEST_BLOB_UNKNOWN")).times(2));
    push(&rig.store(), "1").unwrap();
    assert_eq!(rig.registry.tag("team/app", "1").as_deref(), Some(image().digest().as_str()));
    // What stays unknown is an error, and so is any other refusal, at once.
    for (code, attempts) in [("MANIFEST_BLOB_UNKNOWN", 5), ("MANIFEST_INVALID", 1)] {
        let rig = Rig::open();
        rig.registry.fault(Fault::when(is_put, unknown(code)).forever());
        let error = push(&rig.store(), "1").unwrap_err();
        assert!(error.to_string().contains(code), "{error}");
        assert_eq!(rig.registry.faults_fired(), attempts, "{code}");
    }
}
