// SPDX-License-Identifier: GPL-2.0

//! Measures programs from their start to their end: natively, by `uvctl run`, and by `uvctl run --from` a
//! template. Ticks of the time-stamp counter, medians; in Bochs they count instructions.
//!
//! ```text
//! bench_template [SAMPLES]
//! ```

use std::process::{Command, ExitCode, Stdio};

use uvisor_tests::bench::measure::{time, Samples};
use uvisor_tests::host::pin_to_cpu;

/// A line of the table: what it is, the template that it goes on with, and its command.
type Line = (
    &'static str,
    Option<&'static [&'static str]>,
    &'static [&'static str],
);

const CAT: &[&str] = &["/bin/busybox", "cat"];
const SORT: &[&str] = &["/usr/bin/sort"];
const PYTHON: &[&str] = &[
    "/usr/bin/python3",
    "-c",
    "import json, re, sys; sys.stdin.read()",
];

/// `busybox cat` of nothing is a static program that does as little as `true`, and reads standard input.
const LINES: [Line; 10] = [
    ("uvctl --version", None, &["uvctl", "--version"]),
    ("static true, native", None, &["/bin/busybox", "true"]),
    (
        "static true, uvctl run",
        None,
        &["uvctl", "run", "/bin/busybox", "true"],
    ),
    (
        "static cat, uvctl run",
        None,
        &["uvctl", "run", "/bin/busybox", "cat"],
    ),
    (
        "static cat, template",
        Some(CAT),
        &["uvctl", "run", "--from", "bench"],
    ),
    ("sort, native", None, SORT),
    (
        "sort, template",
        Some(SORT),
        &["uvctl", "run", "--from", "bench"],
    ),
    ("python3 with two modules, native", None, PYTHON),
    (
        "python3 with two modules, uvctl run",
        None,
        &[
            "uvctl",
            "run",
            "/usr/bin/python3",
            "-c",
            "import json, re, sys; sys.stdin.read()",
        ],
    ),
    (
        "python3 with two modules, template",
        Some(PYTHON),
        &["uvctl", "run", "--from", "bench"],
    ),
];

/// Runs a command without input or output, which must succeed.
fn run(words: &[&str]) -> Result<(), String> {
    let status = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(|error| format!("{}: {error}", words[0]))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{}: {status}", words.join(" "))),
    }
}

/// The median of a line.
fn measure((_, template, command): Line, samples: usize) -> Result<u64, String> {
    if let Some(program) = template {
        run(&[&["uvctl", "template", "create", "bench", "--"], program].concat())?;
    }
    let mut all = Samples::with_capacity(samples);
    for round in 0..samples + 2 {
        let mut result = Ok(());
        let ticks = time(|| result = run(command));
        result?;
        // The first ones find cold caches.
        if round >= 2 {
            all.push(ticks);
        }
    }
    if template.is_some() {
        run(&["uvctl", "template", "rm", "bench"])?;
    }
    Ok(all.summary().p50)
}

fn main() -> ExitCode {
    let samples = std::env::args().nth(1);
    let samples = samples
        .and_then(|samples| samples.parse().ok())
        .unwrap_or(20);
    pin_to_cpu(0);
    for line in LINES {
        match measure(line, samples) {
            Ok(median) => println!("{:<40} {median:>12}", line.0),
            Err(why) => {
                eprintln!("bench_template: {}: {why}", line.0);
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
