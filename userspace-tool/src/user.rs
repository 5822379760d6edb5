// SPDX-License-Identifier: GPL-2.0

//! Memory of the broker's that the guest has as well.
//!
//! Where a file's pages must be written by whoever the file system knows, the broker maps the file itself, in its
//! mapping of the guest's memory at the very place where the guest is to have it. So what both have is one
//! by construction, and each access of the broker's to guest memory comes to it by itself.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use uvisor_uapi::{self as uapi, Bind, Map, MapFlags, Prot};

use crate::device::ioctl;
use crate::errno::{Errno, SysResult};
use crate::memory::Memory;
use crate::{Result, Vm};

impl Vm {
    /// Maps what the process that the micro-VM is bound to has there ([`MapFlags::USER`]).
    pub fn map_user(&self, gpa: u64, len: u64, prot: Prot) -> Result<()> {
        self.map(Map {
            flags: MapFlags::USER.bits(),
            gpa,
            len,
            prot: prot.bits(),
            ..Map::new()
        })
    }

    /// Binds it to this process, which has what is to be at address 0 at `address` ([`uapi::BIND`]).
    pub fn bind(&self, address: u64) -> Result<()> {
        let mut argument = Bind {
            address,
            ..Bind::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::BIND, "BIND", &mut argument) }.map(drop)
    }
}

/// Whether a micro-VM was bound to this process.
#[derive(Debug, Default)]
pub(crate) struct IsBound(AtomicBool);

/// What the broker may do with memory that the guest may use so. It executes nothing there.
fn host_prot(prot: Prot) -> i32 {
    let mut result = libc::PROT_NONE;
    if prot.contains(Prot::READ) {
        result |= libc::PROT_READ;
    }
    if prot.contains(Prot::WRITE) {
        result |= libc::PROT_WRITE;
    }
    result
}

/// Maps a file at a place of a mapping of the caller's, which nothing of Rust's is in.
fn map_at(
    place: *mut u8,
    len: usize,
    prot: i32,
    file: BorrowedFd<'_>,
    offset: u64,
) -> SysResult<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: The caller has the range mapped for accesses by system calls only, which see one file or the other.
    let base = unsafe { libc::mmap(place.cast(), len, prot, flags, file.as_raw_fd(), offset) };
    match base == libc::MAP_FAILED {
        true => Err(Errno::last()),
        false => Ok(()),
    }
}

/// The length of a range, which is the guest's, and so one of this process's.
fn len(range: &Range<u64>) -> usize {
    range.end.saturating_sub(range.start) as usize
}

impl Memory {
    /// Where the broker has a range.
    fn place(&self, range: &Range<u64>) -> SysResult<*mut u8> {
        Ok(self.range(range.start, len(range))?.address())
    }

