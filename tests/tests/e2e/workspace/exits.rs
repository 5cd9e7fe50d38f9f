//! Exit codes: the help and the manual page of every program list the same ones.

use super::help::all_helps;
use crate::tools::User;
use error::Exit;

const DOCUMENTED: [&str; 4] = ["binfmt-setup", "config-patcher", "manifest-push", "multiarch"];

/// The codes and meanings of `Exit status:` in a help text.
fn in_help(text: &str) -> Vec<(String, String)> {
    let section = text.split("\nExit status:\n").nth(1).unwrap_or_default();
    let rows = section.lines().take_while(|line| !line.is_empty()).map(|line| line.trim().split_once(' '));
    rows.map(|row| row.unwrap())
        .map(|(code, meaning)| (code.to_string(), meaning.trim().to_string()))
        .collect()
}

/// The codes and meanings of `EXIT STATUS` in a manual page.
fn in_manual(page: &str) -> Vec<(String, String)> {
    let section = page.split(".SH \"EXIT STATUS\"\n").nth(1).unwrap().split("\n.SH ").next().unwrap();
    let lines: Vec<&str> = section.lines().collect();
    let plain = |text: &str| text.replace("\\fB", "").replace("\\fR", "").replace("\\-", "-");
    lines.chunks(3).map(|row| (plain(row[1]), plain(row[2]))).collect()
}

#[test]
fn help_and_manual_pages_list_the_same_exit_codes() {
    let user = User::new();
    let all = Exit::MEANINGS.map(|(exit, meaning)| ((exit as u8).to_string(), meaning.to_string()));
    let mut helps = 0;
    for help in all_helps(&user).iter().filter(|help| DOCUMENTED.contains(&help.program)) {
        // The arguments of this command are those of binfmt-setup, which has its own help.
        if help.path != ["binfmt"] {
            assert_eq!(in_help(&help.text), all, "{} {:?}", help.program, help.path);
            helps += 1;
        }
    }
    assert!(helps > 30, "only {helps} help texts were found");
    for program in DOCUMENTED {
        let page = user.run(program, &["man"]).exits(0).stdout;
        assert_eq!(in_manual(&page), all, "{program}");
    }
}
