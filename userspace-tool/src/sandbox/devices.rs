// SPDX-License-Identifier: GPL-2.0

//! `/dev`: the devices that the rules name, and no others.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;

use super::mount::{self, attach, copy, Tmpfs};
use super::place::resolve;
use super::root::{Builder, RootError, Step};
use super::{Skipped, Why};
use crate::errno::{Errno, SysResult};
use crate::profile::{Device, FileAccess, Rules};

/// Its path, and the numbers of the device; none for what is a directory.
pub(super) fn describe(device: Device) -> (&'static str, Option<(u32, u32)>) {
    match device {
        Device::Null => ("/dev/null", Some((1, 3))),
        Device::Zero => ("/dev/zero", Some((1, 5))),
        Device::Full => ("/dev/full", Some((1, 7))),
        Device::Random => ("/dev/random", Some((1, 8))),
        Device::Urandom => ("/dev/urandom", Some((1, 9))),
        Device::Tty => ("/dev/tty", Some((5, 0))),
        Device::Pts => ("/dev/pts", None),
        Device::Shm => ("/dev/shm", None),
    }
}

/// What programs expect besides, which leads to what they have open.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// A device, and where it is on the host.
pub(super) struct Found {
    device: Device,
    host: Option<OwnedFd>,
}

/// Whether a path is `/dev`, or `/proc`, or has to do with a device that there is by the rules.
pub(super) fn has(rules: &Rules, path: &Path) -> bool {
    let mut devices = rules.devices.iter();
    let is_at = |device: &Device| {
        let at = Path::new(describe(*device).0);
        at.starts_with(path) || path.starts_with(at)
    };
    !path.starts_with("/dev") || path == Path::new("/dev") || devices.any(is_at)
}

/// Looks devices up on the host.
pub(super) fn find(
    devices: &[Device],
    host: BorrowedFd<'_>,
    skipped: &mut Vec<Skipped>,
) -> Vec<Found> {
    let find = |device: &Device| {
        let (path, numbers) = describe(*device);
        let found = match numbers {
            None => Ok(None),
            Some(numbers) => look_up(host, Path::new(path), numbers).map(Some),
        };
        match found {
            Ok(host) => Some(Found {
                device: *device,
                host,
            }),
            Err(why) => {
                let path = path.into();
                let is_open = false;
                skipped.push(Skipped { path, why, is_open });
                None
            }
        }
    };
    devices.iter().filter_map(find).collect()
}

/// A device of the host's, if it is the one with these numbers.
fn look_up(host: BorrowedFd<'_>, path: &Path, numbers: (u32, u32)) -> Result<OwnedFd, Why> {
    let found = resolve(host, path).map_err(Why::Lookup)?;
    let object = found.object.ok_or(Why::Missing)?;
    let stat = fstat(&object).map_err(|errno| Why::Lookup(errno.into()))?;
    let is_device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    match is_device && stat.st_rdev == libc::makedev(numbers.0, numbers.1) {
        true => Ok(object),
        false => Err(Why::Missing),
    }
}

/// Makes `/dev`.
pub(super) fn attach_all(
    builder: &mut Builder,
    devices: &[Found],
    skipped: &mut Vec<Skipped>,
) -> Result<(), RootError> {
    let made = builder
        .directory(Path::new("/dev"))
        .step("making", "/dev")?;
    if made.is_none() {
        // There is a root of the host's that has none.
        skipped.push(Skipped {
            path: "/dev".into(),
            why: Why::NoPlace,
            is_open: false,
        });
        return Ok(());
    }
    for (at, target) in LINKS {
        let linked = builder.tree.link(Path::new(at), target.as_ref());
        linked.step("linking", at)?;
    }
    for found in devices {
        let (path, _) = describe(found.device);
        attach_one(builder, found, Path::new(path)).step("attaching", path)?;
    }
    Ok(())
}

fn attach_one(builder: &mut Builder, found: &Found, path: &Path) -> SysResult<()> {
    let mount = match (&found.host, found.device) {
        (Some(host), _) => {
            // Devices can be written to in spite of that; what cannot be changed are their owners and modes.
            let attributes =
                libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
            let copy = copy(host.as_fd(), attributes)?;
            return attach(copy.as_fd(), place(builder, path, false)?.as_fd());
        }
        (None, Device::Pts) => {
            let multiplexer = Path::new("/dev/ptmx");
            builder.tree.link(multiplexer, "pts/ptmx".as_ref())?;
            // Not the host's, on which all terminals of the user's are.
            mount::terminals()?
        }
        (None, _) => mount::tmpfs(Tmpfs {
            mode: 0o1777,
            bytes: builder.bytes,
            execute: FileAccess::Tmpfs.executes(builder.jit),
        })?,
    };
    attach(mount.as_fd(), place(builder, path, true)?.as_fd())
}

fn place(builder: &mut Builder, path: &Path, directory: bool) -> SysResult<OwnedFd> {
    let place = builder.tree.place(path, directory)?;
    place.ok_or(Errno::EEXIST)
}
