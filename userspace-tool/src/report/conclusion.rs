// SPDX-License-Identifier: GPL-2.0

//! What comes of it, in a sentence.

use std::collections::BTreeMap;

use super::phase::Weight;
use super::summary::{Finding, Listed, Losses, Summary};
use crate::audit::Wall;

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The worst that was found.
    pub weight: Weight,
    /// The sentence.
    pub text: String,
}

impl Wall {
    /// What it is called.
    pub fn title(self) -> &'static str {
        match self {
            Self::Personality => "the personality",
            Self::Kernel => "the kernel",
            Self::Ept => "extended page tables",
            Self::Processor => "the processor",
            Self::Limit => "a limit",
        }
    }
}

/// A number of things.
pub(super) fn some(count: u64, one: &str, several: &str) -> String {
    match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {several}"),
    }
}

/// How many different things are in lists, and whether there were more.
fn count<'a>(lists: impl Iterator<Item = &'a Listed<Finding>>) -> (u64, bool) {
    lists.fold((0, false), |(count, more), list| {
        let length = u64::try_from(list.all.len()).unwrap_or(u64::MAX);
        (count.saturating_add(length), more || list.more > 0)
    })
}

impl Summary {
    /// What comes of it.
    pub fn conclusion(&self) -> Conclusion {
        let (through, more_through) = count(self.stages.iter().map(|stage| &stage.through));
        let (attempts, more_attempts) = count(self.stages.iter().map(|stage| &stage.attempts));
        let plus = |more: bool| match more {
            true => "more than ",
            false => "",
        };
        let were = match attempts {
            1 => "was",
            _ => "were",
        };
        let attempted = format!(
            "{}{} {were} refused",
            plus(more_attempts),
            some(attempts, "attempt", "attempts")
        );
        let known = match self.losses.any() {
            true => "as far as the record goes, ",
            false => "",
        };
        let (weight, text) = match (through, attempts) {
            (0, 0) => (
                Weight::Ordinary,
                format!("{known}nothing tells of an attack"),
            ),
            (0, _) => (
                Weight::Attempt,
                format!("{known}nothing got through: {attempted}{}", self.walls()),
            ),
            (_, _) => {
                let things = some(through, "thing", "things");
                let but = match attempts {
                    0 => String::new(),
                    _ => format!("; {attempted}{}", self.walls()),
                };
                let text = format!("{}{things} to look at{but}", plus(more_through));
                (Weight::Through, text)
            }
        };
        let mut letters = text.chars();
        let text = match letters.next() {
            Some(first) => first.to_uppercase().chain(letters).collect(),
            None => String::new(),
        };
        Conclusion { weight, text }
    }

    /// Which walls stopped how many attempts.
    fn walls(&self) -> String {
        let mut walls = BTreeMap::<Wall, u64>::new();
        let mut others = 0;
        for attempt in self.stages.iter().flat_map(|stage| &stage.attempts.all) {
            match attempt.wall {
                Some(wall) => *walls.entry(wall).or_default() += 1,
                None => others += 1,
            }
        }
        let mut walls: Vec<(Wall, u64)> = walls.into_iter().collect();
        walls.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let named = |(wall, count): &(Wall, u64)| format!("{} ({count})", wall.title());
        let by = match walls.iter().map(named).collect::<Vec<_>>().as_slice() {
            [] => String::new(),
            [one] => format!(", by {one}"),
            [before @ .., last] => format!(", by {} and {last}", before.join(", ")),
        };
        match others {
            0 => by,
            _ => format!("{by}, or led nowhere ({others})"),
        }
    }
}

impl Losses {
    /// What is missing, a sentence each.
    pub fn sentences(&self) -> Vec<String> {
        let Self {
            events,
            damaged,
            cut,
            disordered,
            headless,
            endless,
        } = *self;
        let mut all = Vec::new();
        if events > 0 {
            let lost = some(events, "event was", "events were");
            all.push(format!("{lost} lost: nobody knows what is in them."));
        }
        if damaged > 0 {
            let lines = some(damaged, "line", "lines");
            all.push(format!(
                "{lines} could not be read, and may have been anything."
            ));
        }
        if cut {
            all.push("The last line is cut off: the record was not written to its end.".into());
        }
        if disordered > 0 {
            let events = some(disordered, "event is", "events are");
            all.push(format!(
                "{events} out of order: the file was changed, or put together from several."
            ));
        }
        if headless {
            all.push("The record does not begin with the start of a task.".into());
        }
        if endless {
            all.push(
                "The record does not say how the task ended: it was still running, or killed, or the file is cut."
                    .into(),
            );
        }
        all
    }
}

/// What no record can say.
pub const LIMITS: [&str; 3] = [
    "What is recorded is what was tried, not what was in the files, or what was sent.",
    "Processes that serve the task write the record. One that an attacker took over could have left something out, or made \
     something up, from then on.",
    "Which names are of secrets, and which calls lead out, is a list: an attempt at others is told among what programs do as well.",
];
