// SPDX-License-Identifier: GPL-2.0

//! User space's way into guest memory: `pread`, `pwrite` and `mmap` of the VM's file.
//!
//! All three obey the permission that the guest itself has: who serves the guest's system calls gets
//! `EFAULT` exactly where Linux would give it.

use kernel::{
    bindings,
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    page::PAGE_SIZE as PAGE,
    prelude::*, //
};

use uvisor_ept::{
    Gpa,
    Perm, //
};
use uvisor_uapi::{
    Event,
    MemoryCause, //
};

use crate::{
    memory::{
        Memory,
        NoPage, //
    },
    sys::{
        frame::{
            self,
            Frame, //
        },
        user,
        vma, //
    }, //
};

/// The error of a system call on memory that is not there.
fn errno(reason: NoPage) -> Error {
    match reason {
        NoPage::Busy => EAGAIN,
        NoPage::Frozen => EROFS,
        NoPage::Cause(MemoryCause::Limit) => ENOMEM,
        NoPage::Cause(_) | NoPage::User(_) => EFAULT,
    }
}

/// What is copied at once without a page of the kernel's: most arguments of system calls.
const SMALL: usize = 256;

/// Where bytes are on their way between two memories.
struct Buffer {
    small: [u8; SMALL],
    page: Option<Frame>,
}

impl Buffer {
    /// For at most `len` bytes at once, up to a page; all of it is initialised.
    #[inline(always)]
    fn new(len: usize) -> Result<Self> {
        let page = match len {
            0..=SMALL => None,
            _ => Some(Frame::new(true)?),
        };
        Ok(Self {
            small: [0; SMALL],
            page,
        })
    }

    /// The bytes.
    #[inline(always)]
    fn bytes(&mut self) -> &mut [u8] {
        match &self.page {
            None => &mut self.small,
            // SAFETY: The page was zeroed, so its bytes are initialised; it is ours alone.
            Some(page) => unsafe { core::slice::from_raw_parts_mut(page.as_ptr(), PAGE) },
        }
    }
}

/// The rest of the page of `at`, at most `len` bytes.
fn chunk(at: u64, len: usize) -> usize {
    // CAST: Below the page size.
    let offset = at as usize & (PAGE - 1);
    len.min(PAGE - offset)
}

/// Reads from `at` on; a short count if a later page cannot be read, `EFAULT` if the first cannot.
pub(crate) fn read(memory: &Memory, at: i64, to: &mut IovIterDest<'_>) -> Result<usize> {
    // The guest's page is copied under the lock, the user's without it: it may be the same page.
    let mut buffer = Buffer::new(to.len())?;
    let bytes = buffer.bytes();
    let mut done = 0;
    while !to.is_empty() {
        let Some(gpa) = position(at, done) else { break };
        let Some(bytes) = bytes.get_mut(..chunk(gpa, to.len())) else {
            return short(done, EIO);
        };
        let len = bytes.len();
        let copied = memory.with_page(Gpa(gpa), Perm::R, |leaf| {
            // SAFETY: The leaf's frame is mapped, as the lock is held; the range lies within it, and the other
            // is a slice of as many bytes.
            unsafe {
                let from = frame::virt(leaf.frame.0).add(gpa as usize & (PAGE - 1));
                frame::copy(bytes.as_mut_ptr(), from, len);
            }
        });
        let copied = match copied {
            Err(NoPage::User(address)) => user::read(address, bytes).map_err(|_| EFAULT),
            copied => copied.map_err(errno),
        };
        if let Err(error) = copied {
            return short(done, error);
        }
        let n = to.copy_to_iter(bytes);
        done += n;
        if n < len {
            return short(done, EFAULT);
        }
    }
    Ok(done)
}

