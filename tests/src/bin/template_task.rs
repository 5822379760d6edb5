// SPDX-License-Identifier: GPL-2.0

//! A program that is made a template: a part of `templates.sh`.
//!
//! It prints, a line each, its random bytes (`AT_RANDOM`) before its checkpoint and behind it, and
//! what `getrandom`, `/dev/urandom` and an ordinary hash map's keys are behind it.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::Read;

/// The bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The bytes that the program was started with, as they are now.
fn at_random() -> [u8; 16] {
    // SAFETY: The kernel, or who acts for it, puts 16 bytes there; they are read once, not referred to.
    unsafe { (libc::getauxval(libc::AT_RANDOM) as *const [u8; 16]).read_volatile() }
}

fn main() {
    let before = at_random();
    // The keys of the first map of a thread are drawn here.
    let state = RandomState::new();
    File::open("/dev/uvisor-checkpoint").expect("the checkpoint");
    println!("before {}", hex(&before));
    println!("at_random {}", hex(&at_random()));
    let mut bytes = [0; 16];
    // SAFETY: The buffer is as long as it says.
    let len = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(len, 16, "getrandom");
    println!("getrandom {}", hex(&bytes));
    let mut urandom = File::open("/dev/urandom").expect("/dev/urandom");
    urandom.read_exact(&mut bytes).expect("a read of it");
    println!("urandom {}", hex(&bytes));
    println!("hash {:016x}", state.build_hasher().finish());
}
