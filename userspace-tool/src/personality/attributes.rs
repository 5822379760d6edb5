// SPDX-License-Identifier: GPL-2.0

//! What a file has besides its name: mode, owner, times, length and extended attributes.
//!
//! A file that is to be changed is found first; what changes it is pointed at the descriptor of exactly that
//! file.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::files::directory_for;
use super::links::link_to;
use super::open::check_mode;
use super::paths::{special, Scope, Special};
use super::status::{status_of, Status};
use super::{terminals, Args};
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

const CWD: u64 = libc::AT_FDCWD as u64;

/// Most bytes of an extended attribute's name, with its NUL.
const XATTR_NAME: usize = 256;

/// Most bytes of an extended attribute's value.
const XATTR_SIZE: u64 = 65536;

/// Follow no link at the end of a path.
const NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

/// The flags of calls that look at, or change, what is at a path.
const FLAGS: i32 = NOFOLLOW | libc::AT_EMPTY_PATH;

/// A file that may be changed.
pub(super) struct Subject {
    /// A descriptor of the broker's own.
    pub(super) fd: OwnedFd,
    pub(super) status: Status,
}

impl Subject {
    fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Scope<'_> {
    /// What is at a path, if it may be changed.
    pub(super) fn subject(&self, directory: RawFd, path: &CStr, flags: i32) -> SysResult<Subject> {
        if flags & !FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & NOFOLLOW == 0;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            return match directory {
                libc::AT_FDCWD => self.subject(directory, c".", flags),
                fd => self.open_subject(fd),
            };
        }
        let (directory, path) = match special(path, crate::process::id()).filter(|_| follow) {
            Some(Special::Fd(fd)) => return self.open_subject(self.fds.open(fd)?),
            Some(Special::Checkpoint) => return Err(Errno::EROFS),
            Some(Special::Program) => (libc::AT_FDCWD, self.program),
            None => (directory, path),
        };
        let found = self.find(directory, path, follow, 0)?;
        if found.object.is_some() && !self.may_change(&found)? {
            return Err(notes::denied(Errno::EROFS));
        }
        let (fd, status) = found.object.ok_or(Errno::ENOENT)?;
        match status.kind() {
            // Devices are not the task's, wherever they are.
            libc::S_IFCHR | libc::S_IFBLK => Err(notes::denied(Errno::EROFS)),
            _ => Ok(Subject { fd, status }),
        }
    }

    /// The file that the guest has open, if it may be changed.
    fn open_subject(&self, fd: RawFd) -> SysResult<Subject> {
        let fd = self.fds.duplicate(fd)?;
        let status = status_of(fd.as_raw_fd())?;
        notes::file(fd.as_raw_fd());
        match self.may_change_open(fd.as_raw_fd(), &status)? {
            true => Ok(Subject { fd, status }),
            false => Err(notes::denied(Errno::EROFS)),
        }
    }

    /// The same for calls that take a descriptor only, and none of a mere path.
    pub(super) fn descriptor_subject(&self, fd: u64) -> SysResult<Subject> {
        let fd = self.fds.guest(fd)?;
        let flags = pass!(FCNTL, fd, libc::F_GETFL, 0)? as i32;
        match flags & libc::O_PATH {
            0 => self.open_subject(fd),
            _ => Err(Errno::EBADF),
        }
    }

    /// A handle on what is at a path, to look at.
    pub(super) fn look(&self, directory: RawFd, path: &CStr, flags: i32) -> SysResult<OwnedFd> {
        if flags & !FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let follow = flags & NOFOLLOW == 0;
        if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 && directory != libc::AT_FDCWD {
            return self.fds.duplicate(directory);
        }
        let path = match path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
            true => c".",
            false => path,
        };
        let meaning = special(path, crate::process::id()).filter(|_| follow);
        let meaning = meaning.or_else(|| terminals::opened(self.fds, path).map(Special::Fd));
        let path = match meaning {
            Some(Special::Fd(fd)) => return self.fds.duplicate(self.fds.open(fd)?),
            Some(Special::Checkpoint) => super::open::CHECKPOINT_LIKE,
            Some(Special::Program) => self.program,
            None => path,
        };
        let flags = if follow { 0 } else { libc::O_NOFOLLOW };
        let (handle, ..) = self.seen(directory, path, flags, 0)?;
        Ok(handle)
    }
}

