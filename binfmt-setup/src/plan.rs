//! The changes to the table, decided without writing it.
//!
//! `--dry-run` prints a plan, and [`crate::apply`] executes the same value.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use error::Error;
use error::text::Escaped;

use crate::emulators::Machine;
use crate::rule::{Entry, Rule};

/// A handler to register, and the file of its emulator.
#[derive(Debug, Clone)]
pub struct HandlerRequest {
    /// The machine whose programs it runs.
    pub machine: &'static Machine,
    /// The entry to register.
    pub rule: Rule,
    /// The emulator with all symbolic links resolved.
    pub real_path: PathBuf,
    /// Device of the emulator.
    pub device: u64,
    /// Inode of the emulator.
    pub inode: u64,
}

/// A handler that is registered.
#[derive(Debug, Clone)]
pub struct ExistingHandler {
    /// Its entry.
    pub entry: Entry,
    /// The emulator with all symbolic links resolved; `None` if it does not exist anymore.
    pub real_path: Option<PathBuf>,
    /// Device and inode of the file that the kernel holds open, if a probe showed it.
    pub open_file: Option<(u64, u64)>,
}

/// The writes to the table, and notes for the user.
#[derive(Debug, Clone)]
pub enum Plan {
    /// No writes.
    NothingToDo {
        /// Notes for the user.
        notes: Vec<String>,
    },
    /// At least one write.
    Work {
        /// The writes.
        steps: Vec<Step>,
        /// Notes for the user.
        notes: Vec<String>,
    },
}

/// One change of the table.
#[derive(Debug, Clone)]
pub enum Step {
    /// Register a new handler.
    Register(HandlerRequest),
    /// Replace a handler, so that one of the two is registered at any moment.
    Replace {
        /// The handler to remove, and to restore after a failure.
        old: Entry,
        /// The handler to register.
        new: HandlerRequest,
    },
    /// Enable an entry.
    Enable {
        /// The name of the entry.
        name: OsString,
    },
    /// Remove a handler.
    Remove {
        /// The handler to remove, and to restore after a failure.
        old: Entry,
    },
}

/// The name under which a replacement is registered while the old entry exists.
pub fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = name.to_owned();
    temporary.push(".new");
    temporary
}

/// Whether a run that was killed left this entry under a temporary name.
fn is_leftover(entry: &Entry) -> bool {
    entry.rule.is_ours() && entry.rule.name.as_bytes().ends_with(b".new")
}

/// Plans the registration of `requests`. With `replace`, handlers of other programs or with another emulator are
/// replaced.
///
/// # Errors
/// `Conflict` for a handler that is not to be replaced, `BadInput` for one that the kernel would refuse.
pub fn plan_register(
    requests: &[HandlerRequest],
    existing: &[ExistingHandler],
    replace: bool,
) -> Result<Plan, Error> {
    let (mut steps, mut notes, mut conflicts) = (vec![], vec![], vec![]);
    for request in requests {
        // A line that cannot be written is an error before anything is written.
        request.rule.line()?;
        let same_name = |one: &&ExistingHandler| one.entry.rule.name == request.rule.name;
        let Some(current) = existing.iter().find(same_name) else {
            notes.extend(precedence_note(request, existing));
            steps.push(Step::Register(request.clone()));
            continue;
        };
        let replacement = || Step::Replace { old: current.entry.clone(), new: request.clone() };
        match compare(request, current) {
            Comparison::Same if current.entry.enabled => {}
            Comparison::Same => steps.push(Step::Enable { name: request.rule.name.clone() }),
            Comparison::OlderFile => {
                notes.push(format!(
                    "{}: {} was replaced, and the kernel uses the old file",
                    request.rule.name.display(),
                    request.rule.interpreter.display()
                ));
                steps.push(replacement());
            }
            Comparison::Other if replace => {
                // It must be possible to restore it.
                current.entry.rule.line()?;
                steps.push(replacement());
            }
            Comparison::Other => conflicts.push(conflict(request, current)),
        }
    }
    check_conflicts("register handlers", conflicts)?;
    let leftovers = existing.iter().map(|one| &one.entry).filter(|entry| is_leftover(entry));
    steps.extend(leftovers.map(|entry| Step::Remove { old: entry.clone() }));
    Ok(plan(steps, notes))
}

/// Plans the removal of entries: those in `names` if this program registered them, those in `exact` in any case.
///
/// # Errors
/// `Conflict` if another program registered an entry in `names`.
pub fn plan_unregister(
    names: &BTreeSet<OsString>,
    exact: &BTreeSet<OsString>,
    entries: &[Entry],
) -> Result<Plan, Error> {
    let (mut steps, mut conflicts) = (vec![], vec![]);
    for entry in entries {
        let name = &entry.rule.name;
        if exact.contains(name) || (entry.rule.is_ours() && (names.contains(name) || is_leftover(entry))) {
            steps.push(Step::Remove { old: entry.clone() });
        } else if names.contains(name) {
            let name = name.display();
            conflicts.push(
                Error::conflict(format!("unregister {name}"), "it was not registered by binfmt-setup")
                    .hint(format!("to remove it anyway, run: binfmt-setup unregister {name}")),
            );
        }
    }
    check_conflicts("unregister handlers", conflicts)?;
    Ok(plan(steps, vec![]))
}

