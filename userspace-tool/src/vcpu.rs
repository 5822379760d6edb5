// SPDX-License-Identifier: GPL-2.0

//! A vCPU: its registers, and running it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use uvisor_uapi::{
    self as uapi, ExitReason, MemoryCause, Prot, Regs, RunFlags, RunPage, ViewCause, RUN_PAGE_SIZE,
};

use crate::vm::plain_ioctl;
use crate::{Error, Mapping, Result};

/// Why a vCPU stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest executed `VMCALL`; `rip` is at the instruction.
    Hypercall {
        /// The ring it was executed in.
        ring: u64,
    },
    /// The guest touched memory that it may not touch.
    Memory {
        /// The guest-physical address.
        gpa: u64,
        /// The guest-virtual address, if the CPU gave one.
        linear: Option<u64>,
        /// The permission that the access needed.
        access: Prot,
        /// Why it was refused.
        cause: MemoryCause,
    },
    /// The guest raised an exception.
    Exception {
        /// The vector.
        vector: u64,
        /// The error code.
        error_code: u64,
        /// The address of a page fault, or DR6's new bits of a debug exception.
        address: u64,
    },
    /// A signal is pending, `immediate_exit` is set, or the vCPU was kicked.
    Interrupted,
    /// The guest shut down by a triple fault.
    TripleFault,
    /// The guest executed an instruction that it may not.
    Privileged {
        /// The SDM's basic exit reason.
        reason: u64,
        /// The exit qualification.
        qualification: u64,
        /// The length in bytes of the instruction.
        insn_len: u32,
    },
    /// The guest executed `HLT` in ring 0; `rip` is at the instruction.
    Halt,
    /// The guest cannot be in a view that it wants to switch to, or is to begin in.
    View {
        /// The number of the view.
        view: u64,
        /// Why not.
        cause: ViewCause,
    },
}

/// The parts of a vCPU that other threads and signal handlers may use.
#[derive(Debug)]
struct Shared {
    page: Mapping,
    fd: OwnedFd,
}

impl Shared {
    /// The `immediate_exit` word of the run page.
    fn immediate_exit(&self) -> &AtomicU32 {
        let page: *mut RunPage = self.page.base().as_ptr().cast();
        // SAFETY: The mapping is a page long and lives as long as `self`, and this field of it is
        // only ever accessed atomically.
        unsafe { AtomicU32::from_ptr(ptr::addr_of_mut!((*page).immediate_exit)) }
    }
}

/// A vCPU: one thread of execution in a micro-VM.
#[derive(Debug)]
pub struct Vcpu {
    shared: Arc<Shared>,
}

