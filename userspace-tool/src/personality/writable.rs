// SPDX-License-Identifier: GPL-2.0

//! Where a task may change files.
//!
//! What decides is where a file *is*, never what it was called: a directory is inside if going up from it
//! by `..` comes to one of the allowed ones, which are recognised by device and inode, and held open so that
//! these numbers stay theirs. What this withstands:
//!
//! * Links, `..`, magic links and mounts in a path: they are resolved before, to a descriptor; only where
//!   that is counts. A bind mount below an allowed directory is below it, whatever it shows. An allowed
//!   directory that is mounted elsewhere as well is the same directory there.
//! * An allowed directory that is moved stays allowed, and what comes to be at its old name is not.
//! * A directory moved by another thread or process of the task between check and use: the task can only
//!   move what is inside, and only to inside, so what was inside stays inside. For the same reason a
//!   directory that is outside cannot get in, and nothing above it can be moved, while it is being asked
//!   about; so "yes" is certain. "No" may come from a move within the tree, and is asked for again.
//! * Hard links: making one needs both directories inside, so none leads from inside to what was outside.
//!   Those that were there before are names of one file, which is inside.
//!
//! What somebody else than the task moves out of the tree, may be changed for as long as one system call
//! takes that had been decided before.
//!
//! The kernel's own trees are outside even where a directory above them is allowed. `/dev/shm` and the like
//! can be allowed by their own name, as the nearest directory decides.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::status::{status_at, status_of, Identity, Status};
use super::Fds;
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;

/// Directories in which nothing is changed, with all below them.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

/// File systems through which the kernel is asked and told things: nothing is changed on them, wherever they
/// are mounted.
const KERNEL_FILE_SYSTEMS: [u64; 27] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0xcafe_4a11, // bpf
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0x6265_6570, // configfs
    0x6165_676c, // pstorefs
    0xde5e_81e4, // efivarfs
    0x0765_5821, // resctrl
    0x1cd1,      // devpts
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0x0187,      // autofs
    0x6c6f_6f70, // binderfs
    0xabba_1974, // xenfs
    0x454d_444d, // devmem
    0x6e66_7364, // nfsd
    0x6759_6969, // rpc_pipefs
    0x0a64_7361, // functionfs
];

/// How far up a directory's ancestors are looked at: a path of the kernel's has no more `..`.
const DEPTH: usize = 1300;

/// How often a refusal is asked for, since the tree may be moving: a walk on its way up meets one move in three
/// where another thread does nothing else.
const ATTEMPTS: usize = 8;

/// Why a path cannot be allowed.
#[derive(Debug, Error)]
pub enum AccessError {
    /// It cannot be looked at.
    #[error("a task cannot be let change {}: {errno}", path.display())]
    Look {
        /// The path.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// It is something else.
    #[error("a task cannot be let change {}: it is neither a file nor a directory", .0.display())]
    Kind(PathBuf),
    /// It is not the user's to give.
    #[error("a task cannot be let change {}: that is the kernel's", .0.display())]
    Kernel(PathBuf),
}

/// A file or directory that a task may change.
#[derive(Debug)]
struct Root {
    identity: Identity,
    /// Keeps the identity from being given to another file.
    handle: OwnedFd,
}

/// The files that a task may change: some files, and some directories with all below them. By default none.
#[derive(Debug, Default)]
pub struct Access {
    roots: Vec<Root>,
    /// The kernel's own directories.
    closed: Vec<Identity>,
}

impl Access {
    /// Lets a task change the files at `paths`, and what is below them.
    pub fn new<P: AsRef<Path>>(paths: &[P]) -> Result<Self, AccessError> {
        let identity = |path: &&str| {
            let path = CString::new(*path).ok()?;
            Some(status_at(libc::AT_FDCWD, &path, 0).ok()?.identity)
        };
        let mut access = Self {
            roots: Vec::new(),
            closed: KERNELS.iter().filter_map(identity).collect(),
        };
        for path in paths {
            let root = access.root(path.as_ref())?;
            access.roots.push(root);
        }
        Ok(access)
    }

