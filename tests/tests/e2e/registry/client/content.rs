//! Verification of content, resumed downloads, redirects, tag lists.

use super::*;
use image_model::digest::Digest;
use multiarch_tests::fake_registry::{Act, Fault, Listener};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

/// Pseudo-random bytes, so that every offset has different content.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn an_interrupted_download_is_resumed() {
    for ranges in [true, false] {
        let rig = Rig::new(Options { ranges, ..Options::default() });
        let content = noise(3_000_000);
        rig.registry.put_blob("team/app", &content);
        let blob = Descriptor::of(media_type::OCI_LAYER, &content);
        // Without ranges, the second attempt breaks before the offset of the first. A reset loses data that was not read.
        let acts =
            [Act::TruncateBody(1_500_000), Act::ResetBody(700_000), Act::status(503), Act::ResetBefore];
        for (act, k) in acts.into_iter().zip(1..) {
            rig.registry.fault(Fault::when(|r| r.is_blob(), act).nth(k));
        }
        assert_eq!(read(&rig.source(), &blob).unwrap(), content);
        let sent: u64 = rig.registry.log().iter().map(|l| l.response_bytes).sum();
        assert!(!ranges || sent < 4_000_000, "{sent} bytes were sent");
        assert_eq!(rig.registry.faults_fired(), 4);
    }
}

#[test]
fn a_download_that_always_breaks_is_an_error() {
    let rig = Rig::open();
    rig.registry.put_blob("team/app", LAYER);
    rig.registry.fault(Fault::when(|r| r.is_blob(), Act::TruncateBody(0)).forever());
    let error = read(&rig.source(), &layer()).unwrap_err();
    assert_eq!(error.kind, Exit::Network, "{error}");
    assert!(error.to_string().contains("at byte 0 of 5 (5 attempts)"), "{error}");
    assert_eq!(rig.requests().len(), 5);
}

#[test]
fn a_range_that_was_not_requested_is_refused() {
    for range in ["bytes 0-4/5", "bytes 3-4/9", "bytes", ""] {
        let rig = Rig::open();
        rig.registry.put_blob("team/app", LAYER);
        rig.registry.fault(Fault::when(|r| r.is_blob(), Act::TruncateBody(3)));
        let wrong = Act::SetHeader("Content-Range".into(), range.into());
        rig.registry.fault(Fault::when(|r| r.header("range").is_some(), wrong).forever());
        let error = read(&rig.source(), &layer()).unwrap_err();
        assert_eq!(error.kind, Exit::Integrity, "{error}");
    }
}

#[test]
fn wrong_bytes_and_wrong_lengths_are_errors() {
    let rig = Rig::open();
    seed(&rig.registry, "team/app");
    let store = rig.source();
    let blob = |act: Act| {
        rig.registry.fault(Fault::when(|r| r.is_blob(), act));
        read(&store, &layer()).unwrap_err()
    };
    assert_eq!(blob(Act::FlipBit(2)).kind, Exit::Integrity);
    assert_eq!(blob(Act::SetBody(b"layers".to_vec())).kind, Exit::Integrity);
    assert_eq!(blob(Act::SetBody(b"laye".to_vec())).kind, Exit::Integrity);
    assert_eq!(blob(Act::SetBody(Vec::new())).kind, Exit::Integrity);
    let error = read(&store, &Descriptor { size: 4, ..layer() }).unwrap_err();
    assert_eq!(error.kind, Exit::Integrity, "{error}");
}

