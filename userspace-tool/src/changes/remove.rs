// SPDX-License-Identifier: GPL-2.0

//! Trees that a task made are removed, however deep they are and whoever may do what in them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{chmod, openat, renameat, unlinkat, AtFlags, Mode, OFlags};
use rustix::io::Errno as Os;

use super::object::{by_descriptor, entries, reopen};
use crate::errno::SysResult;

/// Removes all that is in a directory, which is the caller's alone.
///
/// What is in a directory of it comes up into it before that goes, so nothing is ever looked up deeper than that.
pub(super) fn empty(top: BorrowedFd<'_>) -> SysResult<()> {
    let mut count = 0u64;
    loop {
        let names = entries(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            let name = OsStr::from_bytes(&name);
            match unlinkat(top, name, AtFlags::empty()) {
                Ok(()) | Err(Os::NOENT) => continue,
                Err(Os::ISDIR | Os::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match openat(top, name, flags, Mode::empty()) {
                // Somebody else removes it as well.
                Err(Os::NOENT) => continue,
                directory => directory?,
            };
            chmod(by_descriptor(directory.as_fd()), Mode::RWXU)?;
            let directory = reopen(directory.as_fd(), OFlags::RDONLY | OFlags::DIRECTORY)?;
            for below in entries(directory.as_fd())? {
                let below = OsStr::from_bytes(&below);
                match unlinkat(&directory, below, AtFlags::empty()) {
                    Ok(()) | Err(Os::NOENT) => continue,
                    Err(Os::ISDIR | Os::PERM) => {}
                    Err(errno) => return Err(errno.into()),
                }
                if unlinkat(&directory, below, AtFlags::REMOVEDIR).is_ok() {
                    continue;
                }
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let deeper = match openat(&directory, below, flags, Mode::empty()) {
                    Err(Os::NOENT) => continue,
                    deeper => deeper?,
                };
                // Who moves a directory changes what it has as `..`.
                chmod(by_descriptor(deeper.as_fd()), Mode::RWXU)?;
                move_up(directory.as_fd(), below, top, &mut count)?;
            }
            match unlinkat(top, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Os::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Moves a directory up, to a name that is free there.
fn move_up(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    top: BorrowedFd<'_>,
    count: &mut u64,
) -> SysResult<()> {
    loop {
        *count += 1;
        // Two directories are never exchanged by that: one that has something in it is not replaced.
        match renameat(directory, name, top, format!("{count}")) {
            Err(Os::NOTEMPTY | Os::EXIST | Os::NOTDIR) => {}
            Err(Os::NOENT) => return Ok(()),
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_deep_or_closed_goes() {
        let name = format!("uvisor-remove-{}", crate::process::id());
        let top = std::env::temp_dir().join(name);
        fs::create_dir(&top).unwrap();
        let directory = fs::File::open(&top).unwrap();
        let mut here = rustix::io::dup(&directory).unwrap();
        for depth in 0..3000 {
            for name in [
                "1",
                "a directory with a long name, of which many are no path any more",
            ] {
                rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let name = "a directory with a long name, of which many are no path any more";
            if depth == 5 {
                fs::write(format!("{}/file", by_descriptor(here.as_fd())), "x").unwrap();
                let closed = format!("{}/1", by_descriptor(here.as_fd()));
                fs::create_dir(format!("{closed}/below")).unwrap();
                fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
            }
            here = openat(&here, name, flags, Mode::empty()).unwrap();
        }
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        empty(directory.as_fd()).unwrap();
        fs::remove_dir(&top).unwrap();
        assert!(fs::metadata("/").is_ok());
    }
}
