// SPDX-License-Identifier: GPL-2.0

//! `uvctl trace`: what a task that runs does, and is refused.

use std::fs::File;
use std::os::fd::AsFd;

use clap::Args;
use serde_json::Value;
use uvisor::audit::{self, Event, Log, Recorder};
use uvisor::Device;

use super::{style, Output};

/// Print what a task that runs does and is refused, from now on until it ends.
#[derive(Debug, Args)]
#[command(
    after_help = "A line has the time, the process, what it did, and what became of that: the error, the rule that decided, and the
wall that stopped it. With --json the events are those of `uvctl run --audit`.

The task goes on when this is interrupted. One user can trace at a time, and none a task that has --audit: its events
are in that file. What is told here a broker that was taken over could keep to itself; use --audit where that matters.

Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl ps
  uvctl trace 17
  uvctl trace 17 --json | jq 'select(.verdict == \"refused\")'
  uvctl trace --schema >event.schema.json"
)]
pub(super) struct Trace {
    /// The task: the number of one of its micro-VMs, as `uvctl ps` shows it.
    #[arg(required_unless_present = "schema")]
    id: Option<u64>,
    /// Print the JSON schema of an event instead.
    #[arg(long, conflicts_with = "id")]
    schema: bool,
    #[command(flatten)]
    output: Output,
}

/// Traces.
pub(super) fn main(trace: &Trace) -> Result<(), String> {
    let Some(id) = trace.id else {
        let schema = audit::schema();
        return style::print(&format!("{schema:#}\n")).map_err(|error| error.to_string());
    };
    let listed = Device::open().and_then(|device| device.list());
    let listed = listed.map_err(|error| error.to_string())?;
    let entry = listed.iter().find(|entry| entry.id == id);
    let entry = entry.ok_or_else(|| {
        format!("there is no micro-VM {id} that this user may see: `uvctl ps` lists them")
    })?;
    let pid = match i32::try_from(entry.pid) {
        Ok(pid @ 1..) => pid,
        _ => return Err(format!("nothing runs in micro-VM {id}")),
    };
    let output = rustix::stdio::stdout().as_fd().try_clone_to_owned();
    let output = output.map_err(|error| format!("standard output: {error}"))?;
    let log = Log::open_ended(File::from(output));
    let log = match trace.output.json {
        true => log,
        false => log.formed(line),
    };
    let recorder = Recorder::attach(pid, log);
    let mut recorder = recorder.map_err(|error| format!("micro-VM {id}: {error}"))?;
    recorder.run().map_err(|error| error.to_string())?;
    Ok(())
}

/// An event for people.
fn line(event: &Event) -> Option<String> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else {
        return None;
    };
    let mut take = |name: &str| fields.remove(name).map(|value| plain(&value));
    let (name, verdict) = (take("event")?, take("verdict")?);
    let end = [take("errno"), take("rule"), take("wall")];
    let seconds = event.time / 1_000_000_000;
    let mut line = format!(
        "{:02}:{:02}:{:02}.{:06} {:>7} {name}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        event.time / 1000 % 1_000_000,
        event.pid,
    );
    for known in ["seq", "time", "pid", "tid", "times"] {
        fields.remove(known);
    }
    for (name, value) in &fields {
        line += &format!(" {name}={}", plain(value));
    }
    line += &format!(": {verdict}");
    for text in end.iter().flatten() {
        line += &format!(", {text}");
    }
    if event.times > 1 {
        line += &format!(" ({} times)", event.times);
    }
    Some(style::printable(&line))
}

/// A value as people write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uvisor::audit::{FileUse, Verdict, Wall, What};

    #[test]
    fn a_line_says_it_all_and_writes_to_no_terminal() {
        let event = Event {
            seq: 0,
            time: 3_723_000_004_000,
            pid: 7,
            tid: 7,
            what: What::Open {
                path: "/etc/\x1b[31m".into(),
                access: FileUse::Read,
            },
            verdict: Verdict::Refused,
            errno: Some("ENOENT".into()),
            rule: Some("no rule".into()),
            wall: Some(Wall::Kernel),
            times: 3,
        };
        assert_eq!(
            line(&event).unwrap(),
            "01:02:03.000004       7 open access=read path=/etc/\\u{1b}[31m: refused, ENOENT, no rule, kernel (3 times)"
        );
    }
}
