//! Responses that are longer than any real one: an error, before much of them was read.

use super::endless::serve;
use super::*;
use std::io::Write;
use std::net::TcpStream;

/// Writes an endless chunked body until the client closes the connection.
fn endless(stream: &mut TcpStream, head: &str, part: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {head}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = part.repeat(64 << 10);
    loop {
        write!(stream, "{:x}\r\n{chunk}\r\n", chunk.len())?;
    }
}

fn source(rig: &Rig, host: &str) -> RegistryStore {
    RegistryStore::reading(&rig.client(), host, "team/app").unwrap()
}

#[test]
fn an_endless_error_is_read_up_to_64_kib() {
    let rig = Rig::open();
    let (host, _) = serve(|_, stream| endless(stream, "403 Forbidden", "x"));
    let error = source(&rig, &host).read_document(&tag("1")).unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted, "{error}");
    assert!(error.to_string().len() < 2 << 10, "{}", error.to_string().len());
}

#[test]
fn an_endless_token_is_read_up_to_1_mib() {
    let rig = Rig::open();
    let (tokens, _) = serve(|_, stream| endless(stream, "200 OK", " "));
    let (host, count) = serve(move |_, stream| {
        let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{tokens}/token\"");
        write!(stream, "HTTP/1.1 401 Unauthorized\r\n{challenge}\r\nContent-Length: 0\r\n\r\n")
    });
    let error = source(&rig, &host).read_document(&tag("1")).unwrap_err();
    assert!(error.to_string().contains("longer than 1048576 bytes"), "{error}");
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[test]
fn lists_of_referrers_end_after_100_pages_or_10_000_entries() {
    let rig = Rig::open();
    let check = |entries: usize, why: &str, requests: usize| {
        let (host, count) = serve(move |number, stream| {
            let entry = serde_json::to_string(&config()).unwrap();
            let entries = vec![entry; entries].join(",");
            let body = format!("{{\"schemaVersion\":2,\"manifests\":[{entries}]}}");
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nContent-Length: {}\r\n\
                 Link: </v2/team/app/referrers/x?next={number}>; rel=\"next\"\r\n\r\n{body}",
                body.len()
            )
        });
        let error = source(&rig, &host).referrers(image().digest()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), requests);
    };
    check(1, "the list did not end", 100);
    check(3000, "there are more than 10000", 4);
}
