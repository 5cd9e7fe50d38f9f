//! What will change in the table, decided without touching it.
//!
//! A plan is a value: `--dry-run` prints it, and [`crate::apply`] carries out the very same value.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::emulators::Machine;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::rule::{Entry, LineError, Rule};

/// An entry that somebody asked for, and the file that its interpreter is.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub machine: &'static Machine,
    pub rule: Rule,
    pub real_path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

/// An entry that is there.
#[derive(Debug, Clone)]
pub struct Seen {
    pub entry: Entry,
    /// Where its interpreter really lies; `None` when nothing is there any more.
    pub real_path: Option<PathBuf>,
    /// Device and inode of the file that the kernel holds for it, where a probe found out.
    pub held: Option<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    NothingToDo { notes: Vec<String> },
    Work { steps: Vec<Step>, notes: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Register(Wish),
    /// At no instant is the machine without a handler.
    Replace {
        old: Entry,
        new: Wish,
    },
    Enable {
        name: OsString,
    },
    /// `old` is what is lost, so that it can be put back.
    Remove {
        old: Entry,
    },
}

/// What [`Step::Register`] needs of a [`Wanted`].
#[derive(Debug, Clone)]
pub struct Wish {
    pub machine: &'static Machine,
    pub rule: Rule,
    pub device: u64,
    pub inode: u64,
}

impl PartialEq for Wish {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.machine, other.machine)
            && (&self.rule, self.device, self.inode) == (&other.rule, other.device, other.inode)
    }
}

impl Eq for Wish {}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("{}", .0.join("; "))]
    Conflicts(Vec<String>),
    #[error(transparent)]
    Line(#[from] LineError),
}

impl PlanError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::Conflicts(_) => Exit::Conflict,
            Self::Line(_) => Exit::BadInput,
        }
    }
}

/// The name under which a replacement stands beside the old entry for a moment.
pub fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = name.to_owned();
    temporary.push(".new");
    temporary
}

fn is_stray(entry: &Entry) -> bool {
    entry.rule.is_ours() && entry.rule.name.as_bytes().ends_with(b".new")
}

/// `replace`: entries of other people, or with another emulator, may give way.
pub fn plan_register(wanted: &[Wanted], seen: &[Seen], replace: bool) -> Result<Plan, PlanError> {
    let (mut steps, mut notes, mut conflicts) = (vec![], vec![], vec![]);
    for wanted in wanted {
        // What cannot be written is an error before anything is written.
        wanted.rule.line()?;
        let Some(there) = seen.iter().find(|seen| seen.entry.rule.name == wanted.rule.name) else {
            notes.extend(overtaken(wanted, seen));
            steps.push(Step::Register(wish(wanted)));
            continue;
        };
        match compare(wanted, there) {
            Comparison::Same if there.entry.enabled => {}
            Comparison::Same => steps.push(Step::Enable { name: wanted.rule.name.clone() }),
            Comparison::OlderFile => {
                notes.push(format!(
                    "{}: the file {} was replaced since; the kernel still holds the old one",
                    escaped(&wanted.rule.name),
                    escaped(&wanted.rule.interpreter)
                ));
                steps.push(Step::Replace { old: there.entry.clone(), new: wish(wanted) });
            }
            Comparison::Other if replace => {
                // It must be possible to put it back.
                there.entry.rule.line()?;
                steps.push(Step::Replace { old: there.entry.clone(), new: wish(wanted) });
            }
            Comparison::Other => conflicts.push(conflict(wanted, there)),
        }
    }
    if !conflicts.is_empty() {
        return Err(PlanError::Conflicts(conflicts));
    }
    // A run that was killed half-way left its temporary names behind.
    let strays = seen.iter().map(|seen| &seen.entry).filter(|entry| is_stray(entry));
    steps.extend(strays.map(|stray| Step::Remove { old: stray.clone() }));
    Ok(plan(steps, notes))
}

