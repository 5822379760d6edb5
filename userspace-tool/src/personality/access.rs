// SPDX-License-Identifier: GPL-2.0

//! Which files there are for a task, and what it may do with them.
//!
//! What decides is where a file *is*, never what it was called: the nearest directory above it that a rule is
//! about, found by going up by `..`. Directories are recognised by device and inode, and held open so that
//! these numbers stay theirs. What this withstands:
//!
//! * Links, `..`, magic links and mounts in a path: they are resolved before, to a descriptor; only where
//!   that is counts. A bind mount below a directory is below it, whatever it shows. A directory of a rule
//!   that is mounted elsewhere as well is the same directory there.
//! * A directory of a rule that is moved keeps it, and what comes to be at its old name does not have it.
//! * A directory moved by another thread or process of the task between check and use: the task can only
//!   move what it may change, and only to where it may change files, so what could be changed still can be. For
//!   the same reason a directory that is outside cannot get in, and nothing above it can be moved, while it is being
//!   asked about; so "yes" is certain. "No" may come from a move within the tree, and is asked for again.
//! * Hard links: making one needs both directories inside, so none leads from inside to what was outside.
//!   Those that were there before are names of one file, which is where it was found.
//!
//! What somebody else than the task moves out of a tree may be used for as long as one system call
//! takes that had been decided before.
//!
//! A mount whose root a rule is about, and no other rule has to do with, is a tree by itself: what is on it is below
//! that root. So nobody needs to go up there, which makes the mounts of a sandbox cheap; but nothing depends on them.
//!
//! Nothing is changed in the kernel's own trees even where a directory above them may be changed. `/dev/shm` and the
//! like can be allowed by their own name, as the nearest directory decides.

mod build;

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

pub use build::AccessError;

use super::kernels::is_kernels;
use super::links::path_of;
use super::status::{status_at, status_of, Identity, Status};
use super::Fds;
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::profile::{Device, FileAccess, Rules, Write};

/// How far up a directory's ancestors are looked at: a path of the kernel's has no more `..`.
const DEPTH: usize = 1300;

/// How often a refusal is asked for, since the tree may be moving: a walk on its way up meets one move in three
/// where another thread does nothing else.
const ATTEMPTS: usize = 8;

/// What a task may do with a file, or with what is in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// It does not exist.
    Nothing,
    /// A directory that leads to something: it can be gone through and looked at, not into.
    Way,
    /// It may be read.
    Read {
        /// And executed, or mapped to be.
        execute: bool,
        /// And changed.
        change: bool,
    },
}

/// What is read, and no more.
const LOOKED_AT: Right = Right::Read {
    execute: false,
    change: false,
};

impl Right {
    /// What a rule gives; `jit` is whether the task may execute what it wrote, and `assembled` as [`Access::new`] has it.
    fn of(access: FileAccess, jit: bool, assembled: bool) -> Self {
        match access {
            FileAccess::Hidden => Self::Nothing,
            // The host's directory is not what was meant.
            FileAccess::Tmpfs if !assembled => Self::Nothing,
            FileAccess::Tmpfs => Self::Read {
                execute: access.executes(jit),
                change: true,
            },
            FileAccess::Host { write, .. } => Self::Read {
                execute: access.executes(jit),
                change: write != Write::No,
            },
        }
    }

    /// The same, but that nothing is changed.
    fn unchanged(self) -> Self {
        match self {
            Self::Read { execute, .. } => Self::Read {
                execute,
                change: false,
            },
            other => other,
        }
    }

    fn changes(self) -> bool {
        matches!(self, Self::Read { change: true, .. })
    }

    /// An error for what does not exist.
    pub(super) fn check_seen(self) -> SysResult<()> {
        match self {
            Self::Nothing => Err(Errno::ENOENT),
            Self::Way | Self::Read { .. } => Ok(()),
        }
    }

    /// An error for what cannot be read.
    pub(super) fn check_read(self) -> SysResult<()> {
        match self {
            Self::Nothing => Err(Errno::ENOENT),
            Self::Way => Err(Errno::EACCES),
            Self::Read { .. } => Ok(()),
        }
    }

    /// An error for what cannot be executed.
    pub(super) fn check_execute(self) -> SysResult<()> {
        match self {
            Self::Nothing => Err(Errno::ENOENT),
            Self::Read { execute: true, .. } => Ok(()),
            Self::Way | Self::Read { .. } => Err(Errno::EACCES),
        }
    }
}

/// A file or directory that a rule is about.
#[derive(Debug)]
struct Root {
    identity: Identity,
    /// The mount that it is the root of, if no other rule is about something there.
    mount: Option<u64>,
    right: Right,
    /// Keeps the identity from being given to another file.
    handle: OwnedFd,
}

