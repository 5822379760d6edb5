// SPDX-License-Identifier: GPL-2.0

//! The audit: what a task did and was refused, as one ordered stream of events.
//!
//! [`event`] is what a line of it says.

pub mod event;

pub use event::{Event, FileUse, Limit, MemoryUse, Verdict, Wall, What};
