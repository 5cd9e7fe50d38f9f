//! From what was typed to the entries that are wanted: which emulator serves which machine, with which flags.

use std::path::PathBuf;

use crate::elf::Ident;
use crate::emulators::file::{self, Content, EmulatorFile, FileError, Version};
use crate::emulators::search::{Found, search};
use crate::emulators::{MACHINES, Machine, Target};
use crate::escape::escaped;
use crate::exit::Exit;
use crate::plan::Wanted;
use crate::probe::version_of;
use crate::rule::{Flags, Kind, Rule};

/// What to make run, and with what.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Empty with `all`.
    pub targets: Vec<Target>,
    /// Every machine of which an emulator is found.
    pub all: bool,
    pub folders: Vec<PathBuf>,
    /// Emulators named one by one.
    pub named: Vec<(&'static Machine, PathBuf)>,
    /// `None`: as the emulator wants it.
    pub flags: Option<Flags>,
    /// Flag C, which must be asked for by its long name.
    pub credentials: bool,
}

/// What this machine is, as far as it decides.
#[derive(Debug, Clone)]
pub struct Host {
    pub ident: Option<Ident>,
    pub kernel: (u32, u32),
    /// Machines whose programs the CPU runs by itself.
    pub native: Vec<&'static Machine>,
}

#[derive(Debug, Default)]
pub struct Resolved {
    pub wanted: Vec<Wanted>,
    /// Platforms for which nothing needs doing.
    pub native: Vec<Target>,
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "no emulator for {what} in {folders}{passed_over}: install qemu-user-static, or use --emulator-dir"
    )]
    NotFound { what: String, folders: String, passed_over: String },
    #[error(
        "flag C lets emulated set-uid programs run as root, and whoever starts one can steer the emulator: say \
         --credentials if that is what you want"
    )]
    Unconfirmed,
    #[error(
        "this CPU runs programs of {0} itself, and an entry for them would send each of them, perhaps every program \
         of this machine, through an emulator: leave it out"
    )]
    Native(&'static str),
}

impl RequestError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::File(error) => error.exit(),
            Self::NotFound { .. } => Exit::NotFound,
            Self::Native(_) => Exit::BadInput,
            Self::Unconfirmed => Exit::Usage,
        }
    }
}

impl Request {
    pub fn resolve(&self, host: &Host) -> Result<Resolved, RequestError> {
        if self.flags.is_some_and(|flags| flags.credentials) && !self.credentials {
            return Err(RequestError::Unconfirmed);
        }
        let mut resolved = Resolved::default();
        for machine in self.machines(host, &mut resolved)? {
            let Some(emulator) = self.emulator(machine)? else { continue };
            let (wanted, warnings) = self.entry(machine, emulator, host)?;
            resolved.wanted.push(wanted);
            resolved.warnings.extend(warnings);
        }
        if self.all && resolved.wanted.is_empty() {
            return Err(self.not_found("any machine".to_owned(), vec![]));
        }
        Ok(resolved)
    }

