// SPDX-License-Identifier: GPL-2.0

//! Ioctls of sockets: what network interfaces there are, and nothing that would change them.

use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use super::netns::without_capabilities;
use super::network::option;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// The size of a `struct ifreq`, and of a `struct ifconf`.
const IFREQ: usize = 40;
const IFCONF: usize = 16;

/// The most that a list of interfaces takes.
const LIST_MAX: usize = 64 << 10;

/// Who is sent signals about it.
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;
const FIOGETOWN: u64 = 0x8903;
const SIOCGPGRP: u64 = 0x8904;

/// Whether what is read next is out of band, and how many bytes were not even sent yet.
const SIOCATMARK: u64 = 0x8905;
const SIOCOUTQNSD: u64 = 0x894b;

/// The requests that are for sockets.
const FIRST: u32 = 0x8900;
const LAST: u32 = 0x89ff;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// One interface.
    Interface,
    /// All that have addresses.
    List,
    /// A number about the socket.
    Number,
    /// A change, which a task may not make.
    Change,
    /// Anything else.
    Unknown,
}

fn request(number: u32) -> Request {
    match u64::from(number) {
        libc::SIOCGIFNAME
        | libc::SIOCGIFFLAGS
        | libc::SIOCGIFADDR
        | libc::SIOCGIFDSTADDR
        | libc::SIOCGIFBRDADDR
        | libc::SIOCGIFNETMASK
        | libc::SIOCGIFMETRIC
        | libc::SIOCGIFMTU
        | libc::SIOCGIFHWADDR
        | libc::SIOCGIFINDEX
        | libc::SIOCGIFTXQLEN
        | libc::SIOCGIFMAP => Request::Interface,
        libc::SIOCGIFCONF => Request::List,
        FIOGETOWN | SIOCGPGRP | SIOCATMARK | SIOCOUTQNSD => Request::Number,
        // Who may be sent signals is not for a task to say.
        FIOSETOWN
        | SIOCSPGRP
        | libc::SIOCADDRT
        | libc::SIOCDELRT
        | libc::SIOCSIFFLAGS
        | libc::SIOCSIFADDR
        | libc::SIOCSIFDSTADDR
        | libc::SIOCSIFBRDADDR
        | libc::SIOCSIFNETMASK
        | libc::SIOCSIFMETRIC
        | libc::SIOCSIFMTU
        | libc::SIOCSIFNAME
        | libc::SIOCSIFHWADDR
        | libc::SIOCSIFTXQLEN
        | libc::SIOCSIFMAP => Request::Change,
        _ => Request::Unknown,
    }
}

/// Does what an ioctl of sockets says, if it is one.
pub(super) fn ioctl(task: &mut Task, fd: RawFd, number: u32, argument: u64) -> Option<SysResult> {
    if !(FIRST..=LAST).contains(&number) {
        return None;
    }
    // To what is no socket the numbers may mean anything.
    Some(match option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN) {
        Ok(domain) => socket_ioctl(task, fd, i32::from_le_bytes(domain), number, argument),
        Err(Errno::ENOTSOCK) => Err(Errno::ENOTTY),
        Err(errno) => Err(errno),
    })
}

fn socket_ioctl(task: &Task, fd: RawFd, domain: i32, number: u32, argument: u64) -> SysResult {
    match request(number) {
        Request::Unknown => Err(Errno::ENOTTY),
        Request::Change => Err(Errno::EPERM),
        Request::Number => {
            let mut value = [0; 64];
            let result = pass!(IOCTL, fd, u64::from(number), &mut value)?;
            task.memory.write(argument, &value[..4])?;
            Ok(result)
        }
        Request::Interface => {
            let mut interface = [0; 64];
            interface[..IFREQ].copy_from_slice(&task.memory.read::<IFREQ>(argument)?);
            let fd = task.network.interfaces(fd, domain)?;
            // The kernel would load a module for who has the capability, by the name that is asked for.
            let result =
                without_capabilities(|| pass!(IOCTL, fd, u64::from(number), &mut interface))?;
            task.memory.write(argument, &interface[..IFREQ])?;
            Ok(result)
        }
        Request::List => {
            let wanted = task.memory.read::<IFCONF>(argument)?;
            let (len, address) = (word32(&wanted, 0) as i32, word(&wanted, 8));
            let fd = task.network.interfaces(fd, domain)?;
            let len = match address {
                0 => list(fd, None)?,
                _ => {
                    let len = usize::try_from(len).unwrap_or(0).min(LIST_MAX);
                    let mut room = vec![0; len];
                    let filled = list(fd, Some(&mut room))?;
                    let filled = usize::try_from(filled).map_err(|_| Errno::EINVAL)?;
                    task.memory
                        .write(address, room.get(..filled).unwrap_or(&room))?;
                    filled as i32
                }
            };
            task.memory.write(argument, &len.to_le_bytes())?;
            Ok(0)
        }
    }
}

/// Lists the interfaces that have addresses of IPv4, as far as there is room; returns how long the list is. Without
/// room that is how long it would be.
fn list(fd: RawFd, room: Option<&mut [u8]>) -> SysResult<i32> {
    // SAFETY: All bits of it may be zero.
    let mut list: libc::ifconf = unsafe { MaybeUninit::zeroed().assume_init() };
    if let Some(room) = room {
        list.ifc_len = i32::try_from(room.len()).map_err(|_| Errno::EINVAL)?;
        list.ifc_ifcu.ifcu_buf = room.as_mut_ptr().cast();
    }
    // SAFETY: The kernel writes as many bytes as `ifc_len` says at most, and none without a buffer.
    match unsafe { libc::ioctl(fd, libc::SIOCGIFCONF as libc::c_ulong, &mut list) } {
        -1 => Err(Errno::last()),
        _ => Ok(list.ifc_len),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_is_served() {
        for number in [0x8946, 0x8947, 0x8949, 0x89f0, 0x89a0, 0x8990, 0x8906] {
            assert_eq!(request(number), Request::Unknown, "{number:#x}");
        }
        assert_eq!(request(libc::SIOCSIFFLAGS as u32), Request::Change);
    }

    #[test]
    fn a_list_has_the_length_that_it_says() {
        let fd = pass!(
            SOCKET,
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0
        )
        .unwrap();
        let whole = list(fd as RawFd, None).unwrap();
        assert_eq!(whole as usize % IFREQ, 0);
        let mut room = vec![0xee; whole as usize + IFREQ];
        assert_eq!(list(fd as RawFd, Some(&mut room)), Ok(whole));
        assert!(room[whole as usize..].iter().all(|&byte| byte == 0xee));
        assert_eq!(list(fd as RawFd, Some(&mut [])), Ok(0));
        pass!(CLOSE, fd).unwrap();
    }
}
