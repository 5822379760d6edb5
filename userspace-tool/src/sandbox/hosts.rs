// SPDX-License-Identifier: GPL-2.0

//! An `/etc/hosts` for the task: the names that its rules are about have there the addresses that the rules were made
//! from, so that what it looks up and what it may reach are the same, without a name server.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{openat, Mode, OFlags};

use super::mount::{self, attach, copy, PLAIN};
use super::root::Builder;
use crate::errno::{Errno, SysResult};
use crate::profile::{Pinned, HOSTS};

/// What is in it: a name that has several addresses has a line for each, in their order.
fn text(pinned: &[Pinned]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for Pinned { name, address, .. } in pinned {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// Makes it, in a file system of its own, which is attached at a directory of the host's tree that is not used any
/// more: what is not attached cannot be copied.
fn make(pinned: &[Pinned], at: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let memory = mount::tmpfs(mount::Tmpfs {
        mode: 0o755,
        bytes: 1 << 20,
    })?;
    attach(memory.as_fd(), at)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(&memory, c"hosts", flags, Mode::from_raw_mode(0o444))?);
    file.write_all(text(pinned).as_bytes())?;
    mount::open(memory.as_fd(), "hosts".as_ref())
}

impl Builder {
    /// Puts it over what is at its place, or makes it; `unused` is as [`make`] has it. What it was not made for, if it
    /// was not.
    pub(super) fn hosts(
        &mut self,
        pinned: &[Pinned],
        unused: BorrowedFd<'_>,
    ) -> SysResult<Option<String>> {
        if pinned.is_empty() {
            return Ok(None);
        }
        let place = match self.tree.place(Path::new(HOSTS), false) {
            Ok(place) => place,
            Err(Errno::ELOOP | Errno::ENOTDIR) => None,
            Err(errno) => return Err(errno),
        };
        let Some(place) = place else {
            let what = "a place for an /etc/hosts of the task's own, which finds the names of its rules";
            return Ok(Some(what.to_owned()));
        };
        let made = make(pinned, unused)?;
        let attributes = PLAIN | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY;
        attach(copy(made.as_fd(), attributes)?.as_fd(), place.as_fd())?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Origin;

    #[test]
    fn names_have_all_their_addresses() {
        let pinned = |address: &str| Pinned {
            name: "x.example".into(),
            address: address.parse().unwrap(),
            origin: Origin::Program,
        };
        let text = text(&[pinned("192.0.2.1"), pinned("2001:db8::1")]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n192.0.2.1\tx.example\n2001:db8::1\tx.example\n"));
    }
}
