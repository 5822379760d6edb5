// SPDX-License-Identifier: GPL-2.0

//! Messages of sockets: headers, and the control data that goes with them.
//!
//! A header of the guest's is copied once. What the kernel gets is a header of the broker's, with control
//! data that was made anew from what was checked.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32, Memory, Vectors};
use crate::personality::Fds;

/// The largest address of a socket (`struct sockaddr_storage`).
pub(super) const ADDRESS_MAX: usize = 128;

/// The most control data that is sent with a message.
const SENT_MAX: u64 = 32 << 10;

/// The most control data that is received: more than the kernel has for one message.
const RECEIVED_MAX: u64 = 16 << 10;

/// The size of a `struct cmsghdr`, and what control messages are aligned to.
const CMSG: usize = 16;
const ALIGN: usize = 8;

/// The most descriptors in a message.
const RIGHTS_MAX: usize = 253;

/// Kinds of control messages that `libc` does not have.
const SCM_PIDFD: i32 = 4;
const UDP_SEGMENT: i32 = 103;

/// A message, for `sendmsg` and `recvmsg`.
#[derive(Debug)]
pub(super) struct Message<'a> {
    name: Vec<u8>,
    vectors: Vectors<'a>,
    control: Vec<u8>,
    header: libc::msghdr,
}

/// Where the header of a message is. What it points to belongs to the message, or is the guest's memory.
#[derive(Debug)]
pub struct MessagePointer<'a> {
    header: *mut libc::msghdr,
    message: PhantomData<&'a mut libc::msghdr>,
}

impl MessagePointer<'_> {
    /// The address.
    pub fn address(&self) -> *mut libc::msghdr {
        self.header
    }
}

impl<'a> Message<'a> {
    /// One with an address, data and control data, or room for these.
    pub(super) fn new(name: Vec<u8>, vectors: Vectors<'a>, control: Vec<u8>) -> Self {
        let mut message = Self {
            name,
            vectors,
            control,
            header: libc::msghdr {
                msg_name: std::ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: std::ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: std::ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
        };
        message.point();
        message
    }

    /// Makes the header say what there is.
    fn point(&mut self) {
        let header = &mut self.header;
        header.msg_namelen = self.name.len() as libc::socklen_t;
        header.msg_iovlen = self.vectors.len();
        header.msg_controllen = self.control.len();
        if !self.name.is_empty() {
            header.msg_name = self.name.as_mut_ptr().cast();
        }
        if !self.control.is_empty() {
            header.msg_control = self.control.as_mut_ptr().cast();
        }
        header.msg_iov = self.vectors.address().cast_mut();
    }

    /// The header, for a system call.
    pub(super) fn pointer(&mut self) -> MessagePointer<'_> {
        self.point();
        MessagePointer {
            header: &mut self.header,
            message: PhantomData,
        }
    }

    /// The address that came, as far as there was room for it, and how long it is.
    pub(super) fn name(&self) -> (&[u8], u32) {
        let len = self.header.msg_namelen;
        let name = self.name.get(..len as usize).unwrap_or(&self.name);
        (name, len)
    }

    /// The control data that came.
    pub(super) fn control(&self) -> &[u8] {
        let len = self.header.msg_controllen;
        self.control.get(..len).unwrap_or(&self.control)
    }

    /// The flags that came.
    pub(super) fn flags(&self) -> i32 {
        self.header.msg_flags
    }
}

/// A guest's `struct msghdr`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    address: u64,
    pub(super) name: u64,
    /// Of the address; at most [`ADDRESS_MAX`].
    pub(super) name_len: usize,
    vectors: u64,
    count: u64,
    control: u64,
    control_len: u64,
}

/// The size of a `struct msghdr`.
pub(super) const HEADER: usize = 56;

impl Header {
    /// Copies one.
    pub(super) fn read(memory: &Memory, address: u64) -> SysResult<Self> {
        let bytes = memory.read::<HEADER>(address)?;
        let name = word(&bytes, 0);
        let name_len = match name {
            0 => 0,
            _ => usize::try_from(word32(&bytes, 8) as i32).map_err(|_| Errno::EINVAL)?,
        };
        Ok(Self {
            address,
            name,
            name_len: name_len.min(ADDRESS_MAX),
            vectors: word(&bytes, 16),
            count: word(&bytes, 24),
            control: word(&bytes, 32),
            control_len: word(&bytes, 40),
        })
    }