#[test]
fn a_manifest_must_match_its_digest() {
    let rig = Rig::open();
    seed(&rig.registry, "team/app");
    let store = rig.source();
    let by_digest = Pointer::from(image().digest());
    let kind = |act: Act, at: &Pointer| {
        rig.registry.fault(Fault::when(|r| r.is_manifest(), act));
        store.read_document(at).map_err(|error| error.kind)
    };
    for at in [&by_digest, &tag("1")] {
        assert_eq!(kind(Act::FlipBit(40), at), Err(Exit::Integrity), "{at}");
        assert_eq!(kind(Act::wrong_digest(), at), Err(Exit::Integrity), "{at}");
        assert_eq!(kind(Act::SetBody(b"<html>".to_vec()), at), Err(Exit::Integrity), "{at}");
        assert_eq!(
            kind(Act::SetHeader("Content-Type".into(), media_type::OCI_INDEX.into()), at),
            Err(Exit::Integrity)
        );
        assert_eq!(kind(Act::DropHeader("Docker-Content-Digest".into()), at).unwrap(), image());
        let charset = format!("{}; charset=utf-8", media_type::OCI_MANIFEST);
        assert_eq!(kind(Act::SetHeader("Content-Type".into(), charset), at).unwrap(), image());
        let unknown = Act::SetHeader("Docker-Content-Digest".into(), "md5:0".into());
        assert_eq!(kind(unknown, at).unwrap(), image());
    }
    let mut other =
        image_model::digest::Hasher::like(&format!("sha512:{}", "0".repeat(128)).parse().unwrap());
    other.update(image().bytes());
    let sha512: Digest = other.finish();
    let announced = |digest: &str| Act::SetHeader("Docker-Content-Digest".into(), digest.into());
    assert_eq!(kind(announced(sha512.as_str()), &tag("1")).unwrap().digest(), &sha512);
    assert_eq!(kind(announced(sha512.as_str()), &by_digest).unwrap().digest(), image().digest());
    assert_eq!(kind(announced(&format!("sha512:{}", "0".repeat(128))), &tag("1")), Err(Exit::Integrity));
    let digest =
        rig.registry.put_manifest("team/app", sha512.as_str(), media_type::OCI_MANIFEST, image().bytes());
    assert_eq!(store.read_document(&Pointer::Digest(digest.parse().unwrap())).unwrap().digest(), &sha512);
}

#[test]
fn a_manifest_above_the_limit_is_refused() {
    let rig = Rig::open();
    let long = vec![b' '; 9 << 20];
    rig.registry.put_manifest("team/app", "long", media_type::OCI_MANIFEST, &long);
    let error = rig.source().read_document(&tag("long")).unwrap_err();
    assert_eq!(error.kind, Exit::BadInput, "{error}");
    assert_eq!(rig.requests().len(), 1);
}

/// A server that sends this response to every request and closes the connection, until the test ends.
fn canned(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            // The client may close the connection first.
            drop(stream.get_mut().write_all(&answer));
        }
    });
    host
}

#[test]
fn ambiguous_responses_are_refused() {
    let layer = layer();
    let answer = |head: &str| format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\nlayer").into_bytes();
    let many = (0..10_000).map(|i| format!("X-{i}: x\r\n")).collect::<String>();
    for (head, kind) in [
        ("Content-Length: 5", None),
        ("Content-Length: 5\r\nContent-Length: 5", None),
        ("Connection: close", None),
        ("Content-Length: 5\r\nContent-Length: 6", Some(Exit::Network)),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", Some(Exit::Network)),
        ("Content-Length: -5", Some(Exit::Network)),
        ("Content-Length: 4", Some(Exit::Integrity)),
        ("Content-Length: 6", Some(Exit::Integrity)),
        (&*format!("{many}Content-Length: 5"), Some(Exit::Network)),
    ] {
        let host = canned(answer(head));
        let store = RegistryStore::reading(&Rig::open().client(), &host, "a").unwrap();
        let found = read(&store, &layer).map_err(|error| error.kind);
        assert_eq!(found.err(), kind, "{:.60}", head);
    }
}

#[test]
fn an_endless_manifest_is_read_up_to_the_limit() {
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let host = canned([&head[..], &chunk.repeat(200)].concat());
    let store = RegistryStore::reading(&Rig::open().client(), &host, "a").unwrap();
    let error = store.read_document(&tag("1")).unwrap_err();
    assert_eq!(error.kind, Exit::BadInput, "{error}");
    assert!(error.to_string().contains("longer than 8388608 bytes"), "{error}");
}

