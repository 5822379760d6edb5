// SPDX-License-Identifier: GPL-2.0

//! The processes of a task: who belongs to it, how many there may be, and that none outlives the first.
//!
//! All is the kernel's to know, so that it is right whatever dies when. Each process has a lock on the byte
//! of its number in a file that only they have, which goes with the process; and, where their number is limited, one
//! on a place for each of its threads. And each has its own open end of a pipe that the first process has the other
//! end of: when that is closed, the kernel sends SIGKILL.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::census::{self, Entry};
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::personality::{reopen, Fds};
use crate::signal;
use crate::sync::Lock;

/// The end of the bytes that stand for processes, by their numbers; the places of threads are behind them.
const PLACES: u64 = 1 << 32;

/// The end of these; behind it are bytes of processes that take what is fatal, by their numbers.
const TAKERS: u64 = 1 << 33;

/// The processes of a task.
#[derive(Debug)]
pub(crate) struct Tree {
    /// The file with the locks.
    members: OwnedFd,
    /// The end of the pipe that is readable when the first process has ended.
    alive: OwnedFd,
    /// The other end; none but in the first process.
    root: Option<OwnedFd>,
    /// How many threads all processes may have together; 0 for no limit.
    limit: u32,
    /// The places that those of this process have.
    places: BTreeSet<u32>,
}

/// The place of a thread, free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    tree: Arc<Lock<Option<Tree>>>,
    /// None without a limit.
    number: Option<u32>,
}

