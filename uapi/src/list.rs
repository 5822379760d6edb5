// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! Which micro-VMs there are.

use bitflags::bitflags;

/// Where to list micro-VMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct List {
    /// The size of this structure.
    pub size: u32,
    /// Zero.
    pub flags: u32,
    /// The address of an array of [`ListEntry`], which the module fills; in ascending order of
    /// [`ListEntry::id`].
    pub entries: u64,
    /// In: how many elements it has. Out: how many were filled.
    pub count: u32,
    /// The size of an element as the caller knows it, a multiple of 8; if the module knows less, it fills
    /// the rest with zeros.
    pub entry_size: u32,
    /// Out: how many there are for the caller to see.
    pub total: u64,
}

bitflags! {
    /// Flags of a [`ListEntry`].
    pub struct ListFlags: u32 {
        /// It is a template.
        const FROZEN = 1 << 0;
    }
}

/// A micro-VM, as others see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListEntry {
    /// Its number, which no other one has as long as the module is loaded.
    pub id: u64,
    /// The number of the one that it is a clone of, which may be gone; 0 if it is no clone.
    pub parent: u64,
    /// The process that made it, by its number in the caller's PID namespace; 0 if it has none there, or
    /// has ended.
    pub pid: u32,
    /// The effective user of that process then, by its number in the caller's user namespace; all ones if
    /// it has none there.
    pub uid: u32,
    /// [`ListFlags`].
    pub flags: u32,
    /// vCPUs whose file is open.
    pub vcpus: u32,
    /// As [`crate::Stats::private`].
    pub private: u64,
    /// As [`crate::Stats::shared`].
    pub shared: u64,
    /// As [`crate::Stats::tables`].
    pub tables: u64,
    /// As [`crate::Stats::charged`].
    pub charged: u64,
}

impl ListEntry {
    /// The size in bytes of the first version of this structure.
    pub const MIN_SIZE: u32 = 64;
}

static_assertions::const_assert_eq!(core::mem::size_of::<ListEntry>(), 64);