    /// From now on, the guest has in regions of user memory what this process has.
    pub(crate) fn bind(&self) -> SysResult<()> {
        let base = self.range(0, 0)?.address();
        self.vm().bind(base as u64)?;
        self.is_bound.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Maps a file from `offset` for the guest and for this process at one place.
    pub(crate) fn show(
        &self,
        range: Range<u64>,
        prot: Prot,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> SysResult<()> {
        if !self.is_bound.0.load(Ordering::Relaxed) {
            self.bind()?;
        }
        map_at(
            self.place(&range)?,
            len(&range),
            host_prot(prot),
            file,
            offset,
        )?;
        let mapped = self.vm().map_user(range.start, len(&range) as u64, prot);
        mapped.or_else(|error| {
            self.hide(range)?;
            Err(error.into())
        })
    }

    /// Puts the guest's memory back to a place where a file was.
    pub(crate) fn hide(&self, range: Range<u64>) -> SysResult<()> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let vm = self.vm().as_fd();
        map_at(self.place(&range)?, len(&range), both, vm, range.start)
    }

    /// What this process may do with a file that it has there; the guest's regions stay.
    pub(crate) fn protect(&self, range: Range<u64>, prot: Prot) -> SysResult<()> {
        let place = self.place(&range)?;
        // SAFETY: As in `map_at`: what a system call may not do there is an error of its.
        match unsafe { libc::mprotect(place.cast(), len(&range), host_prot(prot)) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Moves a file to another range, which it fills from its offset on; the guest's regions stay.
    pub(crate) fn carry(&self, from: Range<u64>, to: Range<u64>) -> SysResult<()> {
        move_mapping(self.place(&from)?, len(&from), self.place(&to)?, len(&to))?;
        self.hide(from)
    }

    /// Takes a file over that the parent of this process had there in its mapping of `parent`.
    pub(crate) fn inherit(&self, parent: &Self, range: Range<u64>) -> SysResult<()> {
        let (from, to) = (parent.place(&range)?, self.place(&range)?);
        move_mapping(from, len(&range), to, len(&range))
    }

    /// Writes back what was written to files in a range, as `msync`.
    pub(crate) fn sync(&self, range: Range<u64>, flags: i32) -> SysResult<()> {
        let place = self.place(&range)?;
        // SAFETY: It changes nothing in memory.
        match unsafe { libc::msync(place.cast(), len(&range), flags) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }
}

/// Moves a mapping to the place of another one.
fn move_mapping(from: *mut u8, len: usize, to: *mut u8, new_len: usize) -> SysResult<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: As in `map_at`, for both places.
    let moved = unsafe { libc::mremap(from.cast(), len, new_len, flags, to) };
    match moved == libc::MAP_FAILED {
        true => Err(Errno::last()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;

    /// A file of four pages, each full of its number.
    fn file() -> std::fs::File {
        use std::io::Write;
        let mut file = tempfile();
        for page in 1..=4 {
            file.write_all(&[page; 4096]).unwrap();
        }
        file
    }

    fn tempfile() -> std::fs::File {
        use std::os::fd::FromRawFd;
        let path = std::env::temp_dir();
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: The path is a string.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600) };
        assert!(fd >= 0);
        // SAFETY: Just made.
        unsafe { std::fs::File::from_raw_fd(fd) }
    }

    /// The byte at an address, as a system call reads it.
    fn byte(memory: &Memory, address: u64) -> SysResult<u8> {
        let range = memory.range(address, 1)?;
        let (mut from, to) = std::os::unix::net::UnixStream::pair().unwrap();
        // SAFETY: The kernel checks the address.
        let count = unsafe { libc::write(to.as_raw_fd(), range.address().cast(), 1) };
        if count != 1 {
            return Err(Errno::last());
        }
        let mut byte = [0];
        std::io::Read::read_exact(&mut from, &mut byte).unwrap();
        Ok(byte[0])
    }

    /// [`Memory::show`] without a micro-VM.
    fn show(memory: &Memory, range: Range<u64>, file: &std::fs::File, offset: u64) {
        let place = memory.place(&range).unwrap();
        let prot = host_prot(Prot::READ | Prot::WRITE);
        map_at(place, len(&range), prot, file.as_fd(), offset).unwrap();
    }

    #[test]
    fn files_are_shown_moved_and_hidden() {
        let (memory, file) = (memory(0x10000), file());
        show(&memory, 0x2000..0x5000, &file, 0x1000);
        let bytes = |at: &[u64]| at.iter().map(|&at| byte(&memory, at)).collect::<Vec<_>>();
        assert_eq!(
            bytes(&[0x1000, 0x2000, 0x4fff, 0x5000]),
            [Ok(0), Ok(2), Ok(4), Ok(0)]
        );
        // What is behind the file is a fault, and not the guest's memory.
        memory.carry(0x2000..0x5000, 0x8000..0xc000).unwrap();
        assert_eq!(
            bytes(&[0x2000, 0x4000, 0x8000, 0xafff, 0xb000, 0xc000]),
            [Ok(0), Ok(0), Ok(2), Ok(4), Err(Errno::EFAULT), Ok(0)]
        );
        memory.protect(0x9000..0xa000, Prot::empty()).unwrap();
        assert_eq!(
            bytes(&[0x8000, 0x9000, 0xa000]),
            [Ok(2), Err(Errno::EFAULT), Ok(4)]
        );
        memory.sync(0x8000..0xb000, libc::MS_SYNC).unwrap();
        memory.hide(0x8000..0xc000).unwrap();
        assert_eq!(bytes(&[0x8000, 0x9000, 0xb000]), [Ok(0), Ok(0), Ok(0)]);
    }

    #[test]
    fn files_are_inherited() {
        let (parent, child, file) = (memory(0x10000), memory(0x10000), file());
        show(&parent, 0x2000..0x4000, &file, 0);
        child.inherit(&parent, 0x2000..0x4000).unwrap();
        assert_eq!(byte(&child, 0x3000), Ok(2));
    }
}
