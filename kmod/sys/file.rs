// SPDX-License-Identifier: GPL-2.0

//! Files: new ones for our objects, and those whose pages micro-VMs share.

use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::{
        file::FileDescriptorReservation,
        File,
        LocalFile, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::ForeignOwnable, //
};

use core::ptr::NonNull;

use super::{
    ffi,
    frame::Frame, //
};

/// A file from which page-cache pages can be taken.
///
/// # Invariants
///
/// `uvisor_file_check()` accepted the file.
#[derive(Clone)]
pub(crate) struct PageFile(ARef<File>);

impl PageFile {
    /// The calling process's file `fd`.
    pub(crate) fn from_fd(fd: i32) -> Result<Self> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        let file = LocalFile::fget(fd).map_err(|_| EBADF)?;
        // SAFETY: The file is alive; the function reads its inode.
        to_result(unsafe { ffi::uvisor_file_check(file.as_ptr()) })?;
        // SAFETY: Its position is never used here, so `fdget_pos` rules do not concern us.
        let file = unsafe { LocalFile::assume_no_fdget_pos(file) };
        // INVARIANT: Just checked.
        Ok(Self(file))
    }

    /// Whether the file lies where nothing may be executed.
    pub(crate) fn is_noexec(&self) -> bool {
        // SAFETY: The file is alive.
        unsafe { ffi::uvisor_file_noexec(self.0.as_ptr()) }
    }

    /// Whether others see what is written to its pages, as with MAP_SHARED: the file then counts as one
    /// that is mapped so. None if they may only be read; an error if they are to be written.
    pub(crate) fn share(&self, write: bool) -> Result<Option<WritableFile>> {
        // SAFETY: By the type's invariant the file was checked.
        match unsafe { ffi::uvisor_file_share(self.0.as_ptr(), write) } {
            // INVARIANT: Just counted.
            1 => Ok(Some(WritableFile(self.clone()))),
            other => to_result(other).map(|()| None),
        }
    }

    /// The page at `offset`, a multiple of the page size, to be read. `ENXIO` beyond the end. If it need
    /// not be `at_hand`, this may sleep for I/O; `EAGAIN` if it is not.
    pub(crate) fn page(&self, offset: u64, at_hand: bool) -> Result<Frame> {
        self.find(offset, at_hand, false)
    }

    /// [`Self::page`], to be written to if `dirty`.
    fn find(&self, offset: u64, at_hand: bool, dirty: bool) -> Result<Frame> {
        let mut phys = 0;
        let (file, index) = (self.0.as_ptr(), offset >> 12);
        // SAFETY: By the type's invariant the file was checked; sleeping is allowed where it must not be at
        // hand.
        to_result(unsafe { ffi::uvisor_file_page(file, index, at_hand, dirty, &mut phys) })?;
        // SAFETY: The function returned a reference.
        Ok(unsafe { Frame::from_raw(phys) })
    }

    /// Whether both are the same open file.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        core::ptr::eq(self.0.as_ptr(), other.0.as_ptr())
    }
}

/// A file in whose pages may be written; as long as there is one of these, nobody seals it against that.
///
/// # Invariants
///
/// `uvisor_file_share()` counted it for this value.
pub(crate) struct WritableFile(PageFile);

impl WritableFile {
    /// [`PageFile::page`], to be written to until it is given back.
    pub(crate) fn page(&self, offset: u64, at_hand: bool) -> Result<Frame> {
        self.0.find(offset, at_hand, true)
    }
}

impl Drop for WritableFile {
    fn drop(&mut self) {
        // SAFETY: The file is alive, and by the type's invariant was counted, which is taken back here.
        unsafe { ffi::uvisor_file_unshare(self.0 .0.as_ptr()) };
    }
}

/// The mapping of a file of ours, by which user mappings of it are found.
#[derive(Clone, Copy)]
pub(crate) struct Mapping(*mut bindings::address_space);

