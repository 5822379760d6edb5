// SPDX-License-Identifier: GPL-2.0

//! Guest memory as the broker sees it.
//!
//! A pointer of the guest's is a number until it has become a [`GuestRange`], which is for the kernel
//! only, or its bytes have been copied. Either way the guest's own permission decides: what it
//! could not touch itself is `EFAULT`.

use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::atomic::AtomicBool;

use uvisor_uapi::Serve;

use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::{GuestMemory, Mapping, Vm};

/// The longest path that the kernel takes, with its NUL.
pub const PATH_MAX: usize = 4096;

/// The most vectors that a call takes.
const IOV_MAX: u64 = 1024;

/// The most bytes that one read or write moves, as Linux has it.
const MAX_RW: u64 = 0x7fff_f000;

/// Guest memory that a system call may be pointed at.
#[derive(Clone, Copy, Debug)]
pub struct GuestRange<'a> {
    address: *mut u8,
    len: usize,
    memory: PhantomData<&'a Memory>,
}

impl<'a> GuestRange<'a> {
    /// `len` bytes at `offset` of memory that the broker has mapped besides the guest's.
    pub fn of_mapping(mapping: &'a Mapping, offset: u64, len: usize) -> SysResult<Self> {
        let address = mapping.address(offset, len as u64).ok_or(Errno::EFAULT)?;
        Ok(Self {
            address,
            len,
            memory: PhantomData,
        })
    }

    /// Where the broker has it.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Guest memory in pieces.
#[derive(Debug)]
pub struct Vectors<'a> {
    vectors: Vec<libc::iovec>,
    memory: PhantomData<&'a Memory>,
}

impl Vectors<'_> {
    /// Where the array is.
    pub fn address(&self) -> *const libc::iovec {
        self.vectors.as_ptr()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.vectors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.vectors.is_empty()
    }
}

/// The memory of a task.
#[derive(Debug)]
pub struct Memory {
    mapping: GuestMemory,
    vm: Vm,
    limit: u64,
    /// Whether the micro-VM was bound to this process.
    pub(crate) is_bound: AtomicBool,
}

impl Memory {
    /// The memory of `vm` below `limit`, which is the task's.
    pub fn new(vm: Vm, limit: u64) -> crate::Result<Self> {
        Ok(Self {
            mapping: vm.memory()?,
            limit: limit.min(vm.size()),
            is_bound: AtomicBool::new(false),
            vm,
        })
    }

