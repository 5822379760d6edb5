// SPDX-License-Identifier: GPL-2.0

//! The frame that a signal handler finds on its stack, and that `sigreturn` goes back by: the kernel's
//! `struct rt_sigframe` of x86-64, with the extended state as XSAVE writes it above.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use uvisor_uapi::Regs;

use crate::memory::{word, word32};
use crate::signal::{Info, INFO};

/// Bytes below the stack pointer that a leaf function may use.
const RED_ZONE: u64 = 128;

/// Where parts of the frame are.
mod at {
    pub(super) const FLAGS: usize = 8;
    pub(super) const STACK: usize = 24;
    pub(super) const REGS: usize = 48;
    pub(super) const SEGMENTS: usize = REGS + 18 * 8;
    pub(super) const ERROR: usize = REGS + 19 * 8;
    pub(super) const TRAP: usize = REGS + 20 * 8;
    pub(super) const OLD_MASK: usize = REGS + 21 * 8;
    pub(super) const ADDRESS: usize = REGS + 22 * 8;
    pub(super) const STATE: usize = REGS + 23 * 8;
    pub(super) const MASK: usize = REGS + 256;
    pub(super) const INFO: usize = MASK + 8;
    pub(super) const END: usize = INFO + super::INFO;
}

/// The size of the frame in bytes.
pub const FRAME: usize = at::END;

/// Where the `siginfo_t` is in the frame, and where the `ucontext_t`.
pub const INFO_AT: u64 = at::INFO as u64;
const CONTEXT_AT: u64 = at::FLAGS as u64;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const UC_FLAGS: u64 = 7;

/// The selectors of ring 3, as Linux has them.
const CS: u64 = 0x33;
const SS: u64 = 0x2b;

/// What the kernel writes into the unused part of the legacy area, so that who reads it knows how much there is.
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const SOFTWARE: usize = 464;

/// The size of the legacy area in bytes.
pub const LEGACY: usize = 512;

/// The size of the header behind it.
const HEADER: usize = 64;

/// Bytes from the start of a frame to behind the legacy area, at most, where [`place`] put them.
pub const FRAME_AND_LEGACY: usize = FRAME + 64 + LEGACY;

/// The extended state that the guest has.
#[derive(Clone, Copy, Debug)]
pub struct Extended {
    /// Which components (XCR0).
    pub components: u64,
    /// Bytes of the XSAVE area.
    pub size: usize,
}

impl Extended {
    /// The module gives guests what the host has but for AMX.
    const NOT_THE_GUESTS: u64 = 3 << 17;

    /// Finds out once.
    pub fn get() -> Self {
        static FOUND: OnceLock<Extended> = OnceLock::new();
        *FOUND.get_or_init(|| {
            // SAFETY: Every CPU with VMX and Linux's 64-bit user space on it that the module accepts has
            // CPUID leaf 0xd and OSXSAVE.
            let components = unsafe { _xgetbv(0) } & !Self::NOT_THE_GUESTS;
            let mut size = 576;
            for component in (2..63).filter(|index| components & (1 << index) != 0) {
                // SAFETY: As above.
                let leaf = unsafe { __cpuid_count(0xd, component) };
                size = size.max(leaf.eax as usize + leaf.ebx as usize);
            }
            Self { components, size }
        })
    }

    /// The size of the part behind the area.
    pub const TAIL: usize = 4;

    /// What the kernel writes at [`SOFTWARE`].
    fn software(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..4].copy_from_slice(&MAGIC1.to_le_bytes());
        let all = (self.size + Self::TAIL) as u32;
        bytes[4..8].copy_from_slice(&all.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.components.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes
    }

    /// What is behind the area, which says that it ends there.
    pub fn tail(&self) -> [u8; Self::TAIL] {
        MAGIC2.to_le_bytes()
    }

    /// Whether what is in a legacy area says that an XSAVE area of ours is there.
    pub fn is_marked(&self, legacy: &[u8; LEGACY]) -> bool {
        word32(legacy, SOFTWARE) == MAGIC1 && word32(legacy, SOFTWARE + 16) as usize == self.size
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The frame itself, which the stack pointer points to then.
    pub frame: u64,
    /// The extended state.
    pub state: u64,
}

/// The place for a frame below `top`; on a stack that is in use, which has a red zone, or at the top of one that
/// is not. `None` if it does not fit below it.
pub fn place(top: u64, in_use: bool, extended: Extended) -> Option<Place> {
    let top = top.checked_sub(if in_use { RED_ZONE } else { 0 })?;
    let state = top.checked_sub((extended.size + Extended::TAIL) as u64)? & !63;
    // As behind a CALL, 8 below what is aligned to 16.
    let frame = (state.checked_sub(FRAME as u64)? & !15).checked_sub(8)?;
    Some(Place { frame, state })
}

/// What a fault adds to a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trap {
    /// The vector.
    pub vector: u64,
    /// The error code.
    pub error: u64,
    /// The address.
    pub address: u64,
}

