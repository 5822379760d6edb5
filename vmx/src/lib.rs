// SPDX-License-Identifier: GPL-2.0

//! VMX without its instructions' dangers: what a CPU can do, what a micro-VM runs with, and what an
//! exit says.
//!
//! * [`caps`] and [`cpu`]: what the capability MSRs and CPUID say, as read.
//! * [`controls`]: the control words and control registers negotiated from them, or a [`Refusal`].
//! * [`segments`]: the guest's segments.
//! * [`exit`]: exit reasons, qualifications and errors, taken apart.

#![cfg_attr(not(any(test, MODULE)), no_std)]

pub mod bits;
pub mod caps;
pub mod controls;
pub mod cpu;
pub mod exit;
#[cfg(MODULE)]
pub mod insn;
mod policy;
mod refusal;
mod registers;
pub mod segments;

pub use caps::{Allowed, CapabilityMsrs};
pub use controls::{negotiate, Controls, Features};
pub use cpu::CpuFeatures;
pub use exit::{
    Access, BasicReason, EptViolation, Event, EventType, ExitReason, VmInstructionError,
};
pub use refusal::Refusal;
