// SPDX-License-Identifier: GPL-2.0

//! File descriptors: a guest's are the broker's, below a limit; above it are the broker's own.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::MutexGuard;

use super::{interfaces, terminals, Args};
use crate::device::new_fd;
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::process::gaps;
use crate::sync::Lock;
use crate::task::Task;

/// How many descriptors the broker keeps for itself: a thread needs one.
const OWN: u64 = 320;

/// Held while a descriptor of the broker's has a number of the guest's, and by whoever makes another reference to what
/// a number of the guest's stands for, tells what that is, or frees the number: so no thread of the guest's gets at what
/// is the broker's, nor puts something else in its place. Who forks holds it, too: a child has none of another thread's.
pub(crate) struct Moving<'a>(#[allow(dead_code)] MutexGuard<'a, ()>);

/// Which descriptors are the guest's.
#[derive(Debug)]
pub struct Fds {
    /// The first that the guest gets no more; those that it has above, since before the limit was lowered, it keeps.
    limit: AtomicI32,
    /// The first of the broker's own.
    own: RawFd,
    /// See [`Moving`].
    moving: Lock<()>,
    hard: u64,
}

impl Fds {
    /// Sets a range of descriptors aside for the broker, above what the guest may have.
    ///
    /// The guest keeps the soft limit that it would have had, if the hard one leaves room above it.
    pub fn reserve() -> SysResult<Self> {
        let mut limits = [0; 16];
        let resource = libc::RLIMIT_NOFILE as i32;
        pass!(PRLIMIT, 0, resource, None, &mut limits)?;
        let soft = crate::memory::word(&limits, 0);
        let hard = crate::memory::word(&limits, 8);
        // The kernel's own tables grow with the highest descriptor, so that is bounded.
        let soft = soft.min(1 << 20);
        let raised = soft.saturating_add(OWN).min(hard);
        limits[..8].copy_from_slice(&raised.to_le_bytes());
        pass!(PRLIMIT, 0, resource, &mut limits, None)?;
        let limit = Self::first_own(raised)?;
        Ok(Self {
            limit: limit.into(),
            own: limit,
            moving: Lock::default(),
            hard,
        })
    }

    /// The first descriptor of the broker's own where there may be so many in all.
    fn first_own(limit: u64) -> SysResult<RawFd> {
        RawFd::try_from(limit.saturating_sub(OWN).max(3)).map_err(|_| Errno::EMFILE)
    }

    /// The first descriptor that is never the guest's.
    pub fn end(&self) -> RawFd {
        self.own
    }

    /// The same of the broker that is process `pid`.
    pub(crate) fn end_of(pid: i32) -> SysResult<RawFd> {
        let mut limits = [0; 16];
        let resource = libc::RLIMIT_NOFILE as i32;
        pass!(PRLIMIT, pid, resource, None, &mut limits)?;
        Self::first_own(crate::memory::word(&limits, 0))
    }

    /// The first descriptor that the guest does not get.
    pub fn limit(&self) -> RawFd {
        self.limit.load(Relaxed)
    }

    /// The limits of the guest, as `getrlimit` shows them.
    pub fn rlimit(&self) -> (u64, u64) {
        (self.limit() as u64, self.hard)
    }

