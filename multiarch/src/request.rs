//! The request for a release: the command line together with the spec.

use crate::example::Example;
use crate::spec::Spec;
use cli::suggest;
use error::Error;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::atomic_file::TempFiles;
use image_store::plan::MovedTag;
use image_store::private_dir::CACHE;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The spec that is read by default.
const SPEC: &str = "release.yaml";

/// Properties of the program that runs the release.
#[derive(Debug, Default)]
pub struct Host {
    /// The spec to read if none is named and the current directory has none.
    pub default_spec: Option<PathBuf>,
    /// The program binfmt-setup, if its path is known.
    pub binfmt_setup: Option<PathBuf>,
    pub temp_files: TempFiles,
}

/// The command line of `release`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The spec to read [default: release.yaml]
    spec: Option<PathBuf>,
    /// Release the example, which needs no other file, to oci:multi-arch-example
    #[arg(long, conflicts_with = "spec")]
    example: bool,
    /// Build only this platform and retain the others as published (repeatable)
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::parse_known)]
    only: Vec<Platform>,
    /// Publish to this repository, or oci:DIR, instead of the image of the spec
    #[arg(long, value_name = "IMAGE")]
    to: Option<Reference>,
    /// Skip the smoke tests
    #[arg(long)]
    no_smoke: bool,
    /// Fail if a smoke test cannot run on this host
    #[arg(long, conflicts_with = "no_smoke")]
    require_smoke: bool,
    /// Print the plan, with -v every command, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Publish although a tag loses this platform (repeatable)
    #[arg(long, value_name = "PLATFORM")]
    drop: Vec<Platform>,
    /// Move a tag even if another client moved it during the release
    #[arg(long)]
    force: bool,
    /// Maximum concurrent builds
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Directory for staged builds and records [default: one for each spec in $XDG_CACHE_HOME/multiarch]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Write the JSON report, also of a failed release, to this file [default: report.json in the work directory; one for
    /// each --to]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Append a Markdown summary to this file [default: $GITHUB_STEP_SUMMARY, if set]
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

/// A release to carry out.
pub struct Request {
    pub spec: Spec,
    /// The file of the spec.
    pub file: PathBuf,
    /// `--only`: published images that are not built this time are retained.
    pub retains_others: bool,
    /// Platforms of the spec that are not built this time.
    pub retained: Vec<Platform>,
    pub work_dir: PathBuf,
    /// No work directory was given: it is in the cache, and so are those of other specs and nothing else.
    pub is_beside_others: bool,
    /// No work directory was given.
    pub is_default_work_dir: bool,
    /// The work directory, if it is in place of a default one that cannot be used.
    pub temporary: Option<TempDir>,
    pub report: PathBuf,
    pub summary: Option<PathBuf>,
    pub jobs: usize,
    /// A smoke test that cannot run on this host is a failure.
    pub require_smoke: bool,
    pub moved: MovedTag,
    /// Platforms that the tags may lose.
    pub drop: Vec<Platform>,
    /// SOURCE_DATE_EPOCH (reproducible-builds.org): the creation time of images, in seconds since 1970.
    pub epoch: Option<u64>,
    pub temp_files: TempFiles,
    /// Its temporary files are removed when the request is dropped.
    _example: Option<Example>,
}

impl Request {
    /// Reads the spec and applies the command line to it.
    ///
    /// # Errors
    /// `NotFound` without a spec; `BadInput` for a spec with problems, or a platform of `--only` that it does not have.
    pub fn from_args(args: &Args, host: &Host) -> Result<Self, Error> {
        let example = if args.example { Some(Example::create()?) } else { None };
        let file = match &example {
            Some(example) => example.name(),
            None => spec_file(args, host)?,
        };
        let mut spec = match &example {
            Some(example) => example.load()?,
            None => Spec::load(&file)?,
        };
        if let Some(to) = &args.to {
            refuse_unsuitable_target(to)?;
            spec.image = to.clone();
        }
        if args.no_smoke {
            spec.smoke.clear();
        }
        if args.require_smoke && spec.smoke.is_empty() {
            let doing = format!("release \"{}\"", file.display());
            let hint = "write smoke: [PROGRAM, ARGUMENT], or leave out --require-smoke";
            return Err(Error::bad_input(doing, "the spec has no smoke command").hint(hint));
        }
        let mut retained = Vec::new();
        if !args.only.is_empty() {
            let doing = || format!("release \"{}\"", file.display());
            for wanted in &args.only {
                if !spec.platforms.iter().any(|one| one.platform.matches(wanted)) {
                    let all: Vec<String> =
                        spec.platforms.iter().map(|one| one.platform.to_string()).collect();
                    return Err(Error::bad_input(doing(), format!("the spec has no platform {wanted}"))
                        .hint(format!("it has {}", all.join(", "))));
                }
            }
            let is_wanted = |platform: &Platform| args.only.iter().any(|wanted| wanted.matches(platform));
            retained =
                spec.platforms.iter().map(|one| one.platform.clone()).filter(|p| !is_wanted(p)).collect();
            spec.platforms.retain(|one| is_wanted(&one.platform));
        }
        let home = CACHE.path().ok();
        let is_beside_others = args.work_dir.is_none() && home.is_some();
        let work_dir = args.work_dir.clone().unwrap_or_else(|| default_work_dir(&file, home));
        let report = args.report.clone().unwrap_or_else(|| work_dir.join(default_report(args.to.as_ref())));
        let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
        let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
            Ok(text) => Some(text.parse().map_err(|_| {
                Error::bad_input(
                    "read SOURCE_DATE_EPOCH",
                    format!("\"{text}\" is not a number of seconds since 1970"),
                )
            })?),
            Err(_) => None,
        };
        let summary = args.summary.clone().or_else(|| {
            std::env::var_os("GITHUB_STEP_SUMMARY").filter(|name| !name.is_empty()).map(PathBuf::from)
        });
        Ok(Self {
            spec,
            retains_others: !args.only.is_empty(),
            retained,
            file,
            work_dir,
            is_beside_others,
            is_default_work_dir: args.work_dir.is_none(),
            temporary: None,
            report,
            summary,
            jobs: usize::from(args.jobs),
            require_smoke: args.require_smoke,
            moved,
            drop: args.drop.clone(),
            epoch,
            temp_files: host.temp_files.clone(),
            _example: example,
        })
    }

    /// Moves the work directory, and a report that would have been in it.
    pub fn use_temporary_work_dir(&mut self, dir: TempDir) {
        if let Ok(report) = self.report.strip_prefix(&self.work_dir) {
            self.report = dir.path().join(report);
        }
        self.work_dir = dir.path().to_path_buf();
        self.is_beside_others = false;
        self.temporary = Some(dir);
    }
}

