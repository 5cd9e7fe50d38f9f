//! `create`, `annotate` and `rm`: drafts of indexes, as in `docker manifest`.

use super::Session;
use super::fetch::fetch_members;
use crate::TOOL;
use crate::draft::{Drafts, refers_to, sort_as_docker, valid_spec, with_default_tag};
use crate::plan::{refuse_problems, select_image};
use crate::spec::{Member, PublishRequest, Spec, SpecSource, canonical_platform};
use clap::Args;
use cli::{Format, Output, print_json, print_line, suggest};
use error::Error;
use error::Exit;
use image_model::platform::Platform;
use image_model::reference::{Reference, RegistryRef};
use std::collections::BTreeMap;
use strict_yaml::Problem;

#[derive(Args)]
pub struct Create {
    /// Name of the index
    #[arg(value_parser = draft_name)]
    list: RegistryRef,
    /// Images for the index
    #[arg(required = true, value_name = "IMAGE", value_parser = draft_name)]
    images: Vec<RegistryRef>,
    /// Add the images to an existing draft
    #[arg(long, short)]
    amend: bool,
}

#[derive(Args)]
pub struct Annotate {
    /// Name of the draft
    #[arg(value_parser = draft_name)]
    list: RegistryRef,
    /// Image in the draft
    image: RegistryRef,
    /// Architecture
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Operating system
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    variant: Option<String>,
    /// Version of the operating system
    #[arg(long, value_name = "VERSION")]
    os_version: Option<String>,
    /// Features of the operating system, added to those already set
    #[arg(long, value_name = "FEATURE,...", value_delimiter = ',')]
    os_features: Vec<String>,
}

#[derive(Args)]
pub struct Remove {
    /// Names of the drafts
    #[arg(required = true, value_name = "LIST", value_parser = draft_name)]
    lists: Vec<RegistryRef>,
}

/// Parses the name of a draft, or of an image in one.
pub fn draft_name(text: &str) -> Result<RegistryRef, String> {
    match text.parse() {
        Ok(Reference::Registry(image)) => Ok(image),
        Ok(_) => Err(format!(
            "drafts are for registries only; for other images, use: {}",
            suggest(TOOL, &["push", "from-spec"])
        )),
        Err(error) => Err(error.to_string()),
    }
}

pub fn create(args: &Create, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    let drafts = Drafts::of_user()?;
    if args.list.digest.is_some() {
        let why = "a digest cannot be chosen; it follows from the content";
        return Err(Error::bad_input(format!("draft \"{}\"", args.list), why).hint("use a tag"));
    }
    let list = with_default_tag(&args.list);
    let refuse_another = || {
        Error::conflict(format!("draft \"{list}\""), "a draft of this name already exists").hint(format!(
            "add to it with --amend, or remove it first: {}",
            suggest(TOOL, &["rm", &list.to_string()])
        ))
    };
    if !args.amend && drafts.read(&list)?.is_some() {
        return Err(refuse_another());
    }
    check_images(args, &list, session, output)?;
    let _lock = drafts.lock()?;
    let mut members = match drafts.read(&list)? {
        Some(_) if !args.amend => return Err(refuse_another()),
        Some(draft) => valid_spec(draft)?.members,
        None => Vec::new(),
    };
    for image in &args.images {
        if !members.iter().any(|member| refers_to(member, image)) {
            members.push(member(image, 0));
        }
    }
    sort_as_docker(&mut members);
    let path = drafts.write(&session.temp_files, &list, &members)?;
    output.verbose_info(&format!("draft: {}", path.display()));
    match output.format {
        Format::Text => print_line(&format!("Created manifest list {list}")),
        Format::Json => {
            let images: Vec<String> = members.iter().map(|member| member.image.to_string()).collect();
            let draft = serde_json::json!({
                "schemaVersion": 2, "list": list.to_string(), "draft": path, "images": images,
            });
            print_json(&draft.to_string());
        }
    }
    Ok(Exit::Done)
}

fn member(image: &RegistryRef, line: usize) -> Member {
    Member {
        image: Reference::Registry(with_default_tag(image)),
        platform: Platform::default(),
        annotations: BTreeMap::new(),
        line,
    }
}

/// Reports missing images and artifacts now, not only when the index is pushed.
fn check_images(
    args: &Create,
    list: &RegistryRef,
    session: &Session<'_>,
    output: &Output,
) -> Result<(), Error> {
    let members = args.images.iter().enumerate().map(|(i, image)| member(image, i + 1)).collect();
    let spec = Spec {
        image: Reference::Registry(list.clone()),
        tags: Vec::new(),
        members,
        annotations: BTreeMap::new(),
        notes: Vec::new(),
    };
    let source = SpecSource::command_line(format!("draft \"{list}\""));
    let request = PublishRequest { source, spec: Some(spec), problems: Vec::new(), ignore_missing: false };
    let stores = session.stores(&Reference::Registry(list.clone()))?;
    let found = fetch_members(&request, &stores, output)?;
    let problem = |one: &crate::plan::FetchedMember| {
        select_image(one).err().map(|text| Problem { line: one.member.line, text })
    };
    let problems: Vec<Problem> = found.iter().filter_map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(refuse_problems(&request.source, &problems)) }
}

pub fn annotate(args: &Annotate, session: &Session<'_>, output: &Output) -> Result<Exit, Error> {
    let drafts = Drafts::of_user()?;
    let _lock = drafts.lock()?;
    let draft = drafts.read(&args.list)?.ok_or_else(|| drafts.missing("annotate", &args.list))?;
    let mut members = valid_spec(draft)?.members;
    let doing = || format!("annotate \"{}\" in \"{}\"", args.image, with_default_tag(&args.list));
    let Some(member) = members.iter_mut().find(|member| refers_to(member, &args.image)) else {
        return Err(Error::not_found(doing(), "the draft does not contain this image"));
    };
    let mut platform = member.platform.clone();
    platform.architecture = args.arch.clone().unwrap_or(platform.architecture);
    platform.os = args.os.clone().unwrap_or(platform.os);
    platform.variant = args.variant.clone().filter(|text| !text.is_empty()).or(platform.variant);
    platform.os_version = args.os_version.clone().filter(|text| !text.is_empty()).or(platform.os_version);
    for feature in &args.os_features {
        if !platform.os_features.contains(feature) {
            platform.os_features.push(feature.clone());
        }
    }
    member.platform = canonical_platform(platform).map_err(|why| Error::bad_input(doing(), why))?;
    let path = drafts.write(&session.temp_files, &args.list, &members)?;
    output.verbose_info(&format!("draft: {}", path.display()));
    Ok(Exit::Done)
}

/// Removes all drafts that can be removed, then reports the others together.
pub fn remove(args: &Remove) -> Result<Exit, Error> {
    let drafts = Drafts::of_user()?;
    let failures: Vec<Error> = args.lists.iter().filter_map(|list| drafts.remove(list).err()).collect();
    match failures.as_slice() {
        [] => Ok(Exit::Done),
        [one] => Err(one.clone()),
        [first, ..] => {
            let lines = failures.iter().map(|failure| format!("cannot {failure}")).collect();
            let why = format!("{} of {} drafts could not be removed", failures.len(), args.lists.len());
            Err(Error::new(first.kind, "remove drafts", why).problems(lines))
        }
    }
}