/// Sets the mode of a file. Directories may be made to hand their group down; no file may be made to give
/// its owner's or group's rights to who executes it, which would be outside of the micro-VM.
pub(super) fn set_mode(file: &Subject, mode: u32) -> SysResult {
    if !file.status.is_directory() {
        check_mode(mode)?;
    }
    let (mode, flags) = (u64::from(mode), libc::AT_EMPTY_PATH);
    pass!(FCHMODAT2, file.raw(), c"", mode, flags)
}

/// Sets the owner of a file: to what it is. A task does not give files away.
pub(super) fn set_owner(file: &Subject, uid: u32, gid: u32) -> SysResult {
    let same = |new: u32, old: u32| new == u32::MAX || new == old;
    if !same(uid, file.status.uid) || !same(gid, file.status.gid) {
        return Err(Errno::EPERM);
    }
    let (uid, gid) = (u64::from(uid), u64::from(gid));
    pass!(FCHOWNAT, file.raw(), c"", uid, gid, libc::AT_EMPTY_PATH)
}

/// Sets the times of a file; `None` stands for now.
pub(super) fn set_times(file: &Subject, mut times: Option<[u8; 32]>) -> SysResult {
    let flags = libc::AT_EMPTY_PATH;
    pass!(UTIMENSAT, file.raw(), c"", &mut times, flags)
}

/// Sets the length of a file.
pub(super) fn set_length(file: &Subject, length: u64) -> SysResult {
    match file.status.kind() {
        libc::S_IFREG if file.status.gives_rights() => Err(Errno::EPERM),
        libc::S_IFREG => pass!(TRUNCATE, &*link_to(file.raw()), length),
        libc::S_IFDIR => Err(Errno::EISDIR),
        _ => Err(Errno::EINVAL),
    }
}

/// Refuses an extended attribute that is not the user's own affair.
pub(super) fn check_attribute(name: &CStr) -> SysResult<()> {
    let is = |class: &[u8]| name.to_bytes().starts_with(class);
    if is(b"user.") {
        Ok(())
    } else if is(b"security.") || is(b"trusted.") {
        Err(Errno::EPERM)
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}

/// Copies a path and finds what is there, if it may be changed. A null path means the descriptor itself in
/// calls that allow that.
fn subject(task: &Task, directory: u64, path: u64, flags: i32) -> SysResult<Subject> {
    let path = match path {
        0 if flags & libc::AT_EMPTY_PATH != 0 => CString::default(),
        _ => task.memory.path(path)?,
    };
    let directory = directory_for(task, directory, &path)?;
    task.scope().subject(directory, &path, flags)
}

pub(super) fn chmod(task: &mut Task, [path, mode, ..]: Args) -> SysResult {
    fchmodat2(task, [CWD, path, mode, 0, 0, 0])
}

pub(super) fn fchmod(task: &mut Task, [fd, mode, ..]: Args) -> SysResult {
    set_mode(&task.scope().descriptor_subject(fd)?, mode as u32)
}

pub(super) fn fchmodat(task: &mut Task, [directory, path, mode, ..]: Args) -> SysResult {
    fchmodat2(task, [directory, path, mode, 0, 0, 0])
}

pub(super) fn fchmodat2(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, mode, flags, ..] = args;
    set_mode(&subject(task, directory, path, flags as i32)?, mode as u32)
}

pub(super) fn chown(task: &mut Task, [path, uid, gid, ..]: Args) -> SysResult {
    fchownat(task, [CWD, path, uid, gid, 0, 0])
}

pub(super) fn lchown(task: &mut Task, [path, uid, gid, ..]: Args) -> SysResult {
    fchownat(task, [CWD, path, uid, gid, NOFOLLOW as u64, 0])
}

pub(super) fn fchown(task: &mut Task, [fd, uid, gid, ..]: Args) -> SysResult {
    let file = task.scope().descriptor_subject(fd)?;
    set_owner(&file, uid as u32, gid as u32)
}

pub(super) fn fchownat(task: &mut Task, [directory, path, uid, gid, flags, _]: Args) -> SysResult {
    let file = subject(task, directory, path, flags as i32)?;
    set_owner(&file, uid as u32, gid as u32)
}

pub(super) fn utimensat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, times, flags, ..] = args;
    let times = task.memory.read_optional::<32>(times)?;
    let file = match path {
        // The descriptor itself.
        0 if directory as i32 == libc::AT_FDCWD => return Err(Errno::EFAULT),
        0 if flags as i32 != 0 => return Err(Errno::EINVAL),
        0 => task.scope().descriptor_subject(directory)?,
        _ => subject(task, directory, path, flags as i32)?,
    };
    set_times(&file, times)
}

