// SPDX-License-Identifier: GPL-2.0

//! Timers that send signals. They are the host's, set for the broker, which gets their signals as the task would.
//!
//! The time that a task computes is the broker's system time for the host, as the module runs it. So the interval
//! timer of user time counts all CPU time of the broker.

use std::collections::BTreeSet;

use super::precision::{MICROS, NANOS};
use super::{time, Args};
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// The size of a `struct sigevent`.
const SIGEVENT: usize = 64;

/// The timers of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    /// The process that they are of: a child has none of its parent's.
    owner: u32,
    /// The numbers of those that it made.
    made: BTreeSet<i32>,
    /// That which counts user time, when there is one.
    user_time: Option<i32>,
}

impl Timers {
    /// Those of this process.
    fn own(&mut self) -> &mut Self {
        let owner = crate::process::id();
        if self.owner != owner {
            *self = Self {
                owner,
                ..Self::default()
            };
        }
        self
    }

    /// A timer that it made.
    fn get(&mut self, number: u64) -> SysResult<i32> {
        let number = number as i32;
        let known = self.own().made.contains(&number);
        known.then_some(number).ok_or(Errno::EINVAL)
    }

    /// Those of the program that takes this one's place: interval timers stay.
    pub(crate) fn after_exec(&self) -> Self {
        Self {
            made: BTreeSet::new(),
            ..self.clone()
        }
    }

    /// The program that made timers is no more.
    pub(crate) fn delete(&mut self) {
        for number in std::mem::take(&mut self.own().made) {
            // It is there, as nobody else deletes it.
            let _ = pass!(TIMER_DELETE, number);
        }
    }
}

