//! Small images that runc starts, natively and under emulation: what the kernel refuses is what `verify` says would not start.

use crate::verify::made::{Layer, TestImage, exe, image, probe};
use image_evidence::verdict::VerdictKind;
use image_evidence::verify::{VerifyDepth, VerifyOptions, VerifyTarget, verify_all};
use image_model::platform::Platform;
use image_store::store::memory::MemoryStore;
use image_store::store::{ImageStore, Pointer};
use image_store::tree::{Image, TreeNode, read_tree};
use multiarch_tests::need;
use multiarch_tests::world::{Namespace, Skip, debian_packages, require, require_root};
use std::fs;
use std::process::Command;

/// What runc says about a start, and whether `verify` must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It ends with 0.
    Starts,
    /// The kernel refuses it, and `verify` says so.
    Refused,
    /// It ends with another code than 0, but `verify` cannot be certain: a program decides it at run time.
    Fails,
}

use Outcome::{Fails, Refused, Starts};

/// An architecture with its files of Debian.
struct Machine {
    debian: &'static str,
    platform: &'static str,
    triplet: &'static str,
    loader: &'static str,
    musl: &'static str,
}

const AMD64: Machine = Machine {
    debian: "amd64",
    platform: "linux/amd64",
    triplet: "x86_64-linux-gnu",
    loader: "lib64/ld-linux-x86-64.so.2",
    musl: "lib/ld-musl-x86_64.so.1",
};
const ARM64: Machine = Machine {
    debian: "arm64",
    platform: "linux/arm64",
    triplet: "aarch64-linux-gnu",
    loader: "lib/ld-linux-aarch64.so.1",
    musl: "lib/ld-musl-aarch64.so.1",
};
const ARMHF: Machine = Machine {
    debian: "armhf",
    platform: "linux/arm/v7",
    triplet: "arm-linux-gnueabihf",
    loader: "lib/ld-linux-armhf.so.3",
    musl: "lib/ld-musl-armhf.so.1",
};

/// The files of a machine.
struct Programs {
    busybox: Vec<u8>,
    dash: Vec<u8>,
    gosu: Vec<u8>,
    loader: Vec<u8>,
    libc: Vec<u8>,
    probe: Vec<u8>,
}

impl Programs {
    fn of(machine: &Machine) -> Result<Self, Skip> {
        let root = debian_packages(machine.debian)?;
        let read = |name: &str| fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let library = |name: &str| read(&format!("libc6/lib/{}/{name}", machine.triplet));
        Ok(Self {
            busybox: read("busybox-static/bin/busybox"),
            dash: read("dash/bin/dash"),
            gosu: read("gosu/usr/sbin/gosu"),
            loader: library(machine.loader.rsplit('/').next().unwrap()),
            libc: library("libc.so.6"),
            probe: probe(machine.platform),
        })
    }

    /// The lowest layer of all images: a static busybox with a few names, and gosu.
    fn base(&self) -> Layer {
        let applets = ["sh", "echo", "true", "linux64"];
        let links = applets.iter().fold(Layer::new().file("bin/busybox", &self.busybox), |layer, name| {
            layer.symlink(&format!("bin/{name}"), "busybox")
        });
        links.symlink("usr/bin/env", "/bin/busybox").file("sbin/gosu", &self.gosu)
    }

    /// The dynamic dash, without its loader.
    fn with_dash(&self, machine: &Machine) -> Layer {
        Layer::new()
            .file("bin/dash", &self.dash)
            .file(&format!("lib/{}/libc.so.6", machine.triplet), &self.libc)
    }
}

/// A case: its name, its own layer, its command and what happens.
type Case = (String, Layer, Vec<String>, Outcome);

fn case(layer: Layer, command: &[&str], outcome: Outcome) -> Case {
    let words: Vec<String> = command.iter().map(|word| (*word).to_string()).collect();
    (words.join(" "), layer, words, outcome)
}

/// A script `/run`, executed alone.
fn script(text: &str, outcome: Outcome) -> Case {
    let (name, layer, words, outcome) = case(Layer::new().file("run", text.as_bytes()), &["/run"], outcome);
    (format!("{name}: {text:?}"), layer, words, outcome)
}

