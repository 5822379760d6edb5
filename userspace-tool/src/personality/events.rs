// SPDX-License-Identifier: GPL-2.0

//! Descriptors for events: `epoll`, `eventfd`, `timerfd`, `signalfd`, `inotify`, `pidfd`; and memory files.
//!
//! They are the host's own objects. What a task registers with them are descriptors, signals and files that it
//! could wait for or read itself.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use super::precision::NANOS;
use super::{open, procfs, signals, time, wait, Args};
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::task::Task;

/// The size of a `struct epoll_event`, which is packed.
const EPOLL_EVENT: usize = 12;

/// Longest name of a memory file, with its NUL.
const MEMFD_NAME: usize = 250;

pub(super) fn epoll_create(task: &mut Task, [size, ..]: Args) -> SysResult {
    // The size is a hint of old, but none that is not positive.
    if size as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(task, [0; 6])
}

pub(super) fn epoll_create1(task: &mut Task, [flags, ..]: Args) -> SysResult {
    let fd = pass!(EPOLL_CREATE1, flags)?;
    task.fds.accept(fd)
}

pub(super) fn epoll_ctl(task: &mut Task, [epoll, operation, fd, event, ..]: Args) -> SysResult {
    let mut event = match operation as i32 {
        libc::EPOLL_CTL_DEL => None,
        _ => Some(task.memory.read::<EPOLL_EVENT>(event)?),
    };
    if let Some(event) = &mut event {
        // To keep the machine awake takes a capability; who lacks it has the flag ignored.
        let events = word32(event, 0) & !(libc::EPOLLWAKEUP as u32);
        event[..4].copy_from_slice(&events.to_le_bytes());
    }
    let (epoll, fd) = (task.fds.guest(epoll)?, task.fds.guest(fd)?);
    let _moving = task.fds.hold();
    pass!(EPOLL_CTL, epoll, operation, fd, &mut event)
}

pub(super) fn epoll_wait(task: &mut Task, [epoll, events, max, timeout, ..]: Args) -> SysResult {
    epoll_pwait(task, [epoll, events, max, timeout, 0, 0])
}

/// How many bytes so many events take.
fn events_len(max: u64) -> SysResult<usize> {
    match max as u32 as i32 {
        max if max <= 0 || max > i32::MAX / EPOLL_EVENT as i32 => Err(Errno::EINVAL),
        max => Ok(max as usize * EPOLL_EVENT),
    }
}

pub(super) fn epoll_pwait(task: &mut Task, args: Args) -> SysResult {
    let [epoll, events, max, timeout, mask, size] = args;
    let epoll = task.fds.guest(epoll)?;
    let mut mask = wait::signal_mask(task, mask, size)?;
    let events = task.memory.range(events, events_len(max)?)?;
    pass!(EPOLL_PWAIT, epoll, events, max, timeout, &mut mask, 8)
}

pub(super) fn epoll_pwait2(task: &mut Task, args: Args) -> SysResult {
    let [epoll, events, max, timeout, mask, size] = args;
    let mut timeout = task.memory.read_optional::<16>(timeout)?;
    let epoll = task.fds.guest(epoll)?;
    let mut mask = wait::signal_mask(task, mask, size)?;
    let events = task.memory.range(events, events_len(max)?)?;
    pass!(EPOLL_PWAIT2, epoll, events, max, &mut timeout, &mut mask, 8)
}

pub(super) fn eventfd(task: &mut Task, [count, ..]: Args) -> SysResult {
    eventfd2(task, [count, 0, 0, 0, 0, 0])
}

pub(super) fn eventfd2(task: &mut Task, [count, flags, ..]: Args) -> SysResult {
    let fd = pass!(EVENTFD2, count, flags)?;
    task.fds.accept(fd)
}

pub(super) fn timerfd_create(task: &mut Task, [clock, flags, ..]: Args) -> SysResult {
    let clock = time::timer_clock(task, clock)?;
    let fd = pass!(TIMERFD_CREATE, clock, flags)?;
    task.fds.accept(fd)
}

pub(super) fn timerfd_settime(task: &mut Task, [fd, flags, new, old, ..]: Args) -> SysResult {
    let mut new = task.memory.read::<32>(new)?;
    let fd = task.fds.guest(fd)?;
    let mut before = [0; 32];
    task.memory.optional(old, 32)?;
    pass!(TIMERFD_SETTIME, fd, flags, &mut new, &mut before)?;
    task.tell_former_timer(old, before, NANOS).map(|()| 0)
}

