// SPDX-License-Identifier: GPL-2.0

//! The table, and the bars.

use std::fmt::Write;

use super::measure::Summary;

/// The parts of some work, in order: what each took, the median.
pub type Parts = Vec<(&'static str, u64)>;

/// How often events happened, by name.
#[derive(Clone, Debug, Default)]
pub struct Events(Vec<(String, f64)>);

impl FromIterator<(String, f64)> for Events {
    fn from_iter<I: IntoIterator<Item = (String, f64)>>(events: I) -> Self {
        Self(events.into_iter().collect())
    }
}

impl Events {
    /// The difference to earlier ones, with the same names in the same order.
    pub fn since(&self, before: &Self) -> Self {
        let pairs = self.0.iter().zip(&before.0);
        pairs
            .map(|((name, after), (_, before))| (name.clone(), after - before))
            .collect()
    }

    /// Those of one operation among `count`.
    pub fn per(&self, count: u64) -> Self {
        let divided = |(name, events): &(String, f64)| (name.clone(), events / count as f64);
        self.0.iter().map(divided).collect()
    }

    /// Those that happened, to two digits.
    fn shown(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(name, events)| {
            let rounded = (events * 100.0).round() / 100.0;
            (rounded > 0.0).then_some((name.as_str(), rounded))
        })
    }
}

/// Who did the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// The host itself.
    Native,
    /// uvisor, where VMX is off outside of its windows.
    Owned,
    /// uvisor, where KVM has VMX on.
    Borrowed,
    /// KVM, by plain ioctls.
    Kvm,
    /// bubblewrap: namespaces and nothing else.
    Bubblewrap,
    /// gVisor, on its KVM platform.
    Gvisor,
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Owned => "uvisor",
            Self::Borrowed => "uvisor (borrowed)",
            Self::Kvm => "KVM",
            Self::Bubblewrap => "bubblewrap",
            Self::Gvisor => "gVisor (KVM)",
        }
    }

    fn is_uvisor(self) -> bool {
        matches!(self, Self::Owned | Self::Borrowed)
    }
}

/// The most that uvisor may take for some work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// There is none.
    None,
    /// So many ticks.
    Ticks(u64),
    /// So many ticks where no mitigations are applied.
    Unmitigated(u64),
    /// So many times the ticks of the same work done natively.
    Native(f64),
}

/// Work that is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// What it is called in the table.
    pub name: &'static str,
    /// The most that uvisor may take.
    pub bar: Bar,
}

impl Work {
    /// Work with a bar in ticks.
    pub const fn within(name: &'static str, ticks: u64) -> Self {
        let bar = Bar::Ticks(ticks);
        Self { name, bar }
    }

    /// Work without a bar.
    pub const fn shown(name: &'static str) -> Self {
        let bar = Bar::None;
        Self { name, bar }
    }
}

/// "Well ahead of KVM" in the same boot: by this factor.
const AHEAD: f64 = 2.0;

/// One figure, or why there is none.
struct Line {
    work: Work,
    system: System,
    figure: Result<Summary, String>,
    events: Events,
}

/// What was measured.
#[derive(Default)]
pub struct Report {
    mitigated: bool,
    conditions: Vec<(&'static str, String)>,
    lines: Vec<Line>,
    parts: Vec<(Work, System, Parts)>,
}

impl Report {
    /// Notes a condition of the measurement.
    pub fn condition(&mut self, name: &'static str, value: impl Into<String>) {
        self.conditions.push((name, value.into()));
    }

    /// Says whether mitigations are applied.
    pub fn set_mitigated(&mut self, mitigated: bool) {
        self.mitigated = mitigated;
    }

    /// The bar of some work here, in ticks.
    fn bar(&self, work: Work) -> Option<u64> {
        match work.bar {
            Bar::Ticks(ticks) => Some(ticks),
            Bar::Unmitigated(ticks) => (!self.mitigated).then_some(ticks),
            Bar::Native(times) => Some((self.p50(work, System::Native)? as f64 * times) as u64),
            Bar::None => None,
        }
    }

    /// Adds a figure.
    pub fn add(&mut self, work: Work, system: System, summary: Summary, events: Events) {
        self.lines.push(Line {
            work,
            system,
            figure: Ok(summary),
            events,
        });
    }

    /// Says why there is no figure.
    pub fn missing(&mut self, work: Work, system: System, why: impl Into<String>) {
        self.lines.push(Line {
            work,
            system,
            figure: Err(why.into()),
            events: Events::default(),
        });
    }

    /// Adds the parts of a figure.
    pub fn parts(&mut self, work: Work, system: System, parts: Parts) {
        self.parts.push((work, system, parts));
    }

    /// The median of a figure.
    fn p50(&self, work: Work, system: System) -> Option<u64> {
        let is = |line: &&Line| line.work == work && line.system == system;
        let line = self.lines.iter().find(is)?;
        line.figure.as_ref().ok().map(|summary| summary.p50)
    }

    /// How many times as much KVM takes, for a line of uvisor's.
    fn ahead(&self, line: &Line) -> Option<f64> {
        let kvm = self.p50(line.work, System::Kvm)?;
        let ours = line.figure.as_ref().ok()?.p50;
        line.system
            .is_uvisor()
            .then(|| kvm as f64 / ours.max(1) as f64)
    }

