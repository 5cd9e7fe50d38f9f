//! Global options of manifest-tool, and flags in Go's syntax (`-raw`, `--raw=true`).

use cli::Output;
use error::Error;
use error::Exit;
use image_model::reference::Reference;
use registry_client::{Login, RegistryOptions, Secret};
use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

#[derive(clap::Args)]
#[command(next_help_heading = "Account")]
pub struct AccountArgs {
    /// User name for the registry of the image that is written or, if none is, read
    #[arg(long, global = true, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, global = true, conflicts_with = "password")]
    password_stdin: bool,
    /// Password; visible to all users of this host in the process list
    #[arg(long, global = true, value_name = "PASSWORD")]
    password: Option<String>,
    /// Docker's config directory, or a config.json file
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        conflicts_with = "auth_file",
        help_heading = "Registries"
    )]
    docker_cfg: Option<PathBuf>,
    /// Print every request
    #[arg(long, global = true, help_heading = "Output")]
    debug: bool,
    #[arg(skip)]
    known: OnceLock<Option<(String, Secret)>>,
}

/// A longer password is an error.
const PASSWORD_MAX: u64 = 64 << 10;

impl AccountArgs {
    pub fn add_to(
        &self,
        options: &mut RegistryOptions,
        subject: &Reference,
        output: &Output,
    ) -> Result<(), Error> {
        if let Some(path) = &self.docker_cfg {
            options.auth_file = Some(if path.is_dir() { path.join("config.json") } else { path.clone() });
        }
        if self.debug {
            options.reporting.trace = Some(Arc::new(|line| eprintln!("{line}")));
        }
        // The credentials are not for other registries, from which images are read.
        if let (Some((user, password)), Reference::Registry(image)) = (self.login(output)?, subject) {
            options.login = Some(Login { host: image.host.clone(), user, password });
        }
        Ok(())
    }

    /// Read only once, since standard input can be read only once.
    fn login(&self, output: &Output) -> Result<Option<(String, Secret)>, Error> {
        if let Some(known) = self.known.get() {
            return Ok(known.clone());
        }
        let password = match (&self.password, self.password_stdin) {
            (Some(password), _) => {
                output.info(
                    "warning: --password is visible to all users in the process list; use --password-stdin",
                );
                Some(password.clone())
            }
            (None, true) => Some(from_stdin()?),
            (None, false) => None,
        };
        let login = match (&self.username, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user.clone(), Secret::new(password))),
            (Some(_), None) => {
                return Err(incomplete_login("a user name without a password", "add --password-stdin"));
            }
            (None, Some(_)) => {
                return Err(incomplete_login("a password without a user name", "add --username"));
            }
        };
        Ok(self.known.get_or_init(|| login).clone())
    }
}

fn incomplete_login(why: &str, hint: &str) -> Error {
    Error::new(Exit::Usage, "log in", why).hint(hint)
}

/// Reads standard input without the final line break, as `docker login` does.
fn from_stdin() -> Result<String, Error> {
    let doing = "read the password from standard input";
    let mut text = String::new();
    let read = std::io::stdin().take(PASSWORD_MAX + 1).read_to_string(&mut text);
    read.map_err(|e| Error::from_io(doing, e))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || text.len() as u64 > PASSWORD_MAX {
        return Err(Error::bad_input(doing, "it is empty or larger than 64 KiB"));
    }
    Ok(password.into())
}

/// Options of manifest-tool. Go also accepts one dash before a long name, and `=true` after a switch.
const SWITCHES: [&str; 6] = ["debug", "insecure", "plain-http", "ignore-missing", "raw", "expand-config"];
const VALUES: [&str; 9] =
    ["username", "password", "docker-cfg", "type", "platforms", "template", "target", "tags", "annotations"];

/// Rewrites options of manifest-tool from Go's syntax to the syntax of clap.
pub fn normalize_go_flags(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out = Vec::new();
    for word in words {
        let Some(text) = word.to_str().and_then(|text| text.strip_prefix('-')) else {
            out.push(word);
            continue;
        };
        let text = text.strip_prefix('-').unwrap_or(text);
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        match value {
            // Go's strconv.ParseBool.
            Some("true" | "True" | "TRUE" | "t" | "T" | "1") if SWITCHES.contains(&name) => {
                out.push(format!("--{name}").into());
            }
            Some("false" | "False" | "FALSE" | "f" | "F" | "0") if SWITCHES.contains(&name) => {}
            _ if SWITCHES.contains(&name) || VALUES.contains(&name) => out.push(format!("--{text}").into()),
            _ => out.push(word),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parsed_as_by_go() {
        let check = |line: &str, meant: &str| {
            let words = normalize_go_flags(line.split(' ').map(OsString::from));
            let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
            assert_eq!(words.join(" "), meant);
        };
        check("m -type oci --raw=true -x -v", "m --type oci --raw -x -v");
        check("m --insecure=false a -username=ann", "m a --username=ann");
        check("m --plain-http=box:5000 -p -raw", "m --plain-http=box:5000 -p --raw");
        check("m --ca-file x -", "m --ca-file x -");
    }
}
