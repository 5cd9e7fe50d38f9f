//! podman and buildah with private storage, configured by environment and files only.

use std::fs;
use std::path::Path;

/// Environment variables for podman, buildah, and programs that run them. Writes the files into `directory`.
///
/// To run foreign images, run them in a [`Namespace`](super::Namespace): `namespace.enter(&command)`. skopeo 1.9 does not read
/// the registries file: give it `--tls-verify=false`.
///
/// # Panics
/// If the directory cannot be written.
pub fn containers_env(directory: &Path) -> Vec<(String, String)> {
    let home = directory.display();
    // vfs copies whole trees, needs no mount and so works in every namespace and on every file system.
    let storage =
        format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{home}/graph\"\nrunroot = \"{home}/run\"\n");
    // runc: crun 1.8 refuses hosts with cgroup v1 and v2 side by side ("cgroups in hybrid mode not supported").
    // cgroupfs and file: no systemd has to be there for cgroups and for events.
    // tmp_dir: podman's locks, otherwise in /run/libpod for all of root's storages.
    // default_ulimits: the default raises the hard limit on open files, which needs a capability of the initial namespace.
    // netns none: the network setup wants netavark or CNI and rights over the host's network.
    let containers = format!(
        "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         tmp_dir = \"{home}/tmp\"\n\
         [containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\nnetns = \"none\"\n"
    );
    // Plain HTTP to loopback on any port, and no search in other registries.
    let registries =
        "unqualified-search-registries = []\n[[registry]]\nlocation = \"127.0.0.1\"\ninsecure = true\n";
    let files = [
        ("CONTAINERS_STORAGE_CONF", "storage.conf", storage.as_str()),
        ("CONTAINERS_CONF", "containers.conf", &containers),
        ("CONTAINERS_REGISTRIES_CONF", "registries.conf", registries),
        // podman stops if the file in the variable does not exist.
        ("REGISTRY_AUTH_FILE", "auth.json", "{}\n"),
    ];
    let mut variables: Vec<(String, String)> = files
        .map(|(variable, name, text)| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a directory that can be written");
            (variable.to_owned(), path.display().to_string())
        })
        .into();
    // RUN in a chroot: no runtime, no cgroups and no network to set up.
    variables.push(("BUILDAH_ISOLATION".to_owned(), "chroot".to_owned()));
    variables
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;
    use crate::need;
    use crate::world::{Namespace, Registry, foreign_busybox, require, rootfs_tar};

    fn good(done: Output) -> String {
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }

    #[test]
    fn plain_podman_and_buildah_build_run_push_and_pull_foreign_images() {
        need!(require(&["podman", "buildah", "runc"]));
        let busybox = need!(foreign_busybox("armhf"));
        let registry = need!(Registry::start());
        let namespace = need!(Namespace::with_debian_emulators());
        let home = tempfile::tempdir().unwrap();
        let context = home.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("rootfs.tar"), rootfs_tar(&busybox)).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\nADD rootfs.tar /\nRUN uname -m > /machine\n")
            .unwrap();
        let variables = containers_env(home.path());
        let run = |words: &str| {
            let mut words = words.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words).envs(variables.iter().cloned()).current_dir(&context);
            good(namespace.enter(&command).output().unwrap())
        };
        for (build, tool) in [("podman build", "podman"), ("buildah bud", "buildah")] {
            let image = format!("{}/armhf:{tool}", registry.host());
            run(&format!("{build} --platform linux/arm/v7 -t {image} ."));
            assert_eq!(run(&format!("podman run --rm {image} /bin/cat /machine")), "armv7l");
            run(&format!("{tool} push {image}"));
            run(&format!("podman rmi {image}"));
            run(&format!("{tool} pull --platform linux/arm/v7 {image}"));
        }
        assert_eq!(registry.count("PUT", |path| path.contains("/manifests/")), 2);
    }
}
