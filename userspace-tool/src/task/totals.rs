// SPDX-License-Identifier: GPL-2.0

//! What happened to all micro-VMs of a task: each of its processes has one, and so has each program that one becomes.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use uvisor_uapi::{Stats, EVENTS, PAGE_SIZE};

use super::TaskError;
use crate::map::Mapping;
use crate::personality::Fds;

/// Counters in memory that all processes of a task have, of the micro-VMs that there are no more.
#[derive(Debug)]
pub(crate) struct Totals(Mapping);

impl Totals {
    /// Counters at zero.
    pub(super) fn new(fds: &Fds) -> Result<Self, TaskError> {
        let file = fds.memory_file(&fds.hold(), c"uvisor-totals", PAGE_SIZE);
        let file = file.map_err(TaskError::Setup)?;
        Ok(Self(Mapping::new(file.as_fd(), PAGE_SIZE as usize)?))
    }

    /// The counters.
    fn counters(&self) -> &[AtomicU64; EVENTS] {
        // SAFETY: The mapping is a page, with room for them and aligned, and lives as long as `self`; whoever else has
        // it changes it by atomic operations only.
        unsafe { self.0.base().cast().as_ref() }
    }

    /// Counts what happened to a micro-VM.
    pub(super) fn add(&self, stats: &Stats) {
        for (counter, &count) in self.counters().iter().zip(&stats.events) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Adds what was counted to what happened to one that still is.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        for (counter, count) in self.counters().iter().zip(&mut stats.events) {
            *count = count.saturating_add(counter.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_up() {
        let totals = Totals::new(&Fds::reserve().unwrap()).unwrap();
        let mut stats = Stats::new();
        stats.events[0] = 5;
        stats.events[EVENTS - 1] = u64::MAX - 1;
        totals.add(&stats);
        totals.add_to(&mut stats);
        assert_eq!(stats.events[0], 10);
        assert_eq!(stats.events[EVENTS - 1], u64::MAX);
    }
}
