//! The handlers that a command line requests: which emulator runs which machine, with which flags.

use std::path::PathBuf;

use error::{Error, Exit};

use crate::elf::Ident;
use crate::emulators::file::{self, Content, EmulatorFile, Version};
use crate::emulators::search::{Found, search};
use crate::emulators::{MACHINES, Machine, Target};
use crate::host::in_initial_user_namespace;
use crate::plan::HandlerRequest;
use crate::probe::version_of;
use crate::rule::{Flags, Kind, Rule};

/// The machines to run, and their emulators.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Empty with `all`.
    pub targets: Vec<Target>,
    /// Every machine whose emulator is found.
    pub all: bool,
    /// Directories to search for emulators.
    pub emulator_dirs: Vec<PathBuf>,
    /// Emulators of single machines.
    pub emulators: Vec<(&'static Machine, PathBuf)>,
    /// `None`: the default of each emulator.
    pub flags: Option<Flags>,
    /// Flag C, which requires its own option.
    pub credentials: bool,
    /// Every user of the host will execute the emulators.
    pub for_everybody: bool,
}

/// The properties of this host on which a plan depends.
#[derive(Debug, Clone)]
pub struct Host {
    /// The machine that this program was built for, which runs without an emulator.
    pub ident: Option<Ident>,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// Machines whose programs the CPU runs.
    pub native: Vec<&'static Machine>,
}

/// The handlers to register.
#[derive(Debug, Default)]
pub struct Resolved {
    /// One for each machine that requires an emulator.
    pub handlers: Vec<HandlerRequest>,
    /// Requested platforms that the CPU runs.
    pub native: Vec<Target>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Request {
    /// Finds and checks the emulators.
    ///
    /// # Errors
    /// `NotFound` without an emulator, `NotPermitted` for an unsafe one, `BadInput` for an unsuitable one or a machine
    /// that the CPU runs, `Usage` for flag C without `credentials`.
    pub fn resolve(&self, host: &Host) -> Result<Resolved, Error> {
        if self.flags.is_some_and(|flags| flags.credentials) && !self.credentials {
            let why = "flag C runs emulated set-uid programs as root, and every user who starts one controls its emulator";
            return Err(
                Error::new(Exit::Usage, "use flag C", why).hint("add --credentials if you accept this")
            );
        }
        let mut resolved = Resolved::default();
        for machine in self.machines(host, &mut resolved)? {
            let Some(emulator) = self.emulator(machine)? else { continue };
            let (handler, warnings) = self.handler(machine, emulator, host)?;
            resolved.handlers.push(handler);
            resolved.warnings.extend(warnings);
        }
        if self.all && resolved.handlers.is_empty() {
            return Err(self.not_found("any machine", &[]));
        }
        Ok(resolved)
    }

    /// Whether the command line names this machine or its emulator, or requests all.
    pub fn includes(&self, machine: &Machine) -> bool {
        self.all
            || self.targets.iter().any(|target| std::ptr::eq(target.machine, machine))
            || self.emulators.iter().any(|(one, _)| std::ptr::eq(*one, machine))
    }

    /// The requested machines that require an emulator, in the order of [`MACHINES`].
    fn machines(&self, host: &Host, resolved: &mut Resolved) -> Result<Vec<&'static Machine>, Error> {
        let is_native = |machine: &Machine| host.native.iter().any(|native| std::ptr::eq(*native, machine));
        for target in self.targets.iter().filter(|target| is_native(target.machine)) {
            // A platform that runs is all that was requested. An emulator of the CPU's own machine is a mistake.
            if !target.as_platform {
                return Err(native_machine(target.machine));
            }
            resolved.native.push(*target);
        }
        if let Some((machine, _)) = self.emulators.iter().find(|(machine, _)| is_native(machine)) {
            return Err(native_machine(machine));
        }
        Ok(MACHINES.iter().filter(|machine| self.includes(machine) && !is_native(machine)).collect())
    }

