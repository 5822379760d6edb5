// SPDX-License-Identifier: GPL-2.0

//! Namespaces of the sandbox's own, in which it may mount.

use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::process::{getegid, geteuid};

use super::root::{RootError, Step};
use crate::errno::{Errno, SysResult};

/// Whether the sandbox has namespaces of its own.
pub(super) enum Namespaces {
    /// With what user 0 of the host may do.
    Host,
    /// In a user namespace.
    User,
    /// It has not, and this says why.
    Refused(String),
}

/// Mounts, and what is named by numbers and strings of the machine's.
const OWN: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

fn unshare(flags: libc::c_int) -> SysResult<()> {
    // SAFETY: It touches no memory, and this process has one thread, for which paths and names go on to mean what
    // they meant.
    match unsafe { libc::unshare(flags) } {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// Enters namespaces whose mounts are nobody else's.
pub(super) fn enter() -> Result<Namespaces, RootError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let own = match unshare(OWN) {
        Ok(()) => Namespaces::Host,
        Err(Errno::EPERM) => match unshare(OWN | libc::CLONE_NEWUSER) {
            Ok(()) => {
                map("uid_map", uid, || Ok(()))?;
                // Groups that are not mapped could be dropped otherwise, with what they refuse.
                map("gid_map", gid, || write("setgroups", "deny"))?;
                Namespaces::User
            }
            Err(errno) => return Ok(Namespaces::Refused(refused("a user namespace", errno))),
        },
        Err(errno) => return Ok(Namespaces::Refused(refused("a mount namespace", errno))),
    };
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    match mount_change("/", private) {
        Ok(()) => Ok(own),
        // There are hosts which give a user namespace, and nothing that could be done in it.
        Err(errno @ (rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)) => {
            let what = refused("to mount in a user namespace", errno.into());
            Ok(Namespaces::Refused(what))
        }
        Err(rustix::io::Errno::INVAL) => Ok(Namespaces::Refused(
            "the broker's root directory is not that of a mount, as in a chroot".to_owned(),
        )),
        Err(errno) => Err(errno).step("making mounts private", "/"),
    }
}

fn refused(what: &str, errno: Errno) -> String {
    format!("the host refuses {what}: {errno}")
}

fn write(name: &str, text: &str) -> SysResult<()> {
    Ok(std::fs::write(format!("/proc/self/{name}"), text)?)
}

/// Keeps a number what it is in the user namespace.
fn map(name: &str, id: u32, before: impl FnOnce() -> SysResult<()>) -> Result<(), RootError> {
    before()
        .and_then(|()| write(name, &format!("{id} {id} 1\n")))
        .step("mapping the user", format!("/proc/self/{name}"))
}
