// SPDX-License-Identifier: GPL-2.0

//! `uvctl learn`: runs a program that may do nearly everything, and writes the profile that would have sufficed.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::pipe::{pipe_with, PipeFlags};
use uvisor::learn::{Facts, Learned};
use uvisor::personality::Trace;
use uvisor::profile::{
    FileAccess, NetworkRules, Origin, Profile, Rules, Surroundings, Write as To,
};

use super::confinement::Confinement;
use super::run::{self, RunError};
use super::{apart, FAILURE};

/// Learn the profile that a program needs.
///
/// The program runs in a micro-VM and may read and execute what the user can, reach the host's network, and change
/// files: its changes go to an overlay in memory, which is gone when it ends. What it used is written as the smallest
/// profile under which it would have run the same. A directory that it listed is in it as a whole.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  that of the program, as of `uvctl run`; 125 if the profile cannot be written

Examples:
  uvctl learn -- pdftotext invoice.pdf invoice.txt     writes pdftotext.toml
  uvctl learn -o report.toml -- ./report.sh
  uvctl explain ./report.toml                          what does that give?
  uvctl run --profile ./report.toml -- ./report.sh     with nothing but that")]
pub(super) struct Learn {
    /// Write the profile to FILE; without it, to the program's name with `.toml` here.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace FILE if it is there.
    #[arg(short, long)]
    force: bool,
    /// The program and its arguments; all that follows the program's name is the program's.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Directories whose files are never the user's to change, or that the sandbox makes.
const NOT: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

/// What a program may do that is learnt from.
fn rules() -> Result<Rules, String> {
    let profile = Profile::load("host", &Surroundings::of_this_process());
    let mut rules = profile.map_err(|error| error.to_string())?.rules;
    rules.network = NetworkRules::Host;
    let entries = std::fs::read_dir("/").map_err(|error| format!("/: {error}"))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !directory || NOT.iter().any(|not| path == Path::new(not)) {
            continue;
        }
        let access = FileAccess::Host {
            execute: true,
            write: To::Overlay,
        };
        let allowed = rules.allow_path(&path, access, Origin::Option("learn"));
        allowed.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(rules)
}

/// Runs the program, in a process of its own.
fn broker(learn: &Learn, output: OwnedFd) -> Result<u8, RunError> {
    let start = run::Start {
        command: &learn.command,
        no_aslr: false,
        trace: Some(Trace::learning(File::from(output))),
        kept: Vec::new(),
    };
    let rules = rules().map_err(RunError::Privileges)?;
    let mut task = run::start(start, rules, &Confinement::new(false))?;
    task.end_with_parent();
    Ok(task.run().map_err(RunError::from)?.status())
}

/// The program's name.
fn name(learn: &Learn) -> String {
    let program = learn.command.first().map(Path::new);
    let name = program.and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Writes a profile.
fn write(learn: &Learn, path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true);
    let file = match learn.force {
        true => options.create(true).truncate(true).open(path),
        false => options.create_new(true).open(path),
    };
    file?.write_all(text.as_bytes())
}

/// Learns.
pub(super) fn main(learn: &Learn) -> ExitCode {
    run::close_inherited();
    match learn_from(learn) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("uvctl: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

fn learn_from(learn: &Learn) -> Result<u8, String> {
    let path = match &learn.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{}.toml", name(learn))),
    };
    if !learn.force && path.symlink_metadata().is_ok() {
        let path = path.display();
        return Err(format!(
            "{path} is there already; --force replaces it, -o FILE writes another"
        ));
    }
    let (input, output) =
        pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("cannot make a pipe: {error}"))?;
    let parted = apart::part();
    let parted = parted
        .map_err(|error| format!("cannot start the process that serves the program: {error}"))?;
    let Some(child) = parted else {
        drop(input);
        return broker(learn, output).or_else(|error| {
            eprintln!("uvctl: {error}");
            Ok(error.status())
        });
    };
    drop(output);
    let mut facts = Facts::default();
    // A line is no longer than what is written to a pipe at once.
    for line in BufReader::new(File::from(input))
        .split(b'\n')
        .map_while(Result::ok)
    {
        facts.add(&line);
    }
    let status = apart::wait(child);
    let status = status.map_err(|error| format!("cannot wait for the program: {error}"))?;
    if facts.is_empty() {
        // It did not start, which was said.
        return Ok(status);
    }
    let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let learned = Learned::new(&name(learn), &facts, variables.collect());
    for unnamed in learned.unnamed() {
        eprintln!("uvctl: no profile can name {unnamed:?}, which was used: it is not text");
    }
    let text = learned.text().map_err(|error| error.to_string())?;
    write(learn, &path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!(
        "uvctl: what {} used is in {}; `uvctl explain {1}` says what that gives",
        name(learn),
        shown(&path)
    );
    Ok(status)
}

/// A path as `--profile` takes it: with a `/` in it.
fn shown(path: &Path) -> String {
    match path.components().count() {
        1 => format!("./{}", path.display()),
        _ => path.display().to_string(),
    }
}
