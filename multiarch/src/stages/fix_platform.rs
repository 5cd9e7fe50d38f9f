//! Makes the config of each image declare the platform of its key in the spec.

use crate::context::ReleaseContext;
use crate::report::Step;
use crate::request::Request;
use crate::spec::OnMismatch;
use crate::stages::build::Member;
use config_patcher::plan::{Relabeled, RequestedPlatforms, relabel};
use error::{Error, Exit};
use image_store::plan::{MovedTag, apply, plan};
use image_store::store::oci_layout::OciLayout;
use image_store::tree::{TreeNode, read_tree_below};
use registry_client::meter::Meter;

/// With `on-mismatch: fix`, rewrites configs that declare another platform than the spec.
///
/// # Errors
/// `CheckFailed` with `on-mismatch: fail` if a config declares another platform; all such images are listed.
pub fn fix_platform(
    context: &ReleaseContext<'_>,
    members: Vec<Member>,
    staging: &OciLayout,
) -> Result<Vec<Member>, Error> {
    context.begin(Step::FixPlatform);
    match context.request.spec.on_mismatch {
        OnMismatch::Fix => members
            .into_iter()
            .map(|member| {
                let member = ensure_platform(member, staging)?;
                let (manifest, config) =
                    (member.image.document.digest(), &member.image.manifest.config.digest);
                context.reporter.state.set_fixed(&member.platform, manifest, config, member.declared());
                Ok(member)
            })
            .collect(),
        OnMismatch::Fail => refuse_mislabeled(&context.request, &members).map(|()| members),
    }
}

/// The member with a config that declares its platform. Unchanged bytes are preserved.
fn ensure_platform(member: Member, staging: &OciLayout) -> Result<Member, Error> {
    let subject = format!("the image for {}", member.platform);
    let node = TreeNode::Image(member.image.clone());
    let Relabeled::Changed(changes) =
        relabel(&node, &RequestedPlatforms::Image(member.platform.clone()), &subject)?
    else {
        return Ok(member);
    };
    let root = changes.root.clone();
    let writes = plan(changes.new_parts(), staging, &[])?;
    apply(&writes, staging, MovedTag::Refuse, &Meter::default(), &|_| {})?;
    match read_tree_below(staging, root, 0)? {
        TreeNode::Image(image) => Ok(Member { image, ..member }),
        TreeNode::Index(_) => {
            Err(Error::bad_input(format!("fix {subject}"), "it is an index, not one image"))
        }
        TreeNode::Unread(unread) => Err(unread.error),
    }
}

fn refuse_mislabeled(request: &Request, members: &[Member]) -> Result<(), Error> {
    let wrong: Vec<String> = members
        .iter()
        // Variants that mean the same are no mismatch: BuildKit writes arm64 where the spec has arm64/v8.
        .filter(|member| !member.built_as.satisfies_entry(&member.platform))
        .map(|member| format!("{}: its config declares {}", member.platform, member.built_as))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let doing = format!("release {}", request.spec.image);
    let why = format!("the declared platform is wrong in {} of {} images", wrong.len(), members.len());
    let hint = "nothing was published; correct the builds, or write \"on-mismatch: fix\" in the spec";
    Err(Error::new(Exit::CheckFailed, doing, why).hint(hint).problems(wrong))
}
