// SPDX-License-Identifier: GPL-2.0

//! Where events are written, as whole lines.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use super::Event;

/// Room in a file for what is said at its end.
const RESERVE: u64 = 4096;

/// Where lines go.
#[derive(Debug)]
pub struct Log {
    file: File,
    /// What an event is written as.
    form: fn(&Event) -> Option<String>,
    /// How long it may become, and how long it is, if it is a file that only this is written to.
    size: Option<(u64, u64)>,
}

impl Log {
    /// A file that is empty, and may have `limit` bytes.
    pub fn limited(file: File, limit: u64) -> Self {
        let size = Some((limit.max(2 * RESERVE), 0));
        let form = json;
        Self { file, form, size }
    }

    /// A pipe, a terminal, or a file that others write to as well.
    pub fn open_ended(file: File) -> Self {
        let (form, size) = (json as _, None);
        Self { file, form, size }
    }

    /// The same, of lines that `form` makes.
    pub fn formed(self, form: fn(&Event) -> Option<String>) -> Self {
        Self { form, ..self }
    }

    /// Its descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Writes an event as a whole line, or nothing of it where that can be undone; `last` is for what is said at the end.
    pub(super) fn write(&mut self, event: &Event, last: bool) -> io::Result<()> {
        let mut line = (self.form)(event).ok_or(io::ErrorKind::InvalidData)?;
        line.push('\n');
        let line = line.as_bytes();
        let Some((limit, len)) = &mut self.size else {
            return self.file.write_all(line);
        };
        let end = *len + line.len() as u64;
        let room = if last { *limit } else { *limit - RESERVE };
        if end > room {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Err(error) = self.file.write_all(line) {
            // What is there of it would be no line.
            self.file.set_len(*len)?;
            self.file.seek(SeekFrom::Start(*len))?;
            return Err(error);
        }
        *len = end;
        Ok(())
    }
}

/// An event as a line of JSON.
fn json(event: &Event) -> Option<String> {
    serde_json::to_string(event).ok()
}
