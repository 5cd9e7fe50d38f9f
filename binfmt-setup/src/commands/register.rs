//! `register`: entries for the whole machine, all of them or none.

use std::path::Path;
use std::time::Duration;

use super::show::{Shown, Tense, show};
use crate::apply::{ApplyError, apply};
use crate::emulators::{MACHINES, Machine, Target};
use crate::error::Error;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::facts;
use crate::kernel::{KernelError, LockedTable, ReadTable, Table, mount_table};
use crate::persist::{self, Files};
use crate::plan::{Plan, Seen, Wanted, Wish, plan_register};
use crate::probe::{Failed, Outcome, Prober, Ran};
use crate::request::{Host, Request, Resolved};
use crate::rule::{Entry, first_match};
use crate::voice::Voice;

/// Others may register all machines and probe each of them meanwhile.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// How `register` goes about it.
#[derive(Debug, Clone, Copy)]
pub struct How {
    pub replace: bool,
    pub persist: bool,
    pub probe: bool,
    pub dry_run: bool,
}

pub fn register(at: &Path, request: &Request, how: &How, voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    if how.dry_run {
        let table = match Table::open(at) {
            Err(KernelError::NotMounted(_)) => {
                voice.note(&format!("binfmt_misc is not mounted: it would be mounted at {}", escaped(at)));
                None
            }
            found => Some(found?),
        };
        let entries = table.map_or(Ok(vec![]), |table| table.entries())?;
        let Decision { plan, resolved, .. } = plan_from(request, entries, how, &prober)?;
        let files = files_for(&resolved, how)?;
        show(&Shown { plan: &plan, files: &files, resolved: &resolved, tense: Tense::Future }, voice)?;
        return Ok(Exit::Done);
    }
    if let Err(KernelError::NotMounted(_)) = Table::open(at) {
        // A platform that the CPU runs by itself is no reason to mount anything.
        let Decision { plan, resolved, .. } = plan_from(request, vec![], how, &prober)?;
        if resolved.wanted.is_empty() {
            let files = files_for(&resolved, how)?;
            levels_run(request, &prober)?;
            show(&Shown { plan: &plan, files: &files, resolved: &resolved, tense: Tense::Past }, voice)?;
            return Ok(Exit::Done);
        }
    }
    let mut table = open_for_writing(at, voice)?;
    let entries = table.entries()?;
    let Decision { plan, resolved, broken } = plan_from(request, entries, how, &prober)?;
    if how.probe && !table.is_enabled()? && !plan.steps().is_empty() {
        let at = escaped(at);
        return Err(Error::SwitchedOff(format!(
            "{at}/status: binfmt_misc as a whole is switched off, so no entry would work: echo 1 > {at}/status"
        )));
    }
    plan.steps().iter().for_each(|step| voice.detail(&step.to_string()));
    let files = files_for(&resolved, how)?;
    let staged = persist::stage(files.clone())?;
    apply(&plan, &mut table, &mut |new| if how.probe { try_out(new, &prober) } else { Ok(()) })?;
    staged.commit()?;
    files.to_string().lines().for_each(|line| voice.detail(line));
    if how.persist && !persist::is_read_at_boot() {
        voice.note("warning: nothing on this machine reads /etc/binfmt.d when it boots: install systemd or OpenRC's binfmt");
    }
    // What was there already and stays as it is must work as well, or the platform that was asked for does not.
    let works = match broken.into_iter().next() {
        Some(error) => Err(error),
        None if how.probe => levels_run(request, &prober),
        None => Ok(()),
    };
    // An error is the one object on stdout then.
    if works.is_ok() || !voice.is_json() {
        show(&Shown { plan: &plan, files: &files, resolved: &resolved, tense: Tense::Past }, voice)?;
    }
    works.map(|()| Exit::Done)
}

/// Platforms that are one level of a machine: the machine runs, but its CPU model may be an older one.
fn levels_run(request: &Request, prober: &Prober) -> Result<(), Error> {
    let levels =
        request.targets.iter().filter(|target| !std::ptr::eq(target.program, target.machine.program));
    for target in levels {
        if let Err(reason) = prober.run(*target).verdict {
            return Err(Error::DoesNotRun(target.label, reason.to_string()));
        }
    }
    Ok(())
}

/// Also for entries that are in the table already: they are to last as well.
fn files_for(resolved: &Resolved, how: &How) -> Result<Files, Error> {
    if !how.persist {
        return Ok(Files::default());
    }
    let on_disk = |wanted: &Wanted| (wanted.clone(), persist::read(&wanted.machine.entry_name()));
    let wanted: Vec<_> = resolved.wanted.iter().map(on_disk).collect();
    Ok(persist::plan(&wanted, how.replace)?)
}

/// Finds the table, mounts it if need be, and takes the lock. Never that of the host from within a user namespace.
pub(super) fn open_for_writing(at: &Path, voice: &Voice) -> Result<LockedTable, Error> {
    let table = match Table::open(at) {
        Err(KernelError::NotMounted(_)) => {
            let table = mount_table(at)?;
            let at = escaped(at);
            voice.note(&format!(
                "mounted binfmt_misc at {at}: in a container its entries end with the container"
            ));
            table
        }
        found => found?,
    };
    // Root of a user namespace that is root outside as well has the right to write the host's table, by accident.
    if !facts::in_first_user_namespace() && facts::is_private(table.device()?) == Some(false) {
        return Err(KernelError::NotOurs(escaped(at)).into());
    }
    Ok(table.lock(LOCK_PATIENCE)?)
}

