// SPDX-License-Identifier: GPL-2.0

//! Where paths lead to on the host, and places for that in the new root.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{mkdirat, openat, openat2, readlinkat, symlinkat, Mode, OFlags, ResolveFlags};

use super::mount::{is_directory, kind, open};
use crate::errno::{Errno, SysResult};

/// How many links a path may lead over, as the kernel has it.
const LINKS: usize = 40;

/// What a path is on the host.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The path of the same thing without links. What does not exist is a name at the end like any other.
    pub(super) real: PathBuf,
    /// The links on the way: where they are, without links before, and what they say.
    pub(super) links: Vec<(PathBuf, OsString)>,
    /// The thing, if there is one.
    pub(super) object: Option<OwnedFd>,
}

/// The names of a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

/// Opens what is at an absolute path below a root as itself, without using it; over no links, or it is `ELOOP`.
fn direct(root: BorrowedFd<'_>, path: &Path) -> SysResult<OwnedFd> {
    let below = path.strip_prefix("/").unwrap_or(path);
    if below.as_os_str().is_empty() {
        return Ok(root.try_clone_to_owned()?);
    }
    // Without O_NOFOLLOW a link at the end is refused like the others.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    Ok(openat2(root, below, flags, Mode::empty(), resolve)?)
}

/// Looks an absolute path up from the host's root.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &Path) -> SysResult<Resolved> {
    match direct(root, path) {
        Ok(object) => Ok(Resolved {
            real: path.to_owned(),
            links: Vec::new(),
            object: Some(object),
        }),
        Err(_) => step_by_step(root, path),
    }
}

/// Looks an absolute path up, one name after the other.
fn step_by_step(root: BorrowedFd<'_>, path: &Path) -> SysResult<Resolved> {
    let mut above: Vec<(OsString, OwnedFd)> = Vec::new();
    let mut missing: Vec<OsString> = Vec::new();
    let mut links = Vec::new();
    let mut pending = names(path);
    while let Some(name) = pending.pop() {
        if name == ".." {
            if missing.pop().is_none() {
                above.pop();
            }
            continue;
        }
        if !missing.is_empty() {
            missing.push(name);
            continue;
        }
        let here = above.last().map_or(root, |(_, fd)| fd.as_fd());
        let found = match open(here, &name) {
            Err(Errno::ENOENT) => {
                missing.push(name);
                continue;
            }
            found => found?,
        };
        if kind(found.as_fd())?.0 != libc::S_IFLNK {
            above.push((name, found));
            continue;
        }
        if links.len() == LINKS {
            return Err(Errno::ELOOP);
        }
        let target = readlinkat(&found, c"", Vec::new())?.into_bytes();
        let target = OsString::from_vec(target);
        let mut at = path_of(above.iter().map(|(name, _)| name));
        at.push(&name);
        let absolute = target.as_bytes().first() == Some(&b'/');
        pending.extend(names(Path::new(&target)));
        links.push((at, target));
        if absolute {
            above.clear();
        }
        // Mostly there are no more.
        if !pending.iter().any(|name| name == "..") {
            let names = above.iter().map(|(name, _)| name);
            let real = path_of(names.chain(pending.iter().rev()));
            if let Ok(object) = direct(root, &real) {
                let object = Some(object);
                return Ok(Resolved {
                    real,
                    links,
                    object,
                });
            }
        }
    }
    let real = path_of(above.iter().map(|(name, _)| name).chain(&missing));
    let object = match (missing.is_empty(), above.pop()) {
        (false, _) => None,
        (true, Some((_, object))) => Some(object),
        (true, None) => Some(root.try_clone_to_owned()?),
    };
    Ok(Resolved {
        real,
        links,
        object,
    })
}

fn path_of<'a>(names: impl Iterator<Item = &'a OsString>) -> PathBuf {
    let mut path = PathBuf::from("/");
    path.extend(names);
    path
}

