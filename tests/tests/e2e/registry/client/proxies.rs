//! Proxies from the environment, and their credentials.

use super::tls::Secured;
use super::*;
use crate::tools::{Ran, User, run};
use multiarch_tests::world::require;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

/// A proxy that connects every host name to the same registry, until the test ends.
struct Proxy {
    host: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Responds with `answer` instead of a tunnel, if it is given.
    fn start(registry: &str, answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (heard, registry) = (Arc::clone(&requests), registry.to_string());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (heard, registry) = (Arc::clone(&heard), registry.clone());
                std::thread::spawn(move || serve(stream, &registry, answer, &heard));
            }
        });
        Self { host, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, registry: &str, answer: Option<&str>, heard: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    heard.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
    if let Some(answer) = answer {
        drop(client.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()));
        return;
    }
    let mut server = TcpStream::connect(registry).unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let down = std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut back));
        drop(back.shutdown(Shutdown::Write));
    });
    drop(std::io::copy(&mut client, &mut server));
    drop(server.shutdown(Shutdown::Write));
    drop(down.join());
}

const NAME: &str = "registry.example";
const SECRET: &str = "pr0xy-s3cret";

fn inspect(user: &User, registry: &Secured, environment: &[(&str, String)]) -> Ran {
    let ca = registry.home.path().join("ca.crt").display().to_string();
    let mut command = user
        .command("manifest-push", &["--ca-file", &ca, "inspect", &format!("{NAME}/team/app:1"), "--debug"]);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    run(command)
}

#[test]
fn the_proxy_of_the_environment_is_used_with_its_own_credentials() {
    need!(behind_a_proxy());
}

fn behind_a_proxy() -> Result<(), Skip> {
    require(&["docker-registry", "openssl"])?;
    let registry = Secured::start(&format!("DNS:{NAME}"));
    let user = User::new();
    let proxy = Proxy::start(&registry.host, None);
    let through = format!("http://ann:{SECRET}@{}", proxy.host);
    // The tag does not exist: the registry's 404 shows that it was reached.
    let ran = inspect(&user, &registry, &[("HTTPS_PROXY", through.clone())]).exits(5);
    assert!(!ran.stderr.contains(SECRET), "{ran}");
    let requests = proxy.requests();
    assert!(requests[0].starts_with(&format!("CONNECT {NAME}:443 ")), "{requests:?}");
    assert!(
        requests.iter().all(|head| head.to_ascii_lowercase().contains("proxy-authorization: basic")),
        "{requests:?}"
    );

    // Without the proxy, the host name is unknown.
    let direct = [("HTTPS_PROXY", through.clone()), ("NO_PROXY", format!("other,{NAME}"))];
    inspect(&user, &registry, &direct).exits(6);
    assert_eq!(proxy.requests().len(), requests.len());

    for (answer, code) in
        [("407 Proxy Authentication Required", 4), ("403 Forbidden", 6), ("502 Bad Gateway", 6)]
    {
        let proxy = Proxy::start(&registry.host, Some(answer));
        let through = format!("http://ann:{SECRET}@{}", proxy.host);
        let ran = inspect(&user, &registry, &[("HTTPS_PROXY", through)]).exits(code);
        assert!(!ran.stderr.contains(SECRET) && ran.stderr.contains("proxy"), "{answer}: {ran}");
    }
    let no_proxy = [("HTTPS_PROXY", "http://127.0.0.1:1".to_string())];
    inspect(&user, &registry, &no_proxy).exits(6).assert_stderr_contains("proxy");
    Ok(())
}

/// With plain HTTP, a careless client would send the proxy's credentials to the registry.
#[test]
fn the_registry_never_receives_credentials_of_the_proxy() {
    let registry = FakeRegistry::start();
    seed(&registry, "team/app");
    let leaks = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&leaks);
    registry.on_request(move |request, _| {
        let found =
            request.headers.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("proxy-auth"));
        seen.lock().unwrap().extend(found.map(|(name, value)| format!("{name}: {value}")));
    });
    let proxy = Proxy::start(&registry.host(), None);
    let user = User::new();
    let mut command = user.command(
        "manifest-push",
        &["--plain-http=registry.example", "inspect", "registry.example/team/app:1"],
    );
    command.env("HTTP_PROXY", format!("http://ann:{SECRET}@{}", proxy.host));
    run(command).exits(0);
    assert!(!proxy.requests().is_empty());
    assert_eq!(*leaks.lock().unwrap(), [""; 0]);
}
