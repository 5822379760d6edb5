// SPDX-License-Identifier: GPL-2.0

//! Memory of the broker's that the guest has as well.
//!
//! Where a file's pages must be written by whoever the file system knows, the broker maps the file itself, in its
//! mapping of the guest's memory at the very place where the guest is to have it. So what both have is one
//! by construction, and each access of the broker's to guest memory comes to it by itself.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;

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

/// Puts something else at a place of the mapping of guest memory by `change`, which gives what the kernel said.
///
/// Where it fails half-way, the kernel leaves a hole, and whatever of the broker's comes there next the guest could
/// reach: so the process ends then. Nothing of Rust's is at the place, and system calls see one thing or the other.
fn change_at(
    place: *mut u8,
    len: usize,
    change: impl FnOnce() -> *mut libc::c_void,
) -> SysResult<()> {
    if change() != libc::MAP_FAILED {
        return Ok(());
    }
    let errno = Errno::last();
    if !is_mapped(place, len) {
        give_up(errno);
    }
    Err(errno)
}

/// The mapping of guest memory is not what the book says, and cannot be made so.
fn give_up(errno: Errno) -> ! {
    eprintln!("uvctl: the kernel has no memory for the mapping of the guest's memory: {errno}");
    std::process::abort()
}

/// Whether there is no hole in a range of this process's.
fn is_mapped(place: *mut u8, len: usize) -> bool {
    const PIECE: usize = 1 << 28;
    let mut pages = vec![0; PIECE / 4096];
    (0..len).step_by(PIECE).all(|start| {
        let part = (len - start).min(PIECE);
        // SAFETY: There is room for a byte for each page; it only looks.
        unsafe { libc::mincore(place.wrapping_add(start).cast(), part, pages.as_mut_ptr()) == 0 }
    })
}