/// `names`: entries that may be removed only if this tool made them; `exact`: whoever made them.
pub fn plan_unregister(
    names: &BTreeSet<OsString>,
    exact: &BTreeSet<OsString>,
    seen: &[Entry],
) -> Result<Plan, PlanError> {
    let (mut steps, mut conflicts) = (vec![], vec![]);
    for entry in seen {
        let name = &entry.rule.name;
        if exact.contains(name) || (entry.rule.is_ours() && (names.contains(name) || is_stray(entry))) {
            steps.push(Step::Remove { old: entry.clone() });
        } else if names.contains(name) {
            let name = escaped(name);
            conflicts.push(format!(
                "{name} was not made by binfmt-setup: to remove it all the same: binfmt-setup unregister {name}"
            ));
        }
    }
    if conflicts.is_empty() { Ok(plan(steps, vec![])) } else { Err(PlanError::Conflicts(conflicts)) }
}

fn plan(steps: Vec<Step>, notes: Vec<String>) -> Plan {
    if steps.is_empty() { Plan::NothingToDo { notes } } else { Plan::Work { steps, notes } }
}

fn wish(wanted: &Wanted) -> Wish {
    let Wanted { machine, rule, device, inode, .. } = wanted.clone();
    Wish { machine, rule, device, inode }
}

enum Comparison {
    Same,
    /// The same words, but the file behind the path is a new one.
    OlderFile,
    Other,
}

fn compare(wanted: &Wanted, there: &Seen) -> Comparison {
    let rule = &there.entry.rule;
    let is_newer_file = there.held.is_some_and(|held| held != (wanted.device, wanted.inode));
    if *rule == wanted.rule {
        return if is_newer_file { Comparison::OlderFile } else { Comparison::Same };
    }
    // The same emulator under another of its names, registered by somebody else: it does what was asked for, if it
    // is held open, catches programs of the machine and hands over what the wanted one would.
    let same_file = there.real_path.as_deref() == Some(wanted.real_path.as_path()) && !is_newer_file;
    let serves = there.entry.matches(&wanted.machine.probe());
    let same_flags = (rule.flags.fix_binary, rule.flags.credentials, rule.flags.preserve_argv0)
        == (wanted.rule.flags.fix_binary, wanted.rule.flags.credentials, wanted.rule.flags.preserve_argv0);
    if same_file && serves && same_flags { Comparison::Same } else { Comparison::Other }
}

fn conflict(wanted: &Wanted, there: &Seen) -> String {
    let rule = &there.entry.rule;
    let what = if rule.interpreter == wanted.rule.interpreter {
        format!("with flags {} and not {}", Shown(&rule.flags), Shown(&wanted.rule.flags))
    } else {
        format!("with {} and not {}", escaped(&rule.interpreter), escaped(&wanted.rule.interpreter))
    };
    let works = if there.held.is_some() { ", and it works" } else { "" };
    format!("{} is registered {what}{works}: --replace puts the new one in its place", escaped(&rule.name))
}

/// Flags, and a word for none.
struct Shown<'a>(&'a crate::rule::Flags);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.0.to_string();
        f.write_str(if flags.is_empty() { "(none)" } else { &flags })
    }
}

/// Entries of other names that serve the machine today and will come second.
fn overtaken(wanted: &Wanted, seen: &[Seen]) -> Option<String> {
    let program = wanted.machine.probe();
    let other = seen
        .iter()
        .map(|seen| &seen.entry)
        .find(|entry| entry.enabled && !is_stray(entry) && entry.matches(&program))?;
    let (new, old) = (escaped(&wanted.rule.name), escaped(&other.rule.name));
    Some(format!("{new} goes before {old}, which serves the same programs now"))
}

impl Plan {
    pub fn notes(&self) -> &[String] {
        match self {
            Self::NothingToDo { notes } | Self::Work { notes, .. } => notes,
        }
    }

    /// Whether a step brings this entry about.
    pub fn writes(&self, name: &OsStr) -> bool {
        self.steps().iter().any(|step| match step {
            Step::Register(new) | Step::Replace { new, .. } => new.rule.name == name,
            Step::Enable { name: enabled } => enabled == name,
            Step::Remove { .. } => false,
        })
    }

    pub fn steps(&self) -> &[Step] {
        match self {
            Self::NothingToDo { .. } => &[],
            Self::Work { steps, .. } => steps,
        }
    }
}

/// One line per write, exactly as it would be written.
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
        match self {
            Self::Register(new) => write!(f, "register {}", shown_line(&new.rule)),
            Self::Replace { old, new } => {
                write!(f, "replace  {} ({})", shown_line(&new.rule), escaped(&old.rule.interpreter))
            }
            Self::Enable { name } => write!(f, "enable   {}", escaped(name)),
            Self::Remove { old } => {
                write!(f, "remove   {} ({})", escaped(&old.rule.name), escaped(&old.rule.interpreter))
            }
        }
    }
}