/// Seconds and nanoseconds, twice.
fn timespecs(times: [(u64, u64); 2]) -> [u8; 32] {
    let mut bytes = [0; 32];
    let words = times.into_iter().flat_map(|(s, ns)| [s, ns]);
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Times in seconds and microseconds as those with nanoseconds.
pub(super) fn from_timevals(bytes: &[u8; 32]) -> SysResult<[u8; 32]> {
    let time = |at| match word(bytes, at + 8) {
        micros @ 0..=999_999 => Ok((word(bytes, at), micros * 1000)),
        _ => Err(Errno::EINVAL),
    };
    Ok(timespecs([time(0)?, time(16)?]))
}

pub(super) fn utime(task: &mut Task, [path, times, ..]: Args) -> SysResult {
    let times = task.memory.read_optional::<16>(times)?;
    let times = times.map(|times| timespecs([(word(&times, 0), 0), (word(&times, 8), 0)]));
    set_times(&subject(task, CWD, path, 0)?, times)
}

pub(super) fn utimes(task: &mut Task, [path, times, ..]: Args) -> SysResult {
    futimesat(task, [CWD, path, times, 0, 0, 0])
}

pub(super) fn futimesat(task: &mut Task, [directory, path, times, ..]: Args) -> SysResult {
    let times = match task.memory.read_optional::<32>(times)? {
        Some(times) => Some(from_timevals(&times)?),
        None => None,
    };
    let file = match path {
        0 if directory as i32 != libc::AT_FDCWD => task.scope().descriptor_subject(directory)?,
        _ => subject(task, directory, path, 0)?,
    };
    set_times(&file, times)
}

pub(super) fn truncate(task: &mut Task, [path, length, ..]: Args) -> SysResult {
    if (length as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    set_length(&subject(task, CWD, path, 0)?, length)
}

/// Copies the name of an extended attribute.
fn attribute(task: &Task, name: u64) -> SysResult<CString> {
    let name = task.memory.text(name, XATTR_NAME, Errno::ERANGE)?;
    match name.is_empty() {
        true => Err(Errno::ERANGE),
        false => Ok(name),
    }
}

/// What an `*xattr` call is about: a path, or a descriptor.
enum Which {
    Path(u64, u64, i32),
    Fd(u64),
}

impl Which {
    fn subject(&self, task: &Task) -> SysResult<Subject> {
        match *self {
            Self::Path(directory, path, flags) => subject(task, directory, path, flags),
            Self::Fd(fd) => task.scope().descriptor_subject(fd),
        }
    }

    /// The path of a handle on it, to look at, and that handle.
    fn look(&self, task: &Task) -> SysResult<(CString, OwnedFd)> {
        let handle = match *self {
            Self::Fd(fd) => {
                let fd = task.scope().fds.guest(fd)?;
                let flags = pass!(FCNTL, fd, libc::F_GETFL, 0)? as i32;
                if flags & libc::O_PATH != 0 {
                    return Err(Errno::EBADF);
                }
                task.scope().fds.duplicate(fd)?
            }
            Self::Path(directory, path, flags) => {
                let path = match path {
                    0 if flags & libc::AT_EMPTY_PATH != 0 => CString::default(),
                    _ => task.memory.path(path)?,
                };
                let directory = directory_for(task, directory, &path)?;
                task.scope().look(directory, &path, flags)?
            }
        };
        Ok((link_to(handle.as_raw_fd()), handle))
    }
}

/// Sets an extended attribute.
fn set(task: &Task, which: &Which, name: u64, (value, size): (u64, u64), flags: u64) -> SysResult {
    let name = attribute(task, name)?;
    if size > XATTR_SIZE {
        return Err(Errno::E2BIG);
    }
    let value = task.memory.range(value, size as usize)?;
    let file = which.subject(task)?;
    check_attribute(&name)?;
    let path = link_to(file.raw());
    pass!(SETXATTR, &*path, &*name, value, size, flags as u32 as u64)
}

fn get(task: &Task, which: &Which, name: u64, (value, size): (u64, u64)) -> SysResult {
    let name = attribute(task, name)?;
    let (value, size) = task.memory.buffer(value, size)?;
    let (path, _handle) = which.look(task)?;
    pass!(GETXATTR, &*path, &*name, value, size)
}

fn list(task: &Task, which: &Which, names: u64, size: u64) -> SysResult {
    let (names, size) = task.memory.buffer(names, size)?;
    let (path, _handle) = which.look(task)?;
    pass!(LISTXATTR, &*path, names, size)
}

fn remove(task: &Task, which: &Which, name: u64) -> SysResult {
    let name = attribute(task, name)?;
    let file = which.subject(task)?;
    check_attribute(&name)?;
    pass!(REMOVEXATTR, &*link_to(file.raw()), &*name)
}

pub(super) fn setxattr(task: &mut Task, [path, name, value, size, flags, _]: Args) -> SysResult {
    set(task, &Which::Path(CWD, path, 0), name, (value, size), flags)
}

pub(super) fn lsetxattr(task: &mut Task, [path, name, value, size, flags, _]: Args) -> SysResult {
    let which = Which::Path(CWD, path, NOFOLLOW);
    set(task, &which, name, (value, size), flags)
}

pub(super) fn fsetxattr(task: &mut Task, [fd, name, value, size, flags, _]: Args) -> SysResult {
    set(task, &Which::Fd(fd), name, (value, size), flags)
}

/// The structure of `setxattrat` and `getxattrat`: where the value is, its size, and flags.
fn at_arguments(task: &Task, address: u64, size: u64) -> SysResult<((u64, u64), u64)> {
    let bytes = task.memory.structure::<16>(address, size)?;
    let size = u64::from(word32(&bytes, 8));
    Ok(((word(&bytes, 0), size), u64::from(word32(&bytes, 12))))
}

pub(super) fn setxattrat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, at, name, arguments, size] = args;
    let (value, flags) = at_arguments(task, arguments, size)?;
    let which = Which::Path(directory, path, at as i32);
    set(task, &which, name, value, flags)
}

