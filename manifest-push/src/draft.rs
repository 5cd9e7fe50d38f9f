//! Drafts: what `create` and `annotate` were asked for, as files that a person can read and edit.
//!
//! A draft holds names, never manifests: every push looks them up again. It is a spec, and `push from-spec` takes it
//! too, as long as its platforms are whole.

use crate::spec::{self, Asked, Member, Place, Spec};
use crate::state;
use error::Error;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::atomic_file;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// A user's drafts: `HOST/REPOSITORY:TAG.yaml` in a folder.
pub struct Drafts {
    dir: PathBuf,
}

/// Held while a draft is read and written anew: `create --amend` may be called several times at once.
pub struct Locked {
    _file: File,
}

impl Drafts {
    pub fn of_user() -> Result<Self, Error> {
        Ok(Self { dir: state::directory("find the directory for drafts")?.join("drafts") })
    }

    /// Where the draft of this name lies.
    pub fn path(&self, list: &RegistryRef) -> PathBuf {
        // A name of two parts at least: the host, and the repository with its tag.
        let list = with_tag(list);
        self.dir.join(&list.host).join(format!(
            "{}:{}.yaml",
            list.repository,
            list.tag.as_deref().unwrap_or("latest")
        ))
    }

    pub fn lock(&self) -> Result<Locked, Error> {
        let doing = || format!("lock the drafts in \"{}\"", self.dir.display());
        fs::create_dir_all(&self.dir).map_err(|e| Error::from_io(doing(), e))?;
        let file = File::create(self.dir.join(".lock")).map_err(|e| Error::from_io(doing(), e))?;
        file.lock().map_err(|e| Error::from_io(doing(), e))?;
        Ok(Locked { _file: file })
    }

    /// `None` if there is no such draft.
    pub fn read(&self, list: &RegistryRef) -> Result<Option<Asked>, Error> {
        // A draft has the name of a tag: what it will be as bytes nobody knows yet.
        if list.digest.is_some() {
            return Ok(None);
        }
        let path = self.path(list);
        let file = path.display().to_string();
        match fs::read(&path) {
            Ok(text) => {
                let (spec, problems) = spec::parse_draft(&String::from_utf8_lossy(&text));
                let doing = format!("publish the draft of \"{}\"", with_tag(list));
                let place = Place { doing, file: Some(file) };
                Ok(Some(Asked { place, spec, problems, ignore_missing: false }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_io(format!("read draft \"{file}\""), e)),
        }
    }

    /// The error of a command that needs a draft.
    pub fn missing(&self, verb: &str, list: &RegistryRef) -> Error {
        let list = with_tag(list);
        let why = format!("there is no draft of this name in \"{}\"", self.dir.display());
        Error::not_found(format!("{verb} \"{list}\""), why)
            .hint(format!("create one: manifest-push create {list} IMAGE..."))
    }

    fn nothing_to_remove(&self, list: &RegistryRef) -> Error {
        let mut names = Vec::new();
        names_below(&self.dir, &mut names);
        names.sort();
        let hint = match names.as_slice() {
            [] => "there are no drafts; rm does not remove published images".to_string(),
            _ => format!("there are drafts of {}", names.join(", ")),
        };
        let error = self.missing("remove the draft of", list);
        Error { hint: Some(hint), ..error }
    }

    pub fn write(&self, list: &RegistryRef, members: &[Member]) -> Result<PathBuf, Error> {
        let path = self.path(list);
        let doing = || format!("write draft \"{}\"", path.display());
        let failed = |e| Error::from_io(doing(), e);
        atomic_file::write_durably(&path, text(list, members).as_bytes(), 0o666).map_err(failed)?;
        Ok(path)
    }

    pub fn remove(&self, list: &RegistryRef) -> Result<(), Error> {
        if list.digest.is_some() {
            let doing = format!("remove the draft of \"{list}\"");
            return Err(Error::bad_input(doing, "a draft has no digest").hint("use its tag"));
        }
        let path = self.path(list);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(self.nothing_to_remove(list)),
            removed => removed.map_err(|e| Error::from_io(format!("remove \"{}\"", path.display()), e)),
        }
    }
}

/// The lists that have drafts, as their files say. What cannot be read has no names.
fn names_below(dir: &Path, names: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            names_below(&path, names);
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            let text = fs::read(&path).unwrap_or_default();
            let (spec, _) = spec::parse_draft(&String::from_utf8_lossy(&text));
            names.extend(spec.map(|spec| spec.image.to_string()));
        }
    }
}

