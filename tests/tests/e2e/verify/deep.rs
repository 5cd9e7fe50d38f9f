//! `verify --deep`: natives in jar, war, ear and wheel files.

use super::made::{Layer, image, probe, verify};
use crate::tools::User;
use multiarch_tests::need;
use multiarch_tests::world::{program, require};
use std::process::Command;

/// Python script that writes `a.jar` with a file, streamed or not, and `b.war` with that archive in it.
const ZIPFILE: &str = "import io, sys, zipfile\n\
    directory, native, streams = sys.argv[1:]\n\
    class Pipe(io.RawIOBase):\n\
    \x20   def __init__(self): self.bytes = b''\n\
    \x20   def writable(self): return True\n\
    \x20   def write(self, more): self.bytes += bytes(more); return len(more)\n\
    \x20   def getvalue(self): return self.bytes\n\
    def packed(members):\n\
    \x20   out = Pipe() if streams == 'yes' else io.BytesIO()\n\
    \x20   with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:\n\
    \x20       for name, content in members: archive.writestr(name, content)\n\
    \x20   return out.getvalue()\n\
    jar = packed([('A.class', b'class' * 9999), ('META-INF/native/x.so', open(native, 'rb').read())])\n\
    open(directory + '/a.jar', 'wb').write(jar)\n\
    open(directory + '/b.war', 'wb').write(packed([('WEB-INF/lib/a.jar', jar)]))\n";

#[test]
fn natives_in_archives_of_python_are_a_note_with_deep_and_the_cache_keeps_them_apart() {
    need!(require(&["python3"]));
    let user = User::new();
    let native = user.write("native", probe("linux/amd64"));
    for streams in ["yes", "no"] {
        let mut python = Command::new(program("python3").unwrap());
        let done =
            python.args(["-c", ZIPFILE]).arg(user.path("")).arg(&native).arg(streams).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        for name in ["a.jar", "b.war"] {
            let content = std::fs::read(user.path(name)).unwrap();
            let layer = |platform: &str| {
                Layer::new().file("app", &probe(platform)).file(&format!("srv/{name}"), &content).end()
            };
            let place = |platform: &str| format!("{streams}-{name}-{platform}").replace('/', "-");
            let made = |platform: &'static str| {
                image(platform, &["/app"], vec![layer(platform)]).layout(&user, &place(platform))
            };
            let note = format!("/srv/{name} (layer 0) brings natives for linux/amd64, none for linux/arm64");
            let wrong = made("linux/arm64");
            // In this order: what was found without --deep must not be used with it, nor the other way round.
            for (arguments, code, is_noted) in [
                (&[][..], 0, false),
                (&["--deep"], 0, true),
                (&["--deep"], 0, true),
                (&[], 0, false),
                (&["--deep", "--strict"], 1, true),
            ] {
                let ran = verify(&user, &[&[wrong.as_str()], arguments].concat()).exits(code);
                assert_eq!(ran.stdout.contains(&note), is_noted, "{arguments:?} {ran}");
            }
            let right = made("linux/amd64");
            let ran = verify(&user, &[&right, "--deep", "--strict"]).exits(0);
            assert!(!ran.stdout.contains("natives"), "{ran}");
        }
    }
}

#[test]
fn a_damaged_archive_is_a_gap_and_the_image_is_judged() {
    let user = User::new();
    let layer = Layer::new().file("app", &probe("linux/amd64")).file("srv/x.jar", b"PK\x03\x04 cut").end();
    let reference = image("linux/amd64", &["/app"], vec![layer]).layout(&user, "damaged");
    let found = verify(&user, &[&reference, "--deep", "--format", "json"]).exits(0).json();
    let image = &found["images"][0];
    assert_eq!(image["verdict"], "consistent", "{image}");
    assert!(image["gaps"].to_string().contains("to their end: 1"), "{image}");
}

#[test]
fn native_modules_of_unpacked_wheels_are_a_note() {
    let user = User::new();
    let site = "usr/lib/python3/site-packages";
    let layer = Layer::new()
        .file("app", &probe("linux/arm64"))
        .file(&format!("{site}/x/_x.cpython-312-x86_64-linux-gnu.so"), &probe("linux/amd64"))
        .file(
            &format!("{site}/x-1.dist-info/WHEEL"),
            b"Wheel-Version: 1.0\nTag: cp312-cp312-manylinux_2_17_x86_64\n",
        )
        .end();
    let reference = image("linux/arm64", &["/app"], vec![layer]).layout(&user, "wheel");
    let ran = verify(&user, &[&reference]).exits(0);
    let note = "_x.cpython-312-x86_64-linux-gnu.so is for linux/amd64";
    assert!(ran.stdout.contains("foreign payload") && ran.stdout.contains(note), "{ran}");
    verify(&user, &[&reference, "--strict"]).exits(1);
}