/// The root that is being made.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The file systems in which places may be made, by their devices. All others are the host's.
    own: BTreeSet<u64>,
    /// Directories in these, by path, so that not every place is looked for from the root. Nothing is attached at them.
    directories: BTreeMap<PathBuf, OwnedFd>,
}

impl Tree {
    /// That of a mount.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            own: BTreeSet::new(),
            directories: BTreeMap::new(),
        }
    }

    /// Its root directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// From now on, places may be made in a file system, given by its root.
    pub(super) fn own(&mut self, mount: BorrowedFd<'_>) -> SysResult<()> {
        self.own.insert(kind(mount)?.1);
        Ok(())
    }

    /// Whether places may be made in a directory.
    pub(super) fn is_own(&self, directory: BorrowedFd<'_>) -> SysResult<bool> {
        Ok(self.own.contains(&kind(directory)?.1))
    }

    /// What is at a path without links, if something is, for something to be attached there.
    pub(super) fn find(&mut self, path: &Path) -> SysResult<Option<OwnedFd>> {
        self.forget(path);
        self.look(path)
    }

    /// A place at which an object can be attached: what is at a path without links, or is made there. There is none if
    /// something of another kind is there; or nothing, and all around is the host's.
    pub(super) fn place(&mut self, path: &Path, directory: bool) -> SysResult<Option<OwnedFd>> {
        self.forget(path);
        self.make(path, directory)
    }

    /// Makes a link, if nothing is there and it may be made.
    pub(super) fn link(&mut self, at: &Path, target: &OsStr) -> SysResult<()> {
        let (Some(directory), Some(name)) = (at.parent(), at.file_name()) else {
            return Ok(());
        };
        let Some(directory) = self.directory(directory)? else {
            return Ok(());
        };
        match symlinkat(target, directory, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Forgets the directories from a path down, which something else is there instead of.
    fn forget(&mut self, path: &Path) {
        self.directories.retain(|known, _| !known.starts_with(path));
    }

    fn look(&self, path: &Path) -> SysResult<Option<OwnedFd>> {
        match direct(self.root(), path) {
            Ok(found) => Ok(Some(found)),
            // The host's files may have become links by now. Where they lead is not looked at.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn make(&mut self, path: &Path, directory: bool) -> SysResult<Option<OwnedFd>> {
        let (above, name) = match (path.parent(), path.file_name()) {
            (Some(above), Some(name)) => (above, name),
            _ if directory => return Ok(Some(self.root.try_clone()?)),
            _ => return Ok(None),
        };
        if let Some(above) = self.directories.get(above) {
            match create(above.as_fd(), name, directory) {
                Err(Errno::EEXIST) => {}
                made => return made.map(Some),
            }
        }
        if let Some(found) = self.look(path)? {
            let same = is_directory(found.as_fd())? == directory;
            return Ok(same.then_some(found));
        }
        match self.directory(above)? {
            Some(above) => match create(above, name, directory) {
                // A link, which leads nowhere or has been there for shorter.
                Err(Errno::EEXIST) => Ok(None),
                made => made.map(Some),
            },
            None => Ok(None),
        }
    }

    /// A directory in which places may be made, which is made as well where it may be.
    fn directory(&mut self, path: &Path) -> SysResult<Option<BorrowedFd<'_>>> {
        if !self.directories.contains_key(path) {
            let Some(found) = self.make(path, true)? else {
                return Ok(None);
            };
            if !self.is_own(found.as_fd())? {
                return Ok(None);
            }
            self.directories.insert(path.to_owned(), found);
        }
        Ok(self.directories.get(path).map(AsFd::as_fd))
    }
}

/// Makes a directory, or an empty file.
fn create(here: BorrowedFd<'_>, name: &OsStr, directory: bool) -> SysResult<OwnedFd> {
    if directory {
        mkdirat(here, name, Mode::from_raw_mode(0o755))?;
        return open(here, name);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(openat(here, name, flags, Mode::from_raw_mode(0o444))?)
}