    fn root(&self, path: &Path) -> Result<Root, AccessError> {
        let look = |errno| AccessError::Look {
            path: path.into(),
            errno,
        };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| look(Errno::EINVAL))?;
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let fd = pass!(OPENAT, libc::AT_FDCWD, &*name, flags, 0).map_err(look)?;
        let handle = crate::device::new_fd(fd as RawFd);
        let status = status_of(handle.as_raw_fd()).map_err(look)?;
        if !matches!(status.kind(), libc::S_IFREG | libc::S_IFDIR) {
            return Err(AccessError::Kind(path.into()));
        }
        let kernel = self.closed.contains(&status.identity)
            || is_kernels(handle.as_raw_fd(), &status).map_err(look)?;
        if kernel {
            return Err(AccessError::Kernel(path.into()));
        }
        Ok(Root {
            identity: status.identity,
            handle,
        })
    }

    /// The same, with the broker's own descriptors.
    pub(crate) fn keep(&self, fds: &Fds) -> SysResult<Self> {
        let keep = |root: &Root| {
            Ok(Root {
                identity: root.identity,
                handle: fds.own(root.handle.as_fd())?,
            })
        };
        Ok(Self {
            roots: self.roots.iter().map(keep).collect::<SysResult<_>>()?,
            closed: self.closed.clone(),
        })
    }

    /// The directories below which sockets may be made: of the highest one, which has the kernel's own in it, those
    /// that are there now and are not the kernel's.
    pub(super) fn directories(&self) -> SysResult<Vec<OwnedFd>> {
        let mut directories = Vec::new();
        for root in &self.roots {
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
        self.roots.iter().map(|root| root.handle.as_raw_fd())
    }

    /// Whether this file may be changed under any name.
    pub(super) fn names(&self, file: &Status) -> bool {
        self.roots.iter().any(|root| root.identity == file.identity)
    }

    /// Whether what is in a directory may be changed, and the directory itself; `directory` must be the broker's
    /// own, so that it is the same one afterwards.
    pub(super) fn contains(&self, directory: RawFd) -> SysResult<bool> {
        if self.roots.is_empty() || is_kernels(directory, &status_of(directory)?)? {
            return Ok(false);
        }
        Ok((0..ATTEMPTS).any(|_| self.is_inside(directory)))
    }

    /// Goes up from a directory until the answer is known; what cannot be known is "no".
    ///
    /// Each step is a path from the directory itself. Opening one ancestor after the other would give them numbers
    /// of the guest's for a moment, in which another of its threads could exchange them.
    fn is_inside(&self, directory: RawFd) -> bool {
        let mut path = b".".to_vec();
        let mut below = None;
        for _ in 0..DEPTH {
            let Ok(here) = CString::new(path.as_slice())
                .map_err(|_| Errno::EINVAL)
                .and_then(|path| status_at(directory, &path, 0))
            else {
                return false;
            };
            if self.closed.contains(&here.identity) {
                return false;
            }
            if self.names(&here) {
                return true;
            }
            // Only the highest directory is its own parent. One that is mounted within itself is not.
            let place = Some((here.identity, here.mount));
            if below == place {
                return false;
            }
            below = place;
            path.extend_from_slice(b"/..");
        }
        false
    }
}

/// Whether an open file is on one of the file systems that are the kernel's.
pub(super) fn is_kernels(fd: RawFd, status: &Status) -> SysResult<bool> {
    Ok(file_system(fd, status)?.is_some_and(|magic| KERNEL_FILE_SYSTEMS.contains(&magic)))
}

/// The number of an open file's file system; none if that is on a disk.
pub(super) fn file_system(fd: RawFd, status: &Status) -> SysResult<Option<u64>> {
    if libc::major(status.identity.device) != 0 {
        return Ok(None);
    }
    // Number 0 is no mount's.
    let mount = status.mount * u64::from(status.is_mount_unique);
    let slot = mount as usize % MOUNTS;
    let known = KNOWN.get();
    if known[slot].0 == mount && mount != 0 {
        return Ok(Some(known[slot].1));
    }
    let mut statfs = [0; 120];
    pass!(FSTATFS, fd, &mut statfs)?;
    let magic = word(&statfs, 0);
    let mut known = known;
    known[slot] = (mount, magic);
    KNOWN.set(known);
    Ok(Some(magic))
}

/// How many mounts are remembered.
const MOUNTS: usize = 8;

thread_local! {
    /// Mounts that were met, and the numbers of their file systems, which do not change while they exist.
    static KNOWN: Cell<[(u64, u64); MOUNTS]> = const { Cell::new([(0, 0); MOUNTS]) };
}
