// SPDX-License-Identifier: GPL-2.0

//! KVM guests, by plain ioctls.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use uvisor_tests::kvm::{cmd, Cpuid, Regs, Segment, Sregs, EXIT_IO, RFLAGS, RIP, RSP};
use uvisor_tests::raw::{ioctl, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{equal, Outcome};

/// Where the memory begins, with the code.
pub(crate) const BASE: u64 = 0x1000;
const LEN: usize = 0x8000;
/// Where a guest in long mode has its page tables, three pages.
const TABLES: u64 = BASE + 0x2000;
/// Where it has the end of its stack.
const STACK: u64 = BASE + LEN as u64;

/// What a guest in long mode has in the MSRs of SYSCALL and SWAPGS.
pub(crate) struct SyscallMsrs {
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
}

/// A KVM guest with one vCPU.
pub(crate) struct Kvm {
    pub(crate) vcpu: OwnedFd,
    // Kept open as long as the vCPU.
    _vm: OwnedFd,
    device: File,
    memory: *mut u8,
    run: *mut u8,
    run_len: usize,
}

// SAFETY: The pointers are to mappings of its own.
unsafe impl Send for Kvm {}

impl Kvm {
    /// One that runs 16-bit `code`.
    pub(crate) fn real_mode(code: &[u8]) -> Result<Self, String> {
        let kvm = Self::new()?;
        kvm.write(BASE, code);
        let mut sregs = kvm.sregs()?;
        (sregs.segments[0].base, sregs.segments[0].selector) = (0, 0);
        kvm.set_sregs(&mut sregs)?;
        let mut regs = [0; 18];
        (regs[RIP], regs[RFLAGS]) = (BASE, 2);
        kvm.set_regs(&mut regs)?;
        Ok(kvm)
    }

    /// One that runs `code` in ring 3 in long mode, with port I/O allowed.
    pub(crate) fn long_mode(code: &[u8], msrs: &SyscallMsrs) -> Result<Self, String> {
        let kvm = Self::new()?;
        kvm.write(BASE, code);
        // One large page, one to one, for both rings.
        for (page, entry) in [
            (0, (TABLES + 0x1000) | 0x27),
            (1, (TABLES + 0x2000) | 0x27),
            (2, 0xe7),
        ] {
            kvm.write(TABLES + page * 0x1000, &u64::to_le_bytes(entry));
        }

        let mut cpuid = Cpuid::empty();
        let supported = ioctl_with(&kvm.device, cmd::GET_SUPPORTED_CPUID, &mut *cpuid);
        works("KVM_GET_SUPPORTED_CPUID", supported)?;
        works(
            "KVM_SET_CPUID2",
            ioctl_with(&kvm.vcpu, cmd::SET_CPUID2, &mut *cpuid),
        )?;

        let mut sregs = kvm.sregs()?;
        let data = Segment {
            limit: u32::MAX,
            selector: 0x4b,
            kind: 3,
            present: 1,
            dpl: 3,
            db: 1,
            s: 1,
            g: 1,
            ..Segment::default()
        };
        sregs.segments[..6].fill(data);
        sregs.segments[0] = Segment {
            selector: 0x53,
            kind: 11,
            db: 0,
            l: 1,
            ..data
        };
        sregs.cr0 = 0x8000_0033;
        sregs.cr3 = TABLES;
        // PAE, OSFXSR, FSGSBASE.
        sregs.cr4 = 0x1_0220;
        // SCE, LME, LMA.
        sregs.efer = 0x501;
        kvm.set_sregs(&mut sregs)?;

        // The count, and index and value of each.
        let mut list = [
            4,
            0xc000_0081,
            msrs.star,
            0xc000_0082,
            msrs.lstar,
            0xc000_0084,
            msrs.fmask,
            0xc000_0102,
            msrs.kernel_gs_base,
        ];
        let set = works(
            "KVM_SET_MSRS",
            ioctl_with(&kvm.vcpu, cmd::SET_MSRS, &mut list),
        )?;
        equal("MSRs set", set, 4)?;

        let mut regs = [0; 18];
        // IF, so that the host's interrupts end a stay in Bochs too; IOPL 3.
        (regs[RIP], regs[RSP], regs[RFLAGS]) = (BASE, STACK, 0x3202);
        kvm.set_regs(&mut regs)?;
        Ok(kvm)
    }

    fn new() -> Result<Self, String> {
        let mut options = OpenOptions::new();
        let device = options.read(true).write(true).open("/dev/kvm");
        let device: File = device.map_err(|e| format!("/dev/kvm: {e}"))?;
        // SAFETY: The calls make these descriptors for us.
        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let vm = owned(works("KVM_CREATE_VM", ioctl(&device, cmd::CREATE_VM, 0))?);
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let memory = works("memory", mmap(None, LEN, rw, libc::MAP_PRIVATE, 0))?;
        let mut region = [0u64, BASE, LEN as u64, memory as u64];
        works(
            "memory region",
            ioctl_with(&vm, cmd::SET_USER_MEMORY_REGION, &mut region),
        )?;
        let vcpu = owned(works("KVM_CREATE_VCPU", ioctl(&vm, cmd::CREATE_VCPU, 0))?);
        let size = works("mmap size", ioctl(&device, cmd::GET_VCPU_MMAP_SIZE, 0))?;
        let run_len = size as usize;
        let run = works(
            "run page",
            mmap(Some(&vcpu.as_raw_fd()), run_len, rw, libc::MAP_SHARED, 0),
        )?;
        Ok(Self {
            vcpu,
            _vm: vm,
            device,
            memory,
            run,
            run_len,
        })
    }

    /// Writes to its memory, before it runs.
    fn write(&self, at: u64, bytes: &[u8]) {
        let offset = (at - BASE) as usize;
        assert!(offset + bytes.len() <= LEN, "outside its memory");
        // SAFETY: Inside the mapping, which nothing has a reference into.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.add(offset), bytes.len())
        };
    }

    fn sregs(&self) -> Result<Sregs, String> {
        let mut sregs = Sregs::default();
        works(
            "KVM_GET_SREGS",
            ioctl_with(&self.vcpu, cmd::GET_SREGS, &mut sregs),
        )?;
        Ok(sregs)
    }

    fn set_sregs(&self, sregs: &mut Sregs) -> Outcome {
        works(
            "KVM_SET_SREGS",
            ioctl_with(&self.vcpu, cmd::SET_SREGS, sregs),
        )
        .map(drop)
    }

    pub(crate) fn regs(&self) -> Result<Regs, String> {
        let mut regs = [0; 18];
        works(
            "KVM_GET_REGS",
            ioctl_with(&self.vcpu, cmd::GET_REGS, &mut regs),
        )?;
        Ok(regs)
    }

    pub(crate) fn set_regs(&self, regs: &mut Regs) -> Outcome {
        works("KVM_SET_REGS", ioctl_with(&self.vcpu, cmd::SET_REGS, regs)).map(drop)
    }

    /// Runs to the next exit, by `run`, which must be port I/O.
    pub(crate) fn run(&self, run: impl Fn(&OwnedFd) -> Result<i32, String>) -> Outcome {
        loop {
            match run(&self.vcpu)? {
                0 => break,
                error if error == -libc::EINTR => (),
                error => return works("KVM_RUN", Err(-error)),
            }
        }
        // SAFETY: The page is mapped; the exit reason is at offset 8.
        let reason = unsafe { self.run.add(8).cast::<u32>().read_volatile() };
        equal("KVM exit", reason, EXIT_IO).map_err(|seen| format!("{seen}: {:x?}", self.regs()))
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        munmap(self.run, self.run_len);
        munmap(self.memory, LEN);
    }
}
