//! Dockerfiles in rows: their bases, and what runs.

use super::*;

fn parse(text: &str, args: &[(&str, &str)]) -> Dockerfile {
    let args = args.iter().map(|(name, value)| ((*name).to_string(), Some((*value).to_string()))).collect();
    Dockerfile::parse(text, &BuildArgs(args), &"linux/arm/v7".parse().unwrap())
}

#[test]
fn bases_are_names_that_are_not_stages() {
    let check = |text: &str, args: &[(&str, &str)], bases: &[(usize, &str)]| {
        let found = parse(text, args);
        let found: Vec<(usize, &str)> =
            found.bases().map(|stage| (stage.line, stage.base.as_str())).collect();
        assert_eq!(found, bases, "{text}");
    };
    check("FROM alpine:3", &[], &[(1, "alpine:3")]);
    check("FROM scratch\nADD a /", &[], &[]);
    check("# c\n\nfrom golang AS build\nFROM scratch\nCOPY --from=build a /", &[], &[(3, "golang")]);
    check("FROM a as One\nFROM one", &[], &[(1, "a")]);
    check("ARG BASE=python:3-slim\nFROM arm32v7/$BASE", &[], &[(2, "arm32v7/python:3-slim")]);
    check("ARG BASE=x\nFROM ${BASE}", &[("BASE", "scratch")], &[]);
    check("ARG A\nFROM ${A:-b}/c:${TARGETARCH}${TARGETVARIANT:+-}$TARGETVARIANT", &[], &[(2, "b/c:arm-v7")]);
    check("FROM a \\\n  # not the end\n\n  AS b\nFROM b", &[], &[(1, "a")]);
    check("# escape=`\nFROM a `\n AS b\nFROM b\\c", &[], &[(2, "a"), (4, "b\\c")]);
    check("FROM --platform=linux/amd64 a\nRUN <<EOF\nFROM nowhere\nEOF\nFROM b", &[], &[(1, "a"), (5, "b")]);
    check("FROM a\nCOPY <<-'x' <<y /\nFROM n\n\tx\nFROM n\ny\nFROM b", &[], &[(1, "a"), (7, "b")]);
}

#[test]
fn programs_run_where_a_stage_of_the_image_has_a_run() {
    let check = |text: &str, runs: bool| assert_eq!(parse(text, &[]).runs_programs(), runs, "{text}");
    check("FROM alpine\nCOPY a /\nCMD [\"RUN\"]", false);
    check("FROM alpine\nrun true", true);
    check("FROM --platform=$BUILDPLATFORM golang AS b\nRUN go build\nFROM scratch\nCOPY --from=b a /", false);
    check("FROM --platform=$TARGETPLATFORM golang\nRUN go build", true);
    check("ARG P=${BUILDPLATFORM}\nFROM --platform=$P golang\nRUN go build", false);
    check("FROM --platform=linux/s390x golang\nRUN go build", true);
    check("FROM a\n# RUN x\nLABEL a=\\\nRUN", false);
    check("FROM a\nLABEL a=b\\\n\nRUN x", false);
    check("", false);
}

#[test]
fn only_stages_that_the_target_needs_are_considered() {
    let check = |text: &str, target: Option<&str>, bases: &[&str]| {
        let found = parse(text, &[]);
        let found: Vec<&str> = found.needed_bases(target).into_iter().map(|s| s.base.as_str()).collect();
        assert_eq!(found, bases, "{text}");
    };
    let per_machine = "FROM a AS x-amd64\nFROM b AS x-arm\nFROM x-${TARGETARCH}";
    check(per_machine, None, &["b"]);
    check(per_machine, Some("x-amd64"), &["a"]);
    check(per_machine, Some("0"), &["a"]);
    check(per_machine, Some("none"), &[]);
    check("FROM a AS one\nFROM b AS two\nFROM c\nCOPY --chown=1 --from=one x /", None, &["a", "c"]);
    check("FROM a\nFROM b\nFROM c\nCOPY --from=1 x /\nCOPY --from=image x /", None, &["b", "c"]);
    check("FROM a AS one\nFROM c\nRUN --mount=type=bind,from=one,target=/x true", None, &["a", "c"]);
    check("FROM a AS x\nFROM x AS x\nFROM x", None, &["a"]);
    check("", None, &[]);
}

#[test]
fn a_platform_is_that_of_the_target_the_builder_or_another() {
    let check = |from: &str, asked: Asked| {
        let found = parse(&format!("ARG P=linux/arm64 Q='linux/arm'\n{from}\n"), &[]);
        assert_eq!(found.stages[0].asked, asked, "{from}");
    };
    check("FROM a", Asked::Target);
    check("FROM --platform=$TARGETPLATFORM a", Asked::Target);
    check("FROM --platform=linux/$TARGETARCH/$TARGETVARIANT a", Asked::Target);
    check("FROM --platform=\"linux/arm\" a", Asked::Target);
    check("FROM --platform=$Q a", Asked::Target);
    check("FROM --platform=$UNKNOWN a", Asked::Target);
    check("FROM --platform=$BUILDPLATFORM a", Asked::Builder);
    check("FROM --platform=linux/$BUILDARCH a", Asked::Builder);
    check("FROM --platform=$P a", Asked::Named("linux/arm64".into()));
    check("FROM --platform=arm a", Asked::Target);
    check("FROM --platform=windows/amd64 a", Asked::Named("windows/amd64".into()));
    assert!(parse("FROM tools-$BUILDARCH", &[]).stages[0].is_the_builders_secret());
}

#[test]
fn the_root_is_the_first_base_of_the_target() {
    let check = |text: &str, target: Option<&str>, line: usize| {
        assert_eq!(parse(text, &[]).root(target).map(|stage| stage.line), Some(line), "{text}");
    };
    check("FROM a AS x\nFROM b AS y\nCOPY --from=x f /\nFROM y", None, 2);
    check("FROM a AS x\nFROM b AS y", Some("x"), 1);
    assert_eq!(parse("FROM a", &[]).root(Some("none")), None);
}

#[test]
fn stages_with_the_same_start_for_all_platforms_are_found() {
    let check = |text: &str, alike: bool| assert_eq!(parse(text, &[]).begins_alike(None), alike, "{text}");
    check("FROM scratch\nCOPY a /", true);
    check("FROM debian\nCOPY a /", false);
    check("FROM --platform=$BUILDPLATFORM go AS b\nFROM debian\nCOPY --from=b a /", true);
    check("FROM scratch AS unused\nFROM debian AS a\nFROM a", false);
}
