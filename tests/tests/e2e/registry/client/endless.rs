//! Responses without an end: each is an error in bounded time and memory.

use super::*;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Serves each request with `respond`, which gets its number and writes the response. Returns the address and the number of requests.
pub fn serve(
    respond: impl Fn(usize, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (count, respond) = (Arc::new(AtomicUsize::new(0)), Arc::new(respond));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (counted, respond) = (Arc::clone(&counted), Arc::clone(&respond));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut stream = stream;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if line.trim().is_empty() {
                        let number = counted.fetch_add(1, Ordering::SeqCst);
                        // The client may close the connection.
                        if respond(number, &mut stream).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    (address, count)
}

fn source(rig: &Rig, host: &str, timeout: u64) -> RegistryStore {
    let options = RegistryOptions { timeout: Duration::from_secs(timeout), ..rig.options.clone() };
    RegistryStore::reading(&Client::new(options).unwrap(), host, "team/app").unwrap()
}

fn page(stream: &mut TcpStream, tags: &str, next: usize) -> std::io::Result<()> {
    let body = format!("{{\"tags\":[{tags}]}}");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Link: </v2/team/app/tags/list?last={next}>; rel=\"next\"\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn trailers_without_an_end_are_a_timeout() {
    let rig = Rig::open();
    let (host, _) = serve(|_, stream| {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\nTransfer-Encoding: chunked\r\n\r\n\
              2\r\n{}\r\n0\r\n",
        )?;
        loop {
            stream.write_all(b"X-Trailer: more\r\n")?;
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let began = Instant::now();
    let error = source(&rig, &host, 1).read_document(&tag("1")).unwrap_err();
    assert_eq!(error.kind, Exit::Network, "{error}");
    let source = source(&rig, &host, 1);
    let read = source.open_blob(&config()).and_then(|mut blob| {
        std::io::copy(&mut blob, &mut std::io::sink()).map_err(|error| Error::from_io("read", error))
    });
    assert!(read.is_err());
    // Without a limit, neither would ever end; the exact time is up to the machine.
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_list_without_new_tags_ends() {
    let rig = Rig::open();
    let (host, count) = serve(|number, stream| page(stream, if number == 0 { "\"a\"" } else { "" }, number));
    let error = source(&rig, &host, 600).tags().unwrap_err();
    assert_eq!(error.kind, Exit::BadInput);
    assert!(error.to_string().contains("the list did not end after 3 pages"), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[test]
fn a_list_with_a_new_tag_on_each_page_ends_in_time() {
    let rig = Rig::open();
    let (host, _) = serve(|number, stream| {
        std::thread::sleep(Duration::from_millis(50));
        page(stream, &format!("\"t{number}\""), number)
    });
    let error = source(&rig, &host, 1).tags().unwrap_err();
    assert_eq!(error.kind, Exit::Network);
    assert!(error.to_string().contains("did not end in time"), "{error}");
}

#[test]
fn tags_of_many_bytes_are_refused() {
    let rig = Rig::open();
    let (host, _) = serve(|number, stream| {
        let tags: Vec<String> = (0..50_000).map(|tag| format!("\"{number:0>60}{tag:0>67}\"")).collect();
        page(stream, &tags.join(","), number)
    });
    let error = source(&rig, &host, 600).tags().unwrap_err();
    assert!(error.to_string().contains("or 24 MiB of them"), "{error}");
}

/// Each token is valid and new, and each is answered with a challenge.
#[test]
fn a_registry_that_accepts_no_token_is_asked_a_few_times() {
    let rig = Rig::open();
    let host = Arc::new(Mutex::new(String::new()));
    let own = Arc::clone(&host);
    let (address, count) = serve(move |number, stream| {
        let host = own.lock().unwrap().clone();
        let body = format!("{{\"token\":\"t{number}\",\"access_token\":\"t{number}\",\"expires_in\":3600}}");
        // Requests alternate between the registry and its token server, which is the same host.
        let (status, challenge) = match number % 2 {
            0 => ("401 Unauthorized", format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\"\r\n")),
            _ => ("200 OK", String::new()),
        };
        write!(stream, "HTTP/1.1 {status}\r\n{challenge}Content-Length: {}\r\n\r\n{body}", body.len())
    });
    *host.lock().unwrap() = address.clone();
    let error = source(&rig, &address, 600).read_document(&tag("1")).unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted, "{error}");
    let requests = count.load(Ordering::SeqCst);
    assert!(requests <= 8, "{requests} requests");
}
