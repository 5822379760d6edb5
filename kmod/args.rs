// SPDX-License-Identifier: GPL-2.0

//! The arguments of ioctls: structures that carry their size and may grow (see `uvisor_uapi`).

use core::mem::{
    size_of,
    MaybeUninit, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use uvisor_uapi::{
    Bind,
    CloneVm,
    Diff,
    DiffRange,
    Info,
    Limits,
    List,
    ListEntry,
    Map,
    Protect,
    Remap,
    Reset,
    Stats,
    Unmap,
    VcpuCreate,
    ViewCreate,
    ViewDestroy,
    ViewProtect,
    VmCreate, //
};

/// The argument of an ioctl.
///
/// # Safety
///
/// The type is `repr(C)` without padding, every bit pattern of it is valid, and it begins with its
/// size and its flags, each a `u32`.
pub(crate) unsafe trait Argument: Copy {
    /// The size in bytes of the first version of the structure.
    const MIN_SIZE: u32;
    /// The flags that are known.
    const FLAGS: u32 = 0;
}

macro_rules! arguments {
    ($($type:ty $(: $flags:expr)?),* $(,)?) => {$(
        // SAFETY: `uvisor_uapi` asserts the layout; the fields are integers, and the sizes asserted
        // there are the sums of the fields' sizes.
        unsafe impl Argument for $type {
            const MIN_SIZE: u32 = <$type>::MIN_SIZE;
            $(const FLAGS: u32 = $flags;)?
        }
    )*};
}

arguments! {
    Info,
    VmCreate: uvisor_uapi::VmFlags::all().bits(),
    Map: uvisor_uapi::MapFlags::all().bits(),
    Unmap,
    Remap,
    Protect,
    Limits,
    Bind,
    VcpuCreate: uvisor_uapi::VcpuFlags::all().bits(),
    Stats,
    CloneVm: uvisor_uapi::CloneFlags::all().bits(),
    Reset,
    Diff,
    ViewCreate: uvisor_uapi::ViewFlags::all().bits(),
    ViewProtect,
    ViewDestroy,
    List,
}

/// What a call writes an array of.
///
/// # Safety
///
/// The type is `repr(C)` without padding.
pub(crate) unsafe trait Element: Copy {}
// SAFETY: Integers whose sizes are, as `uvisor_uapi` asserts, that of the structure.
unsafe impl Element for DiffRange {}
// SAFETY: As above.
unsafe impl Element for ListEntry {}

/// The bytes of an array.
fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    let (start, len) = (elements.as_ptr().cast(), core::mem::size_of_val(elements));
    // SAFETY: By the trait there is no padding, so all bytes are initialised.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// Writes an array to where user space has room for it.
pub(crate) fn write_all<T: Element>(to: u64, elements: &[T]) -> Result {
    let bytes = bytes_of(elements);
    // CAST: An address has 64 bits.
    let to = UserPtr::from_addr(to as usize);
    UserSlice::new(to, bytes.len()).writer().write_slice(bytes)
}

/// Writes an element of an array whose elements have `size` bytes for user space: the first ones of
/// `element`, or zeros behind them.
pub(crate) fn write_sized<T: Element>(to: u64, size: usize, element: T) -> Result {
    let bytes = bytes_of(core::slice::from_ref(&element));
    // CAST: An address has 64 bits.
    let mut writer = UserSlice::new(UserPtr::from_addr(to as usize), size).writer();
    writer.write_slice(bytes.get(..size).unwrap_or(bytes))?;
    while !writer.is_empty() {
        writer.write(&0u8)?;
    }
    Ok(())
}

/// Where an argument came from, to write the answer to.
pub(crate) struct Place {
    at: UserPtr,
    /// How many bytes of it the caller has.
    len: usize,
}

/// Reads and checks the argument at `arg`: `EFAULT`, `EINVAL`, `E2BIG` as `uvisor_uapi` says.
pub(crate) fn read<T: Argument>(arg: usize) -> Result<(T, Place)> {
    let at = UserPtr::from_addr(arg);
    let mut head = [0u8; 8];
    UserSlice::new(at, head.len())
        .reader()
        .read_slice(&mut head)?;
    let size = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
    let flags = u32::from_ne_bytes([head[4], head[5], head[6], head[7]]);
    if size < T::MIN_SIZE {
        return Err(EINVAL);
    }
    // CAST: A 32-bit number fits.
    let size = size as usize;
    if size > PAGE_SIZE {
        return Err(E2BIG);
    }
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: The bytes are those of `value`, initialised, and `known` is not more than its size.
    let bytes = unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), known) };
    let mut reader = UserSlice::new(at, size).reader();
    reader.read_slice(bytes)?;
    // What was checked is what is used: the caller may have changed it between the two reads.
    for (to, from) in bytes.iter_mut().zip(head) {
        *to = from;
    }
    while !reader.is_empty() {
        if reader.read::<u8>()? != 0 {
            return Err(E2BIG);
        }
    }
    if flags & !T::FLAGS != 0 {
        return Err(EINVAL);
    }
    // SAFETY: By the trait every bit pattern is valid.
    Ok((unsafe { value.assume_init() }, Place { at, len: known }))
}

impl Place {
    /// Writes the answer, as much of it as the caller has room for; size and flags stay.
    pub(crate) fn write<T: Argument>(&self, value: &T) -> Result {
        // SAFETY: By the trait there is no padding, so all bytes are initialised.
        let bytes = unsafe {
            core::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>())
        };
        let answer = bytes.get(8..self.len).ok_or(EINVAL)?;
        UserSlice::new(self.at.wrapping_byte_add(8), answer.len())
            .writer()
            .write_slice(answer)
    }
}
