// SPDX-License-Identifier: GPL-2.0

//! What the VMCS says about a VM exit, taken apart.

mod ept;
mod event;
mod failure;
mod reason;

pub use ept::{Access, EptViolation};
pub use event::{exception_name, Event, EventType};
pub use failure::{InvalidGuestState, VmInstructionError};
pub use reason::{BasicReason, ExitReason};
