// SPDX-License-Identifier: GPL-2.0

//! Negotiation of the controls: on recorded CPUs, on recorded CPUs with something broken, and on
//! values that no CPU ever had.

mod cpuid;
mod models;
mod random;
mod recorded;
mod refusals;
mod words;
