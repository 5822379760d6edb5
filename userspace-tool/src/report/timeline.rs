// SPDX-License-Identifier: GPL-2.0

//! When things happened, in as many steps as fit, however long it took.

use super::phase::{Phase, Weight};

/// So many steps.
const STEPS: usize = 160;

/// The shortest step, in nanoseconds.
const SHORTEST: u64 = 1_000_000;

/// How many events of each weight.
pub type Counts = [u64; 3];

/// Events of each phase by time.
#[derive(Clone, Debug)]
pub struct Timeline {
    begin: Option<u64>,
    step: u64,
    rows: [Vec<Counts>; Phase::ALL.len()],
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            begin: None,
            step: SHORTEST,
            rows: std::array::from_fn(|_| vec![Counts::default(); STEPS]),
        }
    }
}

impl Timeline {
    /// Notes events. One from before the first is noted with that.
    pub(super) fn add(&mut self, time: u64, phase: Phase, weight: Weight, times: u64) {
        let since = time.saturating_sub(*self.begin.get_or_insert(time));
        while since / self.step >= STEPS as u64 {
            self.halve();
        }
        let step = usize::try_from(since / self.step).unwrap_or(STEPS - 1);
        let row = &mut self.rows[phase as usize];
        let count = &mut row[step][weight as usize];
        *count = count.saturating_add(times);
    }

    /// Makes steps twice as long.
    fn halve(&mut self) {
        self.step = self.step.saturating_mul(2);
        for row in &mut self.rows {
            let mut halved = vec![Counts::default(); STEPS];
            for (step, counts) in row.iter().enumerate() {
                for (sum, count) in halved[step / 2].iter_mut().zip(counts) {
                    *sum = sum.saturating_add(*count);
                }
            }
            *row = halved;
        }
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        STEPS
    }

    /// How long a step is, in nanoseconds.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The steps of a phase in which something happened, and what.
    pub fn of(&self, phase: Phase) -> impl Iterator<Item = (usize, &Counts)> {
        let steps = self.rows[phase as usize].iter().enumerate();
        steps.filter(|(_, counts)| counts.iter().any(|&count| count > 0))
    }
}

/// A time since the beginning.
pub fn since(time: u64, begin: u64) -> String {
    format!("+{}", seconds(time.saturating_sub(begin)))
}

/// A duration.
pub fn seconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let seconds = milliseconds / 1000;
    match seconds {
        0..=59 => format!("{seconds}.{:03} s", milliseconds % 1000),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_fits() {
        let mut timeline = Timeline::default();
        for time in [5, 0, 5 + SHORTEST, u64::MAX] {
            timeline.add(time, Phase::Network, Weight::Attempt, 2);
        }
        let found: Vec<_> = timeline.of(Phase::Network).collect();
        assert_eq!(found[0], (0, &[0, 6, 0]));
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].1, &[0, 2, 0]);
        assert!(found[1].0 < STEPS && found[1].0 >= STEPS / 2);
        assert_eq!(timeline.of(Phase::Escape).count(), 0);
    }

    #[test]
    fn counts_do_not_overflow() {
        let mut timeline = Timeline::default();
        timeline.add(0, Phase::Escape, Weight::Ordinary, u64::MAX);
        timeline.add(0, Phase::Escape, Weight::Ordinary, 9);
        timeline.add(1 << 40, Phase::Escape, Weight::Ordinary, 1);
        assert_eq!(timeline.of(Phase::Escape).next().unwrap().1[0], u64::MAX);
    }
}
