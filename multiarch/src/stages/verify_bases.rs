//! Verifies the base images of Dockerfiles before anything is built: a base image for another platform makes a
//! mislabeled image (moby#36552, buildx#844).
//!
//! Only facts stop a release: the platform of an image that the engine has, or the platforms that the registry has. A
//! base image that cannot be read, without a network or credentials, is reported and left to the engine.

use crate::builders::common::read_dockerfile;
use crate::builders::dockerfile::{Asked, Stage};
use crate::builders::{BuildJob, LocalImage, OpenImage};
use crate::context::ReleaseContext;
use crate::report::Step;
use crate::spec::Recipe;
use crate::stages::build::{Build, job};
use cli::suggest;
use error::{Error, Exit};
use image_model::digest::Digest;
use image_model::manifest::{CONFIG_MAX, Config, ParsedDocument};
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::parallel;
use image_store::store::read_blob;
use std::fmt;
use std::path::PathBuf;

/// The FROM of a stage that a build needs, and the result of its check.
#[derive(Clone, Debug)]
pub struct Base {
    /// The platform that is built.
    pub platform: Platform,
    dockerfile: PathBuf,
    line: usize,
    name: String,
    pub check: BaseCheck,
    /// Advice for a wrong base image.
    way_out: String,
}

/// Result of the check of one base image, with the rest of a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseCheck {
    Right(String),
    Wrong(String),
    Unchecked(String),
}

/// `Dockerfile:3: "debian:12" is for linux/arm64, in the registry`.
impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: \"{}\" ", self.dockerfile.display(), self.line, self.name)?;
        match &self.check {
            BaseCheck::Right(what) | BaseCheck::Wrong(what) => f.write_str(what),
            BaseCheck::Unchecked(why) => write!(f, "could not be checked: {why}"),
        }
    }
}

/// Checks the base images again if `prepare` commands ran, since they may have written the Dockerfiles.
///
/// # Errors
/// `CheckFailed` if a base image is for another platform.
pub fn verify_bases(context: &ReleaseContext<'_>, builds: &[Build]) -> Result<(), Error> {
    if context.request.spec.prepare.is_empty() {
        return Ok(());
    }
    context.begin(Step::VerifyBases);
    refuse_wrong_bases(context, &inspect_bases(context, builds)?)
}

/// Checks the base images of all builds. A Dockerfile that does not exist yet, since a command writes it, is skipped.
pub fn inspect_bases(context: &ReleaseContext<'_>, builds: &[Build]) -> Result<Vec<Base>, Error> {
    let mut wanted = Vec::new();
    for build in builds {
        let Recipe::Dockerfile(recipe) = &build.spec.recipe else { continue };
        let job = job(context, &build.spec);
        let Ok(dockerfile) = read_dockerfile(&job, recipe) else { continue };
        let target = recipe.target.as_deref();
        let root = dockerfile.root(target).map(|stage| stage.line);
        // A build context of this name replaces the image.
        let is_image = |stage: &&Stage| !recipe.build_contexts.contains_key(&stage.base);
        for stage in dockerfile.needed_bases(target).into_iter().filter(is_image) {
            let base = Base {
                platform: job.platform.clone(),
                dockerfile: recipe.dockerfile.clone(),
                line: stage.line,
                name: stage.base.clone(),
                check: BaseCheck::Unchecked(String::new()),
                way_out: String::new(),
            };
            match required_platform(stage, &job, root == Some(stage.line)) {
                Some(Ok(platform)) => wanted.push((base, Some((build, platform)))),
                Some(Err(check)) => wanted.push((Base { check, ..base }, None)),
                None => {}
            }
        }
    }
    let asked = |(base, look): &(Base, Option<(&Build, Platform)>)| {
        let local = look.as_ref().and_then(|(build, _)| build.builder.local_image(&base.name));
        Ok::<_, Error>(local)
    };
    let locals = parallel::map(&wanted, parallel::REQUESTS, asked)?;
    let offers = Offers::read(&wanted, &locals, &context.open_base)?;
    let judged = wanted.into_iter().zip(locals).map(|((base, look), local)| match look {
        Some((build, platform)) => {
            let builder = &*build.builder;
            let name = builder.registry_name(&base.name);
            let offer = offers.of(name.as_ref());
            let check = judge(&builder.name(), local.as_ref(), offer, &platform);
            let way_out = way_out(&builder.name(), local.as_ref(), offer, &base.name, &platform);
            Base { check, way_out, ..base }
        }
        None => base,
    });
    Ok(judged.collect())
}

