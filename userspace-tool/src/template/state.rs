// SPDX-License-Identifier: GPL-2.0

//! What the broker of a template's program knew about it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Point, Result, TemplateError};
use crate::guest::Shim;
use crate::layout::Layout;
use crate::personality::{Heap, LimitState, SignalState};
use crate::profile::Rules;
use crate::space::{Area, Backing, NamedFile, Space};
use crate::task::Random;
use crate::Prot;

/// The version of the format; it is no interface, so that any other is refused.
pub(super) const FORMAT: u32 = 4;

/// What people want to know of a template.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct About {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Where it stopped.
    pub point: Point,
    /// When, in seconds since 1970.
    pub created: u64,
    /// The directory that the program was in.
    pub directory: String,
}

/// A descriptor of the program's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenFile {
    /// Standard input, output or error (0, 1 or 2), under this or another number.
    Stdio(u8),
    /// A file, a directory or a device, to be opened again with these flags and set to this offset.
    Reopen {
        /// `open(2)`'s flags.
        flags: i32,
        /// The offset; none for what has none.
        offset: Option<u64>,
        /// The path that it had, for people.
        path: String,
    },
    /// What only stands for a path (`O_PATH`), and has no state of its own.
    Path,
}

/// An area of the address space: start, end, permission, what it shows; of which file, and from where.
pub(super) type AreaState = (u64, u64, u32, Backing, Option<(NamedFile, u64)>);

/// What a process needs, besides the micro-VM and open files, to go on with a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub(super) format: u32,
    /// What people want to know.
    pub about: About,
    pub(super) gpa_bits: u32,
    pub(super) areas: Vec<AreaState>,
    pub(super) layout: Layout,
    pub(super) heap: Heap,
    pub(super) program: Vec<u8>,
    pub(super) random: Random,
    pub(super) memory_limit: u64,
    pub(super) aslr: bool,
    /// Whether its micro-VM lets it execute what it wrote, and whether it may read the time-stamp counter; both for good.
    pub(super) jit: bool,
    pub(super) precise_clock: bool,
    pub(super) signals: SignalState,
    pub(super) limits: LimitState,
    /// Where the thread's number is cleared, and the head of its list of robust futexes.
    pub(super) clear_tid: u64,
    pub(super) robust: u64,
    /// The process's number.
    pub(super) number: u32,
    pub(super) shim: Shim,
    pub(super) name: [u8; 16],
    pub(super) umask: u32,
    /// How many descriptors the task may have.
    pub(super) fd_limit: u64,
    /// Its descriptors: number, whether it closes on `execve`, and what it is.
    pub(super) files: Vec<(i32, bool, OpenFile)>,
}

impl State {
    /// As bytes, to hand over.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // There is nothing in it that JSON does not have.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the bytes of another process.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let other = |error: serde_json::Error| TemplateError::Version(error.to_string());
        let state: Self = serde_json::from_slice(bytes).map_err(other)?;
        if state.format != FORMAT {
            let text = format!("format {}, not {FORMAT}", state.format);
            return Err(TemplateError::Version(text));
        }
        Ok(state)
    }

    /// Refuses rules that its micro-VM cannot keep: what its program may do by instructions alone, all clones may.
    pub(super) fn check_rules(&self, rules: &Rules) -> Result<()> {
        let not = |what| Err(TemplateError::Rules(what));
        match self {
            _ if self.jit && !rules.jit => not("execute what it wrote (memory.jit)"),
            _ if self.precise_clock && !rules.precise_clock => {
                not("know the time precisely (clock.precise)")
            }
            _ => Ok(()),
        }
    }

    /// The areas of the task.
    pub fn space(&self) -> Space {
        let mut space = Space::default();
        let mut last: Option<Arc<NamedFile>> = None;
        for (start, end, prot, backing, file) in &self.areas {
            let prot = Prot::from_bits_truncate(*prot);
            let (end, backing) = (*end, *backing);
            let area = Area { end, prot, backing };
            match file {
                None => space.insert(*start, area),
                Some((file, offset)) => {
                    let named = match last.take().filter(|last| **last == *file) {
                        Some(last) => last,
                        None => Arc::new(file.clone()),
                    };
                    space.insert_file(*start, area, &named, *offset);
                    last = Some(named);
                }
            }
        }
        space
    }

    /// The task's descriptors: number, and what it is.
    pub fn open_files(&self) -> impl Iterator<Item = (i32, &OpenFile)> {
        self.files.iter().map(|(fd, _, file)| (*fd, file))
    }
}

/// A space as a list.
pub(super) fn areas(space: &Space) -> Vec<AreaState> {
    let pieces = space.pieces(0, u64::MAX);
    pieces
        .into_iter()
        .map(|piece| {
            let file = space.file(piece.start);
            let file = file.map(|(file, offset)| (NamedFile::clone(file), offset));
            let prot = piece.prot.bits();
            (piece.start, piece.end, prot, piece.backing, file)
        })
        .collect()
}
