// SPDX-License-Identifier: GPL-2.0

//! Colours, on terminals only.

use std::io::{self, IsTerminal};

/// Whether standard output takes colours.
pub(crate) fn colours() -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let able = std::env::var_os("TERM").is_some_and(|term| term != "dumb");
    wanted && able && io::stdout().is_terminal()
}

/// `text` in the colour with an SGR code, if `colours`.
pub(crate) fn paint(text: &str, code: u8, colours: bool) -> String {
    match colours {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}