/// A file `/run` that is no script.
fn data(name: &str, content: &[u8], outcome: Outcome) -> Case {
    let (_, layer, words, outcome) = case(Layer::new().file("run", content), &["/run"], outcome);
    (name.into(), layer, words, outcome)
}

/// The program with another `e_type`, elf.h.
fn of_type(program: &[u8], kind: u8) -> Vec<u8> {
    let mut file = program.to_vec();
    let at = if file[5] == 2 { 17 } else { 16 };
    file[at] = kind;
    file
}

/// The program with an `e_phnum` of 0, elf.h.
fn without_segments(program: &[u8]) -> Vec<u8> {
    let mut file = program.to_vec();
    let at = if file[4] == 2 { 56 } else { 44 };
    file[at..at + 2].fill(0);
    file
}

/// Starts of one program or script.
fn commands(programs: &Programs) -> Vec<Case> {
    let base = Layer::new;
    let plain = || base().data("plain", &programs.busybox).data("usr/bin/plain", &programs.busybox);
    vec![
        case(base(), &["/bin/echo", "hello"], Starts),
        case(base(), &["echo", "hello"], Starts),
        case(base(), &["../bin/true"], Starts),
        case(base().symlink("opt/true", "/b").symlink("b", "bin/true"), &["/opt/true"], Starts),
        case(base().hard_link("opt/true", "bin/busybox"), &["/opt/true"], Starts),
        case(base().data("usr/local/bin/echo", b""), &["echo"], Starts),
        case(base().file("usr/local/bin/echo/x", b""), &["echo"], Starts),
        case(base().file("probe", &programs.probe), &["/probe"], Starts),
        case(base(), &["/absent"], Refused),
        case(base(), &["./absent"], Refused),
        case(base(), &["absent"], Refused),
        case(base().symlink("a", "/absent"), &["/a"], Refused),
        case(base().symlink("a", "b").symlink("b", "a"), &["/a"], Refused),
        case(base(), &["/bin"], Refused),
        case(plain(), &["/plain"], Refused),
        case(plain(), &["plain"], Refused),
        case(base(), &["/bin/echo hello"], Refused),
        case(base(), &["$APP"], Refused),
        case(base(), &[""], Refused),
        case(base(), &["sh", "-c", "/bin/true"], Starts),
        case(base(), &["sh", "-c", "echo hello"], Starts),
        case(base(), &["sh", "-c", "/absent"], Refused),
        case(base(), &["sh", "-c", "exec /absent --flag > /dev/null 2>&1"], Refused),
        case(base(), &["sh", "-c", "/absent || true"], Starts),
        case(base(), &["sh", "-c", "cp /bin/busybox /tmp; /absent"], Fails),
        case(base(), &["gosu", "0", "/bin/true"], Starts),
        case(base(), &["gosu", "0", "/absent"], Refused),
        case(base(), &["gosu", "0", "absent"], Refused),
        case(plain(), &["gosu", "0", "/plain"], Refused),
        case(base(), &["linux64", "true"], Starts),
        case(base(), &["linux64", "/absent"], Refused),
        case(base(), &["/usr/bin/env", "A=b", "true"], Starts),
        case(base(), &["/usr/bin/env", "/absent"], Refused),
        case(base().file("text", b"exit 0\n"), &["sh", "-c", "/text"], Starts),
        // execvp(3) of glibc starts a shell; Go does not.
        case(base().file("text", b"exit 0\n"), &["linux64", "/text"], Starts),
        case(base().file("text", b"exit 0\n"), &["gosu", "0", "/text"], Fails),
    ]
}

