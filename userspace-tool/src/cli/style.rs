// SPDX-License-Identifier: GPL-2.0

//! How things are printed: colours on terminals only, and nothing that could write to one.

use std::io::{self, IsTerminal, Write};

pub(crate) use uvisor::quote::printable;

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

/// Prints to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A size for people.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..=0x3ff => format!("{bytes} B"),
        0x400..=0xf_ffff => format!("{} KiB", bytes >> 10),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