/// The spec of the command line, or the default one.
fn spec_file(args: &Args, host: &Host) -> Result<PathBuf, Error> {
    if let Some(named) = &args.spec {
        return Ok(named.clone());
    }
    let usual = Path::new(SPEC);
    match &host.default_spec {
        _ if usual.is_file() => Ok(usual.into()),
        Some(default) => Ok(default.clone()),
        None => Err(Error::not_found("read the release", format!("there is no {SPEC} in this directory"))
            .hint(format!("name one, or run `{}`", suggest("multiarch", &["release", "--example"])))),
    }
}

/// The file name of the report. Each `--to` has its own: a release to another image must not overwrite the report that
/// a rollback of this one needs.
fn default_report(to: Option<&Reference>) -> String {
    match to {
        Some(to) => format!("report-{}.json", Digest::of(to.to_string().as_bytes()).short()),
        None => "report.json".to_string(),
    }
}

/// `--to` must be a repository or an OCI layout without tag and digest: the tags are those of the spec.
fn refuse_unsuitable_target(to: &Reference) -> Result<(), Error> {
    let doing = || format!("publish to \"{to}\"");
    let hint = "name HOST/REPOSITORY or oci:DIR; the tags are those of the spec";
    match to {
        Reference::Registry(RegistryRef { tag: None, digest: None, .. })
        | Reference::OciLayout { tag: None, digest: None, .. } => Ok(()),
        Reference::Registry(_) | Reference::OciLayout { .. } => {
            Err(Error::bad_input(doing(), "it names a tag or a digest").hint(hint))
        }
        Reference::OciArchive { .. }
        | Reference::DockerArchive { .. }
        | Reference::DockerDaemon { .. }
        | Reference::Stdin => Err(Error::bad_input(doing(), "it cannot hold several platforms").hint(hint)),
    }
}

/// The default work directory of a spec. It is outside of the build contexts, since engines read all files there.
fn default_work_dir(spec: &Path, home: Option<PathBuf>) -> PathBuf {
    let spec = std::fs::canonicalize(spec).unwrap_or_else(|_| spec.to_path_buf());
    let digest = Digest::of(spec.as_os_str().as_bytes());
    let parent = spec.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = format!("{}-{}", parent.unwrap_or_else(|| "release".into()), digest.short());
    match home {
        Some(home) => home.join(name),
        None => spec.with_file_name(".multiarch"),
    }
}