/// The start of what is where a frame goes: see [`Frame::image`].
#[derive(Clone, Copy, Debug)]
pub struct Image {
    bytes: [u8; FRAME_AND_LEGACY + HEADER],
    len: usize,
}

impl Image {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// What goes on behind the handler: the general registers, `rip`, `rsp` and the flags.
    pub regs: Regs,
    /// What is blocked behind it.
    pub mask: u64,
    /// The alternate stack, a `stack_t`.
    pub stack: [u8; 24],
    /// Where the extended state is; 0 for none.
    pub state: u64,
}

impl Frame {
    /// What is at `place`, up to behind the header of the extended state, before XSAVE writes that: it leaves the
    /// marks in the legacy area as they are, and of the header all but the first word has to be zero. The handler
    /// returns to `restorer`.
    pub fn image(
        &self,
        place: Place,
        extended: Extended,
        restorer: u64,
        info: &Info,
        trap: Trap,
    ) -> Image {
        let state = place.state.saturating_sub(place.frame) as usize;
        let mut bytes = [0; FRAME_AND_LEGACY + HEADER];
        let mut put = |at: usize, part: &[u8]| {
            if let Some(slot) = bytes.get_mut(at..at + part.len()) {
                slot.copy_from_slice(part);
            }
        };
        put(0, &self.bytes(restorer, info, trap));
        put(state + SOFTWARE, &extended.software());
        let len = bytes.len().min(state + LEGACY + HEADER);
        Image { bytes, len }
    }

    /// The bytes of the frame itself.
    fn bytes(&self, restorer: u64, info: &Info, trap: Trap) -> [u8; FRAME] {
        let mut bytes = [0; FRAME];
        let mut put = |at: usize, value: u64| {
            if let Some(slot) = bytes.get_mut(at..at + 8) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
        };
        put(0, restorer);
        put(at::FLAGS, UC_FLAGS);
        for (index, value) in ordered(&mut self.regs.clone()).into_iter().enumerate() {
            put(at::REGS + index * 8, *value);
        }
        put(at::SEGMENTS, CS | SS << 48);
        put(at::ERROR, trap.error);
        put(at::TRAP, trap.vector);
        put(at::OLD_MASK, self.mask);
        put(at::ADDRESS, trap.address);
        put(at::STATE, self.state);
        put(at::MASK, self.mask);
        bytes[at::STACK..at::REGS].copy_from_slice(&self.stack);
        bytes[at::INFO..].copy_from_slice(info);
        bytes
    }

    /// Reads one that may have been changed: everything in it is the guest's to choose. `now` is what the
    /// registers are that a frame does not hold.
    pub fn read(bytes: &[u8; FRAME], now: &Regs) -> Self {
        let mut regs = Regs { cpl: 3, ..*now };
        for (index, value) in ordered(&mut regs).into_iter().enumerate() {
            *value = word(bytes, at::REGS + index * 8);
        }
        let mut stack = [0; 24];
        stack.copy_from_slice(&bytes[at::STACK..at::REGS]);
        Self {
            regs,
            mask: word(bytes, at::MASK),
            stack,
            state: word(bytes, at::STATE),
        }
    }
}

/// Registers in the order of a frame.
fn ordered(regs: &mut Regs) -> [&mut u64; 18] {
    [
        &mut regs.r8,
        &mut regs.r9,
        &mut regs.r10,
        &mut regs.r11,
        &mut regs.r12,
        &mut regs.r13,
        &mut regs.r14,
        &mut regs.r15,
        &mut regs.rdi,
        &mut regs.rsi,
        &mut regs.rbp,
        &mut regs.rbx,
        &mut regs.rdx,
        &mut regs.rax,
        &mut regs.rcx,
        &mut regs.rsp,
        &mut regs.rip,
        &mut regs.rflags,
    ]
}

