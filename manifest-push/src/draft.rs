//! Drafts of `create` and `annotate`, as YAML files that can be read and edited.
//!
//! A draft has names, not manifests: every push resolves them again. It is a spec, which `push from-spec` accepts too if
//! its platforms are complete.

use crate::TOOL;
use crate::spec::{self, Member, PublishRequest, Spec, SpecSource};
use cli::suggest;
use error::Error;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::atomic_file::TempFiles;
use image_store::directory::{Directory, parent_dir};
use image_store::private_dir::{PrivateDir, STATE};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Bytes of a draft, which has a few hundred for each platform.
const DRAFT_MAX: u64 = 1 << 20;

/// The drafts of a user, `HOST/REPOSITORY:TAG.yaml` in one directory.
pub struct Drafts {
    /// The directory above, which has the journal too.
    state: PathBuf,
}

/// Locks all drafts until it is dropped: several `create --amend` may run at once.
pub struct DraftLock {
    _file: File,
}

impl Drafts {
    /// The drafts in `$XDG_STATE_HOME/multiarch`.
    ///
    /// # Errors
    /// As [`PrivateDir::open`].
    pub fn of_user() -> Result<Self, Error> {
        let drafts = Self { state: STATE.path()? };
        drafts.open().map(|_| drafts)
    }

    fn dir(&self) -> PathBuf {
        self.state.join("drafts")
    }

    fn open(&self) -> Result<Option<PrivateDir>, Error> {
        let state = PrivateDir::open(&self.state, STATE.purpose)?;
        state.map_or(Ok(None), |state| state.subdir("drafts"))
    }

    fn create(&self) -> Result<PrivateDir, Error> {
        PrivateDir::create(&self.state, STATE.purpose)?.create_subdir("drafts")
    }

    /// The file of a draft, which may not exist.
    pub fn path(&self, list: &RegistryRef) -> PathBuf {
        self.dir().join(relative_path(list))
    }

    pub fn lock(&self) -> Result<DraftLock, Error> {
        let lock = self.create()?.dir().open_lock(".lock", 0o600);
        let locked = lock.and_then(|file| file.lock().map(|()| file));
        let doing = || format!("lock the drafts in \"{}\"", self.dir().display());
        Ok(DraftLock { _file: locked.map_err(|e| Error::from_io(doing(), e))? })
    }

