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
use crate::profile::{FileAccess, FileRule, Pinned, Rules, HOSTS, HOST_CONF};

/// What is in it: a name that has several addresses has a line for each, in their order.
fn text(pinned: &[Pinned]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for Pinned { name, address, .. } in pinned {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// Makes the files, in a file system of their own, which is attached at a directory of the host's tree that is not used
/// any more: what is not attached cannot be copied.
fn make(pinned: &[Pinned], at: BorrowedFd<'_>) -> SysResult<[OwnedFd; 2]> {
    let memory = mount::tmpfs(mount::Tmpfs {
        mode: 0o755,
        bytes: 1 << 20,
        execute: false,
    })?;
    attach(memory.as_fd(), at)?;
    let file = |name: &str, text: &str| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = openat(&memory, name, flags, Mode::from_raw_mode(0o444))?;
        File::from(made).write_all(text.as_bytes())?;
        mount::open(memory.as_fd(), name.as_ref())
    };
    Ok([
        file("hosts", &text(pinned))?,
        file("host.conf", "multi on\n")?,
    ])
}

impl Builder {
    /// Puts them over what is at their places, or makes these. What is not there then, if there is no place.
    pub(super) fn hosts(&mut self, rules: &Rules) -> SysResult<Option<String>> {
        if rules.pinned.is_empty() {
            return Ok(None);
        }
        let made = make(&rules.pinned, self.aside.as_fd())?;
        for (path, made) in [HOSTS, HOST_CONF].map(Path::new).into_iter().zip(made) {
            let hidden = |rule: &FileRule| rule.access == FileAccess::Hidden;
            if rules.files.0.get(path).is_some_and(hidden) {
                continue;
            }
            let place = match self.tree.place(path, false) {
                Err(Errno::ELOOP | Errno::ENOTDIR) => None,
                place => place?,
            };
            let Some(place) = place else {
                let path = path.display();
                return Ok(Some(format!(
                    "a place for a {path} of the task's own, with the names of its rules"
                )));
            };
            let attributes = PLAIN | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY;
            attach(copy(made.as_fd(), attributes)?.as_fd(), place.as_fd())?;
        }
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
