// SPDX-License-Identifier: GPL-2.0

//! Changes are made on the host, each at once.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    chmod, chownat, fchmod, fchown, fsetxattr, fsync, ftruncate, futimens, getxattr, mkdirat,
    openat, removexattr, renameat, renameat_with, setxattr, symlinkat, unlinkat, AtFlags, Gid,
    Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags, UTIME_OMIT,
};
use rustix::io::Errno as Os;

use super::object::{
    by_descriptor, entries, next_data, open_below, read_at, Blur, Kind, Object, CHUNK, ITSELF,
};
use super::{Change, Refusal};
use crate::errno::{Errno, SysResult};

/// Makes changes from an upper directory in one of the host's.
pub(super) struct Apply<'a> {
    upper: BorrowedFd<'a>,
    host: BorrowedFd<'a>,
    /// How names begin that something has until it is whole.
    temporary: &'a str,
    count: u64,
    is_root: bool,
    /// Directories whose modes are set last, since nothing may be made in some.
    last: Vec<(PathBuf, u32)>,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Host(errno)
    }
}

impl From<Os> for Refusal {
    fn from(errno: Os) -> Self {
        Self::Host(errno.into())
    }
}

/// A mode.
fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// A name in a directory that is there only until what it is of is whole, or gone.
struct Temporary<'a> {
    directory: BorrowedFd<'a>,
    name: String,
    /// How it is removed.
    flags: AtFlags,
    used: bool,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.used {
            // The next commit removes what cannot be removed now.
            let _ = unlinkat(self.directory, &*self.name, self.flags);
        }
    }
}

impl<'a> Apply<'a> {
    pub(super) fn new(upper: BorrowedFd<'a>, host: BorrowedFd<'a>, temporary: &'a str) -> Self {
        Self {
            upper,
            host,
            temporary,
            count: 0,
            is_root: rustix::process::geteuid().is_root(),
            last: Vec::new(),
        }
    }

    /// Makes a change, if the host's is still what it was when that was found.
    pub(super) fn make(&mut self, change: &Change) -> Result<(), Refusal> {
        let (Some(parent), Some(name)) = (change.path.parent(), change.path.file_name()) else {
            // The directory that has the overlay.
            return self.change_directory(change);
        };
        let directory = open_below(self.host, parent, OFlags::RDONLY | OFlags::DIRECTORY);
        let directory = directory.map_err(Refusal::Way)?;
        let found = look(directory.as_fd(), name)?;
        match (&found, &change.before) {
            (None, None) => {}
            (Some((_, now)), Some(before)) if now.is_still(before) => {}
            (None, Some(_)) => return Err(Refusal::Gone),
            _ => return Err(Refusal::Changed),
        }
        let was_directory = change.was_directory();
        let Some(after) = &change.after else {
            let flags = match was_directory {
                true => AtFlags::REMOVEDIR,
                false => AtFlags::empty(),
            };
            match unlinkat(&directory, name, flags) {
                Err(Os::NOTEMPTY | Os::EXIST) => return Err(Refusal::NotEmpty),
                result => result?,
            }
            fsync(&directory)?;
            return Ok(());
        };
        match after.kind {
            Kind::Directory if was_directory => return self.change_directory(change),
            Kind::File if change.before.is_some() && only_mode(change) => {
                if let Some((file, _)) = &found {
                    chmod(by_descriptor(file.as_fd()), mode(after.plain_mode()))?;
                }
            }
            Kind::File | Kind::Directory | Kind::Link => {
                let host = found.as_ref().map(|(file, object)| (file.as_fd(), object));
                let made = self.whole(directory.as_fd(), change, after, host)?;
                replace(directory.as_fd(), made, name, change)?;
            }
            kind => return Err(Refusal::Kind(kind)),
        }
        fsync(&directory)?;
        Ok(())
    }

