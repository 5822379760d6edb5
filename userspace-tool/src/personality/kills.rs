// SPDX-License-Identifier: GPL-2.0

//! SIGKILL from one process of a task to others. Those that others may wait for are asked first, so that they let go of
//! what they have; they get the signal when they have not ended soon. Who sends it waits for that, so that it is
//! certain when the call is over.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::signal::{self, WAKE};
use crate::task::Task;

/// How long they may take, in nanoseconds; one that waits for what no other signal ends takes longer.
const TIME: u64 = 200_000_000;

/// How many are asked at a time; each takes a descriptor.
const MOST: usize = 64;

/// The size of a `struct pollfd`.
const POLLFD: usize = 8;

/// Processes that were asked to end.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<OwnedFd>);

impl Asked {
    /// Kills the process `pid`, which `handle` is on: at once, or by [`Self::wait`].
    pub(super) fn kill(&mut self, task: &Task, pid: u32, handle: OwnedFd) -> SysResult {
        let takes_fatal = {
            let tree = task.tree.lock();
            tree.as_ref().is_some_and(|tree| tree.takes_fatal(pid))
        };
        let mut request = signal::kill_request();
        let asked = takes_fatal
            && !is_stopped(pid)
            && pass!(PIDFD_SEND_SIGNAL, handle.as_raw_fd(), WAKE, &mut request, 0).is_ok();
        if !asked {
            return kill(&handle);
        }
        self.0.push(handle);
        if self.0.len() >= MOST {
            self.wait(task);
        }
        Ok(0)
    }

    /// Waits for those that were asked, for a while, and kills those that have not ended.
    pub(super) fn wait(&mut self, task: &Task) {
        let mut time = [0; 16];
        time[8..].copy_from_slice(&TIME.to_le_bytes());
        // What is left of it the kernel writes there.
        let mut time = Some(time);
        while !self.0.is_empty() {
            let mut fds = self.to_poll();
            match task.poll_woken(&mut fds, &mut time) {
                Ok(1..) => self.forget_ended(&fds),
                Err(Errno::EINTR) if !task.is_to_go() => {}
                // They had their time, or it is to go itself, maybe by one of them.
                _ => break,
            }
        }
        for handle in self.0.drain(..) {
            // It may have ended since.
            let _ = kill(&handle);
        }
    }

    fn to_poll(&self) -> Vec<u8> {
        let mut fds = Vec::with_capacity(self.0.len() * POLLFD);
        for handle in &self.0 {
            fds.extend(handle.as_raw_fd().to_le_bytes());
            fds.extend(u32::from(libc::POLLIN as u16).to_le_bytes());
        }
        fds
    }

    /// Those that have ended, as `fds` says, are not killed.
    fn forget_ended(&mut self, fds: &[u8]) {
        let mut ended = fds.chunks_exact(POLLFD).map(|fd| word32(fd, 4) >> 16 != 0);
        self.0.retain(|_| !ended.next().unwrap_or(false));
    }
}

/// Whether a process is stopped, so that it would not do what it is asked for.
fn is_stopped(pid: u32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    has_stopped(&text)
}

/// Whether a process's `stat` in `/proc` says that.
fn has_stopped(text: &str) -> bool {
    // Behind the name, which may have all in it.
    let state = text.rsplit(')').next().unwrap_or_default();
    state.trim_start().starts_with(['T', 't'])
}

/// Sends SIGKILL by a handle.
fn kill(handle: &OwnedFd) -> SysResult {
    pass!(
        PIDFD_SEND_SIGNAL,
        handle.as_raw_fd(),
        libc::SIGKILL,
        None,
        0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_behind_names() {
        for (text, stopped) in [
            ("12 (sleep) T 1 12", true),
            ("12 (sleep) S 1 12", false),
            ("12 (a) T (b) R 1", false),
            ("12 (R) ) t 1", true),
            ("", false),
        ] {
            assert_eq!(has_stopped(text), stopped, "{text}");
        }
        assert!(!is_stopped(crate::process::id()));
    }
}
