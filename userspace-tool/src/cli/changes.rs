// SPDX-License-Identifier: GPL-2.0

//! `uvctl diff`, `uvctl commit` and `uvctl discard`: changes that were kept.

mod text;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{json, Value};
use uvisor::changes::{Change, ChangesError, Committed, Kept, Kind, Lock, Name, Object, Store};

use super::style::{self, printable};
use super::template::age;
use super::FAILURE;

/// How long somebody else may take with what is kept.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status when some changes are not made.
const INCOMPLETE: u8 = 1;

/// Print what a task changed in its overlays.
///
/// Without a NAME, what is kept is listed. The format is git's, so that `git apply` and `patch` take it; what those do
/// not know (owners, attributes, what is refused) are lines of their own before the content; a file that is no text has
/// none. Paths are those in the
/// directory that has the overlay.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl run --overlay . --keep try -- make
  uvctl diff try
  uvctl diff try --name-status
  uvctl diff try --json | jq -r '.trees[].changes[] | select(.refused) | .path'")]
pub(crate) struct Diff {
    /// What was kept (`uvctl run --keep NAME`); without it, a list.
    name: Option<String>,
    /// Print how many lines of each file are changed.
    #[arg(long, conflicts_with = "json", requires = "name")]
    stat: bool,
    /// Print only what was added (A), modified (M), deleted (D), or is of another kind (T).
    #[arg(long, conflicts_with_all = ["json", "stat"], requires = "name")]
    name_status: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Make changes that were kept on the host's files.
///
/// Each file is replaced at once by one that is whole and on the disk: whatever ends this command leaves it old or new,
/// and the command given again goes on. Nothing is followed out of the directory that had the overlay. When all
/// changes are made, what was kept is removed.
///
/// A change is refused if the host's file was changed, made or removed since the task started, and so are files that
/// are setuid or setgid; all others are made. Sockets, named pipes and attributes other than user.* are left out.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 if all was made that was asked for; 1 if some changes were refused, with a \
reason each on standard error; 125 if nothing could be done.

Examples:
  uvctl commit try
  uvctl commit try src/main.c docs      only these, and what is below them
  uvctl commit try --dry-run"
)]
pub(crate) struct Commit {
    /// What was kept.
    name: String,
    /// The files and directories on the host whose changes are made; without any, all.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Print what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// Throw away changes that were kept.
#[derive(Debug, Args)]
pub(crate) struct Discard {
    /// What was kept.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Something kept that nobody else changes meanwhile.
pub(super) struct Entry {
    store: Store,
    kept: Kept,
    lock: Lock,
}

fn said(error: ChangesError) -> String {
    printable(&error.to_string())
}

impl Entry {
    /// What is kept under a name, once nobody else uses it, for so long.
    pub(super) fn open(name: &Name, wait: Duration) -> Result<Self, String> {
        let open = || {
            let store = Store::open()?;
            let kept = store.get(name)?;
            let lock = kept.lock(wait)?;
            Ok(Self { store, kept, lock })
        };
        open().map_err(said)
    }

    fn named(name: &str) -> Result<Self, String> {
        Self::open(&name.parse().map_err(said)?, PATIENCE)
    }

    /// Whether nothing was changed.
    pub(super) fn is_empty(&self) -> Result<bool, String> {
        let all = self.kept.changes().map_err(said)?;
        Ok(all.iter().all(|changes| changes.found.changes.is_empty()))
    }

    /// Throws it away.
    pub(super) fn discard(self) -> Result<(), String> {
        self.store.discard(&self.kept, &self.lock).map_err(said)
    }

    /// Makes changes, says what was not, and removes what is done with; whether all were made.
    pub(super) fn commit(self, paths: &[PathBuf]) -> Result<bool, String> {
        let committed = self.kept.commit(&self.lock, paths).map_err(said)?;
        let complete = committed.refused.is_empty();
        report(&committed);
        if committed.is_complete() {
            self.discard()?;
        } else if !complete {
            let name = &self.kept.manifest().name;
            eprintln!("uvctl: what was not made is still kept as {name}");
        }
        Ok(complete)
    }

    /// What was changed, a line each.
    pub(super) fn summary(&self) -> Result<String, String> {
        let all = self.kept.changes().map_err(said)?;
        let mut summary = String::new();
        for changes in &all {
            // Writing to a string cannot fail.
            let _ = writeln!(summary, "In {}:", text::quoted(&changes.tree.host));
            for change in sorted(&changes.found.changes) {
                summary += &text::status(change, style::colours());
            }
        }
        Ok(summary)
    }