pub(super) fn timerfd_gettime(task: &mut Task, [fd, time, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let mut left = [0; 32];
    task.memory.range(time, 32)?;
    pass!(TIMERFD_GETTIME, fd, &mut left)?;
    task.tell_timer(time, left, NANOS).map(|()| 0)
}

pub(super) fn signalfd(task: &mut Task, [fd, mask, size, ..]: Args) -> SysResult {
    signalfd4(task, [fd, mask, size, 0, 0, 0])
}

pub(super) fn signalfd4(task: &mut Task, [fd, mask, size, flags, ..]: Args) -> SysResult {
    if size != 8 {
        return Err(Errno::EINVAL);
    }
    let mask = task.memory.read::<8>(mask)?;
    let mut mask = task.signals.host_mask(mask);
    if fd as u32 as i32 == -1 {
        let fd = pass!(SIGNALFD4, -1, &mut mask, 8, flags)?;
        return task.fds.accept(fd);
    }
    pass!(SIGNALFD4, task.fds.guest(fd)?, &mut mask, 8, flags)
}

pub(super) fn inotify_init(task: &mut Task, _: Args) -> SysResult {
    inotify_init1(task, [0; 6])
}

pub(super) fn inotify_init1(task: &mut Task, [flags, ..]: Args) -> SysResult {
    let fd = pass!(INOTIFY_INIT1, flags)?;
    task.fds.accept(fd)
}

pub(super) fn inotify_add_watch(task: &mut Task, [fd, path, mask, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let path = task.memory.path(path)?;
    let mask = mask as u32;
    let follows = mask & libc::IN_DONT_FOLLOW == 0;
    // What is watched is what was looked at, whatever the path leads to by now.
    let file = open::readable(task, &path, follows)?;
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let link = CString::new(link).map_err(|_| Errno::EINVAL)?;
    let mask = u64::from(mask & !libc::IN_DONT_FOLLOW);
    pass!(INOTIFY_ADD_WATCH, fd, &*link, mask)
}

pub(super) fn inotify_rm_watch(task: &mut Task, [fd, watch, ..]: Args) -> SysResult {
    pass!(INOTIFY_RM_WATCH, task.fds.guest(fd)?, watch)
}

/// `memfd_create`. What such files hold is charged to the broker, not to the micro-VM.
pub(super) fn memfd_create(task: &mut Task, [name, flags, ..]: Args) -> SysResult {
    let name = task.memory.text(name, MEMFD_NAME, Errno::EINVAL)?;
    if flags as u32 & libc::MFD_HUGETLB != 0 {
        // As of a kernel that has no huge pages for them: the pool is not the task's to use up.
        return Err(Errno::ENOSYS);
    }
    let fd = pass!(MEMFD_CREATE, &*name, flags)?;
    task.fds.accept(fd)
}

/// The host's number of a process that the task may send signals to.
fn may_signal(task: &Task, pid: u64) -> Option<u64> {
    match task.is_own(pid) {
        true => Some(u64::from(crate::process::id())),
        false => task.is_member(pid).then_some(u64::from(pid as u32)),
    }
}

pub(super) fn pidfd_open(task: &mut Task, [pid, flags, ..]: Args) -> SysResult {
    if pid as u32 as i32 <= 0 {
        return Err(Errno::EINVAL);
    }
    // Whether there are others is not told.
    let pid = may_signal(task, pid).ok_or(Errno::ESRCH)?;
    let fd = pass!(PIDFD_OPEN, pid, flags)?;
    task.fds.accept(fd)
}

/// The process that a text of `/proc/self/fdinfo` says a descriptor stands for, if it stands for one.
fn pid_of(info: &str) -> Option<i32> {
    let mut lines = info.lines();
    lines.find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

pub(super) fn pidfd_send_signal(task: &mut Task, args: Args) -> SysResult {
    /// The thread or the process, which say no more than the descriptor does.
    const HARMLESS: u32 = 1 | 2;
    let [fd, number, info, flags, ..] = args;
    let flags = flags as u32;
    if flags & !HARMLESS != 0 || flags == HARMLESS {
        return Err(Errno::EINVAL);
    }
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    // It may have come from anywhere, so what it stands for must be known.
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let pid = pid_of(&text)
        .or_else(|| procfs::process_of(fd))
        .ok_or(Errno::EBADF)?;
    let pid = match pid {
        -1 => return Err(Errno::ESRCH),
        pid => may_signal(task, pid as u64).ok_or(Errno::EPERM)?,
    };
    if info != 0 {
        // Information of the task's own making would have to be checked as the kernel does.
        return Err(Errno::EPERM);
    }
    signals::kill(task, [pid, number, 0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_events_are_bounded() {
        assert_eq!(events_len(1), Ok(12));
        for max in [0, u64::MAX, 1 << 31, 0x7fff_ffff, 1 << 32] {
            assert_eq!(events_len(max), Err(Errno::EINVAL), "{max:#x}");
        }
        assert_eq!(events_len((1 << 32) + 2), Ok(24));
    }

    #[test]
    fn processes_are_found_behind_their_descriptors() {
        assert_eq!(
            pid_of("pos:\t0\nflags:\t02\nPid:\t42\nNSpid:\t42\n"),
            Some(42)
        );
        assert_eq!(pid_of("pos:\t0\nPid:\t-1\n"), Some(-1));
        assert_eq!(pid_of("pos:\t0\nflags:\t02\n"), None);
        assert_eq!(pid_of("NSpid:\t42\nxPid:\t42\n"), None);
        // As the kernel has it.
        let own = crate::process::id();
        let fd = pass!(PIDFD_OPEN, u64::from(own), 0).unwrap();
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
        assert_eq!(pid_of(&text), Some(own as i32));
        pass!(CLOSE, fd).unwrap();
    }
}