/// The platform that a base image must have. `None` if only the engine knows.
fn required_platform(stage: &Stage, job: &BuildJob, is_root: bool) -> Option<Result<Platform, BaseCheck>> {
    match &stage.asked {
        Asked::Target if stage.is_the_builders_secret() => None,
        Asked::Target => Some(Ok(job.platform.clone())),
        Asked::Builder => None,
        Asked::Named(said) => Some(match said.parse() {
            Err(_) => Err(BaseCheck::Unchecked(format!("unknown platform \"{said}\""))),
            Ok(_) if is_root => {
                Err(BaseCheck::Wrong(format!("is pulled with --platform={said}, whatever platform is built")))
            }
            Ok(platform) => Ok(platform),
        }),
    }
}

/// The platforms that a registry has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Offer {
    /// An index with images for these platforms, each with its digest.
    Index(Vec<(Platform, Digest)>),
    /// One image, which declares this platform.
    Image(Platform),
    /// It could not be read, for this reason.
    Unknown(String),
}

/// Offers by name. Each name is read once for all platforms that start from it: registries limit the rate of reads.
struct Offers(Vec<(RegistryRef, Offer)>);

impl Offers {
    fn read(
        wanted: &[(Base, Option<(&Build, Platform)>)],
        locals: &[Option<LocalImage>],
        open: &OpenImage,
    ) -> Result<Self, Error> {
        let mut names: Vec<RegistryRef> = Vec::new();
        for ((base, look), local) in wanted.iter().zip(locals) {
            let Some((build, platform)) = look else { continue };
            // If the engine would use a wrong image, the advice depends on what the registry has.
            let is_settled = local.as_ref().is_some_and(|local| may_be_base(&local.platform, platform));
            let name = build.builder.registry_name(&base.name).filter(|_| !is_settled);
            names.extend(name.filter(|name| !names.contains(name)));
        }
        let read = |name: &RegistryRef| {
            let offer = read_offer(name, open).unwrap_or_else(|error| Offer::Unknown(error.reason));
            Ok::<_, Error>((name.clone(), offer))
        };
        // All registries share one limit; opening a store sends no request.
        let store = names.first().and_then(|name| open(&Reference::Registry(name.clone())).ok());
        let at_once = store.map_or(1, |(store, _)| store.concurrency(parallel::REQUESTS));
        parallel::map(&names, at_once, read).map(Self)
    }

    fn of(&self, name: Option<&RegistryRef>) -> Option<&Offer> {
        self.0.iter().find(|(known, _)| Some(known) == name).map(|(_, offer)| offer)
    }
}

fn read_offer(name: &RegistryRef, open: &OpenImage) -> Result<Offer, Error> {
    let (source, at) = open(&Reference::Registry(name.clone()))?;
    let document = source.read_document(&at)?;
    let content = document.parse().map_err(|e| e.at(&format!("base image \"{}\"", source.display_name())))?;
    let image = match content {
        ParsedDocument::Index(index) => {
            let members = index.manifests.into_iter();
            let images = members.filter_map(|member| Some((member.platform?, member.digest)));
            return Ok(Offer::Index(images.filter(|(platform, _)| !platform.is_unknown()).collect()));
        }
        ParsedDocument::Manifest(image) => image,
    };
    let bytes = read_blob(&*source, &image.config, CONFIG_MAX)?;
    let config = Config::parse(&bytes)
        .map_err(|e| e.at(&format!("the config of base image \"{}\"", source.display_name())))?;
    Ok(Offer::Image(config.platform))
}

impl LocalImage {
    /// Returns whether the engine uses it, right or wrong, without reading the registry.
    fn is_used(&self, wanted: &Platform) -> bool {
        self.is_used_unchecked || may_be_base(&self.platform, wanted)
    }
}

