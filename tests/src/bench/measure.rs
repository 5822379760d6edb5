// SPDX-License-Identifier: GPL-2.0

//! Ticks of the time-stamp counter, and what to say about many of them.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::collections::BTreeMap;

/// The time-stamp counter, between everything before and everything after.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: Every x86-64 CPU has both instructions.
    unsafe {
        _mm_lfence();
        let ticks = _rdtsc();
        _mm_lfence();
        ticks
    }
}

/// The ticks that `body` takes.
#[inline(always)]
pub fn time(body: impl FnOnce()) -> u64 {
    let start = now();
    body();
    now() - start
}

/// What a measurement of nothing gives.
pub fn nothing() -> u64 {
    (0..1001)
        .map(|_| time(|| ()))
        .collect::<Samples>()
        .summary()
        .p50
}

/// What one kind of work took, again and again.
#[derive(Default)]
pub struct Samples(Vec<u64>);

impl FromIterator<u64> for Samples {
    fn from_iter<I: IntoIterator<Item = u64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// What is said about samples. A timer tick is in few of them: it shows in `max`, not in the others.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// The median.
    pub p50: u64,
    /// The most frequent one.
    pub mode: u64,
    /// How many percent of the samples are the mode.
    pub share: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
    /// How many there are.
    pub count: usize,
}

impl Samples {
    /// With room for `count`, so that a sample does not pay for the next one's place.
    pub fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Adds one.
    pub fn push(&mut self, sample: u64) {
        self.0.push(sample);
    }

    /// All of them in a few numbers; there must be at least one.
    pub fn summary(mut self) -> Summary {
        self.0.sort_unstable();
        let mut counts = BTreeMap::new();
        for sample in &self.0 {
            *counts.entry(*sample).or_insert(0usize) += 1;
        }
        // The smallest of the most frequent.
        let (mode, times) = counts
            .into_iter()
            .rev()
            .max_by_key(|&(_, times)| times)
            .expect("a sample");
        let count = self.0.len();
        Summary {
            p50: self.0[count / 2],
            mode,
            share: (times * 100 / count) as u64,
            min: self.0[0],
            max: self.0[count - 1],
            count,
        }
    }
}

/// The parts of one piece of work, in order.
#[derive(Default)]
pub struct Laps {
    last: u64,
    parts: Vec<(&'static str, u64)>,
}

impl Laps {
    /// None yet, with room for some.
    pub fn new() -> Self {
        Self {
            last: 0,
            parts: Vec::with_capacity(16),
        }
    }

    /// Begins the first part.
    pub fn start(&mut self) {
        self.parts.clear();
        self.last = now();
    }

    /// Ends a part, and begins the next one.
    pub fn lap(&mut self, name: &'static str) {
        let now = now();
        self.parts.push((name, now - self.last));
        self.last = now;
    }

    /// The parts.
    pub fn parts(&self) -> &[(&'static str, u64)] {
        &self.parts
    }

    /// All parts together.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, ticks)| ticks).sum()
    }
}
