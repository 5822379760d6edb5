// SPDX-License-Identifier: GPL-2.0

//! The registers of a thread as its program knows them, and its extended state, which only its CPU can
//! store and load.

use uvisor_uapi::{Regs, RunFlags};

use super::{Task, TaskError};
use crate::errno::{Errno, SysResult};
use crate::frame::{Extended, LEGACY};
use crate::guest::Shim;
use crate::stubs::Place;
use crate::Exit;

/// The length in bytes of `SYSCALL`.
const SYSCALL_LEN: u64 = 2;

impl Task {
    /// The registers that the program has where it is: those of ring 3, also if the shim is at work for it. A
    /// system call that was not served is made again.
    pub(super) fn user_context(&self) -> Result<Regs, TaskError> {
        let mut regs = *self.vcpu.regs();
        if regs.cpl == 3 {
            return Ok(regs);
        }
        regs.rip = match self.thread.stub.place(regs.rip) {
            Some(Place::Before) => regs.rcx.wrapping_sub(SYSCALL_LEN),
            Some(Place::Behind) => regs.rcx,
            None => {
                return Err(TaskError::Ring0 {
                    exit: "stopped".into(),
                    rip: regs.rip,
                })
            }
        };
        // As SYSRET has it.
        regs.rflags = regs.r11;
        regs.cpl = 3;
        Ok(regs)
    }

    /// Writes the guest's extended state to `address`, where a frame's image is.
    pub(super) fn store_extended(&mut self, address: u64) -> SysResult<()> {
        self.run_shim(Shim::STORE, address)
    }

    /// Loads the guest's extended state from `address`, where a signal frame has it; the initial one if that is 0.
    /// `legacy` is the legacy area there, if it was read already.
    pub(super) fn load_extended(
        &mut self,
        address: u64,
        legacy: Option<[u8; LEGACY]>,
    ) -> SysResult<()> {
        if address == 0 {
            self.vcpu.set_flags(RunFlags::RESET_FPU);
            return Ok(());
        }
        let extended = Extended::get();
        self.memory.range(address, extended.size)?;
        let legacy = match legacy {
            Some(legacy) => legacy,
            None => self.memory.read(address)?,
        };
        if address % 64 != 0 || !extended.is_marked(&legacy) {
            return Err(Errno::EFAULT);
        }
        self.run_shim(Shim::LOAD, address)
    }

    /// Runs the part of the shim at `part` with `address`; the registers are as before then.
    fn run_shim(&mut self, part: u64, address: u64) -> SysResult<()> {
        let before = *self.vcpu.regs();
        let regs = self.vcpu.regs_mut();
        (regs.rip, regs.cpl) = (self.shared.shim.at(part), 0);
        // All components.
        (regs.rax, regs.rdx) = (u64::MAX, u64::MAX);
        regs.rdi = address;
        let result = loop {
            match self.vcpu.run() {
                Ok(Exit::Hypercall { ring: 0 }) => break Ok(()),
                // What has arrived is looked at behind this.
                Ok(Exit::Interrupted) => self.vcpu.set_immediate_exit(false),
                // The memory is not what it has to be.
                Ok(_) | Err(_) => break Err(Errno::EFAULT),
            }
        };
        *self.vcpu.regs_mut() = before;
        result
    }
}
