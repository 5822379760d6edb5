// SPDX-License-Identifier: GPL-2.0

//! `uvctl ps` and `uvctl stats`.

use std::collections::HashMap;

use clap::Args;
use serde_json::{json, Value};
use uvisor::{Device, ListEntry, ListFlags};

use super::{style, Output};

/// List the micro-VMs that there are: those of this user, or with CAP_SYS_ADMIN all.
#[derive(Debug, Args)]
#[command(after_help = "Columns:
  ID       its number, which no other one gets as long as the module is loaded
  PARENT   the one that it is a clone of, which may be gone; - for none
  PID      the process that made it; - if that has ended
  STATE    template, which does not run any more; live; or orphan: others hold what its maker has left
  PRIVATE  memory that only it has; SHARED what it has in common with clones; TABLES its page tables
  CHARGED  what counts against its limit: all that was allocated for it and that anybody still has

Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl ps
  uvctl ps --json | jq '.[] | select(.state == \"template\") | .id'")]
pub(crate) struct Ps {
    #[command(flatten)]
    output: Output,
}

/// Print what the micro-VMs of `uvctl ps` hold together, or what one of them holds.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl stats
  uvctl stats 17 --json")]
pub(crate) struct Stats {
    /// The number of one, as `uvctl ps` shows it.
    id: Option<u64>,
    #[command(flatten)]
    output: Output,
}

/// All micro-VMs that we may see.
fn all() -> Result<Vec<ListEntry>, String> {
    let listed = Device::open().and_then(|device| device.list());
    listed.map_err(|error| match error.errno() {
        Some(libc::ENOTTY) => "the loaded module cannot list micro-VMs: it is older than uvctl; \
                               load the one that belongs to it"
            .into(),
        _ => error.to_string(),
    })
}

/// What a micro-VM is.
fn state(entry: &ListEntry) -> &'static str {
    if ListFlags::from_bits_truncate(entry.flags).contains(ListFlags::FROZEN) {
        "template"
    } else if entry.pid == 0 {
        "orphan"
    } else {
        "live"
    }
}

/// The command line of a process, as far as anybody may know it.
fn command(pid: u32) -> String {
    if pid == 0 {
        return String::new();
    }
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = bytes
        .split(|&byte| byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    style::printable(words.join(" ").trim_end())
}

/// The names of users.
fn users() -> HashMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // Of several names of a user the first counts.
    text.lines().rev().filter_map(user).collect()
}

/// A micro-VM as JSON.
fn value(entry: &ListEntry, users: &HashMap<u32, String>) -> Value {
    let known = |number: u64| (number != 0).then_some(number);
    json!({
        "id": entry.id,
        "parent": known(entry.parent),
        "pid": known(entry.pid.into()),
        "uid": entry.uid,
        "user": users.get(&entry.uid),
        "state": state(entry),
        "vcpus": entry.vcpus,
        "private_bytes": entry.private,
        "shared_bytes": entry.shared,
        "table_bytes": entry.tables,
        "charged_bytes": entry.charged,
        "command": command(entry.pid),
    })
}

/// Lists.
pub(crate) fn list(ps: &Ps) -> Result<(), String> {
    let (entries, users) = (all()?, users());
    if ps.output.json {
        let values = entries.iter().map(|entry| value(entry, &users)).collect();
        return print(&format!("{:#}\n", Value::Array(values)));
    }
    let header = format!(
        "{:>6} {:>6} {:>8} {:<10} {:<8} {:>5} {:>10} {:>10} {:>10} {:>10} COMMAND",
        "ID", "PARENT", "PID", "USER", "STATE", "VCPUS", "PRIVATE", "SHARED", "TABLES", "CHARGED"
    );
    let mut text = style::paint(&header, 1, style::colours()) + "\n";
    let known = |number: u64| match number {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    for entry in &entries {
        let user = users.get(&entry.uid).cloned();
        text += &format!(
            "{:>6} {:>6} {:>8} {:<10} {:<8} {:>5} {:>10} {:>10} {:>10} {:>10} {}\n",
            entry.id,
            known(entry.parent),
            known(entry.pid.into()),
            user.unwrap_or_else(|| entry.uid.to_string()),
            state(entry),
            entry.vcpus,
            style::size(entry.private),
            style::size(entry.shared),
            style::size(entry.tables),
            style::size(entry.charged),
            command(entry.pid),
        );
    }
    print(&text)
}

/// Prints what one holds, or all.
pub(crate) fn stats(stats: &Stats) -> Result<(), String> {
    let (entries, users) = (all()?, users());
    let value = match stats.id {
        Some(id) => {
            let entry = entries.iter().find(|entry| entry.id == id);
            let entry = entry.ok_or_else(|| {
                format!("there is no micro-VM {id}, or it is not yours: `uvctl ps` lists them")
            })?;
            value(entry, &users)
        }
        None => total(&entries),
    };
    if stats.output.json {
        return print(&format!("{value:#}\n"));
    }
    let lines = value.as_object().into_iter().flatten().map(|(key, value)| {
        let text = match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!("{key:<16} {text}\n")
    });
    print(&lines.collect::<String>())
}

/// What all hold together. What several have in common is not added up, as it is there once.
fn total(entries: &[ListEntry]) -> Value {
    let sum = |of: fn(&ListEntry) -> u64| entries.iter().map(of).sum::<u64>();
    json!({
        "micro_vms": entries.len(),
        "templates": entries.iter().filter(|entry| state(entry) == "template").count(),
        "clones": entries.iter().filter(|entry| entry.parent != 0).count(),
        "vcpus": sum(|entry| entry.vcpus.into()),
        "private_bytes": sum(|entry| entry.private),
        "table_bytes": sum(|entry| entry.tables),
        "charged_bytes": sum(|entry| entry.charged),
    })
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), String> {
    style::print(text).map_err(|error| format!("cannot print: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_sums() {
        let entry = |id, pid, flags: ListFlags| ListEntry {
            id,
            pid,
            flags: flags.bits(),
            vcpus: 1,
            private: 4096,
            ..ListEntry::default()
        };
        let all = [
            entry(1, 0, ListFlags::FROZEN),
            entry(2, 7, ListFlags::empty()),
            entry(3, 0, ListFlags::empty()),
        ];
        let states: Vec<_> = all.iter().map(state).collect();
        assert_eq!(states, ["template", "live", "orphan"]);
        let total = total(&all);
        assert_eq!(total["micro_vms"], 3);
        assert_eq!(total["templates"], 1);
        assert_eq!(total["private_bytes"], 12288);
        let value = value(&all[0], &HashMap::from([(0, "root".into())]));
        assert_eq!(value["user"], "root");
        assert_eq!(value["parent"], Value::Null);
    }
}
