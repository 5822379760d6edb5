// SPDX-License-Identifier: GPL-2.0

//! The extended state (x87, SSE, AVX, ...) of a vCPU.

use core::arch::asm;

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use super::{
    cpu,
    frame::{
        self,
        Frame, //
    },
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

/// How extended state is switched on this machine.
#[derive(Clone, Copy)]
pub(crate) struct FpuConfig {
    /// XCR0 of the host.
    host_xcr0: u64,
    /// XCR0 of the guests.
    pub(crate) guest_xcr0: u64,
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
        })
    }

    /// The guests' XCR0 in two halves, as the instructions take it.
    #[inline(always)]
    fn halves(&self) -> (u32, u32) {
        // CAST: The lower and the upper half.
        (self.guest_xcr0 as u32, (self.guest_xcr0 >> 32) as u32)
    }
}

/// An area that holds extended state which is not in the registers: a vCPU's while it does not run, or
/// the host's while a guest runs.
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
// SAFETY: Through a shared reference it is only read.
unsafe impl Sync for FpuArea {}

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
            area.write_bytes(0, PAGE_SIZE);
            area.add(MXCSR_OFFSET).cast::<u32>().write(MXCSR_DEFAULT);
        }
    }

    /// Another one with the same state.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let mut clone = Self::new()?;
        clone.copy_from(self);
        Ok(clone)
    }

    /// Makes the state that of `other`.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        // SAFETY: Both are pages, and not the same one. INVARIANT: As that of `other`.
        unsafe { frame::copy_page(self.area, other.area) };
    }

    /// Stores the registers of `config`'s guests here.
    #[inline(always)]
    fn save(&mut self, config: &FpuConfig) {
        let (low, high) = config.halves();
        // SAFETY: The area is a page of ours, 64-byte aligned, large enough for the components of
        // `GUEST_XCR0`, all of which XCR0 has. INVARIANT: XSAVE with the guest's XCR0.
        unsafe {
            asm!("xsave64 [{}]", in(reg) self.area, in("eax") low, in("edx") high,
                options(nostack));
        }
    }

    /// Loads the registers of `config`'s guests from here.
    #[inline(always)]
    fn load(&self, config: &FpuConfig) {
        let (low, high) = config.halves();
        // SAFETY: By the invariant the instruction does not fault; the area is 64-byte aligned.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) self.area, in("eax") low, in("edx") high,
                options(nostack));
        }
    }
}

/// Saves the host's extended state in `host` and loads the guest's, until [`leave_guest`].
///
/// The host's registers come back as they were, whatever they hold: a task's state, or what the kernel
/// left there and has in memory. So the kernel need not know, and its own switch, which would save and
/// restore as much, is spared. No handler of an NMI or of a machine check uses such state.
#[inline(always)]
pub(crate) fn enter_guest(_irq: &IrqOff, config: &FpuConfig, host: &mut FpuArea, guest: &FpuArea) {
    host.save(config);
    if config.guest_xcr0 != config.host_xcr0 {
        // SAFETY: A subset that has x87 and, where AVX state is present, SSE; `leave_guest` puts back.
        unsafe { cpu::write_xcr0(config.guest_xcr0) };
    }
    guest.load(config);
}

/// Undoes [`enter_guest`].
#[inline(always)]
pub(crate) fn leave_guest(_irq: &IrqOff, config: &FpuConfig, host: &FpuArea, guest: &mut FpuArea) {
    guest.save(config);
    if config.guest_xcr0 != config.host_xcr0 {
        // SAFETY: The kernel's own value.
        unsafe { cpu::write_xcr0(config.host_xcr0) };
    }
    host.load(config);
}