/// Checks the image that the engine will start from. `offer` is `None` if only the engine knows what the name means.
fn judge(builder: &str, local: Option<&LocalImage>, offer: Option<&Offer>, wanted: &Platform) -> BaseCheck {
    let verdict = |said: &Platform, text: String| match may_be_base(said, wanted) {
        true => BaseCheck::Right(text),
        false => BaseCheck::Wrong(text),
    };
    let kept = |local: &LocalImage| {
        verdict(&local.platform, format!("is for {}, in the storage of {builder}", local.platform))
    };
    match (local, offer) {
        (Some(local), _) if local.is_used(wanted) => kept(local),
        (_, Some(Offer::Image(said))) => verdict(said, format!("is for {said}, in the registry")),
        (_, Some(Offer::Index(all))) => match all.iter().find(|(said, _)| may_be_base(said, wanted)) {
            Some((said, _)) => BaseCheck::Right(format!("has {said}, in the registry")),
            None => {
                let all: Vec<String> = all.iter().map(|(said, _)| said.to_string()).collect();
                BaseCheck::Wrong(format!("has only {}, in the registry", all.join(", ")))
            }
        },
        // The engine cannot pull another one without the registry either.
        (Some(local), Some(Offer::Unknown(_))) if !local.may_have_others => kept(local),
        (_, Some(Offer::Unknown(why))) => BaseCheck::Unchecked(why.clone()),
        (_, None) => BaseCheck::Unchecked(format!("{builder} alone knows what that name means")),
    }
}

/// Returns advice for a wrong base image. An engine that has another platform of it in its storage is no reason to change
/// its platform metadata.
fn way_out(
    builder: &str,
    local: Option<&LocalImage>,
    offer: Option<&Offer>,
    name: &str,
    wanted: &Platform,
) -> String {
    let another = format!("name a base image for {wanted}");
    // Only the classic builder of docker uses what it has without a check.
    let is_used_unchecked = local.is_some_and(|local| local.is_used_unchecked);
    match offer {
        Some(Offer::Index(all)) if is_used_unchecked => {
            let Some((_, digest)) = all.iter().find(|(said, _)| may_be_base(said, wanted)) else {
                return another;
            };
            // Under the digest of one platform it has no image of another one.
            let name = name.split('@').next().unwrap_or(name);
            format!(
                "the registry has it for {wanted}, but the classic builder uses the one in its storage: set \
                 DOCKER_BUILDKIT=1, or give {wanted} a Dockerfile of its own with FROM {name}@{digest}"
            )
        }
        Some(Offer::Image(said)) if is_used_unchecked && may_be_base(said, wanted) => {
            let docker = match builder.split_once(':') {
                Some((docker, context)) => format!("{docker} --context {context}"),
                None => builder.to_string(),
            };
            format!("the registry has it for {wanted}; run: {docker} pull {name}")
        }
        Some(Offer::Image(_)) if local.is_none() => {
            let verify = suggest("config-patcher", &["verify", name]);
            format!("{another}; `{verify}` shows what its binaries are for")
        }
        Some(Offer::Index(_) | Offer::Image(_) | Offer::Unknown(_)) | None => another,
    }
}

/// Returns whether an image for `wanted` may be based on one that declares `said`: the same architecture, of no higher level. An
/// arm image without a variant may have any level.
fn may_be_base(said: &Platform, wanted: &Platform) -> bool {
    let (a, b) = (said.normalized(), wanted.normalized());
    let level = |platform: &Platform| {
        let variant = platform.variant.as_deref().unwrap_or("v1");
        variant.strip_prefix('v').and_then(|digits| digits.parse::<u32>().ok())
    };
    let fits_level = match (level(&a), level(&b)) {
        (Some(a), Some(b)) => a <= b,
        _ => a.variant == b.variant,
    };
    a.os == b.os && a.architecture == b.architecture && (said.variant.is_none() || fits_level)
}

