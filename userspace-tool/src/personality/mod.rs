// SPDX-License-Identifier: GPL-2.0

//! The Linux system-call personality: what a task's system calls do.
//!
//! A call that is not in [`table::TABLE`] as served does nothing. A served one gets its arguments as
//! numbers; its handler copies what they point to, checks it, and only then uses it.

mod access;
mod actions;
mod addresses;
mod advice;
mod attributes;
pub(crate) mod audited;
mod book;
mod change;
mod children;
mod control;
mod domain;
mod events;
mod exec;
mod fds;
mod files;
mod futex;
mod interfaces;
mod io;
mod kernels;
mod kills;
mod learning;
mod links;
mod memory;
mod message;
mod mremap;
mod netns;
mod network;
mod open;
mod opened;
mod paths;
mod precision;
mod proc_machine;
mod proc_path;
mod proc_text;
mod process;
mod procfs;
mod sched;
mod shared;
mod signals;
mod sockets;
mod sockopt;
mod status;
pub mod table;
mod terminals;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod trace;
mod transfer;
mod wait;
mod way;

pub use access::{Access, AccessError};
pub use actions::{is_ignored, SignalState, Signals};
pub(crate) use actions::{Action, Actions, Disposition, AUTODISARM};
pub(crate) use book::Book;
pub use book::Heap;
pub use domain::keeps_socket_paths_apart;
pub use fds::Fds;
pub(crate) use fds::Moving;
pub(crate) use futex::{wake_one, Change};
pub(crate) use links::{path_of, reopen};
pub use message::MessagePointer;
pub use network::{Domain, Network, Policy};
pub(crate) use opened::check_carried;
pub(crate) use paths::{special, Special};
pub(crate) use process::short_name;
pub use process::{LimitState, Limits};
pub(crate) use procfs::starts_here;
use shared::SharedMaps;
pub(crate) use sockopt::waits_for_a_time;
pub(crate) use timers::Timers;
pub use trace::Trace;

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
    if task.access.refuses(number) {
        return Err(Errno::EPERM);
    }
    match table::find(number).map(|call| call.fate) {
        Some(Fate::Served(handler)) => handler(task, args),
        Some(Fate::Refused(errno, _)) => Err(errno),
        None => Err(Errno::ENOSYS),
    }
}
