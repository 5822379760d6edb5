// SPDX-License-Identifier: GPL-2.0

//! Where and when a task runs: as the host lets the broker run, and never more than that.

use super::process::known_process;
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::signal::own_tid;
use crate::task::Task;

/// The largest mask of CPUs, in bytes: that of 8192 of them, more than any kernel has.
const MASK_MAX: u64 = 1024;

/// The first version of a `struct sched_attr`.
const SCHED_ATTR: u32 = 48;

pub(super) fn sched_yield(_: &mut Task, _: Args) -> SysResult {
    pass!(SCHED_YIELD)
}

pub(super) fn sched_getaffinity(task: &mut Task, [pid, size, mask, ..]: Args) -> SysResult {
    let pid = known_process(task, pid)?;
    if size as u32 % 8 != 0 {
        return Err(Errno::EINVAL);
    }
    let size = u64::from(size as u32).min(MASK_MAX);
    let mask = task.memory.range(mask, size as usize)?;
    pass!(SCHED_GETAFFINITY, pid, size, mask)
}

pub(super) fn sched_setaffinity(task: &mut Task, [pid, size, mask, ..]: Args) -> SysResult {
    if own_process(task, pid)? {
        let size = u64::from(size as u32).min(MASK_MAX);
        let mask = task.memory.range(mask, size as usize)?;
        return pass!(SCHED_SETAFFINITY, 0, size, mask);
    }
    Err(Errno::EPERM)
}

/// As [`known_process`]; what is no number of any process is an invalid argument for most calls here.
fn known(task: &Task, pid: u64) -> SysResult {
    match pid as i32 {
        ..0 => Err(Errno::EINVAL),
        _ => known_process(task, pid),
    }
}

/// Whether a number is that of the calling thread; that of its process means it as well. The others of the task exist.
fn own_process(task: &Task, pid: u64) -> SysResult<bool> {
    Ok(pid as i32 == own_tid() || known_process(task, pid)? == 0)
}

pub(super) fn sched_getparam(task: &mut Task, [pid, param, ..]: Args) -> SysResult {
    let pid = known(task, pid)?;
    pass!(SCHED_GETPARAM, pid, task.memory.range(not_null(param)?, 4)?)
}

pub(super) fn sched_getscheduler(task: &mut Task, [pid, ..]: Args) -> SysResult {
    pass!(SCHED_GETSCHEDULER, known(task, pid)?)
}

pub(super) fn sched_getattr(task: &mut Task, [pid, attr, size, flags, ..]: Args) -> SysResult {
    let pid = known(task, pid)?;
    if size as u32 > 4096 {
        return Err(Errno::EINVAL);
    }
    let (buffer, len) = task
        .memory
        .buffer(not_null(attr)?, u64::from(size as u32))?;
    pass!(SCHED_GETATTR, pid, buffer, len, flags)
}

pub(super) fn sched_get_priority_max(_: &mut Task, [policy, ..]: Args) -> SysResult {
    pass!(SCHED_GET_PRIORITY_MAX, policy)
}

pub(super) fn sched_get_priority_min(_: &mut Task, [policy, ..]: Args) -> SysResult {
    pass!(SCHED_GET_PRIORITY_MIN, policy)
}

pub(super) fn sched_rr_get_interval(task: &mut Task, [pid, time, ..]: Args) -> SysResult {
    let pid = known(task, pid)?;
    pass!(SCHED_RR_GET_INTERVAL, pid, task.memory.range(time, 16)?)
}

/// Answers the wish for a policy and a priority, which can only be those that there are; `None` is the policy
/// that there is.
fn keep(task: &Task, pid: u64, policy: Option<u32>, priority: u32) -> SysResult {
    if !own_process(task, pid)? {
        return Err(Errno::EPERM);
    }
    let now = pass!(SCHED_GETSCHEDULER, 0)?;
    let policy = policy.map_or(now, u64::from);
    let max = pass!(SCHED_GET_PRIORITY_MAX, policy)?;
    let min = pass!(SCHED_GET_PRIORITY_MIN, policy)?;
    if !(min..=max).contains(&u64::from(priority)) {
        return Err(Errno::EINVAL);
    }
    let mut param = [0; 4];
    pass!(SCHED_GETPARAM, 0, &mut param)?;
    match (policy, priority) == (now, word32(&param, 0)) {
        true => Ok(0),
        false => Err(Errno::EPERM),
    }
}

