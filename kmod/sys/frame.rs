// SPDX-License-Identifier: GPL-2.0

//! Pages of memory by their physical address.

use core::{
    arch::asm,
    sync::atomic::{
        AtomicU64,
        AtomicUsize,
        Ordering::Relaxed, //
    }, //
};

use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

use super::ffi;

/// Where the kernel sees physical address 0: its direct map, which is linear and stays where it is.
static DIRECT_MAP: AtomicUsize = AtomicUsize::new(0);

/// Where the words of the page at physical address 0 are, and how far apart those of two pages: the
/// kernel has its pages' structures in one array.
static WORDS: AtomicUsize = AtomicUsize::new(0);
static WORDS_STRIDE: AtomicUsize = AtomicUsize::new(0);

/// Finds out where things are; to be called before all else here.
pub(crate) fn init() {
    // SAFETY: Address arithmetic.
    let (start, words, next) = unsafe {
        (
            ffi::uvisor_page_virt(0),
            ffi::uvisor_page_words(0),
            ffi::uvisor_page_words(1 << PAGE_SHIFT),
        )
    };
    DIRECT_MAP.store(start.addr(), Relaxed);
    WORDS.store(words.addr(), Relaxed);
    WORDS_STRIDE.store(next.addr().wrapping_sub(words.addr()), Relaxed);
}

/// Two words that go with a page, for whoever allocated it.
///
/// # Safety
///
/// The page at `phys` must be one that [`Frame::new`] allocated, and not be given back before the words
/// were used; after that they are another's. The structures of pages themselves stay.
#[inline]
pub(crate) unsafe fn words<'a>(phys: u64) -> &'a [AtomicU64; 2] {
    // CAST: Both have 64 bits.
    let offset = ((phys >> PAGE_SHIFT) as usize).wrapping_mul(WORDS_STRIDE.load(Relaxed));
    let address = WORDS.load(Relaxed).wrapping_add(offset);
    // SAFETY: By the caller's promise the structure exists, and its words are ours; they are aligned.
    unsafe { &*core::ptr::with_exposed_provenance(address) }
}

/// Takes a reference on any page of memory; `ENOMEM` if it has so many that they might overflow.
///
/// # Safety
///
/// The caller, or somebody it can rely on meanwhile, must have one.
pub(crate) unsafe fn get(phys: u64) -> Result {
    // SAFETY: By the caller's promise.
    if unsafe { ffi::uvisor_page_get(phys) } {
        Ok(())
    } else {
        Err(ENOMEM)
    }
}

/// A page of ours, given back when dropped.
///
/// # Invariants
///
/// The address is that of a page in the kernel's direct map on which this value has one reference.
#[derive(Debug)]
pub(crate) struct Frame(u64);

impl Frame {
    /// Allocates a page, charged to the calling task's memory cgroup.
    pub(crate) fn new(zero: bool) -> Result<Self> {
        // SAFETY: Called where sleeping is allowed.
        match unsafe { ffi::uvisor_page_alloc(zero) } {
            0 => Err(ENOMEM),
            // INVARIANT: The reference of a new page is ours.
            phys => Ok(Self(phys)),
        }
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// The caller must own a reference on the page at `phys`, and give it up.
    pub(crate) unsafe fn from_raw(phys: u64) -> Self {
        // INVARIANT: By the caller's promise.
        Self(phys)
    }

    /// Gives up the reference without dropping it.
    pub(crate) fn into_raw(self) -> u64 {
        let phys = self.0;
        core::mem::forget(self);
        phys
    }

    /// The physical address.
    pub(crate) fn phys(&self) -> u64 {
        self.0
    }

    /// The physical address in memory, as VMX instructions take it.
    pub(crate) fn phys_ref(&self) -> &u64 {
        &self.0
    }

    /// Where the kernel sees the page.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        virt(self.0)
    }

    /// Allocates a page that the kernel has at hand, as [`Self::new`].
    pub(crate) fn at_hand(zero: bool) -> Result<Self> {
        let mut found = None;
        Self::at_once(zero, 0, |page, _| found = Some(page));
        found.ok_or(ENOMEM)
    }

    /// Allocates 2^`order` pages that the kernel has at hand, as [`Self::new`], and gives them to `each`
    /// with whether they are zeroed; or none.
    pub(crate) fn at_once(zero: bool, order: u32, mut each: impl FnMut(Self, bool)) {
        let mut zeroed = false;
        // SAFETY: The function is callable in any context, and sets the variable.
        let first = unsafe { ffi::uvisor_pages_alloc(zero, order, &mut zeroed) };
        if first == 0 {
            return;
        }
        for number in 0..1u64 << order {
            // INVARIANT: Each has a reference, which is ours. OVERFLOW: They are memory.
            each(Self(first.wrapping_add(number << PAGE_SHIFT)), zeroed);
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant the reference is ours.
        unsafe { ffi::uvisor_page_put(self.0) };
    }
}

/// Copies a page, of which others may change one side meanwhile, by the string instruction: CPUs with VT-x
/// do it by cache lines.
///
/// # Safety
///
/// Both must be valid for a page, and not overlap.
pub(crate) unsafe fn copy_page(to: *mut u8, from: *const u8) {
    // SAFETY: By the caller's promise; the kernel keeps the direction flag clear.
    unsafe {
        asm!("rep movsq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") to => _,
            inout("rsi") from => _, options(nostack, preserves_flags));
    }
}

/// Zeroes a page.
///
/// # Safety
///
/// It must be valid for a page, and nobody else use it.
pub(crate) unsafe fn clear_page(page: *mut u8) {
    // SAFETY: By the caller's promise; the kernel keeps the direction flag clear.
    unsafe {
        asm!("rep stosq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") page => _, in("rax") 0u64,
            options(nostack, preserves_flags));
    }
}

/// Copies bytes of which others may change one side meanwhile.
///
/// # Safety
///
/// Both must be valid for `len` bytes and not overlap.
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: By the caller's promise. C's memory model, not Rust's, is the one that allows the race.
    unsafe { ffi::uvisor_copy(to.cast(), from.cast(), len) };
}

/// Where the kernel sees the page at `phys`; meaningful for memory only.
#[inline]
pub(crate) fn virt(phys: u64) -> *mut u8 {
    // CAST: Both have 64 bits.
    let address = DIRECT_MAP.load(Relaxed).wrapping_add(phys as usize);
    core::ptr::with_exposed_provenance_mut(address)
}