/// The line itself, whose escapes are meant: `\x7f` stays as it is written to the kernel.
pub fn shown_line(rule: &Rule) -> String {
    match rule.line() {
        Ok(line) => String::from_utf8_lossy(&line).into_owned(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Kind;

    fn wanted(name: &str, path: &str) -> Wanted {
        let machine = Machine::by_name(name).unwrap();
        let rule = Rule {
            name: machine.entry_name().into(),
            kind: Kind::Magic(machine.pattern()),
            interpreter: path.into(),
            flags: "PF".parse().unwrap(),
        };
        Wanted { machine, rule, real_path: path.into(), device: 1, inode: 7 }
    }

    fn seen(wanted: &Wanted) -> Seen {
        let entry = Entry { rule: wanted.rule.clone(), enabled: true };
        Seen { entry, real_path: Some(wanted.real_path.clone()), held: Some((1, 7)) }
    }

    fn shown(plan: Result<Plan, PlanError>) -> String {
        match plan {
            Ok(plan) => plan
                .steps()
                .iter()
                .map(|step| step.to_string().split([':', '(']).next().unwrap().trim().to_owned())
                .collect::<Vec<_>>()
                .join(", "),
            Err(error) => format!("exit {}", error.exit() as u8),
        }
    }

    #[test]
    fn what_is_there_already_is_left_alone_and_what_differs_needs_a_word() {
        let arm = wanted("arm", "/usr/bin/qemu-arm");
        let same = seen(&arm);
        let mut disabled = same.clone();
        disabled.entry.enabled = false;
        let stale = Seen { held: Some((1, 6)), ..same.clone() };
        let other = Seen { held: None, ..seen(&wanted("arm", "/opt/qemu-arm")) };
        // Debian's name for the same file.
        let mut debian = Seen { real_path: Some("/usr/bin/qemu-arm".into()), ..other.clone() };
        debian.held = Some((1, 7));
        let mut by_path = debian.clone();
        by_path.entry.rule.flags = "P".parse().unwrap();
        for (there, replace, steps) in [
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
            assert_eq!(shown(plan_register(std::slice::from_ref(&arm), &there, replace)), steps, "{there:?}");
        }
    }

    #[test]
    fn all_conflicts_are_told_at_once() {
        let (arm, s390x) = (wanted("arm", "/new/arm"), wanted("s390x", "/new/s390x"));
        let there = [seen(&wanted("arm", "/old/arm")), seen(&wanted("s390x", "/old/s390x"))];
        let error = plan_register(&[arm, s390x], &there, false).unwrap_err().to_string();
        assert!(error.contains("qemu-arm") && error.contains("qemu-s390x"), "{error}");
    }

    #[test]
    fn what_a_killed_run_left_is_removed_last() {
        let arm = wanted("arm", "/usr/bin/qemu-arm");
        let mut stray = seen(&arm);
        stray.entry.rule.name = temporary_name(&arm.rule.name);
        assert_eq!(
            shown(plan_register(std::slice::from_ref(&arm), &[stray.clone()], false)),
            "register, remove   qemu-arm.new"
        );
        // The same name by somebody else is theirs.
        stray.entry.rule.kind = Kind::Extension("x".into());
        assert_eq!(shown(plan_register(&[arm], &[stray], false)), "register");
    }

    #[test]
    fn only_our_own_entries_go_unless_named_exactly() {
        let ours = seen(&wanted("arm", "/usr/bin/qemu-arm")).entry;
        let mut theirs = seen(&wanted("s390x", "/usr/bin/qemu-s390x")).entry;
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
            assert_eq!(shown(plan_unregister(&names, &exact, &table)), steps);
        }
    }

    #[test]
    fn the_plan_shows_the_line_as_the_kernel_gets_it() {
        let plan = plan_register(&[wanted("s390x", "/q")], &[], false).unwrap().to_string();
        let line = r"register :qemu-s390x:M:0:\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16\x00\x00\x00\x01:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\x00\x00\x00\x00:/q:PF";
        assert_eq!(plan.trim_end(), line);
    }
}
