use super::*;
use image_evidence::start::{FailureCause, StartFailure};
use image_model::manifest::media_type;

/// `INDEX DECLARED BINARIES`, `-` for an entry without a platform and for undetermined binaries, and then the
/// decision: `keep`, a platform, or `rebuild` with the reasons.
#[track_caller]
fn check(rows: &[(&str, &str)]) {
    check_by(decide, rows);
}

/// The same for another decision; `none` in place of INDEX is a single image.
#[track_caller]
fn check_by(decide: fn(&[JudgedImage<'_>]) -> Vec<Decision>, rows: &[(&str, &str)]) {
    let images: Vec<&str> = rows.iter().map(|(row, _)| *row).collect();
    with_images(&images, |images| {
        let found: Vec<String> = decide(images).iter().map(shown).collect();
        let wanted: Vec<&str> = rows.iter().map(|(_, wanted)| *wanted).collect();
        assert_eq!(found, wanted, "{rows:?}");
    });
}

/// Checks for which of these images `fix --from-index` is the advice.
#[track_caller]
fn check_from_index(rows: &[(&str, bool)]) {
    let images: Vec<&str> = rows.iter().map(|(row, _)| *row).collect();
    with_images(&images, |images| {
        let decisions = decide(images);
        for (at, (row, wanted)) in rows.iter().enumerate() {
            assert_eq!(is_made_from_index(images, &decisions, at), *wanted, "{row} of {rows:?}");
        }
    });
}

fn with_images(rows: &[&str], then: impl FnOnce(&[JudgedImage<'_>])) {
    let words: Vec<Vec<&str>> = rows.iter().map(|row| row.split(' ').collect()).collect();
    let platform = |text: &str| -> Platform {
        let (os, rest) = text.split_once('/').unwrap();
        let (architecture, variant) = rest.split_once('/').map_or((rest, None), |(a, v)| (a, Some(v)));
        // Not parsed: an alias stays an alias.
        Platform::new(os, architecture, variant)
    };
    let verdicts: Vec<Verdict> = words
        .iter()
        .map(|row| {
            let binaries = (row[2] != "-").then(|| platform(row[2]));
            let kind = match &binaries {
                None => VerdictKind::Undetermined,
                Some(binaries) if runs_on(&platform(row[1]), binaries) => VerdictKind::Consistent,
                Some(binaries) if row[1].starts_with("linux/") && binaries.os != "linux" => {
                    VerdictKind::WouldNotStart
                }
                Some(_) => VerdictKind::Mislabeled,
            };
            let failure = binaries.clone().filter(|_| kind == VerdictKind::WouldNotStart);
            let failure = failure.map(|platform| StartFailure {
                file: "/app".into(),
                role: "entrypoint",
                layer: Some(0),
                needed_by: None,
                cause: FailureCause::OtherSystem { platform },
            });
            Verdict { kind, binaries, reasons: Vec::new(), files: Vec::new(), failure }
        })
        .collect();
    let declared: Vec<Platform> = words.iter().map(|row| platform(row[1])).collect();
    let entries: Vec<Descriptor> = words
        .iter()
        .map(|row| {
            let digest = image_model::digest::Digest::of(row.concat().as_bytes());
            let said = (!matches!(row[0], "-" | "none")).then(|| platform(row[0]));
            Descriptor { platform: said, ..Descriptor::new(media_type::OCI_MANIFEST, digest, 1) }
        })
        .collect();
    let images: Vec<JudgedImage<'_>> = (0..rows.len())
        .map(|at| JudgedImage {
            entry: (words[at][0] != "none").then_some(&entries[at]),
            declared: &declared[at],
            verdict: Some(&verdicts[at]),
        })
        .collect();
    then(&images);
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Keep => "keep".to_string(),
        Decision::Relabel(platform) => platform.to_string(),
        Decision::Refuse(refusal) => match &refusal.reason {
            Reason::OtherSystem => "rebuild: system".into(),
            Reason::Unsound { is_duplicate, is_lost, .. } => {
                let twice = if *is_duplicate { " twice" } else { "" };
                format!("rebuild:{twice}{}", if *is_lost { " lost" } else { "" })
            }
        },
    }
}

const AMD64: (&str, &str) = ("linux/amd64 linux/amd64 linux/amd64", "keep");

#[test]
fn a_wrong_build_is_not_relabeled() {
    check(&[AMD64, ("linux/arm64 linux/arm64 linux/amd64", "rebuild: twice lost")]);
    check(&[AMD64, ("linux/arm64 linux/arm64 linux/amd64/v3", "rebuild: lost")]);
    check(&[AMD64, ("linux/arm64 linux/arm64 linux/s390x", "rebuild: lost")]);
    check(&[AMD64, ("- linux/arm64 linux/amd64", "rebuild: twice lost")]);
    // An undetermined member counts.
    check(&[
        ("linux/amd64 linux/amd64 -", "keep"),
        ("linux/arm64 linux/arm64 linux/amd64", "rebuild: twice lost"),
    ]);
    // Equality follows containerd.
    check(&[
        ("linux/arm64/v8 linux/arm64 linux/arm64", "keep"),
        ("linux/amd64 linux/amd64 linux/arm64", "rebuild: twice lost"),
    ]);
}

#[test]
fn a_relabel_that_results_in_a_valid_index_is_planned() {
    // moby#36552
    check(&[AMD64, ("linux/amd64 linux/amd64 linux/arm/v7", "linux/arm/v7")]);
    check(&[AMD64, ("linux/arm64 linux/amd64 linux/arm64", "linux/arm64")]);
    check(&[("linux/amd64 linux/amd64 linux/arm64", "linux/arm64")]);
    // The index entry is wrong, and nothing else is for its platform.
    check(&[AMD64, ("linux/s390x linux/arm64 linux/arm64", "linux/arm64")]);
    // The index entry is wrong, but there is an image for the right platform already.
    check(&[AMD64, ("linux/arm64 linux/amd64 linux/amd64", "rebuild: twice lost")]);
    // Exchanged.
    check(&[
        ("linux/amd64 linux/amd64 linux/arm64", "linux/arm64"),
        ("linux/arm64 linux/arm64 linux/amd64", "linux/amd64"),
    ]);
    // One relabel depends on another one that is refused.
    check(&[
        AMD64,
        ("linux/arm64 linux/arm64 linux/amd64", "rebuild: twice lost"),
        ("linux/arm64 linux/s390x linux/s390x", "linux/s390x"),
    ]);
    check(&[
        ("linux/amd64 linux/amd64 linux/arm64", "rebuild: lost"),
        ("linux/arm64 linux/arm64 linux/s390x", "rebuild: lost"),
    ]);
}

#[test]
fn levels_are_relabeled_unless_another_member_has_the_platform() {
    check(&[AMD64, ("linux/arm/v6 linux/arm/v6 linux/arm/v7", "linux/arm/v7")]);
    check(&[
        ("linux/arm/v6 linux/arm/v6 linux/arm/v7", "rebuild: twice lost"),
        ("linux/arm/v7 linux/arm/v7 linux/arm/v7", "keep"),
    ]);
    check(&[
        ("linux/arm/v6 linux/arm/v6 linux/arm/v7", "rebuild: twice lost"),
        ("linux/arm linux/arm linux/arm/v6", "keep"),
    ]);
    // The variant of the index platform, if the binaries match it.
    check(&[AMD64, ("linux/arm/v7 linux/amd64 linux/arm", "linux/arm/v7")]);
    check(&[AMD64, ("linux/arm/v7 linux/arm linux/arm", "linux/arm/v7")]);
}

#[test]
fn a_program_for_another_system_is_never_relabeled() {
    check(&[("linux/arm64 linux/arm64 darwin/arm64", "rebuild: system")]);
    check(&[AMD64, ("linux/amd64 linux/amd64 windows/amd64", "rebuild: system")]);
    check(&[("windows/amd64 windows/amd64 linux/amd64", "rebuild: system")]);
    check(&[("linux/amd64 windows/amd64 linux/amd64", "linux/amd64")]);
    check(&[("windows/amd64 linux/amd64 windows/amd64", "windows/amd64")]);
    check(&[("linux/amd64 / darwin/amd64", "rebuild: system")]);
    check(&[("- / linux/arm64", "linux/arm64")]);
}

#[test]
fn an_alias_in_a_config_is_normalized_in_the_index() {
    check(&[("linux/arm64 linux/aarch64 linux/arm64", "linux/arm64")]);
    check(&[("linux/aarch64 linux/arm64 linux/arm64", "linux/arm64")]);
    check(&[("linux/aarch64 linux/amd64 linux/arm64", "linux/arm64")]);
}

#[test]
fn a_variant_is_declared_where_it_is_proven_and_no_platform_is_lost() {
    let check = |rows: &[(&str, &str)]| check_by(decide_variants, rows);
    check(&[("none linux/amd64 linux/amd64/v3", "linux/amd64/v3")]);
    check(&[("none linux/amd64 linux/amd64", "keep")]);
    check(&[("none linux/amd64 -", "keep")]);
    check(&[("none linux/arm linux/arm/v6", "linux/arm/v6")]);
    // A higher variant is kept: files that are not executed may need it.
    check(&[("none linux/arm/v7 linux/arm/v6", "linux/arm/v7")]);
    check(&[("none linux/arm/v6 linux/arm/v7", "linux/arm/v7")]);
    check(&[("none linux/amd64/v2 linux/amd64/v3", "linux/amd64/v3")]);
    // Binaries for another architecture.
    check(&[("none linux/arm64 linux/amd64/v3", "keep")]);
    let arm = ("linux/arm linux/arm linux/arm/v6", "linux/arm/v6");
    check(&[AMD64, arm]);
    check(&[("linux/arm/v7 linux/arm linux/arm/v7", "linux/arm/v7"), AMD64]);
    // The seed of a matrix build: two images for one platform, of which one was built for a level.
    check(&[AMD64, ("linux/amd64 linux/amd64 linux/amd64/v3", "linux/amd64/v3")]);
    // No image for linux/amd64 would be left, and engines would not take the other one.
    check(&[("linux/amd64 linux/amd64 linux/amd64/v3", "rebuild: lost"), arm]);
    check(&[("linux/amd64 linux/amd64 linux/amd64/v3", "rebuild: lost")]);
    check(&[("linux/amd64 linux/amd64/v3 linux/amd64/v3", "rebuild: lost")]);
    let v3 = ("linux/amd64/v3 linux/amd64/v3 linux/amd64/v3", "linux/amd64/v3");
    check(&[v3, ("linux/amd64 linux/amd64 linux/amd64/v3", "rebuild: twice lost")]);
    check(&[("linux/amd64/v2 linux/amd64/v2 linux/amd64/v3", "linux/amd64/v3"), AMD64]);
}

#[test]
fn from_index_is_advised_if_it_changes_only_what_is_proven() {
    let wrong = ("linux/arm64 linux/amd64 linux/arm64", true);
    let right = ("linux/amd64 linux/amd64 linux/amd64", false);
    check_from_index(&[right, wrong]);
    check_from_index(&[wrong, ("linux/s390x linux/amd64 linux/s390x", true)]);
    check_from_index(&[right, ("linux/aarch64 linux/arm64 linux/arm64", true)]);
    // A wrong build stays what it is.
    check_from_index(&[right, wrong, ("linux/s390x linux/s390x linux/amd64", false)]);
    // So does a wrong entry where the declared platform is that of the entry.
    check_from_index(&[wrong, ("linux/amd64 linux/amd64 linux/s390x", false)]);
    let not_alone = ("linux/arm64 linux/amd64 linux/arm64", false);
    // The entry is wrong, or nothing shows which of the two is.
    check_from_index(&[not_alone, ("linux/386 linux/amd64 linux/amd64", false)]);
    check_from_index(&[not_alone, ("linux/s390x linux/riscv64 -", false)]);
    check_from_index(&[not_alone, ("- linux/amd64 linux/amd64", false)]);
    check_from_index(&[("linux/amd64 linux/amd64 linux/arm64", false)]);
}
