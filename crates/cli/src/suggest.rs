//! The names under which the user can run commands, for messages that suggest one.

use std::sync::OnceLock;

/// The program that has the commands of the others and runs now: `multiarch`, `docker multiarch`.
static FRONT_END: OnceLock<&'static str> = OnceLock::new();

/// Makes all suggested commands and examples of this process start with `name`: the programs that have these commands
/// as well may not be installed. Only the first call has an effect.
pub fn set_front_end(name: &'static str) {
    let _ = FRONT_END.set(name);
}

/// Returns what the user types to run `program`: the front end if there is one, else `program` itself.
pub(crate) fn called(program: &str) -> &str {
    FRONT_END.get().copied().unwrap_or(program)
}

/// Returns a command line that runs a command of `program`, with every word quoted for a shell if necessary.
///
/// ```
/// let fix = ["fix", "oci:my app", "--from-index"];
/// assert_eq!(cli::suggest("config-patcher", &fix), "config-patcher fix 'oci:my app' --from-index");
/// cli::set_front_end("multiarch");
/// assert_eq!(cli::suggest("config-patcher", &fix), "multiarch fix 'oci:my app' --from-index");
/// ```
pub fn suggest(program: &str, words: &[&str]) -> String {
    words.iter().fold(called(program).to_string(), |line, word| line + " " + &quoted(word))
}

fn quoted(word: &str) -> String {
    let is_plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@=+,%".contains(&b));
    if is_plain && !word.is_empty() { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
