// SPDX-License-Identifier: GPL-2.0

//! Clocks and sleeping.

use super::precision::{self, tell, MICROS, NANOS};
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// The size of a `struct timex`.
const TIMEX: usize = 208;

/// The host's number of a clock: one of the machine's, or of the CPU time of the task itself.
///
/// A negative number is that of a process or thread, whose number it has in the upper bits, or of an open device.
pub(super) fn clock(task: &Task, clock: u64) -> SysResult<i32> {
    /// Which in a clock's number says that it is a device's.
    const DEVICE: i32 = 3;
    let clock = clock as i32;
    if clock >= 0 {
        return Ok(clock);
    }
    match !(clock >> 3) {
        _ if clock & DEVICE == DEVICE => Err(Errno::EINVAL),
        0 => Ok(clock),
        pid if task.is_own(pid as u64) => Ok(cpu_clock(crate::process::id(), clock & 7)),
        // Whether there are others is not told.
        _ => Err(Errno::EINVAL),
    }
}

/// The clock of a process's CPU time; `kind` says whether it is that of a thread, and which time.
fn cpu_clock(pid: u32, kind: i32) -> i32 {
    !(pid as i32) << 3 | kind
}

/// A clock for a timer: not one of those that wake the machine, which takes a capability.
pub(super) fn timer_clock(task: &Task, number: u64) -> SysResult<i32> {
    match clock(task, number)? {
        libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM => Err(Errno::EPERM),
        clock => Ok(clock),
    }
}

pub(super) fn clock_gettime(task: &mut Task, [number, time, ..]: Args) -> SysResult {
    let number = clock(task, number)?;
    if !task.is_imprecise() {
        return pass!(CLOCK_GETTIME, number, task.memory.range(time, 16)?);
    }
    task.memory.range(time, 16)?;
    tell::<16>(task, time, (&[8], NANOS), |now| {
        pass!(CLOCK_GETTIME, number, now)
    })
}

pub(super) fn clock_getres(task: &mut Task, args: Args) -> SysResult {
    let number = clock(task, args[0])?;
    precision::resolution(task, number, args)
}

pub(super) fn adjtimex(task: &mut Task, [time, ..]: Args) -> SysResult {
    clock_adjtime(task, [libc::CLOCK_REALTIME as u64, time, 0, 0, 0, 0])
}

/// `clock_adjtime`, which may look at the clock, not change it.
pub(super) fn clock_adjtime(task: &mut Task, [number, time, ..]: Args) -> SysResult {
    const READ: u32 = 0;
    let number = clock(task, number)?;
    let mut timex = task.memory.read::<TIMEX>(time)?;
    if !matches!(word32(&timex, 0), READ | libc::ADJ_OFFSET_SS_READ) {
        return Err(Errno::EPERM);
    }
    let state = pass!(CLOCK_ADJTIME, number, &mut timex)?;
    let step = match word32(&timex, 40) as i32 & libc::STA_NANO {
        0 => MICROS,
        _ => NANOS,
    };
    task.coarsen(&mut timex, &[80], step);
    task.memory.write(time, &timex)?;
    Ok(state)
}

pub(super) fn gettimeofday(task: &mut Task, [address, zone, ..]: Args) -> SysResult {
    let (time, zone) = (
        task.memory.optional(address, 16)?,
        task.memory.optional(zone, 8)?,
    );
    if task.is_imprecise() {
        pass!(GETTIMEOFDAY, None, zone)?;
        return tell::<16>(task, address, (&[8], MICROS), |now| {
            pass!(GETTIMEOFDAY, now, None)
        });
    }
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
    let [number, flags, request, remain, ..] = args;
    let number = timer_clock(task, number)?;
    let mut request = task.memory.read::<16>(request)?;
    let mut left = [0; 16];
    let slept = pass!(CLOCK_NANOSLEEP, number, flags, &mut request, &mut left);
    // What is left of a time that ends at a moment is not told.
    if slept == Err(Errno::EINTR) && flags as i32 & libc::TIMER_ABSTIME == 0 {
        task.coarsen(&mut left, &[8], NANOS);
        task.memory.write_optional(remain, &left)?;
    }
    slept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_clocks_are_those_of_the_system() {
        let mut clock = 0;
        let own = crate::process::id();
        // SAFETY: It writes to the variable only.
        let result = unsafe { libc::clock_getcpuclockid(own as i32, &mut clock) };
        assert_eq!(result, 0);
        assert_eq!(cpu_clock(own, clock & 7), clock);
        assert_eq!(!(clock >> 3), own as i32);
        let mut time = [0; 16];
        pass!(CLOCK_GETTIME, cpu_clock(own, 2), &mut time).unwrap();
        assert_ne!(time, [0; 16]);
    }
}
