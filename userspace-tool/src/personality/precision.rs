// SPDX-License-Identifier: GPL-2.0

//! Times for a task that is to know none precisely: in whole milliseconds.
//!
//! That is every clock that it reads, the time-stamp counter included, what is left of its timers and waits, and the times
//! of files. It is no more than that: a thread can count while another one waits, and what a timer ends ends when it does.

use super::Args;
use crate::errno::SysResult;
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// A millisecond, in the units that parts of seconds have.
pub(super) const NANOS: u64 = 1_000_000;
pub(super) const MICROS: u64 = 1_000;

/// Makes a time coarse: seconds, and a part of them at `part`, of which so many are a step. What is more than nothing
/// stays so.
fn round(bytes: &mut [u8], part: usize, step: u64) {
    let (Some(seconds), Some(old)) = (part.checked_sub(8), bytes.get(part..part + 8)) else {
        return;
    };
    let old = word(old, 0);
    let mut new = old - old % step;
    if new == 0 && old != 0 && word(bytes, seconds) == 0 {
        new = step;
    }
    if let Some(place) = bytes.get_mut(part..part + 8) {
        place.copy_from_slice(&new.to_le_bytes());
    }
}

impl Task {
    /// Whether it is told times in whole milliseconds only.
    pub(crate) fn is_imprecise(&self) -> bool {
        !self.access.rules().precise_clock
    }

    /// Makes times coarse, if they are to be: each is seconds, and a part of them at one of `parts`.
    pub(super) fn coarsen(&self, bytes: &mut [u8], parts: &[usize], step: u64) {
        if self.is_imprecise() {
            for &part in parts {
                round(bytes, part, step);
            }
        }
    }

    /// Makes the times in a `struct stat` coarse, if they are to be.
    pub(super) fn coarsen_stat(&self, stat: &mut [u8; 144]) {
        self.coarsen(stat, &[80, 96, 112], NANOS);
    }

    /// Makes the times in a `struct statx` coarse, if they are to be.
    pub(super) fn coarsen_statx(&self, statx: &mut [u8; 256]) {
        if self.is_imprecise() {
            for part in [72, 88, 104, 120] {
                let old = word32(statx, part);
                let new = old - old % NANOS as u32;
                statx[part..part + 4].copy_from_slice(&new.to_le_bytes());
            }
        }
    }

    /// Writes what is left of a timer.
    pub(super) fn tell_timer(&self, address: u64, mut times: [u8; 32], step: u64) -> SysResult<()> {
        self.coarsen(&mut times, &[24], step);
        self.memory.write(address, &times)
    }

    /// Writes what was left of a timer that is set anew, if somebody asks.
    pub(super) fn tell_former_timer(
        &self,
        address: u64,
        times: [u8; 32],
        step: u64,
    ) -> SysResult<()> {
        match address {
            0 => Ok(()),
            _ => self.tell_timer(address, times, step),
        }
    }

    /// What the task finds in the time-stamp counter: its steps are those of the clock.
    pub(crate) fn counter(&self) -> u64 {
        let mut now = [0; 16];
        // It cannot fail with this clock.
        let _ = pass!(CLOCK_GETTIME, libc::CLOCK_MONOTONIC, &mut now);
        self.coarsen(&mut now, &[8], NANOS);
        ticks(&now, self.shared.machine.tsc_khz)
    }
}

/// A time in ticks of a counter that has so many thousands in a second.
fn ticks(time: &[u8; 16], khz: u64) -> u64 {
    let nanos = u128::from(word(time, 0)) * 1_000_000_000 + u128::from(word(time, 8));
    (nanos * u128::from(khz) / 1_000_000) as u64
}

/// `clock_gettime` and its like, whose result is told in steps: `call` fills it in.
pub(super) fn tell<const N: usize>(
    task: &Task,
    address: u64,
    (parts, step): (&[usize], u64),
    call: impl FnOnce(&mut [u8; N]) -> SysResult,
) -> SysResult {
    let mut bytes = [0; N];
    let result = call(&mut bytes)?;
    task.coarsen(&mut bytes, parts, step);
    task.memory.write_optional(address, &bytes)?;
    Ok(result)
}

/// `clock_getres`: the steps of the clocks that are told so; that of others is theirs.
pub(super) fn resolution(task: &Task, clock: i32, [_, address, ..]: Args) -> SysResult {
    let mut step = [0; 16];
    let result = pass!(CLOCK_GETRES, clock, &mut step)?;
    let coarse = word(&step, 0) == 0 && word(&step, 8) < NANOS;
    if task.is_imprecise() && coarse {
        step[8..].copy_from_slice(&NANOS.to_le_bytes());
    }
    task.memory.write_optional(address, &step)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64, part: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&seconds.to_le_bytes());
        bytes[8..].copy_from_slice(&part.to_le_bytes());
        bytes
    }

    #[test]
    fn times_are_in_whole_steps() {
        for ((seconds, part), step, expected) in [
            ((5, 1_999_999), NANOS, 1_000_000),
            ((5, 999_999), NANOS, 0),
            ((5, 0), NANOS, 0),
            ((0, 0), NANOS, 0),
            ((0, 1), NANOS, 1_000_000),
            ((0, 999_999_999), NANOS, 999_000_000),
            ((7, 123_456), MICROS, 123_000),
        ] {
            let mut bytes = time(seconds, part);
            round(&mut bytes, 8, step);
            assert_eq!(bytes, time(seconds, expected), "{seconds} {part}");
        }
    }

    #[test]
    fn the_counter_has_the_clocks_rate() {
        assert_eq!(ticks(&time(2, 500_000_000), 1_497_600), 3_744_000_000);
        assert_eq!(ticks(&time(0, 1_000_000), 1_497_600), 1_497_600);
        assert_eq!(ticks(&time(u64::MAX, 0), 0), 0);
    }
}