fn scripts(programs: &Programs) -> Vec<Case> {
    let text = script;
    let mut all = vec![
        text("#!/bin/sh\nexit 0\n", Starts),
        text("#! /bin/sh -e\nexit 0", Starts),
        text("#!\t/bin/true", Starts),
        text("#!/usr/bin/env sh\nexit 0\n", Starts),
        text("#!/bin/sh\nexec /absent\n", Fails),
        text("#!/bin/sh -e\r\nexit 0\r\n", Fails),
        text("#!/bin/sh\r\nexit 0\r\n", Refused),
        text("#!/usr/bin/env sh\r\nexit 0\r\n", Refused),
        text("#!/usr/bin/env bash\nexit 0\n", Refused),
        text("#!/usr/bin/env sh -e\nexit 0\n", Fails),
        text("#!/bin/bash\nexit 0\n", Refused),
        text("#!sh\nexit 0\n", Refused),
        text("#!/bin\nexit 0\n", Refused),
        text("#!\nexit 0\n", Refused),
        text("#! \t\nexit 0\n", Refused),
        text("#!", Refused),
        text("\u{feff}#!/bin/sh\nexit 0\n", Refused),
        text("exit 0\n", Refused),
        text("", Refused),
    ];
    let crlf = Layer::new().file("bin/probe\r", &programs.probe).file("run", b"#!/bin/probe\r\n");
    all.push(case(crlf, &["/run"], Starts));
    let of_plain = Layer::new().data("plain", &programs.busybox).file("run", b"#!/plain\n");
    all.push(case(of_plain, &["/run"], Refused));
    let of_text = Layer::new().file("text", b"exit 0\n").file("run", b"#!/text\n");
    all.push(case(of_text, &["/run"], Refused));
    for (count, outcome) in [(4, Starts), (6, Refused)] {
        let chain = (1..count).fold(Layer::new().file("s0", b"#!/bin/true\n"), |layer, number| {
            layer.file(&format!("s{number}"), format!("#!/s{}\n", number - 1).as_bytes())
        });
        all.push(case(chain, &[&format!("/s{}", count - 1)], outcome));
    }
    all
}

fn formats(programs: &Programs) -> Vec<Case> {
    let is = data;
    let probe = &programs.probe;
    vec![
        is("zip", b"PK\x03\x04\x14\0\0\0", Refused),
        is("Java class", b"\xca\xfe\xba\xbe\0\0\0\x34\0\x10", Refused),
        is("random data", &[0, 1, 2, 3, 200, 201], Refused),
        is("Mach-O", b"\xcf\xfa\xed\xfe\x0c\0\0\x01\0\0\0\0", Refused),
        is("PE", &exe(), Refused),
        is("object", &of_type(probe, 1), Refused),
        is("core", &of_type(probe, 4), Refused),
        is("truncated header", &probe[..20], Refused),
        is("no program headers", &without_segments(probe), Refused),
    ]
}

fn loaders(machine: &Machine, programs: &Programs) -> Vec<Case> {
    let dash = || programs.with_dash(machine);
    let complete = || dash().file(machine.loader, &programs.loader);
    let loader = format!("/{}", machine.loader);
    vec![
        case(complete(), &["/bin/dash", "-c", "exit 0"], Starts),
        case(complete(), &[&loader, "/bin/dash", "-c", "exit 0"], Starts),
        case(complete().file("run", b"#!/bin/dash\nexit 0\n"), &["/run"], Starts),
        case(dash(), &["/bin/dash", "-c", "exit 0"], Refused),
        case(dash().file(machine.musl, &programs.probe), &["/bin/dash", "-c", "exit 0"], Refused),
        case(dash().file("run", b"#!/bin/dash\nexit 0\n"), &["/run"], Refused),
        case(dash(), &["gosu", "0", "/bin/dash", "-c", "exit 0"], Refused),
        case(dash(), &["sh", "-c", "/bin/dash -c 'exit 0'"], Refused),
        case(dash().file(machine.loader, &[b'x'; 100]), &["/bin/dash", "-c", "exit 0"], Refused),
        // The loader fails, not the kernel.
        case(
            Layer::new().file("bin/dash", &programs.dash).file(machine.loader, &programs.loader),
            &["/bin/dash", "-c", "exit 0"],
            Fails,
        ),
    ]
}

