// SPDX-License-Identifier: GPL-2.0

//! Calls that take a structure: memory that is not there, sizes, unknown flags.

use std::os::fd::{FromRawFd, OwnedFd};

use libc::{E2BIG, EFAULT, EINVAL};
use uvisor_tests::raw::{fails, ioctl, mmap, munmap, works};
use uvisor_tests::tap::Outcome;
use uvisor_uapi as uapi;
use uvisor_uapi::{
    Bind, CloneVm, Diff, Info, Limits, List, ListEntry, Map, Protect, Remap, Reset, Stats, Unmap,
    VcpuCreate, ViewCreate, ViewDestroy, ViewProtect, VmCreate, VmFlags, PAGE_SIZE,
};

use crate::{guest, FREE, PAGE};

/// A call that takes a structure: how to make it, and how to undo it when it worked.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    command: u32,
    argument: Vec<u8>,
    /// The size of the structure's first version.
    first: usize,
    known_flags: u32,
    writes: bool,
    returns_fd: bool,
    /// What it returns, if that is no descriptor.
    returns: i32,
    on_device: bool,
}

/// The bytes of a structure of the interface.
fn bytes<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: The structures of the interface have no padding.
    unsafe { std::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }.to_vec()
}

pub(crate) fn calls() -> Vec<Call> {
    let call = |name, command, argument: Vec<u8>| Call {
        name,
        command,
        first: argument.len(),
        argument,
        known_flags: 0,
        writes: false,
        returns_fd: false,
        returns: 0,
        on_device: false,
    };
    let (gpa, len) = (FREE, PAGE_SIZE);
    let map = Map {
        gpa,
        len,
        prot: 1,
        ..Map::new()
    };
    let protect = Protect {
        gpa,
        len,
        prot: 3,
        ..Protect::new()
    };
    let diff = Diff {
        count: 1,
        ..Diff::new()
    };
    let list = List {
        entry_size: ListEntry::MIN_SIZE,
        ..List::new()
    };
    let view_protect = ViewProtect {
        gpa,
        len,
        view: 1,
        ..ViewProtect::new()
    };
    let view_destroy = ViewDestroy {
        view: 1,
        ..ViewDestroy::new()
    };
    let remap = Remap {
        gpa,
        len,
        new_gpa: gpa + 0x10_0000,
        new_len: len,
        ..Remap::new()
    };
    let unmap = Unmap {
        gpa,
        len,
        ..Unmap::new()
    };
    vec![
        Call {
            writes: true,
            on_device: true,
            ..call("INFO", uapi::INFO, bytes(&Info::new()))
        },
        Call {
            returns_fd: true,
            on_device: true,
            known_flags: VmFlags::all().bits(),
            ..call("VM_CREATE", uapi::VM_CREATE, bytes(&VmCreate::new()))
        },
        Call {
            writes: true,
            on_device: true,
            ..call("LIST", uapi::LIST, bytes(&list))
        },
        Call {
            known_flags: uapi::MapFlags::all().bits(),
            ..call("MAP", uapi::MAP, bytes(&map))
        },
        call("PROTECT", uapi::PROTECT, bytes(&protect)),
        call("UNMAP", uapi::UNMAP, bytes(&unmap)),
        call("REMAP", uapi::REMAP, bytes(&remap)),
        call("DISCARD", uapi::DISCARD, bytes(&unmap)),
        call("SEAL", uapi::SEAL, bytes(&unmap)),
        Call {
            known_flags: uapi::ViewFlags::all().bits(),
            returns: 2,
            ..call("VIEW_CREATE", uapi::VIEW_CREATE, bytes(&ViewCreate::new()))
        },
        call("VIEW_PROTECT", uapi::VIEW_PROTECT, bytes(&view_protect)),
        call("VIEW_DESTROY", uapi::VIEW_DESTROY, bytes(&view_destroy)),
        Call {
            returns_fd: true,
            known_flags: uapi::CloneFlags::all().bits(),
            ..call("CLONE", uapi::CLONE, bytes(&CloneVm::new()))
        },
        Call {
            writes: true,
            ..call("RESET", uapi::RESET, bytes(&Reset::new()))
        },
        Call {
            writes: true,
            ..call("DIFF", uapi::DIFF, bytes(&diff))
        },
        Call {
            writes: true,
            first: Stats::MIN_SIZE as usize,
            ..call("STATS", uapi::STATS, bytes(&Stats::new()))
        },
        call("BIND", uapi::BIND, bytes(&Bind::new())),
        call("LIMITS", uapi::LIMITS, bytes(&Limits::new())),
        Call {
            returns_fd: true,
            first: VcpuCreate::MIN_SIZE as usize,
            known_flags: uapi::VcpuFlags::SOURCE.bits(),
            ..call("VCPU_CREATE", uapi::VCPU_CREATE, bytes(&VcpuCreate::new()))
        },
    ]
}

