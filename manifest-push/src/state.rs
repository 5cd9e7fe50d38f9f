//! Where a user's state lies: `$XDG_STATE_HOME/multiarch`, else `~/.local/state/multiarch`.

use error::Error;
use std::env;
use std::path::PathBuf;

/// The folder; it may not be there yet.
pub fn folder(doing: &str) -> Result<PathBuf, Error> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    // The specification of XDG's folders has relative ones ignored; a journal that is somewhere else each time is none.
    match state.filter(|state| state.is_absolute()) {
        Some(state) => Ok(state.join("multiarch")),
        None => {
            let why = "neither XDG_STATE_HOME nor HOME is set to an absolute path";
            Err(Error::local(doing, why).hint("set XDG_STATE_HOME"))
        }
    }
}
