// SPDX-License-Identifier: GPL-2.0

//! SIGKILL from one process of a task to others. Those that others may wait for are asked first, so that they let go of
//! what they have; they get the signal when they have not ended soon. Who sends it waits for that, so that it is
//! certain when the call is over.

use std::os::fd::{AsRawFd, OwnedFd};

use super::signals::handle;
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::process::split_stat;
use crate::signal::{self, WAKE};
use crate::task::Task;

/// How long they may take, in nanoseconds; one that waits for what no other signal ends takes longer.
const TIME: u64 = 200_000_000;

/// How many are waited for at a time; each takes a descriptor of the broker's, which are few.
const MOST: usize = 16;

/// The size of a `struct pollfd`.
const POLLFD: usize = 8;

/// Processes that were asked to end.
#[derive(Debug, Default)]
pub(super) struct Asked(Vec<u32>);

impl Asked {
    /// Kills the process `pid`, which `handle` is on: at once, or by [`Self::wait`].
    pub(super) fn kill(&mut self, task: &Task, pid: u32, handle: &OwnedFd) -> SysResult {
        let takes_fatal = {
            let tree = task.tree.lock();
            tree.as_ref().is_some_and(|tree| tree.takes_fatal(pid))
        };
        let mut request = signal::kill_request();
        let asked = takes_fatal
            && !is_stopped(task, pid)
            && pass!(PIDFD_SEND_SIGNAL, handle.as_raw_fd(), WAKE, &mut request, 0).is_ok();
        match asked {
            true => {
                self.0.push(pid);
                Ok(0)
            }
            false => kill(handle),
        }
    }

    /// Waits for those that were asked, for a while, and kills those that have not ended.
    pub(super) fn wait(&mut self, task: &Task) {
        let mut time = [0; 16];
        time[8..].copy_from_slice(&TIME.to_le_bytes());
        // What is left of it the kernel writes there.
        let mut time = Some(time);
        while !self.0.is_empty() {
            let some = self.0.split_off(self.0.len().saturating_sub(MOST));
            // What has ended is no process of the task's any more.
            let handles = some.into_iter().filter_map(|pid| handle(task, pid).ok());
            see_to(task, handles.collect(), &mut time);
        }
    }
}

/// Waits until processes have ended, for what is left of `time`, and kills those that have not.
fn see_to(task: &Task, mut handles: Vec<OwnedFd>, time: &mut Option<[u8; 16]>) {
    while !handles.is_empty() {
        let mut fds = to_poll(&handles);
        match task.poll_woken(&mut fds, time) {
            Ok(1..) => {
                let mut ended = fds.chunks_exact(POLLFD).map(|fd| word32(fd, 4) >> 16 != 0);
                handles.retain(|_| !ended.next().unwrap_or(false));
            }
            Err(Errno::EINTR) if !task.is_to_go() => {}
            // They had their time, or it is to go itself, maybe by one of them.
            _ => break,
        }
    }
    for handle in handles {
        // It may have ended since.
        let _ = kill(&handle);
    }
}

fn to_poll(handles: &[OwnedFd]) -> Vec<u8> {
    let mut fds = Vec::with_capacity(handles.len() * POLLFD);
    for handle in handles {
        fds.extend(handle.as_raw_fd().to_le_bytes());
        fds.extend(u32::from(libc::POLLIN as u16).to_le_bytes());
    }
    fds
}

/// Whether a process is stopped, so that it would not do what it is asked for.
fn is_stopped(task: &Task, pid: u32) -> bool {
    // The file has a number of the guest's while it is read.
    let _moving = task.fds.hold();
    let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    has_stopped(&text)
}

/// Whether a process's `stat` in `/proc` says that.
fn has_stopped(text: &[u8]) -> bool {
    let fields = split_stat(text).map(|(_, fields)| fields.trim_ascii_start());
    matches!(fields, Some([b'T' | b't', ..]))
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
            ("12 (\u{e4}) T 1", true),
            ("", false),
        ] {
            assert_eq!(has_stopped(text.as_bytes()), stopped, "{text}");
        }
    }
}
