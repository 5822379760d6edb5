// SPDX-License-Identifier: GPL-2.0

//! What a path of the guest's leads to.
//!
//! A path is resolved once, to a descriptor of the broker's own; what may be done is asked of that, and done
//! by it.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::access::{Access, Right};
use super::kernels::{file_system, is_kernels, PROC};
use super::links::read_link;
use super::status::{status_at, status_of, Status};
use super::Fds;
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::memory::PATH_MAX;
use crate::pass;
use crate::task::Task;

/// A path with a meaning of its own for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// One of the guest's descriptors.
    Fd(RawFd),
    /// The program.
    Program,
    /// What a program opens where it is to become a template: see [`crate::template`].
    Checkpoint,
}

/// What a path means, if it is one of those; `pid` is the task's.
pub(crate) fn special(path: &CStr, pid: u32) -> Option<Special> {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return None;
    }
    let parts: Option<Vec<&str>> = parts
        .map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect();
    let own = |name: &str| matches!(name, "self" | "thread-self") || name.parse() == Ok(pid);
    let fd = |number: &str| number.parse().ok().map(Special::Fd);
    match *parts?.as_slice() {
        ["dev", "stdin"] => Some(Special::Fd(0)),
        ["dev", "stdout"] => Some(Special::Fd(1)),
        ["dev", "stderr"] => Some(Special::Fd(2)),
        ["dev", "uvisor-checkpoint"] => Some(Special::Checkpoint),
        ["dev", "fd", number] => fd(number),
        ["proc", process, "fd", number] if own(process) => fd(number),
        ["proc", process, "exe"] if own(process) => Some(Special::Program),
        _ => None,
    }
}

/// What decides which files a task may have, and what it may do to them.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) fds: &'a Fds,
    pub(super) access: &'a Access,
    /// The program's path.
    pub(super) program: &'a CStr,
    /// What is read behind a checkpoint.
    pub(super) checkpoint: &'a [u8],
}

impl Task {
    /// What decides about its files.
    pub(super) fn scope(&self) -> Scope<'_> {
        Scope {
            fds: &self.fds,
            access: &self.access,
            program: &self.shared.program,
            checkpoint: &self.shared.checkpoint,
        }
    }
}

/// A name in a directory.
///
/// The directory is a descriptor of the broker's own, so that it is the one that was asked about also when
/// it is used, whatever becomes of the path that led there.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub(super) parent: OwnedFd,
    /// The name, which has no `/` but one at its end if the path had one there. It is `.` if the path
    /// ends so, or with `..`; the directory is then the one that the whole path leads to.
    pub(super) name: CString,
    /// The path of the directory.
    path: Vec<u8>,
}

impl Place {
    /// The directory's descriptor.
    pub(super) fn directory(&self) -> RawFd {
        self.parent.as_raw_fd()
    }

    /// Whether the path asks for a directory.
    pub(super) fn wants_directory(&self) -> bool {
        self.name.as_bytes().ends_with(b"/")
    }

    /// The name without `/`.
    pub(super) fn plain_name(&self) -> CString {
        let name = self.name.as_bytes();
        let name = name.strip_suffix(b"/").unwrap_or(name);
        CString::new(name).unwrap_or_default()
    }
}

/// What is at a place.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    /// What is there: a handle of the broker's own, and its status. None if nothing is.
    pub(super) object: Option<(OwnedFd, Status)>,
}

/// Divides a path into that of the directory and the name.
fn split(path: &CStr) -> SysResult<(Vec<u8>, CString)> {
    let path = path.to_bytes();
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let end = path.iter().rposition(|&byte| byte != b'/');
    let Some(end) = end else {
        return Ok((b"/".to_vec(), c".".to_owned()));
    };
    let (trimmed, slashes) = path.split_at(end + 1);
    let start = trimmed.iter().rposition(|&byte| byte == b'/');
    let (parent, name) = trimmed.split_at(start.map_or(0, |slash| slash + 1));
    let (parent, name) = match name {
        b"." | b".." => (trimmed, &b"."[..]),
        _ if parent.is_empty() => (&b"."[..], name),
        _ => (parent, name),
    };
    let slash = slashes.get(..1).unwrap_or_default();
    let name = CString::new([name, slash].concat()).map_err(|_| Errno::EINVAL)?;
    Ok((parent.to_vec(), name))
}

