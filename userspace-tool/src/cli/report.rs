// SPDX-License-Identifier: GPL-2.0

//! `uvctl report`.

mod text;

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use uvisor::report::Summary;

use super::style::{self, printable};

/// Say what the audit of a task tells: what it did, and what was stopped.
///
/// An audit (`uvctl run --audit FILE`) is read as an attack goes: what was run, what was looked for, whether code was
/// injected, where it tried to stay, whom it reached, what it used up and how it tried to get out; each with what
/// stopped it and the rule that did. The first line is what comes of it.
#[derive(Debug, Args)]
#[command(after_help = "Words:
  to look at  it was done, as it was allowed, and an attacker would have: code was executed that the task had written,
              a secret read, a place changed from which programs start, another machine reached
  attempt     such a thing, or a change, that was refused; how often it was tried does not count
  others      what was refused as well, and ordinary programs try: files that the task does not have

Exit status: 0, whatever the report says; 125 with a reason on standard error, such as that FILE is no audit.

Examples:
  uvctl report convert.audit
  uvctl report convert.audit --html convert.html
  uvctl report - --json <convert.audit | jq '.stages[].attempts.all[].what'")]
pub(super) struct Report {
    /// The audit; `-` is standard input.
    #[arg(value_name = "FILE")]
    audit: PathBuf,
    /// Write a page for a browser, to FILE if it is given: one file without scripts, and with all that it needs.
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "-",
        conflicts_with = "json"
    )]
    html: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints or writes the report.
pub(super) fn main(report: &Report) -> Result<(), String> {
    let summary = match report.audit.as_os_str() == "-" {
        true => Summary::read(io::stdin().lock()),
        false => File::open(&report.audit).and_then(|file| Summary::read(BufReader::new(file))),
    };
    let summary = summary.map_err(|error| format!("{}: {error}", shown(&report.audit)))?;
    if summary.is_empty() {
        let hint = match summary.losses.damaged > 0 || summary.losses.cut {
            true => "none of its lines is an event of `uvctl run --audit`",
            false => "there is no event in it",
        };
        return Err(format!("{}: {hint}", shown(&report.audit)));
    }
    let text = match (&report.html, report.json) {
        (Some(_), _) => summary.page(),
        (None, true) => {
            let mut value = serde_json::to_value(&summary).map_err(|error| error.to_string())?;
            value["conclusion"] = summary.conclusion().text.into();
            format!("{value:#}\n")
        }
        (None, false) => text::text(&summary, style::colours()),
    };
    match &report.html {
        Some(path) if path.as_os_str() != "-" => {
            let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
            written.map_err(|error| format!("{}: {error}", shown(path)))
        }
        _ => style::print(&text).map_err(|error| error.to_string()),
    }
}

/// A path that cannot write to the terminal.
fn shown(path: &Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".into(),
        false => printable(&path.to_string_lossy()),
    }
}
