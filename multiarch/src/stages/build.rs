//! One image after the other: built into the staging layout, labelled, and run.

use crate::builders::{BuildJob, Builder};
use crate::context::Reporter;
use crate::emulation::BinfmtSetup;
use crate::request::Request;
use crate::spec::{PlatformSpec, Recipe, SecretPlace};
use crate::stages::fix_platform::{self, Labelled};
use crate::stages::report::{EvidenceReport, LabelReport, PlatformReport};
use crate::stages::smoke::{self, Smoke};
use crate::work_dir::records::Records;
use error::Error;
use error::Exit;
use image_model::platform::Platform;
use image_store::parallel;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::Image;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// One image that will be built.
pub struct Build {
    pub spec: PlatformSpec,
    pub builder: Box<dyn Builder>,
    /// Why it is this builder, where the spec left that open.
    pub why: String,
    /// The commands that will be run, or what the embedded builder will do.
    pub commands: Vec<String>,
    /// Programs of its platform are run by the build.
    pub needs_emulator: bool,
}

/// Everything that a builder needs to know about one image.
pub fn job(request: &Request, one: &PlatformSpec) -> BuildJob {
    BuildJob {
        platform: one.platform.clone(),
        recipe: one.recipe.clone(),
        work_dir: request.work_dir.join("build").join(file_name(&one.platform)),
        epoch: request.epoch,
        records: Records::new(&request.work_dir),
    }
}

/// A secret that is not there would be an empty one to some builders.
pub fn refuse_missing_secrets(one: &PlatformSpec) -> Result<(), Error> {
    let Recipe::Dockerfile(recipe) = &one.recipe else { return Ok(()) };
    for secret in &recipe.secrets {
        if let SecretPlace::Variable(name) = &secret.place
            && std::env::var_os(name).is_none_or(|value| value.is_empty())
        {
            let doing = format!("build {} with secret \"{}\"", one.platform, secret.id);
            return Err(Error::not_found(doing, format!("the variable {name} is not set")));
        }
    }
    Ok(())
}

/// Runs a command of the spec in the spec's folder.
pub fn run_prepare(command: &[String], dir: &Path) -> Result<(), Error> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let doing = || format!("prepare with \"{}\"", command.join(" "));
    // stdout is for the result alone, so the command's goes where people look.
    let status = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| Error::from_io(doing(), e))?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::new(Exit::CheckFailed, doing(), format!("it ended with {status}"))
            .hint("nothing was published")),
    }
}

/// An image of the release: built now, its label right.
pub struct Member {
    pub platform: Platform,
    builder: String,
    pub tag: Option<String>,
    pub labelled: Labelled,
    /// Its image is the target's own, since what was built differs only by its time.
    pub is_published: bool,
    seconds: f64,
}

