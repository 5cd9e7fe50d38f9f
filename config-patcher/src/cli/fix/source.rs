//! The options of `fix` that specify where the right platform comes from.
//!
//! Until 1.0, `--platform` without `--set-platform` declares a platform, as in 0.1.0; with it, it selects a member.

use crate::plan::{MemberSelector, RequestedPlatforms};
use clap::Args;
use error::{Error, Exit};
use image_model::digest::DigestError;
use image_model::platform::{Platform, PlatformError};

// A heading for each option: `next_help_heading` would apply to the options after these as well.
const SOURCE: &str = "Platform source (exactly one is required)";

#[derive(Args)]
pub struct SourceArgs {
    /// Declare this platform, in its index entry too: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, help_heading = SOURCE, value_name = "PLATFORM", value_parser = Platform::parse_known, conflicts_with_all = ["from_binaries", "from_index", "variant_from_binaries"])]
    set_platform: Option<Platform>,
    /// With --set-platform: select one member of an index, by its index platform or its digest
    #[arg(long, value_name = "PLATFORM|DIGEST", value_parser = parse_member, conflicts_with_all = ["from_binaries", "from_index", "variant_from_binaries"])]
    platform: Option<MemberSelector>,
    /// The name of --platform in 0.1.0
    #[arg(long, hide = true, value_name = "PLATFORM|DIGEST", value_parser = parse_member, conflicts_with_all = ["from_binaries", "from_index", "variant_from_binaries"])]
    member: Option<MemberSelector>,
    /// Declare the platform that the binaries were built for; refuse images whose binaries disagree
    #[arg(long, help_heading = SOURCE, conflicts_with = "from_index")]
    from_binaries: bool,
    /// Declare, for each member of an index, its index platform
    #[arg(long, help_heading = SOURCE)]
    from_index: bool,
    /// Declare the variant that the executed files record, such as v3 of amd64 or v6 of arm; keep images without a mark
    #[arg(long, help_heading = SOURCE, conflicts_with_all = ["from_binaries", "from_index"])]
    variant_from_binaries: bool,
}

/// Source of the right platform.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one value per run")]
pub enum PlatformSource {
    Requested(RequestedPlatforms),
    /// The binaries, which must be read first.
    Binaries,
    /// The CPU levels that the binaries record: only variants change.
    Variants,
}

impl SourceArgs {
    /// The source, and the options to write instead if these have another meaning from 1.0 on. `image` is for the error.
    ///
    /// # Errors
    /// Usage, if the options name no source, or two members.
    pub fn source(&self, image: &str) -> Result<(PlatformSource, Option<Vec<String>>), Error> {
        let usage =
            |why: &str, hint: &str| Error::new(Exit::Usage, format!("fix \"{image}\""), why).hint(hint);
        match (&self.set_platform, &self.platform, &self.member) {
            _ if self.from_binaries => Ok((PlatformSource::Binaries, None)),
            _ if self.variant_from_binaries => Ok((PlatformSource::Variants, None)),
            _ if self.from_index => Ok((PlatformSource::Requested(RequestedPlatforms::FromIndex), None)),
            (Some(_), Some(_), Some(_)) => {
                Err(usage("--member is the former name of --platform", "omit one of the two"))
            }
            (Some(wanted), platform, member) => {
                Ok((declare(wanted, platform.as_ref().or(member.as_ref())), None))
            }
            (None, Some(MemberSelector::Platform(platform)), member) => {
                let wanted = Platform::parse_known(&platform.to_string()).map_err(|error| {
                    usage(&error.to_string(), "--platform without --set-platform declares a platform")
                })?;
                let selected = member.iter().flat_map(|member| ["--platform".into(), member.to_string()]);
                let options = ["--set-platform".into(), wanted.to_string()].into_iter().chain(selected);
                Ok((declare(&wanted, member.as_ref()), Some(options.collect())))
            }
            (None, Some(MemberSelector::Digest(_)), _) | (None, None, Some(_)) => {
                Err(usage("no platform to declare is given", "add --set-platform PLATFORM"))
            }
            (None, None, None) => Err(usage(
                "the source of the platform is not given",
                "add --set-platform PLATFORM, --from-binaries, --from-index or --variant-from-binaries",
            )),
        }
    }
}

fn declare(platform: &Platform, member: Option<&MemberSelector>) -> PlatformSource {
    let platform = platform.clone();
    PlatformSource::Requested(match member {
        Some(member) => RequestedPlatforms::Member { member: member.clone(), platform },
        None => RequestedPlatforms::Image(platform),
    })
}