/// Moves a mapping, or with an old length of 0 maps the same of its file once more, to a place of the mapping of guest
/// memory.
fn move_to(place: *mut u8, len: usize, from: *mut libc::c_void, old_len: usize) -> SysResult<()> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: As `change_at` says; the other one is this function's caller's.
    change_at(place, len, || unsafe {
        libc::mremap(from, old_len, len, flags, place)
    })
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

    /// Whether [`Memory::bind`] was called.
    pub(crate) fn is_bound(&self) -> bool {
        self.is_bound.load(Ordering::Relaxed)
    }

    /// From now on, the guest has in regions of user memory what this process has.
    pub(crate) fn bind(&self) -> SysResult<()> {
        let base = self.range(0, 0)?.address();
        loop {
            match self.vm().bind(base as u64).map_err(Errno::from) {
                // The kernel does not wait for locks then; whatever it was is seen to where signals are.
                Err(Errno::EINTR) => {}
                done => break done?,
            }
        }
        self.is_bound.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Maps a file from `offset` for the guest and for this process at one place. If it fails, [`Memory::hide`] is
    /// still to be called.
    pub(crate) fn show(
        &self,
        range: Range<u64>,
        prot: Prot,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> SysResult<()> {
        if !self.is_bound() {
            self.bind()?;
        }
        let (place, len) = (self.place(&range)?, len(&range));
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let (prot_here, fd) = (host_prot(prot), file.as_raw_fd());
        // Somewhere first, as files may refuse to be mapped, and the kernel makes room before it asks them.
        //
        // SAFETY: The kernel chooses an unused place.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, prot_here, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        move_to(place, len, base, len).inspect_err(|_| {
            // SAFETY: It is where it was, and nobody else's.
            unsafe { libc::munmap(base, len) };
        })?;
        Ok(self.vm().map_user(range.start, len as u64, prot)?)
    }

    /// Puts the guest's memory back to a range in which files were, and in which none are to stay. What is there
    /// otherwise, a system call of the guest's would find; so the process ends if the kernel cannot.
    pub(crate) fn hide(&self, range: Range<u64>) {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE;
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let fd = self.vm().as_fd().as_raw_fd();
        let hidden = self.place(&range).and_then(|place| {
            let offset = libc::off_t::try_from(range.start).map_err(|_| Errno::EOVERFLOW)?;
            let (at, len) = (place.cast(), len(&range));
            // SAFETY: As `change_at` says.
            change_at(place, len, || unsafe {
                libc::mmap(at, len, both, flags, fd, offset)
            })
        });
        if let Err(errno) = hidden {
            give_up(errno);
        }
    }

    /// What this process may do with a file that it has there; the guest's regions stay.
    pub(crate) fn protect(&self, range: Range<u64>, prot: Prot) -> SysResult<()> {
        let place = self.place(&range)?;
        // SAFETY: Nothing of Rust's is there, and what a system call may not do there is an error of its.
        match unsafe { libc::mprotect(place.cast(), len(&range), host_prot(prot)) } {
            0 => Ok(()),
            _ => Err(Errno::last()),
        }
    }

    /// Shows a file also at another range, which it fills from its offset on; the guest's regions stay.
    pub(crate) fn show_again(&self, from: Range<u64>, to: Range<u64>) -> SysResult<()> {
        // It is not moved, as that would leave a hole until it is filled.
        move_to(self.place(&to)?, len(&to), self.place(&from)?.cast(), 0)
    }

    /// Takes a file over that the parent of this process had there in its mapping of `parent`.
    pub(crate) fn inherit(&self, parent: &Self, range: Range<u64>) -> SysResult<()> {
        let (from, len) = (parent.place(&range)?, len(&range));
        move_to(self.place(&range)?, len, from.cast(), len)
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

    /// [`Memory::show`], which without a micro-VM does all but the last step.
    fn show(memory: &Memory, range: Range<u64>, file: &std::fs::File, offset: u64) {
        memory.is_bound.store(true, Ordering::Relaxed);
        let prot = Prot::READ | Prot::WRITE;
        let shown = memory.show(range, prot, file.as_fd(), offset);
        assert_eq!(shown, Err(Errno::ENOTTY));
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
        memory.show_again(0x2000..0x5000, 0x8000..0xc000).unwrap();
        assert_eq!(bytes(&[0x2000, 0x8000]), [Ok(2), Ok(2)]);
        memory.hide(0x2000..0x5000);
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
        memory.hide(0x8000..0xc000);
        assert_eq!(bytes(&[0x8000, 0x9000, 0xb000]), [Ok(0), Ok(0), Ok(0)]);
    }

    /// What cannot be mapped leaves all as it was, and no hole, to which anything of this process could come.
    #[test]
    fn what_cannot_be_mapped_makes_no_hole() {
        let memory = memory(0x10000);
        memory.is_bound.store(true, Ordering::Relaxed);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let range = 0x2000..0x5000;
        let shown = memory.show(range.clone(), Prot::READ, socket.as_fd(), 0);
        assert_eq!(shown, Err(Errno::ENODEV));
        assert!(is_mapped(memory.place(&range).unwrap(), len(&range)));
        assert_eq!(byte(&memory, 0x3000), Ok(0));
        // SAFETY: It is at the end of the mapping, and nobody else's.
        unsafe { libc::munmap(memory.place(&(0x6000..0x7000)).unwrap().cast(), 4096) };
        let around = memory.place(&(0x5000..0x8000)).unwrap();
        assert!(!is_mapped(around, 3 * 4096));
        memory.hide(0x6000..0x7000);
        assert!(is_mapped(around, 3 * 4096));
    }

    #[test]
    fn files_are_inherited() {
        let (parent, child, file) = (memory(0x10000), memory(0x10000), file());
        show(&parent, 0x2000..0x4000, &file, 0);
        child.inherit(&parent, 0x2000..0x4000).unwrap();
        assert_eq!(byte(&child, 0x3000), Ok(2));
    }
}