/// Builds one image and settles its label.
pub fn build_one(request: &Request, build: &Build, staging: &OciLayout) -> Result<Member, Error> {
    let begun = Instant::now();
    let platform = &build.spec.platform;
    let log = request.work_dir.join("logs").join(format!("{}.log", file_name(platform)));
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).map_err(|e| Error::from_io("make the folder for build logs", e))?;
    }
    // What an earlier run said is of no use any more.
    let _ = fs::remove_file(&log);
    let built = build.builder.build(&job(request, &build.spec), staging, &log)?;
    let labelled = fix_platform::settle(built, platform, request.spec.labels, staging)?;
    Ok(Member {
        platform: platform.clone(),
        builder: build.builder.name(),
        tag: build.spec.tag.clone(),
        labelled,
        is_published: false,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// `linux-arm-v7`.
pub fn file_name(platform: &Platform) -> String {
    platform.to_string().replace(['/', ':'], "-")
}

impl Member {
    /// The same member with the image that is published for it.
    pub fn published_as(self, image: Image) -> Self {
        let labelled = Labelled { image, ..self.labelled };
        Self { labelled, is_published: true, ..self }
    }

    pub fn report(&self, evidence: Option<EvidenceReport>, smoke: Option<Smoke>) -> PlatformReport {
        let image = &self.labelled.image;
        PlatformReport {
            platform: self.platform.clone(),
            builder: self.builder.clone(),
            manifest: image.document.digest().clone(),
            config: image.manifest.config.digest.clone(),
            layer_bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
            label: LabelReport { built: self.labelled.built.clone(), published: label_of(image) },
            evidence,
            smoke,
            seconds: self.seconds,
        }
    }
}

pub fn label_of(image: &Image) -> Platform {
    image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default()
}

/// With `labels: check` a wrong label stops the release. All of them are told at once.
pub fn refuse_mislabeled(request: &Request, members: &[Member]) -> Result<(), Error> {
    let wrong: Vec<String> = members
        .iter()
        .filter(|member| member.labelled.is_wrong)
        .map(|member| format!("{}: its config says {}", member.platform, member.labelled.built))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let doing = format!("release {}", request.spec.image);
    let why = format!("the label is wrong in {} of {} images", wrong.len(), members.len());
    let hint =
        "nothing was published; correct the builds, or let the release put them right with `labels: fix`";
    Err(Error::new(Exit::CheckFailed, doing, why).hint(hint).problems(wrong))
}

/// Runs each image. One that fails stops the release; one that this host cannot run is said plainly.
pub fn smoke_all(
    request: &Request,
    members: &[Member],
    staging: &OciLayout,
    binfmt: Option<&BinfmtSetup>,
    Reporter { output, board, trace }: &Reporter<'_>,
) -> Result<Vec<Option<Smoke>>, Error> {
    let command = &request.spec.smoke;
    if command.is_empty() {
        return Ok(members.iter().map(|_| None).collect());
    }
    let records = Records::new(&request.work_dir);
    board.next("smoke", members.len());
    let smoked = parallel::map(members, request.jobs, |member| {
        let _running = board.begin(&member.platform);
        let dir = request.work_dir.join("smoke").join(file_name(&member.platform));
        let image = &member.labelled.image;
        let key = (image.document.digest(), &member.platform, command);
        if let Some(passed) = records.get::<Smoke>("smoke", &key) {
            output.verbose_info(&format!("smoke {}: passed, in an earlier run", member.platform));
            trace.smoked(&member.platform, &passed);
            return Ok(passed);
        }
        let result = smoke::smoke(staging, image, &member.platform, command, binfmt, &dir)?;
        trace.smoked(&member.platform, &result);
        if let Smoke::Passed { .. } = &result {
            records.keep("smoke", &key, &result)?;
        }
        output.info(&match &result {
            Smoke::Passed { milliseconds, output } => {
                let said = output.lines().next().unwrap_or_default();
                format!("smoke {}: passed in {milliseconds} ms: {said}", member.platform)
            }
            Smoke::Failed { why, .. } => format!("smoke {}: FAILED: {why}", member.platform),
            Smoke::NotRun { why } => format!("smoke {}: not run on this host: {why}", member.platform),
        });
        Ok::<_, Error>(result)
    })?;
    let failed: Vec<String> = members
        .iter()
        .zip(&smoked)
        .filter_map(|(member, smoke)| match smoke {
            Smoke::Failed { why, output } => {
                let output = if output.is_empty() { String::new() } else { format!(": {output}") };
                Some(format!("{}: {why}{output}", member.platform))
            }
            Smoke::Passed { .. } | Smoke::NotRun { .. } => None,
        })
        .collect();
    if !failed.is_empty() {
        let doing = format!("release {}", request.spec.image);
        let why = format!("\"{}\" failed in {} of {} images", command.join(" "), failed.len(), members.len());
        return Err(Error::new(Exit::CheckFailed, doing, why).hint("nothing was published").problems(failed));
    }
    Ok(smoked.into_iter().map(Some).collect())
}
