// SPDX-License-Identifier: GPL-2.0

//! System calls of a guest that need not leave the kernel: reads and writes of files that the task
//! which runs it has open.
//!
//! The task says in its run page which descriptors, and where it has the guest's memory mapped: the
//! module does by its right what it could do itself, no more.

use uvisor_uapi::{
    EXIT_INTERRUPTED,
    HYPERCALL_LEN, //
};

use crate::{
    page::{
        RunPage,
        Word, //
    },
    sys::file::{
        self,
        Transfer, //
    },
};

/// The numbers of the calls.
const READ: u64 = 0;
const WRITE: u64 = 1;
const PREAD64: u64 = 17;
const PWRITE64: u64 = 18;

/// Whether the guest is at a call that [`serve`] may know what to do about.
#[inline(always)]
pub(super) fn is_served(page: &RunPage) -> bool {
    matches!(page.get(Word::RAX), READ | WRITE | PREAD64 | PWRITE64)
        && page.get(Word::RDI) < page.get(Word::SERVE_FDS)
}

/// Does the system call that the guest is at, and puts it behind it; false if it is for user space, whose
/// exit then says whether a signal has interrupted it.
pub(super) fn serve(page: &RunPage) -> bool {
    let result = match transfer(page) {
        Some(Transfer::Done(result)) => result,
        Some(Transfer::Interrupted) => {
            page.set(Word::EXIT_CODE, EXIT_INTERRUPTED);
            return false;
        }
        Some(Transfer::NotHere) | None => return false,
    };
    // CAST: Errors are negative numbers there.
    page.set(Word::RAX, result as u64);
    let behind = page.get(Word::RIP).wrapping_add(HYPERCALL_LEN);
    page.set(Word::RIP, behind);
    true
}

/// What came of the system call; none if it is not one for the module.
fn transfer(page: &RunPage) -> Option<Transfer> {
    let call = page.get(Word::RAX);
    let fd = page.get(Word::RDI);
    if fd >= page.get(Word::SERVE_FDS) {
        return None;
    }
    let (address, len) = (page.get(Word::RSI), page.get(Word::RDX));
    // What user space has mapped of the guest's memory, and no byte besides.
    if len == 0 || address.checked_add(len)? > page.get(Word::SERVE_LEN) {
        return None;
    }
    let buffer = page.get(Word::SERVE_BASE).checked_add(address)?;
    let at = match call {
        READ | WRITE => None,
        PREAD64 | PWRITE64 => Some(i64::try_from(page.get(Word::R10)).ok()?),
        _ => return None,
    };
    let write = matches!(call, WRITE | PWRITE64);
    let fd = u32::try_from(fd).ok()?;
    Some(file::transfer(fd, write, buffer, len, at))
}
