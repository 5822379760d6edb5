// SPDX-License-Identifier: GPL-2.0

//! What is another in an upper directory than on the host.
//!
//! Nothing that a task made is trusted: directories are walked by paths from the top, each looked up without links, so
//! that neither depth nor number costs descriptors, and what cannot be told or done is a change that is refused.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::object::{
    entries, find_below, join, open_below, same_content, Blur, Kind, Object, Time, ITSELF,
};
use super::Refusal;
use crate::errno::SysResult;
use rustix::fs::{accessat, Access, AtFlags, OFlags};

/// More changes than these are not looked at.
pub(super) const CHANGES: usize = 1 << 20;

/// The longest path that the kernel looks up.
const PATH: usize = 4095;

/// What of a file is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// What it is, what is in it, or where it leads.
    pub content: bool,
    /// Who may do what.
    pub mode: bool,
    /// Owner or group.
    pub owner: bool,
    /// `user.*` attributes.
    pub attributes: bool,
}

impl Parts {
    fn any(self) -> bool {
        self.content || self.mode || self.owner || self.attributes
    }
}

/// A change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where, from the directory that has the overlay; empty for that itself.
    pub path: PathBuf,
    /// What the host has.
    pub before: Option<Object>,
    /// What it is to have.
    pub after: Option<Object>,
    /// What differs, where it has both.
    pub parts: Parts,
    /// Why it is not committed.
    pub refusal: Option<Refusal>,
}

impl Change {
    /// Whether the host has a directory there.
    pub(super) fn was_directory(&self) -> bool {
        self.before.as_ref().is_some_and(Object::is_directory)
    }

    /// Whether it is to have one.
    pub(super) fn becomes_directory(&self) -> bool {
        self.after.as_ref().is_some_and(Object::is_directory)
    }

    /// Whether it is to have one where it has none.
    pub(super) fn makes_directory(&self) -> bool {
        self.becomes_directory() && !self.was_directory()
    }
}

/// What was found in an upper directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The changes, in an order in which they can be made.
    pub changes: Vec<Change>,
    /// Directories of the host's in which there may be some.
    pub(super) directories: Vec<PathBuf>,
    /// Whether there are more than are looked at.
    pub(super) too_many: bool,
}

/// How changes are looked at.
#[derive(Debug)]
pub(super) struct How {
    /// When the task started.
    pub(super) started: Time,
    /// Whether who looks may give files away.
    pub(super) is_root: bool,
    /// How names begin that a commit which was ended may have left, and that the next one removes.
    pub(super) temporary: String,
    /// Directories that a commit which was ended may have changed itself.
    pub(super) begun: BTreeSet<PathBuf>,
}

/// What a walk is about.
struct Walk<'a> {
    upper: BorrowedFd<'a>,
    host: BorrowedFd<'a>,
    how: How,
    found: Found,
    /// Directories in which nothing can be done, and why.
    closed: Option<(PathBuf, Refusal)>,
}

/// What is yet to be looked at.
enum Step {
    /// A name in an upper directory; whether the host's directory is hidden there, or has nothing.
    Look(PathBuf, Below),
    /// What the host has, and is to be gone.
    Remove(PathBuf),
    /// The same, when all in it was looked at.
    Removed(PathBuf, Box<Object>),
    /// A change behind all that it needs to be made.
    Change(Box<Change>),
}

/// What is behind a directory in an overlay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    /// The host's of the same path.
    Merged,
    /// Nothing: it is new there.
    New,
}

/// Finds all changes.
pub(super) fn find(upper: BorrowedFd<'_>, host: BorrowedFd<'_>, how: How) -> SysResult<Found> {
    let mut walk = Walk {
        upper,
        host,
        how,
        found: Found::default(),
        closed: None,
    };
    let mut steps = vec![Step::Look(PathBuf::new(), Below::Merged)];
    while let Some(step) = steps.pop() {
        if walk.found.changes.len() >= CHANGES {
            walk.found.too_many = true;
            break;
        }
        match step {
            Step::Look(path, below) => walk.look(path, below, &mut steps)?,
            Step::Remove(path) => walk.remove(path, &mut steps)?,
            Step::Removed(path, before) => walk.removed(path, *before),
            Step::Change(change) => walk.push(*change),
        }
    }
    walk.refuse_incomplete();
    Ok(walk.found)
}