/// Writes from `at` on, as [`read`] reads.
pub(crate) fn write(memory: &Memory, at: i64, from: &mut IovIterSource<'_>) -> Result<usize> {
    let mut buffer = Buffer::new(from.len())?;
    let bytes = buffer.bytes();
    let mut done = 0;
    while !from.is_empty() {
        let Some(gpa) = position(at, done) else { break };
        let Some(bytes) = bytes.get_mut(..chunk(gpa, from.len())) else {
            return short(done, EIO);
        };
        let len = from.copy_from_iter(bytes);
        if len == 0 {
            return short(done, EFAULT);
        }
        let copied = memory.with_page(Gpa(gpa), Perm::R | Perm::W, |leaf| {
            // SAFETY: The leaf's frame is mapped, as the lock is held, and may be written: it is the
            // micro-VM's own, or one that is written in place; the range lies within it, and the other is a
            // slice of as many bytes.
            unsafe {
                let to = frame::virt(leaf.frame.0).add(gpa as usize & (PAGE - 1));
                frame::copy(to, bytes.as_ptr(), len);
            }
        });
        let copied = match copied {
            Err(NoPage::User(address)) => user::write(address, bytes).map_err(|_| EFAULT),
            copied => copied.map_err(errno),
        };
        if let Err(error) = copied {
            return short(done, error);
        }
        done += len;
    }
    Ok(done)
}

/// The guest-physical address `done` bytes after the file position `at`.
fn position(at: i64, done: usize) -> Option<u64> {
    u64::try_from(at)
        .ok()?
        .checked_add(u64::try_from(done).ok()?)
}

/// What a system call returns that ended early.
fn short(done: usize, error: Error) -> Result<usize> {
    if done == 0 {
        Err(error)
    } else {
        Ok(done)
    }
}

/// The address and the file's page that a fault is about.
///
/// # Safety
///
/// `vmf` must be the fault that the kernel is handling.
unsafe fn place(vmf: *mut bindings::vm_fault) -> (*mut bindings::vm_area_struct, usize, Gpa) {
    // SAFETY: By the caller's promise.
    let place = unsafe { &(*vmf).__bindgen_anon_1 };
    // CAST: Both are 64 bits. OVERFLOW: A page number of a file that was mapped does not overflow.
    let gpa = (place.pgoff as u64).wrapping_mul(PAGE as u64);
    (place.vma, place.address, Gpa(gpa))
}

/// Maps the page that a user mapping was touched at, with the permission that the tables give.
///
/// # Safety
///
/// `vmf` must be the fault that the kernel is handling, in a mapping that [`vma::init`] prepared, of
/// the file of the micro-VM whose memory this is.
pub(crate) unsafe fn fault(memory: &Memory, vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the caller's promise.
    let (vma, address, gpa) = unsafe { place(vmf) };
    // SAFETY: As above.
    let write = unsafe { (*vmf).flags } & bindings::fault_flag_FAULT_FLAG_WRITE != 0;
    memory.events.add(Event::HostFault, 1);
    let access = if write { Perm::R | Perm::W } else { Perm::R };
    let inserted = memory.with_page_to_map(gpa, access, |leaf| {
        let writable = leaf.perm.contains(Perm::W);
        // SAFETY: The fault holds the vma. Our tables have the frame, and before it goes from there
        // or loses a permission, user mappings are zapped, with the lock that is held now.
        unsafe { vma::insert(vma, address, leaf.frame.0, writable) }
    });
    match inserted {
        Ok(code) => code,
        // The access faults again, after signals were looked at.
        Err(NoPage::Busy) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        Err(NoPage::Cause(_) | NoPage::User(_) | NoPage::Frozen) => {
            bindings::vm_fault_reason_VM_FAULT_SIGBUS
        }
    }
}

/// Makes a write possible to a page that a user mapping has read-only.
///
/// # Safety
///
/// As [`fault`].
pub(crate) unsafe fn make_writable(
    memory: &Memory,
    vmf: *mut bindings::vm_fault,
) -> bindings::vm_fault_t {
    // SAFETY: By the caller's promise.
    let (_, _, gpa) = unsafe { place(vmf) };
    // The entry is removed, so that the access faults once more and `fault` maps what is right then;
    // letting the kernel set the write bit would race with a permission that is taken away.
    match memory.zap_to_write(gpa) {
        Ok(()) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
        Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
    }
}
