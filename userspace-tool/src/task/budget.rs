// SPDX-License-Identifier: GPL-2.0

//! How often a task may leave its micro-VMs: each system call, and each fault that its broker has to look at, is an exit.
//!
//! The count is in memory that all processes of the task have, from before there is a second one, and none can get rid of it:
//! neither a thread, nor a fork, nor another program begins a new one.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;

use uvisor_uapi::PAGE_SIZE;

use super::{End, Task, TaskError};
use crate::audit::Limit;
use crate::map::Mapping;
use crate::pass;
use crate::personality::Fds;

/// The budget of a task.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Two counters: the exits, and how many threads found that there are no more.
    page: Mapping,
    /// How many exits there may be.
    limit: u64,
    /// What is said when they are used up, and where.
    message: String,
    console: File,
    /// The task's first process, with which all others go.
    first: OwnedFd,
}

impl Budget {
    /// That of a task whose first process is the caller.
    fn new(fds: &Fds, limit: u64, message: String, console: &File) -> Result<Self, TaskError> {
        let setup = TaskError::Setup;
        let moving = fds.hold();
        let file = fds.memory_file(&moving, c"uvisor-budget", PAGE_SIZE);
        let page = Mapping::new(file.map_err(setup)?.as_fd(), PAGE_SIZE as usize)?;
        let own = u64::from(crate::process::id());
        let first = pass!(PIDFD_OPEN, own, 0).and_then(|fd| fds.keep(&moving, fd));
        drop(moving);
        Ok(Self {
            page,
            limit,
            message,
            console: fds.own(console.as_fd()).map_err(setup)?.into(),
            first: first.map_err(setup)?,
        })
    }

    /// The counters.
    fn counters(&self) -> &[AtomicU64; 2] {
        // SAFETY: The mapping is a page, with room for them and aligned, and lives as long as `self`; whoever else has
        // it changes it by atomic operations only.
        unsafe { self.page.base().cast().as_ref() }
    }

    /// Takes an exit; false if there is none left.
    fn spend(&self) -> bool {
        self.counters()[0].fetch_add(1, Relaxed) < self.limit
    }

    /// Says that there are none left, once for all of the task.
    fn tell(&self) {
        if self.counters()[1].fetch_add(1, Relaxed) == 0 {
            // There may be nobody to tell.
            let _ = writeln!(&self.console, "{}", self.message);
        }
    }

    /// The descriptors, which a forked process keeps.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.console.as_raw_fd(), self.first.as_raw_fd()]
    }
}

impl Task {
    /// The task may leave its micro-VMs `limit` times from now on, in all its processes together. When it wants to
    /// once more it ends, and `message` goes to `console`, a line.
    pub fn limit_exits(
        &mut self,
        limit: u64,
        message: String,
        console: &File,
    ) -> Result<(), TaskError> {
        let budget = Budget::new(&self.fds, limit, message, console)?;
        self.budget = Some(Arc::new(budget));
        Ok(())
    }

    /// Counts an exit; what the process comes to if there was none left.
    #[inline]
    pub(super) fn spend_exit(&self) -> Option<End> {
        match &self.budget {
            Some(budget) if !budget.spend() => Some(self.spent(budget)),
            _ => None,
        }
    }

    /// There are no exits left: the task ends.
    #[cold]
    fn spent(&self, budget: &Budget) -> End {
        budget.tell();
        if let Some(outlet) = self.reader() {
            outlet.tell_limit(Limit::Exits);
        }
        if self.child.is_some() {
            // That may have happened by now, and this process is about to be killed as well.
            let first = budget.first.as_raw_fd();
            let _ = pass!(PIDFD_SEND_SIGNAL, first, libc::SIGKILL, None, 0);
        }
        End::ExitLimit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn processes_have_one_budget() {
        let fds = Fds::reserve().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (mut read, console) = (File::from(read), File::from(write));
        let budget = Budget::new(&fds, 5, "spent".into(), &console).unwrap();
        assert!(budget.spend() && budget.spend());
        // SAFETY: The child counts, and ends.
        match unsafe { libc::fork() } {
            0 => {
                let two = [budget.spend(), budget.spend()];
                // SAFETY: It ends the process.
                unsafe { libc::_exit(i32::from(two != [true, true])) }
            }
            child => {
                let mut status = 0;
                // SAFETY: The status is ours.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
        assert!(budget.spend());
        assert!(!budget.spend() && !budget.spend());
        budget.tell();
        budget.tell();
        drop((budget, console));
        let mut told = String::new();
        read.read_to_string(&mut told).unwrap();
        assert_eq!(told, "spent\n");
    }
}