    /// Makes what is to be there under a name of its own.
    fn whole<'d>(
        &mut self,
        directory: BorrowedFd<'d>,
        change: &Change,
        after: &Object,
        host: Option<(BorrowedFd<'_>, &Object)>,
    ) -> Result<Temporary<'d>, Refusal> {
        self.count += 1;
        let mut made = Temporary {
            directory,
            name: format!("{}{}", self.temporary, self.count),
            flags: AtFlags::empty(),
            used: true,
        };
        let name = &*made.name;
        match after.kind {
            Kind::Link => {
                symlinkat(OsStr::from_bytes(&after.target), directory, name)?;
                made.used = false;
                if self.is_root {
                    let (uid, gid) = owner(after);
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    chownat(directory, &*made.name, Some(uid), Some(gid), flags)?;
                }
            }
            Kind::Directory => {
                mkdirat(directory, name, Mode::RWXU)?;
                made.used = false;
                made.flags = AtFlags::REMOVEDIR;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let new = openat(directory, &*made.name, flags, Mode::empty())?;
                self.dress(new.as_fd(), after, None)?;
                // The group that what is made in it has is for the host to say.
                let inherited = rustix::fs::fstat(&new)?.st_mode & libc::S_ISGID;
                let bits = after.plain_mode() | inherited;
                fchmod(&new, mode(bits | 0o700))?;
                fsync(&new)?;
                if bits | 0o700 != bits {
                    self.last.push((change.path.clone(), bits));
                }
            }
            _ => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let new = openat(directory, name, flags | OFlags::CLOEXEC, Mode::RUSR)?;
                made.used = false;
                self.copy(change, after, new.as_fd())?;
                self.dress(new.as_fd(), after, host)?;
                fchmod(&new, mode(after.plain_mode()))?;
                let omit = Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                };
                let times = Timestamps {
                    last_access: omit,
                    last_modification: Timespec {
                        tv_sec: after.modified.0,
                        tv_nsec: after.modified.1.into(),
                    },
                };
                futimens(&new, &times)?;
                fsync(&new)?;
            }
        }
        Ok(made)
    }

    /// Copies content, but for what is left out in it.
    fn copy(&self, change: &Change, after: &Object, to: BorrowedFd<'_>) -> Result<(), Refusal> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let from = open_below(self.upper, &change.path, flags).map_err(Refusal::Unreadable)?;
        let mut buffer = vec![0; CHUNK];
        let mut at = 0;
        while at < after.size {
            let data = next_data(from.as_fd(), at).map_err(Refusal::Unreadable)?;
            let Some(start) = data else { break };
            let count = read_at(from.as_fd(), &mut buffer, start).map_err(Refusal::Unreadable)?;
            let Some(mut rest) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            at = start;
            while !rest.is_empty() {
                match rustix::io::pwrite(to, rest, at) {
                    Err(Os::INTR) => {}
                    written => {
                        let written = written?;
                        at += written as u64;
                        rest = rest.get(written..).unwrap_or_default();
                    }
                }
            }
        }
        Ok(ftruncate(to, after.size)?)
    }

    /// Gives something new its owner and attributes, and what else the host's has.
    fn dress(
        &self,
        new: BorrowedFd<'_>,
        after: &Object,
        host: Option<(BorrowedFd<'_>, &Object)>,
    ) -> Result<(), Refusal> {
        let (uid, gid) = owner(after);
        if self.is_root {
            fchown(new, Some(uid), Some(gid))?;
        } else if let Some((_, object)) = host {
            // It stays with the user's own group where they may not give it away.
            let _ = fchown(new, None, Some(Gid::from_raw(object.owner.1)));
        }
        for (name, value) in &after.attributes {
            fsetxattr(new, &**name, value, XattrFlags::empty())?;
        }
        let Some((file, _)) = host.filter(|(_, object)| object.kind == Kind::File) else {
            return Ok(());
        };
        const LIST: &str = "system.posix_acl_access";
        let mut list = vec![0; 1 << 16];
        match getxattr(by_descriptor(file), LIST, &mut list[..]) {
            Ok(length) => {
                let list = list.get(..length).unwrap_or_default();
                Ok(fsetxattr(new, LIST, list, XattrFlags::empty())?)
            }
            Err(Os::NODATA | Os::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Gives a directory another mode, owner or attributes; its mode last, when all is done in it.
    fn change_directory(&mut self, change: &Change) -> Result<(), Refusal> {
        let (Some(before), Some(after)) = (&change.before, &change.after) else {
            return Err(Refusal::Changed);
        };
        let directory = open_below(self.host, &change.path, ITSELF).map_err(Refusal::Way)?;
        let now = object(directory.as_fd())?;
        if !now.is_still(before) || now.attributes != before.attributes || now.mode != before.mode {
            return Err(Refusal::Changed);
        }
        let path = by_descriptor(directory.as_fd());
        if change.parts.owner {
            let (uid, gid) = owner(after);
            rustix::fs::chown(&path, Some(uid), Some(gid))?;
        }
        for (name, value) in &after.attributes {
            if !before.attributes.contains(&(name.clone(), value.clone())) {
                setxattr(&path, &**name, value, XattrFlags::empty())?;
            }
        }
        for (name, _) in &before.attributes {
            if !after.attributes.iter().any(|(kept, _)| kept == name) {
                removexattr(&path, &**name)?;
            }
        }
        let bits = after.plain_mode() | before.mode & libc::S_ISGID;
        chmod(&path, mode(bits | 0o700))?;
        self.last.push((change.path.clone(), bits));
        Ok(())
    }

    /// Sets the modes of directories, the deepest first; what could not be.
    pub(super) fn finish(self) -> Vec<(PathBuf, Refusal)> {
        let mut refused = Vec::new();
        for (path, bits) in self.last.into_iter().rev() {
            let set = || -> SysResult<()> {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let directory = open_below(self.host, &path, flags)?;
                fchmod(&directory, mode(bits))?;
                Ok(fsync(&directory)?)
            };
            if let Err(errno) = set() {
                refused.push((path, Refusal::Host(errno)));
            }
        }
        refused
    }
}

/// Whether nothing but the mode is another, which is changed at once.
fn only_mode(change: &Change) -> bool {
    let parts = change.parts;
    parts.mode && !parts.content && !parts.owner && !parts.attributes
}

/// Owner and group.
fn owner(object: &Object) -> (Uid, Gid) {
    (Uid::from_raw(object.owner.0), Gid::from_raw(object.owner.1))
}

/// What something is now.
fn object(file: BorrowedFd<'_>) -> Result<Object, Refusal> {
    Object::of(file, false).map_err(|blur| match blur {
        Blur::Look(errno) => Refusal::Host(errno),
        Blur::Attributes => Refusal::Attributes,
    })
}

/// What a name in a directory is of.
fn look(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<(OwnedFd, Object)>, Refusal> {
    match openat(directory, name, ITSELF | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => {
            let object = object(file.as_fd())?;
            Ok(Some((file, object)))
        }
        Err(Os::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts something at a name, in the place of what is there.
fn replace(
    directory: BorrowedFd<'_>,
    mut made: Temporary<'_>,
    name: &OsStr,
    change: &Change,
) -> Result<(), Refusal> {
    let temporary = made.name.clone();
    let exchange = || {
        let flags = RenameFlags::EXCHANGE;
        renameat_with(directory, &*temporary, directory, name, flags)
    };
    match (
        &change.before,
        change.was_directory(),
        change.becomes_directory(),
    ) {
        (None, ..) => {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(directory, &*temporary, directory, name, flags) {
                Err(Os::EXIST) => return Err(Refusal::Changed),
                // Not all file systems know it.
                Err(Os::INVAL) => renameat(directory, &*temporary, directory, name)?,
                result => result?,
            }
        }
        (Some(_), false, false) => renameat(directory, &*temporary, directory, name)?,
        (Some(_), was_directory, _) => {
            exchange()?;
            let flags = match was_directory {
                true => AtFlags::REMOVEDIR,
                false => AtFlags::empty(),
            };
            if let Err(errno) = unlinkat(directory, &*temporary, flags) {
                exchange()?;
                return Err(match errno {
                    Os::NOTEMPTY | Os::EXIST => Refusal::NotEmpty,
                    errno => errno.into(),
                });
            }
        }
    }
    made.used = true;
    Ok(())
}

/// Removes what a commit left that was ended: only the user's own, by its name.
pub(super) fn sweep(host: BorrowedFd<'_>, directories: &[PathBuf], temporary: &str) {
    for path in directories {
        // What cannot be removed is in nobody's way.
        let _ = sweep_one(host, path, temporary);
    }
}

fn sweep_one(host: BorrowedFd<'_>, path: &Path, temporary: &str) -> SysResult<()> {
    let directory = open_below(host, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    for name in entries(directory.as_fd())? {
        if !name.starts_with(temporary.as_bytes()) {
            continue;
        }
        let name = OsStr::from_bytes(&name);
        if unlinkat(&directory, name, AtFlags::empty()).is_err() {
            let _ = unlinkat(&directory, name, AtFlags::REMOVEDIR);
        }
    }
    Ok(())
}
