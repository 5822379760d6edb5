// SPDX-License-Identifier: GPL-2.0

//! What the processes of a task say of themselves to each other: which program they are, and how it was called.
//!
//! All else that one may know of another the host says of its broker. Each says it in a page of the file that has the
//! locks of [`super::Tree`]: in one of a few that follow from its number, so that the file does not grow with the
//! numbers. Where all of these are taken, a process is one of which this is not known.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;

/// The size of a page, how many there are, and how many of them a number may have.
const PAGE: usize = 4096;
const PAGES: u32 = 1024;
const TRIES: u32 = 8;

/// What is before the texts: the number, and the lengths of both.
const HEADER: usize = 12;

/// The most of a command that is told.
const COMMAND_MAX: usize = 2048;

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The program's path.
    pub(crate) program: CString,
    /// How it was called: its arguments, each with a NUL behind it, as far as there is room.
    pub(crate) command: Vec<u8>,
}

/// The arguments of a program as [`Entry::command`] has them.
pub(crate) fn command(arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut command = Vec::new();
    for argument in arguments {
        command.extend_from_slice(argument);
        command.push(0);
    }
    command.truncate(COMMAND_MAX);
    command
}

impl Entry {
    fn to_page(&self, pid: u32) -> Vec<u8> {
        let program = self.program.as_bytes();
        let command = self.command.get(..COMMAND_MAX).unwrap_or(&self.command);
        let program = match program.len() {
            len if HEADER + len + command.len() > PAGE => &[],
            _ => program,
        };
        let mut page = Vec::with_capacity(HEADER + program.len() + command.len());
        for number in [pid, program.len() as u32, command.len() as u32] {
            page.extend(number.to_le_bytes());
        }
        page.extend_from_slice(program);
        page.extend_from_slice(command);
        page
    }

    fn from_page(page: &[u8]) -> Option<Self> {
        let program = HEADER..HEADER.checked_add(word32(page, 4) as usize)?;
        let command = program.end..program.end.checked_add(word32(page, 8) as usize)?;
        Some(Self {
            program: CString::new(page.get(program)?).ok()?,
            command: page.get(command)?.to_vec(),
        })
    }
}

/// Where the pages are that a number may have.
fn places(pid: u32) -> impl Iterator<Item = u64> {
    (0..TRIES).map(move |step| u64::from(pid.wrapping_add(step) % PAGES) * PAGE as u64)
}

/// The number of the process that a page is of; 0 if it is of none.
fn owner(file: &OwnedFd, place: u64) -> u32 {
    let mut number = [0; 4];
    let len = number.len() as u64;
    // What is behind the end of the file is nobody's.
    let _ = pass!(PREAD_NOW, file.as_raw_fd(), &mut number, len, place);
    u32::from_le_bytes(number)
}

/// Says what the process `pid` is; `is_member` tells whether a number is one of the task's.
pub(super) fn tell(file: &OwnedFd, pid: u32, entry: &Entry, is_member: impl Fn(u32) -> bool) {
    // Its own, or one that nobody has; of what it had behind that, this is the one that is found first.
    let is_free = |owner: u32| owner == 0 || owner == pid || !is_member(owner);
    if let Some(place) = places(pid).find(|&place| is_free(owner(file, place))) {
        let mut page = entry.to_page(pid);
        let len = page.len() as u64;
        // Without memory for it, it is not known.
        let _ = pass!(
            PWRITE_NOW,
            file.as_raw_fd(),
            page.as_mut_slice(),
            len,
            place
        );
    }
}

/// What the process `pid` has said.
pub(super) fn told(file: &OwnedFd, pid: u32) -> SysResult<Entry> {
    let place = places(pid).find(|&place| owner(file, place) == pid);
    let mut page = [0; PAGE];
    let len = page.len() as u64;
    let place = place.ok_or(Errno::ENOENT)?;
    pass!(PREAD_NOW, file.as_raw_fd(), page.as_mut_slice(), len, place)?;
    Entry::from_page(&page).ok_or(Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> Entry {
        Entry {
            program: CString::new(format!("/bin/{name}")).unwrap(),
            command: command(&[name.into(), b"an argument".to_vec()]),
        }
    }

    #[test]
    fn what_is_told_is_known_while_there_is_room() {
        let fd = pass!(MEMFD_CREATE, c"census", libc::MFD_CLOEXEC as i32).unwrap();
        let file = crate::device::new_fd(fd as i32);
        assert_eq!(told(&file, 7), Err(Errno::ENOENT));
        let members = |pid: u32| pid % PAGES == 7;
        for turn in 0..TRIES {
            let pid = 7 + turn * PAGES;
            tell(&file, pid, &entry(&pid.to_string()), members);
        }
        for turn in 0..TRIES {
            let pid = 7 + turn * PAGES;
            assert_eq!(told(&file, pid), Ok(entry(&pid.to_string())));
        }
        // There is no room for one more, until one of them is gone.
        let late = 7 + TRIES * PAGES;
        tell(&file, late, &entry("late"), members);
        assert_eq!(told(&file, late), Err(Errno::ENOENT));
        tell(&file, late, &entry("late"), |pid| pid != 7 && members(pid));
        assert_eq!(told(&file, late), Ok(entry("late")));
        assert_eq!(told(&file, 7), Err(Errno::ENOENT));
        // Whoever becomes another program says so in the same place.
        tell(&file, late, &entry("other"), members);
        assert_eq!(told(&file, late), Ok(entry("other")));
    }

    #[test]
    fn long_texts_are_cut() {
        let command = command(&[vec![b'x'; 9000]]);
        let program = CString::new(vec![b'y'; 3000]).unwrap();
        let long = Entry { program, command };
        let page = long.to_page(1);
        assert!(page.len() <= PAGE);
        let read = Entry::from_page(&page).unwrap();
        assert_eq!(
            (read.command.len(), read.program.as_bytes().len()),
            (COMMAND_MAX, 0)
        );
        for lie in [u32::MAX, 4096, 4085] {
            let mut page = [0; PAGE];
            page[4..8].copy_from_slice(&lie.to_le_bytes());
            assert_eq!(Entry::from_page(&page), None);
            page[4..8].fill(0);
            page[8..12].copy_from_slice(&lie.to_le_bytes());
            assert_eq!(Entry::from_page(&page), None);
        }
    }
}