/// The legacy area at `state`, if it is in the bytes from a frame's address on.
pub fn legacy_within(
    bytes: &[u8; FRAME_AND_LEGACY],
    frame: u64,
    state: u64,
) -> Option<[u8; LEGACY]> {
    let at = usize::try_from(state.checked_sub(frame)?).ok()?;
    bytes.get(at..at.checked_add(LEGACY)?)?.try_into().ok()
}

/// Makes the registers those of a handler whose frame is at `frame`.
pub fn enter_handler(regs: &mut Regs, handler: u64, number: i32, frame: u64) {
    /// RF, TF and DF.
    const CLEARED: u64 = 1 << 16 | 1 << 8 | 1 << 10;
    regs.rdi = number as u64;
    regs.rsi = frame + INFO_AT;
    regs.rdx = frame + CONTEXT_AT;
    regs.rax = 0;
    regs.rsp = frame;
    regs.rip = handler;
    regs.rflags &= !CLEARED;
    regs.cpl = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_the_kernels() {
        // As the C library knows them: `ucontext_t` is 8 behind the start of the frame.
        let context = at::FLAGS;
        assert_eq!(
            context + std::mem::offset_of!(libc::ucontext_t, uc_stack),
            at::STACK
        );
        assert_eq!(
            context + std::mem::offset_of!(libc::ucontext_t, uc_mcontext),
            at::REGS
        );
        assert_eq!(
            context + std::mem::offset_of!(libc::ucontext_t, uc_sigmask),
            at::MASK
        );
        assert_eq!(at::REGS + 8 * libc::REG_RIP as usize, at::REGS + 16 * 8);
        assert_eq!(at::REGS + 8 * libc::REG_ERR as usize, at::ERROR);
        assert_eq!(at::REGS + 8 * libc::REG_CR2 as usize, at::ADDRESS);
        assert_eq!(FRAME, 440);
    }

    #[test]
    fn a_frame_reads_back() {
        let regs = Regs {
            rax: 1,
            r15: 2,
            rip: 3,
            rsp: 4,
            rflags: 0x202,
            fs_base: 5,
            cpl: 3,
            ..Regs::default()
        };
        let frame = Frame {
            regs,
            mask: 6,
            stack: [7; 24],
            state: 8,
        };
        let bytes = frame.bytes(9, &[10; INFO], Trap::default());
        let back = Frame::read(&bytes, &regs);
        assert_eq!(back.regs, regs);
        assert_eq!((back.mask, back.stack, back.state), (6, [7; 24], 8));
    }

    #[test]
    fn an_image_has_the_frame_and_the_marks() {
        let extended = Extended {
            components: 7,
            size: 832,
        };
        let place = place(1 << 20, true, extended).unwrap();
        let frame = Frame {
            regs: Regs::default(),
            mask: 6,
            stack: [7; 24],
            state: place.state,
        };
        let image = frame.image(place, extended, 9, &[10; INFO], Trap::default());
        let image = image.bytes();
        assert_eq!(image[..FRAME], frame.bytes(9, &[10; INFO], Trap::default()));
        let state = (place.state - place.frame) as usize;
        let mut start = [0; FRAME_AND_LEGACY];
        start.copy_from_slice(&image[..FRAME_AND_LEGACY]);
        let legacy = legacy_within(&start, place.frame, place.state).unwrap();
        assert!(extended.is_marked(&legacy));
        assert_eq!(image[state + LEGACY..], [0; HEADER]);
        // Elsewhere it has to be looked for.
        for elsewhere in [
            0,
            place.frame - 1,
            place.frame + 100 + FRAME as u64,
            u64::MAX,
        ] {
            assert_eq!(legacy_within(&start, place.frame, elsewhere), None);
        }
    }

    #[test]
    fn frames_are_aligned_and_below() {
        let extended = Extended {
            components: 7,
            size: 832,
        };
        for top in [1 << 20, (1 << 20) + 7] {
            let place = place(top, true, extended).unwrap();
            assert_eq!(place.state % 64, 0);
            assert_eq!((place.frame + 8) % 16, 0);
            assert!(place.state + 836 <= top - RED_ZONE);
            assert!(place.frame + FRAME as u64 <= place.state);
            assert!(place.state + LEGACY as u64 <= place.frame + FRAME_AND_LEGACY as u64);
        }
        assert_eq!(place(1000, true, extended), None);
    }
}
