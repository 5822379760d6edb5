// SPDX-License-Identifier: GPL-2.0

//! `uvctl template`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::{json, Value};
use uvisor::task::{End, TaskError};
use uvisor::template::directory::{Directory, Found, Name};
use uvisor::template::holder::{self, Holder};
use uvisor::template::{OpenFile, Point, Template, TemplateError};

use super::confinement::Confinement;
use super::privileges::Privileges;
use super::run::RunError;
use super::style::{printable, size};
use super::{run, style, Output, FAILURE};

/// Start programs once, to go on from there any number of times.
///
/// A template is a program that has run up to a point, and stands still there: all of its memory and
/// registers. `uvctl run --from NAME` goes on from the point, in a micro-VM that has the template's
/// memory in common with all others and copies what it writes. So what the program did up to then, such as
/// loading modules, is done once.
#[derive(Debug, Args)]
pub(crate) struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "A template is held by a small process of yours, and is there until it is removed or that process ends.

What each run has of its own: standard input, output and error; the position in files that the program
has open; what getrandom(2) and /dev/urandom give; and the random bytes at AT_RANDOM. What all runs
have in common is all that the program made of such before the point: its stack protector's canary
and pointer guard, the places of its parts in memory, hash seeds, and the state of random number
generators of its own. Make it draw random numbers behind the point if they must differ.

Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl template create sorter -- sort
  printf 'b\\na\\n' | uvctl run --from sorter

  uvctl template create py --until checkpoint -- python3 -c '
  import json, re                                    # done once
  arguments = open(\"/dev/uvisor-checkpoint\").read().splitlines()
  print(json.dumps(arguments))'                      # done in each run
  uvctl run --from py -- a \"b c\""
)]
enum Command {
    /// Run a program up to a point, and make it a template.
    Create(Box<Create>),
    /// List the templates.
    List(Output),
    /// Print what is known about a template.
    Inspect {
        /// The template.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Remove templates; runs that go on from them do not notice.
    Rm {
        /// The templates.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Hold the template that comes on standard input.
    #[command(hide = true)]
    Hold {
        /// The template.
        name: String,
    },
}

/// Run a program up to a point, and make it a template.
///
/// Up to there the program runs as with `uvctl run`, with this command's standard output and error, and its
/// standard input as well; but with `--until stdin` that is an empty pipe, so that what the
/// program finds out about it is what it will be in a pipeline.
#[derive(Debug, Args)]
#[command(
    override_usage = "uvctl template create [OPTIONS] NAME [--] PROGRAM [ARG]...",
    after_help = "The point (--until):
  stdin       where the program first reads standard input, or waits for it; nothing is read yet
  checkpoint  where it opens /dev/uvisor-checkpoint (the uvctl-checkpoint), which any program or script can:
              `read line </dev/uvisor-checkpoint` in a shell, `open(\"/dev/uvisor-checkpoint\")` elsewhere.
              What it reads there are the arguments of `uvctl run --from NAME -- ARG...`, a line each. Outside
              of a template the file is empty.
  2s, 500ms   when it has run for so long; a system call that it is in is made again in each run

Files that the program has open for reading, directories and devices are opened again for each run, at the
same position. With anything else open, such as a pipe of its own, no template is made. Locks on files and
pending signals are not carried over. Its process number is another in each run; signals that it sends to the
one that it had reach it.

Exit status: 0; 126 and 127 as of `uvctl run`; 125 if no template was made, with a reason on standard error.

Examples:
  uvctl template create sorter -- sort
  uvctl template create perl -- perl -MPOSIX -e 'eval join \"\", <STDIN>'
  uvctl template create warm --until 2s -- ./server --oneshot"
)]
pub(crate) struct Create {
    /// Where the program stops: stdin, checkpoint, or a time.
    #[arg(long, value_name = "POINT", default_value = "stdin")]
    until: Point,
    #[command(flatten)]
    privileges: Privileges,
    /// Place the program's parts at the same addresses each time.
    #[arg(long)]
    no_aslr: bool,
    /// Print each system call and its result to standard error.
    #[arg(long)]
    trace_syscalls: bool,
    /// The name: letters, digits, dots, dashes and underscores.
    name: String,
    /// The program and its arguments.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Does what the command line says.
pub(crate) fn main(line: Line) -> ExitCode {
    let result = match line.command {
        Command::Create(create) => return create_main(&create),
        Command::Hold { name } => hold(&name),
        Command::List(output) => list(output),
        Command::Inspect { name, output } => inspect(&name, output),
        Command::Rm { names } => return remove(&names),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uvctl: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// Makes a template, and says why not.
fn create_main(create: &Create) -> ExitCode {
    run::close_inherited();
    // The program may close its own, or replace it.
    let mut console = run::stderr();
    let failed = |console: &mut dyn Write, why: String, status: u8| {
        // There is nobody left to tell if that fails.
        let _ = writeln!(console, "uvctl: {why}");
        ExitCode::from(status)
    };
    match self::create(create, &mut console) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(end)) => {
            let how = match end {
                End::Exit(status) => format!("ended with status {status}"),
                End::Signal(signal) => format!("was ended by signal {signal}"),
                End::Fault(signal, what) => format!("was ended by signal {signal}: {what}"),
                End::MemoryLimit => "was killed at its memory limit".into(),
                End::ExitLimit => "was killed: it had used up its exits".into(),
            };
            let before = match create.until {
                Point::Stdin => "it read standard input".to_owned(),
                Point::Checkpoint => "it opened /dev/uvisor-checkpoint".to_owned(),
                Point::After(time) => format!("{time:?} had passed"),
            };
            let why = format!("the program {how} before {before}: no template was made");
            failed(&mut console, why, FAILURE)
        }
        Err(error) => failed(&mut console, error.to_string(), error.status()),
    }
}

/// Makes a template; `console` is moved out of the program's reach.
fn create(create: &Create, console: &mut std::fs::File) -> Result<Option<End>, RunError> {
    let name: Name = create.name.parse()?;
    // Now rather than when the program has run.
    Directory::open()?.check_free(&name)?;
    let writer = match create.until {
        Point::Stdin => Some(empty_stdin().map_err(TaskError::Setup)?),
        _ => None,
    };
    let command = &create.command;
    let rules = create.privileges.rules().map_err(RunError::Privileges)?;
    let mut holder = Holder::start(&name, &["template", "hold"])?;
    let start = run::Start {
        command,
        no_aslr: create.no_aslr,
        trace: create.trace_syscalls.then(run::trace),
        kept: Vec::new(),
    };
    // What is open in a template is opened again in each run, which has another root.
    let confinement = Confinement::new(create.privileges.require).but_the_root();
    let mut task = run::start(start, rules, &confinement)?;
    *holder.socket() = task.own_fd(holder.socket().as_fd())?.into();
    *console = task.own_fd(console.as_fd())?;
    let _writer = match writer {
        Some(writer) => Some(task.own_fd(writer.as_fd())?),
        None => None,
    };
    let stdio = task.stdio()?;
    if let Some(end) = create.until.run(&mut task, &stdio)? {
        return Ok(Some(end));
    }
    let words = command.iter().map(|word| word.to_string_lossy().into());
    let template = task.into_template(&stdio, create.until, words.collect())?;
    holder.hold(template)?;
    Ok(None)
}

/// Makes standard input a pipe that nothing comes through, as long as what is returned is open.
fn empty_stdin() -> Result<std::os::fd::OwnedFd, uvisor::errno::Errno> {
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (reader, writer) = rustix::pipe::pipe_with(flags)?;
    rustix::stdio::dup2_stdin(&reader)?;
    Ok(writer)
}

/// Holds the template that comes on standard input.
fn hold(name: &str) -> Result<(), TemplateError> {
    let creator = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| TaskError::Setup(error.into()))?;
    let null = std::fs::File::open("/dev/null").map_err(|e| TaskError::Setup(e.into()))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| TaskError::Setup(e.into()))?;
    drop(null);
    holder::hold(creator, &name.parse()?)
}

