// SPDX-License-Identifier: GPL-2.0

//! Where paths lead to on the host, and places for that in the new root.

use std::collections::BTreeSet;
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
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let found = openat2(root, below, flags, Mode::empty(), resolve)?;
    match kind(found.as_fd())?.0 {
        libc::S_IFLNK => Err(Errno::ELOOP),
        _ => Ok(found),
    }
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

/// What is made at a path where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Make {
    /// Nothing.
    Nothing,
    /// A directory.
    Directory,
    /// A file that is not one.
    File,
}

/// The root that is being made.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    /// The file systems in which places may be made, by their devices. All others are the host's.
    own: BTreeSet<u64>,
}

impl Tree {
    /// That of a mount.
    pub(super) fn new(root: OwnedFd) -> Self {
        let own = BTreeSet::new();
        Self { root, own }
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

    /// What is at a path without links, or is made there; nothing if it is not there, and must not be made, as all
    /// around is the host's.
    pub(super) fn find(&self, path: &Path, make: Make) -> SysResult<Option<OwnedFd>> {
        match direct(self.root(), path) {
            Ok(found) => return Ok(Some(found)),
            Err(Errno::ENOENT) if make != Make::Nothing => {}
            // The host's files may have become links by now. Where they lead is not looked at.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        let Some(above) = self.find(above, Make::Directory)? else {
            return Ok(None);
        };
        if !self.is_own(above.as_fd())? {
            return Ok(None);
        }
        create(above.as_fd(), name, make == Make::Directory)?;
        open(above.as_fd(), name).map(Some)
    }

    /// A place at which an object can be attached.
    pub(super) fn place(&self, path: &Path, directory: bool) -> SysResult<Option<OwnedFd>> {
        let make = match directory {
            true => Make::Directory,
            false => Make::File,
        };
        match self.find(path, make)? {
            Some(place) if is_directory(place.as_fd())? == directory => Ok(Some(place)),
            _ => Ok(None),
        }
    }

    /// Makes a link, if nothing is there and it may be made.
    pub(super) fn link(&self, at: &Path, target: &OsStr) -> SysResult<()> {
        let (Some(directory), Some(name)) = (at.parent(), at.file_name()) else {
            return Ok(());
        };
        let Some(directory) = self.find(directory, Make::Directory)? else {
            return Ok(());
        };
        if !self.is_own(directory.as_fd())? {
            return Ok(());
        }
        match symlinkat(target, &directory, name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Makes a directory, or an empty file.
fn create(here: BorrowedFd<'_>, name: &OsStr, directory: bool) -> SysResult<()> {
    if directory {
        return Ok(mkdirat(here, name, Mode::from_raw_mode(0o755))?);
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(here, name, flags, Mode::from_raw_mode(0o444))?;
    Ok(())
}
