// SPDX-License-Identifier: GPL-2.0

//! `uvctl verify`.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::json;
use uvisor::task::{End, TaskError};
use uvisor::template::directory::{Directory, Found, Name};
use uvisor::template::verify::{Bounds, Change, Ran, Report};
use uvisor::template::TemplateError;

use super::confinement::Confinement;
use super::privileges::Named;
use super::run::{self, RunError};

/// The status of a clone that differs.
const DIFFERENT: u8 = 1;

/// Prove that a reset clone is what its template is.
///
/// Goes on with the template in a clone, with this command's standard input and without output; then resets the
/// clone, and compares it with the template: the bytes of every page that either has mapped, what the
/// module says of pages that differ, the general registers with flags and segment bases, and the
/// extended state (x87, vector registers, protection keys), which the guests themselves store.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0    they are equal
  1    they differ; what does is on standard output
  125  it could not be found out

Examples:
  printf 'b\\na\\n' | uvctl verify sorter
  uvctl verify sorter --calls 10 </dev/null
  uvctl verify sorter --change vector </dev/null    must find it, and exit with 1")]
pub(crate) struct Verify {
    /// The template.
    name: String,
    /// Let the clone run to its Nth system call.
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// Let the clone run for so long, such as 2s or 500ms; without bounds it runs to its end.
    #[arg(long, value_name = "TIME", value_parser = uvisor::profile::time)]
    time: Option<Duration>,
    /// Change something on purpose behind the reset, to see that it is found.
    #[arg(long, value_name = "WHAT")]
    change: Option<What>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    privileges: Named,
    /// What the program reads behind its checkpoint.
    #[arg(value_name = "ARG", last = true)]
    arguments: Vec<OsString>,
}

/// What can be changed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    Memory,
    Register,
    Vector,
}

impl From<What> for Change {
    fn from(what: What) -> Self {
        match what {
            What::Memory => Self::Memory,
            What::Register => Self::Register,
            What::Vector => Self::Vector,
        }
    }
}

/// Verifies; returns the status.
pub(crate) fn main(verify: Verify) -> ExitCode {
    run::close_inherited();
    let mut console = run::stderr();
    match execute(&verify, &mut console) {
        Ok(equal) => ExitCode::from(if equal { 0 } else { DIFFERENT }),
        Err(error) => {
            // There is nobody left to tell if that fails.
            let _ = writeln!(console, "uvctl: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Verifies, and prints what was found.
fn execute(verify: &Verify, console: &mut File) -> Result<bool, RunError> {
    let setup = |error: rustix::io::Errno| TaskError::Setup(error.into());
    // The program's output goes nowhere; ours is moved out of its reach.
    let mut output = File::from(rustix::io::dup(std::io::stdout()).map_err(setup)?);
    let null = File::options().write(true).open("/dev/null");
    let null = null.map_err(|error| TaskError::Setup(error.into()))?;
    rustix::stdio::dup2_stdout(&null).map_err(setup)?;
    rustix::stdio::dup2_stderr(&null).map_err(setup)?;
    drop(null);

    let name: Name = verify.name.parse()?;
    let directory = Directory::open()?;
    let holder = holder(&directory, &name)?;
    drop(directory);
    let rules = verify.privileges.rules().map_err(RunError::Privileges)?;
    // It looks for the template once more behind the run.
    let confinement = Confinement::NONE;
    let task = run::resume(&verify.name, &verify.arguments, None, rules, &confinement)?;
    for file in [&mut output, console] {
        *file = task.own_fd(file.as_fd())?;
    }
    let bounds = Bounds {
        calls: verify.calls,
        time: verify.time,
    };
    let (ran, reset) = task.run_and_reset(bounds)?;
    // The program does not run any more, so that the template may have descriptors within its reach.
    let template = match Directory::open()?.find(&name)? {
        Found::Template(template, pid) if pid == holder => template,
        _ => return Err(TemplateError::Dead(name.to_string()).into()),
    };
    let report = reset.compare(&template, verify.change.map(Change::from))?;
    let text = match verify.json {
        true => json(&verify.name, &ran, &report),
        false => table(&verify.name, &ran, &report),
    };
    let printed = output.write_all(text.as_bytes());
    printed.map_err(|error| TaskError::Setup(error.into()))?;
    Ok(report.is_equal())
}

/// The process that holds a template.
fn holder(directory: &Directory, name: &Name) -> Result<u32, TemplateError> {
    match directory.find(name)? {
        Found::Template(_, pid) => Ok(pid),
        Found::Dead => Err(TemplateError::Dead(name.to_string())),
    }
}

/// How the clone's run ended.
fn ended(ran: &Ran) -> String {
    match &ran.end {
        None => "stopped".into(),
        Some(End::Exit(status)) => format!("ended with status {status}"),
        Some(End::Signal(signal) | End::Fault(signal, _)) => format!("ended by signal {signal}"),
        Some(End::MemoryLimit) => "ended at its memory limit".into(),
        Some(End::ExitLimit) => "used up its exits".into(),
    }
}

/// The findings for a person.
fn table(name: &str, ran: &Ran, report: &Report) -> String {
    let mut lines = vec![
        format!(
            "the clone made {} system calls, {}, and gave back {} pages when it was reset",
            ran.calls,
            ended(ran),
            ran.pages
        ),
        format!(
            "memory     {} pages ({} bytes), {} of them with content, {} more that nobody can read",
            report.pages,
            report.pages * uvisor::PAGE_SIZE,
            report.pages_with_content,
            report.pages_unreadable
        ),
        format!("registers  {}", report.registers.join(" ")),
        format!(
            "extended   {} bytes: x87, vector registers, protection keys",
            report.extended_bytes
        ),
    ];
    lines.extend(
        report
            .differences
            .iter()
            .map(|text| format!("DIFFERENT  {text}")),
    );
    lines.push(match report.is_equal() {
        true => format!("equal to the template {name}"),
        false => format!("NOT equal to the template {name}"),
    });
    lines.join("\n") + "\n"
}

/// The findings for a program.
fn json(name: &str, ran: &Ran, report: &Report) -> String {
    let value = json!({
        "template": name,
        "equal": report.is_equal(),
        "differences": report.differences,
        "run": { "system_calls": ran.calls, "end": ended(ran), "pages_given_back": ran.pages },
        "compared": {
            "pages": report.pages,
            "bytes": report.pages * uvisor::PAGE_SIZE,
            "pages_with_content": report.pages_with_content,
            "pages_unreadable": report.pages_unreadable,
            "registers": report.registers,
            "extended_state_bytes": report.extended_bytes,
        },
    });
    format!("{value:#}\n")
}