impl Walk<'_> {
    /// Notes a change; what is in a directory that is refused is refused with it.
    fn push(&mut self, mut change: Change) {
        if let Some((closed, why)) = &self.closed {
            if change.path.starts_with(closed) && change.path != *closed {
                change.refusal = Some(change.refusal.unwrap_or_else(|| why.clone()));
            }
        }
        if change.refusal.is_some() && change.makes_directory() {
            self.closed = Some((change.path.clone(), Refusal::Parent));
        }
        self.found.changes.push(change);
    }

    /// Notes something that cannot be told.
    fn refuse(&mut self, path: PathBuf, refusal: Refusal) {
        self.push(Change {
            path,
            before: None,
            after: None,
            parts: Parts::default(),
            refusal: Some(refusal),
        });
    }

    /// What the host has at a path.
    fn on_host(&self, path: &Path) -> Result<Option<Object>, Refusal> {
        let found = find_below(self.host, path).map_err(Refusal::Way)?;
        let Some(found) = found else { return Ok(None) };
        match Object::of(found.as_fd(), false) {
            Ok(object) => Ok(Some(object)),
            Err(Blur::Attributes) => Err(Refusal::Attributes),
            Err(Blur::Look(errno)) => Err(Refusal::Host(errno)),
        }
    }

    /// Whether something of the host's is as it was when the task started.
    fn is_old(&self, object: &Object) -> bool {
        object.changed < self.how.started
    }

    /// Looks at a name in an upper directory.
    fn look(&mut self, path: PathBuf, below: Below, steps: &mut Vec<Step>) -> SysResult<()> {
        if path.as_os_str().len() > PATH {
            self.refuse(path, Refusal::Deep);
            return Ok(());
        }
        let file = match open_below(self.upper, &path, ITSELF) {
            Err(errno) if path.as_os_str().is_empty() => return Err(errno),
            Err(errno) => {
                self.refuse(path, Refusal::Unreadable(errno));
                return Ok(());
            }
            Ok(file) => file,
        };
        let after = match Object::of(file.as_fd(), true) {
            Ok(after) => after,
            Err(blur) => {
                let refusal = match blur {
                    Blur::Attributes => Refusal::Attributes,
                    Blur::Look(errno) => Refusal::Unreadable(errno),
                };
                self.refuse(path, refusal);
                return Ok(());
            }
        };
        let before = match below {
            Below::New => Ok(None),
            Below::Merged => self.on_host(&path),
        };
        let before = match before {
            Ok(before) => before,
            Err(refusal) => {
                self.refuse(path, refusal);
                return Ok(());
            }
        };
        if after.marks.whiteout {
            if before.is_some() {
                steps.push(Step::Remove(path));
            }
            return Ok(());
        }
        let change = self.compare(path, before, after, file.as_fd());
        self.descend(change, steps);
        Ok(())
    }

    /// A change from one thing to another.
    fn compare(
        &self,
        path: PathBuf,
        before: Option<Object>,
        after: Object,
        file: BorrowedFd<'_>,
    ) -> Change {
        let mut parts = Parts::default();
        let mut refusal = None;
        if let Some(before) = &before {
            let content = self.differs(&path, before, &after, file);
            parts.content = content.unwrap_or_else(|why| {
                refusal = Some(why);
                true
            });
            parts.mode = after.kind != Kind::Link && before.mode != after.mode;
            if after.is_directory() {
                // One that a commit was interrupted in has more than it is to have.
                parts.mode = before.plain_mode() != after.plain_mode();
            }
            parts.owner = self.how.is_root && before.owner != after.owner;
            parts.attributes = before.attributes != after.attributes;
        }
        if refusal.is_none() && (before.is_none() || parts.any()) {
            refusal = self.judge(&path, before.as_ref(), &after, parts);
        }
        Change {
            path,
            before,
            after: Some(after),
            parts,
            refusal,
        }
    }

    /// Whether what is in two things is another.
    fn differs(
        &self,
        path: &Path,
        before: &Object,
        after: &Object,
        file: BorrowedFd<'_>,
    ) -> Result<bool, Refusal> {
        if before.kind != after.kind || before.target != after.target {
            return Ok(true);
        }
        if after.kind != Kind::File {
            return Ok(false);
        }
        if before.size != after.size {
            return Ok(true);
        }
        let host = find_below(self.host, path).map_err(Refusal::Way)?;
        let Some(host) = host else {
            return Err(Refusal::Changed);
        };
        same_content(file, host.as_fd(), after.size)
            .map(|same| !same)
            .map_err(Refusal::Unreadable)
    }

    /// Why a change is not made, if that is so.
    fn judge(
        &self,
        path: &Path,
        before: Option<&Object>,
        after: &Object,
        parts: Parts,
    ) -> Option<Refusal> {
        match after.kind {
            Kind::File | Kind::Directory | Kind::Link => {}
            kind => return Some(Refusal::Kind(kind)),
        }
        if after.kind == Kind::File && after.mode & 0o6000 != 0 {
            return Some(Refusal::Privileged);
        }
        match before {
            None if after.marks.origin => Some(Refusal::Gone),
            None => None,
            // What is in it changes a directory as well; and so does a commit that is interrupted.
            Some(before) if before.is_directory() => {
                let made = before.plain_mode() == after.plain_mode() | 0o700
                    && before.attributes == after.attributes
                    && !parts.owner;
                let half_done = made || self.how.begun.contains(path);
                let replaced = !after.is_directory();
                let changed = !replaced && !half_done && !self.is_old(before);
                changed.then_some(Refusal::Changed)
            }
            Some(before) => (!self.is_old(before)).then_some(Refusal::Changed),
        }
        .or_else(|| self.may_write(path))
    }

    /// Why nothing can be changed in the directory that a path is in, if that is so.
    fn may_write(&self, path: &Path) -> Option<Refusal> {
        let parent = path.parent()?;
        let directory = match find_below(self.host, parent) {
            Ok(Some(directory)) => directory,
            // It is yet to be made.
            Ok(None) => return None,
            Err(errno) => return Some(Refusal::Way(errno)),
        };
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        match accessat(&directory, ".", wanted, AtFlags::EACCESS) {
            Ok(()) | Err(rustix::io::Errno::NOTDIR) => None,
            Err(errno) => Some(Refusal::Host(errno.into())),
        }
    }

    /// Notes a change, and what is in it if it is a directory.
    fn descend(&mut self, change: Change, steps: &mut Vec<Step>) {
        let Some(after) = &change.after else { return };
        let (directory, was) = (after.is_directory(), change.was_directory());
        let opaque = after.marks.opaque;
        let path = change.path.clone();
        let is_change = change.before.is_none() || change.parts.any();
        if directory {
            if is_change {
                self.push(change);
            }
            let below = match was {
                true => Below::Merged,
                false => Below::New,
            };
            let names = open_below(self.upper, &path, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(|directory| entries(directory.as_fd()));
            let names = match names {
                Ok(names) => names,
                Err(errno) => {
                    self.refuse(path, Refusal::Unreadable(errno));
                    return;
                }
            };
            let mut all: Vec<Step> = Vec::new();
            if was {
                self.found.directories.push(path.clone());
            }
            if was && opaque {
                let have: BTreeSet<&[u8]> = names.iter().map(Vec::as_slice).collect();
                all.extend(self.host_names(&path).into_iter().filter_map(|name| {
                    (!have.contains(&*name)).then(|| Step::Remove(join(&path, &name)))
                }));
            }
            all.extend(
                names
                    .iter()
                    .map(|name| Step::Look(join(&path, name), below)),
            );
            steps.extend(all.into_iter().rev());
        } else if was {
            // What is in it goes first.
            let names = self.host_names(&path);
            steps.push(Step::Change(Box::new(change)));
            let gone = names.iter().rev();
            steps.extend(gone.map(|name| Step::Remove(join(&path, name))));
        } else if is_change {
            self.push(change);
        }
    }

    /// The names in a directory of the host's; none if it cannot be read, which is then found when it is removed.
    fn host_names(&self, path: &Path) -> Vec<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let names = open_below(self.host, path, flags);
        let names = names.and_then(|directory| entries(directory.as_fd()));
        let mut names = names.unwrap_or_default();
        names.retain(|name| !name.starts_with(self.how.temporary.as_bytes()));
        names
    }

    /// Something of the host's is to go.
    fn remove(&mut self, path: PathBuf, steps: &mut Vec<Step>) -> SysResult<()> {
        if path.as_os_str().len() > PATH {
            self.refuse(path, Refusal::Deep);
            return Ok(());
        }
        let before = match self.on_host(&path) {
            Ok(Some(before)) => before,
            Ok(None) => return Ok(()),
            Err(refusal) => {
                self.refuse(path, refusal);
                return Ok(());
            }
        };
        if !before.is_directory() {
            self.removed(path, before);
            return Ok(());
        }
        let names = self.host_names(&path);
        steps.push(Step::Removed(path.clone(), Box::new(before)));
        let below = names.iter().rev();
        steps.extend(below.map(|name| Step::Remove(join(&path, name))));
        Ok(())
    }

    fn removed(&mut self, path: PathBuf, before: Object) {
        let old = before.is_directory() || self.is_old(&before);
        let refusal = match old {
            true => self.may_write(&path),
            false => Some(Refusal::Changed),
        };
        self.push(Change {
            path,
            before: Some(before),
            after: None,
            parts: Parts::default(),
            refusal,
        });
    }

    /// A directory does not go, nor become something else, when something in it stays.
    fn refuse_incomplete(&mut self) {
        let goes = |change: &Change| change.was_directory() && !change.becomes_directory();
        let changes = self.found.changes.iter();
        let refused = changes.filter(|change| change.refusal.is_some());
        let mut above: BTreeSet<PathBuf> = BTreeSet::new();
        for change in refused {
            let parents = change.path.ancestors().skip(1);
            above.extend(parents.map(Path::to_owned));
        }
        for change in &mut self.found.changes {
            if change.refusal.is_none() && goes(change) && above.contains(&change.path) {
                change.refusal = Some(Refusal::NotEmpty);
            }
        }
    }
}
