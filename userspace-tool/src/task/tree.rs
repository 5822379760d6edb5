// SPDX-License-Identifier: GPL-2.0

//! The processes of a task: who belongs to it, and that none outlives the first.
//!
//! Both are the kernel's to know, so that they are right whatever dies when. Each process has a lock on the byte
//! of its number in a file that only they have, which goes with the process. And each has its own open end of a pipe
//! that the first process has the other end of: when that is closed, the kernel sends SIGKILL.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::census::{self, Entry};
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::personality::{reopen, Fds};

/// The processes of a task.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The file with the locks.
    members: OwnedFd,
    /// The end of the pipe that is readable when the first process has ended.
    alive: OwnedFd,
    /// The other end; none but in the first process.
    root: Option<OwnedFd>,
}

/// A `struct flock` for a lock for writing on `len` bytes from `start`.
fn lock(start: u64, len: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(libc::F_WRLCK as i16).to_le_bytes());
    bytes[8..16].copy_from_slice(&start.to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    bytes
}

impl Tree {
    /// That of a task that has one process, the caller, and is to have more.
    pub(super) fn plant(fds: &Fds) -> SysResult<Self> {
        let (alive, root) = fds.pipe()?;
        let tree = Self {
            members: fds.memory_file(c"uvisor-processes", 0)?,
            alive,
            root: Some(root),
        };
        tree.join()?;
        Ok(tree)
    }

    /// The calling process, a fork of one that has this, joins it.
    pub(super) fn grow(&mut self, fds: &Fds) -> SysResult<()> {
        // Its number is closed here already.
        std::mem::forget(self.root.take());
        self.join()?;
        // An end of its own: who is told is a property of it.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        self.alive = fds.keep(reopen(self.alive.as_raw_fd(), flags)?)?;
        let fd = self.alive.as_raw_fd();
        let number = |command: i32, value: i32| pass!(FCNTL, fd, command, value);
        number(libc::F_SETOWN, crate::process::id() as i32)?;
        number(10 /* F_SETSIG */, libc::SIGKILL)?;
        number(libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)?;
        // It may have happened before.
        let mut poll = [0; 8];
        poll[..4].copy_from_slice(&fd.to_le_bytes());
        match pass!(POLL, &mut poll, 1, 0)? {
            0 => Ok(()),
            _ => Err(Errno::ESRCH),
        }
    }

    /// Says that the calling process is one of them.
    fn join(&self) -> SysResult<()> {
        let mut own = lock(crate::process::id().into(), 1);
        let fd = self.members.as_raw_fd();
        pass!(FCNTL_LOCK, fd, libc::F_SETLK, &mut own).map(drop)
    }

    /// Whether a process is one of them, and alive.
    pub(crate) fn has(&self, pid: u32) -> bool {
        pid == crate::process::id() || self.next(pid.into(), 1) == Some(pid)
    }

    /// All of them but the caller.
    pub(crate) fn others(&self) -> Vec<u32> {
        let mut all = Vec::new();
        let mut start = 0;
        // To the end of the file, however long it is.
        while let Some(pid) = self.next(start, 0) {
            all.push(pid);
            start = u64::from(pid) + 1;
        }
        all
    }

    /// The lowest number of one of them but the caller among `len` from `start`.
    fn next(&self, start: u64, len: u64) -> Option<u32> {
        let mut found = lock(start, len);
        let fd = self.members.as_raw_fd();
        pass!(FCNTL_LOCK, fd, libc::F_GETLK, &mut found).ok()?;
        let free = word32(&found, 0) as i16 == libc::F_UNLCK as i16;
        // Its own number is where its lock is.
        (!free).then_some(word(&found, 8) as u32)
    }

    /// Says to the others what the calling process is.
    pub(super) fn tell(&self, entry: &Entry) {
        census::tell(&self.members, crate::process::id(), entry, |pid| {
            self.has(pid)
        });
    }

    /// What a process has said of itself.
    pub(super) fn told(&self, pid: u32) -> SysResult<Entry> {
        match self.has(pid) {
            true => census::told(&self.members, pid),
            false => Err(Errno::ENOENT),
        }
    }

    /// The descriptors, which a forked process keeps.
    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.members.as_raw_fd(), self.alive.as_raw_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    /// Forks; the child runs `child` and exits with its result.
    fn fork(child: impl FnOnce() -> i32) -> i32 {
        // SAFETY: The child calls nothing that other threads of the test could have locked, but for the allocator,
        // which the C library sees to.
        match unsafe { libc::fork() } {
            // SAFETY: It ends the process.
            0 => unsafe { libc::_exit(child()) },
            pid => pid,
        }
    }

    fn wait(pid: i32) -> i32 {
        let mut status = 0;
        // SAFETY: The status is ours.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        status
    }

    /// The first process of a task, with a child that lives on; what happens to both.
    #[test]
    fn members_are_known_and_none_outlives_the_first() {
        let fds = Fds::reserve().unwrap();
        let (read, write) = fds.pipe().unwrap();
        let root = fork(|| {
            let mut tree = Tree::plant(&fds).unwrap();
            assert!(tree.others().is_empty());
            let child = fork(|| {
                let [members, alive] = tree.descriptors();
                let kept = fds.keep_own(&[members, alive, write.as_raw_fd()]);
                if kept.and_then(|()| tree.grow(&fds)).is_err() {
                    return 1;
                }
                let mut ready = [1];
                pass!(WRITE, write.as_raw_fd(), &mut ready, 1).unwrap();
                loop {
                    // SAFETY: It takes nothing.
                    unsafe { libc::pause() };
                }
            });
            let mut ready = [0];
            pass!(READ, read.as_raw_fd(), &mut ready, 1).unwrap();
            let known = ready == [1]
                && tree.has(child as u32)
                && tree.has(crate::process::id())
                && !tree.has(1)
                && tree.others() == [child as u32];
            i32::from(!known)
        });
        assert_eq!(wait(root), 0, "the first process saw what it should");
        drop(write);
        // The pipe ends when the child does.
        let mut rest = Vec::new();
        std::fs::File::from(read).read_to_end(&mut rest).unwrap();
        // Others are no members, whoever they are.
        let other = Command::new("true").stdout(Stdio::null()).status();
        assert!(other.unwrap().success());
    }
}
