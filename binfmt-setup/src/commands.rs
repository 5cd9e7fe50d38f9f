//! The five commands: read, decide, show, write, in that order.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Serialize;

use crate::apply::{ApplyError, apply};
use crate::cli::Voice;
use crate::emulators::{MACHINES, Machine, Target};
use crate::error::Error;
use crate::escape::escaped;
use crate::exit::Exit;
use crate::facts;
use crate::kernel::{KernelError, LockedTable, ReadTable, Table, mount_table};
use crate::namespace;
use crate::persist::{self, Files};
use crate::plan::{self, Plan, Seen, Step, Wanted, Wish, plan_register, plan_unregister};
use crate::probe::{Failed, Outcome, Prober, Ran};
use crate::request::{Host, Request, Resolved};
use crate::rule::Entry;
use crate::status::{self, first_match};
use crate::text::columns;

/// Others may register all machines and probe each of them meanwhile.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

pub fn status(at: &Path, voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    let status = status::status(at, &prober)?;
    if voice.is_json() {
        voice.json(&status)?
    } else {
        voice.result(&status.to_text(voice.color()))?
    }
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Probed {
    platform: &'static str,
    runs: bool,
    how: Option<&'static str>,
    /// The entry of the table that took it, or else the emulator.
    entry: Option<String>,
    ms: f64,
    reason: Option<String>,
}

pub fn probe(targets: &[Target], voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    let entries = Table::open(crate::kernel::MOUNT_POINT.as_ref()).and_then(|table| table.entries());
    let entries = entries.unwrap_or_default();
    let wanted: Vec<Target> = if targets.is_empty() { Target::all().collect() } else { targets.to_vec() };
    let results: Vec<Probed> =
        wanted.iter().map(|target| probed(*target, &prober.run(*target), &entries)).collect();
    if voice.is_json() {
        voice.json(&serde_json::json!({ "platforms": results }))?;
    } else {
        voice.result(&probe_table(&results, voice.color()))?;
    }
    let all_run = results.iter().all(|result| result.runs);
    // Without names it is a question, not a demand.
    Ok(if all_run || targets.is_empty() { Exit::Done } else { Exit::Found })
}

fn probed(target: Target, outcome: &Outcome, entries: &[Entry]) -> Probed {
    let (how, entry, reason) = match &outcome.verdict {
        Ok(Ran::Native) => (Some("native"), None, None),
        Ok(Ran::Emulated(emulator)) => {
            let entry = first_match(entries, &target.file()).map(|entry| escaped(&entry.rule.name));
            (Some("emulated"), Some(entry.unwrap_or_else(|| escaped(&emulator.path))), None)
        }
        Err(reason) => (None, None, Some(reason.to_string())),
    };
    let ms = (outcome.took.as_secs_f64() * 10_000.0).round() / 10.0;
    Probed { platform: target.label, runs: how.is_some(), how, entry, ms, reason }
}

fn probe_table(results: &[Probed], color: bool) -> String {
    let mut rows = vec![["PLATFORM", "RUNS", "HOW", "ENTRY", "MS", ""].map(String::from)];
    rows.extend(results.iter().map(|result| {
        [
            result.platform.to_owned(),
            if result.runs { "yes" } else { "no" }.to_owned(),
            result.how.unwrap_or("-").to_owned(),
            result.entry.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{:.1}", result.ms),
            result.reason.clone().unwrap_or_default(),
        ]
    }));
    columns(&rows, color)
}

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
        let (plan, resolved) = plan_from(request, entries, how, &prober)?;
        let files = files_for(&resolved, how)?;
        show(&Shown { plan: &plan, files: &files, resolved: &resolved, tense: Tense::Future }, voice)?;
        return Ok(Exit::Done);
    }
    let mut table = open_for_writing(at, voice)?;
    let entries = table.entries()?;
    let (plan, resolved) = plan_from(request, entries, how, &prober)?;
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
    show(&Shown { plan: &plan, files: &files, resolved: &resolved, tense: Tense::Past }, voice)?;
    Ok(Exit::Done)
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
fn open_for_writing(at: &Path, voice: &Voice) -> Result<LockedTable, Error> {
    let table = match Table::open(at) {
        Err(KernelError::NotMounted(_)) => {
            let table = mount_table(at)?;
            voice.note(&format!("mounted binfmt_misc at {}", escaped(at)));
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

fn plan_from(
    request: &Request,
    entries: Vec<Entry>,
    how: &How,
    prober: &Prober,
) -> Result<(Plan, Resolved), Error> {
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
    Ok((plan, resolved))
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
    Seen { entry: entry.clone(), real_path: plan::real_path(&entry.rule.interpreter), held }
}

/// Runs a program of each new entry, and one of the CPU's own machine: that must not be caught by anything.
fn try_out(new: &[&Wish], prober: &Prober) -> Result<(), ApplyError> {
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

/// Whether the plan shown is to be carried out or was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tense {
    Future,
    Past,
}

struct Shown<'a> {
    plan: &'a Plan,
    files: &'a Files,
    resolved: &'a Resolved,
    tense: Tense,
}

fn show(shown: &Shown, voice: &Voice) -> Result<(), Error> {
    let Shown { plan, files, resolved, tense } = shown;
    resolved.warnings.iter().for_each(|warning| voice.note(&format!("warning: {warning}")));
    let native: Vec<&str> = resolved.native.iter().map(|target| target.label).collect();
    if voice.is_json() {
        let steps: Vec<_> = plan.steps().iter().map(step_json).collect();
        let paths = |paths: Vec<&PathBuf>| paths.into_iter().map(escaped).collect::<Vec<_>>();
        return voice.json(&serde_json::json!({
            "steps": steps,
            "native": native,
            "files_written": paths(files.write.iter().map(|(path, _)| path).collect()),
            "files_deleted": paths(files.remove.iter().collect()),
            "notes": plan.notes(),
        }));
    }
    plan.notes().iter().for_each(|note| voice.note(note));
    if !native.is_empty() {
        voice.note(&format!("{}: this CPU runs it itself", native.join(" ")));
    }
    let table = match (plan, tense) {
        (Plan::NothingToDo { .. }, _) if !files.is_empty() => String::new(),
        (Plan::Work { .. }, Tense::Past) => done_table(plan, voice.color()),
        _ => plan.to_string(),
    };
    voice.result(&format!("{table}{files}"))
}

fn done_table(plan: &Plan, color: bool) -> String {
    let mut rows = vec![["DONE", "ENTRY", "FLAGS", "EMULATOR", "PLATFORMS"].map(String::from)];
    rows.extend(plan.steps().iter().map(|step| {
        let (done, name, wish) = match step {
            Step::Register(new) => ("registered", &new.rule.name, Some(new)),
            Step::Replace { new, .. } => ("replaced", &new.rule.name, Some(new)),
            Step::Enable { name } => ("enabled", name, None),
            Step::Remove { old } => ("removed", &old.rule.name, None),
        };
        let platforms = wish.map(|wish| wish.machine.platforms().collect::<Vec<_>>().join(","));
        [
            done.to_owned(),
            escaped(name),
            wish.map_or("-".to_owned(), |wish| wish.rule.flags.to_string()),
            wish.map_or("-".to_owned(), |wish| escaped(&wish.rule.interpreter)),
            platforms.unwrap_or_default(),
        ]
    }));
    columns(&rows, color)
}

fn step_json(step: &Step) -> serde_json::Value {
    let (action, name, rule) = match step {
        Step::Register(new) => ("register", &new.rule.name, Some(&new.rule)),
        Step::Replace { new, .. } => ("replace", &new.rule.name, Some(&new.rule)),
        Step::Enable { name } => ("enable", name, None),
        Step::Remove { old } => ("remove", &old.rule.name, None),
    };
    serde_json::json!({
        "action": action,
        "name": escaped(name),
        "interpreter": rule.map(|rule| escaped(&rule.interpreter)),
        "flags": rule.map(|rule| rule.flags.to_string()),
        "line": rule.map(plan::shown_line),
    })
}

pub fn unregister(
    at: &Path,
    texts: &[String],
    persist: bool,
    dry_run: bool,
    voice: &Voice,
) -> Result<Exit, Error> {
    let is_mounted = !matches!(Table::open(at), Err(KernelError::NotMounted(_)));
    let (plan, table) = if !is_mounted {
        // What is not mounted holds nothing; but what was typed is still to make sense.
        (plan_removal(texts, &[])?, None)
    } else if dry_run {
        (plan_removal(texts, &Table::open(at)?.entries()?)?, None)
    } else {
        let table = open_for_writing(at, voice)?;
        (plan_removal(texts, &table.entries()?)?, Some(table))
    };
    plan.steps().iter().for_each(|step| voice.detail(&step.to_string()));
    let files = if persist { files_of(texts) } else { Files::default() };
    if let Some(mut table) = table {
        apply(&plan, &mut table, &mut |_| Ok(()))?;
    }
    if !dry_run {
        persist::stage(files.clone())?.commit()?;
    }
    let tense = if dry_run { Tense::Future } else { Tense::Past };
    show(&Shown { plan: &plan, files: &files, resolved: &Resolved::default(), tense }, voice)?;
    Ok(Exit::Done)
}

fn files_of(texts: &[String]) -> Files {
    if texts.iter().any(|text| text == "all") {
        return persist::plan_removal_of_all();
    }
    let name = |text: &String| match Target::parse(text) {
        Ok(target) => target.machine.entry_name(),
        Err(_) => text.clone(),
    };
    persist::plan_removal(&texts.iter().map(name).collect::<Vec<_>>())
}

fn plan_removal(texts: &[String], entries: &[Entry]) -> Result<Plan, Error> {
    let (mut names, mut exact) = (BTreeSet::new(), BTreeSet::new());
    for text in texts {
        let is_entry = entries.iter().any(|entry| entry.rule.name == OsStr::new(text));
        let machine_of_name = text.strip_prefix("qemu-").and_then(Machine::by_name);
        if text == "all" {
            let ours = entries.iter().filter(|entry| entry.rule.is_ours());
            names.extend(ours.map(|entry| entry.rule.name.clone()));
        } else if let Ok(target) = Target::parse(text) {
            names.insert(OsString::from(target.machine.entry_name()));
        } else if text.starts_with("qemu-") && (is_entry || machine_of_name.is_some()) {
            exact.insert(OsString::from(text));
        } else {
            return Err(Error::NoSuchEntry(escaped(text)));
        }
    }
    Ok(plan_unregister(&names, &exact, entries)?)
}

pub fn show_run(request: &Request, voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    let how = How { replace: false, persist: false, probe: false, dry_run: true };
    let (plan, resolved) = plan_from(request, vec![], &how, &prober)?;
    show(&Shown { plan: &plan, files: &Files::default(), resolved: &resolved, tense: Tense::Future }, voice)?;
    Ok(Exit::Done)
}

/// Returns only when COMMAND could not be started.
pub fn run(at: &Path, request: &Request, command: &[OsString], voice: &Voice) -> Result<Exit, Error> {
    let how = How { replace: false, persist: false, probe: false, dry_run: false };
    let table = namespace::enter(at)?;
    let mut table = table.lock(LOCK_PATIENCE)?;
    // The new table is empty, so what runs now runs natively, or by nobody.
    let prober = Prober::new().map_err(Error::Prober)?;
    let (plan, resolved) = plan_from(request, vec![], &how, &prober)?;
    resolved.warnings.iter().for_each(|warning| voice.note(&format!("warning: {warning}")));
    plan.steps().iter().for_each(|step| voice.detail(&step.to_string()));
    // What was asked for by name must run; what merely was found need not be tried.
    apply(&plan, &mut table, &mut |new| if request.all { Ok(()) } else { try_out(new, &prober) })?;
    for target in &request.targets {
        if let Err(reason) = prober.run(*target).verdict {
            return Err(Error::DoesNotRun(target.label, reason.to_string()));
        }
    }
    drop((prober, table));
    let [program, arguments @ ..] = command else { return Ok(Exit::Done) };
    let source = Command::new(program).args(arguments).exec();
    Err(Error::Command { command: escaped(program), source })
}
