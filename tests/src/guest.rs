// SPDX-License-Identifier: GPL-2.0

//! Micro-VMs that run a few instructions.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;

use uvisor::{Device, Exit, Features, GuestMemory, Prot, Vcpu, Vm, HYPERCALL_LEN, PAGE_SIZE};

/// Where [`Guest`] puts its code.
pub const CODE: u64 = 0x40_0000;
/// Where [`Guest`] has a page of data.
pub const DATA: u64 = 0x50_0000;

/// Makes a function that gives the machine code of some assembly (AT&T syntax).
///
/// The code must not depend on where it is.
#[macro_export]
macro_rules! code {
    ($vis:vis $name:ident: $($line:literal),+ $(,)?) => {
        core::arch::global_asm!(
            concat!(".pushsection .rodata.guest_", stringify!($name), ",\"a\",@progbits"),
            concat!("guest_", stringify!($name), "_start:"),
            $($line,)+
            concat!("guest_", stringify!($name), "_end:"),
            ".byte 0",
            ".popsection",
            options(att_syntax)
        );

        // The labels are known in its own object file only, so that it cannot be copied into others.
        #[inline(never)]
        $vis fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: Both take the address of a label.
            unsafe {
                core::arch::asm!(
                    concat!("lea guest_", stringify!($name), "_start(%rip), {0}"),
                    concat!("lea guest_", stringify!($name), "_end(%rip), {1}"),
                    out(reg) start,
                    out(reg) end,
                    options(att_syntax, nomem, nostack)
                );
                // SAFETY: The bytes between the labels are the assembled code, read-only.
                core::slice::from_raw_parts(start, end.offset_from(start) as usize)
            }
        }
    };
}

/// A micro-VM with one vCPU, a page of code and a page of data.
pub struct Guest {
    /// The device, kept open.
    pub device: Device,
    /// The micro-VM.
    pub vm: Vm,
    /// Its vCPU, in ring 3, at the start of the code, its stack at the end of the data.
    pub vcpu: Vcpu,
}

impl Guest {
    /// One that runs `code` in ring 3.
    pub fn new(code: &[u8]) -> Self {
        Self::with_limit(code, 0)
    }

    /// One with a memory limit in bytes.
    pub fn with_limit(code: &[u8], limit: u64) -> Self {
        let device = Device::open().expect("the device");
        let vm = device.create_vm(limit).expect("a micro-VM");
        let tables = uvisor::guest::Guest::new(&device).expect("page tables");
        tables.install(&vm).expect("page tables mapped");
        load(&vm, CODE, code);
        vm.map_anonymous(DATA, PAGE_SIZE, Prot::READ | Prot::WRITE)
            .expect("data");
        let mut vcpu = tables.create_vcpu(&vm).expect("a vCPU");
        vcpu.regs_mut().rip = CODE;
        vcpu.regs_mut().rsp = DATA + PAGE_SIZE;
        Self { device, vm, vcpu }
    }

    /// Another vCPU, which begins as the first one did.
    pub fn another_vcpu(&self) -> Vcpu {
        let tables = uvisor::guest::Guest::new(&self.device).expect("page tables");
        let mut vcpu = tables.create_vcpu(&self.vm).expect("a vCPU");
        vcpu.regs_mut().rip = CODE;
        vcpu.regs_mut().rsp = DATA + PAGE_SIZE;
        vcpu
    }

    /// Runs to the next exit.
    pub fn run(&mut self) -> Exit {
        self.vcpu.run().expect("RUN")
    }

    /// Runs to the next exit, which must be a hypercall, and steps over it.
    pub fn run_to_hypercall(&mut self) -> Result<(), String> {
        match self.vcpu.run() {
            Ok(Exit::Hypercall { .. }) => {
                self.vcpu.regs_mut().rip += HYPERCALL_LEN;
                Ok(())
            }
            other => Err(format!("wanted a hypercall, saw {other:x?}")),
        }
    }
}

/// Whether the module and the CPU have a feature.
pub fn has(feature: Features) -> bool {
    let info = Device::open().and_then(|device| device.info());
    Features::from_bits_truncate(info.expect("INFO").features).contains(feature)
}

/// The word at `gpa` of a guest's memory, which the guest may be changing.
pub fn live_word(memory: &GuestMemory, gpa: u64) -> Result<&AtomicU64, String> {
    let at = memory.address(gpa, 8).ok_or("beyond the memory")?;
    // SAFETY: The word lies in the mapping of the guest's memory, which outlives it, aligned.
    Ok(unsafe { AtomicU64::from_ptr(at.cast()) })
}

/// Maps `code` at `gpa`, readable and executable, from a memory file.
pub fn load(vm: &Vm, gpa: u64, code: &[u8]) {
    let file = crate::host::memory_file(code);
    let len = (code.len() as u64)
        .next_multiple_of(PAGE_SIZE)
        .max(PAGE_SIZE);
    vm.map_file(gpa, len, Prot::READ | Prot::EXEC, file.as_fd(), 0)
        .expect("code mapped");
}
