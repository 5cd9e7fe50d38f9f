//! Base images of Dockerfiles, looked at before anything is built: one of another platform gives an image that says one
//! thing and is another (moby#36552, buildx#844).
//!
//! Only what is known for sure stops a release: the label of an image that the engine has, or what the registry
//! offers. What cannot be looked at, for want of a network or of credentials, is said and left to the engine.

use crate::builders::common::read_dockerfile;
use crate::builders::dockerfile::{Asked, Stage};
use crate::builders::{BuildJob, Local, OpenImage};
use crate::request::Request;
use crate::spec::Recipe;
use crate::stages::build::{Build, job};
use error::Error;
use error::Exit;
use image_model::manifest::{CONFIG_MAX, Config, Content};
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use image_store::parallel;
use image_store::store::read_blob;
use std::path::PathBuf;

/// The FROM of a stage that a build needs, and what was found.
#[derive(Clone, Debug)]
pub struct Base {
    /// What is built.
    pub platform: Platform,
    dockerfile: PathBuf,
    line: usize,
    name: String,
    pub found: Found,
    /// What to do where it is wrong.
    way_out: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// What it is, and where.
    Right(String),
    Wrong(String),
    Unchecked(String),
}

impl Base {
    /// `Dockerfile:3: debian:12 is for linux/arm64, in the registry`.
    pub fn shown(&self) -> String {
        let what = match &self.found {
            Found::Right(what) | Found::Wrong(what) => what.clone(),
            Found::Unchecked(why) => format!("could not be checked: {why}"),
        };
        format!("{}:{}: \"{}\" {what}", self.dockerfile.display(), self.line, self.name)
    }
}

/// Looks at the base images of all builds. A Dockerfile that a command makes first is not there yet and is passed over.
pub fn look(request: &Request, builds: &[Build], open: &OpenImage) -> Result<Vec<Base>, Error> {
    let mut wanted = Vec::new();
    for build in builds {
        let Recipe::Dockerfile(recipe) = &build.spec.recipe else { continue };
        let job = job(request, &build.spec);
        let Ok(dockerfile) = read_dockerfile(&job, recipe) else { continue };
        let target = recipe.target.as_deref();
        let root = dockerfile.root(target).map(|stage| stage.line);
        // A build context of this name is taken in the place of an image.
        let is_image = |stage: &&Stage| !recipe.build_contexts.contains_key(&stage.base);
        for stage in dockerfile.needed_bases(target).into_iter().filter(is_image) {
            let base = Base {
                platform: job.platform.clone(),
                dockerfile: recipe.dockerfile.clone(),
                line: stage.line,
                name: stage.base.clone(),
                found: Found::Unchecked(String::new()),
                way_out: String::new(),
            };
            match asked_of(stage, &job, root == Some(stage.line)) {
                Some(Ok(platform)) => wanted.push((base, Some((build, platform)))),
                Some(Err(found)) => wanted.push((Base { found, ..base }, None)),
                None => {}
            }
        }
    }
    let asked = |(base, look): &(Base, Option<(&Build, Platform)>)| {
        let local = look.as_ref().and_then(|(build, _)| build.builder.local(&base.name));
        Ok::<_, Error>(local)
    };
    let locals = parallel::map(&wanted, parallel::REQUESTS, asked)?;
    let offers = Offers::read(&wanted, &locals, open)?;
    let judged = wanted.into_iter().zip(locals).map(|((base, look), local)| match look {
        Some((build, platform)) => {
            let builder = &*build.builder;
            let name = builder.registry_name(&base.name);
            let offer = offers.of(name.as_ref());
            let found = judge(&builder.name(), local.as_ref(), offer, &platform);
            let way_out = way_out(&builder.name(), local.as_ref(), offer, &base, &platform);
            Base { found, way_out, ..base }
        }
        None => base,
    });
    Ok(judged.collect())
}

/// The platform that a base must have; nothing where that is for the engine to say.
fn asked_of(stage: &Stage, job: &BuildJob, is_root: bool) -> Option<Result<Platform, Found>> {
    match &stage.asked {
        Asked::Target if stage.is_the_builders_secret() => None,
        Asked::Target => Some(Ok(job.platform.clone())),
        Asked::Builder => None,
        Asked::Named(said) => Some(match said.parse() {
            Err(_) => Err(Found::Unchecked(format!("\"{said}\" is no platform"))),
            Ok(_) if is_root => {
                Err(Found::Wrong(format!("is asked for with --platform={said}, whatever is built")))
            }
            Ok(platform) => Ok(platform),
        }),
    }
}