/// An address of these calls: null is wrong as a number is, and not as an address.
fn not_null(address: u64) -> SysResult {
    match address {
        0 => Err(Errno::EINVAL),
        _ => Ok(address),
    }
}

/// The priority in a `struct sched_param`.
fn priority_at(task: &Task, param: u64) -> SysResult<u32> {
    Ok(u32::from_le_bytes(task.memory.read(not_null(param)?)?))
}

pub(super) fn sched_setparam(task: &mut Task, [pid, param, ..]: Args) -> SysResult {
    let priority = priority_at(task, param)?;
    keep(task, pid, None, priority)
}

pub(super) fn sched_setscheduler(task: &mut Task, [pid, policy, param, ..]: Args) -> SysResult {
    let priority = priority_at(task, param)?;
    keep(task, pid, Some(policy as u32), priority)
}

pub(super) fn sched_setattr(task: &mut Task, [pid, attr, flags, ..]: Args) -> SysResult {
    let attr = task
        .memory
        .read::<{ SCHED_ATTR as usize }>(not_null(attr)?)?;
    let (size, policy, sched_flags) = (word32(&attr, 0), word32(&attr, 4), word(&attr, 8));
    if flags != 0 || !matches!(size, 0 | SCHED_ATTR..) {
        return Err(Errno::EINVAL);
    }
    if sched_flags != 0 {
        return Err(Errno::EPERM);
    }
    let (nice, priority) = (word32(&attr, 16), word32(&attr, 20));
    keep(task, pid, Some(policy), priority)?;
    match policy as i32 {
        libc::SCHED_OTHER | libc::SCHED_BATCH => set_nice(nice as i32),
        _ => Ok(0),
    }
}

/// Makes the broker's thread as nice as that, if that is no less than it is.
fn set_nice(nice: i32) -> SysResult {
    const SELF: u64 = libc::PRIO_PROCESS as u64;
    let nice = nice.clamp(-20, 19);
    // The call returns it upside down, so that it is never negative.
    let now = 20 - pass!(GETPRIORITY, SELF, 0)? as i32;
    if nice < now {
        return Err(Errno::EACCES);
    }
    pass!(SETPRIORITY, SELF, 0, nice)
}

pub(super) fn getpriority(task: &mut Task, [which, who, ..]: Args) -> SysResult {
    match which as u32 {
        libc::PRIO_PROCESS => pass!(GETPRIORITY, which, known_process(task, who)?),
        // That of the best of its group, or of its user's, which tells nothing of any of them.
        libc::PRIO_PGRP | libc::PRIO_USER if who as u32 == 0 => pass!(GETPRIORITY, which, 0),
        libc::PRIO_PGRP | libc::PRIO_USER => Err(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn setpriority(task: &mut Task, [which, who, nice, ..]: Args) -> SysResult {
    match which as u32 {
        libc::PRIO_PROCESS if own_process(task, who)? => set_nice(nice as i32),
        libc::PRIO_PROCESS | libc::PRIO_PGRP | libc::PRIO_USER => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn ioprio_get(task: &mut Task, [which, who, ..]: Args) -> SysResult {
    const PROCESS: u32 = 1;
    match which as u32 {
        PROCESS => pass!(IOPRIO_GET, which, known_process(task, who)?),
        2 | 3 => Err(Errno::ESRCH),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn getcpu(task: &mut Task, [cpu, node, ..]: Args) -> SysResult {
    let cpu = task.memory.optional(cpu, 4)?;
    let node = task.memory.optional(node, 4)?;
    pass!(GETCPU, cpu, node)
}
