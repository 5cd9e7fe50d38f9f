//! `cargo xtask dist`: the tools as other people get them: programs, packages, manual pages, completions, an image, and the
//! sums of it all. The same bytes wherever and whenever they are made.
//!
//! Everything is made in a folder beside the one that was asked for, which takes its place in one step.

use build::Setting;
use cli::table;
use cli::{Output, print_line};
use error::Error;
use error::Exit;
use folder::Folder;
use std::fmt;
use std::path::{Path, PathBuf};
use targets::{Found, Target};

mod build;
mod check;
mod deb;
mod folder;
mod image;
mod parts;
mod source;
mod sums;
mod targets;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where it goes; without it target/dist
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Make this tool alone (repeat for several)
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(TOOLS.map(|tool| tool.name)))]
    tool: Vec<String>,
    /// Cargo's profile
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// The branch that the commit must be in; without it origin's default branch, else main or master
    #[arg(long, value_name = "NAME", conflicts_with = "allow_dirty")]
    branch: Option<String>,
    /// Take the working tree as it is: with changes, of any branch, under a version that another commit has
    #[arg(long)]
    allow_dirty: bool,
    /// Show what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// Hold a folder that was made against its SHA256SUMS; exit 7 if anything differs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "tool", "profile", "branch", "allow_dirty", "dry_run"])]
    verify: Option<PathBuf>,
}

/// One of the tools, and what its package says.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub name: &'static str,
    /// Of its manual page.
    section: u8,
    /// Where Debian puts it.
    bin: &'static str,
    recommends: Option<&'static str>,
    summary: &'static str,
    description: &'static str,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "binfmt-setup",
        section: 8,
        bin: "usr/sbin",
        recommends: Some("qemu-user-static"),
        summary: "make programs of other CPUs run on this machine",
        description: "Tells the kernel (binfmt_misc) which QEMU emulator runs programs of which\nmachine, and proves it by running one. Private emulators for one command need\nno root.",
    },
    Tool {
        name: "config-patcher",
        section: 1,
        bin: "usr/bin",
        recommends: None,
        summary: "put the platform label of container images right",
        description: "Puts the label right in registries, OCI layouts and docker save archives,\nwithout touching another byte and without moving a layer, and holds labels\nagainst what the binaries are for.",
    },
    Tool {
        name: "manifest-push",
        section: 1,
        bin: "usr/bin",
        recommends: None,
        summary: "make one tag out of container images of several platforms",
        description: "Takes the specs and options of manifest-tool and docker manifest, and tells\nwhat is wrong with them before anything is written.",
    },
];

/// What will be made.
struct Plan {
    version: &'static str,
    out: PathBuf,
    tools: Vec<Tool>,
    found: Vec<Found>,
    setting: Setting,
}

pub fn run(args: &Args, output: &Output) -> Result<Exit, Error> {
    if let Some(dir) = &args.verify {
        let count = sums::verify(dir)?;
        output.info(&format!("{}: {count} files are as they were made", dir.display()));
        return Ok(Exit::Done);
    }
    let plan = decide(args)?;
    output.info_lines(&plan.to_string());
    if args.dry_run {
        return Ok(Exit::Done);
    }
    let made = make(&plan, output)?;
    output.info_lines(&made);
    print_line(&plan.out.display().to_string());
    Ok(Exit::Done)
}

fn decide(args: &Args) -> Result<Plan, Error> {
    let root = workspace();
    let version = env!("CARGO_PKG_VERSION");
    if !args.allow_dirty {
        source::refuse_unclean(&root, version, args.branch.as_deref())?;
    }
    source::refuse_other_versions(&root, version)?;
    let epoch = source::epoch(&root)?;
    let is_asked = |tool: &Tool| args.tool.is_empty() || args.tool.iter().any(|name| name == tool.name);
    let found = targets::installed()?;
    if !found.iter().flatten().any(|target| target.is_host) {
        let why = "the toolchain has no target for this machine, whose programs write the manual pages";
        let reasons = found.into_iter().filter_map(Result::err).collect();
        return Err(Error::not_found("make a distribution", why).problems(reasons));
    }
    Ok(Plan {
        version,
        out: args.out.clone().unwrap_or_else(|| root.join("target/dist")),
        tools: TOOLS.into_iter().filter(is_asked).collect(),
        found,
        setting: Setting { root, profile: args.profile.clone(), epoch },
    })
}

/// The workspace that cargo runs this program for; without cargo, the one that it was built in.
fn workspace() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Makes it all; gives a table of it.
fn make(plan: &Plan, output: &Output) -> Result<String, Error> {
    let folder = Folder::begin(&plan.out)?;
    let targets: Vec<&Target> = plan.found.iter().flatten().collect();
    let mut built = Vec::new();
    for target in &targets {
        output.info(&format!("build {} {}", target.platform, target.triple));
        built.push(build::build(&plan.setting, target, &plan.tools)?);
    }
    let host = targets.iter().position(|target| target.is_host).unwrap_or_default();
    let mut rows = Vec::new();
    for (at, tool) in plan.tools.iter().enumerate() {
        let documents = parts::documents(tool, &built[host][at], &plan.setting.root)?;
        for document in &documents {
            folder.add(&parts::place(document), 0o644, &document.content)?;
        }
        for (target, programs) in targets.iter().zip(&built) {
            let program = std::fs::read(&programs[at])
                .map_err(|e| Error::from_io(format!("read \"{}\"", programs[at].display()), e))?;
            folder.add(&parts::program_place(target, tool), 0o755, &program)?;
            let package =
                parts::package(tool, target, plan.version, &program, &documents, plan.setting.epoch);
            let package = package.map_err(|e| Error::from_io("write a Debian package", e))?;
            let name = format!("{}_{}_{}.deb", tool.name, plan.version, target.debian);
            folder.add(&name, 0o644, &package)?;
            rows.push(vec![
                tool.name.to_string(),
                target.platform.to_string(),
                target.linking.clone(),
                error::text::format_bytes(program.len() as u64),
                name,
            ]);
        }
    }
    output.info("image, by cargo xtask release");
    image::make(&folder, &targets, &plan.tools, plan.version, plan.setting.epoch)?;
    folder.finish()?;
    Ok(table(&["TOOL", "PLATFORM", "LINKED", "SIZE", "PACKAGE"], &rows))
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.tools.iter().map(|tool| tool.name).collect();
        writeln!(f, "plan for {}", self.out.display())?;
        writeln!(f, "  tools     {} {}, as of {}", names.join(", "), self.version, self.setting.epoch)?;
        for found in &self.found {
            match found {
                Ok(target) => {
                    writeln!(f, "  build     {}  {} ({})", target.platform, target.triple, target.linking)?
                }
                Err(why) => writeln!(f, "  not made  {why}")?,
            }
        }
        writeln!(f, "  check     each program is static, for its machine, and names no folder of this one")?;
        writeln!(f, "  write     programs, .deb packages, manual pages, completions")?;
        writeln!(f, "  image     of all platforms, an OCI layout, by cargo xtask release")?;
        writeln!(f, "  sums      {}", sums::NAME)
    }
}
