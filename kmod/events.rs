// SPDX-License-Identifier: GPL-2.0

//! Counted events.

// Not the kernel's atomics: C never sees these, and calls of its helpers would be most of the cost.
use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use uvisor_uapi::{
    Event,
    Stats,
    EVENTS, //
};

/// One counter for each [`Event`].
pub(crate) struct Counters([AtomicU64; EVENTS]);

impl Counters {
    /// All zero.
    pub(crate) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; EVENTS])
    }

    /// Counts an event of which this thread is the only counter, as the runner of a vCPU is.
    #[inline(always)]
    pub(crate) fn bump(&self, event: Event) {
        // CAST: The number of an event is its index.
        if let Some(counter) = self.0.get(event as usize) {
            counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Counts `n` events that any thread counts.
    pub(crate) fn add(&self, event: Event, n: u64) {
        // CAST: As above.
        if let Some(counter) = self.0.get(event as usize) {
            counter.fetch_add(n, Relaxed);
        }
    }

    /// Adds all of these to `other`, which any thread counts.
    pub(crate) fn add_to(&self, other: &Self) {
        for (from, to) in self.0.iter().zip(&other.0) {
            to.fetch_add(from.load(Relaxed), Relaxed);
        }
    }

    /// Adds all of these to the ones that user space is told.
    pub(crate) fn report(&self, stats: &mut Stats) {
        for (from, to) in self.0.iter().zip(&mut stats.events) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
    }
}