    /// The micro-VM.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The end of what the task can address.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// `len` bytes at `address` for a system call.
    pub fn range(&self, address: u64, len: usize) -> SysResult<GuestRange<'_>> {
        let end = address.checked_add(len as u64).ok_or(Errno::EFAULT)?;
        if end > self.limit {
            return Err(Errno::EFAULT);
        }
        let address = self
            .mapping
            .address(address, len as u64)
            .ok_or(Errno::EFAULT)?;
        Ok(GuestRange {
            address,
            len,
            memory: PhantomData,
        })
    }

    /// What the module needs to serve system calls on this memory and on descriptors below `fds`.
    pub fn serve(&self, fds: u64) -> Serve {
        let base = self.mapping.address(0, self.limit);
        base.map_or(Serve::default(), |base| Serve {
            fds,
            base: base as u64,
            len: self.limit,
        })
    }

    /// As [`Self::range`], or `None` for a null pointer.
    pub fn optional(&self, address: u64, len: usize) -> SysResult<Option<GuestRange<'_>>> {
        match address {
            0 => Ok(None),
            _ => self.range(address, len).map(Some),
        }
    }

    /// The buffer of a read or write, cut to what one call moves; and its length.
    pub fn buffer(&self, address: u64, len: u64) -> SysResult<(GuestRange<'_>, u64)> {
        if len > i64::MAX as u64 {
            return Err(Errno::EFAULT);
        }
        // Cut at the end of the guest's memory too: nothing is there for the kernel to come to.
        let len = match self.limit.checked_sub(address) {
            Some(left) => len.min(MAX_RW).min(left),
            None => return Err(Errno::EFAULT),
        };
        if len == 0 && address == self.limit {
            return Err(Errno::EFAULT);
        }
        Ok((self.range(address, len as usize)?, len))
    }

    /// Copies `N` bytes from `address`.
    pub fn read<const N: usize>(&self, address: u64) -> SysResult<[u8; N]> {
        let mut bytes = [0; N];
        self.read_into(address, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Self::read`], or `None` for a null pointer.
    pub fn read_optional<const N: usize>(&self, address: u64) -> SysResult<Option<[u8; N]>> {
        match address {
            0 => Ok(None),
            _ => self.read(address).map(Some),
        }
    }

    /// Fills `bytes` from `address`.
    pub fn read_into(&self, address: u64, bytes: &mut [u8]) -> SysResult<()> {
        if bytes.is_empty() {
            // As on Linux, an address that nothing is read from can be any.
            return Ok(());
        }
        self.range(address, bytes.len())?;
        self.bound(|| self.vm.read_at(address, bytes))
    }

    /// Does something with the micro-VM's file; if it finds nothing there, once more when the micro-VM is certainly
    /// bound to this process, and not to the child of a `vfork`.
    fn bound(&self, mut act: impl FnMut() -> crate::Result<()>) -> SysResult<()> {
        match act().map_err(Errno::from) {
            Err(Errno::EFAULT) if self.is_bound() => {
                self.bind()?;
                Ok(act()?)
            }
            done => done,
        }
    }

    /// Copies `len` bytes from `address`; the caller has bounded `len`.
    pub fn read_vec(&self, address: u64, len: usize) -> SysResult<Vec<u8>> {
        // Checked before anything of that size is allocated.
        self.range(address, len)?;
        let mut bytes = vec![0; len];
        self.read_into(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies a structure that may be longer where the program knows more of it than we do: what we do
    /// not know must be zero.
    pub fn structure<const N: usize>(&self, address: u64, size: u64) -> SysResult<[u8; N]> {
        if size < N as u64 {
            return Err(Errno::EINVAL);
        }
        if size > PATH_MAX as u64 {
            return Err(Errno::E2BIG);
        }
        let bytes = self.read_vec(address, size as usize)?;
        let (known, rest) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
        match rest.iter().all(|&byte| byte == 0) {
            true => Ok(*known),
            false => Err(Errno::E2BIG),
        }
    }

    /// Copies `bytes` to `address`.
    pub fn write(&self, address: u64, bytes: &[u8]) -> SysResult<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.range(address, bytes.len())?;
        self.bound(|| self.vm.write_at(address, bytes))
    }

    /// Fails with `EFAULT` where [`Self::write`] of so many bytes would, for what cannot be undone later.
    pub fn check_writable<const N: usize>(&self, address: u64) -> SysResult<()> {
        self.write(address, &self.read::<N>(address)?)
    }

    /// Copies `bytes` to `address`, unless that is null.
    pub fn write_optional(&self, address: u64, bytes: &[u8]) -> SysResult<()> {
        match address {
            0 => Ok(()),
            _ => self.write(address, bytes),
        }
    }

    /// Copies a path.
    pub fn path(&self, address: u64) -> SysResult<CString> {
        let path = self.text(address, PATH_MAX, Errno::ENAMETOOLONG)?;
        notes::note(|notes| notes.paths.push(path.clone()));
        Ok(path)
    }

    /// Copies a NUL-terminated string of at most `max` bytes; `too_long` is the error of a longer
    /// one.
    pub fn text(&self, address: u64, max: usize, too_long: Errno) -> SysResult<CString> {
        // Pieces that do not cross a page, so that nothing behind the NUL's page is touched.
        const PIECE: u64 = 256;
        let mut text = Vec::new();
        let mut at = address;
        while text.len() < max {
            let end = (at | (PIECE - 1)).checked_add(1).ok_or(Errno::EFAULT)?;
            let mut piece = [0; PIECE as usize];
            let piece = &mut piece[..(end - at) as usize];
            self.read_into(at, piece)?;
            if let Some(nul) = piece.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&piece[..nul]);
                if text.len() >= max {
                    break;
                }
                return CString::new(text).map_err(|_| Errno::EINVAL);
            }
            text.extend_from_slice(piece);
            at = end;
        }
        Err(too_long)
    }

    /// Copies a string up to its NUL, or its first `N` bytes if it is longer.
    pub fn start_of_text<const N: usize>(&self, address: u64) -> SysResult<Vec<u8>> {
        let mut text = Vec::with_capacity(N);
        for at in 0..N as u64 {
            match self.read(address.checked_add(at).ok_or(Errno::EFAULT)?)? {
                [0] => break,
                [byte] => text.push(byte),
            }
        }
        Ok(text)
    }

    /// Copies and translates `count` vectors at `address`.
    pub fn vectors(&self, address: u64, count: u64) -> SysResult<Vectors<'_>> {
        if count > IOV_MAX {
            return Err(Errno::EINVAL);
        }
        let bytes = self.read_vec(address, count as usize * 16)?;
        let mut left = MAX_RW;
        let mut vectors = Vec::with_capacity(count as usize);
        for vector in bytes.chunks_exact(16) {
            let (base, len) = (word(vector, 0), word(vector, 8));
            if len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            // What exceeds the total is cut off, as the kernel does.
            let len = len.min(left);
            left -= len;
            let range = self.range(base, len as usize)?;
            vectors.push(libc::iovec {
                iov_base: range.address().cast(),
                iov_len: range.len(),
            });
        }
        Ok(Vectors {
            vectors,
            memory: PhantomData,
        })
    }
}

/// The 64-bit word at `offset` of a structure; zero beyond its end.
pub fn word(bytes: &[u8], offset: usize) -> u64 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// The 32-bit word at `offset` of a structure; zero beyond its end.
pub fn word32(bytes: &[u8], offset: usize) -> u32 {
    bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |word| u32::from_le_bytes(*word))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::layout::GIB;
    use std::fs::File;
    use std::os::fd::FromRawFd;

    /// Memory over a memory file of `len` bytes; what is beyond its end faults.
    pub(crate) fn memory(len: u64) -> Memory {
        // SAFETY: The name is a NUL-terminated string.
        let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: The kernel just made this descriptor for us.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(len).unwrap();
        Memory::new(Vm::new(file.into(), 36), (1 << 36) - GIB).unwrap()
    }

    #[test]
    fn bad_pointers_are_faults() {
        let memory = memory(8192);
        let limit = memory.limit();
        assert_eq!(memory.read::<8>(8184), Ok([0; 8]));
        for address in [8185, 8192, limit - 4, limit, u64::MAX - 3, u64::MAX] {
            assert_eq!(memory.read::<8>(address), Err(Errno::EFAULT));
            assert!(memory.vectors(address, 1).is_err());
        }
        for address in [8192, limit, u64::MAX - 3, u64::MAX] {
            assert_eq!(memory.path(address), Err(Errno::EFAULT));
        }
        assert!(memory.range(limit - 8, 8).is_ok());
        assert!(memory.range(limit - 8, 9).is_err());
        assert!(memory.range(8, usize::MAX).is_err());
        assert!(memory.buffer(0, u64::MAX).is_err());
        assert_eq!(memory.buffer(0, 1 << 40).unwrap().1, MAX_RW);
    }

    #[test]
    fn strings_end_at_their_nul() {
        let memory = memory(16384);
        // The last bytes of the last page: nothing behind it may be touched.
        memory.write(16380, b"abc\0").unwrap();
        assert_eq!(memory.path(16380).unwrap().as_bytes(), b"abc");
        memory.write(16383, b"d").unwrap();
        assert_eq!(memory.path(16380), Err(Errno::EFAULT));
        memory.write(0, &[b'x'; 4095]).unwrap();
        memory.write(4095, b"\0").unwrap();
        assert_eq!(memory.path(0).unwrap().as_bytes().len(), 4095);
        memory.write(4095, b"x\0").unwrap();
        assert_eq!(memory.path(0), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn vectors_are_checked_and_cut() {
        let memory = memory(8192);
        let put = |index: u64, base: u64, len: u64| {
            memory.write(index * 16, &base.to_le_bytes()).unwrap();
            memory.write(index * 16 + 8, &len.to_le_bytes()).unwrap();
        };
        put(0, 4096, 10);
        put(1, 4096, u64::MAX);
        assert_eq!(memory.vectors(0, 1).unwrap().len(), 1);
        assert_eq!(memory.vectors(0, 2).unwrap_err(), Errno::EINVAL);
        put(1, 4096, MAX_RW);
        let vectors = memory.vectors(0, 2).unwrap();
        assert_eq!(vectors.vectors[1].iov_len as u64, MAX_RW - 10);
        assert_eq!(memory.vectors(0, 1025).unwrap_err(), Errno::EINVAL);
        assert_eq!(memory.vectors(0, 0).unwrap().len(), 0);
    }
}