#[test]
fn a_different_digest_in_the_response_to_a_write_is_an_error() {
    let rig = Rig::open();
    let store = rig.store();
    rig.registry.fault(Fault::when(|r| r.method == "PUT", Act::wrong_digest()).forever());
    assert_eq!(write(&store, &config(), CONFIG).unwrap_err().kind, Exit::Integrity);
    rig.registry.clear_faults();
    push(&store, "1").unwrap();
    rig.registry.fault(Fault::when(|r| r.method == "PUT", Act::wrong_digest()).forever());
    assert_eq!(store.write_document(&image()).unwrap_err().kind, Exit::Integrity);
    assert_eq!(store.write_tag("2", &image()).unwrap_err().kind, Exit::Integrity);
}

#[test]
fn a_source_with_wrong_bytes_stores_nothing() {
    let rig = Rig::open();
    let store = rig.store();
    for content in [&b"lay3r"[..], b"laye", b"layers", b""] {
        let error = write(&store, &layer(), content).unwrap_err();
        assert_eq!(error.kind, Exit::Integrity, "{error}");
    }
    let error = store.write_blob(&layer(), &|| Err(Error::conflict("open x", "it is locked"))).unwrap_err();
    assert_eq!(error.kind, Exit::Conflict);
    assert!(!rig.registry.has_blob("team/app", layer().digest.as_str()));
    assert_eq!(rig.registry.open_uploads(), 0);
    assert_eq!(rig.registry.violations(), [""; 0]);
}

#[test]
fn a_manifest_above_the_limit_of_registries_is_not_sent() {
    let rig = Rig::open();
    let mut text = image().bytes().to_vec();
    text.resize((4 << 20) + 1, b' ');
    let long = Document::new(text, None).unwrap();
    assert_eq!(rig.store().write_document(&long).unwrap_err().kind, Exit::BadInput);
    assert_eq!(rig.requests(), [""; 0]);
}

#[test]
fn the_session_of_a_failed_mount_is_used_for_the_upload() {
    let rig = Rig::new(Options { mounts: false, ..Options::default() });
    seed(&rig.registry, "team/base");
    let store = rig.store();
    let host = rig.registry.host();
    assert!(!store.mount_blob(&config(), &host, "team/base").unwrap());
    assert!(!store.mount_blob(&layer(), &host, "team/base").unwrap());
    write(&store, &config(), CONFIG).unwrap();
    assert_eq!(rig.requests(), ["POST 202", "POST 202", "PUT 201"]);
    assert_eq!(rig.registry.open_uploads(), 1);
    drop(store);
    assert_eq!(rig.registry.open_uploads(), 0, "an unused session is canceled");
}

#[test]
fn any_failed_mount_becomes_an_upload() {
    for act in [Act::status(400), Act::status(404), Act::status(405), Act::status(403)] {
        let rig = Rig::open();
        seed(&rig.registry, "team/base");
        rig.registry.fault(Fault::at(1, act));
        let store = rig.store();
        assert!(!store.mount_blob(&config(), &rig.registry.host(), "team/base").unwrap());
        push(&store, "1").unwrap();
    }
}

