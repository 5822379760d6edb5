// SPDX-License-Identifier: GPL-2.0

//! Clocks and sleeping.

use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

pub(super) fn clock_gettime(task: &mut Task, [clock, time, ..]: Args) -> SysResult {
    pass!(CLOCK_GETTIME, clock, task.memory.range(time, 16)?)
}

pub(super) fn clock_getres(task: &mut Task, [clock, time, ..]: Args) -> SysResult {
    pass!(CLOCK_GETRES, clock, task.memory.optional(time, 16)?)
}

pub(super) fn gettimeofday(task: &mut Task, [time, zone, ..]: Args) -> SysResult {
    let (time, zone) = (
        task.memory.optional(time, 16)?,
        task.memory.optional(zone, 8)?,
    );
    pass!(GETTIMEOFDAY, time, zone)
}

pub(super) fn time(task: &mut Task, [address, ..]: Args) -> SysResult {
    let mut now = [0; 16];
    pass!(CLOCK_GETTIME, libc::CLOCK_REALTIME, &mut now)?;
    task.memory.write_optional(address, &now[..8])?;
    Ok(word(&now, 0))
}

pub(super) fn times(task: &mut Task, [buffer, ..]: Args) -> SysResult {
    pass!(TIMES, task.memory.optional(buffer, 32)?)
}

pub(super) fn nanosleep(task: &mut Task, [request, remain, ..]: Args) -> SysResult {
    let clock = libc::CLOCK_MONOTONIC as u64;
    clock_nanosleep(task, [clock, 0, request, remain, 0, 0])
}

pub(super) fn clock_nanosleep(task: &mut Task, args: Args) -> SysResult {
    let [clock, flags, request, remain, ..] = args;
    let mut request = task.memory.read::<16>(request)?;
    let remain = task.memory.optional(remain, 16)?;
    pass!(CLOCK_NANOSLEEP, clock, flags, &mut request, remain)
}

/// Waits and wakes of a task that has one thread: nobody can wake it, and it has nobody to wake.
pub(super) fn futex(task: &mut Task, args: Args) -> SysResult {
    let [address, operation, value, timeout, ..] = args;
    let operation = operation as i32;
    let clock = match operation & libc::FUTEX_CLOCK_REALTIME {
        0 => libc::CLOCK_MONOTONIC,
        _ => libc::CLOCK_REALTIME,
    };
    if address % 4 != 0 {
        return Err(Errno::EINVAL);
    }
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    match command {
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            task.memory.range(address, 4)?;
            Ok(0)
        }
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let now = task.memory.read::<4>(address)?;
            if word32(&now, 0) != value as u32 {
                return Err(Errno::EAGAIN);
            }
            let mut timeout = task.memory.read_optional::<16>(timeout)?;
            if timeout.is_none() {
                return pass!(PAUSE);
            }
            // The plain wait is for a while, the other until a time.
            let flags = match command {
                libc::FUTEX_WAIT => 0,
                _ => libc::TIMER_ABSTIME,
            };
            pass!(CLOCK_NANOSLEEP, clock, flags, &mut timeout, None)?;
            Err(Errno::ETIMEDOUT)
        }
        _ => Err(Errno::ENOSYS),
    }
}
