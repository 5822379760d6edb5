// SPDX-License-Identifier: GPL-2.0

//! What tasks changed in overlays: kept, looked at, and committed to the host's files or thrown away.
//!
//! A task is gone when this is looked at, but all that is in an upper directory it made: names, links, attributes and
//! sizes are hostile. So is what is done about it:
//!
//! * everything is found from a descriptor of the directory that has the overlay, without links, in one file system;
//! * what cannot be committed, or was changed on the host meanwhile, is found before anything is done, and looked at
//!   once more right before;
//! * each file is replaced by a rename of one that is whole and on the disk, so whatever ends a commit leaves it old
//!   or new, and committing again goes on where that was.
//!
//! What cannot be told: whether the host removed a file meanwhile that the task replaced by another one (by a rename,
//! as editors do), as the kernel notes only of changed ones where they are from; nor is it known of files that have
//! several names.

mod apply;
mod manifest;
mod object;
mod remove;
mod store;
#[cfg(test)]
mod tests;
mod walk;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use thiserror::Error;

use crate::errno::{Errno, SysResult};

pub use manifest::{Manifest, Name, Tree};
pub use object::{Kind, Object};
pub use store::{Kept, Lock, Making, Store};
pub use walk::{Change, Found, Parts};

/// Why a change is not committed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// What the host has is newer than the task's start.
    #[error("the host's was changed since the task started")]
    Changed,
    /// The host had it, and has it no more.
    #[error("the host's was removed since the task started")]
    Gone,
    /// It is nothing that is ever committed.
    #[error("it is a {}, and those are never committed", .0.name())]
    Kind(Kind),
    /// It would run with somebody else's rights.
    #[error("it is setuid or setgid, and those are never committed")]
    Privileged,
    /// It has too many attributes.
    #[error("it has more than 1 MiB of attributes")]
    Attributes,
    /// Its path is too long.
    #[error("its path is longer than the kernel takes")]
    Deep,
    /// What the task made cannot be read.
    #[error("what the task made cannot be read: {0}")]
    Unreadable(Errno),
    /// What leads to it on the host is not what it was.
    #[error("what leads to it is no directory of this file system (any more): {0}")]
    Way(Errno),
    /// The host's cannot be looked at, or changed.
    #[error("the host refuses: {0}")]
    Host(Errno),
    /// What it is in is refused.
    #[error("the directory that it is in is not committed")]
    Parent,
    /// Something in it is refused.
    #[error("something in it stays")]
    NotEmpty,
}

impl Refusal {
    /// Whether there is nothing to be had by trying later.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Kind(_))
    }
}

/// Why changes cannot be kept, looked at or committed.
#[derive(Debug, Error)]
pub enum ChangesError {
    /// It is no name.
    #[error(
        "`{}` is no name for changes: those have up to 64 letters, digits, `.`, `-` and `_`, and begin with a letter \
         or digit",
        .0.escape_debug()
    )]
    Name(String),
    /// The name is taken.
    #[error("there are changes kept as {0} already: commit or discard them first (`uvctl diff {0}` shows them)")]
    Exists(Name),
    /// There are none.
    #[error("no changes are kept as {0}: `uvctl diff` lists those that are")]
    Missing(Name),
    /// They are in use.
    #[error("{0} is in use: its task still runs, or somebody commits or discards it")]
    Busy(Name),
    /// Where they are kept cannot be used.
    #[error("cannot keep changes in {}: {why}", path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What is kept is not what it should be.
    #[error("{name} cannot be used: {why}")]
    Broken {
        /// Its name.
        name: Name,
        /// What is wrong with it.
        why: String,
    },
    /// A directory of the host's is not what it was.
    #[error("{}: {why}", path.display())]
    Host {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A path was asked for that is not among them.
    #[error("{}: nothing is changed there", .0.display())]
    NoChange(PathBuf),
}

/// The changes in one directory, and what was found there.
#[derive(Debug)]
pub struct Changes<'a> {
    /// The directory.
    pub tree: &'a Tree,
    /// What was found.
    pub found: Found,
}

/// What is in a file before and behind a change.
pub type Contents = (Vec<u8>, Vec<u8>);

/// What became of a commit.
#[derive(Debug, Default)]
pub struct Committed {
    /// How many changes were made.
    pub done: usize,
    /// Those that were not, by the host's path.
    pub refused: Vec<(PathBuf, Refusal)>,
    /// Those that never are.
    pub left_out: Vec<(PathBuf, Refusal)>,
    /// Those that were not asked for.
    pub others: usize,
}

impl Committed {
    /// Whether nothing is left that could be committed.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.others == 0
    }
}

