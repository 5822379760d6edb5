// SPDX-License-Identifier: GPL-2.0

//! What the kernel says of a file, as far as decisions need it.

use std::ffi::CStr;
use std::os::fd::RawFd;

use crate::errno::SysResult;
use crate::memory::{word, word32};
use crate::pass;
use crate::profile::Device;

/// Which file it is: a number that nothing else has while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// `STATX_MNT_ID_UNIQUE`: instead of the number by which others know a mount, one that is never used again.
const MNT_ID_UNIQUE: u32 = 0x4000;

/// `STATX_ATTR_MOUNT_ROOT`.
const MOUNT_ROOT: u64 = 0x2000;

/// What `statx` says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) identity: Identity,
    /// The mount that it was found on.
    pub(super) mount: u64,
    /// Whether no other mount ever has that number.
    pub(super) is_mount_unique: bool,
    /// Whether it is what a mount shows at its top.
    pub(super) is_mount_root: bool,
    pub(super) mode: u32,
    pub(super) links: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    special: u64,
}

impl Status {
    fn new(statx: &[u8; 256]) -> Self {
        let device = |at| libc::makedev(word32(statx, at), word32(statx, at + 4));
        Self {
            identity: Identity {
                device: device(136),
                inode: word(statx, 32),
            },
            mount: word(statx, 144),
            is_mount_unique: word32(statx, 0) & MNT_ID_UNIQUE != 0,
            is_mount_root: word(statx, 8) & MOUNT_ROOT != 0,
            // The mode has 16 bits; what follows is not for us.
            mode: word32(statx, 28) & 0xffff,
            links: word32(statx, 16),
            uid: word32(statx, 20),
            gid: word32(statx, 24),
            special: device(128),
        }
    }

    pub(super) fn kind(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub(super) fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    /// Which of the devices it is that a task may have, if it is one.
    pub(super) fn device(&self) -> Option<Device> {
        if self.kind() != libc::S_IFCHR {
            return None;
        }
        match (libc::major(self.special), libc::minor(self.special)) {
            (1, 3) => Some(Device::Null),
            (1, 5) => Some(Device::Zero),
            (1, 7) => Some(Device::Full),
            (1, 8) => Some(Device::Random),
            (1, 9) => Some(Device::Urandom),
            (5, 0) => Some(Device::Tty),
            (5, 2) | (136, _) => Some(Device::Pts),
            _ => None,
        }
    }

    /// Whether it is `/dev/zero`.
    pub(super) fn is_zero_device(&self) -> bool {
        self.device() == Some(Device::Zero)
    }

    /// Whether it is a socket.
    pub(super) fn is_socket(&self) -> bool {
        self.kind() == libc::S_IFSOCK
    }

    /// Whether it is a device that is opened as files are; terminals are not.
    pub(super) fn is_plain_device(&self) -> bool {
        self.device().is_some_and(|device| device != Device::Pts)
    }

    /// Whether it is a device that may be written.
    pub(super) fn is_writable_device(&self) -> bool {
        let written = [Device::Null, Device::Zero, Device::Full, Device::Tty];
        self.device()
            .is_some_and(|device| written.contains(&device))
    }

    /// Whether who executes it gets the rights of its owner or group.
    pub(super) fn gives_rights(&self) -> bool {
        let group = libc::S_ISGID | libc::S_IXGRP;
        self.kind() == libc::S_IFREG
            && (self.mode & libc::S_ISUID != 0 || self.mode & group == group)
    }
}

/// The status of an open file.
pub(super) fn status_of(fd: RawFd) -> SysResult<Status> {
    status_at(fd, c"", libc::AT_EMPTY_PATH)
}

/// The status of a path.
pub(super) fn status_at(directory: RawFd, path: &CStr, flags: i32) -> SysResult<Status> {
    let mut statx = [0; 256];
    let mask = libc::STATX_BASIC_STATS | libc::STATX_MNT_ID | MNT_ID_UNIQUE;
    pass!(STATX, directory, path, flags, u64::from(mask), &mut statx)?;
    Ok(Status::new(&statx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn agrees_with_the_standard_library() {
        for path in [c"/", c"/dev/null", c"/etc/passwd", c"/proc/self/exe"] {
            let status = status_at(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW).unwrap();
            let metadata = std::fs::symlink_metadata(path.to_str().unwrap()).unwrap();
            assert_eq!(status.identity.device, metadata.dev());
            assert_eq!(status.identity.inode, metadata.ino());
            assert_eq!(status.mode, metadata.mode());
            assert_eq!(u64::from(status.links), metadata.nlink());
            assert_eq!((status.uid, status.gid), (metadata.uid(), metadata.gid()));
            assert_eq!(status.special, metadata.rdev());
        }
    }
}