pub(super) struct Decision {
    pub plan: Plan,
    pub resolved: Resolved,
    /// Entries that are as they were asked for, and do not work all the same.
    pub broken: Vec<Error>,
}

pub(super) fn plan_from(
    request: &Request,
    entries: Vec<Entry>,
    how: &How,
    prober: &Prober,
) -> Result<Decision, Error> {
    let outcomes = look(request, &entries, how, prober);
    let native = outcomes.iter().filter(|(_, outcome)| matches!(outcome.verdict, Ok(Ran::Native)));
    let host = Host {
        ident: facts::own_ident(),
        kernel: facts::kernel_version(),
        native: native.map(|(machine, _)| *machine).collect(),
    };
    let resolved = request.resolve(&host)?;
    let seen: Vec<Seen> = entries.iter().map(|entry| seen(entry, &entries, &outcomes)).collect();
    let plan = plan_register(&resolved.wanted, &seen, how.replace)?;
    let unchanged = resolved.wanted.iter().filter(|wanted| !plan.writes(&wanted.rule.name));
    let broken = unchanged.filter_map(|wanted| does_not_run(wanted, &entries, &outcomes)).collect();
    Ok(Decision { plan, resolved, broken })
}

/// Why an entry that is there already does not work, if it was tried and does not.
fn does_not_run(
    wanted: &Wanted,
    entries: &[Entry],
    outcomes: &[(&'static Machine, Outcome)],
) -> Option<Error> {
    let (machine, outcome) = outcomes.iter().find(|(machine, _)| std::ptr::eq(*machine, wanted.machine))?;
    let reason = match &outcome.verdict {
        Err(Failed::NotFound) if !wanted.rule.flags.fix_binary => return None,
        Err(reason) => reason.to_string(),
        Ok(_) => return None,
    };
    let first = first_match(entries, &machine.probe()).filter(|first| first.rule.name != wanted.rule.name);
    let reason = match first {
        Some(first) => format!("{} goes before its entry: {reason}", escaped(&first.rule.name)),
        None => reason,
    };
    Some(Error::DoesNotRun(machine.name, reason))
}

/// Tries each machine that was asked for as it is now: perhaps the CPU runs it, perhaps an entry that is there.
fn look(
    request: &Request,
    entries: &[Entry],
    how: &How,
    prober: &Prober,
) -> Vec<(&'static Machine, Outcome)> {
    let asked = |machine: &&Machine| {
        let by_target = request.targets.iter().any(|target| std::ptr::eq(target.machine, *machine));
        let by_emulator = request.named.iter().any(|(named, _)| std::ptr::eq(*named, *machine));
        // Where no entry takes it, no emulator is started by trying.
        let may_try = how.probe || first_match(entries, &machine.probe()).is_none();
        (request.all || by_target || by_emulator) && may_try
    };
    let machines = MACHINES.iter().filter(asked);
    machines.map(|machine| (machine, prober.run(Target::of_machine(machine)))).collect()
}

fn seen(entry: &Entry, all: &[Entry], outcomes: &[(&'static Machine, Outcome)]) -> Seen {
    let held = outcomes.iter().find_map(|(machine, outcome)| {
        let first = first_match(all, &machine.probe())?;
        match &outcome.verdict {
            Ok(Ran::Emulated(emulator)) if first.rule.name == entry.rule.name => {
                Some((emulator.device, emulator.inode))
            }
            _ => None,
        }
    });
    let held = held.filter(|_| entry.rule.flags.fix_binary);
    Seen { entry: entry.clone(), real_path: entry.rule.interpreter.canonicalize().ok(), held }
}

/// Runs a program of each new entry, and one of the CPU's own machine: that must not be caught by anything.
pub(super) fn try_out(new: &[&Wish], prober: &Prober) -> Result<(), ApplyError> {
    let does_not_run =
        |wish: &Wish, reason: String| Err(ApplyError::DoesNotRun { name: escaped(&wish.rule.name), reason });
    let own = facts::own_ident().and_then(|own| MACHINES.iter().find(|machine| machine.ident == own));
    for wish in new {
        match prober.run(Target::of_machine(wish.machine)).verdict {
            Ok(Ran::Emulated(emulator)) if (emulator.device, emulator.inode) == (wish.device, wish.inode) => {
            }
            Ok(Ran::Emulated(emulator)) => {
                return does_not_run(wish, format!("its programs go to {}", escaped(&emulator.path)));
            }
            Ok(Ran::Native) => return does_not_run(wish, "the CPU runs its programs itself".to_owned()),
            Err(Failed::NotFound) if !wish.rule.flags.fix_binary => {
                // It was asked for without F, so an empty folder is no fair test.
            }
            Err(reason) => return does_not_run(wish, reason.to_string()),
        }
    }
    match (own.map(|own| prober.run(Target::of_machine(own)).verdict), new.first()) {
        (Some(Ok(Ran::Emulated(_)) | Err(Failed::Loop | Failed::NoEntry)), Some(wish)) => {
            does_not_run(wish, "this machine's own programs do not start any more".to_owned())
        }
        _ => Ok(()),
    }
}
