// SPDX-License-Identifier: GPL-2.0

//! What the tests share: TAP output, and guests made of a few instructions.
//!
//! Each program in `src/bin` tests one subject, as in the kernel's selftests: it prints TAP and exits
//! with 0 (all passed), 1 (some failed) or 4 (all skipped).

pub mod bench;
pub mod guest;
pub mod heap;
pub mod host;
pub mod kernel;
pub mod kvm;
pub mod own_state;
pub mod probe;
pub mod proc;
pub mod random;
pub mod raw;
pub mod tap;

pub use guest::{Guest, CODE, DATA};
pub use tap::Tap;
