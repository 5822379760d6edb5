// SPDX-License-Identifier: GPL-2.0

//! The extended state (x87, SSE, AVX, ...) of a vCPU.

use core::arch::asm;

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    cpu,
    frame::Frame,
    irq::IrqOff, //
};

/// What a guest may have of XCR0: x87, SSE, AVX, AVX-512, PKRU.
///
/// Not AMX, whose state would not fit in a page and needs XFD; not MPX, which Linux dropped. All
/// components that stay lie within the first 4096 bytes of the standard format.
const GUEST_XCR0: u64 = 0b10_1110_0111;

/// The value of MXCSR after reset.
const MXCSR_DEFAULT: u32 = 0x1f80;

/// The offset in bytes of MXCSR in an XSAVE area.
const MXCSR_OFFSET: usize = 24;

/// CR4.PKE.
const CR4_PKE: u64 = 1 << 22;

/// How extended state is switched on this machine.
#[derive(Clone, Copy)]
pub(crate) struct FpuConfig {
    /// XCR0 of the host.
    host_xcr0: u64,
    /// XCR0 of the guests.
    pub(crate) guest_xcr0: u64,
    /// Whether the host uses PKRU, which a guest's XRSTOR would change.
    pku: bool,
}

impl FpuConfig {
    /// Reads it from this CPU; `ENODEV` if the kernel does not use XSAVE.
    pub(crate) fn new() -> Result<Self> {
        if !cpu::has_xsave() {
            return Err(ENODEV);
        }
        // SAFETY: The kernel uses XSAVE, so CR4.OSXSAVE is set.
        let host_xcr0 = unsafe { cpu::xcr0() };
        Ok(Self {
            host_xcr0,
            guest_xcr0: host_xcr0 & GUEST_XCR0,
            pku: cpu::cr4() & CR4_PKE != 0,
        })
    }
}

/// The area that holds a vCPU's extended state while it does not run.
///
/// # Invariants
///
/// The page holds what XSAVE stored for the configuration's guest XCR0, or the initial state.
pub(crate) struct FpuArea {
    _frame: Frame,
    /// Where the kernel sees it.
    area: *mut u8,
}

// SAFETY: The pointer is into a page of its own.
unsafe impl Send for FpuArea {}

impl FpuArea {
    /// One with the initial state.
    pub(crate) fn new() -> Result<Self> {
        let frame = Frame::new(true)?;
        let mut area = Self {
            area: frame.as_ptr(),
            _frame: frame,
        };
        area.reset();
        Ok(area)
    }

    /// Back to the initial state.
    pub(crate) fn reset(&mut self) {
        let area = self.area;
        // SAFETY: The page is ours alone; MXCSR lies in it, aligned. INVARIANT: With an empty
        // XSTATE_BV all components are initial but MXCSR, which is taken from the area.
        unsafe {
            area.write_bytes(0, kernel::page::PAGE_SIZE);
            area.add(MXCSR_OFFSET).cast::<u32>().write(MXCSR_DEFAULT);
        }
    }
}

/// The guest's extended state is in the registers while this lives.
pub(crate) struct FpuLoaded<'a> {
    area: &'a mut FpuArea,
    config: &'a FpuConfig,
    pkru: u32,
}

impl<'a> FpuLoaded<'a> {
    /// Saves the task's extended state and loads the guest's.
    pub(crate) fn new(_irq: &IrqOff, config: &'a FpuConfig, area: &'a mut FpuArea) -> Self {
        // SAFETY: Interrupts are off, in a system call: the kernel itself uses no FPU now. The task's
        // registers are saved, and loaded again when it returns to user space.
        unsafe { bindings::kernel_fpu_begin_mask(0) };
        let pkru = if config.pku {
            // SAFETY: CR4.PKE is set.
            unsafe { cpu::pkru() }
        } else {
            0
        };
        if config.guest_xcr0 != config.host_xcr0 {
            // SAFETY: A subset that has x87 and, where AVX state is present, SSE; `drop` puts back.
            unsafe { cpu::write_xcr0(config.guest_xcr0) };
        }
        // CAST: The instruction takes the mask in two halves.
        let (low, high) = (config.guest_xcr0 as u32, (config.guest_xcr0 >> 32) as u32);
        // SAFETY: By the area's invariant the instruction does not fault; the area is 64-byte aligned.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) area.area, in("eax") low, in("edx") high,
                options(nostack));
        }
        Self { area, config, pkru }
    }
}

impl Drop for FpuLoaded<'_> {
    fn drop(&mut self) {
        let mask = self.config.guest_xcr0;
        // CAST: The instruction takes the mask in two halves.
        let (low, high) = (mask as u32, (mask >> 32) as u32);
        // SAFETY: The area is a page of ours, 64-byte aligned, large enough for the components of
        // `GUEST_XCR0`. INVARIANT: XSAVE with the guest's XCR0.
        unsafe {
            asm!("xsave64 [{}]", in(reg) self.area.area, in("eax") low, in("edx") high,
                options(nostack));
        }
        if mask != self.config.host_xcr0 {
            // SAFETY: The kernel's own value.
            unsafe { cpu::write_xcr0(self.config.host_xcr0) };
        }
        if self.config.pku {
            // SAFETY: CR4.PKE is set, and the value is the task's.
            unsafe { cpu::write_pkru(self.pkru) };
        }
        // SAFETY: Ends what `new` began, with interrupts off all along.
        unsafe { bindings::kernel_fpu_end() };
    }
}
