// SPDX-License-Identifier: GPL-2.0

//! The memory of a micro-VM: extended page tables and the regions above them, free of kernel calls.
//!
//! A [`Space`] is what the module uses. It has a [`RegionMap`], which says what user space mapped
//! where, and a [`Tree`], which holds the pages that were touched in the form that the CPU walks.
//! The module supplies pages through [`Host`] and a growable array through [`Store`]; so do the
//! tests, which is how all of this runs as an ordinary program.
//!
//! # Locking and flushing
//!
//! Nothing here locks. A change needs `&mut`, so the caller's lock makes it the only writer, while
//! CPUs walk the same tables at any time. What a CPU may have cached is the caller's business as
//! well: [`Taken`] says when it has to be flushed, and memory is given back in a second step
//! ([`Space::reap`]) which the caller takes after the flush.
//!
//! # Panics
//!
//! None: addresses are checked once, by [`Range::new`] and at the head of each function that takes
//! a [`Gpa`]; all arithmetic after that is on page numbers below 2^36.

#![cfg_attr(not(any(test, MODULE)), no_std)]

mod addr;
mod entry;
mod fault;
mod files;
mod geometry;
mod host;
mod moves;
mod region;
mod regions;
pub mod share;
mod space;
mod tree;
mod unmap;
mod usage;
mod used;
pub mod user;
mod view;

pub use addr::{Gpa, Hpa, Range, PAGE_SIZE};
pub use entry::{Leaf, Owner, Perm};
pub use fault::{Copied, Fault, Installed};
pub use files::Files;
pub use host::Host;
pub use moves::Move;
pub use region::{Backing, Marks, Region, RegionError, Store};
pub use regions::RegionMap;
pub use share::Retired;
pub use space::Space;
pub use tree::{InsertError, Taken, Tree};
pub use usage::{Count, Usage};
pub use user::UserEntry;
pub use view::{destroy_views, Slots, View, MAX_VIEWS};
