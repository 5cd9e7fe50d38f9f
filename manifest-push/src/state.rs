//! The directory of a user's state: `$XDG_STATE_HOME/multiarch`, by default `~/.local/state/multiarch`.

use error::Error;
use std::env;
use std::path::PathBuf;

/// The directory, which may not exist yet. `doing` is what the caller needs it for, for the error.
///
/// # Errors
/// `Local` if neither variable is set to an absolute path.
pub fn directory(doing: &str) -> Result<PathBuf, Error> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    // The XDG Base Directory Specification says to ignore relative paths.
    match state.filter(|state| state.is_absolute()) {
        Some(state) => Ok(state.join("multiarch")),
        None => {
            let why = "neither XDG_STATE_HOME nor HOME is set to an absolute path";
            Err(Error::local(doing, why).hint("set XDG_STATE_HOME"))
        }
    }
}