    /// `None` if there is no such draft.
    pub fn read(&self, list: &RegistryRef) -> Result<Option<PublishRequest>, Error> {
        // A draft has a tag; its digest is not known yet.
        if list.digest.is_some() {
            return Ok(None);
        }
        let file = self.path(list).display().to_string();
        let Some(dir) = self.open()? else { return Ok(None) };
        match dir.read_small(relative_path(list), DRAFT_MAX) {
            Ok(text) => {
                let (spec, problems) = spec::parse_draft(&String::from_utf8_lossy(&text));
                let doing = format!("publish the draft of \"{}\"", with_default_tag(list));
                let source = SpecSource { doing, file: Some(file) };
                Ok(Some(PublishRequest { source, spec, problems, ignore_missing: false }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::from_io(format!("read draft \"{file}\""), e)),
        }
    }

    /// The error of a command whose draft does not exist.
    pub fn missing(&self, verb: &str, list: &RegistryRef) -> Error {
        let list = with_default_tag(list);
        let why = format!("there is no draft of this name in \"{}\"", self.dir().display());
        Error::not_found(format!("{verb} \"{list}\""), why)
            .hint(format!("create one: {}", suggest(TOOL, &["create", &list.to_string(), "IMAGE..."])))
    }

    fn nothing_to_remove(&self, list: &RegistryRef) -> Error {
        let mut names = Vec::new();
        if let Ok(Some(dir)) = self.open() {
            draft_names(dir.dir(), &mut names);
        }
        names.sort();
        let hint = match names.as_slice() {
            [] => "there are no drafts; rm does not remove published images".to_string(),
            _ => format!("there are drafts of {}", names.join(", ")),
        };
        let error = self.missing("remove the draft of", list);
        Error { hint: Some(hint), ..error }
    }

    pub fn write(
        &self,
        temp_files: &TempFiles,
        list: &RegistryRef,
        members: &[Member],
    ) -> Result<PathBuf, Error> {
        let path = self.path(list);
        let doing = || format!("write draft \"{}\"", path.display());
        let relative = relative_path(list);
        let dir = self.create()?.dir().create_dir(parent_dir(&relative), 0o700);
        let name = relative.file_name().unwrap_or(OsStr::new("draft.yaml"));
        let write = |dir| temp_files.write_durably_in(&dir, name, text(list, members).as_bytes(), 0o600);
        dir.and_then(write).map_err(|e| Error::from_io(doing(), e))?;
        Ok(path)
    }

    pub fn remove(&self, list: &RegistryRef) -> Result<(), Error> {
        if list.digest.is_some() {
            let doing = format!("remove the draft of \"{list}\"");
            return Err(Error::bad_input(doing, "a draft has no digest").hint("use its tag"));
        }
        let Some(dir) = self.open()? else { return Err(self.nothing_to_remove(list)) };
        match dir.dir().remove_file(relative_path(list)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(self.nothing_to_remove(list)),
            removed => {
                let doing = || format!("remove \"{}\"", self.path(list).display());
                removed.map_err(|e| Error::from_io(doing(), e))
            }
        }
    }
}

/// The file of a draft in the directory of drafts.
fn relative_path(list: &RegistryRef) -> PathBuf {
    // At least two components: the host, and the repository with its tag.
    let list = with_default_tag(list);
    let tag = list.tag.as_deref().unwrap_or("latest");
    Path::new(&list.host).join(format!("{}:{tag}.yaml", list.repository))
}

/// Collects the names of all drafts that can be read.
fn draft_names(dir: &Directory, names: &mut Vec<String>) {
    for name in dir.names().unwrap_or_default() {
        if let Ok(dir) = dir.open_dir(&name) {
            draft_names(&dir, names);
        } else if Path::new(&name).extension().is_some_and(|ending| ending == "yaml") {
            let text = dir.read_small(&name, DRAFT_MAX).unwrap_or_default();
            let (spec, _) = spec::parse_draft(&String::from_utf8_lossy(&text));
            names.extend(spec.map(|spec| spec.image.to_string()));
        }
    }
}

/// Adds the tag `latest` if there is neither a tag nor a digest, as docker does.
pub fn with_default_tag(image: &RegistryRef) -> RegistryRef {
    let mut image = image.clone();
    if image.digest.is_none() && image.tag.is_none() {
        image.tag = Some("latest".into());
    }
    image
}

/// Sorts members as docker does, which stores each in a file and reads them in the order of their names.
/// Source: `makeFilesafeName` of docker/cli's manifest/store.
pub fn sort_as_docker(members: &mut [Member]) {
    members.sort_by_key(|member| member.image.to_string().replace(':', "-").replace('/', "_"));
}

/// The content of a draft's file.
fn text(list: &RegistryRef, members: &[Member]) -> String {
    let list = with_default_tag(list);
    let mut out = format!(
        "# A draft. To publish it, run: {}\nimage: {}\nmanifests:\n",
        suggest(TOOL, &["push", &list.to_string()]),
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
        if lines.iter().any(|(.., is_set)| *is_set) {
            out.push_str("    platform:\n");
        }
        for (key, value, _) in lines.iter().filter(|(.., is_set)| *is_set) {
            out.push_str(&format!("      {key}: {value}\n"));
        }
    }
    out
}

/// Text as a YAML string, for which JSON is valid.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the spec of a draft, or all its problems as one error.
pub fn valid_spec(request: PublishRequest) -> Result<Spec, Error> {
    match request.spec {
        Some(spec) if request.problems.is_empty() => Ok(spec),
        _ => {
            let lines = request
                .problems
                .iter()
                .map(|one| request.source.format_problem(one.line, &one.text))
                .collect();
            let why = "it is not a valid draft";
            let doing = format!("read draft \"{}\"", request.source.file.unwrap_or_default());
            Err(Error::bad_input(doing, why).problems(lines))
        }
    }
}

/// Returns whether a member has this name.
pub fn refers_to(member: &Member, image: &RegistryRef) -> bool {
    matches!(&member.image, Reference::Registry(known) if with_default_tag(known) == with_default_tag(image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn member(image: &str, platform: Platform) -> Member {
        Member { image: image.parse().unwrap(), platform, annotations: BTreeMap::new(), line: 0 }
    }

    #[test]
    fn a_draft_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let drafts = Drafts { state: dir.path().into() };
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
        let path = drafts.write(&TempFiles::default(), &list, &members).unwrap();
        assert!(path.ends_with("127.0.0.1:5000/team/app:latest.yaml"), "{path:?}");
        let spec = valid_spec(drafts.read(&list).unwrap().unwrap()).unwrap();
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
    fn members_have_the_order_of_docker() {
        let names = ["a.io/x:b", "a.io/x:a", "a.io/x-1:a", "a.io/x/y:a"];
        let mut members: Vec<Member> = names.iter().map(|name| member(name, Platform::default())).collect();
        sort_as_docker(&mut members);
        let ordered: Vec<String> = members.iter().map(|m| m.image.to_string()).collect();
        assert_eq!(ordered, ["a.io/x-1:a", "a.io/x:a", "a.io/x:b", "a.io/x/y:a"]);
    }
}