/// The files that there are for a task, and what it may do with them. By default none.
#[derive(Debug, Default)]
pub struct Access {
    roots: Vec<Root>,
    /// The directories above those.
    ways: Vec<Identity>,
    /// What holds everywhere, but for changes: known if there are no rules that give less than the one of `/`.
    everywhere: Option<Right>,
    /// The kernel's own directories.
    closed: Vec<Identity>,
    /// System calls that are refused, a bit each.
    refused: [u64; 8],
    /// The programs that may be started, if that is said; nothing else is asked of this.
    programs: Option<Box<Self>>,
    rules: Arc<Rules>,
    assembled: bool,
}

impl Access {
    /// Limits the descriptors of a task.
    pub(crate) fn limit(&self, fds: &Fds) -> SysResult<()> {
        match self.rules.limits.fds {
            Some(limit) => fds.lower(u64::from(limit).min(fds.rlimit().0)),
            None => Ok(()),
        }
    }

    /// The same, with the broker's own descriptors.
    pub(crate) fn keep(&self, fds: &Fds) -> SysResult<Self> {
        let keep = |root: &Root| {
            Ok(Root {
                handle: fds.own(root.handle.as_fd())?,
                ..*root
            })
        };
        let programs = self.programs.as_ref().map(|programs| programs.keep(fds));
        Ok(Self {
            roots: self.roots.iter().map(keep).collect::<SysResult<_>>()?,
            programs: programs.transpose()?.map(Box::new),
            ways: self.ways.clone(),
            closed: self.closed.clone(),
            rules: Arc::clone(&self.rules),
            ..*self
        })
    }

    /// The directories below which sockets may be made: of the highest one, which has the kernel's own in it, those
    /// that are there now and are not the kernel's.
    pub(super) fn directories(&self) -> SysResult<Vec<OwnedFd>> {
        let mut directories = Vec::new();
        for root in self.roots.iter().filter(|root| root.right.changes()) {
            let status = status_of(root.handle.as_raw_fd())?;
            if !status.is_directory() {
                continue;
            }
            let parent = status_at(root.handle.as_raw_fd(), c"..", 0)?;
            if (parent.identity, parent.mount) != (status.identity, status.mount) {
                directories.push(root.handle.try_clone()?);
                continue;
            }
            for entry in std::fs::read_dir("/")? {
                // What has gone meanwhile, or cannot be looked into, is not missed.
                let Ok(name) = CString::new(entry?.path().into_os_string().as_bytes()) else {
                    continue;
                };
                let flags = libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW;
                let Ok(fd) = pass!(OPENAT, libc::AT_FDCWD, &*name, flags, 0) else {
                    continue;
                };
                let directory = crate::device::new_fd(fd as RawFd);
                let status = status_of(directory.as_raw_fd())?;
                let kernels = self.closed.contains(&status.identity)
                    || is_kernels(directory.as_raw_fd(), &status)?;
                if !kernels {
                    directories.push(directory);
                }
            }
        }
        Ok(directories)
    }

