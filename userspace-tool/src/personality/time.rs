// SPDX-License-Identifier: GPL-2.0

//! Clocks and sleeping.

use super::Args;
use crate::errno::SysResult;
use crate::memory::word;
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
