// SPDX-License-Identifier: GPL-2.0

//! What the fuzzer found so far, once more.

use std::fs;
use std::path::Path;

use crate::bytes;

/// How many inputs there are at least, so that none goes unnoticed.
const INPUTS: usize = 20;

#[test]
fn inputs_of_the_fuzzer() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/clones");
    let mut inputs = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The name of the last one is beside the panic.
        println!("{}", path.display());
        bytes::play(&fs::read(path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= INPUTS, "only {inputs} inputs");
}
