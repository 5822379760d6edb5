// SPDX-License-Identifier: GPL-2.0

//! What becomes of the changes in a task's overlays, as options of `uvctl run`.
//!
//! Whoever commits at the end is no process that served the task: this one parts into the broker, which confines
//! itself, and one that waits for its end and does the rest.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use uvisor::changes::{Making, Name, Store};
use uvisor::profile::Rules;

use super::{changes, FAILURE};

/// How long the last of a task's processes may take to end behind the first one.
const LAST: Duration = Duration::from_secs(10);

/// What becomes of the changes in overlays.
#[derive(Debug, Args)]
#[command(next_help_heading = "What becomes of changes in overlays (--overlay)")]
pub(super) struct Keep {
    /// Throw them away when the program ends; that is so without an option as well.
    #[arg(long, conflicts_with_all = ["keep", "commit"])]
    discard: bool,
    /// Keep them as NAME, for `uvctl diff NAME`, `uvctl commit NAME` and `uvctl discard NAME`.
    #[arg(long, value_name = "NAME", conflicts_with = "commit")]
    keep: Option<String>,
    /// Ask when the program has ended whether they are to be made on the host.
    #[arg(
        long,
        long_help = "Ask when the program has ended whether they are to be made on the host.

With --yes they are made without a question if the program ended with status 0. Otherwise, and where there is no \
terminal to ask on, they are kept, and it is said under which name. If they cannot all be made, the rest is kept, and the \
exit status is 125."
    )]
    pub(super) commit: bool,
    /// Do not ask.
    #[arg(long, requires = "commit", conflicts_with = "keep")]
    yes: bool,
}

impl Keep {
    /// Makes a place for what is to be there afterwards, if that is wanted.
    pub(super) fn prepare(
        &self,
        rules: &Rules,
        command: &[OsString],
    ) -> Result<Option<Making>, String> {
        let option = match (&self.keep, self.commit) {
            (Some(_), _) => "--keep",
            (None, true) => "--commit",
            (None, false) => return Ok(None),
        };
        let paths: Vec<PathBuf> = rules.files.overlays().map(Into::into).collect();
        if paths.is_empty() {
            return Err(format!(
                "{option}: no directory has an overlay: name those whose changes are meant (--overlay PATH)"
            ));
        }
        let words = command
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        let words: Vec<String> = words.collect();
        let make = || {
            let store = Store::open()?;
            let name = match &self.keep {
                Some(name) => name.parse()?,
                None => {
                    let program = words.first().map(String::as_str).unwrap_or_default();
                    store.free(program.rsplit('/').next().unwrap_or_default())?
                }
            };
            store.make(&name, words.clone(), &paths)
        };
        make().map(Some).map_err(|error| error.to_string())
    }

    /// Does what is wanted with the changes of a task that has ended with a status; returns that of `uvctl`.
    pub(super) fn settle(&self, name: &Name, status: u8) -> u8 {
        match self.decide(name, status) {
            Ok(true) => status,
            Ok(false) => FAILURE,
            Err(error) => {
                eprintln!("uvctl: {error}; {}", what_to_do(name));
                FAILURE
            }
        }
    }

    /// The same; whether all was done that is wanted.
    fn decide(&self, name: &Name, status: u8) -> Result<bool, String> {
        let entry = changes::Entry::open(name, LAST)?;
        if entry.is_empty()? {
            entry.discard()?;
            return Ok(true);
        }
        if self.yes && status == 0 {
            return entry.commit(&[]);
        }
        let terminal = match self.yes {
            true => None,
            false => terminal(),
        };
        let Some((input, mut output)) = terminal else {
            let why = match self.yes {
                true => format!("the program ended with status {status}"),
                false => "there is no terminal to ask on".into(),
            };
            eprintln!(
                "uvctl: {why}: its changes are kept as {name}; {}",
                what_to_do(name)
            );
            return Ok(true);
        };
        let mut answers = input.lines();
        let failed = |error: io::Error| format!("cannot ask on the terminal: {error}");
        output
            .write_all(entry.summary()?.as_bytes())
            .map_err(failed)?;
        loop {
            write!(
                output,
                "Make these changes? [y]es, [n]o and keep them, [s]how, [d]iscard: "
            )
            .and_then(|()| output.flush())
            .map_err(failed)?;
            // At its end nobody answers any more.
            let answer = answers.next().transpose().map_err(failed)?;
            match answer.as_deref().map(str::trim) {
                Some("y" | "yes") => return entry.commit(&[]),
                Some("d" | "discard") => {
                    entry.discard()?;
                    return Ok(true);
                }
                Some("s" | "show") => entry.diff(&mut output)?,
                None | Some("n" | "no") => {
                    eprintln!(
                        "uvctl: the changes are kept as {name}; {}",
                        what_to_do(name)
                    );
                    return Ok(true);
                }
                Some(_) => {}
            }
        }
    }
}

/// Gives the name of a task back that did not start; one that was confined by then cannot, and keeps it, empty.
pub(super) fn forget(name: &Name) {
    if let Ok(entry) = changes::Entry::open(name, Duration::ZERO) {
        if entry.is_empty() == Ok(true) {
            // There is an error to be told already.
            let _ = entry.discard();
        }
    }
}

/// What can be done with what is kept.
fn what_to_do(name: &Name) -> String {
    format!("`uvctl diff {name}` shows them, `uvctl commit {name}` makes them, `uvctl discard {name}` throws them away")
}

/// The terminal, to read from and to write to, if somebody is there.
fn terminal() -> Option<(BufReader<std::fs::File>, std::fs::File)> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let terminal = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .ok()?;
    let input = BufReader::new(terminal.try_clone().ok()?);
    Some((input, terminal))
}
