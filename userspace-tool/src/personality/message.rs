// SPDX-License-Identifier: GPL-2.0

//! Headers of sockets' messages: the guest's, which is copied once, and the broker's own, which the kernel gets.

use std::marker::PhantomData;

use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32, Memory, Vectors};

/// The largest address of a socket (`struct sockaddr_storage`).
pub(super) const ADDRESS_MAX: usize = 128;

/// The most control data that is sent with a message.
const SENT_MAX: u64 = 32 << 10;

/// The most control data that is received: more than the kernel has for one message.
const RECEIVED_MAX: u64 = 16 << 10;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;

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
}
