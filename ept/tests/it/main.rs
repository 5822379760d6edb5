// SPDX-License-Identifier: GPL-2.0

//! Tests of the whole crate, through what it gives to the module.

mod bytes;
mod clones;
mod corpus;
mod cpu;
mod effort;
mod exhaustive;
mod failures;
mod family;
mod foreign;
mod guest;
mod host;
mod machine;
mod model;
mod moves;
#[cfg(not(miri))]
mod orders;
mod races;
mod random;
mod ranges;
mod regions;
mod state;
mod step;
mod store;
mod threads;
mod tree;
mod usage;
mod user;
mod views;