/// Removes templates; goes on with the others if one cannot be.
fn remove(names: &[String]) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for name in names {
        let removed = Directory::open().and_then(|directory| directory.remove(&name.parse()?));
        if let Err(error) = removed {
            eprintln!("uvctl: {error}");
            status = ExitCode::from(error.status());
        }
    }
    status
}

/// A template that answered, or why it did not.
struct Row {
    name: Name,
    found: Result<(Template, u32), TemplateError>,
}

/// All templates; dead sockets are removed.
fn rows(directory: &Directory) -> Result<Vec<Row>, TemplateError> {
    let mut rows = Vec::new();
    for name in directory.names()? {
        let found = match directory.find(&name) {
            Ok(Found::Template(template, pid)) => Ok((*template, pid)),
            Ok(Found::Dead) => {
                if directory.clean(&name)? {
                    let error = TemplateError::Dead(name.to_string());
                    eprintln!("uvctl: {error}");
                }
                continue;
            }
            // It was removed since its name was read.
            Err(TemplateError::Missing(_)) => continue,
            Err(error) => Err(error),
        };
        rows.push(Row { name, found });
    }
    Ok(rows)
}

/// Lists templates.
fn list(output: Output) -> Result<(), TemplateError> {
    let rows = rows(&Directory::open()?)?;
    if output.json {
        let all: Result<Vec<Value>, TemplateError> = rows.iter().map(json_row).collect();
        return print(&format!("{:#}\n", Value::Array(all?)));
    }
    if rows.is_empty() {
        return print("no templates; `uvctl help template create` says how to make one\n");
    }
    let header = format!(
        "{:<20} {:>8} {:>10} {:>9} {:<12} PROGRAM",
        "NAME", "PID", "MEMORY", "AGE", "POINT"
    );
    let mut text = style::paint(&header, 1, style::colours()) + "\n";
    for row in &rows {
        text += &match &row.found {
            Ok((template, pid)) => {
                let stats = template.vm.stats()?;
                let about = &template.state.about;
                format!(
                    "{:<20} {pid:>8} {:>10} {:>9} {:<12} {}\n",
                    row.name.as_str(),
                    size(stats.private + stats.tables),
                    age(about.created),
                    about.point.to_string(),
                    printable(&about.command.join(" ")),
                )
            }
            Err(error) => format!("{:<20} {error}\n", row.name.as_str()),
        };
    }
    print(&text)
}