impl Place {
    /// One for a thread of this process; `EAGAIN` if there is none left.
    pub(super) fn take(tree: &Arc<Lock<Option<Tree>>>) -> SysResult<Self> {
        let number = match tree.lock().as_mut() {
            Some(tree) => tree.take_place()?,
            None => None,
        };
        Ok(Self {
            tree: Arc::clone(tree),
            number,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let (Some(tree), Some(number)) = (self.tree.lock().as_mut(), self.number) {
            tree.leave_place(number);
        }
    }
}

/// A `struct flock` for a lock, or none, on `len` bytes from `start`.
fn lock_of(kind: i32, start: u64, len: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&(kind as i16).to_le_bytes());
    bytes[8..16].copy_from_slice(&start.to_le_bytes());
    bytes[16..24].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// One for writing on `len` bytes from `start`.
fn lock(start: u64, len: u64) -> [u8; 32] {
    lock_of(libc::F_WRLCK, start, len)
}

impl Tree {
    /// That of a task that has one process, the caller, and is to have more; at most `limit` threads in all, or any
    /// number if that is 0.
    pub(super) fn plant(fds: &Fds, limit: u32) -> SysResult<Self> {
        let moving = fds.hold();
        let (alive, root) = fds.pipe(&moving)?;
        let mut tree = Self {
            members: fds.memory_file(&moving, c"uvisor-processes", 0)?,
            alive,
            root: Some(root),
            limit,
            places: BTreeSet::new(),
        };
        tree.join()?;
        Ok(tree)
    }

    /// `EAGAIN` if there is no place for another process now. It takes its place itself.
    pub(super) fn check_room(&mut self) -> SysResult<()> {
        if let Some(place) = self.take_place()? {
            self.leave_place(place);
        }
        Ok(())
    }

    /// Takes a place, if they are limited.
    fn take_place(&mut self) -> SysResult<Option<u32>> {
        if self.limit == 0 {
            return Ok(None);
        }
        // Each process begins to look elsewhere, so that it need not look long.
        let first = crate::process::id().wrapping_add(self.places.len() as u32) % self.limit;
        for place in (first..self.limit).chain(0..first) {
            // What the process has it would get again.
            if !self.places.contains(&place) && self.set(libc::F_WRLCK, place).is_ok() {
                self.places.insert(place);
                return Ok(Some(place));
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Gives up a place.
    fn leave_place(&mut self, place: u32) {
        if self.places.remove(&place) {
            // It is the process's own.
            let _ = self.set(libc::F_UNLCK, place);
        }
    }

    /// Locks or unlocks a place.
    fn set(&self, kind: i32, place: u32) -> SysResult {
        let mut lock = lock_of(kind, PLACES + u64::from(place), 1);
        let fd = self.members.as_raw_fd();
        pass!(FCNTL_LOCK, fd, libc::F_SETLK, &mut lock)
    }

    /// The calling process, a fork of one that has this, joins it.
    pub(super) fn grow(&mut self, fds: &Fds) -> SysResult<()> {
        // Its number is closed here already.
        std::mem::forget(self.root.take());
        // Nor does it have its parent's places.
        self.places.clear();
        self.join()?;
        // An end of its own: who is told is a property of it.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let moving = fds.hold();
        self.alive = fds.keep(&moving, reopen(self.alive.as_raw_fd(), flags)?)?;
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

    /// Says that the calling process is one of them; `EAGAIN` if there is no place for it.
    fn join(&mut self) -> SysResult<()> {
        self.take_place()?;
        self.claim(0)?;
        match signal::takes_fatal() {
            true => self.take_fatal(),
            false => Ok(()),
        }
    }

    /// Locks the byte of the calling process among those from `start`.
    fn claim(&self, start: u64) -> SysResult<()> {
        let mut own = lock(start + u64::from(crate::process::id()), 1);
        let fd = self.members.as_raw_fd();
        pass!(FCNTL_LOCK, fd, libc::F_SETLK, &mut own).map(drop)
    }

    /// Says that the calling process takes what is fatal.
    pub(super) fn take_fatal(&self) -> SysResult<()> {
        self.claim(TAKERS)
    }

    /// Whether another process of them does.
    pub(crate) fn takes_fatal(&self, pid: u32) -> bool {
        self.next(TAKERS + u64::from(pid), 1) == Some(pid)
    }

    /// Whether a process is one of them, and alive.
    pub(crate) fn has(&self, pid: u32) -> bool {
        pid == crate::process::id() || self.next(pid.into(), 1) == Some(pid)
    }

    /// All of them but the caller.
    pub(crate) fn others(&self) -> Vec<u32> {
        let mut all = Vec::new();
        let mut left = vec![(0, PLACES)];
        while let Some((start, end)) = left.pop() {
            let Some(pid) = self.next(start, end - start) else {
                continue;
            };
            all.push(pid);
            // The kernel tells any of them, such as who joined first.
            let pid = u64::from(pid);
            let parts = [(start, pid), (pid + 1, end)];
            left.extend(parts.into_iter().filter(|(start, end)| start < end));
        }
        all.sort_unstable();
        all
    }

    /// The number of one of them but the caller among `len` from `start`.
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

    /// Kills a child, which stays to be waited for.
    fn kill(child: i32) {
        let mut info = [0; 128];
        // SAFETY: It is the caller's own.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let options = libc::WEXITED | libc::WNOWAIT;
        pass!(WAITID, libc::P_PID as i32, child, &mut info, options, None).unwrap();
    }

    /// The first process of a task, with a child that lives on; what happens to both.
    #[test]
    fn members_are_known_and_none_outlives_the_first() {
        let fds = Fds::reserve().unwrap();
        let (read, write) = fds.pipe(&fds.hold()).unwrap();
        let root = fork(|| {
            let mut tree = Tree::plant(&fds, 0).unwrap();
            assert!(tree.others().is_empty());
            let child = fork(|| {
                let [members, alive] = tree.descriptors();
                let kept = fds.keep_own(&[members, alive, write.as_raw_fd()]);
                let grown = kept.and_then(|()| tree.grow(&fds));
                if grown.and_then(|()| tree.take_fatal()).is_err() {
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
                && tree.others() == [child as u32]
                && tree.takes_fatal(child as u32)
                && !tree.takes_fatal(1);
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

    /// Lets the first process of a task of `limit` threads fork several, of which each gets on when it is its turn.
    fn with_children(limit: u32, turns: &[usize], check: impl FnOnce(&mut Tree, &[i32]) -> bool) {
        let fds = Fds::reserve().unwrap();
        let root = fork(|| {
            let mut tree = Tree::plant(&fds, limit).unwrap();
            let pipes: Vec<_> = turns
                .iter()
                .map(|_| fds.pipe(&fds.hold()).unwrap())
                .collect();
            let (ready, says_ready) = fds.pipe(&fds.hold()).unwrap();
            let children: Vec<i32> = pipes
                .iter()
                .map(|(turn, _)| {
                    fork(|| {
                        pass!(READ, turn.as_raw_fd(), &mut [0], 1).unwrap();
                        let grown = tree.grow(&fds).is_ok();
                        pass!(WRITE, says_ready.as_raw_fd(), &mut [grown as u8], 1).unwrap();
                        loop {
                            // SAFETY: It takes nothing.
                            unsafe { libc::pause() };
                        }
                    })
                })
                .collect();
            for &turn in turns {
                pass!(WRITE, pipes[turn].1.as_raw_fd(), &mut [1], 1).unwrap();
                pass!(READ, ready.as_raw_fd(), &mut [0], 1).unwrap();
            }
            let good = check(&mut tree, &children);
            for &child in &children {
                kill(child);
                wait(child);
            }
            i32::from(!good)
        });
        assert_eq!(wait(root), 0);
    }

    #[test]
    fn members_are_found_in_whatever_order_they_came() {
        with_children(0, &[2, 0, 3, 1], |tree, children| {
            tree.others() == children.iter().map(|&pid| pid as u32).collect::<Vec<_>>()
        });
    }

    #[test]
    fn there_are_as_many_as_there_may_be() {
        // Itself, and two that do not get on before the limit is met.
        with_children(4, &[0, 1], |tree, children| {
            let first = tree.take_place().unwrap();
            let full = tree.take_place() == Err(Errno::EAGAIN) && tree.check_room().is_err();
            tree.leave_place(first.unwrap());
            let room = tree.check_room().is_ok() && tree.check_room().is_ok();
            let first = tree.take_place().unwrap();
            kill(children[0]);
            let again = tree.take_place().unwrap();
            full && room && first != again && tree.take_place().is_err()
        });
    }
}
