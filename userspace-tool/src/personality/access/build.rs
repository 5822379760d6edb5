// SPDX-License-Identifier: GPL-2.0

//! The files that there are for a task, made from its rules: each path of these is looked at once, and held.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::{Access, Right, Root, LOOKED_AT};
use crate::errno::Errno;
use crate::pass;
use crate::personality::kernels::is_kernels;
use crate::personality::status::{status_at, status_of, Status};
use crate::personality::table;
use crate::profile::{
    Device, FileAccess, FileRule, FileRules, Origin, ProgramRules, Rules, SyscallRules, Write,
};

/// Directories in which nothing is changed, with all below them.
const KERNELS: [&str; 3] = ["/dev", "/proc", "/sys"];

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
    /// There is no overlay, so the host's own files would be changed.
    #[error("there can be no overlay at {}: it needs a root directory of the task's own", .0.display())]
    Overlay(PathBuf),
}

impl Access {
    /// What `rules` give, of the files that this process sees.
    ///
    /// What is not there now is not what a rule is about later. A path that cannot be looked at is an error if
    /// something is to be changed there.
    ///
    /// `assembled` says that all that this process sees was put together for these rules: what is between them has
    /// nothing of the host's in it, and directories in memory are the task's own.
    pub fn new(rules: Rules, assembled: bool) -> Result<Self, AccessError> {
        let look = |path: &Path| {
            let path = CString::new(path.as_os_str().as_bytes()).ok()?;
            status_at(libc::AT_FDCWD, &path, 0).ok()
        };
        let closed: Vec<Status> = KERNELS
            .iter()
            .filter_map(|path| look(path.as_ref()))
            .collect();
        let programs = rules.programs.as_ref().map(of_programs);
        let programs = programs.map(|rules| Self::new(rules, assembled));
        let mut access = Self {
            programs: programs.transpose()?.map(Box::new),
            closed: closed.iter().map(|status| status.identity).collect(),
            everywhere: everywhere(&rules, assembled),
            refused: refused(&rules.syscalls),
            rules: Arc::new(rules),
            assembled,
            ..Self::default()
        };
        let rules = Arc::clone(&access.rules);
        let mut mounts = Vec::new();
        let mut rights: BTreeMap<&Path, Right> = BTreeMap::new();
        // What is between, and what the broker itself answers, or closes.
        rights.extend(assembled.then_some((Path::new("/"), LOOKED_AT)));
        rights.insert(Path::new("/proc"), LOOKED_AT);
        for (path, rule) in &rules.files.0 {
            rights.insert(path, Right::of(rule.access, rules.jit, assembled));
        }
        if assembled && rules.devices.contains(&Device::Shm) {
            let right = Right::of(FileAccess::Tmpfs, rules.jit, assembled);
            rights.insert(Path::new("/dev/shm"), right);
        }
        if let (false, Some(path)) = (assembled, rules.files.overlays().next()) {
            return Err(AccessError::Overlay(path.to_owned()));
        }
        let mut seen = BTreeSet::new();
        for (path, right) in rights {
            let (root, status) = match access.root(path, right) {
                Ok(found) => found,
                Err(error) if right.changes() => return Err(error),
                Err(_) => continue,
            };
            mounts.push(status);
            access.roots.push(root);
            if right != Right::Nothing {
                // What is above of one that was there is there as well.
                let above = path
                    .ancestors()
                    .skip(1)
                    .take_while(|path| seen.insert(*path));
                let found = above.filter_map(look).map(|status| status.identity);
                access.ways.extend(found);
            }
        }
        // Where the kernel's own are not mounted, they are part of what is.
        let parts = closed.iter().filter(|status| !status.is_mount_root);
        let on: Vec<u64> = mounts
            .iter()
            .chain(parts)
            .map(|status| status.mount)
            .collect();
        for (root, status) in access.roots.iter_mut().zip(&mounts) {
            let alone = on.iter().filter(|mount| **mount == status.mount).count() == 1;
            root.mount = (alone && status.is_mount_root).then_some(status.mount);
        }
        Ok(access)
    }

    fn root(&self, path: &Path, right: Right) -> Result<(Root, Status), AccessError> {
        let look = |errno| AccessError::Look {
            path: path.into(),
            errno,
        };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| look(Errno::EINVAL))?;
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let fd = pass!(OPENAT, libc::AT_FDCWD, &*name, flags, 0).map_err(look)?;
        let handle = crate::device::new_fd(fd as RawFd);
        let status = status_of(handle.as_raw_fd()).map_err(look)?;
        if right.changes() {
            if !matches!(status.kind(), libc::S_IFREG | libc::S_IFDIR) {
                return Err(AccessError::Kind(path.into()));
            }
            let kernel = self.closed.contains(&status.identity)
                || is_kernels(handle.as_raw_fd(), &status).map_err(look)?;
            if kernel {
                return Err(AccessError::Kernel(path.into()));
            }
        }
        let root = Root {
            identity: status.identity,
            mount: None,
            right,
            handle,
        };
        Ok((root, status))
    }
}

/// Programs that may be started, as files that may be executed.
fn of_programs(programs: &ProgramRules) -> Rules {
    let access = FileAccess::Host {
        execute: true,
        write: Write::No,
    };
    let rule = |origin: &Origin| FileRule {
        access,
        origin: origin.clone(),
    };
    let all = programs.0.iter();
    let all = all.map(|(path, origin)| (path.clone(), rule(origin)));
    Rules {
        files: FileRules(all.collect()),
        ..Rules::default()
    }
}

/// What rules say of all files alike, but for whether they may be changed.
fn everywhere(rules: &Rules, assembled: bool) -> Option<Right> {
    let right = |access| Right::of(access, rules.jit, assembled).unchanged();
    let first = right(rules.files.0.get(Path::new("/"))?.access);
    let mut all = rules.files.0.values();
    all.all(|rule| right(rule.access) == first).then_some(first)
}

/// The numbers of system calls that rules refuse.
fn refused(rules: &SyscallRules) -> [u64; 8] {
    let mut bits = [0; 8];
    for call in table::TABLE {
        if let (true, Some(word)) = (
            rules.refused.contains_key(call.name),
            bits.get_mut(usize::from(call.number / 64)),
        ) {
            *word |= 1 << (call.number % 64);
        }
    }
    bits
}