/// The event that the host is told of for the one that the guest wants.
fn event(task: &Task, wanted: &[u8; SIGEVENT]) -> SysResult<[u8; SIGEVENT]> {
    let notify = word32(wanted, 12) as i32;
    let mut event = [0; SIGEVENT];
    event[..16].copy_from_slice(&wanted[..16]);
    match notify {
        libc::SIGEV_NONE => return Ok(event),
        libc::SIGEV_SIGNAL | libc::SIGEV_THREAD => {}
        libc::SIGEV_THREAD_ID => {
            let tid = word32(wanted, 16) as i32;
            if !task.shared.threads.has(tid) {
                return Err(Errno::EINVAL);
            }
            event[16..20].copy_from_slice(&tid.to_le_bytes());
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(event)
}

pub(super) fn timer_create(task: &mut Task, [clock, wanted, id, ..]: Args) -> SysResult {
    let clock = time::timer_clock(task, clock)?;
    let mut event = match task.memory.read_optional::<SIGEVENT>(wanted)? {
        Some(wanted) => Some(event(task, &wanted)?),
        None => None,
    };
    let mut number = [0; 4];
    pass!(TIMER_CREATE, clock, &mut event, &mut number)?;
    task.memory.write(id, &number).inspect_err(|_| {
        // It is there, and nobody has it.
        let _ = pass!(TIMER_DELETE, i32::from_le_bytes(number));
    })?;
    let mut timers = task.shared.timers.lock();
    timers.own().made.insert(i32::from_le_bytes(number));
    Ok(0)
}

pub(super) fn timer_settime(task: &mut Task, [number, flags, new, old, ..]: Args) -> SysResult {
    // As on Linux, null is no bad address here.
    let mut new = task.memory.read_optional::<32>(new)?.ok_or(Errno::EINVAL)?;
    let number = task.shared.timers.lock().get(number)?;
    let mut before = [0; 32];
    task.memory.optional(old, 32)?;
    pass!(TIMER_SETTIME, number, flags, &mut new, &mut before)?;
    task.tell_former_timer(old, before, NANOS).map(|()| 0)
}

pub(super) fn timer_gettime(task: &mut Task, [number, value, ..]: Args) -> SysResult {
    let number = task.shared.timers.lock().get(number)?;
    let mut left = [0; 32];
    task.memory.range(value, 32)?;
    pass!(TIMER_GETTIME, number, &mut left)?;
    task.tell_timer(value, left, NANOS).map(|()| 0)
}

pub(super) fn timer_getoverrun(task: &mut Task, [number, ..]: Args) -> SysResult {
    pass!(TIMER_GETOVERRUN, task.shared.timers.lock().get(number)?)
}

pub(super) fn timer_delete(task: &mut Task, [number, ..]: Args) -> SysResult {
    let number = task.shared.timers.lock().get(number)?;
    pass!(TIMER_DELETE, number)?;
    task.shared.timers.lock().own().made.remove(&number);
    Ok(0)
}

pub(super) fn alarm(_: &mut Task, [seconds, ..]: Args) -> SysResult {
    pass!(ALARM, seconds)
}

pub(super) fn getitimer(task: &mut Task, [which, value, ..]: Args) -> SysResult {
    let mut times = [0; 32];
    task.memory.range(value, 32)?;
    if which as u32 != libc::ITIMER_VIRTUAL as u32 {
        pass!(GETITIMER, which, &mut times)?;
        return task.tell_timer(value, times, MICROS).map(|()| 0);
    }
    let timer = task.shared.timers.lock().own().user_time;
    if let Some(timer) = timer {
        pass!(TIMER_GETTIME, timer, &mut times)?;
    }
    task.tell_timer(value, to_micros(&times), MICROS)
        .map(|()| 0)
}

pub(super) fn setitimer(task: &mut Task, [which, new, old, ..]: Args) -> SysResult {
    // As on Linux, none is one of zeros.
    let mut new = task.memory.read_optional::<32>(new)?.unwrap_or_default();
    if which as u32 != libc::ITIMER_VIRTUAL as u32 {
        let mut before = [0; 32];
        task.memory.optional(old, 32)?;
        pass!(SETITIMER, which, &mut new, &mut before)?;
        return task.tell_former_timer(old, before, MICROS).map(|()| 0);
    }
    let mut new = to_nanos(&new)?;
    let mut timers = task.shared.timers.lock();
    let timers = timers.own();
    let timer = match timers.user_time {
        Some(timer) => timer,
        None => *timers.user_time.insert(user_timer()?),
    };
    let mut before = [0; 32];
    pass!(TIMER_SETTIME, timer, 0, &mut new, &mut before)?;
    task.tell_former_timer(old, to_micros(&before), MICROS)
        .map(|()| 0)
}

/// Makes the timer that counts the broker's CPU time, for the task's user time.
fn user_timer() -> SysResult<i32> {
    let mut event = [0; SIGEVENT];
    event[8..12].copy_from_slice(&libc::SIGVTALRM.to_le_bytes());
    let (mut number, clock) = ([0; 4], libc::CLOCK_PROCESS_CPUTIME_ID);
    pass!(TIMER_CREATE, clock, &mut event, &mut number)?;
    Ok(i32::from_le_bytes(number))
}

/// A `struct itimerval` for a `struct itimerspec`; what is left is more than nothing.
fn to_micros(times: &[u8; 32]) -> [u8; 32] {
    let mut result = *times;
    for at in [8, 24] {
        let micros = word(times, at).div_ceil(1000).min(999_999);
        result[at..at + 8].copy_from_slice(&micros.to_le_bytes());
    }
    result
}

/// A `struct itimerspec` for a `struct itimerval`.
fn to_nanos(times: &[u8; 32]) -> SysResult<[u8; 32]> {
    let mut result = *times;
    for at in [8, 24] {
        let (seconds, micros) = (word(times, at - 8), word(times, at));
        if seconds > i64::MAX as u64 || micros >= 1_000_000 {
            return Err(Errno::EINVAL);
        }
        result[at..at + 8].copy_from_slice(&(micros * 1000).to_le_bytes());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(words: [u64; 4]) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn interval_timers_are_in_microseconds() {
        let spec = times([1, 2000, 3, 999_999_000]);
        assert_eq!(to_nanos(&times([1, 2, 3, 999_999])), Ok(spec));
        assert_eq!(to_micros(&spec), times([1, 2, 3, 999_999]));
        assert_eq!(to_micros(&times([0, 0, 0, 1])), times([0, 0, 0, 1]));
        for wrong in [
            [0, 0, 0, 1_000_000],
            [0, u64::MAX, 0, 0],
            [1 << 63, 0, 0, 0],
        ] {
            assert_eq!(to_nanos(&times(wrong)), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn only_timers_that_were_made_are_named() {
        let mut timers = Timers::default();
        timers.own().made.insert(7);
        assert_eq!(timers.get(7), Ok(7));
        assert_eq!(timers.get(8), Err(Errno::EINVAL));
        // Those of a parent are not a child's.
        timers.owner += 1;
        assert_eq!(timers.get(7), Err(Errno::EINVAL));
    }

    #[test]
    fn a_new_program_has_none_of_the_old_ones_timers() {
        let mut number = [0; 4];
        let mut event = [0; SIGEVENT];
        event[12..16].copy_from_slice(&libc::SIGEV_NONE.to_le_bytes());
        pass!(TIMER_CREATE, libc::CLOCK_MONOTONIC, &mut event, &mut number).unwrap();
        let number = i32::from_le_bytes(number);
        let mut timers = Timers::default();
        timers.own().made.insert(number);
        assert!(timers.after_exec().made.is_empty());
        timers.delete();
        assert!(timers.made.is_empty());
        assert_eq!(pass!(TIMER_GETOVERRUN, number), Err(Errno::EINVAL));
    }
}