/// A template as JSON.
fn json_row(row: &Row) -> Result<Value, TemplateError> {
    let (template, pid) = match &row.found {
        Ok(found) => found,
        Err(error) => return Ok(json!({ "name": row.name.as_str(), "error": error.to_string() })),
    };
    let about = &template.state.about;
    let stats = template.vm.stats()?;
    let files: Vec<Value> = template
        .state
        .open_files()
        .map(|(fd, file)| match file {
            OpenFile::Stdio(index) => json!({ "fd": fd, "stdio": index }),
            OpenFile::Reopen { offset, path, .. } => {
                json!({ "fd": fd, "path": path, "offset": offset })
            }
            OpenFile::Path => json!({ "fd": fd, "path": null }),
        })
        .collect();
    Ok(json!({
        "name": row.name.as_str(),
        "pid": pid,
        "command": about.command,
        "point": about.point.to_string(),
        "created": about.created,
        "directory": about.directory,
        "memory_limit": stats.memory_limit,
        "private_bytes": stats.private,
        "shared_bytes": stats.shared,
        "table_bytes": stats.tables,
        "file_bytes": stats.file,
        "regions": stats.regions,
        "files": files,
    }))
}

/// Prints what is known about a template.
fn inspect(name: &str, output: Output) -> Result<(), TemplateError> {
    let name: Name = name.parse()?;
    let (template, pid) = match Directory::open()?.find(&name)? {
        Found::Template(template, pid) => (*template, pid),
        Found::Dead => return Err(TemplateError::Dead(name.to_string())),
    };
    let row = Row {
        name,
        found: Ok((template, pid)),
    };
    let value = json_row(&row)?;
    if output.json {
        return print(&format!("{value:#}\n"));
    }
    let text = |key: &str| match &value[key] {
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let Ok((template, _)) = &row.found else {
        return Ok(());
    };
    let about = &template.state.about;
    let bytes = |key: &str| size(value[key].as_u64().unwrap_or(0));
    let mut lines = vec![
        ("name", text("name")),
        ("program", printable(&about.command.join(" "))),
        ("point", text("point")),
        ("created", format!("{} ago", age(about.created))),
        ("directory", text("directory")),
        ("held by process", text("pid")),
        ("memory", bytes("private_bytes")),
        ("  in common", bytes("shared_bytes")),
        ("  tables", bytes("table_bytes")),
        ("  of files", bytes("file_bytes")),
        ("regions", text("regions")),
    ];
    for (fd, file) in template.state.open_files() {
        let what = match file {
            OpenFile::Stdio(0) => "standard input of the run".into(),
            OpenFile::Stdio(1) => "standard output of the run".into(),
            OpenFile::Stdio(_) => "standard error of the run".into(),
            OpenFile::Reopen { offset, path, .. } => match offset {
                Some(offset) => format!("{} at {offset}", printable(path)),
                None => printable(path),
            },
            OpenFile::Path => "a path".into(),
        };
        lines.push(("descriptor", format!("{fd}: {what}")));
    }
    let lines = lines
        .iter()
        .map(|(key, value)| format!("{key:<16} {value}\n"));
    print(&lines.collect::<String>())
}

/// Prints to standard output.
fn print(text: &str) -> Result<(), TemplateError> {
    style::print(text).map_err(|error| TaskError::Setup(error.into()).into())
}

/// How long ago a time was.
pub(super) fn age(created: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(created);
    let seconds = then.elapsed().map_or(0, |time| time.as_secs());
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_for_people() {
        assert_eq!(size(100), "100 B");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(3 << 20), "3.0 MiB");
        assert_eq!(printable("a\x1b[31m\n\u{e4}"), "a\\u{1b}[31m\\n\u{e4}");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        assert_eq!(age(now - 60), "60 s");
        assert_eq!(age(now - 7200), "2 h");
        assert_eq!(age(now + 100), "0 s");
    }
}
