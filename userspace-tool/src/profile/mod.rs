// SPDX-License-Identifier: GPL-2.0

//! Least privilege: what a task may touch.

mod allow;
mod amount;
mod document;
mod error;
mod find;
mod minimal;
mod narrow;
mod network;
mod path;
mod rules;
mod said;

pub use amount::{size, time};
pub use document::schema;
pub use error::ProfileError;
pub use find::{Listed, Place, Profile};
pub use minimal::is_minimal;
pub use path::{clean, PathError, Surroundings};
pub use rules::*;