#[test]
fn redirects_are_limited_in_number_and_target() {
    let rig = Rig::open();
    seed(&rig.registry, "team/app");
    let blobs = rig.registry.blobs_host();
    let host = rig.registry.host();
    let go = |location: String, times: usize| {
        let store = rig.source();
        let act = Act::Redirect { status: 302, location };
        rig.registry.clear_faults();
        rig.registry
            .fault(Fault::when(|r| r.listener == Listener::Registry && r.is_blob(), act).times(times));
        rig.registry.take_log();
        read(&store, &layer()).map_err(|error| (error.kind, error.to_string()))
    };
    assert_eq!(go(format!("http://{blobs}{{path}}"), 1).unwrap(), LAYER);
    assert_eq!(go("{path}".into(), 5).unwrap(), LAYER);
    let refused = |location: &str, why: &str| {
        let (kind, text) = go(location.into(), usize::MAX).unwrap_err();
        assert!(matches!(kind, Exit::NotPermitted | Exit::Network), "{text}");
        assert!(text.contains(why), "{text}");
    };
    refused("{path}", "more than 5 redirects");
    assert_eq!(rig.requests().len(), 6, "too many redirects are not retried");
    refused("http://169.254.169.254/x", "169.254.169.254");
    refused("http://[::ffff:169.254.169.254]/x?sig=s3cret", "is not a public address");
    refused("http://0.0.0.0/x", "0.0.0.0");
    refused("ftp://x/", "not an http");
    refused(&format!("http://ann:pw@{host}/"), "user name");
    rig.registry.clear_faults();
    rig.registry.fault(Fault::at(1, Act::Answer { status: 302, headers: Vec::new(), body: Vec::new() }));
    assert!(read(&rig.source(), &layer()).unwrap_err().to_string().contains("no Location header"));
}

#[test]
fn writes_do_not_follow_redirects() {
    let rig = Rig::open();
    let away =
        Act::Redirect { status: 307, location: format!("http://{}{{path}}", rig.registry.blobs_host()) };
    rig.registry.fault(Fault::at(1, away).forever());
    let store = rig.store();
    assert!(store.write_tag("1", &image()).unwrap_err().to_string().contains("307"));
    assert!(write(&store, &config(), CONFIG).unwrap_err().to_string().contains("307"));
    assert!(rig.registry.log().iter().all(|l| l.listener == Listener::Registry));
}

#[test]
fn an_upload_to_another_host_requires_tls() {
    let rig = Rig::open();
    let elsewhere = format!("http://{}/v2/team/app/blobs/uploads/1", rig.registry.blobs_host());
    rig.registry.fault(Fault::when(|r| r.method == "POST", Act::SetHeader("Location".into(), elsewhere)));
    let error = write(&rig.store(), &config(), CONFIG).unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted);
    assert!(error.to_string().contains("without TLS"), "{error}");
    rig.registry.fault(Fault::when(|r| r.method == "POST", Act::DropHeader("Location".into())));
    assert!(write(&rig.store(), &config(), CONFIG).unwrap_err().to_string().contains("no Location header"));
}

#[test]
fn tags_are_listed_from_all_pages_of_the_same_host() {
    let rig = Rig::new(Options { tag_page: 3, ..Options::default() });
    seed(&rig.registry, "team/app");
    for name in ["b", "a", "c", "e", "d", "f", "g"] {
        rig.registry.set_tag("team/app", name, image().digest().as_str());
    }
    assert_eq!(rig.source().tags().unwrap(), ["1", "a", "b", "c", "d", "e", "f", "g"]);
    let with_link = |link: &str| {
        rig.registry.clear_faults();
        rig.registry.fault(Fault::at(1, Act::SetHeader("Link".into(), link.into())).forever());
        rig.source().tags().unwrap_err()
    };
    let elsewhere = format!("<http://{}/v2/team/app/tags/list>; rel=\"next\"", rig.registry.blobs_host());
    assert!(with_link(&elsewhere).to_string().contains("another host"));
    assert!(with_link("</v2/team/app/tags/list?n=1>; rel=\"next\"").to_string().contains("did not end"));
    let with_body = |body: &str| {
        rig.registry.clear_faults();
        rig.registry.fault(Fault::at(1, Act::SetBody(body.into())));
        rig.registry.fault(Fault::at(1, Act::DropHeader("Link".into())));
        rig.source().tags().map_err(|error| error.to_string())
    };
    assert_eq!(with_body(r#"{"name":"x","tags":null}"#), Ok(Vec::new()));
    assert!(with_body(r#"{"tags":["../../x"]}"#).unwrap_err().contains("invalid tag"));
    assert!(with_body("<html>").unwrap_err().contains("not a list of tags"));
}
