//! Chromium.

use super::{State, apt};
use crate::browser;
use crate::error::Error;

pub(super) fn ensure() -> Result<State, Error> {
    if let Some(path) = browser::find() {
        return Ok(State::Present(path.display().to_string()));
    }
    apt::install(
        "Chromium",
        &["chromium"],
        "install Chromium or Chrome, or set LENSLET_CHROMIUM to one that is not on PATH",
    )?;
    let path = browser::require()?;
    Ok(State::Installed(path.display().to_string()))
}