/// What a registry has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Offer {
    /// An index with images for these platforms.
    Index(Vec<Platform>),
    /// One image, whose label says this.
    Image(Platform),
    /// It could not be read, and why.
    Unknown(String),
}

/// Each name is read once, however many platforms start from it: registries count.
struct Offers(Vec<(RegistryRef, Offer)>);

impl Offers {
    fn read(
        wanted: &[(Base, Option<(&Build, Platform)>)],
        locals: &[Option<Local>],
        open: &OpenImage,
    ) -> Result<Self, Error> {
        let mut names: Vec<RegistryRef> = Vec::new();
        for ((base, look), local) in wanted.iter().zip(locals) {
            let Some((build, platform)) = look else { continue };
            // Where the engine takes a wrong one, what the registry has decides about the way out.
            let is_settled = local.as_ref().is_some_and(|local| may_be_base(&local.platform, platform));
            let name = build.builder.registry_name(&base.name).filter(|_| !is_settled);
            names.extend(name.filter(|name| !names.contains(name)));
        }
        let read = |name: &RegistryRef| {
            let offer = read_offer(name, open).unwrap_or_else(|error| Offer::Unknown(error.reason));
            Ok::<_, Error>((name.clone(), offer))
        };
        parallel::map(&names, parallel::REQUESTS, read).map(Self)
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
        Content::Index(index) => {
            let platforms = index.manifests.into_iter().filter_map(|member| member.platform);
            return Ok(Offer::Index(platforms.filter(|platform| !platform.is_unknown()).collect()));
        }
        Content::Manifest(image) => image,
    };
    let bytes = read_blob(&*source, &image.config, CONFIG_MAX)?;
    let config = Config::parse(&bytes)
        .map_err(|e| e.at(&format!("the config of base image \"{}\"", source.display_name())))?;
    Ok(Offer::Image(config.platform))
}

impl Local {
    /// The engine takes it, right or wrong, and asks no registry.
    fn settles(&self, wanted: &Platform) -> bool {
        self.is_taken_blindly || may_be_base(&self.platform, wanted)
    }
}

/// What the engine will start from. `offer` is nothing where only the engine knows what the name means.
fn judge(builder: &str, local: Option<&Local>, offer: Option<&Offer>, wanted: &Platform) -> Found {
    let verdict = |said: &Platform, text: String| match may_be_base(said, wanted) {
        true => Found::Right(text),
        false => Found::Wrong(text),
    };
    let kept = |local: &Local| {
        verdict(&local.platform, format!("is for {}, in the storage of {builder}", local.platform))
    };
    match (local, offer) {
        (Some(local), _) if local.settles(wanted) => kept(local),
        (_, Some(Offer::Image(said))) => {
            verdict(said, format!("says that it is for {said}, in the registry"))
        }
        (_, Some(Offer::Index(all))) => match all.iter().find(|said| may_be_base(said, wanted)) {
            Some(said) => Found::Right(format!("has {said}, in the registry")),
            None => {
                let all: Vec<String> = all.iter().map(ToString::to_string).collect();
                Found::Wrong(format!("has only {}, in the registry", all.join(", ")))
            }
        },
        // The engine cannot pull another one either.
        (Some(local), Some(Offer::Unknown(_))) if !local.may_have_others => kept(local),
        (_, Some(Offer::Unknown(why))) => Found::Unchecked(why.clone()),
        (_, None) => Found::Unchecked(format!("{builder} alone knows what that name means")),
    }
}

/// What to do about a base that is wrong. That an engine holds another platform of a base says nothing against the base:
/// its platform metadata is never to be changed for that.
fn way_out(
    builder: &str,
    local: Option<&Local>,
    offer: Option<&Offer>,
    base: &Base,
    wanted: &Platform,
) -> String {
    let (name, built) = (&base.name, &base.platform);
    let is_offered = match offer {
        Some(Offer::Index(all)) => all.iter().any(|said| may_be_base(said, wanted)),
        Some(Offer::Image(said)) => may_be_base(said, wanted),
        Some(Offer::Unknown(_)) | None => false,
    };
    // Only the classic builder of docker takes what it has.
    if is_offered && local.is_some_and(|local| local.is_taken_blindly) {
        let docker = match builder.split_once(':') {
            Some((docker, context)) => format!("{docker} --context {context}"),
            None => builder.to_string(),
        };
        return format!(
            "the registry has it for {wanted}, but the classic builder takes the one that it holds: set \
             DOCKER_BUILDKIT=1; or run `{docker} pull --platform {wanted} {name}` and release one platform at a \
             time, with --only {built}"
        );
    }
    match (local, offer) {
        (None, Some(Offer::Image(_))) => {
            format!(
                "name a base image for {wanted}; `config-patcher verify {name}` shows what its binaries are for"
            )
        }
        _ => format!("name a base image for {wanted}"),
    }
}

