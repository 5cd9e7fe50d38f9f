//! Builds of all images of a release into the staging layout.

use crate::builders::{BuildJob, Builder};
use crate::context::ReleaseContext;
use crate::report::{DeclaredPlatform, EvidenceReport, PlatformReport, SmokeResult, Step};
use crate::spec::{PlatformSpec, Recipe, SecretSource};
use error::Error;
use image_model::platform::Platform;
use image_store::parallel;
use image_store::store::oci_layout::OciLayout;
use image_store::tree::{Image, TreeNode, read_tree_below};
use std::fs;
use std::time::Instant;

/// One image that will be built.
pub struct Build {
    pub spec: PlatformSpec,
    pub builder: Box<dyn Builder>,
    /// Why this builder was chosen, if the spec has `builder: auto`.
    pub why: String,
    /// The commands that will be run, or the steps of the embedded builder.
    pub commands: Vec<String>,
    /// The build runs programs of its platform, which this host cannot run natively.
    pub needs_emulator: bool,
}

/// The inputs of a builder for one image.
pub fn job(context: &ReleaseContext<'_>, one: &PlatformSpec) -> BuildJob {
    let ReleaseContext { request, records, .. } = context;
    BuildJob {
        platform: one.platform.clone(),
        recipe: one.recipe.clone(),
        work_dir: request.work_dir.join("build").join(file_name(&one.platform)),
        epoch: request.epoch,
        records: records.clone(),
    }
}

/// Fails if an environment variable of a secret is not set: some builders would take it for an empty secret.
pub fn refuse_missing_secrets(one: &PlatformSpec) -> Result<(), Error> {
    let Recipe::Dockerfile(recipe) = &one.recipe else { return Ok(()) };
    for secret in &recipe.secrets {
        if let SecretSource::Variable(name) = &secret.source
            && std::env::var_os(name).is_none_or(|value| value.is_empty())
        {
            let doing = format!("build {} with secret \"{}\"", one.platform, secret.id);
            return Err(Error::not_found(doing, format!("the variable {name} is not set")));
        }
    }
    Ok(())
}

/// An image of the release that was built now.
pub struct Member {
    pub platform: Platform,
    pub builder: String,
    pub tag: Option<String>,
    pub image: Image,
    /// The platform that the builder's config declared.
    pub built_as: Platform,
    /// `image` is the published one: what was built differs only in its timestamps.
    pub is_published: bool,
    pub seconds: f64,
}

/// Builds all images, `--jobs` at a time.
pub fn build(
    context: &ReleaseContext<'_>,
    builds: &[Build],
    staging: &OciLayout,
) -> Result<Vec<Member>, Error> {
    let reporter = &context.reporter;
    context.begin(Step::Build);
    reporter.board.next("build", builds.len());
    parallel::map(builds, context.request.jobs, |build| {
        let _running = reporter.board.begin(&build.spec.platform);
        let member = build_one(context, build, staging)?;
        reporter.state.add_image(member.report(None, None));
        reporter.output.info(&format!("built {} with {}", build.spec.platform, build.builder.name()));
        Ok(member)
    })
}

fn build_one(context: &ReleaseContext<'_>, build: &Build, staging: &OciLayout) -> Result<Member, Error> {
    let begun = Instant::now();
    let platform = &build.spec.platform;
    let log = context.request.work_dir.join("logs").join(format!("{}.log", file_name(platform)));
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::from_io("create the directory for build logs", e))?;
    }
    // The log of an earlier run.
    let _ = fs::remove_file(&log);
    let built = build.builder.build(&job(context, &build.spec), staging, &log)?;
    let TreeNode::Image(image) = read_tree_below(staging, built, 0)? else {
        let doing = format!("release the image for {platform}");
        return Err(Error::bad_input(doing, "its builder made an index, not one image"));
    };
    Ok(Member {
        platform: platform.clone(),
        builder: build.builder.name(),
        tag: build.spec.tag.clone(),
        built_as: declared_platform(&image),
        image,
        is_published: false,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// `linux-arm-v7`.
pub fn file_name(platform: &Platform) -> String {
    platform.to_string().replace(['/', ':'], "-")
}

impl Member {
    pub fn declared(&self) -> DeclaredPlatform {
        DeclaredPlatform { built: self.built_as.clone(), published: declared_platform(&self.image) }
    }

    pub fn report(&self, evidence: Option<EvidenceReport>, smoke: Option<SmokeResult>) -> PlatformReport {
        PlatformReport {
            platform: self.platform.clone(),
            builder: self.builder.clone(),
            manifest: self.image.document.digest().clone(),
            config: self.image.manifest.config.digest.clone(),
            layer_bytes: self.image.manifest.layers.iter().map(|layer| layer.size).sum(),
            declared: self.declared(),
            evidence,
            smoke,
            seconds: self.seconds,
        }
    }
}

/// The platform that the config of an image declares.
pub fn declared_platform(image: &Image) -> Platform {
    image.config.as_ref().map(|config| config.parsed.platform.clone()).unwrap_or_default()
}