    /// Whether a line meets its bar, if it has one.
    fn meets(&self, line: &Line) -> Option<bool> {
        let bar = self.bar(line.work).filter(|_| line.system.is_uvisor())?;
        let within = line.figure.as_ref().is_ok_and(|s| s.p50 <= bar);
        Some(within && self.ahead(line).is_none_or(|factor| factor >= AHEAD))
    }

    /// Whether all bars are met.
    pub fn all_met(&self) -> bool {
        self.lines
            .iter()
            .all(|line| self.meets(line) != Some(false))
    }

    /// The lines of one kind of work after the other, in the order in which they were first met.
    fn sorted(&self) -> Vec<&Line> {
        let first = |work| self.lines.iter().position(|line| line.work == work);
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_by_key(|line| first(line.work));
        lines
    }

    /// How many times as much as natively some system takes.
    fn native_ratio(&self, line: &Line) -> Option<f64> {
        let native = self.p50(line.work, System::Native)?;
        let ours = line.figure.as_ref().ok()?.p50;
        (line.system != System::Native).then(|| ours as f64 / native.max(1) as f64)
    }

    /// The table for a person.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (name, value) in &self.conditions {
            let _ = writeln!(out, "{name}: {value}");
        }
        let _ = writeln!(
            out,
            "\n{:<34} {:<17} {:>11} {:>15} {:>11} {:>11} {:>5} {:>11} {:>8}  {:<20} events of one",
            "work", "system", "p50", "mode", "min", "max", "n", "this/native", "KVM/this", "bar"
        );
        let mut last = None;
        for line in self.sorted() {
            let work = match last.replace(line.work) {
                Some(work) if work == line.work => "",
                _ => line.work.name,
            };
            let _ = write!(out, "{work:<34} {:<17} ", line.system.name());
            let summary = match &line.figure {
                Ok(summary) => summary,
                Err(why) => {
                    let _ = writeln!(out, "not measured: {why}");
                    continue;
                }
            };
            let mode = format!("{} ({}%)", summary.mode, summary.share);
            let ahead = self
                .ahead(line)
                .map_or(String::new(), |factor| format!("{factor:.1}"));
            let native = self
                .native_ratio(line)
                .map_or(String::new(), |factor| format!("{factor:.2}"));
            let bar = match (self.meets(line), self.bar(line.work)) {
                (Some(met), Some(bar)) => {
                    format!("<={bar} {}", if met { "ok" } else { "MISSED" })
                }
                _ => String::new(),
            };
            let events: Vec<_> = line
                .events
                .shown()
                .map(|(name, count)| format!("{name}={count}"))
                .collect();
            let row = format!(
                "{:>11} {mode:>15} {:>11} {:>11} {:>5} {native:>11} {ahead:>8}  {bar:<20} {}",
                summary.p50,
                summary.min,
                summary.max,
                summary.count,
                events.join(" ")
            );
            let _ = writeln!(out, "{}", row.trim_end());
        }
        for (work, system, parts) in &self.parts {
            let _ = writeln!(out, "\nparts of: {}, {}", work.name, system.name());
            for (name, ticks) in parts {
                let _ = writeln!(out, "  {name:<40} {ticks:>9}");
            }
        }
        out
    }

    /// The same for a program.
    pub fn json(&self) -> String {
        let conditions = self.conditions.iter();
        let conditions = conditions.map(|(name, value)| format!("{name:?}: {}", quoted(value)));
        let lines = self.sorted().into_iter().map(|line| {
            let mut fields = vec![
                format!("\"work\": {}", quoted(line.work.name)),
                format!("\"system\": {}", quoted(line.system.name())),
            ];
            match &line.figure {
                Ok(s) => fields.push(format!(
                    "\"p50\": {}, \"mode\": {}, \"mode_percent\": {}, \"min\": {}, \"max\": {}, \
                     \"samples\": {}",
                    s.p50, s.mode, s.share, s.min, s.max, s.count
                )),
                Err(why) => fields.push(format!("\"not_measured\": {}", quoted(why))),
            }
            if let Some(factor) = self.native_ratio(line) {
                fields.push(format!("\"native_ratio\": {factor:.2}"));
            }
            if let Some(factor) = self.ahead(line) {
                fields.push(format!("\"kvm_ratio\": {factor:.2}"));
            }
            if let (Some(met), Some(bar)) = (self.meets(line), self.bar(line.work)) {
                fields.push(format!("\"bar\": {bar}, \"bar_met\": {met}"));
            }
            let events = line.events.shown();
            let events: Vec<_> = events
                .map(|(name, count)| format!("{}: {count}", quoted(name)))
                .collect();
            fields.push(format!("\"events\": {{ {} }}", events.join(", ")));
            format!("    {{ {} }}", fields.join(", "))
        });
        let parts = self.parts.iter().map(|(work, system, parts)| {
            let parts = parts.iter();
            let parts = parts.map(|(name, ticks)| format!("{}: {ticks}", quoted(name)));
            format!(
                "    {{ \"work\": {}, \"system\": {}, \"parts\": {{ {} }} }}",
                quoted(work.name),
                quoted(system.name()),
                parts.collect::<Vec<_>>().join(", ")
            )
        });
        format!(
            "{{\n  \"unit\": \"ticks of the time-stamp counter\",\n  \"conditions\": {{ {} }},\n  \
             \"figures\": [\n{}\n  ],\n  \"parts\": [\n{}\n  ]\n}}\n",
            conditions.collect::<Vec<_>>().join(", "),
            lines.collect::<Vec<_>>().join(",\n"),
            parts.collect::<Vec<_>>().join(",\n"),
        )
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