/// The verdicts of `verify`, which reads the common layer once.
fn verdicts(machine: &Machine, base: &[u8], cases: &[Prepared]) -> Vec<VerdictKind> {
    let store = MemoryStore::new();
    let images: Vec<Image> = cases
        .iter()
        .map(|case| {
            let words: Vec<&str> = case.words.iter().map(String::as_str).collect();
            let layers = vec![base.to_vec(), case.layer.clone()];
            let made: TestImage<'_> = image(machine.platform, &words, layers);
            store.write_tag("x", &made.add_to(&store)).unwrap();
            let TreeNode::Image(image) = read_tree(&store, &Pointer::Tag("x".into())).unwrap() else {
                panic!()
            };
            image
        })
        .collect();
    let platform: Platform = machine.platform.parse().unwrap();
    let targets: Vec<VerifyTarget<'_>> =
        images.iter().map(|image| VerifyTarget { source: &store, image, platform: &platform }).collect();
    let found = verify_all(&targets, &VerifyOptions::new(VerifyDepth::Full));
    found.into_iter().map(|finding| finding.unwrap().verdict.kind).collect()
}

/// Starts the image as an engine does, and returns the code of its end.
fn run(layers: [&[u8]; 2], command: &[String], namespace: Option<&Namespace>) -> (Option<i32>, String) {
    let bundle = tempfile::tempdir().unwrap();
    let root = bundle.path().join("rootfs");
    fs::create_dir_all(root.join("srv")).unwrap();
    for layer in layers {
        let mut archive = tar::Archive::new(layer);
        archive.set_preserve_permissions(true);
        archive.unpack(&root).unwrap();
    }
    let mounts = serde_json::json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
    ]);
    let allowed = ["CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE"];
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "cwd": "/srv", "args": command,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": allowed, "effective": allowed, "permitted": allowed},
        },
        "root": {"path": "rootfs"}, "mounts": mounts,
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    });
    fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
    let id = bundle.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_string();
    let mut runc = Command::new("runc");
    runc.arg("--root").arg(bundle.path().join("state")).arg("run").arg("-b").arg(bundle.path()).arg(&id);
    let done = match namespace {
        Some(namespace) => namespace.enter(&runc).output(),
        None => runc.output(),
    };
    let done = done.unwrap();
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).trim().to_string())
}

/// A case with its layer as a tar file.
struct Prepared {
    name: String,
    layer: Vec<u8>,
    words: Vec<String>,
    outcome: Outcome,
}

/// The codes with which the probes end.
const ENDS_OF_PROBES: [i32; 2] = [41, 42];

/// Runs all cases, two at a time, and returns those in which the kernel and `verify` disagree.
fn compare(
    machine: &Machine,
    programs: &Programs,
    cases: Vec<Case>,
    namespace: Option<&Namespace>,
) -> Vec<String> {
    let cases: Vec<Prepared> = cases
        .into_iter()
        .map(|(name, layer, words, outcome)| Prepared { name, layer: layer.end(), words, outcome })
        .collect();
    let base = programs.base().end();
    let verdicts = verdicts(machine, &base, &cases);
    let check = |(case, verdict): (&Prepared, &VerdictKind)| {
        let (code, said) = run([&base, &case.layer], &case.words, namespace);
        let has_started = code.is_some_and(|code| code == 0 || ENDS_OF_PROBES.contains(&code));
        let found = match (has_started, *verdict == VerdictKind::WouldNotStart) {
            (true, false) => Starts,
            (false, true) => Refused,
            (false, false) => Fails,
            (true, true) => return Some(format!("{} {}: it starts, {verdict:?}", machine.debian, case.name)),
        };
        let (name, wanted) = (&case.name, case.outcome);
        (found != wanted).then(|| {
            format!("{} {name}: {wanted:?}, ended with {code:?} {said}, {verdict:?}", machine.debian)
        })
    };
    let both: Vec<(&Prepared, &VerdictKind)> = cases.iter().zip(&verdicts).collect();
    std::thread::scope(|scope| {
        let halves = both.chunks(both.len().div_ceil(2));
        let halves: Vec<_> = halves
            .map(|half| scope.spawn(|| half.iter().copied().filter_map(check).collect::<Vec<String>>()))
            .collect();
        halves.into_iter().flat_map(|half| half.join().unwrap()).collect()
    })
}

