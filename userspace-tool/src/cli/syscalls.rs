// SPDX-License-Identifier: GPL-2.0

//! `uvctl syscalls`.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{json, Value};
use uvisor::personality::table::TABLE;
use uvisor::personality::{Fate, Syscall};

use super::{style, Output};

/// List the system calls of Linux, and what becomes of each in a micro-VM.
#[derive(Debug, Args)]
#[command(after_help = "Columns:
  NUMBER  its number on x86-64
  NAME    its name
  FATE    served, by uvctl for the program; or refused, with the error that it always fails with
  REASON  why it is refused

A number that is not listed fails with ENOSYS, as on a kernel without it.

Exit status: 0, or 125 with a reason on standard error, such as that no name matches.

Examples:
  uvctl syscalls open
  uvctl syscalls --refused
  uvctl syscalls --json | jq -r '.[] | select(.errno == \"EROFS\") | .name'")]
pub(crate) struct Syscalls {
    /// Only those with NAME in their names.
    name: Option<String>,
    /// Only those that are served.
    #[arg(long, conflicts_with = "refused")]
    served: bool,
    /// Only those that are refused.
    #[arg(long)]
    refused: bool,
    #[command(flatten)]
    output: Output,
}

impl Syscalls {
    /// Whether a call is wanted.
    fn wants(&self, call: &Syscall) -> bool {
        let fate = match call.fate {
            Fate::Served(_) => !self.refused,
            Fate::Refused(..) => !self.served,
        };
        let name = self.name.as_deref().unwrap_or_default();
        fate && call.name.contains(name)
    }
}

/// The error of a refused call, and why.
fn refusal(call: &Syscall) -> Option<(&'static str, &'static str)> {
    match call.fate {
        Fate::Served(_) => None,
        Fate::Refused(errno, why) => Some((errno.name().unwrap_or("?"), why)),
    }
}

/// A call as JSON.
fn value(call: &Syscall) -> Value {
    let (number, name) = (call.number, call.name);
    match refusal(call) {
        None => json!({ "number": number, "name": name, "fate": "served" }),
        Some((errno, reason)) => json!({
            "number": number,
            "name": name,
            "fate": "refused",
            "errno": errno,
            "reason": reason,
        }),
    }
}

/// Calls as a table.
fn table(calls: &[&Syscall], colours: bool) -> String {
    const GREEN: u8 = 32;
    const YELLOW: u8 = 33;
    let name_width = calls.iter().map(|call| call.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:>6}  {:<name_width$}  {:<20}  REASON",
        "NUMBER", "NAME", "FATE"
    );
    for call in calls {
        let (fate, colour, why) = match refusal(call) {
            None => ("served".to_owned(), GREEN, ""),
            Some((errno, why)) => (format!("refused: {errno}"), YELLOW, why),
        };
        // Padded before it is painted: what paints takes no room. What is last is not padded.
        let fate = match why {
            "" => style::paint(&fate, colour, colours),
            _ => style::paint(&format!("{fate:<20}"), colour, colours) + "  ",
        };
        let (number, name) = (call.number, call.name);
        let _ = writeln!(text, "{number:>6}  {name:<name_width$}  {fate}{why}");
    }
    text
}

/// Prints the calls that are wanted.
pub(crate) fn main(syscalls: &Syscalls) -> Result<(), String> {
    let calls: Vec<&Syscall> = TABLE.iter().filter(|call| syscalls.wants(call)).collect();
    if let (true, Some(name)) = (calls.is_empty(), &syscalls.name) {
        let name = style::printable(name);
        return Err(format!("no such system call has `{name}` in its name"));
    }
    let text = match syscalls.output.json {
        true => {
            let values: Vec<Value> = calls.iter().map(|call| value(call)).collect();
            format!("{:#}\n", Value::from(values))
        }
        false => table(&calls, style::colours()),
    };
    style::print(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: Option<&str>, served: bool, refused: bool) -> Vec<&'static Syscall> {
        let syscalls = Syscalls {
            name: name.map(String::from),
            served,
            refused,
            output: Output { json: false },
        };
        TABLE.iter().filter(|call| syscalls.wants(call)).collect()
    }

    #[test]
    fn filters_by_name_and_fate() {
        assert_eq!(wanted(None, false, false).len(), TABLE.len());
        let (served, refused) = (wanted(None, true, false), wanted(None, false, true));
        assert_eq!(served.len() + refused.len(), TABLE.len());
        assert!(served.iter().all(|call| refusal(call).is_none()));
        assert!(refused.iter().all(|call| refusal(call).is_some()));
        let names: Vec<_> = wanted(Some("epoll_p"), false, false);
        let names: Vec<_> = names.iter().map(|call| call.name).collect();
        assert_eq!(names, ["epoll_pwait", "epoll_pwait2"]);
        assert!(wanted(Some("epoll_p"), false, true).is_empty());
    }

    #[test]
    fn columns_are_aligned_whatever_the_colours() {
        let calls = wanted(None, false, false);
        let text = table(&calls, false);
        assert!(text.lines().all(|line| line == line.trim_end()));
        let at = text.lines().next().unwrap().find("REASON").unwrap();
        for (line, call) in text.lines().skip(1).zip(calls.iter()) {
            if let Some((errno, why)) = refusal(call) {
                assert_eq!(&line[at..], why);
                assert!(line.contains(errno));
            }
        }
        let painted = table(&calls, true);
        let plain = painted.replace("\x1b[32m", "").replace("\x1b[33m", "");
        assert_eq!(plain.replace("\x1b[0m", ""), text);
    }

    #[test]
    fn json_says_the_same() {
        let refused = wanted(Some("reboot"), false, true);
        let value = value(refused[0]);
        assert_eq!(value["number"], 169);
        assert_eq!(value["errno"], "EPERM");
        assert!(value["reason"].as_str().is_some_and(|why| !why.is_empty()));
    }
}