/// How many links a path may lead over, and how often a name is looked up whose meaning changes meanwhile.
pub(super) const STEPS: usize = 40;

impl Scope<'_> {
    /// A handle on what a path leads to, over no magic links; `flags` are `O_NOFOLLOW` and `O_DIRECTORY`, and
    /// `resolve` is more of what `openat2` takes.
    ///
    /// It is the broker's own. Between the two calls it has a number of the guest's, which another thread may close
    /// and open again: then it is another handle, as if the path led elsewhere, or an error. So whatever is to be
    /// known of it must be asked of what this returns.
    pub(super) fn handle(
        &self,
        directory: RawFd,
        path: &CStr,
        flags: i32,
        resolve: u64,
    ) -> SysResult<OwnedFd> {
        let flags = libc::O_PATH | libc::O_CLOEXEC | flags;
        let mut how = [0; 24];
        how[..8].copy_from_slice(&u64::from(flags as u32).to_le_bytes());
        how[16..].copy_from_slice(&(libc::RESOLVE_NO_MAGICLINKS | resolve).to_le_bytes());
        let moving = self.fds.hold();
        let fd = pass!(LOOKUP, directory, path, &mut how, 24)?;
        let handle = self.fds.keep(&moving, fd)?;
        drop(moving);
        let flags = pass!(FCNTL, handle.as_raw_fd(), libc::F_GETFL, 0)? as i32;
        match flags & libc::O_PATH {
            0 => Err(Errno::EBADF),
            _ => Ok(handle),
        }
    }

    /// The place that a path names; its last component is not followed.
    pub(super) fn place(&self, directory: RawFd, path: &CStr, resolve: u64) -> SysResult<Place> {
        let (parent, name) = split(path)?;
        let text = CString::new(parent.as_slice()).map_err(|_| Errno::EINVAL)?;
        self.check_before(directory, &text, resolve)?;
        let handle = self.handle(directory, &text, libc::O_DIRECTORY, resolve);
        let handle = handle.map_err(|error| self.error_of(directory, &text, resolve, error))?;
        if !self.access.reads_all() {
            let status = status_of(handle.as_raw_fd())?;
            let right = self.access.decide(handle.as_raw_fd(), &status);
            notes::refused(handle.as_raw_fd(), right.check_seen())?;
        }
        notes::place(handle.as_raw_fd(), &name);
        Ok(Place {
            parent: handle,
            name,
            path: parent,
        })
    }

    /// A handle on what a path leads to, as [`Self::handle`] has it, if that exists for the task; and what it may do
    /// with it.
    pub(super) fn seen(
        &self,
        directory: RawFd,
        path: &CStr,
        flags: i32,
        resolve: u64,
    ) -> SysResult<(OwnedFd, Status, Right)> {
        self.check_before(directory, path, resolve)?;
        let handle = self.handle(directory, path, flags, resolve);
        let handle = handle.map_err(|error| self.error_of(directory, path, resolve, error))?;
        let status = status_of(handle.as_raw_fd())?;
        if let Some(right) = self.access.at_once(&status) {
            notes::refused(handle.as_raw_fd(), right.check_seen())?;
            return Ok((handle, status, right));
        }
        if status.is_directory() {
            let right = self.access.decide(handle.as_raw_fd(), &status);
            notes::refused(handle.as_raw_fd(), right.check_seen())?;
            return Ok((handle, status, right));
        }
        // A file does not know where it is, so it is looked for once more.
        let follow = flags & libc::O_NOFOLLOW == 0;
        let found = self.find(directory, path, follow, resolve)?;
        let right = self.right_of(&found)?;
        right.check_seen()?;
        let (handle, status) = found.object.ok_or(Errno::ENOENT)?;
        Ok((handle, status, right))
    }

    /// What the task may do with what was found, if it is something.
    pub(super) fn right_of(&self, found: &Found) -> SysResult<Right> {
        let parent = found.place.directory();
        if let Some((handle, status)) = &found.object {
            let of_itself = match self.access.at_once(status) {
                Some(right) => Some(right),
                None if status.is_directory() => {
                    Some(self.access.decide(handle.as_raw_fd(), status))
                }
                None => self.access.named(status),
            };
            if let Some(right) = of_itself {
                return Ok(right);
            }
        }
        match self.access.decide(parent, &status_of(parent)?) {
            // Of what is in it, only what has a rule is there.
            Right::Way if found.object.is_some() => Ok(Right::Nothing),
            right => Ok(right),
        }
    }

    /// The place that a path names, if what is there may be changed: made, removed, renamed or linked.
    ///
    /// Whoever acts there acts by the directory's descriptor and the name, and follows no link.
    pub(super) fn place_to_change(&self, directory: RawFd, path: &CStr) -> SysResult<Place> {
        let place = self.place(directory, path, 0)?;
        match self.access.contains(place.directory())? {
            true => Ok(place),
            false => Err(notes::denied(Errno::EROFS)),
        }
    }

    /// Looks at what a path leads to, step by step, so that each link is decided anew; at a link itself
    /// unless `follow`. An error is one on the way; nothing at the end is none.
    pub(super) fn find(
        &self,
        directory: RawFd,
        path: &CStr,
        follow: bool,
        resolve: u64,
    ) -> SysResult<Found> {
        let mut path = path.to_owned();
        for _ in 0..=STEPS {
            let place = self.place(directory, &path, resolve)?;
            let name = place.plain_name();
            let across = resolve & libc::RESOLVE_NO_XDEV;
            let handle = match self.handle(place.directory(), &name, libc::O_NOFOLLOW, across) {
                Ok(handle) => handle,
                Err(Errno::ENOENT) => {
                    let object = None;
                    return Ok(Found { place, object });
                }
                Err(errno) => return Err(errno),
            };
            let status = status_of(handle.as_raw_fd())?;
            // Is it what has this name? If it is, it is where the directory is.
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            match status_at(place.directory(), &name, flags) {
                Ok(again) if again.identity == status.identity => {}
                Ok(_) | Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            }
            if status.is_link() && (follow || place.wants_directory()) {
                if resolve & libc::RESOLVE_NO_SYMLINKS != 0 {
                    return Err(Errno::ELOOP);
                }
                check_link(&place, &handle, &status)?;
                path = behind(&place, &handle)?;
                continue;
            }
            if place.wants_directory() && !status.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            let fd = handle.as_raw_fd();
            let object = Some((handle, status));
            let found = Found { place, object };
            notes::refused(fd, self.right_of(&found)?.check_seen())?;
            return Ok(found);
        }
        Err(Errno::ELOOP)
    }

    /// Whether what was found may be changed.
    pub(super) fn may_change(&self, found: &Found) -> SysResult<bool> {
        let Some((handle, status)) = &found.object else {
            return self.access.contains(found.place.directory());
        };
        if is_kernels(handle.as_raw_fd(), status)? {
            return Ok(false);
        }
        if status.is_directory() {
            return self.access.contains(handle.as_raw_fd());
        }
        Ok(self.access.names(status) || self.access.contains(found.place.directory())?)
    }

    /// A handle on a file that the task may execute, which is not opened yet. Of what it must not see it learns nothing,
    /// whatever that is.
    pub(super) fn executable(&self, path: &Path) -> SysResult<OwnedFd> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)?;
        let (handle, _, right) = self.seen(libc::AT_FDCWD, &path, 0, 0)?;
        notes::refused(handle.as_raw_fd(), right.check_execute())?;
        Ok(handle)
    }
}

