// SPDX-License-Identifier: GPL-2.0

//! A micro-VM: its regions, its memory, its limits.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use uvisor_uapi::{
    self as uapi, CloneFlags, CloneVm, Diff, DiffRange, Limits, Map, MapFlags, Prot, Protect,
    Remap, Reset, Stats, Unmap, VcpuCreate, VcpuFlags,
};

use crate::device::{ioctl, new_fd};
use crate::{Error, Mapping, Result, Vcpu};

/// The whole guest-physical address space of a micro-VM, mapped at once; the offset is the address.
pub type GuestMemory = Mapping;

/// A micro-VM.
///
/// Addresses are guest-physical; addresses and lengths of regions are multiples of
/// [`crate::PAGE_SIZE`].
#[derive(Debug)]
pub struct Vm {
    // A `File` for its positioned reads and writes.
    file: File,
    gpa_bits: u32,
}

impl Vm {
    /// The micro-VM behind `fd`.
    pub(crate) fn new(fd: OwnedFd, gpa_bits: u32) -> Self {
        Self {
            file: fd.into(),
            gpa_bits,
        }
    }

    /// Uses another descriptor of the same file from now on; the old one is closed.
    pub fn replace_fd(&mut self, fd: OwnedFd) {
        self.file = fd.into();
    }

    /// Another handle on the same micro-VM.
    pub fn duplicate(&self) -> Result<Self> {
        let file = self.file.try_clone();
        Ok(Self {
            file: file.map_err(|source| Error::Call {
                call: "F_DUPFD",
                source,
            })?,
            gpa_bits: self.gpa_bits,
        })
    }

    /// The size in bytes of the guest-physical address space.
    pub fn size(&self) -> u64 {
        1 << self.gpa_bits.min(52)
    }

    /// Maps zeroed memory of the micro-VM's own; pages come when they are first touched.
    pub fn map_anonymous(&self, gpa: u64, len: u64, prot: Prot) -> Result<()> {
        self.map(Map {
            gpa,
            len,
            prot: prot.bits(),
            ..Map::new()
        })
    }

    /// Maps the pages of the file `fd` from `offset`; what the guest writes, it writes to a copy.
    pub fn map_file(
        &self,
        gpa: u64,
        len: u64,
        prot: Prot,
        fd: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<()> {
        self.map(Map {
            flags: MapFlags::FILE.bits(),
            gpa,
            len,
            prot: prot.bits(),
            fd: fd.as_raw_fd(),
            offset,
            ..Map::new()
        })
    }

    /// Maps the pages of the file `fd` from `offset`, which all who have it see written
    /// ([`MapFlags::SHARED`]).
    pub fn map_shared(
        &self,
        gpa: u64,
        len: u64,
        prot: Prot,
        fd: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<()> {
        self.map(Map {
            flags: (MapFlags::FILE | MapFlags::SHARED).bits(),
            gpa,
            len,
            prot: prot.bits(),
            fd: fd.as_raw_fd(),
            offset,
            ..Map::new()
        })
    }

    /// Maps the first `len` bytes of the kernel's vDSO data, which this process has at `address`
    /// ([`MapFlags::VVAR`]).
    pub fn map_vvar(&self, gpa: u64, len: u64, address: u64) -> Result<()> {
        self.map(Map {
            flags: MapFlags::VVAR.bits(),
            gpa,
            len,
            prot: Prot::READ.bits(),
            offset: address,
            ..Map::new()
        })
    }

    /// Maps a region.
    pub(crate) fn map(&self, mut argument: Map) -> Result<()> {
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::MAP, "MAP", &mut argument) }.map(drop)
    }

