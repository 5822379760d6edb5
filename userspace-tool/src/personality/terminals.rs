// SPDX-License-Identifier: GPL-2.0

//! Terminals: those that a task makes, and what it may do to the one that it was started on.
//!
//! A terminal of its own is one whose master it has open. Only those it may open by their paths.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::children::is_group;
use super::{links, Fds};
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::profile::Device;
use crate::task::Task;

/// What a path means, if it is that of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Terminal {
    /// What makes a new one.
    Multiplexer,
    /// The one with a number.
    Slave(u32),
}

fn find(path: &Path) -> Option<Terminal> {
    let rest = path.strip_prefix("/dev").ok()?.to_str()?;
    match rest {
        "ptmx" | "pts/ptmx" => Some(Terminal::Multiplexer),
        // A number as the kernel writes it.
        rest => {
            let digits = rest.strip_prefix("pts/")?;
            let number: u32 = digits.parse().ok()?;
            (number.to_string() == digits).then_some(Terminal::Slave(number))
        }
    }
}

/// The device that an open file is, if it is a character device.
fn device(fd: RawFd) -> Option<u64> {
    let mut stat = [0; 144];
    pass!(FSTAT, fd, &mut stat).ok()?;
    let character = word32(&stat, 24) & libc::S_IFMT == libc::S_IFCHR;
    character.then(|| word(&stat, 40))
}

/// The number of the terminal that a descriptor is the master of.
fn number_of_master(fd: RawFd) -> Option<u32> {
    // Only a master is asked: what the number means to another device is not known.
    if device(fd)? != libc::makedev(5, 2) {
        return None;
    }
    let mut number = [0; 64];
    pass!(IOCTL, fd, libc::TIOCGPTN, &mut number).ok()?;
    Some(word32(&number, 0))
}

/// The number of the terminal that a descriptor is, not as its master.
fn number_of_slave(fd: RawFd) -> Option<u32> {
    const MAJOR: u32 = 136;
    let device = device(fd)?;
    (libc::major(device) == MAJOR).then(|| libc::minor(device))
}

/// Whether the task has the master of the terminal of a descriptor, which may be that.
fn is_own(fds: &Fds, fd: RawFd) -> bool {
    let Some(number) = number_of_slave(fd) else {
        return number_of_master(fd).is_some();
    };
    let mut open = fds.all_open().into_iter();
    open.any(|(other, _)| number_of_master(other) == Some(number))
}

/// The descriptor of the terminal at a path, if the task has it open, and not as a terminal of its own: such as the one that it was
/// started on, whose name is in no directory of the task's.
pub(super) fn opened(fds: &Fds, path: &CStr) -> Option<RawFd> {
    let Some(Terminal::Slave(number)) = find(Path::new(OsStr::from_bytes(path.to_bytes()))) else {
        return None;
    };
    let open = fds.all_open().into_iter().map(|(fd, _)| fd);
    let slaves: Vec<RawFd> = open
        .filter(|fd| number_of_slave(*fd) == Some(number))
        .collect();
    slaves.into_iter().find(|fd| !is_own(fds, *fd))
}

/// The path of a descriptor that is a terminal, not as its master.
pub(super) fn path_of(fd: RawFd) -> Option<Vec<u8>> {
    number_of_slave(fd).map(|number| format!("/dev/pts/{number}").into_bytes())
}

/// Flags that matter for a terminal.
const FLAGS: i32 = libc::O_ACCMODE | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;

/// Opens a terminal, if the path is that of one.
pub(super) fn open(task: &mut Task, path: &CStr, flags: i32) -> Option<SysResult> {
    let terminal = find(Path::new(OsStr::from_bytes(path.to_bytes())))?;
    if flags & libc::O_PATH != 0 {
        return None;
    }
    let flags = flags & FLAGS;
    Some(match terminal {
        Terminal::Multiplexer if !task.access.has_device(Device::Pts) => Err(Errno::ENOENT),
        Terminal::Multiplexer => {
            let at = libc::AT_FDCWD;
            let flags = flags | libc::O_NOCTTY;
            let new = pass!(OPENAT, at, c"/dev/ptmx", flags, 0);
            new.and_then(|fd| task.fds.accept(fd))
        }
        Terminal::Slave(number) => open_slave(&task.fds, number, flags),
    })
}

/// Opens a terminal of which the task has the master, or that it has open in another way.
fn open_slave(fds: &Fds, number: u32, flags: i32) -> SysResult {
    let open = fds.all_open();
    // Another thread may give a number to something else meanwhile.
    let mut open = open
        .into_iter()
        .filter_map(|(fd, _)| fds.duplicate(fd).ok());
    let fd = open.find_map(|pinned| {
        let fd = pinned.as_raw_fd();
        match number_of_master(fd) {
            // Asked of the master, it is the master's, wherever the path leads to.
            Some(master) if master == number => {
                Some(pass!(IOCTL_NUMBER, fd, libc::TIOCGPTPEER, flags))
            }
            _ if number_of_slave(fd) == Some(number) => Some(links::reopen(fd, flags)),
            _ => None,
        }
    });
    fds.accept(fd.ok_or(Errno::EACCES)??)
}