    /// The data.
    pub(super) fn vectors<'a>(&self, memory: &'a Memory) -> SysResult<Vectors<'a>> {
        if self.count > 1024 {
            return Err(Errno::EMSGSIZE);
        }
        memory.vectors(self.vectors, self.count)
    }

    /// The control data to send.
    pub(super) fn control(&self, memory: &Memory) -> SysResult<Vec<u8>> {
        match (self.control, self.control_len) {
            (_, 0) => Ok(Vec::new()),
            (_, len) if len > SENT_MAX => Err(Errno::ENOBUFS),
            (address, len) => memory.read_vec(address, len as usize),
        }
    }

    /// Room for the control data to receive.
    pub(super) fn control_room(&self) -> Vec<u8> {
        match self.control {
            0 => Vec::new(),
            _ => vec![0; self.control_len.min(RECEIVED_MAX) as usize],
        }
    }

    /// Writes what came with a message, but for the data.
    pub(super) fn write(
        &self,
        memory: &Memory,
        (name, name_len): (&[u8], u32),
        control: &[u8],
        flags: i32,
    ) -> SysResult<()> {
        if self.name != 0 {
            memory.write(self.name, name)?;
            memory.write(self.address + 8, &name_len.to_le_bytes())?;
        }
        if self.control != 0 {
            memory.write(self.control, control)?;
        }
        let len = control.len() as u64;
        memory.write(self.address + 40, &len.to_le_bytes())?;
        memory.write(self.address + 48, &flags.to_le_bytes())
    }
}

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
    use crate::memory::tests::memory;
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

    #[test]
    fn headers_are_checked() {
        let memory = memory(8192);
        let put = |offset: u64, value: u64| memory.write(offset, &value.to_le_bytes()).unwrap();
        assert!(Header::read(&memory, 8192 - 55).is_err());
        assert!(Header::read(&memory, u64::MAX).is_err());
        // A null address has no length, whatever the header says.
        put(8, u64::from(u32::MAX));
        assert_eq!(Header::read(&memory, 0).unwrap().name_len, 0);
        put(0, 4096);
        assert_eq!(Header::read(&memory, 0).unwrap_err(), Errno::EINVAL);
        put(8, 4096);
        assert_eq!(Header::read(&memory, 0).unwrap().name_len, ADDRESS_MAX);
        for (count, error) in [(1025, Errno::EMSGSIZE), (u64::MAX, Errno::EMSGSIZE)] {
            put(24, count);
            let header = Header::read(&memory, 0).unwrap();
            assert_eq!(header.vectors(&memory).unwrap_err(), error);
        }
        put(24, 1);
        put(16, memory.limit());
        let header = Header::read(&memory, 0).unwrap();
        assert_eq!(header.vectors(&memory).unwrap_err(), Errno::EFAULT);
        put(32, 8184);
        for (len, error) in [
            (9, Errno::EFAULT),
            (SENT_MAX, Errno::EFAULT),
            (SENT_MAX + 1, Errno::ENOBUFS),
            (u64::MAX, Errno::ENOBUFS),
        ] {
            put(40, len);
            let header = Header::read(&memory, 0).unwrap();
            assert_eq!(header.control(&memory).unwrap_err(), error, "{len}");
            assert!(header.control_room().len() as u64 <= RECEIVED_MAX);
        }
        put(40, 8);
        let header = Header::read(&memory, 0).unwrap();
        assert_eq!(header.control(&memory).unwrap().len(), 8);
    }

    #[test]
    fn what_came_is_written_back() {
        let memory = memory(8192);
        // The address lies over the header: the fields that are written last win, as on Linux.
        memory.write(0, &16u64.to_le_bytes()).unwrap();
        memory.write(8, &128u64.to_le_bytes()).unwrap();
        let header = Header::read(&memory, 0).unwrap();
        header
            .write(&memory, (&[0xff; 64], 77), &[], libc::MSG_TRUNC)
            .unwrap();
        assert_eq!(memory.read::<4>(8), Ok(77u32.to_le_bytes()));
        assert_eq!(memory.read::<8>(40), Ok([0; 8]));
        assert_eq!(memory.read::<4>(48), Ok(libc::MSG_TRUNC.to_le_bytes()));
        assert_eq!(memory.read::<4>(52), Ok([0xff; 4]));
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