impl Vcpu {
    /// The vCPU behind `fd`.
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        let page = Mapping::new(fd.as_fd(), RUN_PAGE_SIZE)?;
        Ok(Self {
            shared: Arc::new(Shared { page, fd }),
        })
    }

    /// Uses another descriptor of the same file from now on; the old one is closed.
    ///
    /// If there is a [`Kicker`] or an [`ExitFlag`] of it already, they keep the old one open, and it
    /// stays in use.
    pub fn replace_fd(&mut self, fd: OwnedFd) {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.fd = fd;
        }
    }

    /// The same vCPU in a process that was forked, which has its file but not the mapping.
    pub(crate) fn after_fork(self) -> Result<Self> {
        // SAFETY: The descriptor is open, and its former owner is forgotten, mapping and all.
        let fd = unsafe { OwnedFd::from_raw_fd(self.as_fd().as_raw_fd()) };
        std::mem::forget(self);
        Self::new(fd)
    }

    /// The run page.
    #[inline]
    fn page(&self) -> *mut RunPage {
        self.shared.page.base().as_ptr().cast()
    }

    /// Runs the guest until it exits.
    ///
    /// [`Exit::Interrupted`] stands for `EINTR`: the registers are up to date, and the next call
    /// goes on from there.
    #[inline]
    pub fn run(&mut self) -> Result<Exit> {
        // Inline, as it is on the way of every exit.
        //
        // SAFETY: The command takes no argument.
        let ran = unsafe {
            let run = rustix::ioctl::NoArg::<{ uapi::RUN }>::new();
            rustix::ioctl::ioctl(self.as_fd(), run)
        };
        match ran {
            Ok(()) => decode(self.exit()),
            Err(rustix::io::Errno::INTR) => Ok(Exit::Interrupted),
            Err(error) => Err(self.run_failed(error)),
        }
    }

    /// What a RUN that failed with `error` says.
    #[cold]
    fn run_failed(&self, error: rustix::io::Errno) -> Error {
        let exit = self.exit();
        if error == rustix::io::Errno::IO && exit.reason == ExitReason::EntryFailed as u32 {
            return Error::EntryFailed {
                reason: exit.info,
                error: exit.code,
            };
        }
        Error::errno_of("RUN", error.raw_os_error())
    }

    /// The registers.
    #[inline]
    pub fn regs(&self) -> &Regs {
        // SAFETY: The page is mapped and at least as long as `RunPage`; the module writes to it
        // only in `run`, which borrows `self` mutably.
        unsafe { &*ptr::addr_of!((*self.page()).regs) }
    }

    /// The registers, to change them before the next [`Self::run`].
    #[inline]
    pub fn regs_mut(&mut self) -> &mut Regs {
        // SAFETY: As in `regs`, and `self` is borrowed mutably.
        unsafe { &mut *ptr::addr_of_mut!((*self.page()).regs) }
    }

    /// The exit as the module wrote it.
    pub fn raw_exit(&self) -> uapi::Exit {
        *self.exit()
    }

    /// Sets the flags that the next [`Self::run`] obeys.
    pub fn set_flags(&mut self, flags: RunFlags) {
        // SAFETY: As in `regs_mut`.
        unsafe { ptr::addr_of_mut!((*self.page()).flags).write_volatile(flags.bits()) };
    }

    /// Sets which system calls of the guest [`Self::run`] serves by itself: none, if it was never called.
    #[inline]
    pub fn set_serve(&mut self, serve: uapi::Serve) {
        // SAFETY: As in `regs_mut`; the module reads it only in `run`.
        unsafe { ptr::addr_of_mut!((*self.page()).serve).write_volatile(serve) };
    }

    /// Makes every [`Self::run`] end with [`Exit::Interrupted`] before the guest runs, until it is
    /// set to `false` again.
    pub fn set_immediate_exit(&self, on: bool) {
        self.shared
            .immediate_exit()
            .store(on.into(), Ordering::SeqCst);
    }

    /// Puts a vCPU that was made from another one back to the state that it had then.
    pub fn reset(&mut self) -> Result<()> {
        plain_ioctl(self.as_fd(), uapi::VCPU_RESET, "VCPU_RESET").map(drop)
    }

    /// A handle on `immediate_exit` for a signal handler.
    pub fn exit_flag(&self) -> ExitFlag {
        ExitFlag(Arc::clone(&self.shared))
    }

    /// Ends the current or the next [`Self::run`].
    pub fn kick(&self) -> Result<()> {
        plain_ioctl(self.as_fd(), uapi::KICK, "KICK").map(drop)
    }

    /// A handle that other threads can kick this vCPU with.
    pub fn kicker(&self) -> Kicker {
        Kicker(Arc::clone(&self.shared))
    }

    /// The exit in the run page.
    #[inline]
    fn exit(&self) -> &uapi::Exit {
        // SAFETY: As in `regs`.
        unsafe { &*ptr::addr_of!((*self.page()).exit) }
    }
}

/// Decodes an exit of the module.
#[inline]
fn decode(exit: &uapi::Exit) -> Result<Exit> {
    const HYPERCALL: u32 = ExitReason::Hypercall as u32;
    const MEMORY: u32 = ExitReason::Memory as u32;
    const EXCEPTION: u32 = ExitReason::Exception as u32;
    const INTERRUPTED: u32 = ExitReason::Interrupted as u32;
    const TRIPLE_FAULT: u32 = ExitReason::TripleFault as u32;
    const PRIVILEGED: u32 = ExitReason::Privileged as u32;
    const ENTRY_FAILED: u32 = ExitReason::EntryFailed as u32;
    const HALT: u32 = ExitReason::Halt as u32;
    const VIEW: u32 = ExitReason::View as u32;

    // Apart, so that it is looked for first: each system call of a task is one.
    if exit.reason == HYPERCALL {
        return Ok(Exit::Hypercall { ring: exit.info });
    }
    Ok(match exit.reason {
        MEMORY => Exit::Memory {
            gpa: exit.address,
            linear: (exit.linear != u64::MAX).then_some(exit.linear),
            access: Prot::from_bits_truncate(exit.info as u32),
            cause: cause(exit.code).ok_or(Error::UnknownExit(exit.reason))?,
        },
        EXCEPTION => Exit::Exception {
            vector: exit.info,
            error_code: exit.code,
            address: exit.address,
        },
        INTERRUPTED => Exit::Interrupted,
        TRIPLE_FAULT => Exit::TripleFault,
        PRIVILEGED => Exit::Privileged {
            reason: exit.info,
            qualification: exit.code,
            insn_len: exit.insn_len,
        },
        ENTRY_FAILED => {
            return Err(Error::EntryFailed {
                reason: exit.info,
                error: exit.code,
            })
        }
        HALT => Exit::Halt,
        VIEW => Exit::View {
            view: exit.info,
            cause: view_cause(exit.code).ok_or(Error::UnknownExit(exit.reason))?,
        },
        unknown => return Err(Error::UnknownExit(unknown)),
    })
}

