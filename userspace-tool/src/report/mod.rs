// SPDX-License-Identifier: GPL-2.0

//! The audit, read as an attack is: what ran, what it looked for, whether code was injected, where it tried to stay, whom
//! it reached, what it used up, and how it tried to get out; each with what became of it.
//!
//! [`Summary::read`] makes the summary from any stream of [events](crate::audit::Event), in bounded memory. All in there is
//! foreign: texts are cut and [made printable](crate::quote::printable) on the way in, so that who prints them need
//! not. [`conclusion`](Summary::conclusion) says what comes of it in a line, [`page`](Summary::page) all of it for a browser.

mod conclusion;
mod lines;
mod page;
mod phase;
mod places;
mod summary;
mod timeline;

#[cfg(test)]
mod tests;

pub use conclusion::{Conclusion, LIMITS};
pub use phase::{Phase, Weight};
pub use summary::{Finding, Listed, Losses, Stage, Summary, TaskBegun};
pub use timeline::{seconds, since, Timeline};