pub(super) fn getxattr(task: &mut Task, [path, name, value, size, ..]: Args) -> SysResult {
    get(task, &Which::Path(CWD, path, 0), name, (value, size))
}

pub(super) fn lgetxattr(task: &mut Task, [path, name, value, size, ..]: Args) -> SysResult {
    get(task, &Which::Path(CWD, path, NOFOLLOW), name, (value, size))
}

pub(super) fn fgetxattr(task: &mut Task, [fd, name, value, size, ..]: Args) -> SysResult {
    get(task, &Which::Fd(fd), name, (value, size))
}

pub(super) fn getxattrat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, at, name, arguments, size] = args;
    let (value, flags) = at_arguments(task, arguments, size)?;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    get(task, &Which::Path(directory, path, at as i32), name, value)
}

pub(super) fn listxattr(task: &mut Task, [path, names, size, ..]: Args) -> SysResult {
    list(task, &Which::Path(CWD, path, 0), names, size)
}

pub(super) fn llistxattr(task: &mut Task, [path, names, size, ..]: Args) -> SysResult {
    list(task, &Which::Path(CWD, path, NOFOLLOW), names, size)
}

pub(super) fn flistxattr(task: &mut Task, [fd, names, size, ..]: Args) -> SysResult {
    list(task, &Which::Fd(fd), names, size)
}

pub(super) fn listxattrat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, at, names, size, _] = args;
    let which = Which::Path(directory, path, at as i32);
    list(task, &which, names, size)
}

pub(super) fn removexattr(task: &mut Task, [path, name, ..]: Args) -> SysResult {
    remove(task, &Which::Path(CWD, path, 0), name)
}

pub(super) fn lremovexattr(task: &mut Task, [path, name, ..]: Args) -> SysResult {
    remove(task, &Which::Path(CWD, path, NOFOLLOW), name)
}

pub(super) fn fremovexattr(task: &mut Task, [fd, name, ..]: Args) -> SysResult {
    remove(task, &Which::Fd(fd), name)
}

pub(super) fn removexattrat(task: &mut Task, [directory, path, at, name, ..]: Args) -> SysResult {
    remove(task, &Which::Path(directory, path, at as i32), name)
}

/// The size of `struct file_attr`, all versions of which begin so.
const FILE_ATTR: u64 = 24;

pub(super) fn file_getattr(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, attributes, size, flags, _] = args;
    match size {
        0..FILE_ATTR => return Err(Errno::EINVAL),
        FILE_ATTR..=4096 => {}
        _ => return Err(Errno::E2BIG),
    }
    let which = Which::Path(directory, path, flags as i32);
    // The call takes no descriptor that is but a place, as this handle is.
    let (link, _handle) = which.look(task)?;
    let mut bytes = vec![0; size as usize];
    let (here, link) = (libc::AT_FDCWD, link.as_c_str());
    pass!(FILE_GETATTR, here, link, bytes.as_mut_slice(), FILE_ATTR, 0)?;
    task.memory.write(attributes, &bytes)?;
    Ok(0)
}