// SAFETY: The kernel's address spaces are made for use by any thread.
unsafe impl Send for Mapping {}
// SAFETY: As above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Removes the pages of a range from all user mappings of the file.
    ///
    /// # Safety
    ///
    /// The file must be alive.
    #[inline]
    pub(crate) unsafe fn zap(self, start: u64, len: u64) {
        // A vma whose pages the caller's lock let in was in the tree before. A vma without references on
        // its pages (VM_PFNMAP) is not merged, one that is split is in the tree before the whole leaves
        // it, and its TLB entries are flushed before it leaves it (`tlb_free_vmas`).
        //
        // SAFETY: By the caller's promise.
        if unsafe { (&raw const (*self.0).i_mmap.rb_root.rb_node).read_volatile() }.is_null() {
            return;
        }
        // SAFETY: By the caller's promise; sleeping is allowed. CAST: Both are below 2^52.
        unsafe { bindings::unmap_mapping_range(self.0, start as i64, len as i64, 1) };
    }
}

/// What the calling process's file `fd` is about, if it is a file with `fops`; else `EBADF`.
///
/// # Safety
///
/// The private data of all files with `fops` must be an `Arc<T>`.
pub(crate) unsafe fn data_of<T: Send + Sync + 'static>(
    fd: i32,
    fops: &'static bindings::file_operations,
) -> Result<Arc<T>> {
    let fd = u32::try_from(fd).map_err(|_| EBADF)?;
    let file = LocalFile::fget(fd).map_err(|_| EBADF)?;
    // SAFETY: The file is alive, and these fields do not change.
    let (its_fops, data) = unsafe { ((*file.as_ptr()).f_op, (*file.as_ptr()).private_data) };
    if !core::ptr::eq(its_fops, fops) {
        return Err(EBADF);
    }
    // SAFETY: By the caller's promise, and the file keeps it alive meanwhile.
    Ok(unsafe { Arc::<T>::borrow(data) }.into())
}

/// Makes a file whose private data is `data`, gives `ready` its mapping, and returns its descriptor.
///
/// # Safety
///
/// `fops` must live as long as the module, have the module as its owner, treat the private data as
/// an `Arc<T>`, and give it back on release.
pub(crate) unsafe fn install<T: Send + Sync + 'static>(
    name: &'static CStr,
    fops: &'static bindings::file_operations,
    data: Arc<T>,
    ready: impl FnOnce(Mapping),
) -> Result<isize> {
    let reservation = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
    let raw = data.into_foreign();
    // SAFETY: By the caller's promise the file may have `raw` and `fops`.
    let file = unsafe { ffi::uvisor_anon_file(name.as_char_ptr(), fops, raw) };
    let file = from_err_ptr(file).inspect_err(|_| {
        // SAFETY: From `into_foreign` above, and no file has it.
        drop(unsafe { Arc::<T>::from_foreign(raw) });
    })?;
    // SAFETY: The file is alive.
    ready(Mapping(unsafe { ffi::uvisor_file_mapping(file) }));
    // SAFETY: `file` is not null, and its only reference is ours.
    let file = unsafe { ARef::<File>::from_raw(NonNull::new_unchecked(file.cast())) };
    let fd = reservation.reserved_fd();
    reservation.fd_install(file);
    // CAST: File descriptors are small.
    Ok(fd as isize)
}

/// What came of [`transfer`].
pub(crate) enum Transfer {
    /// It was done, with this result of the system call.
    Done(isize),
    /// A signal came before anything was done.
    Interrupted,
    /// Nothing was done: it is for the caller to do.
    NotHere,
}

/// `read` and `write`, or `pread64` and `pwrite64` with a position, of the caller's file `fd` and its
/// memory at `buffer`.
pub(crate) fn transfer(fd: u32, write: bool, buffer: u64, len: u64, at: Option<i64>) -> Transfer {
    /// The codes by which the kernel says that a signal came, and what to do about it.
    const RESTART: core::ops::RangeInclusive<isize> = -516..=-512;

    // CAST: Both are 64 bits.
    let (buffer, len) = (buffer as *mut c_void, len as usize);
    let at = at.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: The function checks that the buffer is the caller's memory, and takes any number for a
    // descriptor; the position is none, or valid for the call.
    let done = unsafe { ffi::uvisor_file_io(fd, write, buffer, len, at) };
    let is = |error: Error| done == error.to_errno() as isize;
    if is(ENOSYS) {
        Transfer::NotHere
    } else if is(EINTR) || RESTART.contains(&done) {
        Transfer::Interrupted
    } else {
        Transfer::Done(done)
    }
}
