// SPDX-License-Identifier: GPL-2.0

//! The processes that events come from, so that the end of each is told, also of one that was killed.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use rustix::time::Timespec;

use super::What;
use crate::memory::{word, word32};
use crate::process::pidfd_info;

/// What is to be filled in of what the kernel says of a process.
const INFO_PID: u64 = 1;
const INFO_EXIT: u64 = 1 << 3;

/// How many processes are watched at a time; the end of what is more goes untold if it does not tell it itself.
const MOST: usize = 4096;

/// Processes that are watched.
#[derive(Debug, Default)]
pub(super) struct Processes(BTreeMap<i32, Watched>);

#[derive(Debug)]
struct Watched {
    handle: OwnedFd,
    /// Whether it has told its end.
    told: bool,
}

impl Processes {
    /// Watches a process that has told something.
    pub(super) fn watch(&mut self, epoll: &OwnedFd, pid: i32) {
        let Some(number) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return;
        };
        if self.0.len() >= MOST || self.0.contains_key(&pid) {
            return;
        }
        // One that has ended by now is not there.
        let Ok(handle) = pidfd_open(number, PidfdFlags::empty()) else {
            return;
        };
        // Somebody has waited for it then, and its status is known: that is told in any case.
        let events = EventFlags::HUP;
        if epoll::add(epoll, handle.as_fd(), data(pid), events).is_ok() {
            let told = false;
            self.0.insert(pid, Watched { handle, told });
        }
    }

    /// Watches a process that another one says it has made, if it has.
    pub(super) fn watch_child(&mut self, epoll: &OwnedFd, parent: i32, pid: i32) {
        self.watch(epoll, pid);
        let is_child = self.0.get(&pid).is_some_and(|watched| {
            pidfd_info(watched.handle.as_raw_fd(), INFO_PID)
                .is_ok_and(|info| word32(&info, 24) as i32 == parent)
        });
        if !is_child {
            self.0.remove(&pid);
        }
    }

    /// A process has told its end; whether it had before.
    pub(super) fn has_told(&mut self, pid: i32) -> bool {
        let watched = self.0.get_mut(&pid);
        watched.is_some_and(|watched| std::mem::replace(&mut watched.told, true))
    }

    /// A process has ended; what there is to tell about that.
    pub(super) fn ended(&mut self, pid: i32) -> Option<What> {
        let watched = self.0.remove(&pid)?;
        if watched.told {
            return None;
        }
        let known = pidfd_info(watched.handle.as_raw_fd(), INFO_EXIT).ok();
        let known = known.filter(|info| word(info, 0) & INFO_EXIT != 0);
        let status = known.map(|info| word32(&info, 60) as i32);
        Some(What::Exit {
            status: status
                .and_then(|status| libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))),
            signal: status
                .and_then(|status| libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))),
        })
    }

    /// Those that have ended, also such as nobody has waited for.
    pub(super) fn zombies(&self) -> Vec<i32> {
        let has_ended = |watched: &Watched| {
            let mut fds = [PollFd::new(&watched.handle, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())) != Ok(0)
        };
        let all = self.0.iter();
        all.filter(|(_, watched)| has_ended(watched))
            .map(|(pid, _)| *pid)
            .collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// How epoll calls a process.
fn data(pid: i32) -> EventData {
    EventData::new_u64(u64::from(pid as u32))
}

/// Waits until something is to be done; the numbers of processes that have ended, and whether something was told.
pub(super) fn wait(epoll: &OwnedFd, timeout: Option<&Timespec>) -> io::Result<(Vec<i32>, bool)> {
    let mut events = Vec::with_capacity(64);
    match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
        Err(rustix::io::Errno::INTR) | Ok(_) => {}
        Err(error) => return Err(error.into()),
    }
    let mut told = false;
    let mut ended = Vec::new();
    for event in events {
        let event: epoll::Event = event;
        match event.data.u64() {
            0 => told = true,
            pid => ended.push(pid as i32),
        }
    }
    Ok((ended, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_end_of_a_process_is_known() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let mut processes = Processes::default();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        processes.watch_child(&epoll, 1, pid);
        assert!(processes.is_empty(), "it is not a child of process 1");
        processes.watch_child(&epoll, std::process::id() as i32, pid);
        assert!(!processes.is_empty());
        assert!(processes.zombies().is_empty());
        child.kill().unwrap();
        while processes.zombies() != [pid] {
            std::thread::yield_now();
        }
        let soon = Timespec::default();
        assert_eq!(wait(&epoll, Some(&soon)).unwrap(), (vec![], false));
        child.wait().unwrap();
        let (ended, told) = wait(&epoll, None).unwrap();
        assert_eq!((ended, told), (vec![pid], false));
        let Some(What::Exit { status, signal }) = processes.ended(pid) else {
            panic!("its end is not told");
        };
        // A kernel before 6.15 does not say it.
        assert_eq!(status, None);
        assert!(matches!(signal, None | Some(libc::SIGKILL)), "{signal:?}");
        assert!(processes.ended(pid).is_none());
    }
}