#[test]
fn what_the_kernel_refuses_natively_would_not_start() {
    need!(require_root());
    need!(require(&["runc"]));

    let programs = need!(Programs::of(&AMD64));
    let cases = [commands(&programs), scripts(&programs), formats(&programs), loaders(&AMD64, &programs)];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    assert!(cases.len() >= 60, "{}", cases.len());
    assert_eq!(compare(&AMD64, &programs, cases, None), [""; 0]);
}

#[test]
fn what_the_kernel_refuses_under_emulation_would_not_start() {
    need!(require_root());
    need!(require(&["runc", "qemu-aarch64-static", "qemu-arm-static"]));
    let namespace = need!(Namespace::with_debian_emulators());
    for machine in [ARM64, ARMHF] {
        let programs = need!(Programs::of(&machine));
        let mut cases = loaders(&machine, &programs);
        if cfg!(feature = "full") {
            cases.extend([commands(&programs), scripts(&programs), formats(&programs)].into_iter().flatten());
        } else {
            cases.extend(formats(&programs));
        }
        assert_eq!(compare(&machine, &programs, cases, Some(&namespace)), [""; 0]);
    }
}

/// Commands of official images, in a root of Debian with these programs.
#[cfg(feature = "full")]
const OF_DEBIAN: [(&[&str], &str); 60] = [
    (&["bash"], ""),
    (&["sh", "-c", "echo hello; exit 7"], ""),
    (&["/bin/sh", "-c", "nginx -g 'daemon off;'"], ""),
    (&["tini", "--", "sh", "-c", "echo below tini"], ""),
    (&["/usr/bin/tini", "-g", "--", "python3", "-m", "http.server"], ""),
    (&["dumb-init", "echo", "hello"], ""),
    (&["/usr/bin/dumb-init", "--", "node", "server.js"], ""),
    (&["catatonit", "--", "redis-server"], ""),
    (&["gosu", "nobody", "id"], ""),
    (&["gosu", "postgres", "/usr/lib/postgresql/15/bin/postgres"], ""),
    (&["chpst", "-u", "nobody", "id", "-u"], ""),
    (&["s6-setuidgid", "nobody", "id", "-u"], ""),
    (&["s6-svscan", "/etc/services.d"], ""),
    (&["runsvdir", "/etc/service"], ""),
    (&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "id"], ""),
    (&["su", "-s", "/bin/sh", "nobody", "-c", "id -un"], ""),
    (&["env", "LANG=C", "python3", "-V"], ""),
    (&["nice", "-n", "5", "python3", "-V"], ""),
    (&["ionice", "-c", "2", "python3", "-V"], ""),
    (&["timeout", "5", "sleep", "1"], ""),
    (&["stdbuf", "-oL", "python3", "-V"], ""),
    (&["nohup", "python3", "-V"], ""),
    (&["setsid", "python3", "-V"], ""),
    (&["java", "-jar", "/app.jar"], ""),
    (&["/usr/bin/java", "-version"], ""),
    (&["sh", "-c", "java $JAVA_OPTS -jar /app.jar"], ""),
    (&["python3", "-c", "print()"], ""),
    (&["node", "-e", "1"], ""),
    (&["nginx", "-g", "daemon off;"], ""),
    (&["redis-server", "--port", "7001"], ""),
    (&["memcached", "-u", "nobody"], ""),
    (&["haproxy", "-W", "-db"], ""),
    (&["lighttpd", "-D", "-f", "/etc/lighttpd/lighttpd.conf"], ""),
    (&["mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"], ""),
    (&["perl", "-e", "1"], ""),
    (&["ruby", "-e", "1"], ""),
    (&["php", "-r", "1;"], ""),
    (&["lua5.4", "-e", "1"], ""),
    (&["git", "--version"], ""),
    (&["openssl", "version"], ""),
    (&["sqlite3", ":memory:"], ""),
    (&["caddy", "run"], ""),
    (&["prometheus-node-exporter"], ""),
    (&["curl", "--version"], ""),
    (&["/usr/lib/postgresql/15/bin/postgres", "-D", "/data"], ""),
    (&["pg_ctlcluster", "15", "main", "start"], ""),
    (&["/lib64/ld-linux-x86-64.so.2", "/usr/bin/python3", "-V"], ""),
    (&["/run.sh"], "#!/bin/bash\nset -e\nexec \"$@\"\n"),
    (&["/run.sh", "python3", "app.py"], "#!/bin/bash\nset -e\nexec \"$@\"\n"),
    (&["/run.sh"], "#!/usr/bin/env python3\nprint()\n"),
    (&["/run.sh"], "#!/usr/bin/env -S python3 -u\nprint()\n"),
    (&["/run.sh"], "#!/usr/bin/env bash\nexec node server.js\n"),
    (&["/run.sh"], "#!/usr/bin/env node\n1\n"),
    (&["/run.sh"], "#!/usr/bin/perl -w\n1;\n"),
    (&["/run.sh"], "#!/usr/bin/ruby\n1\n"),
    (&["/run.sh"], "#!/usr/bin/tini /bin/sh\nexit\n"),
    (&["/run.sh"], "#!/usr/bin/lua5.4\n"),
    (&["sh", "/run.sh"], "exec $APP\n"),
    (&["bash", "-c", "/run.sh"], "exec python3 -V\n"),
    (&["tini", "/run.sh"], "exec python3 -V\n"),
];

