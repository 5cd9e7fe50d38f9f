//! The protocol of Docker CLI plugins: metadata, and the command line that Docker passes on.
//!
//! Source: docker/cli, cli-plugins/metadata and cli-plugins/manager. Docker runs the plugin with all of its own arguments:
//! `docker --context far multiarch verify IMAGE` becomes `docker-multiarch --context far multiarch verify IMAGE`.

use error::Error;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The command that Docker calls to find out what the plugin is.
pub const METADATA_COMMAND: &str = "docker-cli-plugin-metadata";

/// The name of the plugin's command.
const NAME: &str = "multiarch";

/// The answer to [`METADATA_COMMAND`].
pub fn metadata() -> String {
    serde_json::json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "multiarch",
        "Version": env!("CARGO_PKG_VERSION"),
        "ShortDescription": "Build, verify, repair and publish multi-platform images",
    })
    .to_string()
}

/// Global options of Docker with a value, and the environment variable that has the same meaning.
const OPTIONS: [(&str, Option<&str>); 7] = [
    ("--config", Some("DOCKER_CONFIG")),
    ("--context", Some("DOCKER_CONTEXT")),
    ("-c", Some("DOCKER_CONTEXT")),
    ("--host", Some("DOCKER_HOST")),
    ("-H", Some("DOCKER_HOST")),
    // Messages of docker itself.
    ("--log-level", None),
    ("-l", None),
];

/// Docker's command line, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DockerCall {
    /// The arguments of `multiarch`.
    pub arguments: Vec<OsString>,
    /// Environment variables in place of Docker's global options.
    environment: Vec<(&'static str, OsString)>,
}

impl DockerCall {
    /// Parses all arguments, without `argv[0]`. Those of a direct call of the file, which do not contain the word
    /// `multiarch` behind Docker's options, are returned unchanged.
    pub fn parse(words: Vec<OsString>) -> Self {
        let mut call = Self::default();
        let mut help = None;
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let text = word.to_str().unwrap_or_default();
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(OsString::from(value))),
                None => (text, None),
            };
            match OPTIONS.iter().find(|(option, _)| *option == name) {
                Some((_, variable)) => {
                    let value = value.or_else(|| rest.next().cloned()).unwrap_or_default();
                    call.environment.extend(variable.map(|variable| (variable, value)));
                }
                None if ["help", "--help", "-h"].contains(&text) => help = Some(OsString::from("--help")),
                None if ["--debug", "-D"].contains(&text) => {}
                None if text == NAME => {
                    call.arguments = rest.cloned().chain(help).collect();
                    return call;
                }
                None => break,
            }
        }
        Self { arguments: words, environment: Vec::new() }
    }

    /// Sets the environment. A process cannot safely change its own, so this one is replaced by itself if necessary.
    ///
    /// # Errors
    /// `Local` if the program cannot be started again.
    pub fn apply_environment(&self, called: &OsString) -> Result<(), Error> {
        if self.environment.is_empty() {
            return Ok(());
        }
        let doing = "start multiarch with docker's options";
        let program = std::env::current_exe().map_err(|e| Error::from_io(doing, e))?;
        let variables = self.environment.iter().map(|(name, value)| (name, value));
        let error = Command::new(program).arg0(called).arg(NAME).args(&self.arguments).envs(variables).exec();
        Err(Error::from_io(doing, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_docker_is_parsed() {
        let check = |line: &str, arguments: &str, environment: &[(&str, &str)]| {
            let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
            let call = DockerCall::parse(words(line));
            assert_eq!(call.arguments, words(arguments), "{line}");
            let found: Vec<_> =
                call.environment.iter().map(|(name, value)| (*name, value.to_str().unwrap())).collect();
            assert_eq!(found, environment, "{line}");
        };
        check("multiarch verify a/b", "verify a/b", &[]);
        check("multiarch copy a multiarch", "copy a multiarch", &[]);
        check("verify a/b", "verify a/b", &[]);
        check("help multiarch", "--help", &[]);
        check("--help multiarch fix", "fix --help", &[]);
        check("-D --log-level debug -l=info multiarch ls", "ls", &[]);
        let far = [("DOCKER_CONFIG", "/x"), ("DOCKER_CONTEXT", "far"), ("DOCKER_HOST", "tcp://h")];
        check("--config /x -c far --host=tcp://h multiarch fix x", "fix x", &far);
        check("--context multiarch multiarch ls", "ls", &[("DOCKER_CONTEXT", "multiarch")]);
        check("--tlsverify multiarch ls", "--tlsverify multiarch ls", &[]);
    }
}