    /// All that was changed.
    pub(super) fn diff(&self, to: &mut dyn Write) -> Result<(), String> {
        let all = self.kept.changes().map_err(said)?;
        let how = text::How::of_this_process();
        for changes in &all {
            let header = format!("In {}:\n", text::quoted(&changes.tree.host));
            written(to.write_all(header.as_bytes()))?;
            for change in sorted(&changes.found.changes) {
                let contents = text::contents(&self.kept, changes.tree, change);
                written(to.write_all(&text::diff(change, contents.as_ref(), how)))?;
            }
        }
        Ok(())
    }

    /// How many lines were changed.
    fn stat(&self) -> Result<String, String> {
        let all = self.kept.changes().map_err(said)?;
        let mut lines = Vec::new();
        for changes in &all {
            for change in sorted(&changes.found.changes) {
                let contents = text::contents(&self.kept, changes.tree, change);
                lines.push(text::Stat::new(change, contents.as_ref()));
            }
        }
        Ok(text::stat(&lines, style::colours()))
    }

    fn value(&self) -> Result<Value, String> {
        let all = self.kept.changes().map_err(said)?;
        let manifest = self.kept.manifest();
        let trees = all.iter().map(|changes| {
            let found = sorted(&changes.found.changes);
            json!({
                "path": changes.tree.host.to_string_lossy(),
                "changes": found.into_iter().map(change_value).collect::<Value>(),
            })
        });
        Ok(json!({
            "name": manifest.name.to_string(),
            "command": manifest.command,
            "started": manifest.seconds(),
            "trees": trees.collect::<Value>(),
        }))
    }
}

/// Whoever reads it may have seen enough.
fn written(result: io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.map_err(|error| error.to_string()),
    }
}

/// Changes by path.
fn sorted(changes: &[Change]) -> Vec<&Change> {
    let mut all: Vec<&Change> = changes.iter().collect();
    all.sort_by(|one, other| one.path.cmp(&other.path));
    all
}

/// What of a commit there is to say.
fn report(committed: &Committed) {
    for (path, why) in committed.refused.iter().chain(&committed.left_out) {
        eprintln!("uvctl: {} is not committed: {why}", text::quoted(path));
    }
}

/// A file for a program.
fn object_value(object: Option<&Object>) -> Value {
    let Some(object) = object else {
        return Value::Null;
    };
    let target = match object.kind {
        Kind::Link => Some(String::from_utf8_lossy(&object.target).into_owned()),
        _ => None,
    };
    let attributes = object.attributes.iter().map(|(name, value)| {
        let name = String::from_utf8_lossy(name).into_owned();
        (name, String::from_utf8_lossy(value).into_owned().into())
    });
    json!({
        "kind": object.kind.name(),
        "mode": format!("{:04o}", object.mode),
        "uid": object.owner.0,
        "gid": object.owner.1,
        "size": object.size,
        "target": target,
        "attributes": attributes.collect::<serde_json::Map<_, _>>(),
    })
}

/// A change for a program.
fn change_value(change: &Change) -> Value {
    json!({
        "path": change.path.to_string_lossy(),
        "status": text::letter(change).to_string(),
        "before": object_value(change.before.as_ref()),
        "after": object_value(change.after.as_ref()),
        "content": change.parts.content,
        "mode": change.parts.mode,
        "owner": change.parts.owner,
        "attributes": change.parts.attributes,
        "refused": change.refusal.as_ref().map(ToString::to_string),
    })
}

/// `uvctl diff`.
pub(super) fn diff(diff: &Diff) -> Result<(), String> {
    let Some(name) = &diff.name else {
        return list(diff.json);
    };
    let entry = Entry::named(name)?;
    let print = |text: &str| style::print(text).map_err(|error| error.to_string());
    match (diff.json, diff.stat, diff.name_status) {
        (true, ..) => print(&format!("{:#}\n", entry.value()?)),
        (_, true, _) => print(&entry.stat()?),
        (_, _, true) => print(&entry.summary()?),
        _ => entry.diff(&mut io::stdout().lock()),
    }
}

/// Lists what is kept.
fn list(json: bool) -> Result<(), String> {
    let store = Store::open().map_err(said)?;
    let names = store.names().map_err(said)?;
    let all: Vec<(Name, Result<Kept, ChangesError>)> = (names.into_iter())
        .map(|name| (name.clone(), store.get(&name)))
        .collect();
    let text = match json {
        true => {
            let values = all.iter().map(|(name, kept)| match kept {
                Ok(kept) => {
                    let manifest = kept.manifest();
                    json!({
                        "name": name.to_string(),
                        "command": manifest.command,
                        "started": manifest.seconds(),
                        "in_use": kept.lock(Duration::ZERO).is_err(),
                        "paths": manifest.trees.iter()
                            .map(|tree| tree.host.to_string_lossy()).collect::<Vec<_>>(),
                    })
                }
                Err(error) => json!({ "name": name.to_string(), "error": error.to_string() }),
            });
            format!("{:#}\n", values.collect::<Value>())
        }
        false if all.is_empty() => {
            "no changes are kept; `uvctl run --overlay PATH --keep NAME` keeps some\n".to_owned()
        }
        false => {
            let header = format!("{:<20} {:>9} {:<30} PROGRAM", "NAME", "AGE", "IN");
            let mut text = style::paint(&header, 1, style::colours()) + "\n";
            for (name, kept) in &all {
                text += &match kept {
                    Ok(kept) => row(name, kept),
                    Err(error) => format!("{name:<20} {}\n", printable(&error.to_string())),
                };
            }
            text
        }
    };
    style::print(&text).map_err(|error| error.to_string())
}

fn row(name: &Name, kept: &Kept) -> String {
    let manifest = kept.manifest();
    let paths: Vec<String> = (manifest.trees.iter())
        .map(|tree| text::quoted(&tree.host))
        .collect();
    let use_ = match kept.lock(Duration::ZERO) {
        Ok(_) => "",
        Err(_) => " (in use)",
    };
    format!(
        "{:<20} {:>9} {:<30} {}{use_}\n",
        name.to_string(),
        age(manifest.seconds()),
        paths.join(" "),
        printable(&manifest.command.join(" ")),
    )
}

/// `uvctl commit`.
pub(super) fn commit(commit: &Commit) -> ExitCode {
    let done = || -> Result<bool, String> {
        let entry = Entry::named(&commit.name)?;
        let paths = commit.paths.iter().map(|path| place(path));
        let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
        match commit.dry_run {
            true => dry_run(&entry, &paths),
            false => entry.commit(&paths),
        }
    };
    match done() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(INCOMPLETE),
        Err(error) => {
            eprintln!("uvctl: {error}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Says what a commit would do; whether it would do all.
fn dry_run(entry: &Entry, paths: &[PathBuf]) -> Result<bool, String> {
    let plan = entry.kept.plan(paths).map_err(said)?;
    let mut text = String::new();
    for (path, change) in &plan {
        text += &text::line(change, &text::quoted(path), style::colours());
    }
    style::print(&text).map_err(|error| error.to_string())?;
    let refusals = plan
        .iter()
        .filter_map(|(_, change)| change.refusal.as_ref());
    Ok(refusals.into_iter().all(|refusal| refusal.is_final()))
}

/// `uvctl discard`.
pub(super) fn discard(discard: &Discard) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for name in &discard.names {
        if let Err(error) = Entry::named(name).and_then(Entry::discard) {
            eprintln!("uvctl: {error}");
            status = ExitCode::from(FAILURE);
        }
    }
    status
}

/// Where a path of the command line is, over links in what leads to it, but not of itself.
fn place(path: &Path) -> Result<PathBuf, String> {
    let failed = |error: io::Error| format!("{}: {error}", text::quoted(path));
    let absolute = std::path::absolute(path).map_err(failed)?;
    // Directories that are yet to be made lead nowhere.
    let mut missing = Vec::new();
    let mut above = absolute.as_path();
    while let (Some(parent), Some(last)) = (above.parent(), above.components().next_back()) {
        if last == Component::ParentDir {
            return absolute.canonicalize().map_err(failed);
        }
        missing.push(last.as_os_str().to_owned());
        above = parent;
        if let Ok(real) = above.canonicalize() {
            return Ok(missing
                .iter()
                .rev()
                .fold(real, |path, name| path.join(name)));
        }
    }
    Ok(absolute)
}