/// The cause of a memory exit from its number.
fn cause(code: u64) -> Option<MemoryCause> {
    [
        MemoryCause::Unmapped,
        MemoryCause::Denied,
        MemoryCause::FileEnd,
        MemoryCause::Limit,
        MemoryCause::Hidden,
        MemoryCause::Elsewhere,
    ]
    .into_iter()
    .find(|cause| *cause as u64 == code)
}

/// Why a guest cannot be in a view, from its number.
fn view_cause(code: u64) -> Option<ViewCause> {
    [ViewCause::Gone, ViewCause::Refused, ViewCause::Limit]
        .into_iter()
        .find(|cause| *cause as u64 == code)
}

impl AsFd for Vcpu {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.fd.as_fd()
    }
}

/// Ends a vCPU's run from another thread.
#[derive(Clone, Debug)]
pub struct Kicker(Arc<Shared>);

impl Kicker {
    /// Ends the current or the next [`Vcpu::run`].
    pub fn kick(&self) -> Result<()> {
        plain_ioctl(self.0.fd.as_fd(), uapi::KICK, "KICK").map(drop)
    }
}

/// The `immediate_exit` flag of a vCPU, for signal handlers.
#[derive(Clone, Debug)]
pub struct ExitFlag(Arc<Shared>);

impl ExitFlag {
    /// Sets or clears the flag; async-signal-safe.
    pub fn set(&self, on: bool) {
        self.0.immediate_exit().store(on.into(), Ordering::SeqCst);
    }

    /// The flag, which is there as long as this handle, and is to be accessed atomically only.
    pub fn as_ptr(&self) -> *mut u32 {
        self.0.immediate_exit().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_every_reason() {
        let raw = |reason: ExitReason| uapi::Exit {
            reason: reason as u32,
            insn_len: 2,
            info: 3,
            code: 2,
            address: 0x5000,
            linear: u64::MAX,
        };
        let decoded = |reason| decode(&raw(reason)).unwrap();
        assert_eq!(decoded(ExitReason::Hypercall), Exit::Hypercall { ring: 3 });
        assert_eq!(
            decoded(ExitReason::Memory),
            Exit::Memory {
                gpa: 0x5000,
                linear: None,
                access: Prot::READ | Prot::WRITE,
                cause: MemoryCause::Denied,
            }
        );
        assert_eq!(decoded(ExitReason::TripleFault), Exit::TripleFault);
        assert_eq!(decoded(ExitReason::Halt), Exit::Halt);
        let (view, cause) = (3, ViewCause::Refused);
        assert_eq!(decoded(ExitReason::View), Exit::View { view, cause });
        assert!(decode(&raw(ExitReason::EntryFailed)).is_err());
        assert!(decode(&raw(ExitReason::None)).is_err());
    }

    #[test]
    fn every_memory_cause_is_known() {
        assert_eq!(cause(1), Some(MemoryCause::Unmapped));
        assert_eq!(cause(4), Some(MemoryCause::Limit));
        assert_eq!(cause(5), Some(MemoryCause::Hidden));
        assert_eq!(cause(6), Some(MemoryCause::Elsewhere));
        assert_eq!(cause(0), None);
        assert_eq!(cause(7), None);
    }

    #[test]
    fn every_view_cause_is_known() {
        assert_eq!(view_cause(0), None);
        assert_eq!(view_cause(1), Some(ViewCause::Gone));
        assert_eq!(view_cause(3), Some(ViewCause::Limit));
        assert_eq!(view_cause(4), None);
    }
}