    /// The descriptors, which all processes of the task have.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let programs = self.programs.iter().flat_map(|programs| &programs.roots);
        let roots = self.roots.iter().chain(programs);
        roots.map(|root| root.handle.as_raw_fd())
    }

    /// What says which programs may be started, if that is not all that may be executed.
    pub(super) fn programs(&self) -> Option<&Self> {
        self.programs.as_deref()
    }

    /// Whether all files may be read.
    pub(super) fn reads_all(&self) -> bool {
        matches!(self.everywhere, Some(Right::Read { .. }))
    }

    /// Whether what is between the files of the rules has nothing of the host's in it.
    pub(super) fn is_assembled(&self) -> bool {
        self.assembled
    }

    /// Whether all files may be executed.
    pub(super) fn executes_all(&self) -> bool {
        matches!(self.everywhere, Some(Right::Read { execute: true, .. }))
    }

    /// The rules.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether the task has a device.
    pub(super) fn has_device(&self, device: Device) -> bool {
        self.rules.devices.contains(&device)
    }

    /// Whether a system call is refused by a rule.
    pub(super) fn refuses(&self, number: u64) -> bool {
        let word = usize::try_from(number / 64)
            .ok()
            .and_then(|word| self.refused.get(word));
        word.is_some_and(|word| word >> (number % 64) & 1 != 0)
    }

    /// What there is to say of a file without knowing its directory, if it is something; not whether it may be changed
    /// where `everywhere` is known.
    pub(super) fn at_once(&self, file: &Status) -> Option<Right> {
        if let Some(device) = file.device() {
            return Some(match self.has_device(device) {
                true => LOOKED_AT,
                false => Right::Nothing,
            });
        }
        self.everywhere.or_else(|| self.by_mount(file))
    }

    /// What the root of the mount gives that a file is on.
    fn by_mount(&self, file: &Status) -> Option<Right> {
        let mut roots = self.roots.iter();
        let found = roots.find(|root| file.is_mount_unique && root.mount == Some(file.mount))?;
        Some(found.right)
    }

    /// What is said of this very file, under any name.
    pub(super) fn named(&self, file: &Status) -> Option<Right> {
        let mut roots = self.roots.iter();
        let found = roots.find(|root| root.identity == file.identity)?;
        Some(found.right)
    }

    /// Refuses to have this file removed, renamed or linked because a rule is about it, or about something below it, that
    /// gives less than those around it: as what is mounted, it stays where it is.
    pub(super) fn check_free(&self, directory: RawFd, name: &CStr) -> SysResult<()> {
        let Ok(status) = status_at(directory, name, libc::AT_SYMLINK_NOFOLLOW) else {
            // What is not there is for the call itself to say.
            return Ok(());
        };
        let fixed = self.named(&status).is_some_and(|right| !right.changes());
        match fixed || status.is_directory() && self.leads_to_fixed(&status) {
            true => Err(Errno::EBUSY),
            false => Ok(()),
        }
    }

    /// Whether a directory is above something that stays where it is, which would move along.
    ///
    /// Where that is now the kernel says, by a path that no thread of the task's can change meanwhile: all that it
    /// leads over stays where it is, too.
    fn leads_to_fixed(&self, directory: &Status) -> bool {
        let mut fixed = self.roots.iter().filter(|root| !root.right.changes());
        fixed.any(|root| {
            let Ok(path) = path_of(root.handle.as_raw_fd()) else {
                // It cannot be said of any.
                return true;
            };
            let above = Path::new(OsStr::from_bytes(&path)).ancestors().skip(1);
            above.into_iter().any(|above| {
                let path = CString::new(above.as_os_str().as_bytes());
                let status = path.map(|path| status_at(libc::AT_FDCWD, &path, 0));
                matches!(status, Ok(Ok(status)) if status.identity == directory.identity)
            })
        })
    }

    /// Whether this file may be changed under any name.
    pub(super) fn names(&self, file: &Status) -> bool {
        self.named(file).is_some_and(Right::changes)
    }

    /// Whether what is in a directory may be changed, and the directory itself; `directory` must be the broker's
    /// own, so that it is the same one afterwards.
    pub(super) fn contains(&self, directory: RawFd) -> SysResult<bool> {
        if !self.roots.iter().any(|root| root.right.changes()) {
            return Ok(false);
        }
        let status = status_of(directory)?;
        if is_kernels(directory, &status)? {
            return Ok(false);
        }
        let by_mount = self.by_mount(&status).map(Right::changes);
        let inside = || (0..ATTEMPTS).any(|_| self.above(directory).changes());
        Ok(by_mount.unwrap_or_else(inside))
    }

    /// What a task may do with a directory, and with what is in it and has no rule of its own; `directory` must be
    /// the broker's own, so that it is the same one afterwards.
    pub(super) fn decide(&self, directory: RawFd, status: &Status) -> Right {
        if let Some(right) = self.at_once(status) {
            return right;
        }
        let mut rights = (0..ATTEMPTS).map(|_| self.above(directory));
        match rights.find(|right| *right != Right::Nothing) {
            Some(right) => right,
            None if self.ways.contains(&status.identity) => Right::Way,
            None => Right::Nothing,
        }
    }

    /// Goes up from a directory until the answer is known; what cannot be known is "no".
    ///
    /// Each step is a path from the directory itself. Opening one ancestor after the other would give them numbers
    /// of the guest's for a moment, in which another of its threads could exchange them.
    fn above(&self, directory: RawFd) -> Right {
        let mut path = b".".to_vec();
        let mut below = None;
        let mut closed = false;
        for _ in 0..DEPTH {
            let Ok(here) = CString::new(path.as_slice())
                .map_err(|_| Errno::EINVAL)
                .and_then(|path| status_at(directory, &path, 0))
            else {
                return Right::Nothing;
            };
            closed |= self.closed.contains(&here.identity);
            if let Some(right) = self.named(&here) {
                return match closed {
                    true => right.unchanged(),
                    false => right,
                };
            }
            // Only the highest directory is its own parent. One that is mounted within itself is not.
            let place = Some((here.identity, here.mount));
            if below == place {
                return Right::Nothing;
            }
            below = place;
            path.extend_from_slice(b"/..");
        }
        Right::Nothing
    }
}
