// SPDX-License-Identifier: GPL-2.0

//! Interrupts off for a window, as a token that functions can ask for.

use kernel::{
    error::to_result,
    prelude::*,
    types::NotThreadSafe, //
};

use super::ffi;

/// The time from when a task gets a CPU until another does; on one CPU, equal ones are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    task: u64,
    /// How often another task got the CPU of this one.
    switches: u64,
}

/// Interrupts are off on this CPU while a value of this type lives.
///
/// Unlike the kernel's own token this holds on every kernel configuration. What a stay in a guest does
/// to the TSS and to branch predictions is made good by its drop.
///
/// # Invariants
///
/// Interrupts are off, and the value stays on the CPU that made it.
pub(crate) struct IrqOff {
    /// What was found.
    begun: ffi::WindowBegun,
    _not_thread_safe: NotThreadSafe,
}

impl IrqOff {
    /// Turns interrupts off; they must be on.
    pub(crate) fn new() -> Self {
        // SAFETY: Callable in any context. Interrupts are on in the system calls that come here.
        let begun = unsafe { ffi::uvisor_window_begin() };
        // INVARIANT: Interrupts are off from here on, so the task stays on this CPU.
        Self {
            begun,
            _not_thread_safe: NotThreadSafe,
        }
    }

    /// Whether the task must do something else before it runs a guest: handle a signal, let another
    /// task run, do what was left to its return to user space. What comes up later interrupts this
    /// CPU, and so ends the stay in the guest.
    pub(crate) fn work_pending(&self) -> bool {
        self.begun.state & ffi::WINDOW_WORK_PENDING != 0
    }

    /// Whether KVM may have left its guest's values in the system-call MSRs, to be put right when this
    /// CPU returns to user space.
    pub(crate) fn has_foreign_msrs(&self) -> bool {
        self.begun.state & ffi::WINDOW_FOREIGN_MSRS != 0
    }

    /// The stretch in which the task has had this CPU to itself.
    pub(crate) fn stretch(&self) -> Stretch {
        Stretch {
            task: self.begun.task,
            switches: self.begun.state >> 32,
        }
    }

    /// The number of this CPU.
    pub(crate) fn cpu(&self) -> usize {
        // CAST: A number of 30 bits fits.
        (self.begun.state & ffi::WINDOW_CPU) as usize
    }
}

impl Drop for IrqOff {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant we turned them off.
        unsafe { ffi::uvisor_window_end() };
    }
}

/// Lets another task run if it should.
pub(crate) fn cond_resched() {
    // SAFETY: Called from system calls that hold no spinlock and have interrupts on.
    unsafe { ffi::uvisor_cond_resched() };
}

/// Does what [`IrqOff::work_pending`] is about; `EINTR` if a signal waits.
pub(crate) fn handle_work() -> Result {
    // SAFETY: Called from the ioctl of the task, with interrupts on and no lock held but mutexes
    // that only this ioctl takes.
    to_result(unsafe { ffi::uvisor_handle_work() })
}

/// Makes `cpu` take an interrupt soon, which ends its stay in a guest.
pub(crate) fn kick(cpu: usize) {
    // CAST: The number comes from `IrqOff::cpu`.
    // SAFETY: Interrupts are on in the system calls that come here; a CPU that is offline by now is
    // in no guest, and the call then does nothing.
    unsafe { ffi::uvisor_kick_cpu(cpu as i32) };
}

/// Returns when `cpu` has taken an interrupt, and so has left any window that it was in.
pub(crate) fn sync(cpu: usize) {
    // CAST: The number comes from `IrqOff::cpu`.
    // SAFETY: Interrupts are on in the system calls that come here; a CPU that is offline by now is
    // in no window, and the call then fails, which is as good.
    unsafe { ffi::uvisor_sync_cpu(cpu as i32) };
}
