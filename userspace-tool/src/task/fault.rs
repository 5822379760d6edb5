// SPDX-License-Identifier: GPL-2.0

//! What an exit that is no system call means: the signal of Linux's, with what comes with it.

use uvisor_uapi::{MemoryCause, Prot};

use super::{End, Task, TaskError};
use crate::audit::Limit;
use crate::frame::Trap;
use crate::signal::{set_code, Info, INFO};
use crate::Exit;

/// `si_code`s; the kernel's own one says no more than that it was the kernel.
mod code {
    pub(super) const KERNEL: i32 = 0x80;
    pub(super) const INTEGER_DIVISION: i32 = 1;
    pub(super) const NOT_MAPPED: i32 = 1;
    pub(super) const NOT_ALLOWED: i32 = 2;
    pub(super) const ALIGNMENT: i32 = 1;
    pub(super) const NO_FILE: i32 = 2;
    pub(super) const OPERAND: i32 = 2;
    pub(super) const TRACE: i32 = 2;
}

/// The SDM's exit reasons of instructions that read the time-stamp counter.
const RDTSC: u64 = 16;
const RDTSCP: u64 = 51;

/// A fault of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) signal: i32,
    code: i32,
    /// What `si_addr` says.
    address: u64,
    pub(super) trap: Trap,
    /// What it did, for people.
    what: String,
}

impl Fault {
    /// That the kernel found no use for what the guest's stack has, or no room.
    pub(super) fn of_stack() -> Self {
        Self {
            signal: libc::SIGSEGV,
            code: code::KERNEL,
            address: 0,
            trap: Trap::default(),
            what: String::new(),
        }
    }

    /// What comes with the signal.
    pub(super) fn info(&self) -> Info {
        let mut info = [0; INFO];
        info[..4].copy_from_slice(&self.signal.to_le_bytes());
        set_code(&mut info, self.code);
        info[16..24].copy_from_slice(&self.address.to_le_bytes());
        info
    }
}

impl Task {
    /// Does what an exit that is no system call is for: the task's handler, or its end.
    pub(super) fn fault(&mut self, exit: Exit) -> Result<(), TaskError> {
        let (rip, cpl) = (self.vcpu.regs().rip, self.vcpu.regs().cpl);
        // The shim touches no memory but its own page, and raises nothing.
        if cpl == 0 {
            return Err(TaskError::Ring0 {
                exit: format!("{exit:?}"),
                rip,
            });
        }
        let breakpoint = matches!(exit, Exit::Exception { vector: 3, .. });
        let fault = match exit {
            Exit::Memory {
                cause: MemoryCause::Limit,
                ..
            } => {
                if let Some(outlet) = self.reader() {
                    outlet.tell_limit(Limit::Memory);
                }
                self.end(End::MemoryLimit);
                return Ok(());
            }
            // Another process has the micro-VM as well, and was faster.
            Exit::Memory {
                cause: MemoryCause::Elsewhere,
                ..
            } if self.memory.bind().is_ok() => return Ok(()),
            Exit::Privileged {
                reason: reason @ (RDTSC | RDTSCP),
                insn_len,
                ..
            } => {
                self.read_counter(reason == RDTSCP, insn_len);
                return Ok(());
            }
            exit => match fault(exit, rip) {
                Some(fault) => {
                    self.tell_fault(exit, rip);
                    fault
                }
                None => {
                    return Err(TaskError::Ring0 {
                        exit: format!("{exit:?}"),
                        rip,
                    })
                }
            },
        };
        if breakpoint {
            // Behind the instruction, as the CPU has it for a trap.
            let regs = self.vcpu.regs_mut();
            regs.rip = regs.rip.wrapping_add(1);
        }
        let end = End::Fault(fault.signal, format!("at {rip:#x} it {}", fault.what));
        self.force(&fault, end);
        Ok(())
    }

    /// Does what RDTSC is for, or RDTSCP, which says which CPU it was as well: that is always the same here.
    fn read_counter(&mut self, with_cpu: bool, insn_len: u32) {
        let counter = self.counter();
        let regs = self.vcpu.regs_mut();
        regs.rax = counter & 0xffff_ffff;
        regs.rdx = counter >> 32;
        if with_cpu {
            regs.rcx = 0;
        }
        regs.rip = regs.rip.wrapping_add(insn_len.into());
    }
}

/// What an exit in ring 3 means; nothing, if there is none such.
fn fault(exit: Exit, rip: u64) -> Option<Fault> {
    Some(match exit {
        Exit::Memory {
            gpa, access, cause, ..
        } => {
            let (signal, code, why) = match cause {
                MemoryCause::Unmapped => {
                    (libc::SIGSEGV, code::NOT_MAPPED, "nothing is mapped there")
                }
                MemoryCause::FileEnd => {
                    (libc::SIGBUS, code::NO_FILE, "the mapped file ends before")
                }
                _ => (
                    libc::SIGSEGV,
                    code::NOT_ALLOWED,
                    "its mapping does not allow it",
                ),
            };
            Fault {
                signal,
                code,
                address: gpa,
                trap: Trap {
                    vector: 14,
                    error: error_code(access, cause),
                    address: gpa,
                },
                what: format!("{} {gpa:#x}: {why}", verb(access)),
            }
        }
        Exit::Exception {
            vector,
            error_code,
            address,
        } => exception(vector, error_code, address, rip),
        Exit::Hypercall { .. } => illegal(rip, "executed VMCALL".into()),
        Exit::View { view, .. } => illegal(rip, format!("wanted to switch to view {view}")),
        Exit::Privileged { reason, .. } => illegal(
            rip,
            format!("executed a privileged instruction (exit reason {reason})"),
        ),
        Exit::TripleFault | Exit::Halt | Exit::Interrupted => return None,
    })
}

