//! Manual pages, completion scripts, and the progress line.

use super::help::{Help, all_helps};
use crate::samples::Image;
use crate::tools::{User, program, run};
use image_store::store::oci_layout::OciLayout;
use multiarch_tests::fake_registry::{Act, FakeRegistry, Fault};
use multiarch_tests::need;
use multiarch_tests::world::{Skip, require};
use std::process::Command;
use std::time::Duration;

const TOOLS: [(&str, &[&str]); 2] = [
    ("config-patcher", &["INSPECT", "VERIFY", "FIX", "WHY"]),
    ("manifest-push", &["PUSH", "PUSH FROM\\-ARGS", "CREATE", "ANNOTATE", "RM", "EDIT", "COPY", "ROLLBACK"]),
];

#[test]
fn every_manual_page_has_all_commands() {
    let user = User::new();
    for (tool, commands) in TOOLS {
        let page = user.run(tool, &["man"]).exits(0).stdout;
        assert!(page.contains(&format!(".TH {tool} 1")), "{page}");
        for command in commands {
            let heading = format!(".SH COMMAND {}", command.replace("\\-", "-"));
            assert!(page.contains(&heading), "{heading} is not in:\n{page}");
        }
        assert!(!page.contains("COMPLETIONS"), "{page}");
        let once = page.matches("\\fB\\-\\-max\\-retry\\-after\\fR \\fI").count();
        assert_eq!(once, 1, "an option of all commands is listed once:\n{page}");
    }
}

#[test]
fn the_manual_page_of_binfmt_setup_has_its_commands_and_their_options() {
    let page = User::new().run("binfmt-setup", &["man"]).exits(0).stdout;
    let commands =
        ["STATUS", "REGISTER", "UNREGISTER", "PROBE", "RUN"].map(|name| format!(".SH COMMAND {name}\n"));
    for wanted in commands.iter().map(String::as_str).chain([".TH binfmt-setup 8", "\\-\\-replace"]) {
        assert!(page.contains(wanted), "{wanted} is not in:\n{page}");
    }
    assert!(!page.contains("COMPLETIONS"), "{page}");
    for heading in ["\"EXIT STATUS\"", "FILES", "EXAMPLES", "\"SEE ALSO\""] {
        assert_eq!(page.matches(&format!(".SH {heading}\n")).count(), 1, "{heading}:\n{page}");
    }
    assert!(!page.contains("EXTRA"), "{page}");
    for (exit, meaning) in error::Exit::MEANINGS {
        let row = format!("\\fB{}\\fR\n{}", exit as u8, meaning.replace('-', "\\-"));
        assert!(page.contains(&row), "{row}:\n{page}");
    }
}

/// The programs that use `cli::ProgramDocs`.
const DOCUMENTED: [&str; 4] = ["binfmt-setup", "config-patcher", "manifest-push", "multiarch"];

const ALL: [&str; 3] = ["binfmt-setup", "config-patcher", "manifest-push"];

/// The sections of man(7), and groff's output.
#[test]
fn a_manual_page_ends_with_exit_status_files_and_examples() {
    need!(pages_are_whole());
}

fn pages_are_whole() -> Result<(), Skip> {
    require(&["groff"])?;
    let user = User::new();
    for tool in ALL {
        let page = user.run(tool, &["man"]).exits(0).stdout;
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".SH ")).collect();
        assert!(
            headings.ends_with(&["\"EXIT STATUS\"", "FILES", "EXAMPLES", "VERSION", "\"SEE ALSO\""]),
            "{tool}: {headings:?}"
        );
        assert!(!headings.contains(&"EXTRA"), "{tool}: {headings:?}");
        let path = user.write("page", &page);
        let mut groff = Command::new("groff");
        groff.args(["-man", "-Tutf8", "-P-c", "-P-b", "-P-u", "-ww"]).arg(&path);
        let formatted = run(groff).exits(0);
        assert_eq!(formatted.stderr, "", "{tool}");
        let examples = formatted.stdout.split("\nEXAMPLES\n").nth(1).unwrap();
        assert!(examples.contains(&format!("{tool} ")), "{tool}: {examples}");
    }
    Ok(())
}

/// `--help` mentions the manual page and the completions.
#[test]
fn help_has_examples_exit_codes_and_the_way_to_the_manual() {
    let user = User::new();
    for tool in ALL {
        for args in [&["--help"][..], &["-h"], &["help"]] {
            let help = user.run(tool, args).exits(0).stdout;
            let parts = [
                "Examples:",
                "Exit status:",
                &format!("`{tool} man`"),
                &format!("`{tool} completions SHELL`"),
            ];
            for part in parts {
                assert!(help.contains(part), "{tool} {args:?}: {part} is not in:\n{help}");
            }
        }
    }
    let help = user.run("manifest-push", &["--help"]).exits(0).stdout;
    for form in ["oci:DIR", "oci-archive:FILE", "docker-archive:FILE", "docker-daemon:NAME"] {
        assert!(help.contains(form), "{form} is not in:\n{help}");
    }
}

#[test]
fn the_help_of_every_command_ends_with_examples_and_exit_codes() {
    for help in all_helps(&User::new()) {
        let Help { program, path, text, .. } = &help;
        if !DOCUMENTED.contains(program) || path.iter().any(|word| word == "binfmt") {
            continue;
        }
        let (_, examples) =
            text.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{program} {path:?}: {text}"));
        let (examples, codes) = examples.split_once("\nExit status:\n").unwrap_or_else(|| panic!("{text}"));
        let line = format!("{program} {}", path.join(" "));
        assert!(examples.contains(line.trim()), "{line}: {text}");
        assert!(codes.contains("\n  9   local I/O"), "{line}: {text}");
    }
}

