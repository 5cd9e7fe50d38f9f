//! The user of an image's config, with the ids that `/etc/passwd` and `/etc/group` of the image give to names.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Larger files are not those of an image that anybody runs.
const FILE_MAX: u64 = 4 << 20;
/// NGROUPS_MAX of the kernel is higher; no image has as many.
const GROUPS_MAX: usize = 1024;

/// The ids of a command inside the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The home directory. Empty: `/`.
    pub home: String,
}

impl SandboxUser {
    /// The user that `User` of an image's config names: `""`, `USER` or `USER:GROUP`, names or numbers, as container engines read
    /// it. `root` is the unpacked image; links are followed within it.
    ///
    /// # Errors
    /// A text for people if a name is not in the image's files.
    pub fn find(root: &Path, user: &str) -> Result<Self, String> {
        let read = |name: &str| read_in(root, name).map_err(|errno| format!("\"/{name}\": {}", errno.desc()));
        Self::parse(user, &read("etc/passwd")?, &read("etc/group")?)
    }

    fn parse(user: &str, passwd: &str, group: &str) -> Result<Self, String> {
        let (name, group_name) = match user.split_once(':') {
            Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
            None => (user, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let fields = |line: &'_ str| -> Vec<String> { line.split(':').map(str::to_string).collect() };
        let entry = passwd.lines().map(fields).find(|entry| {
            entry.first().is_some_and(|found| found == name)
                || entry.get(2).is_some_and(|id| is_same_id(id, name))
        });
        let number = |text: Option<&String>| text.and_then(|text| text.parse::<u32>().ok());
        let uid = match (&entry, name.parse::<u32>()) {
            (_, Ok(uid)) => uid,
            (Some(entry), Err(_)) => number(entry.get(2))
                .ok_or_else(|| format!("the id of user \"{name}\" in /etc/passwd is not a number"))?,
            (None, Err(_)) => return Err(format!("user \"{name}\" is not in /etc/passwd of the image")),
        };
        let groups: Vec<Vec<String>> = group.lines().map(fields).collect();
        let gid_of = |name: &str| {
            let found = groups.iter().find(|entry| entry.first().is_some_and(|found| found == name));
            found.and_then(|entry| number(entry.get(2))).or_else(|| name.parse().ok())
        };
        let (gid, supplementary) = match group_name {
            Some(name) => {
                let missing = || format!("group \"{name}\" is not in /etc/group of the image");
                (gid_of(name).ok_or_else(missing)?, Vec::new())
            }
            None => {
                let login = entry.as_ref().and_then(|entry| entry.first()).map_or("", String::as_str);
                let is_member = |entry: &&Vec<String>| {
                    !login.is_empty()
                        && entry
                            .get(3)
                            .is_some_and(|members| members.split(',').any(|member| member == login))
                };
                let members = groups.iter().filter(is_member).filter_map(|entry| number(entry.get(2)));
                let gid = entry.as_ref().and_then(|entry| number(entry.get(3))).unwrap_or(0);
                (gid, members.take(GROUPS_MAX).collect())
            }
        };
        let home = entry.as_ref().and_then(|entry| entry.get(5)).cloned().unwrap_or_default();
        Ok(Self { uid, gid, groups: supplementary, home })
    }
}

fn is_same_id(id: &str, name: &str) -> bool {
    matches!((id.parse::<u32>(), name.parse::<u32>()), (Ok(id), Ok(name)) if id == name)
}

/// The text of a file beneath `root`. A file that does not exist is empty.
fn read_in(root: &Path, name: &str) -> Result<String, Errno> {
    let root = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(&root, name, how) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(String::new()),
        opened => File::from(opened?),
    };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_MAX).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EIO as i32)))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:100:,,,:/home/app:/bin/sh\nbroken:x:y\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,app\nmail:x:12:app\n7:x:70:\n";

    #[test]
    fn users_are_read_as_engines_read_them() {
        let check = |user: &str, expected: Result<(u32, u32, &[u32], &str), &str>| {
            let found = SandboxUser::parse(user, PASSWD, GROUP);
            let expected = expected.map(|(uid, gid, groups, home)| SandboxUser {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.into(),
            });
            assert_eq!(found, expected.map_err(str::to_string), "{user}");
        };
        check("", Ok((0, 0, &[10], "/root")));
        check("root", Ok((0, 0, &[10], "/root")));
        check("app", Ok((1000, 100, &[10, 12], "/home/app")));
        check("1000", Ok((1000, 100, &[10, 12], "/home/app")));
        check("app:", Ok((1000, 100, &[10, 12], "/home/app")));
        check("app:mail", Ok((1000, 12, &[], "/home/app")));
        check("app:4242", Ok((1000, 4242, &[], "/home/app")));
        check("app:7", Ok((1000, 70, &[], "/home/app")));
        check("65532:65532", Ok((65532, 65532, &[], "")));
        check("65532", Ok((65532, 0, &[], "")));
        check("nobody", Err("user \"nobody\" is not in /etc/passwd of the image"));
        check("app:nogroup", Err("group \"nogroup\" is not in /etc/group of the image"));
        check("broken", Err("the id of user \"broken\" in /etc/passwd is not a number"));
        check("4294967296", Err("user \"4294967296\" is not in /etc/passwd of the image"));
    }

    #[test]
    fn files_are_those_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        // Within the image, /etc/passwd of this link is its own file.
        fs::write(dir.path().join("etc/real"), "app:x:5:6::/:\n").unwrap();
        symlink("/../etc/real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(SandboxUser::find(dir.path(), "app").unwrap().uid, 5);
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("etc/passwd"), Mode::S_IRWXU).unwrap();
        assert!(SandboxUser::find(dir.path(), "app").is_err());
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        assert_eq!(SandboxUser::find(dir.path(), "0").unwrap(), SandboxUser::default());
    }
}
