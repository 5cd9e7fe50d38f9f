//! `cargo xtask dist`: static programs, Debian packages, man pages, completions, an image, and their SHA-256 sums.
//!
//! The same commit gives the same bytes on every machine. The directory is written beside its destination, which it
//! replaces in one step.

use build::Setting;
use cli::table;
use cli::{Output, print_line};
use directory::OutDirectory;
use error::{Error, Exit};
use std::fmt;
use std::path::{Path, PathBuf};
use targets::{Found, Target};

mod build;
mod check;
mod deb;
mod directory;
mod image;
mod parts;
mod source;
mod sums;
mod targets;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directory to write [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build only this program (repeatable)
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(TOOLS.map(|tool| tool.name)))]
    tool: Vec<String>,
    /// Cargo profile
    #[arg(long, value_name = "NAME", default_value = "release")]
    profile: String,
    /// Require that this branch contains the commit [default: origin's default branch, else main or master]
    #[arg(long, value_name = "NAME", conflicts_with = "allow_dirty")]
    branch: Option<String>,
    /// Build the working tree as it is: uncommitted changes, any branch, a version that another commit has
    #[arg(long)]
    allow_dirty: bool,
    /// Print the plan, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Verify a directory against its SHA256SUMS; exit 7 if anything differs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "tool", "profile", "branch", "allow_dirty", "dry_run"])]
    verify: Option<PathBuf>,
}

/// One of the programs, and the metadata of its Debian package.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    pub name: &'static str,
    /// Section of its man page.
    section: u8,
    /// Directory of the program in the Debian package.
    bin: &'static str,
    recommends: Option<&'static str>,
    summary: &'static str,
    description: &'static str,
}

const TOOLS: [Tool; 4] = [
    Tool {
        name: "binfmt-setup",
        section: 8,
        bin: "usr/sbin",
        recommends: Some("qemu-user-static"),
        summary: "run programs of other CPUs on this host",
        description: "Registers QEMU emulators in the kernel's binfmt_misc, and probes them by running\na program of each platform. Private emulators for one command need no root.",
    },
    Tool {
        name: "config-patcher",
        section: 1,
        bin: "usr/bin",
        recommends: None,
        summary: "verify and fix the platform metadata of container images",
        description: "Verifies the platform metadata of images in registries, OCI layouts and docker\nsave archives against their binaries, and fixes it without transferring a layer.",
    },
    Tool {
        name: "manifest-push",
        section: 1,
        bin: "usr/bin",
        recommends: None,
        summary: "assemble and publish multi-platform container images",
        description: "Takes the specs and options of manifest-tool and docker manifest, and reports\nall problems before anything is written.",
    },
    Tool {
        name: "multiarch",
        section: 1,
        bin: "usr/bin",
        recommends: Some("binfmt-setup"),
        summary: "build, verify and publish multi-platform container images",
        description: "Builds the images of a release.yaml with Docker, Podman, Buildah or an embedded\nbuilder, verifies them against their binaries, tests them, and publishes them\nunder one tag. Contains the commands of config-patcher and manifest-push.",
    },
];

/// Files to be written.
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
        output.info(&format!("{}: {count} files match their sums", dir.display()));
        return Ok(Exit::Done);
    }
    let plan = decide(args)?;
    output.info_lines(&plan.to_string());
    if args.dry_run {
        output.end_dry_run();
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
        let why = "the toolchain has no target for this machine, whose programs print the man pages";
        let reasons = found.into_iter().filter_map(Result::err).collect();
        return Err(Error::not_found("build a distribution", why).problems(reasons));
    }
    Ok(Plan {
        version,
        out: args.out.clone().unwrap_or_else(|| root.join("target/dist")),
        tools: TOOLS.into_iter().filter(is_asked).collect(),
        found,
        setting: Setting { root, profile: args.profile.clone(), epoch },
    })
}

/// The workspace in which cargo runs this program; without cargo, the one in which it was built.
fn workspace() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().unwrap_or(Path::new(".")).to_path_buf()
}

/// Writes the distribution. Returns a table of the packages.
fn make(plan: &Plan, output: &Output) -> Result<String, Error> {
    let out = OutDirectory::begin(&plan.out)?;
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
            out.add(&parts::document_path(document), 0o644, &document.content)?;
        }
        for (target, programs) in targets.iter().zip(&built) {
            let program = std::fs::read(&programs[at])
                .map_err(|e| Error::from_io(format!("read \"{}\"", programs[at].display()), e))?;
            out.add(&parts::program_path(target, tool), 0o755, &program)?;
            let package =
                parts::package(tool, target, plan.version, &program, &documents, plan.setting.epoch);
            let package = package.map_err(|e| Error::from_io("write a Debian package", e))?;
            let name = format!("{}_{}_{}.deb", tool.name, plan.version, target.debian);
            out.add(&name, 0o644, &package)?;
            rows.push(vec![
                tool.name.to_string(),
                target.platform.to_string(),
                target.linking.clone(),
                error::text::format_bytes(program.len() as u64),
                name,
            ]);
        }
    }
    output.info("image, with cargo xtask release");
    image::make(&out, &targets, &plan.tools, plan.version, plan.setting.epoch)?;
    out.finish()?;
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
                Err(why) => writeln!(f, "  skip      {why}")?,
            }
        }
        writeln!(
            f,
            "  check     each program is static, for its target, and contains no path of this machine"
        )?;
        writeln!(f, "  write     programs, .deb packages, man pages, completions")?;
        writeln!(f, "  image     for all platforms, an OCI layout, with cargo xtask release")?;
        writeln!(f, "  sums      {}", sums::NAME)
    }
}
