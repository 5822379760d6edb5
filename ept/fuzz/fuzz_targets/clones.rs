// SPDX-License-Identifier: GPL-2.0

//! Steps of spaces that are clones of each other, as a fuzzer invents them, compared with the model.

#![no_main]
// The model is that of the tests, which use more of it.
#![allow(dead_code)]

#[path = "../../tests/it/bytes.rs"]
mod bytes;
#[path = "../../tests/it/cpu.rs"]
mod cpu;
#[path = "../../tests/it/family.rs"]
mod family;
#[path = "../../tests/it/host.rs"]
mod host;
#[path = "../../tests/it/model.rs"]
mod model;
#[path = "../../tests/it/step.rs"]
mod step;
#[path = "../../tests/it/store.rs"]
mod store;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bytes::play(bytes));
