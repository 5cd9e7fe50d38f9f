//! What a person asked for: the command line and the spec, read and joined.

use crate::example::Example;
use crate::release::Host;
use crate::spec::Spec;
use error::Error;
use image_model::digest::Digest;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::plan::MovedTag;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The spec that is read when none is named.
const SPEC: &str = "release.yaml";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The release to make [default: release.yaml]
    spec: Option<PathBuf>,
    /// Release the example, which needs no other file, to oci:multi-arch-example
    #[arg(long, conflicts_with = "spec")]
    example: bool,
    /// Build this platform alone and keep the others as they are published (repeat for several)
    #[arg(long, value_name = "PLATFORM", value_parser = Platform::asked)]
    only: Vec<Platform>,
    /// Publish to this repository, or oci:DIR, instead of the spec's image
    #[arg(long, value_name = "IMAGE")]
    to: Option<Reference>,
    /// Do not run the images before they are published
    #[arg(long)]
    no_smoke: bool,
    /// Show what would be done, with -v every command, and change nothing anywhere
    #[arg(long)]
    pub dry_run: bool,
    /// Move a tag even if somebody else moved it meanwhile
    #[arg(long)]
    force: bool,
    /// Builds at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// Where builds are staged; without it a folder of this spec's own in XDG_CACHE_HOME
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Where the JSON report goes; without it report.json in the work folder, or one for each --to. A release that fails
    /// writes one, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Add a summary in Markdown to this file; without it to the one that GITHUB_STEP_SUMMARY names, if any
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

/// What a person meant, with the spec read.
pub struct Request {
    pub spec: Spec,
    /// Where the spec was read.
    pub file: PathBuf,
    /// `--only`: what is published and not built this time stays.
    pub keeps_others: bool,
    /// Platforms of the spec that are not built this time.
    pub kept: Vec<Platform>,
    pub work_dir: PathBuf,
    /// Nobody named the work folder: it lies in the cache, beside those of other specs and nothing else.
    pub is_beside_others: bool,
    pub report: PathBuf,
    pub summary: Option<PathBuf>,
    pub jobs: usize,
    pub moved: MovedTag,
    /// SOURCE_DATE_EPOCH (reproducible-builds.org): the time that images say they were made.
    pub epoch: Option<u64>,
    /// Its files are removed at the end.
    _example: Option<Example>,
}

/// Reads the spec and what the command line says about it.
pub fn mean(args: &Args, host: &Host) -> Result<Request, Error> {
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
        refuse_other_than_a_place(to)?;
        spec.image = to.clone();
    }
    if args.no_smoke {
        spec.smoke.clear();
    }
    let mut kept = Vec::new();
    if !args.only.is_empty() {
        let doing = || format!("release \"{}\"", file.display());
        for asked in &args.only {
            if !spec.platforms.iter().any(|one| one.platform.fits(asked)) {
                let said: Vec<String> = spec.platforms.iter().map(|one| one.platform.to_string()).collect();
                return Err(Error::bad_input(doing(), format!("the spec has no platform {asked}"))
                    .hint(format!("it has {}", said.join(", "))));
            }
        }
        let is_asked = |platform: &Platform| args.only.iter().any(|asked| asked.fits(platform));
        kept = spec.platforms.iter().map(|one| one.platform.clone()).filter(|p| !is_asked(p)).collect();
        spec.platforms.retain(|one| is_asked(&one.platform));
    }
    let home = cache_home();
    let is_beside_others = args.work_dir.is_none() && home.is_some();
    let work_dir = args.work_dir.clone().unwrap_or_else(|| own_dir(&file, home));
    let report = args.report.clone().unwrap_or_else(|| work_dir.join(default_report(args.to.as_ref())));
    let moved = if args.force { MovedTag::Overwrite } else { MovedTag::Refuse };
    let epoch = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => Some(text.parse().map_err(|_| {
            Error::bad_input(
                "read SOURCE_DATE_EPOCH",
                format!("\"{text}\" is no number of seconds since 1970"),
            )
        })?),
        Err(_) => None,
    };
    let summary = args.summary.clone().or_else(|| {
        std::env::var_os("GITHUB_STEP_SUMMARY").filter(|name| !name.is_empty()).map(PathBuf::from)
    });
    Ok(Request {
        spec,
        keeps_others: !args.only.is_empty(),
        kept,
        file,
        work_dir,
        is_beside_others,
        report,
        summary,
        jobs: usize::from(args.jobs),
        moved,
        epoch,
        _example: example,
    })
}

/// The spec that was named, or the usual one.
fn spec_file(args: &Args, host: &Host) -> Result<PathBuf, Error> {
    if let Some(named) = &args.spec {
        return Ok(named.clone());
    }
    let usual = Path::new(SPEC);
    match &host.default_spec {
        _ if usual.is_file() => Ok(usual.into()),
        Some(default) => Ok(default.clone()),
        None => Err(Error::not_found("read the release", format!("no {SPEC} here"))
            .hint("name one, or run `multiarch release --example`")),
    }
}

/// One for each destination: a release elsewhere must not take along what rolls this one back.
fn default_report(to: Option<&Reference>) -> String {
    match to {
        Some(to) => format!("report-{}.json", Digest::of(to.to_string().as_bytes()).short()),
        None => "report.json".to_string(),
    }
}

/// The spec's tags go wherever the release goes, and a digest comes of it.
fn refuse_other_than_a_place(to: &Reference) -> Result<(), Error> {
    let doing = || format!("publish to \"{to}\"");
    let hint = "name HOST/REPOSITORY or oci:DIR; the tags are those of the spec";
    match to {
        Reference::Registry(RegistryRef { tag: None, digest: None, .. })
        | Reference::OciLayout { tag: None, .. } => Ok(()),
        Reference::Registry(_) | Reference::OciLayout { .. } => {
            Err(Error::bad_input(doing(), "it names a tag or a digest").hint(hint))
        }
        Reference::OciArchive { .. }
        | Reference::DockerArchive { .. }
        | Reference::DockerDaemon { .. }
        | Reference::Stdin => {
            Err(Error::bad_input(doing(), "it is no place for several platforms").hint(hint))
        }
    }
}

/// Where work folders are, if nobody says otherwise.
fn cache_home() -> Option<PathBuf> {
    let named = |variable: &str| std::env::var_os(variable).filter(|value| Path::new(value).is_absolute());
    let cache = named("XDG_CACHE_HOME").map(PathBuf::from);
    Some(cache.or_else(|| Some(Path::new(&named("HOME")?).join(".cache")))?.join("multiarch"))
}

/// A folder of this spec's own, away from the build contexts: what lies beside a Dockerfile is sent to its engine.
fn own_dir(spec: &Path, home: Option<PathBuf>) -> PathBuf {
    let spec = std::fs::canonicalize(spec).unwrap_or_else(|_| spec.to_path_buf());
    let digest = Digest::of(spec.as_os_str().as_bytes());
    let folder = spec.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let name = format!("{}-{}", folder.unwrap_or_else(|| "release".into()), digest.short());
    match home {
        Some(home) => home.join(name),
        None => spec.with_file_name(".multiarch"),
    }
}