impl Kept {
    /// All that was changed.
    pub fn changes(&self) -> Result<Vec<Changes<'_>>, ChangesError> {
        let manifest = self.manifest();
        let begun = self.begun();
        let mut all = Vec::new();
        for tree in &manifest.trees {
            let (upper, host) = (self.upper(tree)?, self.host(tree)?);
            let root = rustix::process::geteuid().is_root();
            let begun = begun.iter().filter(|(number, _)| *number == tree.number);
            let how = walk::How {
                started: manifest.started,
                is_root: root,
                temporary: self.temporary(),
                begun: begun.map(|(_, path)| path.clone()).collect(),
            };
            let found = walk::find(upper.as_fd(), host.as_fd(), how);
            let found = found.map_err(|errno| self.broken(errno.to_string()))?;
            if found.too_many {
                return Err(self.broken(format!("it has more than {} changes", walk::CHANGES)));
            }
            all.push(Changes { tree, found });
        }
        Ok(all)
    }

    /// What a commit of those at or below one of `paths`, or of all, would make or refuse, by the host's path.
    pub fn plan(&self, paths: &[PathBuf]) -> Result<Vec<(PathBuf, Change)>, ChangesError> {
        let all = self.changes()?;
        check_asked(&all, paths)?;
        let of_tree = |changes: &Changes<'_>| {
            let wanted = wanted(changes, paths).into_iter();
            let wanted =
                wanted.map(|change| (changes.tree.host.join(&change.path), change.clone()));
            wanted.collect::<Vec<_>>()
        };
        Ok(all.iter().flat_map(of_tree).collect())
    }

    /// Makes those changes on the host that are at or below one of `paths`, or all of them. Only one that has the lock
    /// does.
    pub fn commit(&self, _: &Lock, paths: &[PathBuf]) -> Result<Committed, ChangesError> {
        let all = self.changes()?;
        check_asked(&all, paths)?;
        self.begin(&all)?;
        let mut committed = Committed::default();
        for changes in &all {
            let (upper, host) = (self.upper(changes.tree)?, self.host(changes.tree)?);
            let wanted = wanted(changes, paths);
            committed.others += changes.found.changes.len() - wanted.len();
            let temporary = self.temporary();
            apply::sweep(host.as_fd(), &changes.found.directories, &temporary);
            let mut apply = apply::Apply::new(upper.as_fd(), host.as_fd(), &temporary);
            for change in wanted {
                let result = match &change.refusal {
                    Some(refusal) => Err(refusal.clone()),
                    None => apply.make(change),
                };
                match result {
                    Ok(()) => committed.done += 1,
                    Err(refusal) => {
                        let path = changes.tree.host.join(&change.path);
                        match refusal.is_final() {
                            true => committed.left_out.push((path, refusal)),
                            false => committed.refused.push((path, refusal)),
                        }
                    }
                }
            }
            for (path, refusal) in apply.finish() {
                committed.done = committed.done.saturating_sub(1);
                committed
                    .refused
                    .push((changes.tree.host.join(path), refusal));
            }
        }
        self.end();
        Ok(committed)
    }

    /// What is in a file before and behind a change, if both are files of at most `most` bytes; nothing is no content.
    pub fn contents(
        &self,
        tree: &Tree,
        change: &Change,
        most: u64,
    ) -> Result<Option<Contents>, ChangesError> {
        let (upper, host) = (self.upper(tree)?, self.host(tree)?);
        let read = |directory: &File, object: Option<&Object>| -> SysResult<Option<Vec<u8>>> {
            let Some(object) = object else {
                return Ok(Some(Vec::new()));
            };
            if object.kind != Kind::File || object.size > most {
                return Ok(None);
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = object::open_below(directory.as_fd(), &change.path, flags)?;
            let mut bytes = Vec::new();
            let read = File::from(file).take(most + 1).read_to_end(&mut bytes);
            read.map_err(Errno::from)?;
            Ok((bytes.len() as u64 <= most).then_some(bytes))
        };
        let broken = |errno: Errno| ChangesError::Host {
            path: tree.host.join(&change.path),
            why: errno.to_string(),
        };
        let before = read(&host, change.before.as_ref()).map_err(broken)?;
        let after = read(&upper, change.after.as_ref()).map_err(broken)?;
        Ok(before.zip(after))
    }
}

/// Something is to be changed at all paths that are asked for.
fn check_asked(all: &[Changes<'_>], paths: &[PathBuf]) -> Result<(), ChangesError> {
    for path in paths {
        let mut changes = all.iter().flat_map(|changes| {
            let found = changes.found.changes.iter();
            found.map(|change| changes.tree.host.join(&change.path))
        });
        if !changes.any(|change| change.starts_with(path)) {
            return Err(ChangesError::NoChange(path.clone()));
        }
    }
    Ok(())
}

/// The changes that are asked for, and those that they need: a file in a new directory needs that.
fn wanted<'a>(changes: &'a Changes<'_>, paths: &[PathBuf]) -> Vec<&'a Change> {
    let host = |change: &Change| changes.tree.host.join(&change.path);
    let asked = |path: &Path| paths.is_empty() || paths.iter().any(|asked| path.starts_with(asked));
    let needed = |change: &Change| {
        let above = host(change);
        change.makes_directory() && paths.iter().any(|asked| asked.starts_with(&above))
    };
    let all = changes.found.changes.iter();
    let wanted = all.filter(|change| asked(&host(change)) || needed(change));
    wanted.collect()
}
