// SPDX-License-Identifier: GPL-2.0

//! What the benchmarks share: how ticks are counted, and the table of what they came to.

pub mod measure;
pub mod report;