fn parse_member(text: &str) -> Result<MemberSelector, String> {
    if text.contains(':') && text.starts_with("sha") {
        return text.parse().map(MemberSelector::Digest).map_err(|error: DigestError| error.to_string());
    }
    text.parse().map(MemberSelector::Platform).map_err(|error: PlatformError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        source: SourceArgs,
    }

    /// Parses a command line to `index`, `binaries`, `P` or `P of MEMBER`, and `deprecated`; or `usage`.
    fn meaning(options: &str) -> String {
        let words = std::iter::once("fix").chain(options.split_whitespace());
        let Ok(command) = Command::try_parse_from(words) else { return "usage".into() };
        let (source, instead) = match command.source.source("x") {
            Ok(found) => found,
            Err(error) => {
                assert_eq!(error.kind, Exit::Usage, "{options}: {error}");
                return "usage".into();
            }
        };
        let text = match source {
            PlatformSource::Binaries => "binaries".to_string(),
            PlatformSource::Variants => "variants".into(),
            PlatformSource::Requested(RequestedPlatforms::FromIndex) => "index".into(),
            PlatformSource::Requested(RequestedPlatforms::Image(platform)) => platform.to_string(),
            PlatformSource::Requested(RequestedPlatforms::Member { member, platform }) => {
                format!("{platform} of {member}")
            }
            PlatformSource::Requested(RequestedPlatforms::Members(_)) => unreachable!(),
        };
        match instead {
            None => text,
            Some(instead) => {
                // The same meaning as the old form, without a warning.
                assert_eq!(meaning(&instead.join(" ")), text, "{options}");
                format!("{text}, deprecated")
            }
        }
    }

    #[test]
    fn every_combination_of_options_has_one_meaning() {
        const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let rows = [
            // As in 0.1.0.
            ("--platform linux/arm/v7", "linux/arm/v7, deprecated"),
            ("--platform linux/aarch64", "linux/arm64, deprecated"),
            ("--member linux/arm --platform linux/arm/v7", "linux/arm/v7 of linux/arm, deprecated"),
            ("--platform linux/arm/v7 --member DIGEST", "linux/arm/v7 of DIGEST, deprecated"),
            ("--member linux/anything --platform linux/arm64", "linux/arm64 of linux/anything, deprecated"),
            ("--platform armv7", "usage"),
            ("--platform armv7l", "usage"),
            ("--platform linux/armv7", "usage"),
            ("--platform DIGEST", "usage"),
            ("--member DIGEST", "usage"),
            ("--member linux/arm", "usage"),
            ("--member linux/arm --platform DIGEST", "usage"),
            ("--member linux/arm --platform linux/armv7", "usage"),
            ("--member linux/arm --from-index", "usage"),
            ("--member linux/arm --from-binaries", "usage"),
            ("--platform linux/arm --from-index", "usage"),
            ("--platform linux/arm --from-binaries", "usage"),
            ("--platform linux/arm --platform linux/arm64", "usage"),
            ("--from-index", "index"),
            ("--from-binaries", "binaries"),
            ("--from-index --from-binaries", "usage"),
            ("", "usage"),
            // New.
            ("--set-platform linux/arm/v7", "linux/arm/v7"),
            ("--set-platform linux/arm/v7 --platform linux/amd64", "linux/arm/v7 of linux/amd64"),
            ("--platform linux/amd64 --set-platform linux/arm/v7", "linux/arm/v7 of linux/amd64"),
            ("--set-platform linux/arm/v7 --platform linux/anything", "linux/arm/v7 of linux/anything"),
            ("--set-platform linux/arm/v7 --platform DIGEST", "linux/arm/v7 of DIGEST"),
            ("--set-platform linux/arm/v7 --member linux/amd64", "linux/arm/v7 of linux/amd64"),
            ("--set-platform linux/arm/v7 --member DIGEST", "linux/arm/v7 of DIGEST"),
            ("--set-platform linux/arm/v7 --member linux/amd64 --platform linux/amd64", "usage"),
            ("--set-platform DIGEST", "usage"),
            ("--set-platform armv7", "usage"),
            ("--set-platform linux/armv7", "usage"),
            ("--set-platform linux/arm/v7 --from-index", "usage"),
            ("--set-platform linux/arm/v7 --from-binaries", "usage"),
            ("--variant-from-binaries", "variants"),
            ("--variant-from-binaries --from-binaries", "usage"),
            ("--variant-from-binaries --from-index", "usage"),
            ("--variant-from-binaries --set-platform linux/arm/v7", "usage"),
            ("--variant-from-binaries --platform linux/arm/v7", "usage"),
            ("--set-platform linux/arm/v7 --set-platform linux/arm64", "usage"),
        ];
        for (options, expected) in rows {
            let (options, expected) = (options.replace("DIGEST", DIGEST), expected.replace("DIGEST", DIGEST));
            assert_eq!(meaning(&options), expected, "{options}");
        }
    }
}
