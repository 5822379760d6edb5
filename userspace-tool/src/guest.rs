// SPDX-License-Identifier: GPL-2.0

//! What a micro-VM holds besides the task: page tables that map everything one to one, and the shim.
//!
//! They are the same for every micro-VM and never change, so they are built once, in a sealed memory
//! file, and mapped from there without write permission. The CPU therefore cannot set
//! accessed and dirty bits in them; all are set from the start.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};
use uvisor_uapi::{Prot, PAGE_SIZE};

use crate::device::Machine;
use crate::layout::GIB;
use crate::{Device, Error, Result, Vcpu, Vm};

/// The shim, or the part of it that is the same for all.
///
/// * `vmcall; sysretq`, for a guest whose system calls all leave the micro-VM. Those of a task enter in
///   [`crate::stubs`].
/// * At [`Shim::STORE`] and [`Shim::LOAD`], `xsave64 [rdi]; vmcall` and `xrstor64 [rdi]; vmcall`, which the broker has run.
const SHIM: [u8; 24] = [
    0x0f, 0x01, 0xc1, 0x48, 0x0f, 0x07, 0xcc, 0xcc, //
    0x48, 0x0f, 0xae, 0x27, 0x0f, 0x01, 0xc1, 0xcc, //
    0x48, 0x0f, 0xae, 0x2f, 0x0f, 0x01, 0xc1, 0xcc,
];

/// Where the shim is in the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shim {
    /// The guest-physical address of its page.
    page: u64,
}

impl Shim {
    /// The code that stores the extended state, and that which loads it, in the shim's page.
    pub const STORE: u64 = 8;
    /// See [`Self::STORE`].
    pub const LOAD: u64 = 16;

    /// Where a part of the shim is, guest-virtual.
    pub fn at(self, part: u64) -> u64 {
        SHIM_BASE + (self.page & (GIB - 1)) + part
    }

    /// The guest-physical address of the stubs, right behind the shim.
    pub fn stubs(self) -> u64 {
        self.page + PAGE_SIZE
    }

    /// Where they are, guest-virtual.
    pub fn stubs_at(self) -> u64 {
        self.at(PAGE_SIZE)
    }
}

/// What `SYSCALL` clears in RFLAGS: exactly what Linux has it clear, so that the module need not
/// exchange the MSR. Interrupts reach the host whatever the guest's IF is.
const SYSCALL_MASK: u64 = flags::CF
    | flags::PF
    | flags::AF
    | flags::ZF
    | flags::SF
    | flags::TF
    | flags::IF
    | flags::DF
    | flags::OF
    | flags::IOPL
    | flags::NT
    | flags::RF
    | flags::AC
    | flags::ID;

/// Bits of RFLAGS.
mod flags {
    pub(super) const CF: u64 = 1 << 0;
    pub(super) const PF: u64 = 1 << 2;
    pub(super) const AF: u64 = 1 << 4;
    pub(super) const ZF: u64 = 1 << 6;
    pub(super) const SF: u64 = 1 << 7;
    pub(super) const TF: u64 = 1 << 8;
    pub(super) const IF: u64 = 1 << 9;
    pub(super) const DF: u64 = 1 << 10;
    pub(super) const OF: u64 = 1 << 11;
    pub(super) const IOPL: u64 = 3 << 12;
    pub(super) const NT: u64 = 1 << 14;
    pub(super) const RF: u64 = 1 << 16;
    pub(super) const AC: u64 = 1 << 18;
    pub(super) const ID: u64 = 1 << 21;
}

/// Bits of a page-table entry.
mod pte {
    pub(super) const PRESENT: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const USER: u64 = 1 << 2;
    pub(super) const ACCESSED: u64 = 1 << 5;
    pub(super) const DIRTY: u64 = 1 << 6;
    pub(super) const LARGE: u64 = 1 << 7;
}

/// Where the supervisor's gibibyte is mapped: the last one of the address space.
const SHIM_BASE: u64 = u64::MAX - GIB + 1;

