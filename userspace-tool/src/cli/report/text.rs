// SPDX-License-Identifier: GPL-2.0

//! The report for a terminal.

use std::fmt::Write as _;

use uvisor::report::{seconds, since, Finding, Listed, Stage, Summary, Weight, LIMITS};

use super::style::paint;

const BOLD: u8 = 1;
const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;

/// How many things of a list are printed.
const SHOWN: usize = 10;

/// How wide what was done is, before what became of it.
const WIDTH: usize = 48;

/// The report.
pub(super) fn text(summary: &Summary, colours: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = head(&mut text, summary, colours);
    for (number, stage) in summary.stages.iter().enumerate() {
        let _ = chain(&mut text, number + 1, stage, summary.first, colours);
    }
    let _ = did(&mut text, summary, colours);
    let _ = writeln!(text, "\n{}", paint("What this cannot know", BOLD, colours));
    for sentence in LIMITS {
        let _ = writeln!(text, "  {sentence}");
    }
    text
}

/// What comes of it, and what it is about.
fn head(text: &mut String, summary: &Summary, colours: bool) -> std::fmt::Result {
    let conclusion = summary.conclusion();
    let colour = match conclusion.weight {
        Weight::Through => RED,
        _ if summary.losses.any() => YELLOW,
        _ => GREEN,
    };
    let sentence = format!("{}.", conclusion.text);
    writeln!(text, "{}", paint(&sentence, colour, colours))?;
    for sentence in summary.losses.sentences() {
        writeln!(text, "{}", paint(&sentence, YELLOW, colours))?;
    }
    writeln!(text)?;
    for task in summary.tasks.all.iter().take(SHOWN) {
        writeln!(text, "{}, under profile {}", task.command, task.profile)?;
    }
    more(text, &summary.tasks, "")?;
    let took = seconds(summary.last.saturating_sub(summary.first));
    let end = match &summary.end {
        Some(end) => format!("; {end}"),
        None => String::new(),
    };
    let processes = summary.processes.saturating_add(1);
    writeln!(
        text,
        "{}, {took}; events: {}, processes: {processes}{end}",
        summary.begun(),
        summary.events
    )
}

/// A stage.
fn chain(
    text: &mut String,
    number: usize,
    stage: &Stage,
    begin: u64,
    colours: bool,
) -> std::fmt::Result {
    let (through, attempts) = (stage.through.all.len(), stage.attempts.all.len());
    let mut said = Vec::new();
    if through > 0 {
        said.push(paint(&format!("{through} to look at"), RED, colours));
    }
    if attempts > 0 {
        said.push(paint(&format!("{attempts} refused"), CYAN, colours));
    }
    match stage.first {
        Some(first) => said.push(format!("from {}", since(first, begin))),
        None if stage.allowed == 0 && stage.refused == 0 => said.push("nothing".into()),
        None => said.push("nothing unusual".into()),
    }
    let title = paint(stage.phase.title(), BOLD, colours);
    writeln!(text, "\n{number} {title}: {}", said.join(", "))?;
    for found in stage.through.all.iter().take(SHOWN) {
        line(text, '!', found, RED, colours)?;
    }
    more(text, &stage.through, " to look at")?;
    for found in stage.attempts.all.iter().take(SHOWN) {
        line(text, '-', found, CYAN, colours)?;
    }
    more(text, &stage.attempts, " refused")?;
    let others = stage.others.all.len();
    if others > 0 {
        let plus = match stage.others.more {
            0 => "",
            _ => " and more",
        };
        writeln!(
            text,
            "    others, as ordinary programs have: {others}{plus}"
        )?;
    }
    Ok(())
}

/// A finding.
fn line(
    text: &mut String,
    sign: char,
    found: &Finding,
    colour: u8,
    colours: bool,
) -> std::fmt::Result {
    // Padded before it is painted: what paints takes no room.
    let what = paint(&format!("{sign} {:<WIDTH$}", found.what), colour, colours);
    let mut says = found.outcome().to_owned();
    if let Some(wall) = found.wall {
        let _ = write!(says, ", by {}", wall.title());
    }
    if let Some(rule) = &found.rule {
        let _ = write!(says, " ({rule})");
    }
    if found.times != 1 {
        let _ = write!(says, ", {} times", found.times);
    }
    writeln!(text, "  {what}  {says}")
}

/// What the task did that it may.
fn did(text: &mut String, summary: &Summary, colours: bool) -> std::fmt::Result {
    let title = paint("What it did that it may", BOLD, colours);
    writeln!(text, "\n{title}")?;
    for list in [&summary.programs, &summary.changed, &summary.reached] {
        for found in list.all.iter().take(SHOWN) {
            writeln!(text, "    {}", found.what)?;
        }
        more(text, list, "")?;
    }
    let (looked, processes) = (summary.looked, summary.processes);
    writeln!(
        text,
        "    files opened to be read or looked at: {looked}; processes made: {processes}"
    )
}

/// How much of a list is not printed.
fn more<T>(text: &mut String, list: &Listed<T>, of_what: &str) -> std::fmt::Result {
    let hidden = u64::try_from(list.all.len().saturating_sub(SHOWN)).unwrap_or(u64::MAX);
    match hidden.saturating_add(list.more) {
        0 => Ok(()),
        more => writeln!(text, "    and {more} more{of_what}"),
    }
}
