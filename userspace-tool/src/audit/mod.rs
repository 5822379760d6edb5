// SPDX-License-Identifier: GPL-2.0

//! The audit: what a task did and was refused, as one ordered stream of events.
//!
//! [`event`] is what a line of it says. The brokers of a task tell events by an [`Outlet`], which they all have and from
//! which nothing can be taken back; a [`Recorder`], a process that is not confined and that no task has a say in, writes
//! them down. Which process tells something the kernel says. How a broker comes to know what a system call was about is
//! in [`notes`].

pub mod event;
mod live;
mod log;
pub(crate) mod notes;
mod outlet;
mod page;
mod processes;
mod recorder;

pub use event::{Event, FileUse, Limit, MemoryUse, Verdict, Wall, What};
pub use live::LiveError;
pub use log::Log;
pub use outlet::{channel, Inlet, Outlet};
pub use recorder::Recorder;

/// The JSON schema of an event.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Event).to_value()
}

/// The most bytes of a text in an event.
const TEXT: usize = 1024;

/// Bytes of a task's as text: what is no UTF-8 as `\xNN`, what is too long cut.
pub fn text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        let invalid = chunk.invalid().iter();
        let invalid = invalid.map(|byte| format!("\\x{byte:02x}"));
        for piece in chunk.valid().chars().map(String::from).chain(invalid) {
            if text.len() + piece.len() > TEXT {
                text.push('…');
                return text;
            }
            text.push_str(&piece);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_they_were_or_end_with_dots() {
        assert_eq!(text("größe".as_bytes()), "größe");
        assert_eq!(text(b"a\xffb\xc3"), "a\\xffb\\xc3");
        assert_eq!(text(&[b'x'; TEXT]), "x".repeat(TEXT));
        assert_eq!(text(&[b'x'; TEXT + 1]), "x".repeat(TEXT) + "…");
        assert!(text(&[0xff; 1 << 20]).len() < TEXT + 16);
    }
}