    /// Lowers the limit of the guest.
    pub fn lower(&self, limit: u64) -> SysResult<()> {
        let limit = RawFd::try_from(limit).map_err(|_| Errno::EPERM)?;
        match self.limit.fetch_min(limit, Relaxed) {
            before if limit > before => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// Waits until no descriptor of the broker's has a number of the guest's, and keeps others from making one.
    pub(crate) fn hold(&self) -> Moving<'_> {
        Moving(self.moving.lock())
    }

    /// Duplicates a descriptor of the broker's into its own range.
    pub fn own(&self, fd: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        self.raise(fd.as_raw_fd())
    }

    /// Moves a new descriptor of the broker's into its own range; held since before it was made.
    pub(crate) fn keep(&self, _: &Moving<'_>, fd: u64) -> SysResult<OwnedFd> {
        let kept = self.raise(fd as RawFd);
        pass!(CLOSE, fd)?;
        kept
    }

    /// A pipe of the broker's own: the end to read, and the end to write.
    pub(crate) fn pipe(&self, moving: &Moving<'_>) -> SysResult<(OwnedFd, OwnedFd)> {
        let mut ends = [0; 8];
        pass!(PIPE2, &mut ends, libc::O_CLOEXEC)?;
        let [read, write] = pair(&ends).map(|end| self.keep(moving, end));
        Ok((read?, write?))
    }

    /// A memory file of the broker's own, of `len` zeros.
    pub(crate) fn memory_file(
        &self,
        moving: &Moving<'_>,
        name: &CStr,
        len: u64,
    ) -> SysResult<OwnedFd> {
        self.memory_file_with(moving, name, len, 0)
    }

    /// The same, with flags of `memfd_create`'s.
    pub(crate) fn memory_file_with(
        &self,
        moving: &Moving<'_>,
        name: &CStr,
        len: u64,
        flags: u32,
    ) -> SysResult<OwnedFd> {
        let flags = libc::MFD_CLOEXEC | flags;
        let file = self.keep(moving, pass!(MEMFD_CREATE, name, flags as i32)?)?;
        pass!(FTRUNCATE, file.as_raw_fd(), len)?;
        Ok(file)
    }

    /// Duplicates one of the guest's into the broker's own range, where it stays what it is.
    pub(super) fn duplicate(&self, fd: RawFd) -> SysResult<OwnedFd> {
        let _moving = self.hold();
        self.raise(fd)
    }

    /// Gives the guest another descriptor of an open file: its own, or one of the broker's that it may have.
    pub(super) fn another(&self, fd: RawFd, command: i32, least: u64) -> SysResult {
        let _moving = self.hold();
        self.accept(pass!(FCNTL, fd, command, least)?)
    }

    /// Closes one of the guest's, which no number is of the broker's for a moment; `alone` says that the guest has one
    /// thread, so that there is no other moment.
    pub(super) fn close(&self, fd: RawFd, alone: bool) -> SysResult {
        if alone {
            return pass!(CLOSE, fd);
        }
        let moving = self.hold();
        // The file itself is closed when nobody waits: that may take long.
        let last = self.raise(fd);
        let closed = pass!(CLOSE, fd);
        drop(moving);
        drop(last);
        closed
    }

    fn raise(&self, fd: RawFd) -> SysResult<OwnedFd> {
        let new = pass!(FCNTL, fd, libc::F_DUPFD_CLOEXEC, self.own as u64)?;
        Ok(new_fd(new as RawFd))
    }

    /// What a descriptor that the guest named stands for, by a number of the broker's own: what is decided about it
    /// is used, whatever other threads make of the guest's number meanwhile.
    pub(super) fn pin(&self, fd: u64) -> SysResult<OwnedFd> {
        self.duplicate(self.guest(fd)?)
    }

    /// A descriptor that the guest named.
    pub fn guest(&self, fd: u64) -> SysResult<RawFd> {
        // The kernel takes an int: the upper half of the register does not count.
        match fd as u32 as RawFd {
            fd if (0..self.own).contains(&fd) => Ok(fd),
            _ => Err(Errno::EBADF),
        }
    }

    /// A number for a new descriptor of the guest's.
    fn new_number(&self, fd: u64) -> SysResult<RawFd> {
        match self.guest(fd)? {
            fd if fd < self.limit() => Ok(fd),
            _ => Err(Errno::EBADF),
        }
    }

    /// A descriptor of the guest's that a path such as `/dev/fd/N` names; `ENOENT` if it is not open.
    pub fn open(&self, fd: RawFd) -> SysResult<RawFd> {
        let fd = self.guest(fd as u64).map_err(|_| Errno::ENOENT)?;
        pass!(FCNTL, fd, libc::F_GETFD, 0).map_err(|_| Errno::ENOENT)?;
        Ok(fd)
    }

    /// A directory that the guest named, which may be the current one.
    pub fn directory(&self, fd: u64) -> SysResult<RawFd> {
        match fd as u32 as RawFd {
            libc::AT_FDCWD => Ok(libc::AT_FDCWD),
            _ => self.guest(fd),
        }
    }

    /// The guest's descriptors that are open, each with whether it closes on `execve`.
    pub fn all_open(&self) -> Vec<(RawFd, bool)> {
        // The list is read to its end first: reading it needs a descriptor, too.
        let moving = self.hold();
        let mut open: Vec<RawFd> = match std::fs::read_dir("/proc/self/fd") {
            Ok(entries) => entries
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
                .collect(),
            Err(_) => (0..self.own).collect(),
        };
        drop(moving);
        open.sort_unstable();
        open.into_iter()
            .filter(|fd| (0..self.own).contains(fd))
            .filter_map(|fd| {
                let flags = pass!(FCNTL, fd, libc::F_GETFD, 0).ok()?;
                Some((fd, flags & libc::FD_CLOEXEC as u64 != 0))
            })
            .collect()
    }

    /// Closes those of the guest's that are to close when it becomes another program.
    pub fn close_on_exec(&self) {
        for (fd, _) in self.all_open().into_iter().filter(|(_, closes)| *closes) {
            // It was open a moment ago, and nobody else closes it.
            let _ = pass!(CLOSE, fd);
        }
    }

    /// Closes those of the guest's up to `last`.
    pub(crate) fn close_up_to(&self, last: RawFd) -> SysResult {
        pass!(CLOSE_RANGE, 0, last.min(self.own - 1), 0)
    }

    /// Closes the broker's own but for some.
    pub(crate) fn keep_own(&self, keep: &[RawFd]) -> SysResult<()> {
        gaps(self.own, keep)
            .try_for_each(|(first, last)| pass!(CLOSE_RANGE, first, last, 0).map(drop))
    }

    /// Gives the guest a new descriptor, if it is one that it may have.
    pub fn accept(&self, fd: u64) -> SysResult {
        if self.new_number(fd).is_ok() {
            return Ok(fd);
        }
        pass!(CLOSE, fd)?;
        Err(Errno::EMFILE)
    }
}

pub(super) fn close(task: &mut Task, [fd, ..]: Args) -> SysResult {
    let alone = task.shared.threads.is_alone();
    task.fds.close(task.fds.guest(fd)?, alone)
}

pub(super) fn close_range(task: &mut Task, [first, last, flags, ..]: Args) -> SysResult {
    let (first, last) = (first as u32, last as u32);
    if first > last {
        return Err(Errno::EINVAL);
    }
    let end = task.fds.end() as u32;
    // Alone it has a table of its own already. Beside others it would leave the locks behind that say whose it is.
    let alone = task.shared.threads.is_alone();
    let flags = match flags as u32 & libc::CLOSE_RANGE_UNSHARE {
        0 => flags as u32,
        _ if alone => flags as u32 & !libc::CLOSE_RANGE_UNSHARE,
        _ => return Err(Errno::EINVAL),
    };
    if first >= end {
        return Ok(0);
    }
    let _moving = task.fds.hold();
    pass!(
        CLOSE_RANGE,
        u64::from(first),
        u64::from(last.min(end - 1)),
        u64::from(flags)
    )
}

pub(super) fn dup(task: &mut Task, [fd, ..]: Args) -> SysResult {
    task.fds.another(task.fds.guest(fd)?, libc::F_DUPFD, 0)
}

pub(super) fn dup2(task: &mut Task, [old, new, ..]: Args) -> SysResult {
    let old = task.fds.guest(old)?;
    if old == new as u32 as RawFd {
        // Only whether it is open matters then.
        pass!(FCNTL, old, libc::F_GETFD, 0)?;
        return Ok(old as u64);
    }
    let new = task.fds.new_number(new)?;
    let _moving = task.fds.hold();
    pass!(DUP3, old, new, 0)
}

pub(super) fn dup3(task: &mut Task, [old, new, flags, ..]: Args) -> SysResult {
    let (old, new) = (task.fds.guest(old)?, task.fds.new_number(new)?);
    let _moving = task.fds.hold();
    pass!(DUP3, old, new, flags)
}

const F_SETOWN: i32 = 8;
const F_GETOWN: i32 = 9;
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

pub(super) fn fcntl(task: &mut Task, [fd, command, argument, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let command = command as i32;
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            // What is out of the guest's range is what no descriptor can be.
            task.fds.new_number(argument).map_err(|_| Errno::EINVAL)?;
            task.fds.another(fd, command, argument)
        }
        libc::F_GETFD
        | libc::F_SETFD
        | libc::F_GETFL
        | libc::F_SETFL
        | libc::F_GETPIPE_SZ
        | libc::F_SETPIPE_SZ
        | libc::F_GET_SEALS
        | libc::F_ADD_SEALS
        | libc::F_GETLEASE
        | F_GETOWN => pass!(FCNTL, fd, command, argument),
        libc::F_GETLK | libc::F_OFD_GETLK => {
            let mut lock = task.memory.read::<32>(argument)?;
            let value = pass!(FCNTL_LOCK, fd, command, &mut lock)?;
            task.memory.write(argument, &lock)?;
            Ok(value)
        }
        libc::F_SETLK | libc::F_SETLKW | libc::F_OFD_SETLK | libc::F_OFD_SETLKW => {
            let mut lock = task.memory.read::<32>(argument)?;
            pass!(FCNTL_LOCK, fd, command, &mut lock)
        }
        // Who may be sent signals is not for a task to say, nor who must wait for it to close a file.
        F_SETOWN | F_SETOWN_EX | F_SETSIG | libc::F_SETLEASE | libc::F_NOTIFY => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn flock(task: &mut Task, [fd, operation, ..]: Args) -> SysResult {
    pass!(FLOCK, task.fds.guest(fd)?, operation)
}

pub(super) fn pipe(task: &mut Task, [fds, ..]: Args) -> SysResult {
    pipe2(task, [fds, 0, 0, 0, 0, 0])
}

pub(super) fn pipe2(task: &mut Task, [fds, flags, ..]: Args) -> SysResult {
    let allowed = (libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_DIRECT) as u64;
    if flags as u32 as u64 & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut pair = [0; 8];
    pass!(PIPE2, &mut pair, flags)?;
    give_pair(task, fds, &pair)
}

/// The two descriptors in an array of the kernel's.
fn pair(array: &[u8; 8]) -> [u64; 2] {
    [0, 4].map(|at| u64::from(crate::memory::word32(array, at)))
}

/// Gives the guest two new descriptors, by an array at `address`.
pub(super) fn give_pair(task: &Task, address: u64, array: &[u8; 8]) -> SysResult {
    let ends = pair(array);
    let close = || {
        for end in ends {
            // It is open, and has nothing to lose.
            let _ = pass!(CLOSE, end);
        }
    };
    if ends.iter().any(|&end| task.fds.new_number(end).is_err()) {
        close();
        return Err(Errno::EMFILE);
    }
    task.memory.write(address, array).inspect_err(|_| close())?;
    Ok(0)
}

/// Which way an ioctl's argument goes.
enum Way {
    In,
    Out,
    None,
}

/// The terminal and file ioctls that a task may use, and the size of what they point to.
fn known_ioctl(request: u32) -> Option<(Way, usize)> {
    const TCGETS2: u32 = 0x802c_542a;
    const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
    const TCGETS: u32 = libc::TCGETS as u32;
    const TCSETS: u32 = libc::TCSETS as u32;
    const TCSETSW: u32 = libc::TCSETSW as u32;
    const TCSETSF: u32 = libc::TCSETSF as u32;
    const TIOCGWINSZ: u32 = libc::TIOCGWINSZ as u32;
    const TIOCGPGRP: u32 = libc::TIOCGPGRP as u32;
    const TIOCGSID: u32 = libc::TIOCGSID as u32;
    const TIOCOUTQ: u32 = libc::TIOCOUTQ as u32;
    const TIOCSWINSZ: u32 = libc::TIOCSWINSZ as u32;
    const TIOCGETD: u32 = libc::TIOCGETD as u32;
    const TIOCGPTN: u32 = libc::TIOCGPTN as u32;
    const TIOCSPTLCK: u32 = libc::TIOCSPTLCK as u32;
    const TIOCGPTLCK: u32 = libc::TIOCGPTLCK as u32;
    const TIOCPKT: u32 = libc::TIOCPKT as u32;
    const TIOCGPKT: u32 = libc::TIOCGPKT as u32;
    const TIOCGEXCL: u32 = libc::TIOCGEXCL as u32;
    const TCSETS2: u32 = libc::TCSETS2 as u32;
    const TCSETSW2: u32 = libc::TCSETSW2 as u32;
    const TCSETSF2: u32 = libc::TCSETSF2 as u32;
    const FIONREAD: u32 = libc::FIONREAD as u32;
    const FIONBIO: u32 = libc::FIONBIO as u32;
    const FIOCLEX: u32 = libc::FIOCLEX as u32;
    const FIONCLEX: u32 = libc::FIONCLEX as u32;
    match request {
        TCGETS => Some((Way::Out, 36)),
        TCGETS2 => Some((Way::Out, 44)),
        TCSETS | TCSETSW | TCSETSF => Some((Way::In, 36)),
        TCSETS2 | TCSETSW2 | TCSETSF2 => Some((Way::In, 44)),
        TIOCGWINSZ => Some((Way::Out, 8)),
        TIOCSWINSZ => Some((Way::In, 8)),
        TIOCSPTLCK | TIOCPKT => Some((Way::In, 4)),
        TIOCGPTN | TIOCGPTLCK | TIOCGPKT | TIOCGEXCL | TIOCGETD => Some((Way::Out, 4)),
        TIOCGPGRP | TIOCGSID | TIOCOUTQ | FIONREAD => Some((Way::Out, 4)),
        FS_IOC_GETFLAGS => Some((Way::Out, 4)),
        FIONBIO => Some((Way::In, 4)),
        FIOCLEX | FIONCLEX => Some((Way::None, 0)),
        _ => None,
    }
}

pub(super) fn ioctl(task: &mut Task, [fd, request, argument, ..]: Args) -> SysResult {
    let Some((way, len)) = known_ioctl(request as u32) else {
        let pinned = task.fds.pin(fd)?;
        let fd = pinned.as_raw_fd();
        return terminals::ioctl(task, fd, request as u32, argument)
            .or_else(|| interfaces::ioctl(task, fd, request as u32, argument))
            .unwrap_or(Err(Errno::ENOTTY));
    };
    let fd = task.fds.guest(fd)?;
    let mut local = [0; 64];
    let bytes = local.get_mut(..len).ok_or(Errno::EINVAL)?;
    if matches!(way, Way::In) {
        task.memory.read_into(argument, bytes)?;
    }
    let value = pass!(IOCTL, fd, request as u32 as u64, &mut local)?;
    if matches!(way, Way::Out) {
        task.memory.write(argument, &local[..len])?;
    }
    Ok(value)
}
