// SPDX-License-Identifier: GPL-2.0

//! Runs programs natively or in somebody's sandbox, and says what they took.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use uvisor::Event;
use uvisor_tests::bench::measure::{time, Samples, Summary};
use uvisor_tests::bench::report::Events;

/// How many runs come before those that count, if these are more than one.
const WARM_UP: usize = 2;

/// A command without input and output.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// The output of a command that succeeded, or what is wrong.
fn judge(words: &[&str], output: std::io::Result<Output>) -> Result<Output, String> {
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    match output.status.success() {
        true => Ok(output),
        false => Err(format!(
            "{}: {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Start to end of a program that succeeds, with what must be done before each run.
pub fn program(words: &[&str], samples: usize, before: fn()) -> Result<Summary, String> {
    let mut all = Samples::with_capacity(samples);
    // The first one reads the program, and what it works on, from the disk.
    let warm_up = if samples > 1 { WARM_UP } else { 1 };
    for round in 0..samples + warm_up {
        before();
        let mut ready = command(words);
        ready.stderr(Stdio::piped());
        let mut output = None;
        let ticks = time(|| output = Some(ready.output()));
        if let Some(output) = output {
            judge(words, output)?;
        }
        if round >= warm_up {
            all.push(ticks);
        }
    }
    Ok(all.summary())
}

/// The program that measures itself.
fn bench_task() -> Result<PathBuf, String> {
    let itself = std::env::current_exe().map_err(|error| error.to_string())?;
    Ok(itself.with_file_name("bench_task"))
}

/// What happened to the micro-VM of a program, from start to end, by `uvctl run` with some options.
pub fn events_of(options: &[&str], program: &[&str]) -> Result<Events, String> {
    let ours = ["uvctl", "run", "--stats", "--json"];
    let words = [&ours, options, &["--"], program].concat();
    let output = command(&words).stderr(Stdio::piped()).output();
    let output = judge(&words, output)?;
    let stats: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&output.stderr).map_err(|error| error.to_string())?;
    let count = |name: &str| Some((name.to_owned(), stats.get(name)?.as_f64()?));
    Ok(Event::NAMES.into_iter().filter_map(count).collect())
}

/// What happens in a task by doing some of `bench_task`'s work once: what many more times add.
pub fn events_of_work(work: &str, more: u64) -> Result<Events, String> {
    let task = bench_task()?;
    let task = text(&task)?;
    let few = events_of(&[], &[task, work, "1"])?;
    let many = events_of(&[], &[task, work, &(more + 1).to_string()])?;
    Ok(many.since(&few).per(more))
}

/// What `bench_task` measured about itself, run by `prefix`: a summary by name.
pub fn task(prefix: &[&str]) -> Result<Vec<(String, Summary)>, String> {
    let task = bench_task()?;
    let words = [prefix, &[text(&task)?]].concat();
    let output = command(&words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output();
    String::from_utf8_lossy(&judge(&words, output)?.stdout)
        .lines()
        .map(|line| parse(line).ok_or_else(|| format!("bench_task: {line}")))
        .collect()
}

/// A path that is text.
fn text(path: &Path) -> Result<&str, String> {
    path.to_str()
        .ok_or_else(|| format!("{}: not UTF-8", path.display()))
}

/// A line of `bench_task`: a name, and the samples.
fn parse(line: &str) -> Option<(String, Summary)> {
    let (name, samples) = line.split_once(':')?;
    let samples: Option<Samples> = samples.split_whitespace().map(|s| s.parse().ok()).collect();
    Some((name.to_owned(), samples?.summary()))
}