const ENTRIES: usize = 512;

/// The bytes of the page tables and the shim for an address space of `gpa_bits` bits, which belong
/// at its last gibibyte, and where the shim's page is among them.
#[derive(Clone, Debug)]
struct Image {
    bytes: Vec<u8>,
    shim: u64,
    base: u64,
}

impl Image {
    /// Builds it, with 1 GiB pages if `gib_pages`, else with 2 MiB pages.
    fn new(gpa_bits: u32, gib_pages: bool) -> Self {
        let gibs = 1usize << (gpa_bits.clamp(31, 39) - 30);
        let base = (gibs as u64 - 1) * GIB;
        let mut tables = Tables::default();
        let (pml4, low, high) = (tables.add(), tables.add(), tables.add());
        let address = |table: usize| base + table as u64 * PAGE_SIZE;
        let table = pte::PRESENT | pte::WRITE | pte::ACCESSED;
        let leaf = table | pte::DIRTY | pte::LARGE;

        tables.set(pml4, 0, address(low) | table | pte::USER);
        tables.set(pml4, ENTRIES - 1, address(high) | table);
        for gib in 0..gibs {
            let start = gib as u64 * GIB;
            // The last one is the supervisor's, in the upper half.
            let (parent, index, user) = if gib == gibs - 1 {
                (high, ENTRIES - 1, 0)
            } else {
                (low, gib, pte::USER)
            };
            if gib_pages {
                tables.set(parent, index, start | leaf | user);
                continue;
            }
            let directory = tables.add();
            tables.set(parent, index, address(directory) | table | user);
            for entry in 0..ENTRIES {
                let page = start + ((entry as u64) << 21);
                tables.set(directory, entry, page | leaf | user);
            }
        }

        let mut bytes = tables.bytes();
        let shim = bytes.len() as u64;
        bytes.extend_from_slice(&SHIM);
        // What follows traps: INT3.
        bytes.resize(bytes.len() + PAGE_SIZE as usize - SHIM.len(), 0xcc);
        Self { bytes, shim, base }
    }
}

/// Page-table pages under construction.
#[derive(Default)]
struct Tables(Vec<[u64; ENTRIES]>);

impl Tables {
    /// Adds an empty table; returns its index.
    fn add(&mut self) -> usize {
        self.0.push([0; ENTRIES]);
        self.0.len() - 1
    }

    /// Sets an entry.
    fn set(&mut self, table: usize, index: usize, entry: u64) {
        self.0[table][index] = entry;
    }

    /// All of them, as the CPU reads them.
    fn bytes(&self) -> Vec<u8> {
        let entries = self.0.iter().flatten();
        entries.flat_map(|entry| entry.to_le_bytes()).collect()
    }
}

/// The page tables and the shim in a sealed memory file.
#[derive(Debug)]
pub struct Guest {
    file: OwnedFd,
    len: u64,
    shim: u64,
    base: u64,
}

impl Guest {
    /// Those that fit `device`; they serve any number of its micro-VMs.
    pub fn new(device: &Device) -> Result<Self> {
        Self::for_machine(device.machine())
    }

    /// Those for micro-VMs of a machine.
    pub(crate) fn for_machine(machine: Machine) -> Result<Self> {
        Self::from_image(&Image::new(machine.gpa_bits, machine.guest_1g))
    }

    /// Puts an image into a file.
    fn from_image(image: &Image) -> Result<Self> {
        Ok(Self {
            file: sealed_file(c"uvisor-guest", &image.bytes)?,
            len: image.bytes.len() as u64,
            shim: image.shim,
            base: image.base,
        })
    }

    /// Where the shim is.
    pub fn shim(&self) -> Shim {
        Shim {
            page: self.base + self.shim,
        }
    }

