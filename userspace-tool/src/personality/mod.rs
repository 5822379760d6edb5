// SPDX-License-Identifier: GPL-2.0

//! The Linux system-call personality: what a task's system calls do.
//!
//! A call that is not in [`table::TABLE`] as served does nothing. A served one gets its arguments as
//! numbers; its handler copies what they point to, checks it, and only then uses it.

mod attributes;
mod change;
mod exec;
mod fds;
mod files;
mod io;
mod memory;
mod open;
mod paths;
mod process;
mod signals;
mod status;
pub mod table;
#[cfg(test)]
mod tests;
mod time;
mod trace;
mod wait;
mod writable;

pub use fds::Fds;
pub use memory::Heap;
pub(crate) use paths::{path_of, reopen, special, Special};
pub use process::{Process, ProcessState};
pub use signals::{is_ignored, SignalState, Signals};
pub use trace::{describe, Trace};
pub use writable::{Access, AccessError};

use crate::errno::{Errno, SysResult};
use crate::task::Task;

/// The arguments of a call, as registers hold them.
pub type Args = [u64; 6];

/// What serves a call.
pub type Handler = fn(&mut Task, Args) -> SysResult;

/// What becomes of a call.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// The broker serves it.
    Served(Handler),
    /// It always fails so, for this reason.
    Refused(Errno, &'static str),
    /// Nobody serves it: `ENOSYS`.
    Unserved,
}

/// A system call.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: &'static str,
    /// Its arguments for the trace, a letter each: see [`Trace`].
    pub shape: &'static str,
    /// What becomes of it.
    pub fate: Fate,
}

/// Serves a system call of `task`.
pub fn serve(task: &mut Task, number: u64, args: Args) -> SysResult {
    match table::find(number).map(|call| call.fate) {
        Some(Fate::Served(handler)) => handler(task, args),
        Some(Fate::Refused(errno, _)) => Err(errno),
        Some(Fate::Unserved) | None => Err(Errno::ENOSYS),
    }
}
