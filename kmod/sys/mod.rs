// SPDX-License-Identifier: GPL-2.0

//! The only place that calls C and touches the CPU's own registers; each wrapper has a safe
//! interface, or says what its caller must promise.

pub(crate) mod cpu;
pub(crate) mod ffi;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod frame;
pub(crate) mod irq;
pub(crate) mod shrinker;
pub(crate) mod task;
pub(crate) mod user;
pub(crate) mod vma;
pub(crate) mod vvar;
