// SPDX-License-Identifier: GPL-2.0

//! `uvctl explain`.

mod facts;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{json, Value};
use uvisor::profile::{Profile, Surroundings};

use self::facts::{facts, Axis, Fact};
use super::{style, Output};

const RED: u8 = 31;
const GREEN: u8 = 32;
const BOLD: u8 = 1;

/// How wide lists of names become.
const WIDTH: usize = 100;

/// Print all that a task could touch under a profile.
///
/// Each thing is printed with the line of the profile that says it. It is printed from what is enforced, after all that
/// the profile includes, and not from the profile's text.
#[derive(Debug, Args)]
#[command(
    override_usage = "uvctl explain [OPTIONS] PROFILE\n       uvctl explain [OPTIONS] --diff A B",
    after_help = "What is printed:
  files        paths, each with all that is below; the longest one that something is below of decides. What is below
               of none is not there, and what the machine does not have is not there either.
  network      what it reaches, and where it is reached
  processes    whether it may make any
  memory       whether what could be written may become executable
  syscalls     what becomes of each system call of Linux: served, or refused and why
  devices      device files
  environment  variables
  limits       how much it may have

The program itself, with its interpreter, and what options of `uvctl run` allow come on top of a profile.

With --diff, lines that start with `-` are only so under A, and those with `+` only under B.

Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl explain default
  uvctl explain ./web.toml --json | jq -r '.files[] | select(.execute) | .path'
  uvctl explain --diff default ./web.toml"
)]
pub(crate) struct Explain {
    /// The profile: a name, or a path with a `/` in it.
    #[arg(required_unless_present = "diff")]
    profile: Option<String>,
    /// Print what is another under A than under B.
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "profile")]
    diff: Option<Vec<String>>,
    #[command(flatten)]
    output: Output,
}

/// Prints what is wanted.
pub(crate) fn main(explain: &Explain) -> Result<(), String> {
    let surroundings = Surroundings::of_this_process();
    let load = |name: &String| {
        Profile::load(name, &surroundings).map_err(|error| style::printable(&error.to_string()))
    };
    let colours = style::colours();
    let text = match (explain.diff.as_deref(), &explain.profile) {
        (Some([a, b]), _) => {
            let (a, b) = (facts(&load(a)?.rules), facts(&load(b)?.rules));
            let changes = changes(&a, &b);
            match explain.output.json {
                true => pretty(&changes.iter().map(Change::value).collect()),
                false => changes.iter().map(|change| change.text(colours)).collect(),
            }
        }
        (_, Some(name)) => {
            let profile = load(name)?;
            match explain.output.json {
                true => pretty(&facts::value(&profile)),
                false => text(&profile, colours),
            }
        }
        // The parser has seen to it.
        (_, None) => return Err("name a profile".into()),
    };
    style::print(&text).map_err(|error| error.to_string())
}

/// JSON with a line for each value.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A profile for a person.
fn text(profile: &Profile, colours: bool) -> String {
    let mut text = style::printable(&profile.rules.name);
    if let Some(description) = &profile.description {
        text += ": ";
        text += &style::printable(description);
    }
    text.push('\n');
    for (axis, facts) in facts(&profile.rules) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n{}", style::paint(axis.name(), BOLD, colours));
        match axis {
            Axis::Syscalls => groups(&mut text, &facts),
            _ => columns(&mut text, &facts),
        }
    }
    text
}

/// Facts in columns.
fn columns(text: &mut String, facts: &[Fact]) {
    let width = |part: fn(&Fact) -> &str| {
        let widths = facts.iter().map(|fact| part(fact).chars().count());
        widths.max().unwrap_or(0)
    };
    let (subject, says) = (width(|fact| &fact.subject), width(|fact| &fact.says));
    for fact in facts {
        let line = format!(
            "  {:<subject$}  {:<says$}  {}",
            fact.subject, fact.says, fact.why
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// Facts of which many are the same: what they are about as a list, by what they say.
fn groups(text: &mut String, facts: &[Fact]) {
    let mut groups: BTreeMap<(bool, &str, &str), Vec<&str>> = BTreeMap::new();
    for fact in facts {
        let served = fact.says == facts::SERVED;
        let group = groups.entry((!served, &fact.says, &fact.why));
        group.or_default().push(&fact.subject);
    }
    for ((_, says, why), names) in groups {
        let why = match why {
            "" => String::new(),
            why => format!(" ({why})"),
        };
        let _ = writeln!(text, "  {says}{why}: {}", names.len());
        let mut line = String::new();
        for name in names {
            if !line.is_empty() && 4 + line.len() + 1 + name.len() > WIDTH {
                let _ = writeln!(text, "    {line}");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += name;
        }
        let _ = writeln!(text, "    {line}");
    }
}

/// What is another in one of two profiles.
#[derive(Debug, PartialEq, Eq)]
struct Change<'a> {
    axis: Axis,
    subject: &'a str,
    /// What the first one says.
    before: Option<&'a str>,
    /// What the second one says.
    after: Option<&'a str>,
}

impl Change<'_> {
    /// For a person.
    fn text(&self, colours: bool) -> String {
        let lines = [('-', RED, self.before), ('+', GREEN, self.after)];
        let lines = lines.into_iter().filter_map(|(sign, colour, says)| {
            let line = format!("{sign} {}: {} {}", self.axis.name(), self.subject, says?);
            Some(style::paint(line.trim_end(), colour, colours) + "\n")
        });
        lines.collect()
    }

    /// For a program.
    fn value(&self) -> Value {
        json!({
            "axis": self.axis.name(),
            "subject": self.subject,
            "before": self.before,
            "after": self.after,
        })
    }
}

/// What is another under `b` than under `a`; where that is said is no difference.
fn changes<'a>(a: &'a [(Axis, Vec<Fact>)], b: &'a [(Axis, Vec<Fact>)]) -> Vec<Change<'a>> {
    type Said<'a> = BTreeMap<(Axis, &'a str), &'a str>;
    fn said(all: &[(Axis, Vec<Fact>)]) -> Said<'_> {
        all.iter()
            .flat_map(|(axis, facts)| {
                let facts = facts.iter();
                facts.map(move |fact| ((*axis, &*fact.subject), &*fact.says))
            })
            .collect()
    }
    let (a, b) = (said(a), said(b));
    let mut changes: Vec<Change<'_>> = a
        .keys()
        .chain(b.keys().filter(|key| !a.contains_key(*key)))
        .map(|&key| Change {
            axis: key.0,
            subject: key.1,
            before: a.get(&key).copied(),
            after: b.get(&key).copied(),
        })
        .filter(|change| change.before != change.after)
        .collect();
    changes.sort_by_key(|change| (change.axis, change.subject));
    changes
}

#[cfg(test)]
mod tests;
