//! `config-patcher fix` of a real `docker save` archive, which the same engine and podman load.

use super::*;
use multiarch_tests::need;

#[test]
fn a_docker_save_archive_is_fixed_in_place_and_every_engine_loads_it() {
    need!(fix());
}

fn fix() -> Result<(), Skip> {
    let workshop =
        Workshop::new(example_images()?.into_iter().filter(|image| image.name == "arm32v7").collect(), "");
    let arm = &workshop.images[0];
    let expected = format!("{} {}", arm.platform, arm.machine);
    let world = World::start(Namespace::with_debian_emulators()?)?;
    let archive = workshop.path("app.tar");
    let id = world.build(&workshop, arm, "0", "docker build -q -t team/app:arm");
    assert_eq!(docker_inspect(&world, "team/app:arm").1, "linux/amd64");
    world.run_ok(&format!("docker save --output {} team/app:arm", archive.display()));
    let before = members_of(&archive);
    let config_patcher = workspace_program("config-patcher")?;
    let fix = || {
        let line =
            format!("{} fix docker-archive:app.tar --set-platform linux/arm/v7", config_patcher.display());
        run(words(&line).current_dir(workshop.directory.path()))
    };

    let fixed = fix();
    assert_eq!(fixed.code, Some(0), "{}", fixed.stderr);
    let after = members_of(&archive);
    let config = new_config(&before, &after, &id);

    world.run_ok("docker rmi -f team/app:arm");
    world.run_ok(&format!("docker load --input {}", archive.display()));
    assert_eq!(docker_inspect(&world, "team/app:arm"), (digest_of(&config), arm.platform.to_owned()));
    assert_eq!(world.run_ok("docker run --rm --network none team/app:arm"), expected);
    world.run_ok(&format!("podman load -q --input {}", archive.display()));
    let seen = "podman image inspect --format {{.Id}}|{{.Os}}/{{.Architecture}} team/app:arm";
    let id = digest_of(&config).replace("sha256:", "");
    assert_eq!(world.run_ok(seen), format!("{id}|linux/arm"));
    assert_eq!(world.run_ok("podman run --rm team/app:arm"), expected);

    let (bytes, meta) = (fs::read(&archive).unwrap(), fs::metadata(&archive).unwrap());
    let again = fix();
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    assert_eq!(again.stdout, fixed.stdout, "the same digest");
    assert_eq!(fs::metadata(&archive).unwrap().modified().unwrap(), meta.modified().unwrap());
    assert!(fs::read(&archive).unwrap() == bytes, "the archive has changed");
    Ok(())
}

/// Returns the config that manifest.json refers to now. All other files are unchanged, except for that reference in
/// manifest.json.
fn new_config(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>, id: &str) -> Vec<u8> {
    let text = |files: &BTreeMap<String, Vec<u8>>| String::from_utf8(files["manifest.json"].clone()).unwrap();
    let named = |files| parse(&text(files))[0]["Config"].as_str().unwrap().to_owned();
    let (was, is) = (named(before), named(after));
    assert_eq!(was, format!("{id}.json"));
    assert_eq!(text(after).replace(&is, &was), text(before));
    let mut files = after.clone();
    let config = files.remove(&is).unwrap();
    assert_eq!(is, format!("{}.json", digest_of(&config).replace("sha256:", "")));
    files.insert(was.clone(), config.clone());
    assert_eq!(files.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, bytes) in before {
        match name.as_str() {
            name if name == was => assert_only_the_platform_differs(bytes, &config, "linux/arm/v7"),
            "manifest.json" => {}
            _ => assert_eq!(digest_of(bytes), digest_of(&files[name]), "{name}"),
        }
    }
    config
}