    /// The emulator of this machine. With `all`, `None` if there is none.
    fn emulator(&self, machine: &'static Machine) -> Result<Option<EmulatorFile>, Error> {
        if let Some((_, path)) = self.emulators.iter().find(|(one, _)| std::ptr::eq(*one, machine)) {
            return file::read(path).map(Some);
        }
        match search(machine, &self.emulator_dirs) {
            Found::Emulator(found) => Ok(Some(found)),
            Found::Nothing { .. } if self.all => Ok(None),
            Found::Nothing { skipped } => Err(self.not_found(machine.name, &skipped)),
        }
    }

    fn not_found(&self, machine: &str, skipped: &[String]) -> Error {
        let directories: Vec<String> =
            self.emulator_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let skipped = if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join(", ")) };
        let why = format!("no emulator for {machine} in {}{skipped}", directories.join(" "));
        Error::not_found("choose emulators", why).hint("install qemu-user-static, or use --emulator-dir")
    }

    fn handler(
        &self,
        machine: &'static Machine,
        emulator: EmulatorFile,
        host: &Host,
    ) -> Result<(HandlerRequest, Vec<String>), Error> {
        // Before it is executed, even if only for its version.
        file::check(&emulator, host.ident, self.for_everybody, self.credentials)?;
        let version = version_of(&emulator.path).as_deref().and_then(Version::parse);
        if let Some(version) = &version {
            file::check_version(&emulator, version, machine)?;
        }
        let mut flags =
            self.flags.unwrap_or_else(|| file::default_flags(&emulator, version.as_ref(), host.kernel));
        // The kernel sets O with C.
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
        Ok((HandlerRequest { machine, rule, real_path, device, inode }, warnings))
    }
}

fn native_machine(machine: &Machine) -> Error {
    let why =
        "this CPU runs its programs, and a handler could send every program of this host through an emulator";
    Error::bad_input(format!("use an emulator for {}", machine.name), why).hint("omit this machine")
}

fn warnings(emulator: &EmulatorFile, flags: Flags) -> Vec<String> {
    let path = emulator.path.display();
    let mut warnings = vec![];
    if matches!(emulator.content, Content::Elf(header) if header.dynamic) {
        warnings.push(format!("{path} is linked dynamically: it does not start in containers and chroots"));
    }
    if !flags.fix_binary {
        warnings.push(format!("{path} without flag F: containers and chroots require a copy at this path"));
    }
    if flags.credentials {
        warnings.push(format!(
            "{path} with flag C runs set-uid programs as root, and every user who starts one controls it with QEMU_* \
             variables (QEMU_LOG_FILENAME writes any file): only for machines without other users"
        ));
    }
    if let (Some(not_of_root), false) = (&emulator.not_of_root, flags.credentials) {
        // In a user namespace the owner of most files has no name, so a warning would be wrong.
        if in_initial_user_namespace() {
            let file = not_of_root.display();
            warnings.push(format!("{file} does not belong to root: its owner can replace the emulator"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            ident: crate::host::own_ident(),
            kernel: (6, 18),
            native: vec![Machine::by_name("x86_64").unwrap(), Machine::by_name("i386").unwrap()],
        }
    }

    fn request(targets: &[&str]) -> Request {
        let targets = targets.iter().map(|text| Target::parse(text).unwrap()).collect();
        Request { targets, emulator_dirs: vec!["/nonexistent".into()], ..Request::default() }
    }

    #[test]
    fn a_native_platform_requires_nothing_and_a_native_machine_is_refused() {
        let resolved = request(&["linux/amd64", "linux/386"]).resolve(&host()).unwrap();
        assert_eq!((resolved.native.len(), resolved.handlers.len()), (2, 0));
        let assert_native = |request: Request, machine: &str| {
            let error = request.resolve(&host()).unwrap_err();
            assert_eq!(
                (error.kind, error.action),
                (Exit::BadInput, format!("use an emulator for {machine}"))
            );
        };
        assert_native(request(&["x86_64"]), "x86_64");
        let i386 = (Machine::by_name("i386").unwrap(), "/usr/bin/qemu-i386".into());
        assert_native(Request { emulators: vec![i386], ..request(&[]) }, "i386");
    }

    #[test]
    fn a_missing_emulator_is_reported_with_the_searched_directories() {
        let error = request(&["linux/s390x"]).resolve(&host()).unwrap_err();
        assert_eq!(error.kind, Exit::NotFound);
        assert!(error.to_string().contains("s390x in /nonexistent;"), "{error}");
    }
}
