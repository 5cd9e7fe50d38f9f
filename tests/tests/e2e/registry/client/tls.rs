//! TLS: trusted and untrusted certificates, client certificates, and no fallback to plain HTTP.

use super::*;
use multiarch_tests::fake_registry::{Act, Auth, Bearer, Fault};
use multiarch_tests::world::{Proc, program, require};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Debian's docker-registry with a certificate of its own CA.
pub struct Secured {
    _process: Proc,
    pub home: tempfile::TempDir,
    pub host: String,
}

fn openssl(arguments: &str) -> Command {
    let mut command = Command::new(program("openssl").unwrap());
    command.args(arguments.split('|'));
    command
}

fn free_host() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Secured {
    pub fn start(name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let at = |file: &str| home.path().join(file).display().to_string();
        let openssl = |arguments: &str| {
            let output = openssl(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let key = "-newkey|ec|-pkeyopt|ec_paramgen_curve:prime256v1|-nodes";
        openssl(&format!(
            "req|-x509|{key}|-keyout|{}|-out|{}|-days|2|-subj|/CN=authority",
            at("ca.key"),
            at("ca.crt")
        ));
        openssl(&format!(
            "req|-x509|{key}|-keyout|{}|-out|{}|-days|2|-subj|/CN=registry|-addext|subjectAltName={name}|-CA|{}|-CAkey|{}\
             |-addext|basicConstraints=critical,CA:FALSE",
            at("key"),
            at("crt"),
            at("ca.crt"),
            at("ca.key")
        ));
        let host = free_host();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{host}\", secret: x, tls: {{certificate: {}, key: {}}}}}\n",
            at("data"),
            at("crt"),
            at("key")
        );
        std::fs::write(home.path().join("config.yml"), config).unwrap();
        let mut command = Command::new(program("docker-registry").unwrap());
        command.arg("serve").arg(home.path().join("config.yml"));
        let mut process = Proc::spawn_server(&command);
        assert!(process.wait_until(Duration::from_secs(20), |_| TcpStream::connect(&host).is_ok()));
        Self { _process: process, home, host }
    }
}

#[test]
fn a_registry_with_a_certificate_of_a_given_ca_is_trusted() {
    need!(require(&["docker-registry", "openssl"]));
    let registry = Secured::start("IP:127.0.0.1");
    let rig = Rig::open();
    let ca_file = Some(registry.home.path().join("ca.crt"));
    let client = Client::new(RegistryOptions { ca_file, ..rig.options.clone() }).unwrap();
    push(&RegistryStore::writing(&client, &registry.host, "a").unwrap(), "1").unwrap();

    let certs = tempfile::tempdir().unwrap();
    let own = certs.path().join(&registry.host);
    std::fs::create_dir(&own).unwrap();
    std::fs::copy(registry.home.path().join("ca.crt"), own.join("any.crt")).unwrap();
    // The registry does not ask for the client certificate, but it must be valid.
    std::fs::copy(registry.home.path().join("crt"), own.join("client.cert")).unwrap();
    std::fs::copy(registry.home.path().join("key"), own.join("client.key")).unwrap();
    let trusting = |options: RegistryOptions| {
        let client = Client::new(options)?;
        let store = RegistryStore::reading(&client, &registry.host, "a")?;
        store.resolve(&tag("1"))
    };
    let with_dir = RegistryOptions { certs_dirs: vec![certs.path().into()], ..rig.options.clone() };
    assert_eq!(trusting(with_dir.clone()).unwrap(), Some(image().descriptor()));

    std::fs::copy(registry.home.path().join("ca.key"), own.join("client.key")).unwrap();
    let error = trusting(with_dir.clone()).unwrap_err();
    assert!(error.kind == Exit::NotPermitted && error.to_string().contains("client.cert"), "{error}");
    for file in ["client.cert", "client.key", "any.crt"] {
        std::fs::remove_file(own.join(file)).unwrap();
    }
    let error = trusting(with_dir.clone()).unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted);
    assert!(
        error.to_string().contains("UnknownIssuer") && error.to_string().contains("--ca-file"),
        "{error}"
    );
    assert!(trusting(RegistryOptions { insecure: true, ..with_dir }).unwrap().is_some());

    let error = trusting(rig.options.clone()).unwrap_err();
    assert!(error.to_string().contains("the registry uses TLS, pass its CA certificate"), "{error}");
}