    /// Maps them in `vm`.
    pub fn install(&self, vm: &Vm) -> Result<()> {
        let file = self.file.as_fd();
        vm.map_file(self.base, self.shim, Prot::READ, file, 0)?;
        vm.map_file(
            self.base + self.shim,
            self.len - self.shim,
            Prot::READ | Prot::EXEC,
            file,
            self.shim,
        )
    }

    /// Makes a vCPU that uses them; it starts in ring 3 with all registers zero.
    pub fn create_vcpu(&self, vm: &Vm) -> Result<Vcpu> {
        self.create_vcpu_at(vm, self.shim().at(0))
    }

    /// As [`Self::create_vcpu`], but its system calls enter at `entry`.
    pub(crate) fn create_vcpu_at(&self, vm: &Vm, entry: u64) -> Result<Vcpu> {
        let mut vcpu = vm.create_vcpu(self.base, entry, SYSCALL_MASK)?;
        vcpu.regs_mut().cpl = 3;
        Ok(vcpu)
    }
}

/// A memory file with `bytes` that can never change.
pub(crate) fn sealed_file(name: &CStr, bytes: &[u8]) -> Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: The name is a NUL-terminated string.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::last("memfd_create"));
    }
    // SAFETY: The kernel just made this descriptor for us.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).map_err(|source| Error::Call {
        call: "write",
        source,
    })?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: This command takes an integer.
    if unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) } < 0 {
        return Err(Error::last("F_ADD_SEALS"));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Walks the tables as the CPU does; returns the address, and whether ring 3 may go there.
    fn walk(image: &Image, linear: u64) -> Option<(u64, bool)> {
        let mut table = image.base;
        let mut user = true;
        for (level, shift) in [39, 30, 21].into_iter().enumerate() {
            let index = (linear >> shift) as usize & (ENTRIES - 1);
            let at = (table - image.base) as usize + index * 8;
            let entry = u64::from_le_bytes(image.bytes.get(at..at + 8)?.try_into().unwrap());
            if entry & pte::PRESENT == 0 {
                return None;
            }
            assert_ne!(entry & pte::ACCESSED, 0);
            user &= entry & pte::USER != 0;
            let address = entry & 0x000f_ffff_ffff_f000;
            if level > 0 && entry & pte::LARGE != 0 {
                assert_ne!(entry & pte::DIRTY, 0);
                let offset = linear & ((1 << shift) - 1);
                assert_eq!(address & ((1 << shift) - 1), 0);
                return Some((address + offset, user));
            }
            table = address;
        }
        None
    }

    #[test]
    fn maps_the_lower_half_one_to_one() {
        for gib_pages in [true, false] {
            for bits in [36, 39] {
                let image = Image::new(bits, gib_pages);
                let limit = (1 << bits) - GIB;
                assert_eq!(image.base, limit);
                for address in [0, 0x400123, 5 * GIB + 7, limit - 1] {
                    assert_eq!(walk(&image, address), Some((address, true)));
                }
                for address in [limit, limit + GIB - 1, 1 << 39, 1 << 46] {
                    assert_eq!(walk(&image, address), None);
                }
            }
        }
    }

    #[test]
    fn maps_the_shim_for_ring_0_only() {
        for gib_pages in [true, false] {
            let image = Image::new(39, gib_pages);
            let (address, user) = walk(&image, SHIM_BASE + image.shim).unwrap();
            assert!(!user);
            assert_eq!(address, image.base + image.shim);
            let code = &image.bytes[image.shim as usize..];
            assert_eq!(&code[..SHIM.len()], SHIM);
            assert_eq!(code.len() as u64, PAGE_SIZE);
            assert_eq!(walk(&image, SHIM_BASE - 1), None);
        }
    }

    #[test]
    fn the_file_cannot_change() {
        let guest = Guest::from_image(&Image::new(39, true)).unwrap();
        let file = File::from(guest.file.try_clone().unwrap());
        assert!(file.write_at(b"x", 0).is_err());
        assert!(file.set_len(0).is_err());
    }
}