/// Returns one conflict as it is, and several as the problems of one error.
///
/// # Errors
/// `Conflict` if there is any.
pub fn check_conflicts(action: &str, mut conflicts: Vec<Error>) -> Result<(), Error> {
    match conflicts.len() {
        0 => Ok(()),
        1 => Err(conflicts.remove(0)),
        count => Err(Error::conflict(action, format!("{count} conflicts; nothing was written"))
            .problems(conflicts.iter().map(|error| format!("cannot {error}")).collect())),
    }
}

fn plan(steps: Vec<Step>, notes: Vec<String>) -> Plan {
    if steps.is_empty() { Plan::NothingToDo { notes } } else { Plan::Work { steps, notes } }
}

enum Comparison {
    Same,
    /// The same entry, but another file has the emulator's path now.
    OlderFile,
    Other,
}

fn compare(request: &HandlerRequest, current: &ExistingHandler) -> Comparison {
    let (rule, new) = (&current.entry.rule, &request.rule);
    let is_newer_file = current.open_file.is_some_and(|file| file != (request.device, request.inode));
    if rule == new {
        return if is_newer_file { Comparison::OlderFile } else { Comparison::Same };
    }
    // Another program may have registered the same emulator under another path. That is equivalent if the kernel holds
    // the same file open, the pattern matches programs of the machine, and the flags are the same.
    let same_file = current.real_path.as_deref() == Some(request.real_path.as_path()) && !is_newer_file;
    let matches = current.entry.matches(&request.machine.probe());
    let flags = |rule: &Rule| (rule.flags.fix_binary, rule.flags.credentials, rule.flags.preserve_argv0);
    if same_file && matches && flags(rule) == flags(new) { Comparison::Same } else { Comparison::Other }
}

fn conflict(request: &HandlerRequest, current: &ExistingHandler) -> Error {
    let (rule, new) = (&current.entry.rule, &request.rule);
    let difference = if rule.interpreter == new.interpreter {
        let flags = |rule: &Rule| match rule.flags.to_string() {
            none if none.is_empty() => "none".to_owned(),
            flags => flags,
        };
        format!("with flags {}, not {}", flags(rule), flags(new))
    } else {
        format!("with {}, not {}", rule.interpreter.display(), new.interpreter.display())
    };
    let works = if current.open_file.is_some() { ", and works" } else { "" };
    let why = format!("it is registered {difference}{works}");
    Error::conflict(format!("register {}", rule.name.display()), why).hint("use --replace to replace it")
}

/// A note if a handler of another name runs programs of the machine so far.
fn precedence_note(request: &HandlerRequest, existing: &[ExistingHandler]) -> Option<String> {
    let program = request.machine.probe();
    let other = existing
        .iter()
        .map(|one| &one.entry)
        .find(|entry| entry.enabled && !is_leftover(entry) && entry.matches(&program))?;
    let (new, old) = (request.rule.name.display(), other.rule.name.display());
    Some(format!("{new} takes precedence over {old}, which has run the same programs so far"))
}

impl Plan {
    /// Notes for the user.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::NothingToDo { notes } | Self::Work { notes, .. } => notes,
        }
    }

    /// Whether a step registers or enables this entry.
    pub fn writes(&self, name: &OsStr) -> bool {
        self.steps().iter().any(|step| match step {
            Step::Register(new) | Step::Replace { new, .. } => new.rule.name == name,
            Step::Enable { name: enabled } => enabled == name,
            Step::Remove { .. } => false,
        })
    }

    /// The writes.
    pub fn steps(&self) -> &[Step] {
        match self {
            Self::NothingToDo { .. } => &[],
            Self::Work { steps, .. } => steps,
        }
    }
}

/// One line per write, with the line that is written to the kernel.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps().is_empty() {
            return writeln!(f, "nothing to do");
        }
        self.steps().iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &OsStr| Escaped(&text.to_string_lossy()).to_string();
        match self {
            Self::Register(new) => write!(f, "register {}", line_text(&new.rule)),
            Self::Replace { old, new } => {
                write!(f, "replace  {} ({})", line_text(&new.rule), text(old.rule.interpreter.as_os_str()))
            }
            Self::Enable { name } => write!(f, "enable   {}", text(name)),
            Self::Remove { old } => {
                write!(f, "remove   {} ({})", text(&old.rule.name), text(old.rule.interpreter.as_os_str()))
            }
        }
    }
}