/// Does what an ioctl of terminals says, if it is one that needs a closer look, or whose argument is no address.
pub(super) fn ioctl(task: &mut Task, fd: RawFd, request: u32, argument: u64) -> Option<SysResult> {
    /// As if from the keyboard, the console's doing and whose it is, another line discipline, and hanging up.
    const STI: u32 = libc::TIOCSTI as u32;
    const LINUX: u32 = libc::TIOCLINUX as u32;
    const CONS: u32 = libc::TIOCCONS as u32;
    const SETD: u32 = libc::TIOCSETD as u32;
    const VHANGUP: u32 = 0x5437;

    const SCTTY: u32 = libc::TIOCSCTTY as u32;
    const NOTTY: u32 = libc::TIOCNOTTY as u32;
    const SPGRP: u32 = libc::TIOCSPGRP as u32;
    const EXCL: u32 = libc::TIOCEXCL as u32;
    const NXCL: u32 = libc::TIOCNXCL as u32;
    const XONC: u32 = libc::TCXONC as u32;
    const SBRK: u32 = libc::TCSBRK as u32;
    const SBRKP: u32 = libc::TCSBRKP as u32;
    const FLSH: u32 = libc::TCFLSH as u32;
    const GPTPEER: u32 = libc::TIOCGPTPEER as u32;

    let pass_on = |argument: u64| pass!(IOCTL_NUMBER, fd, u64::from(request), argument);
    Some(match request {
        STI | LINUX | CONS | SETD | VHANGUP => Err(Errno::EPERM),
        SBRK | SBRKP | FLSH => pass_on(argument),
        // To take it from another session takes a capability.
        SCTTY if argument as u32 != 0 => Err(Errno::EPERM),
        SCTTY | NOTTY => pass_on(0),
        // The one that it was started on is others' as well.
        EXCL | NXCL | XONC => match is_own(&task.fds, fd) {
            true => pass_on(argument),
            // What is none says so.
            false => pass!(IOCTL, fd, libc::TCGETS, &mut [0; 64]).and(Err(Errno::EPERM)),
        },
        SPGRP => set_foreground(task, fd, argument),
        // What is no master does not know it.
        GPTPEER if number_of_slave(fd).is_some() => Err(Errno::EIO),
        GPTPEER if number_of_master(fd).is_none() => Err(Errno::ENOTTY),
        GPTPEER => {
            let flags = u64::from(argument as u32 & FLAGS as u32);
            pass_on(flags).and_then(|new| task.fds.accept(new))
        }
        _ => return None,
    })
}

/// Makes a process group the one in the foreground: one of the task's, or on a terminal of its own any.
fn set_foreground(task: &Task, fd: RawFd, address: u64) -> SysResult {
    let group = task.memory.read::<4>(address)?;
    if !is_group(task, word32(&group, 0) as i32) && !is_own(&task.fds, fd) {
        return Err(Errno::EPERM);
    }
    let mut local = [0; 64];
    local[..4].copy_from_slice(&group);
    pass!(IOCTL, fd, libc::TIOCSPGRP, &mut local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_found_by_their_paths() {
        let found = |path: &str| find(Path::new(path));
        assert_eq!(found("/dev/ptmx"), Some(Terminal::Multiplexer));
        assert_eq!(found("/dev/pts/ptmx"), Some(Terminal::Multiplexer));
        assert_eq!(found("/dev/pts/7"), Some(Terminal::Slave(7)));
        for path in [
            "/dev/pts",
            "/dev/pts/07",
            "/dev/pts/-1",
            "/dev/pts/7/x",
            "dev/pts/7",
            "/dev/tty",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn a_terminal_has_the_number_of_its_master() {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        let master = pass!(OPENAT, libc::AT_FDCWD, c"/dev/ptmx", flags, 0).unwrap() as RawFd;
        let number = number_of_master(master).unwrap();
        let mut unlock = [0; 64];
        pass!(IOCTL, master, libc::TIOCSPTLCK, &mut unlock).unwrap();
        let slave = pass!(IOCTL_NUMBER, master, libc::TIOCGPTPEER, flags).unwrap() as RawFd;
        assert_eq!(number_of_slave(slave), Some(number));
        assert_eq!(number_of_master(slave), None);
        assert_eq!(number_of_slave(master), None);
        pass!(CLOSE, slave).unwrap();
        pass!(CLOSE, master).unwrap();
        let null = pass!(OPENAT, libc::AT_FDCWD, c"/dev/null", flags, 0).unwrap() as RawFd;
        assert_eq!(
            (number_of_master(null), number_of_slave(null)),
            (None, None)
        );
        pass!(CLOSE, null).unwrap();
    }
}