    /// Each machine once, in the order of the table.
    fn machines(&self, host: &Host, resolved: &mut Resolved) -> Result<Vec<&'static Machine>, RequestError> {
        let is_native = |machine: &Machine| host.native.iter().any(|native| std::ptr::eq(*native, machine));
        for target in &self.targets {
            if !is_native(target.machine) {
                continue;
            }
            // The platform runs: that is all that was asked for. An emulator of the CPU's own machine is a mistake.
            if !target.as_platform {
                return Err(RequestError::Native(target.machine.name));
            }
            resolved.native.push(*target);
        }
        if let Some((machine, _)) = self.named.iter().find(|(machine, _)| is_native(machine)) {
            return Err(RequestError::Native(machine.name));
        }
        let asked = |machine: &&Machine| {
            let by_target = self.targets.iter().any(|target| std::ptr::eq(target.machine, *machine));
            let by_emulator = self.named.iter().any(|(named, _)| std::ptr::eq(*named, *machine));
            (self.all || by_target || by_emulator) && !is_native(machine)
        };
        Ok(MACHINES.iter().filter(asked).collect())
    }

    /// `None`: there is none, and nobody asked for this machine in particular.
    fn emulator(&self, machine: &'static Machine) -> Result<Option<EmulatorFile>, RequestError> {
        if let Some((_, path)) = self.named.iter().find(|(named, _)| std::ptr::eq(*named, machine)) {
            return Ok(Some(file::read(path)?));
        }
        match search(machine, &self.folders) {
            Found::Emulator(found) => Ok(Some(found)),
            Found::Nothing { .. } if self.all => Ok(None),
            Found::Nothing { passed_over } => Err(self.not_found(machine.name.to_owned(), passed_over)),
        }
    }

    fn not_found(&self, what: String, passed_over: Vec<String>) -> RequestError {
        let folders: Vec<String> = self.folders.iter().map(escaped).collect();
        let passed_over = match passed_over.join(", ") {
            names if names.is_empty() => names,
            names => format!(" ({names})"),
        };
        RequestError::NotFound { what, folders: folders.join(" "), passed_over }
    }

    fn entry(
        &self,
        machine: &'static Machine,
        emulator: EmulatorFile,
        host: &Host,
    ) -> Result<(Wanted, Vec<String>), RequestError> {
        // Before it is executed, even if only for its version.
        file::check(&emulator, host.ident, self.credentials)?;
        let version = version_of(&emulator.path).as_deref().and_then(Version::parse);
        if let Some(version) = &version {
            file::check_version(&emulator, version, machine)?;
        }
        let mut flags =
            self.flags.unwrap_or_else(|| file::default_flags(&emulator, version.as_ref(), host.kernel));
        // The kernel sets O by itself for C.
        flags.credentials |= self.credentials;
        flags.open_binary |= self.credentials;
        let warnings = warnings(&emulator, flags);
        let rule = Rule {
            name: machine.entry_name().into(),
            kind: Kind::Magic(machine.pattern()),
            interpreter: emulator.path,
            flags,
        };
        let EmulatorFile { real_path, device, inode, .. } = emulator;
        Ok((Wanted { machine, rule, real_path, device, inode }, warnings))
    }
}

fn warnings(emulator: &EmulatorFile, flags: Flags) -> Vec<String> {
    let path = escaped(&emulator.path);
    let mut warnings = vec![];
    if matches!(emulator.content, Content::Elf(header) if header.dynamic) {
        warnings.push(format!("{path} is linked dynamically: it will not start in containers and chroots"));
    }
    if !flags.fix_binary {
        warnings
            .push(format!("{path} without flag F: containers and chroots need their own copy at this path"));
    }
    if flags.credentials {
        warnings.push(format!(
            "{path} with flag C runs set-uid programs as root; whoever starts one can steer it by QEMU_* variables \
             (QEMU_LOG_FILENAME writes any file): do this on machines without other users only"
        ));
    }
    if let (Some(not_of_root), false) = (&emulator.not_of_root, flags.credentials) {
        // In a user namespace the owner of everything else has no name, and that is nothing to warn of.
        if crate::facts::in_first_user_namespace() {
            warnings.push(format!(
                "{} does not belong to root: its owner can replace the emulator",
                escaped(not_of_root)
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            ident: crate::facts::own_ident(),
            kernel: (6, 18),
            native: vec![Machine::by_name("x86_64").unwrap(), Machine::by_name("i386").unwrap()],
        }
    }

    fn request(targets: &[&str]) -> Request {
        let targets = targets.iter().map(|text| Target::parse(text).unwrap()).collect();
        Request { targets, folders: vec!["/nonexistent".into()], ..Request::default() }
    }

    #[test]
    fn a_native_platform_is_satisfied_and_a_native_machine_refused() {
        let resolved = request(&["linux/amd64", "linux/386"]).resolve(&host()).unwrap();
        assert_eq!((resolved.native.len(), resolved.wanted.len()), (2, 0));
        assert!(matches!(request(&["x86_64"]).resolve(&host()), Err(RequestError::Native("x86_64"))));
        let mut named = request(&[]);
        named.named.push((Machine::by_name("i386").unwrap(), "/usr/bin/qemu-i386".into()));
        assert!(matches!(named.resolve(&host()), Err(RequestError::Native("i386"))));
    }

    #[test]
    fn what_is_missing_names_the_folders_that_were_searched() {
        let error = request(&["linux/s390x"]).resolve(&host()).unwrap_err();
        assert_eq!(error.exit(), Exit::NotFound);
        assert!(error.to_string().contains("s390x in /nonexistent:"), "{error}");
    }
}
