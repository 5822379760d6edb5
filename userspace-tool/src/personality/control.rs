// SPDX-License-Identifier: GPL-2.0

//! Control data of sockets' messages: what may be sent along with one, and which descriptors may come with one.
//!
//! What is sent was made anew from what was checked.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::Fds;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};

/// The size of a `struct cmsghdr`, and what control messages are aligned to.
const CMSG: usize = 16;
const ALIGN: usize = 8;

/// The most descriptors in a message.
const RIGHTS_MAX: usize = 253;

/// Kinds of control messages that `libc` does not have.
const SCM_PIDFD: i32 = 4;
const UDP_SEGMENT: i32 = 103;

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Control<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

impl<'a> Control<'a> {
    /// The first one in `bytes`, and what follows; `None` at the end.
    fn first(bytes: &'a [u8]) -> SysResult<Option<(Self, &'a [u8])>> {
        if bytes.len() < CMSG {
            return Ok(None);
        }
        let len = usize::try_from(word(bytes, 0)).map_err(|_| Errno::EINVAL)?;
        let data = bytes.get(CMSG..len).ok_or(Errno::EINVAL)?;
        let control = Self {
            level: word32(bytes, 8) as i32,
            kind: word32(bytes, 12) as i32,
            data,
        };
        let rest = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
        Ok(Some((control, rest)))
    }

    /// Appends it to `bytes`.
    fn append(&self, bytes: &mut Vec<u8>) {
        bytes.extend(((CMSG + self.data.len()) as u64).to_le_bytes());
        bytes.extend(self.level.to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        bytes.extend(self.data);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// The descriptors in it.
    fn fds(&self) -> impl Iterator<Item = RawFd> + 'a {
        self.data
            .chunks_exact(4)
            .map(|bytes| word32(bytes, 0) as RawFd)
    }
}

/// Checks control data to send; returns what the kernel is to get. `limit` is the first descriptor that is
/// not the guest's, and `is_own` says whether credentials (`struct ucred`) are those of the task.
pub(super) fn outgoing(
    mut bytes: &[u8],
    limit: RawFd,
    is_own: impl Fn(&[u8; 12]) -> bool,
) -> SysResult<Vec<u8>> {
    let mut checked = Vec::with_capacity(bytes.len());
    while let Some((control, rest)) = Control::first(bytes)? {
        match (control.level, control.kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                if control.data.len() / 4 > RIGHTS_MAX {
                    return Err(Errno::EINVAL);
                }
                if !control.fds().all(|fd| (0..limit).contains(&fd)) {
                    return Err(Errno::EBADF);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => match control.data.try_into() {
                Ok(credentials) if is_own(credentials) => {}
                Ok(_) => return Err(Errno::EPERM),
                Err(_) => return Err(Errno::EINVAL),
            },
            (libc::IPPROTO_IP, libc::IP_TTL | libc::IP_TOS | libc::IP_PKTINFO)
            | (
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO | libc::IPV6_HOPLIMIT | libc::IPV6_TCLASS | libc::IPV6_DONTFRAG,
            )
            | (libc::IPPROTO_UDP, UDP_SEGMENT) => {}
            _ => return Err(Errno::EINVAL),
        }
        control.append(&mut checked);
        bytes = rest;
    }
    Ok(checked)
}

/// Puts descriptors of the broker's own for the same files into checked control data, in place of the guest's: what
/// another thread makes of these meanwhile is not sent.
pub(super) fn pin(control: &mut [u8], fds: &Fds) -> SysResult<Vec<OwnedFd>> {
    let mut pinned = Vec::new();
    let mut at = 0;
    while let Some((first, rest)) = Control::first(control.get(at..).unwrap_or_default())? {
        let (data, next) = (at + CMSG, control.len() - rest.len());
        if (first.level, first.kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let numbers: Vec<RawFd> = first.fds().collect();
            let places = control.get_mut(data..).unwrap_or_default();
            for (place, fd) in places.chunks_exact_mut(4).zip(numbers) {
                let own = fds.duplicate(fd)?;
                place.copy_from_slice(&own.as_raw_fd().to_le_bytes());
                pinned.push(own);
            }
        }
        at = next;
    }
    Ok(pinned)
}

/// Control data that came, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Incoming {
    /// What the guest is to get.
    pub(super) control: Vec<u8>,
    /// The descriptors in it.
    pub(super) fds: Vec<RawFd>,
    /// Those that it may not have.
    pub(super) refused: Vec<RawFd>,
}

/// Sorts control data that came; the guest's descriptors are below `limit`.
pub(super) fn incoming(mut bytes: &[u8], limit: RawFd) -> Incoming {
    let mut sorted = Incoming::default();
    let (whole, len) = (bytes, bytes.len());
    // What the kernel writes has the form that it must have.
    while let Ok(Some((control, rest))) = Control::first(bytes) {
        match (control.level, control.kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                let in_range = |fd: &RawFd| (0..limit).contains(fd);
                let kept = control.fds().take_while(in_range).count();
                sorted.fds.extend(control.fds().take(kept));
                sorted.refused.extend(control.fds().skip(kept));
                let data = control.data.get(..kept * 4).unwrap_or_default();
                if !data.is_empty() {
                    Control { data, ..control }.append(&mut sorted.control);
                }
            }
            (libc::SOL_SOCKET, SCM_PIDFD) => sorted.refused.extend(control.fds()),
            _ => control.append(&mut sorted.control),
        }
        bytes = rest;
    }
    if sorted.refused.is_empty() {
        // As the kernel wrote it: the last message need not be followed by as many bytes as it is aligned to.
        sorted.control = whole.to_vec();
    }
    sorted.control.truncate(len);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: RawFd = 100;

    fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Control { level, kind, data }.append(&mut bytes);
        bytes
    }

    fn rights(fds: &[RawFd]) -> Vec<u8> {
        let data: Vec<u8> = fds.iter().flat_map(|fd| fd.to_le_bytes()).collect();
        control(libc::SOL_SOCKET, libc::SCM_RIGHTS, &data)
    }

    fn checked(bytes: &[u8]) -> SysResult<Vec<u8>> {
        outgoing(bytes, LIMIT, |credentials| *credentials == [7; 12])
    }

    #[test]
    fn only_descriptors_of_the_guests_are_sent() {
        let good = rights(&[0, 5, LIMIT - 1]);
        assert_eq!(checked(&good), Ok(good.clone()));
        for fd in [LIMIT, LIMIT + 1, i32::MAX, -1, i32::MIN] {
            assert_eq!(checked(&rights(&[0, fd])), Err(Errno::EBADF), "{fd}");
            let hidden = [good.clone(), rights(&[fd])].concat();
            assert_eq!(checked(&hidden), Err(Errno::EBADF), "{fd}");
        }
        assert_eq!(checked(&rights(&[1; RIGHTS_MAX + 1])), Err(Errno::EINVAL));
    }

    #[test]
    fn only_ones_own_credentials_are_sent() {
        let of = |data: &[u8]| control(libc::SOL_SOCKET, libc::SCM_CREDENTIALS, data);
        assert!(checked(&of(&[7; 12])).is_ok());
        assert_eq!(checked(&of(&[8; 12])), Err(Errno::EPERM));
        assert_eq!(checked(&of(&[7; 11])), Err(Errno::EINVAL));
        assert_eq!(checked(&of(&[7; 13])), Err(Errno::EINVAL));
    }

    #[test]
    fn unknown_control_messages_are_not_sent() {
        assert!(checked(&control(libc::IPPROTO_IP, libc::IP_TTL, &[1, 0, 0, 0])).is_ok());
        for (level, kind) in [
            (libc::SOL_SOCKET, libc::SO_MARK),
            (libc::SOL_SOCKET, libc::SO_TXTIME),
            (libc::IPPROTO_IP, libc::IP_RETOPTS),
            (libc::IPPROTO_IPV6, libc::IPV6_RTHDR),
            (-1, -1),
        ] {
            let bytes = control(level, kind, &[0; 8]);
            assert_eq!(checked(&bytes), Err(Errno::EINVAL), "{level} {kind}");
        }
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let mut bytes = rights(&[1, 2]);
        assert_eq!(checked(&bytes[..CMSG - 1]), Ok(Vec::new()));
        for len in [0, 1, CMSG as u64 - 1, 25, 1 << 32, u64::MAX - 7, u64::MAX] {
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            assert_eq!(checked(&bytes), Err(Errno::EINVAL), "{len}");
            // What the kernel would never write ends the list.
            assert!(incoming(&bytes, LIMIT).fds.is_empty());
        }
        // Half a descriptor is none, as the kernel has it.
        bytes[..8].copy_from_slice(&22u64.to_le_bytes());
        assert!(checked(&bytes).is_ok());
    }

    #[test]
    fn descriptors_out_of_range_are_not_received() {
        let whole = [
            rights(&[3, 4]),
            control(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[9; 16]),
        ]
        .concat();
        let sorted = incoming(&whole, LIMIT);
        assert_eq!(sorted.control, whole);
        assert_eq!((sorted.fds, sorted.refused), (vec![3, 4], vec![]));
        let sorted = incoming(&rights(&[3, LIMIT, 4]), LIMIT);
        assert_eq!(sorted.control, rights(&[3]));
        assert_eq!((sorted.fds, sorted.refused), (vec![3], vec![LIMIT, 4]));
        let sorted = incoming(&rights(&[LIMIT]), LIMIT);
        assert!(sorted.control.is_empty());
        assert_eq!(sorted.refused, [LIMIT]);
        let pidfd = control(libc::SOL_SOCKET, SCM_PIDFD, &[5, 0, 0, 0]);
        assert_eq!(incoming(&pidfd, LIMIT).refused, [5]);
    }

    /// Control data that is mostly well-formed.
    fn data() -> impl Strategy<Value = Vec<u8>> {
        let one = (
            prop_oneof![4 => Just(None), 1 => any::<u64>().prop_map(Some), 1 => (0u64..80).prop_map(Some)],
            prop_oneof![Just(libc::SOL_SOCKET), Just(0), Just(41), any::<i32>()],
            prop_oneof![0..5i32, Just(8), any::<i32>()],
            proptest::collection::vec(prop_oneof![3 => 0..LIMIT, 1 => any::<i32>()], 0..6),
        );
        proptest::collection::vec(one, 0..5).prop_map(|all| {
            let mut bytes = Vec::new();
            for (len, level, kind, words) in all {
                let start = bytes.len();
                let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                let data = data.as_slice();
                Control { level, kind, data }.append(&mut bytes);
                if let Some(len) = len {
                    bytes[start..start + 8].copy_from_slice(&len.to_le_bytes());
                }
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_was_checked(bytes in data()) {
            if let Ok(sent) = checked(&bytes) {
                prop_assert!(sent.len() <= bytes.len().next_multiple_of(ALIGN));
                // It says the same to who reads it again, such as the kernel.
                prop_assert_eq!(checked(&sent), Ok(sent.clone()));
                let received = incoming(&sent, RawFd::MAX);
                prop_assert!(received.fds.iter().all(|fd| (0..LIMIT).contains(fd)));
            }
        }

        #[test]
        fn no_descriptor_gets_lost(bytes in data()) {
            let all = incoming(&bytes, RawFd::MAX);
            let sorted = incoming(&bytes, LIMIT);
            prop_assert!(sorted.control.len() <= bytes.len());
            prop_assert!(sorted.fds.iter().all(|fd| (0..LIMIT).contains(fd)));
            prop_assert_eq!(
                all.fds.len() + all.refused.len(),
                sorted.fds.len() + sorted.refused.len()
            );
            // What the guest gets names those only that are its own now.
            let again = incoming(&sorted.control, RawFd::MAX);
            prop_assert_eq!(again.fds, sorted.fds);
        }
    }
}
