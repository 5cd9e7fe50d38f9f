//! `status`: shows the table, and changes nothing.

use std::path::Path;

use crate::error::Error;
use crate::exit::Exit;
use crate::probe::Prober;
use crate::status;
use crate::voice::Voice;

pub fn status(at: &Path, voice: &Voice) -> Result<Exit, Error> {
    let prober = Prober::new().map_err(Error::Prober)?;
    let status = status::status(at, &prober)?;
    if voice.is_json() {
        voice.json(&status)?
    } else {
        voice.result(&status.to_text(voice.color()))?
    }
    Ok(Exit::Done)
}