#[test]
fn every_tool_has_completions_that_a_shell_can_read() {
    let user = User::new();
    for (tool, commands) in TOOLS {
        for shell in ["bash", "zsh", "fish"] {
            let script = user.run(tool, &["completions", shell]).exits(0).stdout;
            let word = commands[0].to_lowercase();
            assert!(script.contains(&word), "{word} is not in:\n{script}");
        }
        let script = user.run(tool, &["completions", "bash"]).exits(0).stdout;
        let path = user.write("completion.bash", script);
        let mut bash = Command::new("bash");
        bash.args(["-c", "source \"$1\" && complete -p \"$2\"", "bash"]).arg(path).arg(tool);
        let ran = run(bash).exits(0);
        assert!(ran.stdout.contains(tool), "{ran}");
        user.run(tool, &["completions", "cmd.exe"]).exits(2);
    }
}

#[test]
fn bash_completes_inside_of_a_command() {
    // As bash calls it: the command, the word, the previous word; COMPREPLY has the completions.
    let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); tool=$1
        call=$(complete -p \"$tool\" | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        \"$call\" \"$tool\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"
        echo \"${COMPREPLY[@]}\"";
    let user = User::new();
    let check = |line: &str, offered: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let script = user.run(words[0], &["completions", "bash"]).exits(0).stdout;
        let path = user.write("completion.bash", script);
        let mut bash = Command::new("bash");
        bash.args(["-c", ask, "bash"]).arg(path).args(&words);
        assert_eq!(run(bash).exits(0).stdout.trim(), offered, "{line}");
    };
    check("config-patcher fix --pl", "--platform --plain-http");
    check("config-patcher ver", "verify");
    check("manifest-push push from-args --pl", "--platforms --plain-http");
    check("manifest-push edit --rep", "--replace");
    check("manifest-push push from", "from-spec from-args");
    check("manifest-push edit --remove linux/arm64", "linux/arm64");
    check("multiarch release --only linux/ppc", "linux/ppc64le");
    check("binfmt-setup register --dr", "--dry-run");
    check("binfmt-setup unregister --pers", "--persist");
    check("binfmt-setup register linux/ppc64l", "linux/ppc64le");
    check("binfmt-setup run --platform linux/s3", "linux/s390x");
}

/// The output of `manifest-push copy` to a slow registry.
fn slow_copy(on_terminal: bool, more: &str) -> String {
    let registry = FakeRegistry::start();
    let user = User::new();
    Image::new("linux/arm/v7", "slow").store(&OciLayout::open_or_create(&user.path("in")).unwrap(), "1");
    let slow = Fault::when(|r| r.method == "PUT" && r.is_upload(), Act::Delay(Duration::from_millis(1500)));
    registry.fault(slow.times(2));
    let to = format!("{}/team/app:1", registry.host());
    let line = format!("{} copy oci:in:1 {to} {more}", program("manifest-push").display());
    let ran = if on_terminal {
        // script(1) makes a terminal and copies its output to stdout.
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(user.work()).env("HOME", user.work());
        run(script).exits(0)
    } else {
        user.manifest_push(&line.split_whitespace().skip(1).collect::<Vec<_>>()).exits(0)
    };
    format!("{}{}", ran.stdout, ran.stderr)
}

#[test]
fn a_terminal_shows_progress_and_a_log_is_not_flooded() {
    let shown = slow_copy(true, "");
    assert!(
        shown.contains("\r\x1b[K[") && shown.contains("] ") && shown.contains(" of 2 blobs  "),
        "{shown:?}"
    );
    let end = shown.rfind("request").unwrap();
    assert!(shown[end..].contains("\r\x1b[K"), "the line is erased at the end: {shown:?}");
    for (on_terminal, more) in [(true, "-q"), (false, "")] {
        let shown = slow_copy(on_terminal, more);
        assert!(!shown.contains('\x1b') && !shown.contains("request"), "{shown:?}");
        assert!(shown.lines().count() < 9, "{shown}");
    }
}

/// A wrapped command cannot be pasted: continued lines end with a backslash, and comments repeat the `#`.
#[test]
fn examples_can_be_pasted_from_a_narrow_terminal() {
    let user = User::new();
    let mut seen = 0;
    for help in all_helps(&user) {
        for columns in ["60", "100"] {
            let words: Vec<&str> = help.path.iter().map(String::as_str).chain(["--help"]).collect();
            let mut command = user.command(help.program, &words);
            command.env("COLUMNS", columns);
            let text = run(command).exits(0).stdout;
            let examples = text.lines().skip_while(|line| *line != "Examples:").skip(1);
            let mut is_open = false;
            for line in examples.take_while(|line| *line != "Exit status:") {
                let is_command = !line.is_empty() && !line.starts_with("  # ");
                let is_continued = line.starts_with("      ");
                let place = format!("{} {:?} at {columns}: {line}", help.program, help.path);
                assert!(line.len() <= 60 && is_continued == is_open, "{place}");
                is_open = is_command && line.ends_with(" \\");
                seen += usize::from(is_continued);
            }
        }
    }
    assert!(seen > 5, "only {seen} lines are continued");
}