/// Real programs: none of them is said to be one that would not start, except where the image has no such file.
#[cfg(feature = "full")]
#[test]
fn no_command_of_debian_would_not_start() {
    use crate::tools::User;
    use image_store::store::oci_layout::OciLayout;
    let archive = need!(multiarch_tests::world::debian_root("entrypoints", &super::entrypoints::PACKAGES));
    let user = User::new();
    let dir = user.path("debian");
    let store = OciLayout::open_or_create(&dir).unwrap();
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let sum = Command::new("sha256sum").arg(&archive).output().unwrap();
    let hex = String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_string();
    fs::copy(&archive, dir.join("blobs/sha256").join(&hex)).unwrap();
    let root = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{hex}"),
        "size": fs::metadata(&archive).unwrap().len(),
    });
    let names: Vec<String> = OF_DEBIAN
        .iter()
        .enumerate()
        .map(|(number, (command, script))| {
            let memory = MemoryStore::new();
            let own = Layer::new().file("run.sh", script.as_bytes()).end();
            let own = memory.add_blob(image_model::manifest::media_type::OCI_LAYER, &own);
            let config = serde_json::json!({
                "os": "linux", "architecture": "amd64", "config": {"Cmd": command},
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hex}"), own.digest]},
            });
            let config = memory.add_blob(image_model::manifest::media_type::OCI_CONFIG, config.to_string().as_bytes());
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": image_model::manifest::media_type::OCI_MANIFEST, "config": config,
                "layers": [root, own],
            });
            for blob in [&own, &config] {
                let mut from = image_store::store::ImageSource::open_blob(&memory, blob).unwrap();
                let mut to = fs::File::create(dir.join("blobs/sha256").join(blob.digest.hex())).unwrap();
                std::io::copy(&mut from, &mut to).unwrap();
            }
            let document =
                image_model::manifest::Document::new(manifest.to_string().into_bytes(), None).unwrap();
            store.write_tag(&format!("v{number}"), &document).unwrap();
            format!("oci:{}:v{number}", dir.display())
        })
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = user.config_patcher(&[&["verify", "-o", "json", "--no-cache"], &names[..]].concat()).json();
    let images = found["images"].as_array().unwrap();
    assert_eq!(images.len(), OF_DEBIAN.len());
    let wrong: Vec<String> = images
        .iter()
        .zip(&OF_DEBIAN)
        .filter(|(image, _)| {
            !["consistent", "undetermined"].contains(&image["verdict"].as_str().unwrap_or(""))
        })
        .map(|(image, case)| format!("{case:?} {} {}", image["verdict"], image["reasons"]))
        .collect();
    assert_eq!(wrong, [""; 0]);
}