/// The line that is written to the kernel, or why there is none.
pub fn line_text(rule: &Rule) -> String {
    match rule.line() {
        Ok(line) => Escaped(&String::from_utf8_lossy(&line)).to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Kind;

    fn request(name: &str, path: &str) -> HandlerRequest {
        let machine = Machine::by_name(name).unwrap();
        let rule = Rule {
            name: machine.entry_name().into(),
            kind: Kind::Magic(machine.pattern()),
            interpreter: path.into(),
            flags: "PF".parse().unwrap(),
        };
        HandlerRequest { machine, rule, real_path: path.into(), device: 1, inode: 7 }
    }

    fn existing(request: &HandlerRequest) -> ExistingHandler {
        let entry = Entry { rule: request.rule.clone(), enabled: true };
        ExistingHandler { entry, real_path: Some(request.real_path.clone()), open_file: Some((1, 7)) }
    }

    fn summary(plan: Result<Plan, Error>) -> String {
        match plan {
            Ok(plan) => plan
                .steps()
                .iter()
                .map(|step| step.to_string().split([':', '(']).next().unwrap().trim().to_owned())
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => format!("exit {}", error.kind as u8),
        }
    }

    #[test]
    fn an_equal_handler_is_kept_and_a_different_one_requires_replace() {
        let arm = request("arm", "/usr/bin/qemu-arm");
        let same = existing(&arm);
        let mut disabled = same.clone();
        disabled.entry.enabled = false;
        let stale = ExistingHandler { open_file: Some((1, 6)), ..same.clone() };
        let other = ExistingHandler { open_file: None, ..existing(&request("arm", "/opt/qemu-arm")) };
        // Debian's path of the same file.
        let mut debian = ExistingHandler { real_path: Some("/usr/bin/qemu-arm".into()), ..other.clone() };
        debian.open_file = Some((1, 7));
        let mut by_path = debian.clone();
        by_path.entry.rule.flags = "P".parse().unwrap();
        for (current, replace, steps) in [
            (vec![], false, "register"),
            (vec![same.clone()], false, ""),
            (vec![same], true, ""),
            (vec![disabled], false, "enable   qemu-arm"),
            (vec![stale], false, "replace"),
            (vec![other.clone()], false, "exit 8"),
            (vec![other], true, "replace"),
            (vec![debian], false, ""),
            (vec![by_path], false, "exit 8"),
        ] {
            assert_eq!(
                summary(plan_register(std::slice::from_ref(&arm), &current, replace)),
                steps,
                "{current:?}"
            );
        }
    }

    #[test]
    fn all_conflicts_are_reported_at_once() {
        let (arm, s390x) = (request("arm", "/new/arm"), request("s390x", "/new/s390x"));
        let current = [existing(&request("arm", "/old/arm")), existing(&request("s390x", "/old/s390x"))];
        let error = plan_register(&[arm, s390x], &current, false).unwrap_err();
        assert_eq!(error.to_string(), "register handlers: 2 conflicts; nothing was written");
        let [first, second] = &error.problems[..] else { panic!("{error:?}") };
        assert!(first.contains("qemu-arm") && second.contains("qemu-s390x"), "{error:?}");
    }

    #[test]
    fn entries_that_a_killed_run_left_are_removed_last() {
        let arm = request("arm", "/usr/bin/qemu-arm");
        let mut leftover = existing(&arm);
        leftover.entry.rule.name = temporary_name(&arm.rule.name);
        assert_eq!(
            summary(plan_register(std::slice::from_ref(&arm), &[leftover.clone()], false)),
            "register, remove   qemu-arm.new"
        );
        // An entry of another program with such a name is kept.
        leftover.entry.rule.kind = Kind::Extension("x".into());
        assert_eq!(summary(plan_register(&[arm], &[leftover], false)), "register");
    }

    #[test]
    fn entries_of_other_programs_are_removed_by_their_exact_name_only() {
        let ours = existing(&request("arm", "/usr/bin/qemu-arm")).entry;
        let mut theirs = existing(&request("s390x", "/usr/bin/qemu-s390x")).entry;
        let Kind::Magic(pattern) = &mut theirs.rule.kind else { unreachable!() };
        pattern.magic.truncate(20);
        pattern.mask.truncate(20);
        let mut wsl = theirs.clone();
        wsl.rule.name = "WSLInterop".into();
        let table = [ours, theirs, wsl];
        let set = |names: &[&str]| names.iter().map(OsString::from).collect::<BTreeSet<_>>();
        for (names, exact, steps) in [
            (set(&["qemu-arm"]), set(&[]), "remove   qemu-arm"),
            (set(&["qemu-ppc"]), set(&[]), ""),
            (set(&["qemu-s390x"]), set(&[]), "exit 8"),
            (set(&[]), set(&["qemu-s390x"]), "remove   qemu-s390x"),
        ] {
            assert_eq!(summary(plan_unregister(&names, &exact, &table)), steps);
        }
    }

    #[test]
    fn a_plan_prints_the_line_that_is_written_to_the_kernel() {
        let plan = plan_register(&[request("s390x", "/q")], &[], false).unwrap().to_string();
        let line = r"register :qemu-s390x:M:0:\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16\x00\x00\x00\x01:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\x00\x00\x00\x00:/q:PF";
        assert_eq!(plan.trim_end(), line);
    }
}