#[test]
fn an_upload_to_another_host_has_no_credentials() {
    need!(require(&["openssl"]));
    let mut bearer = Bearer::new("ann", "s3cret");
    bearer.anonymous_pull = false;
    let mut rig = Rig::new(Options { auth: Auth::Bearer(bearer), ..Options::default() });
    rig.auth_file(&format!(
        r#"{{"auths":{{"{}":{{"username":"ann","password":"s3cret"}}}}}}"#,
        rig.registry.host()
    ));
    (rig.options.insecure, rig.options.idle_timeout) = (true, Duration::from_millis(300));
    let at = |file: &str| rig.home.path().join(file).display().to_string();
    let made = openssl(&format!(
        "req|-x509|-newkey|ec|-pkeyopt|ec_paramgen_curve:prime256v1|-nodes|-keyout|{}|-out|{}|-subj|/CN=x",
        at("key"),
        at("crt")
    ));
    assert!({ made }.output().unwrap().status.success());
    let store_host = free_host();
    let server = openssl(&format!("s_server|-accept|{store_host}|-cert|{}|-key|{}", at("crt"), at("key")));
    // It prints what it receives, never responds, and exits when its stdin closes.
    let mut server = Proc::spawn(server);
    assert!(server.wait_until(Duration::from_secs(20), |server| server.stdout().contains("ACCEPT")));
    let location = Act::SetHeader("Location".into(), format!("https://{store_host}/bucket?signed=yes"));
    rig.registry.fault(Fault::when(|r| r.method == "POST" && r.is_upload(), location).times(20));
    write(&rig.store(), &config(), CONFIG).unwrap_err();
    assert!(server.wait_until(Duration::from_secs(5), |server| server.stdout().contains("Content-Length")
        || server.stdout().contains("content-length")));
    let heard = server.stdout().to_lowercase();
    assert!(heard.contains("put /bucket?signed=yes&digest=sha256%3a"), "{heard}");
    assert!(!heard.contains("authorization"), "{heard}");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    need!(require(&["docker-registry", "openssl"]));
    let registry = Secured::start("DNS:other.example");
    let rig = Rig::open();
    let ca_file = Some(registry.home.path().join("ca.crt"));
    let client = Client::new(RegistryOptions { ca_file, ..rig.options.clone() }).unwrap();
    let error = RegistryStore::reading(&client, &registry.host, "a").unwrap().tags().unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted, "{error}");
    assert_eq!(rig.trace.lock().unwrap().len(), 1, "one request");
}

/// Each is reported as not permitted, and not retried.
#[test]
fn an_expired_certificate_and_an_old_protocol_are_refused() {
    need!(require(&["openssl"]));
    let home = tempfile::tempdir().unwrap();
    let at = |file: &str| home.path().join(file).display().to_string();
    let good = |arguments: &str| {
        let output = openssl(arguments).current_dir(home.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey|ec|-pkeyopt|ec_paramgen_curve:prime256v1|-nodes|-subj|/CN=registry";
    std::fs::write(
        at("ca.cnf"),
        "[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n\
         copy_extensions=copy\n[any]\ncommonName=supplied\n",
    )
    .unwrap();
    std::fs::write(at("index"), "").unwrap();
    std::fs::write(at("serial"), "01").unwrap();
    good(&format!("req|-new|{key}|-keyout|key|-out|csr|-addext|subjectAltName=IP:127.0.0.1"));
    for (crt, end) in [("expired", "20200102000000Z"), ("valid", "20990101000000Z")] {
        good(&format!(
            "ca|-batch|-config|ca.cnf|-selfsign|-keyfile|key|-in|csr|-out|{crt}|-notext|-startdate|20200101000000Z|-enddate|{end}"
        ));
        // openssl's database allows one certificate per name.
        std::fs::write(at("index"), "").unwrap();
    }
    for (crt, more, why) in [
        ("expired", "", "certificate expired"),
        ("valid", "|-tls1_1|-cipher|ALL:@SECLEVEL=0", "TLS"),
        ("valid", "|-Verify|1|-verify_return_error", "ertificate"),
    ] {
        let host = free_host();
        let server = openssl(&format!("s_server|-accept|{host}|-cert|{}|-key|{}{more}", at(crt), at("key")));
        let mut server = Proc::spawn(server);
        assert!(server.wait_until(Duration::from_secs(20), |server| server.stdout().contains("ACCEPT")));
        let rig = Rig::open();
        let client =
            Client::new(RegistryOptions { ca_file: Some(at(crt).into()), ..rig.options.clone() }).unwrap();
        let error = RegistryStore::reading(&client, &host, "a").unwrap().tags().unwrap_err();
        assert_eq!(error.kind, Exit::NotPermitted, "{crt}{more}: {error}");
        assert!(error.to_string().contains(why), "{crt}{more}: {error}");
        assert_eq!(rig.trace.lock().unwrap().len(), 1, "{crt}{more}: one request");
        let heard = server.stdout().to_lowercase();
        assert!(!heard.contains("get /v2/"), "{heard}");
    }
}

#[test]
fn a_ca_file_without_certificates_is_refused() {
    let rig = Rig::open();
    let empty = rig.home.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    for file in [empty, rig.home.path().join("absent.pem")] {
        let options = RegistryOptions { ca_file: Some(file.clone()), ..rig.options.clone() };
        let error = Client::new(options).err().unwrap();
        assert_eq!(error.kind, Exit::NotPermitted);
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
}

#[test]
fn there_is_no_fallback_to_plain_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let rig = Rig::open();
    let certs = tempfile::tempdir().unwrap();
    std::fs::create_dir(certs.path().join(&host)).unwrap();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for stream in listener.incoming().take(1) {
            let mut stream = stream.unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            heard.push(first[0]);
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        }
        // A second connection must not come.
        listener.set_nonblocking(true).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        (heard, listener.accept().is_ok())
    });
    let options = RegistryOptions { certs_dirs: vec![certs.path().into()], ..rig.options.clone() };
    let client = Client::new(options).unwrap();
    let error = RegistryStore::reading(&client, &host, "a").unwrap().tags().unwrap_err();
    assert_eq!(error.kind, Exit::NotPermitted, "{error}");
    assert!(error.to_string().contains(&format!("--plain-http={host}")), "{error}");
    // 22 is the first byte of a TLS handshake, RFC 8446.
    assert_eq!(heard.join().unwrap(), (vec![22], false));
}
