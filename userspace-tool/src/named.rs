// SPDX-License-Identifier: GPL-2.0

//! Files that are mapped, as `/proc/self/maps` names them.

use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::errno::SysResult;
use crate::memory::word;
use crate::pass;
use crate::personality::path_of;

/// What the kernel puts behind the path of a file that has none any more.
const DELETED: &[u8] = b" (deleted)";

/// A mapped file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// The path that it had when it was mapped, or another name.
    path: Vec<u8>,
    /// The number of its file system.
    pub device: u64,
    /// Its own number there.
    pub inode: u64,
}

/// The device and the inode of an open file.
fn identity(fd: RawFd) -> SysResult<(u64, u64)> {
    let mut stat = [0; 144];
    pass!(FSTAT, fd, &mut stat)?;
    Ok((word(&stat, 0), word(&stat, 8)))
}

impl NamedFile {
    /// What is no file, by its name.
    pub fn special(name: &str) -> Self {
        Self {
            path: name.into(),
            device: 0,
            inode: 0,
        }
    }

    /// An open file, with another name than the kernel has for it.
    pub(crate) fn called(name: &str, fd: RawFd) -> SysResult<Self> {
        let (device, inode) = identity(fd)?;
        Ok(Self {
            path: name.into(),
            device,
            inode,
        })
    }

    /// An open file.
    pub(crate) fn of(fd: RawFd) -> SysResult<Self> {
        let (device, inode) = identity(fd)?;
        Ok(Self {
            path: path_of(fd)?,
            device,
            inode,
        })
    }

    /// The path that it was mapped by.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Whether it is an open file.
    pub(crate) fn is(&self, fd: RawFd) -> bool {
        identity(fd) == Ok((self.device, self.inode))
    }

    /// Its name now.
    pub(crate) fn name(&self) -> Vec<u8> {
        use std::os::unix::fs::MetadataExt;
        let mut name = Vec::with_capacity(self.path.len());
        for &byte in &self.path {
            match byte {
                // As the kernel writes what would end a line.
                b'\n' => name.extend_from_slice(b"\\012"),
                byte => name.push(byte),
            }
        }
        let is_path = self.path.starts_with(b"/") && !self.path.ends_with(DELETED);
        let path = Path::new(std::ffi::OsStr::from_bytes(&self.path));
        let is_there = || {
            let found = std::fs::symlink_metadata(path);
            found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
        };
        if is_path && !is_there() {
            name.extend_from_slice(DELETED);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn files_that_are_removed_are_told_so() {
        let directory = std::env::temp_dir().join(format!("uvisor-named-{}", crate::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("with\na newline");
        let file = std::fs::File::create(&path).unwrap();
        let named = NamedFile::of(file.as_raw_fd()).unwrap();
        assert!(named.is(file.as_raw_fd()));
        let name = named.name();
        assert!(name.ends_with(b"/with\\012a newline"), "{name:?}");
        std::fs::remove_file(&path).unwrap();
        assert!(named.name().ends_with(b"newline (deleted)"));
        // Another one at its place is another.
        let other = std::fs::File::create(&path).unwrap();
        assert!(!named.is(other.as_raw_fd()));
        assert!(named.name().ends_with(b"newline (deleted)"));
        let late = NamedFile::of(file.as_raw_fd()).unwrap();
        assert!(!late.name().ends_with(b"(deleted) (deleted)"));
        assert_eq!(NamedFile::special("[vdso]").name(), b"[vdso]");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