/// An instruction that there is not.
fn illegal(rip: u64, what: String) -> Fault {
    Fault {
        signal: libc::SIGILL,
        code: code::OPERAND,
        address: rip,
        trap: Trap {
            vector: 6,
            ..Trap::default()
        },
        what,
    }
}

/// The error code that a page fault would have had.
fn error_code(access: Prot, cause: MemoryCause) -> u64 {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;
    let mut code = USER;
    if cause == MemoryCause::Denied {
        code |= PRESENT;
    }
    if access.contains(Prot::WRITE) {
        code |= WRITE;
    } else if access.contains(Prot::EXEC) {
        code |= FETCH;
    }
    code
}

/// What an access did, as a verb.
fn verb(access: Prot) -> &'static str {
    if access.contains(Prot::WRITE) {
        "wrote to"
    } else if access.contains(Prot::EXEC) {
        "jumped to"
    } else {
        "read from"
    }
}

/// What Linux makes of an exception.
fn exception(vector: u64, error_code: u64, address: u64, rip: u64) -> Fault {
    use code::{ALIGNMENT, INTEGER_DIVISION, KERNEL, NOT_MAPPED, OPERAND, TRACE};
    let (signal, code, at, what) = match vector {
        0 => (
            libc::SIGFPE,
            INTEGER_DIVISION,
            rip,
            "divided by zero, or the result did not fit",
        ),
        1 => (libc::SIGTRAP, TRACE, rip, "met a debug exception"),
        3 => (libc::SIGTRAP, KERNEL, 0, "met a breakpoint"),
        6 => (
            libc::SIGILL,
            OPERAND,
            rip,
            "executed an instruction that does not exist",
        ),
        11 | 12 => (
            libc::SIGBUS,
            KERNEL,
            0,
            "used a bad segment or stack address",
        ),
        13 => (
            libc::SIGSEGV,
            KERNEL,
            0,
            "did what is not allowed (general protection)",
        ),
        14 => {
            let access = match error_code {
                code if code & 16 != 0 => "jumped to",
                code if code & 2 != 0 => "wrote to",
                _ => "read from",
            };
            return Fault {
                signal: libc::SIGSEGV,
                code: NOT_MAPPED,
                address,
                trap: Trap {
                    vector,
                    error: error_code,
                    address,
                },
                what: format!("{access} {address:#x}: beyond its address space"),
            };
        }
        16 | 19 => (libc::SIGFPE, 0, rip, "met a floating-point exception"),
        17 => (
            libc::SIGBUS,
            ALIGNMENT,
            0,
            "made an unaligned access with alignment checks on",
        ),
        _ => {
            return Fault {
                signal: libc::SIGSEGV,
                code: KERNEL,
                address: 0,
                trap: Trap {
                    vector,
                    error: error_code,
                    address: 0,
                },
                what: format!("raised exception {vector} (error code {error_code:#x})"),
            }
        }
    };
    Fault {
        signal,
        code,
        address: at,
        trap: Trap {
            vector,
            error: error_code,
            address: 0,
        },
        what: what.into(),
    }
}

/// Whether the extended state says more about it.
pub(super) fn is_floating_point(trap: Trap) -> bool {
    matches!(trap.vector, 16 | 19)
}

/// Which floating-point exception it was, by the status and the mask of the x87 unit (`fcw`, `fsw`) or by MXCSR.
pub(super) fn floating_point_code(vector: u64, legacy: &[u8; 512]) -> i32 {
    let word = |at| crate::memory::word32(legacy, at);
    let raised = match vector {
        16 => (word(0) >> 16) & !word(0),
        _ => word(24) & !(word(24) >> 7),
    };
    match raised & 0x3f {
        bits if bits & 1 != 0 => 7,
        bits if bits & 4 != 0 => 3,
        bits if bits & 8 != 0 => 4,
        bits if bits & (2 | 16) != 0 => 5,
        bits if bits & 32 != 0 => 6,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_have_the_signals_of_linux() {
        for (vector, signal) in [
            (0, libc::SIGFPE),
            (1, libc::SIGTRAP),
            (3, libc::SIGTRAP),
            (4, libc::SIGSEGV),
            (6, libc::SIGILL),
            (13, libc::SIGSEGV),
            (14, libc::SIGSEGV),
            (17, libc::SIGBUS),
            (19, libc::SIGFPE),
        ] {
            assert_eq!(exception(vector, 0, 0, 0).signal, signal, "vector {vector}");
        }
    }

    #[test]
    fn floating_point_exceptions_are_told_apart() {
        let mut legacy = [0; 512];
        // MXCSR: division by zero, and not masked.
        legacy[24] = 4;
        assert_eq!(floating_point_code(19, &legacy), 3);
        // Masked.
        legacy[25] = 2;
        assert_eq!(floating_point_code(19, &legacy), 0);
        // The x87 unit's invalid operation.
        legacy[2] = 1;
        assert_eq!(floating_point_code(16, &legacy), 7);
    }
}