/// An image as docker names it in a list: with a tag, if there is no digest.
pub fn with_tag(image: &RegistryRef) -> RegistryRef {
    let mut image = image.clone();
    if image.digest.is_none() && image.tag.is_none() {
        image.tag = Some("latest".into());
    }
    image
}

/// docker keeps a list as a folder of files and reads it in the order of their names; so its lists are ordered.
/// Source: `makeFilesafeName` of docker/cli's manifest/store.
pub fn in_dockers_order(members: &mut [Member]) {
    members.sort_by_key(|member| member.image.to_string().replace(':', "-").replace('/', "_"));
}

/// The draft as a file.
fn text(list: &RegistryRef, members: &[Member]) -> String {
    let list = with_tag(list);
    let mut out = format!(
        "# A draft. To publish it, run: manifest-push push {list}\nimage: {}\nmanifests:\n",
        quoted(&list.to_string())
    );
    for member in members {
        out.push_str(&format!("  - image: {}\n", quoted(&member.image.to_string())));
        let Platform { architecture, os, os_version, os_features, variant } = &member.platform;
        let features: Vec<String> = os_features.iter().map(|feature| quoted(feature)).collect();
        let lines = [
            ("architecture", quoted(architecture), !architecture.is_empty()),
            ("os", quoted(os), !os.is_empty()),
            ("variant", quoted(variant.as_deref().unwrap_or_default()), variant.is_some()),
            ("osversion", quoted(os_version.as_deref().unwrap_or_default()), os_version.is_some()),
            ("osfeatures", format!("[{}]", features.join(", ")), !features.is_empty()),
        ];
        if lines.iter().any(|(.., said)| *said) {
            out.push_str("    platform:\n");
        }
        for (key, value, _) in lines.iter().filter(|(.., said)| *said) {
            out.push_str(&format!("      {key}: {value}\n"));
        }
    }
    out
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The spec of a draft without problems; else all of them.
pub fn sound(asked: Asked) -> Result<Spec, Error> {
    match asked.spec {
        Some(spec) if asked.problems.is_empty() => Ok(spec),
        _ => {
            let lines = asked.problems.iter().map(|one| asked.place.told(one.line, &one.text)).collect();
            let why = "it is not a valid draft";
            let doing = format!("read draft \"{}\"", asked.place.file.unwrap_or_default());
            Err(Error::bad_input(doing, why).problems(lines))
        }
    }
}

/// Is this the member that was named so?
pub fn is_called(member: &Member, image: &RegistryRef) -> bool {
    matches!(&member.image, Reference::Registry(known) if with_tag(known) == with_tag(image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn member(image: &str, platform: Platform) -> Member {
        Member { image: image.parse().unwrap(), platform, annotations: BTreeMap::new(), line: 0 }
    }

    #[test]
    fn a_draft_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let drafts = Drafts { dir: dir.path().into() };
        let list: RegistryRef = "127.0.0.1:5000/team/app".parse().unwrap();
        assert!(drafts.read(&list).unwrap().is_none());
        let arm = Platform { variant: Some("v7".into()), ..Platform::default() };
        let windows =
            Platform { os_features: vec!["a".into(), "b".into()], .."windows/amd64:10.0".parse().unwrap() };
        let members = [
            member("127.0.0.1:5000/team/app:arm", arm),
            member("127.0.0.1:5000/team/app:win", windows),
            member("127.0.0.1:5000/team/app:x", Platform::default()),
        ];
        let path = drafts.write(&list, &members).unwrap();
        assert!(path.ends_with("127.0.0.1:5000/team/app:latest.yaml"), "{path:?}");
        let spec = sound(drafts.read(&list).unwrap().unwrap()).unwrap();
        assert_eq!(spec.image.to_string(), "127.0.0.1:5000/team/app:latest");
        let plain = |m: &Member| (m.image.clone(), m.platform.clone());
        assert_eq!(
            spec.members.iter().map(plain).collect::<Vec<_>>(),
            members.iter().map(plain).collect::<Vec<_>>()
        );
        drafts.remove(&list).unwrap();
        assert!(drafts.read(&list).unwrap().is_none());
        assert!(drafts.remove(&list).unwrap_err().to_string().contains("there are no drafts"));
    }

    #[test]
    fn members_stand_as_docker_orders_them() {
        let names = ["a.io/x:b", "a.io/x:a", "a.io/x-1:a", "a.io/x/y:a"];
        let mut members: Vec<Member> = names.iter().map(|name| member(name, Platform::default())).collect();
        in_dockers_order(&mut members);
        let ordered: Vec<String> = members.iter().map(|m| m.image.to_string()).collect();
        assert_eq!(ordered, ["a.io/x-1:a", "a.io/x:a", "a.io/x:b", "a.io/x/y:a"]);
    }
}
