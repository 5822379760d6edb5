// SPDX-License-Identifier: GPL-2.0

//! The summary of a stream of events.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::lines::{self, Line};
use super::phase::{self, Phase, Weight};
use super::timeline::Timeline;
use crate::audit::{Event, FileUse, Limit, Verdict, Wall, What};
use crate::quote::printable;

/// How many letters of a text are kept.
pub(super) const LONGEST: usize = 300;

/// How many different things a list has.
const MOST: usize = 500;

/// What an audit says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The tasks that begin in it; it is one, if files were not put together.
    pub tasks: Listed<TaskBegun>,
    /// How many events there are, repeated ones counted as often.
    pub events: u64,
    /// When the first one was, in nanoseconds since 1970.
    pub first: u64,
    /// When the last one was.
    pub last: u64,
    /// The stages of an attack, all of them, in their order.
    pub stages: Vec<Stage>,
    /// Programs that were run.
    pub programs: Listed<Finding>,
    /// Files that were written or changed.
    pub changed: Listed<Finding>,
    /// Whom it reached, or was to be reached by.
    pub reached: Listed<Finding>,
    /// How many processes were made, besides the first.
    pub processes: u64,
    /// How often files were opened to be read, or looked at.
    pub looked: u64,
    /// How the first process ended, in words, if that is there.
    pub end: Option<String>,
    /// What the summary does not know of.
    pub losses: Losses,
    /// When it was.
    #[serde(skip)]
    pub timeline: Timeline,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskBegun {
    /// Its program with the arguments.
    pub command: String,
    /// Its profile.
    pub profile: String,
}

/// A stage of an attack.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// Which.
    pub phase: Phase,
    /// How many events were allowed.
    pub allowed: u64,
    /// How many were refused.
    pub refused: u64,
    /// When the first event was that is in `through` or in `attempts`.
    pub first: Option<u64>,
    /// What was done, and somebody should look at.
    pub through: Listed<Finding>,
    /// What was tried and refused.
    pub attempts: Listed<Finding>,
    /// What was refused that ordinary programs try as well, or is no attempt but worth knowing.
    pub others: Listed<Finding>,
}

/// Things, of which not all are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<T> {
    /// Those that are.
    pub all: Vec<T>,
    /// How many events were of others.
    pub more: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            more: 0,
        }
    }
}

/// Something that happened, once or several times in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What, in words.
    pub what: String,
    /// Whether it was done.
    pub verdict: Verdict,
    /// The error that the task got.
    pub errno: Option<String>,
    /// What stopped it.
    pub wall: Option<Wall>,
    /// What decided.
    pub rule: Option<String>,
    /// When it was first.
    pub first: u64,
    /// How often.
    pub times: u64,
}

/// What is missing in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// Events that were lost, as the record says or as numbers are missing in it.
    pub events: u64,
    /// Lines that are no events.
    pub damaged: u64,
    /// Whether the last line is there in part only.
    pub cut: bool,
    /// Events that are not in the order of their numbers.
    pub disordered: u64,
    /// Whether it does not begin with the beginning of a task.
    pub headless: bool,
    /// Whether it does not say how the task ended.
    pub endless: bool,
}

impl Finding {
    /// What became of it, in a word.
    pub fn outcome(&self) -> &str {
        match (self.verdict, &self.errno) {
            (_, Some(errno)) => errno,
            (Verdict::Allowed, None) => "done",
            (Verdict::Refused, None) => "refused",
        }
    }
}

impl Losses {
    /// Whether there could have been something that is not there.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

impl Summary {
    /// Reads a stream to its end.
    pub fn read(mut input: impl BufRead) -> io::Result<Self> {
        let mut reader = Reader::default();
        let mut line = Vec::new();
        while let Some(kind) = lines::next(&mut input, &mut line)? {
            match (kind, serde_json::from_slice::<Event>(&line)) {
                (Line::Whole | Line::Last, Ok(event)) => reader.add(&event),
                (Line::Last, Err(_)) => reader.losses.cut = true,
                (Line::Whole | Line::TooLong, _) => reader.damaged(),
            }
        }
        Ok(reader.finish())
    }

    /// Whether nothing was in it.
    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// When it began, by the clock.
    pub fn begun(&self) -> String {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.first);
        humantime::format_rfc3339_seconds(begun).to_string()
    }
}

