// SPDX-License-Identifier: GPL-2.0

//! The run page: what user space and the module tell each other about a vCPU.

use core::{
    mem::{
        offset_of,
        size_of, //
    },
    sync::atomic::{
        AtomicU64,
        Ordering::Relaxed, //
    },
};

use kernel::prelude::*;

use uvisor_uapi::{
    Exit,
    ExitReason,
    Regs,
    RunFlags,
    RunPage as Layout,
    RUN_PAGE_SIZE, //
};

use crate::sys::frame::Frame;

/// A word of the page, by its place.
#[derive(Clone, Copy)]
pub(crate) struct Word(usize);

/// The word that holds a field of the page.
macro_rules! word {
    ($($field:ident).+) => {{
        const OFFSET: usize = offset_of!(Layout, $($field).+);
        const { assert!(OFFSET % 8 == 0) };
        Word(OFFSET / 8)
    }};
}

impl Word {
    pub(crate) const RAX: Self = word!(regs.rax);
    pub(crate) const RBX: Self = word!(regs.rbx);
    pub(crate) const RCX: Self = word!(regs.rcx);
    pub(crate) const RDX: Self = word!(regs.rdx);
    pub(crate) const RSI: Self = word!(regs.rsi);
    pub(crate) const RDI: Self = word!(regs.rdi);
    pub(crate) const R10: Self = word!(regs.r10);
    pub(crate) const RSP: Self = word!(regs.rsp);
    pub(crate) const RIP: Self = word!(regs.rip);
    pub(crate) const RFLAGS: Self = word!(regs.rflags);
    pub(crate) const FS_BASE: Self = word!(regs.fs_base);
    pub(crate) const GS_BASE: Self = word!(regs.gs_base);
    pub(crate) const KERNEL_GS_BASE: Self = word!(regs.kernel_gs_base);
    pub(crate) const CPL: Self = word!(regs.cpl);
    pub(crate) const VIEW: Self = word!(regs.view);
    pub(crate) const SERVE_FDS: Self = word!(serve.fds);
    pub(crate) const SERVE_BASE: Self = word!(serve.base);
    pub(crate) const SERVE_LEN: Self = word!(serve.len);
    /// `immediate_exit` in the lower half, `flags` in the upper one.
    const INPUTS: Self = word!(immediate_exit);
    /// `reason` in the lower half, `insn_len` in the upper one.
    const EXIT: Self = word!(exit.reason);
    const EXIT_INFO: Self = word!(exit.info);
    pub(crate) const EXIT_CODE: Self = word!(exit.code);
    const EXIT_ADDRESS: Self = word!(exit.address);
    const EXIT_LINEAR: Self = word!(exit.linear);
}

const WORDS: usize = RUN_PAGE_SIZE / 8;

/// How many registers there are, and where the first is.
pub(crate) const REGS: usize = size_of::<Regs>() / 8;
const FIRST_REG: usize = offset_of!(Layout, regs) / 8;

const _: () = assert!(offset_of!(Layout, flags) == 4 && offset_of!(Exit, insn_len) == 4);
const _: () = assert!(size_of::<Layout>() == RUN_PAGE_SIZE);

/// The page of one vCPU, which user space has mapped and may change at any time: so it is made of
/// atomics, and whoever uses a value reads it once.
pub(crate) struct RunPage {
    frame: Frame,
    /// Where the kernel sees it.
    words: *const [AtomicU64; WORDS],
}

// SAFETY: The pointer is into the page that the value owns, and atomics may be used by all threads.
unsafe impl Send for RunPage {}
// SAFETY: As above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        let frame = Frame::new(true)?;
        Ok(Self {
            words: frame.as_ptr().cast(),
            frame,
        })
    }

    /// The page, to be mapped.
    pub(crate) fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The general registers, for the world switch, which reads and writes each once.
    pub(crate) fn regs(&self) -> *mut Regs {
        self.words
            .cast_mut()
            .cast::<u8>()
            .wrapping_add(offset_of!(Layout, regs))
            .cast()
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: The page lives as long as `self`, is as large and aligned, and was zeroed.
        unsafe { &*self.words }
    }

    /// Reads a word.
    #[inline(always)]
    pub(crate) fn get(&self, word: Word) -> u64 {
        self.words().get(word.0).map_or(0, |w| w.load(Relaxed))
    }

    /// Writes a word.
    #[inline(always)]
    pub(crate) fn set(&self, word: Word, value: u64) {
        if let Some(w) = self.words().get(word.0) {
            w.store(value, Relaxed);
        }
    }

    /// All registers, in the order of [`Regs`].
    pub(crate) fn all_regs(&self) -> [u64; REGS] {
        core::array::from_fn(|at| self.get(Word(FIRST_REG + at)))
    }

    /// Sets all registers, in the order of [`Regs`].
    pub(crate) fn set_all_regs(&self, regs: &[u64; REGS]) {
        for (at, value) in regs.iter().enumerate() {
            self.set(Word(FIRST_REG + at), *value);
        }
    }

    /// Whether user space wants something that is not said by registers.
    #[inline(always)]
    pub(crate) fn has_inputs(&self) -> bool {
        self.get(Word::INPUTS) != 0
    }

    /// What user space wants: an immediate exit, and flags, which are cleared; `EINVAL` for unknown
    /// flags.
    pub(crate) fn take_inputs(&self) -> Result<(bool, RunFlags)> {
        let inputs = self.get(Word::INPUTS);
        // CAST: The lower half.
        let immediate_exit = inputs as u32;
        // CAST: The upper half.
        let flags = RunFlags::from_bits((inputs >> 32) as u32).ok_or(EINVAL)?;
        if !flags.is_empty() {
            self.clear_flags();
        }
        Ok((immediate_exit != 0, flags))
    }

    /// Clears the flags, and leaves `immediate_exit`, which a signal handler may just be setting.
    pub(crate) fn clear_flags(&self) {
        if let Some(inputs) = self.words().get(Word::INPUTS.0) {
            inputs.fetch_and(u64::from(u32::MAX), Relaxed);
        }
    }

    /// Writes an exit.
    #[inline(always)]
    pub(crate) fn set_exit(&self, exit: &Exit) {
        self.set(
            Word::EXIT,
            u64::from(exit.insn_len) << 32 | u64::from(exit.reason),
        );
        self.set(Word::EXIT_INFO, exit.info);
        self.set(Word::EXIT_CODE, exit.code);
        self.set(Word::EXIT_ADDRESS, exit.address);
        self.set(Word::EXIT_LINEAR, exit.linear);
    }

    /// Writes an exit that is nothing but a reason.
    pub(crate) fn set_reason(&self, reason: ExitReason) {
        self.set_exit(&Exit {
            reason: reason as u32,
            ..Exit::default()
        });
    }
}