    /// Unmaps what is mapped in a range.
    pub fn unmap(&self, gpa: u64, len: u64) -> Result<()> {
        let mut argument = Unmap {
            gpa,
            len,
            ..Unmap::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::UNMAP, "UNMAP", &mut argument) }.map(drop)
    }

    /// Moves `from`, which lies in one region, to the free range `to`, which is not shorter.
    pub fn remap(&self, from: Range<u64>, to: Range<u64>) -> Result<()> {
        let mut argument = Remap {
            gpa: from.start,
            len: from.end.wrapping_sub(from.start),
            new_gpa: to.start,
            new_len: to.end.wrapping_sub(to.start),
            ..Remap::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::REMAP, "REMAP", &mut argument) }.map(drop)
    }

    /// Gives a whole range the permission `prot`.
    pub fn protect(&self, gpa: u64, len: u64, prot: Prot) -> Result<()> {
        let mut argument = Protect {
            gpa,
            len,
            prot: prot.bits(),
            ..Protect::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::PROTECT, "PROTECT", &mut argument) }.map(drop)
    }

    /// What the micro-VM holds and what happened to it.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::new();
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::STATS, "STATS", &mut stats) }?;
        Ok(stats)
    }

    /// Limits the micro-VM to `bytes` of its own memory; 0 for no limit.
    pub fn set_memory_limit(&self, bytes: u64) -> Result<()> {
        let mut argument = Limits {
            memory_limit: bytes,
            ..Limits::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::LIMITS, "LIMITS", &mut argument) }.map(drop)
    }

    /// Makes a vCPU with the page table at `cr3`, whose `SYSCALL` enters ring 0 at `syscall_entry`
    /// with the flags in `syscall_mask` cleared.
    pub fn create_vcpu(&self, cr3: u64, syscall_entry: u64, syscall_mask: u64) -> Result<Vcpu> {
        let mut argument = VcpuCreate {
            cr3,
            syscall_entry,
            syscall_mask,
            ..VcpuCreate::new()
        };
        // SAFETY: This is the structure of this command.
        let fd = unsafe {
            ioctl(
                self.as_fd(),
                uapi::VCPU_CREATE,
                "VCPU_CREATE",
                &mut argument,
            )
        }?;
        Vcpu::new(new_fd(fd))
    }

    /// Makes a vCPU that begins with the state of `source`, of this micro-VM or of what it is a clone of.
    pub fn create_vcpu_from(&self, source: &Vcpu) -> Result<Vcpu> {
        self.create_vcpu_at(source, 0)
    }

    /// As [`Self::create_vcpu_from`], but its `SYSCALL` enters ring 0 at `syscall_entry`, unless that is 0.
    pub fn create_vcpu_at(&self, source: &Vcpu, syscall_entry: u64) -> Result<Vcpu> {
        const CALL: &str = "VCPU_CREATE from a vCPU";
        let mut argument = VcpuCreate {
            flags: VcpuFlags::SOURCE.bits(),
            syscall_entry,
            source: source.as_fd().as_raw_fd(),
            ..VcpuCreate::new()
        };
        // SAFETY: This is the structure of this command.
        let fd = unsafe { ioctl(self.as_fd(), uapi::VCPU_CREATE, CALL, &mut argument) }?;
        Vcpu::new(new_fd(fd))
    }

    /// Makes a clone, with the same regions and memory, and a limit in bytes for what it has besides (0
    /// for none).
    pub fn share(&self, memory_limit: u64) -> Result<Self> {
        self.share_with(memory_limit, CloneFlags::empty())
    }

    /// As [`Self::share`], with `flags`.
    pub fn share_with(&self, memory_limit: u64, flags: CloneFlags) -> Result<Self> {
        let mut argument = CloneVm {
            flags: flags.bits(),
            memory_limit,
            ..CloneVm::new()
        };
        // SAFETY: This is the structure of this command.
        let fd = unsafe { ioctl(self.as_fd(), uapi::CLONE, "CLONE", &mut argument) }?;
        Ok(Self::new(new_fd(fd), self.gpa_bits))
    }

    /// Makes this a template, for good: nothing changes it any more, and its vCPUs do not run.
    pub fn freeze(&self) -> Result<()> {
        plain_ioctl(self.as_fd(), uapi::FREEZE, "FREEZE").map(drop)
    }

    /// Puts the memory of a clone of a template back to the template's; how many pages of its own it gave
    /// back. Its vCPUs are put back by [`Vcpu::reset`].
    pub fn reset(&self) -> Result<u64> {
        let mut reset = Reset::new();
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::RESET, "RESET", &mut reset) }?;
        Ok(reset.pages)
    }

    /// Forgets the pages in a range, which are zero, or the file's, when they are touched again.
    pub fn discard(&self, gpa: u64, len: u64) -> Result<()> {
        let mut argument = Unmap {
            gpa,
            len,
            ..Unmap::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::DISCARD, "DISCARD", &mut argument) }.map(drop)
    }

    /// The ranges in which a clone of a template does not have the template's pages, in ascending order.
    pub fn diff(&self) -> Result<Vec<Range<u64>>> {
        let mut all: Vec<Range<u64>> = Vec::new();
        let mut start = 0;
        loop {
            let mut ranges = [DiffRange::default(); 256];
            let mut argument = Diff {
                start,
                ranges: ranges.as_mut_ptr() as u64,
                count: ranges.len() as u32,
                ..Diff::new()
            };
            // SAFETY: This is the structure of this command, and its array is as long as it says.
            unsafe { ioctl(self.as_fd(), uapi::DIFF, "DIFF", &mut argument) }?;
            for range in ranges.iter().take(argument.count as usize) {
                let end = range.gpa + range.len;
                match all.last_mut() {
                    Some(last) if last.end == range.gpa => last.end = end,
                    _ => all.push(range.gpa..end),
                }
            }
            if argument.start == 0 {
                return Ok(all);
            }
            start = argument.start;
        }
    }

    /// Fills `buffer` from guest memory at `gpa`; fails with `EFAULT` where the guest itself could
    /// not read.
    pub fn read_at(&self, gpa: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = gpa
                .checked_add(done as u64)
                .ok_or_else(|| Error::errno_of("pread", libc::EFAULT))?;
            done += progress("pread", self.file.read_at(rest, at))?;
        }
        Ok(())
    }

    /// Copies `bytes` to guest memory at `gpa`; fails with `EFAULT` where the guest itself could
    /// not write.
    pub fn write_at(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let at = gpa
                .checked_add(done as u64)
                .ok_or_else(|| Error::errno_of("pwrite", libc::EFAULT))?;
            done += progress("pwrite", self.file.write_at(rest, at))?;
        }
        Ok(())
    }

    /// Maps the whole guest-physical address space; see [`Mapping::address`].
    pub fn memory(&self) -> Result<GuestMemory> {
        let len =
            usize::try_from(self.size()).map_err(|_| Error::errno_of("mmap", libc::EOVERFLOW))?;
        Mapping::new(self.as_fd(), len)
    }
}

impl AsFd for Vm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How far a positioned read or write came: nothing without an error means a bad address.
fn progress(call: &'static str, result: io::Result<usize>) -> Result<usize> {
    match result {
        Ok(0) => Err(Error::errno_of(call, libc::EFAULT)),
        Ok(count) => Ok(count),
        Err(source) if source.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(source) => Err(Error::Call { call, source }),
    }
}

/// Calls a command that takes no structure.
pub(crate) fn plain_ioctl(fd: BorrowedFd<'_>, command: u32, call: &'static str) -> Result<i32> {
    // SAFETY: The command takes no structure.
    unsafe { ioctl(fd, command, call, ptr::null_mut::<u8>()) }
}
