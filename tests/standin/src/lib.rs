// SPDX-License-Identifier: GPL-2.0

//! Stands in for an exploit, honestly: a library that is preloaded into a converter and, before that begins, does what
//! the document says that it is given. What comes of each step it tells on standard error.
//!
//! A real attack would have to find an error in the converter first. What it could do then is the same as here: run code
//! with all that the process may do. A document says it in comments, one step a line:
//!
//! ```text
//! %standin read ~/.ssh/id_ed25519     read a file
//! %standin write /etc/cron.d/job      make a file, or add to it
//! %standin connect 127.0.0.1:4444     send something to an address
//! %standin fork 300                   have so many processes at a time
//! %standin heap                       execute code that was written to memory
//! %standin code                       change code that is executed
//! ```
//!
//! It harms nobody by itself: a file that it writes says where it comes from, processes only wait, and end.

mod steps;

use std::ffi::{c_char, c_int, CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// What a step begins with.
const MARK: &str = "%standin ";

/// What the C library calls before `main`, with the arguments of that.
type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[used]
#[link_section = ".init_array"]
static BEGIN: Constructor = begin;

extern "C" fn begin(count: c_int, arguments: *const *const c_char, _: *const *const c_char) {
    for index in 1..usize::try_from(count).unwrap_or(0) {
        // SAFETY: The C library has so many arguments there, each a text that ends with 0 and stays.
        let argument = unsafe { CStr::from_ptr(*arguments.add(index)) };
        let Ok(bytes) = fs::read(OsStr::from_bytes(argument.to_bytes())) else {
            continue;
        };
        for line in String::from_utf8_lossy(&bytes).lines() {
            if let Some(step) = line.strip_prefix(MARK) {
                eprintln!("attack: {step}: {}", steps::take(step.trim()));
            }
        }
    }
}
