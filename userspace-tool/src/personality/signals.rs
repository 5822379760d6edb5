// SPDX-License-Identifier: GPL-2.0

//! Signals: what is done about them, who blocks them, and who may send which to whom.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::actions::{Action, Disposition, MASK, SIGNALS};
use super::kills::Asked;
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::process::pidfd_info;
use crate::signal::{self, bit, WAKE};
use crate::task::{End, Task};

/// The number of a signal, if it is one.
pub(super) fn number_of(number: u64) -> SysResult<i32> {
    match number as u32 as usize {
        number @ 1..SIGNALS => Ok(number as i32),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn rt_sigaction(task: &mut Task, [number, new, old, size, ..]: Args) -> SysResult {
    let number = number_of(number)?;
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let new = task.memory.read_optional::<32>(new)?.map(Action);
    if new.is_some() && matches!(number, libc::SIGKILL | libc::SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let mut actions = task.shared.actions.lock();
    let before = match new {
        Some(new) => actions.set(number, new)?,
        None => actions.get(number),
    };
    drop(actions);
    task.memory.write_optional(old, &before.0)?;
    Ok(0)
}

pub(super) fn rt_sigprocmask(task: &mut Task, [how, new, old, size, ..]: Args) -> SysResult {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let new = task.memory.read_optional::<8>(new)?;
    let before = task.signals.mask;
    if let Some(new) = new.map(u64::from_le_bytes) {
        let mask = match how as i32 {
            libc::SIG_BLOCK => before | new,
            libc::SIG_UNBLOCK => before & !new,
            libc::SIG_SETMASK => new,
            _ => return Err(Errno::EINVAL),
        };
        task.set_mask(mask);
    }
    task.memory.write_optional(old, &before.to_le_bytes())?;
    Ok(0)
}

pub(super) fn rt_sigpending(task: &mut Task, [set, size, ..]: Args) -> SysResult {
    if size > MASK {
        return Err(Errno::EINVAL);
    }
    let mut pending = [0; 8];
    pass!(RT_SIGPENDING, &mut pending, size)?;
    if task.inbox.is_postponed() {
        let all = u64::from_le_bytes(pending) | bit(WAKE);
        pending = all.to_le_bytes();
    }
    let wanted = pending.get(..size as usize).unwrap_or(&pending);
    task.memory.write(set, wanted).map(|()| 0)
}

pub(super) fn rt_sigsuspend(task: &mut Task, [mask, size, ..]: Args) -> SysResult {
    let mask = task.memory.read::<8>(mask)?;
    let mut mask = task.temporary_mask(mask);
    pass!(RT_SIGSUSPEND, &mut mask, size)
}

pub(super) fn rt_sigtimedwait(task: &mut Task, [set, info, time, size, ..]: Args) -> SysResult {
    let mut set = task.signals.host_mask(task.memory.read::<8>(set)?);
    let mut time = task.memory.read_optional::<16>(time)?;
    let info = task.memory.optional(info, 128)?;
    pass!(RT_SIGTIMEDWAIT, &mut set, info, &mut time, size)
}

pub(super) fn rt_sigreturn(task: &mut Task, _: Args) -> SysResult {
    task.sigreturn()
}

pub(super) fn pause(_: &mut Task, _: Args) -> SysResult {
    pass!(PAUSE)
}

pub(super) fn sigaltstack(task: &mut Task, [new, old, ..]: Args) -> SysResult {
    let new = task.memory.read_optional::<24>(new)?;
    let sp = task.vcpu.regs().rsp;
    let before = task.signals.stack.shown(sp);
    if let Some(new) = new {
        if task.signals.stack.holds(sp) {
            return Err(Errno::EPERM);
        }
        task.signals.stack.set(new)?;
    }
    task.memory.write_optional(old, &before)?;
    Ok(0)
}

/// Whether a number is that of the signal which nothing holds up.
fn kills(number: u64) -> bool {
    number as u32 as i32 == libc::SIGKILL
}

/// Sends a signal to the task's own process.
fn raise(task: &mut Task, number: u64) -> SysResult {
    if number as u32 == 0 {
        return Ok(0);
    }
    let number = number_of(number)?;
    let default = task.shared.actions.lock().get(number).disposition() == Disposition::Default;
    let blocked = task.signals.mask & bit(number) != 0;
    if task.shared.threads.is_alone() && signal::is_fatal(number) && default && !blocked {
        // It ends by itself, so that there is somebody to say how, and to let go of what others wait for.
        task.end(End::Signal(number));
        return Ok(0);
    }
    match number {
        libc::SIGKILL if signal::takes_fatal() => {
            task.ending = Some(task.die(number));
            Ok(0)
        }
        WAKE => signal::send_to_self(number, &signal::guests_wake()),
        _ => pass!(KILL, u64::from(crate::process::id()), number),
    }
}

/// Sends a signal to another process of the task.
fn send(task: &Task, pid: u32, number: u64) -> SysResult {
    match send_with(task, pid, number, None) {
        // A child that ends, or has ended, is there until it is waited for.
        Err(Errno::ESRCH) if is_own_child(pid as i32) => match number as u32 as usize {
            0..SIGNALS => Ok(0),
            _ => Err(Errno::EINVAL),
        },
        sent => sent,
    }
}

/// [`send`], with what is to come with it.
fn send_with(task: &Task, pid: u32, number: u64, info: Option<signal::Info>) -> SysResult {
    let mut asked = Asked::default();
    let sent = send_one(task, pid, number, info, &mut asked);
    asked.wait(task);
    sent
}

/// [`send_with`], but that a process is maybe only asked to end.
fn send_one(
    task: &Task,
    pid: u32,
    number: u64,
    info: Option<signal::Info>,
    asked: &mut Asked,
) -> SysResult {
    let handle = handle(task, pid)?;
    let number = number as u32 as i32;
    if number == libc::SIGKILL {
        return asked.kill(task, pid, &handle);
    }
    let mut info = info.or_else(|| (number == WAKE).then(signal::guests_wake));
    pass!(PIDFD_SEND_SIGNAL, handle.as_raw_fd(), number, &mut info, 0)
}

/// A handle on another process of the task.
pub(super) fn handle(task: &Task, pid: u32) -> SysResult<OwnedFd> {
    // There is none on a process of others', not even for a moment, as long as the handle has a number of the guest's.
    let member = || match task.is_member(pid.into()) {
        true => Ok(()),
        // Others are none of the task's business; whether they exist is not told.
        false => Err(Errno::ESRCH),
    };
    member()?;
    let moving = task.fds.hold();
    let handle = pass!(PIDFD_OPEN, u64::from(pid), 0)?;
    let handle = task.fds.keep(&moving, handle)?;
    drop(moving);
    // What was moved may be what another thread has put in its place.
    if process_of(handle.as_raw_fd())? != pid {
        return Err(Errno::ESRCH);
    }
    // Nor was it another one by then.
    member().map(|()| handle)
}

/// The process that a handle is on; an error if that has ended, or it is no such handle.
fn process_of(handle: RawFd) -> SysResult<u32> {
    // The process is always filled in, as the sixth word.
    match pidfd_info(handle, 1) {
        Ok(info) => Ok(word32(&info, 20)),
        Err(_) => Err(Errno::ESRCH),
    }
}

/// Sends a signal to those processes of the task for which `is_meant` is true; itself last.
fn send_to_many(task: &mut Task, number: u64, is_meant: impl Fn(u32) -> bool) -> SysResult {
    if number as u32 as usize >= SIGNALS {
        return Err(Errno::EINVAL);
    }
    let mut result = Err(Errno::ESRCH);
    let mut asked = Asked::default();
    for pid in task.others().into_iter().filter(|&pid| is_meant(pid)) {
        match send_one(task, pid, number, None, &mut asked) {
            // It has ended since.
            Err(Errno::ESRCH) => {}
            sent => result = sent,
        }
    }
    asked.wait(task);
    match is_meant(crate::process::id()) {
        true => raise(task, number),
        false => result,
    }
}

pub(super) fn kill(task: &mut Task, [pid, number, ..]: Args) -> SysResult {
    let group_of = |pid: u32| pass!(GETPGID, u64::from(pid)).ok();
    match pid as u32 as i32 {
        pid if pid > 0 && task.is_own(pid as u64) => raise(task, number),
        pid if pid > 0 => send(task, pid as u32, number),
        -1 => {
            let own = crate::process::id();
            send_to_many(task, number, |pid| pid != own)
        }
        0 => {
            let group = group_of(0);
            send_to_many(task, number, |pid| group_of(pid) == group)
        }
        group => {
            let group = Some(u64::from(group.unsigned_abs()));
            send_to_many(task, number, |pid| group_of(pid) == group)
        }
    }
}

/// Whether a process is a child of this one.
fn is_own_child(pid: i32) -> bool {
    let mut info = [0; 128];
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    pass!(WAITID, libc::P_PID as i32, pid, &mut info, options, None).is_ok()
}

pub(super) fn tkill(task: &mut Task, [tid, number, ..]: Args) -> SysResult {
    send_to_thread(task, u64::from(crate::process::id()), tid, number)
}

pub(super) fn tgkill(task: &mut Task, [group, tid, number, ..]: Args) -> SysResult {
    send_to_thread(task, group, tid, number)
}

/// Sends a signal to a thread.
fn send_to_thread(task: &mut Task, group: u64, tid: u64, number: u64) -> SysResult {
    let (group, tid) = (group as u32 as i32, tid as u32 as i32);
    if group <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let own = task.is_own(group as u64);
    // A number that the process had once stands for what it has now, on the host as well.
    let pid = crate::process::id() as i32;
    let tid = match task.is_own(tid as u64) {
        true => pid,
        false => tid,
    };
    match own {
        true if !task.shared.threads.has(tid) => Err(Errno::ESRCH),
        true if task.shared.threads.is_alone() || kills(number) => raise(task, number),
        true => pass!(TGKILL, pid, tid, number as u32 as i32),
        // The first thread of another process of the task, which is pinned meanwhile.
        false if group == tid => send(task, tid as u32, number),
        false => Err(Errno::EPERM),
    }
}

pub(super) fn rt_sigqueueinfo(task: &mut Task, [pid, number, info, ..]: Args) -> SysResult {
    let info = queued(task.memory.read::<128>(info)?)?;
    match task.is_own(pid) {
        true if kills(number) => raise(task, number),
        true => signal::send_to_self(number as u32 as i32, &info),
        false => send_with(task, pid as u32, number, Some(info)),
    }
}

/// What a program may say that comes with a signal: no more than that a program has sent it. What the kernel
/// says of faults and timers is the kernel's to say.
fn queued(info: [u8; 128]) -> SysResult<[u8; 128]> {
    match word32(&info, 8) as i32 {
        1.. => Err(Errno::EPERM),
        _ => Ok(info),
    }
}

pub(super) fn rt_tgsigqueueinfo(task: &mut Task, args: Args) -> SysResult {
    let [group, tid, number, info, ..] = args;
    let mut info = queued(task.memory.read::<128>(info)?)?;
    let tid = match task.is_own(tid) {
        true => crate::process::id() as i32,
        false => tid as u32 as i32,
    };
    if !task.is_own(group) {
        return Err(Errno::EPERM);
    }
    if !task.shared.threads.has(tid) {
        return Err(Errno::ESRCH);
    }
    if kills(number) {
        return raise(task, number);
    }
    let pid = crate::process::id() as i32;
    pass!(RT_TGSIGQUEUEINFO, pid, tid, number as u32 as i32, &mut info)
}