impl Call {
    /// Makes the call at `at` in a fresh micro-VM in which it works.
    fn at(&self, at: usize) -> Result<(), i32> {
        let guest = guest();
        let flags = uvisor::ViewFlags::empty();
        let view = guest.vm.create_view(uvisor::Prot::READ, flags);
        assert_eq!(view.expect("VIEW_CREATE"), 1);
        if [uapi::PROTECT, uapi::SEAL, uapi::REMAP].contains(&self.command) {
            let prot = uvisor::Prot::READ;
            guest.vm.map_anonymous(FREE, PAGE_SIZE, prot).expect("MAP");
        }
        let value = if self.on_device {
            ioctl(&guest.device, self.command, at)?
        } else if [uapi::RESET, uapi::DIFF].contains(&self.command) {
            guest.vm.freeze().expect("FREEZE");
            let clone = guest.vm.share(0).expect("CLONE");
            ioctl(&clone, self.command, at)?
        } else {
            ioctl(&guest.vm, self.command, at)?
        };
        if self.returns_fd {
            // SAFETY: The call made it for us.
            drop(unsafe { OwnedFd::from_raw_fd(value) });
        } else {
            assert_eq!(value, self.returns, "{}: returned", self.name);
        }
        Ok(())
    }

    /// Makes the call with the bytes of its structure changed, and room behind them.
    fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), i32> {
        let mut bytes = self.argument.clone();
        bytes.resize(2 * PAGE, 0);
        change(&mut bytes);
        self.at(bytes.as_mut_ptr() as usize)
    }

    /// Makes the call with another size.
    fn with_size(&self, size: usize) -> Result<(), i32> {
        self.with(|b| set_size(b, size))
    }

    pub(crate) fn bad_memory(&self) -> Outcome {
        let name = self.name;
        fails(&format!("{name}: NULL"), self.at(0), EFAULT)?;
        fails(
            &format!("{name}: kernel address"),
            self.at(usize::MAX << 47),
            EFAULT,
        )?;
        fails(&format!("{name}: last byte"), self.at(usize::MAX), EFAULT)?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let memory = mmap(None, 2 * PAGE, rw, libc::MAP_PRIVATE, 0).expect("mmap");
        let start = memory as usize;
        // Kept, so that nothing else is mapped there meanwhile.
        // SAFETY: The second page of a mapping of ours, with no reference into it.
        unsafe { libc::mprotect(memory.add(PAGE).cast(), PAGE, libc::PROT_NONE) };
        fails(&format!("{name}: unmapped"), self.at(start + PAGE), EFAULT)?;
        for cut in [4, 8, self.argument.len() - 1] {
            let head = &self.argument[..cut];
            let at = start + PAGE - cut;
            // SAFETY: The end of the first page, which is ours.
            unsafe { std::ptr::copy_nonoverlapping(head.as_ptr(), at as *mut u8, cut) };
            fails(&format!("{name}: cut off after {cut}"), self.at(at), EFAULT)?;
        }
        let len = self.argument.len();
        // SAFETY: The start of the first page, which is ours, and then only read by the call.
        unsafe {
            std::ptr::copy_nonoverlapping(self.argument.as_ptr(), memory, len);
            libc::mprotect(memory.cast(), PAGE, libc::PROT_READ);
        }
        let read_only = self.at(start);
        munmap(memory, 2 * PAGE);
        if self.writes {
            fails(&format!("{name}: read-only"), read_only, EFAULT)
        } else {
            works(&format!("{name}: read-only"), read_only)
        }
    }

    pub(crate) fn sizes(&self) -> Outcome {
        let (name, len) = (self.name, self.argument.len());
        works(&format!("{name}: as it is"), self.with(|_| ()))?;
        for size in (self.first..len).step_by(8) {
            works(&format!("{name}: size {size}"), self.with_size(size))?;
        }
        for size in [0, 1, 4, 7, 8, self.first - 8, self.first - 1] {
            fails(
                &format!("{name}: size {size}"),
                self.with_size(size),
                EINVAL,
            )?;
        }
        for size in [len + 1, len + 8, 1024, PAGE] {
            works(&format!("{name}: size {size}, zeros"), self.with_size(size))?;
            for at in [len, size - 1] {
                let tail = self.with(|b| {
                    set_size(b, size);
                    b[at] = 1;
                });
                fails(
                    &format!("{name}: size {size}, not zero at {at}"),
                    tail,
                    E2BIG,
                )?;
            }
            let beyond = self.with(|b| {
                set_size(b, size);
                b[size] = 1;
            });
            works(&format!("{name}: size {size}, not zero behind it"), beyond)?;
        }
        for size in [PAGE + 1, PAGE + 8, 2 * PAGE, u32::MAX as usize] {
            fails(&format!("{name}: size {size}"), self.with_size(size), E2BIG)?;
        }
        Ok(())
    }

    pub(crate) fn flags(&self) -> Outcome {
        for bit in (0..32).filter(|bit| self.known_flags & 1 << bit == 0) {
            let result = self.with(|b| b[4 + bit / 8] |= 1 << (bit % 8));
            fails(&format!("{}: flag {bit}", self.name), result, EINVAL)?;
        }
        Ok(())
    }
}

fn set_size(bytes: &mut [u8], size: usize) {
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
}