/// Whether an image that says `said` may be below one for `wanted`: the same machine, of no higher level. An arm image
/// without a variant says nothing of its level.
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

/// A base of another platform stops the release before anything is built. All of them are told at once.
pub fn refuse_wrong(request: &Request, bases: &[Base]) -> Result<(), Error> {
    let wrong: Vec<String> = bases
        .iter()
        .filter(|base| matches!(base.found, Found::Wrong(_)))
        .map(|base| {
            let out = if base.way_out.is_empty() { String::new() } else { format!("; {}", base.way_out) };
            format!("{}, but the image is for {}{out}", base.shown(), base.platform)
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let doing = format!("release {}", request.spec.image);
    let why = format!("{} of {} base images are of another platform", wrong.len(), bases.len());
    Err(Error::new(Exit::CheckFailed, doing, why).hint("nothing was built").problems(wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_the_engine_would_take_is_what_counts() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let check = |local: Option<(&str, bool)>, offer: Option<Offer>, said: &str| {
            let local = local.map(|(said, is_taken_blindly)| Local {
                platform: platform(said),
                is_taken_blindly,
                may_have_others: false,
            });
            let found = judge("docker", local.as_ref(), offer.as_ref(), &platform("linux/arm64"));
            assert_eq!(format!("{found:?}"), said, "{local:?} {offer:?}");
        };
        let index = |all: &[&str]| Some(Offer::Index(all.iter().map(|text| platform(text)).collect()));
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
        check(None, image("linux/amd64"), r#"Wrong("says that it is for linux/amd64, in the registry")"#);
        check(
            None,
            image("linux/arm64/v8"),
            r#"Right("says that it is for linux/arm64/v8, in the registry")"#,
        );
        check(None, unknown(), r#"Unchecked("no route")"#);
        let shared =
            Local { platform: platform("linux/amd64"), is_taken_blindly: false, may_have_others: true };
        let found = judge("docker", Some(&shared), unknown().as_ref(), &platform("linux/arm64"));
        assert_eq!(found, Found::Unchecked("no route".into()));
        check(None, None, r#"Unchecked("docker alone knows what that name means")"#);
    }

    #[test]
    fn a_base_that_the_engine_holds_for_another_platform_is_pulled_not_changed() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        let wanted = platform("linux/arm64");
        let base = Base {
            platform: wanted.clone(),
            dockerfile: PathBuf::from("Dockerfile"),
            line: 1,
            name: "debian:12".into(),
            found: Found::Unchecked(String::new()),
            way_out: String::new(),
        };
        let check = |builder: &str, local: Option<bool>, offer: Option<Offer>, said: &[&str]| {
            let local = local.map(|is_taken_blindly| Local {
                platform: platform("linux/amd64"),
                is_taken_blindly,
                may_have_others: false,
            });
            let text = way_out(builder, local.as_ref(), offer.as_ref(), &base, &wanted);
            assert!(said.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains("config-patcher fix"), "{text}");
            assert_eq!(text.contains(" pull "), said.iter().any(|part| part.contains(" pull ")), "{text}");
        };
        let both = || Some(Offer::Index(vec![platform("linux/amd64"), platform("linux/arm64")]));
        let pull =
            ["`docker pull --platform linux/arm64 debian:12`", "DOCKER_BUILDKIT=1", "--only linux/arm64"];
        check("docker", Some(true), both(), &pull);
        check(
            "docker:far",
            Some(true),
            both(),
            &["`docker --context far pull --platform linux/arm64 debian:12`"],
        );
        let other = ["name a base image for linux/arm64"];
        check("docker", Some(true), Some(Offer::Index(vec![platform("linux/amd64")])), &other);
        check("docker", Some(true), Some(Offer::Unknown("no route".into())), &other);
        check("podman", Some(false), Some(Offer::Unknown("no route".into())), &other);
        check("buildah", Some(false), None, &other);
        check(
            "docker",
            None,
            Some(Offer::Image(platform("linux/amd64"))),
            &["config-patcher verify debian:12"],
        );
    }
}