/// Stops the release before anything is built.
///
/// # Errors
/// `CheckFailed` if base images are for another platform; all of them are listed.
pub fn refuse_wrong_bases(context: &ReleaseContext<'_>, bases: &[Base]) -> Result<(), Error> {
    context.begin(Step::VerifyBases);
    let wrong: Vec<String> = bases
        .iter()
        .filter(|base| matches!(base.check, BaseCheck::Wrong(_)))
        .map(|base| {
            let out = if base.way_out.is_empty() { String::new() } else { format!("; {}", base.way_out) };
            format!("{base}, but the image is for {}{out}", base.platform)
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let doing = format!("release {}", context.request.spec.image);
    let why = format!("{} of {} base images are for another platform", wrong.len(), bases.len());
    Err(Error::new(Exit::CheckFailed, doing, why).hint("nothing was built").problems(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> (Platform, Digest) {
        (text.parse().unwrap(), Digest::of(text.as_bytes()))
    }

    #[test]
    fn a_base_is_of_the_same_machine_and_of_no_higher_level() {
        let check = |said: &str, wanted: &str, may: bool| {
            let (said, wanted) = (said.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(may_be_base(&said, &wanted), may, "{said} below {wanted}");
        };
        check("linux/arm64", "linux/arm64/v8", true);
        check("linux/amd64", "linux/arm64", false);
        check("linux/arm/v5", "linux/arm/v7", true);
        check("linux/arm/v7", "linux/arm/v5", false);
        check("linux/arm", "linux/arm/v5", true);
        check("linux/amd64/v3", "linux/amd64", false);
        check("linux/amd64", "linux/amd64/v3", true);
        check("windows/amd64", "linux/amd64", false);
        check("linux/386", "linux/amd64", false);
    }

    #[test]
    fn the_image_that_the_engine_would_use_is_checked() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let check = |local: Option<(&str, bool)>, offer: Option<Offer>, said: &str| {
            let local = local.map(|(said, is_used_unchecked)| LocalImage {
                platform: platform(said),
                is_used_unchecked,
                may_have_others: false,
            });
            let check = judge("docker", local.as_ref(), offer.as_ref(), &platform("linux/arm64"));
            assert_eq!(format!("{check:?}"), said, "{local:?} {offer:?}");
        };
        let index = |all: &[&str]| Some(Offer::Index(all.iter().map(|text| member(text)).collect()));
        let image = |said: &str| Some(Offer::Image(platform(said)));
        let unknown = || Some(Offer::Unknown("no route".into()));
        let kept_wrong = r#"Wrong("is for linux/amd64, in the storage of docker")"#;
        check(Some(("linux/arm64", true)), None, r#"Right("is for linux/arm64, in the storage of docker")"#);
        check(Some(("linux/amd64", true)), index(&["linux/arm64"]), kept_wrong);
        // BuildKit and podman look into the registry.
        check(
            Some(("linux/amd64", false)),
            index(&["linux/arm64"]),
            r#"Right("has linux/arm64, in the registry")"#,
        );
        check(Some(("linux/amd64", false)), unknown(), kept_wrong);
        check(
            None,
            index(&["linux/amd64", "linux/s390x"]),
            r#"Wrong("has only linux/amd64, linux/s390x, in the registry")"#,
        );
        check(None, image("linux/amd64"), r#"Wrong("is for linux/amd64, in the registry")"#);
        check(None, image("linux/arm64/v8"), r#"Right("is for linux/arm64/v8, in the registry")"#);
        check(None, unknown(), r#"Unchecked("no route")"#);
        let shared =
            LocalImage { platform: platform("linux/amd64"), is_used_unchecked: false, may_have_others: true };
        let found = judge("docker", Some(&shared), unknown().as_ref(), &platform("linux/arm64"));
        assert_eq!(found, BaseCheck::Unchecked("no route".into()));
        check(None, None, r#"Unchecked("docker alone knows what that name means")"#);
    }

    #[test]
    fn a_base_that_the_engine_has_for_another_platform_is_never_advised_to_be_fixed() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let wanted = platform("linux/arm64");
        let check = |builder: &str, local: Option<bool>, offer: Option<Offer>, said: &[&str]| {
            let local = local.map(|is_used_unchecked| LocalImage {
                platform: platform("linux/amd64"),
                is_used_unchecked,
                may_have_others: false,
            });
            let text = way_out(builder, local.as_ref(), offer.as_ref(), "debian:12", &wanted);
            assert!(said.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains("config-patcher fix"), "{text}");
        };
        let index = |all: &[&str]| Some(Offer::Index(all.iter().map(|text| member(text)).collect()));
        let from = format!("with FROM debian:12@{}", member("linux/arm64").1);
        check("docker", Some(true), index(&["linux/amd64", "linux/arm64"]), &[&from, "DOCKER_BUILDKIT=1"]);
        let image = |said: &str| Some(Offer::Image(platform(said)));
        check("docker", Some(true), image("linux/arm64"), &["run: docker pull debian:12"]);
        check("docker:far", Some(true), image("linux/arm64"), &["run: docker --context far pull debian:12"]);
        let other = ["name a base image for linux/arm64"];
        check("docker", Some(true), index(&["linux/amd64"]), &other);
        check("docker", Some(true), Some(Offer::Unknown("no route".into())), &other);
        check("podman", Some(false), Some(Offer::Unknown("no route".into())), &other);
        check("buildah", Some(false), None, &other);
        check("docker", None, image("linux/amd64"), &["config-patcher verify debian:12"]);
    }
}