/// The path behind a link, from where the path of the link begins.
fn behind(place: &Place, link: &OwnedFd) -> SysResult<CString> {
    let mut target = read_link(link.as_raw_fd(), c"")?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut path = match target.first() {
        Some(b'/') => Vec::new(),
        _ => [&place.path, &b"/"[..]].concat(),
    };
    path.append(&mut target);
    if place.wants_directory() {
        path.push(b'/');
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    CString::new(path).map_err(|_| Errno::EINVAL)
}

/// The user whose rights the broker has.
fn user() -> SysResult<u32> {
    Ok(pass!(GETEUID)? as u32)
}

/// Does for a link that is followed here what `fs.protected_symlinks` makes the kernel do: in a directory where
/// everybody may make names, only one's own and the directory's owner's are followed. Those of `/proc` are not.
fn check_link(place: &Place, handle: &OwnedFd, link: &Status) -> SysResult<()> {
    if file_system(handle.as_raw_fd(), link)? == Some(PROC) {
        // Its text is not what it leads to.
        return Err(Errno::ELOOP);
    }
    let parent = status_of(place.directory())?;
    let shared = libc::S_ISVTX | libc::S_IWOTH;
    let foreign = link.uid != user()? && link.uid != parent.uid;
    match parent.mode & shared == shared && foreign {
        true => Err(Errno::EACCES),
        false => Ok(()),
    }
}

/// Does for a file that is there, and is opened with `O_CREAT`, what `fs.protected_regular` and
/// `fs.protected_fifos` make the kernel do.
pub(super) fn check_existing(place: &Place, file: &Status) -> SysResult<()> {
    let parent = status_of(place.directory())?;
    let shared =
        parent.mode & libc::S_ISVTX != 0 && parent.mode & (libc::S_IWOTH | libc::S_IWGRP) != 0;
    let foreign = file.uid != user()? && file.uid != parent.uid;
    match shared && foreign && matches!(file.kind(), libc::S_IFREG | libc::S_IFIFO) {
        true => Err(Errno::EACCES),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_special_paths() {
        for (path, meaning) in [
            (c"/dev/stdin", Some(Special::Fd(0))),
            (c"//dev/./fd//7", Some(Special::Fd(7))),
            (c"/proc/self/fd/3", Some(Special::Fd(3))),
            (c"/proc/42/fd/3", Some(Special::Fd(3))),
            (c"/proc/43/fd/3", None),
            (c"/proc/self/exe", Some(Special::Program)),
            (c"/proc/thread-self/exe", Some(Special::Program)),
            (c"/proc/self/fd/x", None),
            (c"/proc/self/maps", None),
            (c"/dev/uvisor-checkpoint", Some(Special::Checkpoint)),
            (c"/dev/../dev/stdin", None),
            (c"dev/stdin", None),
            (c"/", None),
            (c"", None),
        ] {
            assert_eq!(special(path, 42), meaning, "{path:?}");
        }
    }

    #[test]
    fn paths_are_divided_as_the_kernel_does() {
        for (path, parent, name) in [
            (c"a", ".", "a"),
            (c"a/b", "a/", "b"),
            (c"a//b//", "a//", "b/"),
            (c"/a", "/", "a"),
            (c"/a/", "/", "a/"),
            (c"///", "/", "."),
            (c"a/..", "a/..", "."),
            (c"..", "..", "."),
            (c"./", ".", "./"),
            (c"a/...", "a/", "..."),
        ] {
            let (directory, last) = split(path).unwrap();
            assert_eq!(directory, parent.as_bytes(), "{path:?}");
            assert_eq!(last.as_bytes(), name.as_bytes(), "{path:?}");
        }
        assert_eq!(split(c""), Err(Errno::ENOENT));
    }
}