/// A text as it is kept.
fn kept(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

/// A list that is being made.
#[derive(Debug, Default)]
struct List {
    findings: Listed<Finding>,
    /// Where each is.
    places: BTreeMap<Key, usize>,
}

/// What makes two findings one.
type Key = (String, Option<String>, Option<Wall>, Option<String>);

impl List {
    fn add(&mut self, what: &str, event: &Event) {
        let what = kept(what);
        let errno = event.errno.as_deref().map(kept);
        let rule = event.rule.as_deref().map(kept);
        let key = (what, errno, event.wall, rule);
        if let Some(&place) = self.places.get(&key) {
            let times = &mut self.findings.all[place].times;
            *times = times.saturating_add(event.times);
        } else if self.findings.all.len() < MOST {
            let (what, errno, wall, rule) = key.clone();
            self.places.insert(key, self.findings.all.len());
            self.findings.all.push(Finding {
                what,
                verdict: event.verdict,
                errno,
                wall,
                rule,
                first: event.time,
                times: event.times,
            });
        } else {
            self.findings.more = self.findings.more.saturating_add(event.times);
        }
    }
}

/// A stage that is being read.
#[derive(Debug, Default)]
struct Reading {
    allowed: u64,
    refused: u64,
    first: Option<u64>,
    through: List,
    attempts: List,
    others: List,
}

/// What has been read so far.
#[derive(Debug, Default)]
struct Reader {
    summary: Summary,
    stages: [Reading; Phase::ALL.len()],
    programs: List,
    changed: List,
    reached: List,
    /// Paths that the task has written, as far as they are kept.
    written: BTreeSet<String>,
    losses: Losses,
    /// Numbers that are not there, and those that the record says are lost.
    missing: u64,
    lost: u64,
    /// The number of the next event.
    next: u64,
    /// The first process.
    leader: Option<i32>,
}

impl Reader {
    fn damaged(&mut self) {
        self.losses.damaged = self.losses.damaged.saturating_add(1);
    }

    fn add(&mut self, event: &Event) {
        let summary = &mut self.summary;
        if summary.events == 0 {
            summary.first = event.time;
            self.losses.headless = !matches!(event.what, What::Start { .. });
        }
        summary.events = summary.events.saturating_add(event.times);
        summary.first = summary.first.min(event.time);
        summary.last = summary.last.max(event.time);
        self.number(event);
        self.note(event);
        let written = &self.written;
        let Some(meaning) = phase::meaning(event, |path| written.contains(path)) else {
            return;
        };
        let stage = &mut self.stages[meaning.phase as usize];
        let count = match event.verdict {
            Verdict::Allowed => &mut stage.allowed,
            Verdict::Refused => &mut stage.refused,
        };
        *count = count.saturating_add(event.times);
        if meaning.weight != Weight::Ordinary {
            stage.first.get_or_insert(event.time);
        }
        let crash = matches!(event.what, What::Exit { .. });
        match meaning.weight {
            Weight::Through => stage.through.add(&meaning.what, event),
            Weight::Attempt => stage.attempts.add(&meaning.what, event),
            Weight::Ordinary if crash || event.verdict == Verdict::Refused => {
                stage.others.add(&meaning.what, event);
            }
            Weight::Ordinary => {}
        }
        self.summary
            .timeline
            .add(event.time, meaning.phase, meaning.weight, event.times);
        if event.verdict == Verdict::Allowed {
            self.did(event, &meaning.what);
        }
    }

    /// Notes which events are missing.
    fn number(&mut self, event: &Event) {
        if matches!(event.what, What::Start { .. }) && event.seq == 0 {
            self.next = 0;
        }
        match event.seq.checked_sub(self.next) {
            Some(missing) => self.missing = self.missing.saturating_add(missing),
            None => self.losses.disordered = self.losses.disordered.saturating_add(1),
        }
        self.next = self.next.max(event.seq.saturating_add(1));
    }

    /// Notes what is about the task as a whole.
    fn note(&mut self, event: &Event) {
        match &event.what {
            What::Start {
                program,
                arguments,
                profile,
            } => {
                self.leader = Some(event.pid);
                self.summary.end = None;
                let tasks = &mut self.summary.tasks;
                match tasks.all.len() < MOST {
                    true => tasks.all.push(TaskBegun {
                        command: kept(&phase::command(program, arguments)),
                        profile: kept(profile),
                    }),
                    false => tasks.more = tasks.more.saturating_add(1),
                }
            }
            What::Exit { status, signal } if self.leader == Some(event.pid) => {
                self.summary.end = Some(match (status, signal) {
                    (_, Some(signal)) => format!("ended by signal {signal}"),
                    (Some(status), None) => format!("ended with status {status}"),
                    (None, None) => "ended".into(),
                });
            }
            What::Limit {
                limit: limit @ (Limit::Memory | Limit::Cpu | Limit::Time | Limit::Exits),
            } => {
                let limit = format!("{limit:?}").to_lowercase();
                let end = format!("ended by its limit ({limit})");
                self.summary.end.get_or_insert(end);
            }
            What::Lost { count } => self.lost = self.lost.saturating_add(*count),
            _ => {}
        }
    }

    /// Notes what a task did that it may.
    fn did(&mut self, event: &Event, what: &str) {
        let written = match &event.what {
            What::Start { .. } | What::Exec { .. } => {
                self.programs.add(what, event);
                return;
            }
            What::Connect { .. } | What::Listen { .. } => {
                self.reached.add(what, event);
                return;
            }
            What::Fork { .. } => {
                let processes = &mut self.summary.processes;
                *processes = processes.saturating_add(event.times);
                return;
            }
            What::Open {
                access: FileUse::Read | FileUse::List | FileUse::Look,
                ..
            } => {
                let looked = &mut self.summary.looked;
                *looked = looked.saturating_add(event.times);
                return;
            }
            What::Open {
                path,
                access: FileUse::Write | FileUse::ReadWrite,
            } => path,
            What::Change { path, .. } => path,
            _ => return,
        };
        self.changed.add(what, event);
        if self.written.len() < MOST && written.len() <= LONGEST {
            self.written.insert(written.clone());
        }
    }

    fn finish(self) -> Summary {
        let mut losses = self.losses;
        // A damaged line was an event with a number of its own.
        losses.events = self.missing.saturating_sub(losses.damaged).max(self.lost);
        losses.endless = self.summary.end.is_none();
        let stages = Phase::ALL.into_iter().zip(self.stages);
        let stages = stages.map(|(phase, read)| Stage {
            phase,
            allowed: read.allowed,
            refused: read.refused,
            first: read.first,
            through: read.through.findings,
            attempts: read.attempts.findings,
            others: read.others.findings,
        });
        Summary {
            stages: stages.collect(),
            programs: self.programs.findings,
            changed: self.changed.findings,
            reached: self.reached.findings,
            losses,
            ..self.summary
        }
    }
}
