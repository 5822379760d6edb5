// SPDX-License-Identifier: GPL-2.0

//! Mounts by descriptors: no path is looked up but one name at a time, so nothing that happens to a tree meanwhile
//! leads elsewhere.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{fstat, openat, Mode, OFlags};
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree, FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags,
    OpenTreeFlags,
};

use crate::errno::{Errno, SysResult};

/// What all mounts of a sandbox are: no privileges by being executed, and no devices.
pub(super) const PLAIN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// How many files there may be in a directory in memory.
const FILES: u64 = 1 << 16;

/// How a directory in memory is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tmpfs {
    /// Who may do what in it.
    pub(super) mode: u16,
    /// How many bytes its files may have.
    pub(super) bytes: u64,
    /// Whether these may be executed, and mapped to be.
    pub(super) execute: bool,
}

/// Opens a name in a directory as itself, without using it; a link is not followed.
pub(super) fn open(directory: BorrowedFd<'_>, name: &OsStr) -> SysResult<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

/// Which kind of file something is, as `S_IFMT` has it, and the file system that it is on.
pub(super) fn kind(file: BorrowedFd<'_>) -> SysResult<(u32, u64)> {
    let stat = fstat(file)?;
    Ok((stat.st_mode & libc::S_IFMT, stat.st_dev))
}

/// Whether something is a directory.
pub(super) fn is_directory(file: BorrowedFd<'_>) -> SysResult<bool> {
    Ok(kind(file)?.0 == libc::S_IFDIR)
}

/// Sets attributes of a mount, and with `below` of all in it; what is set already stays.
pub(super) fn set_attributes(mount: BorrowedFd<'_>, set: u64, below: bool) -> SysResult<()> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let below = if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: The kernel reads a string and a structure of the size that it is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match result {
        -1 => Err(Errno::last()),
        _ => Ok(()),
    }
}

/// A copy of a mount from a file or directory down, with what is mounted below, not attached anywhere yet.
pub(super) fn copy(of: BorrowedFd<'_>, attributes: u64) -> SysResult<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(of, c"", flags)?;
    set_attributes(tree.as_fd(), attributes, true)?;
    Ok(tree)
}

/// Attaches a mount at a file or directory, as the case may be.
pub(super) fn attach(mount: BorrowedFd<'_>, at: BorrowedFd<'_>) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, c"", at, c"", flags)?)
}

/// A new file system, not attached anywhere yet.
fn new(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> SysResult<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes | MountAttrFlags::MOUNT_ATTR_NOSUID,
    )?)
}

/// A new directory in memory.
pub(super) fn tmpfs(how: Tmpfs) -> SysResult<OwnedFd> {
    let options = [
        ("mode", &*format!("{:o}", how.mode)),
        ("size", &*how.bytes.to_string()),
        ("nr_inodes", &*FILES.to_string()),
    ];
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !how.execute);
    new("tmpfs", &options, attributes)
}

/// A directory that shows `lower`, in which what is changed goes to `upper`; `work` is for the kernel.
pub(super) fn overlay(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
) -> SysResult<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(context.as_fd(), "userxattr")?;
    // Machines have other defaults.
    for option in ["index", "metacopy"] {
        fsconfig_set_string(context.as_fd(), option, "off")?;
    }
    fsconfig_set_fd(context.as_fd(), "lowerdir+", lower)?;
    fsconfig_set_fd(context.as_fd(), "upperdir", upper)?;
    fsconfig_set_fd(context.as_fd(), "workdir", work)?;
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(context.as_fd(), flags, attributes)?)
}

/// A `/proc` in which nothing can be changed, and where other processes are to be found only by who may look into
/// them. Only user 0 of the host may make one.
pub(super) fn proc() -> SysResult<OwnedFd> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_RDONLY;
    new("proc", &[("hidepid", "ptraceable")], attributes)
}

/// Terminals that are no others than those made in it.
pub(super) fn terminals() -> SysResult<OwnedFd> {
    let options = [("ptmxmode", "0666"), ("mode", "0600")];
    new("devpts", &options, MountAttrFlags::MOUNT_ATTR_NOEXEC)
}
