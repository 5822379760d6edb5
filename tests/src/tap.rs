// SPDX-License-Identifier: GPL-2.0

//! The Test Anything Protocol, as the kernel's selftests print it.

use std::fmt::Debug;
use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::host::{cpus, pin_to_cpu};

/// Exit status of a program all of whose tests were skipped.
const ALL_SKIPPED: i32 = 4;

/// The result of one test: an error says what was seen.
pub type Outcome = Result<(), String>;

/// A run of tests.
#[derive(Default)]
pub struct Tap {
    number: u32,
    failed: u32,
    skipped: u32,
}

impl Tap {
    /// Starts one.
    pub fn new() -> Self {
        println!("TAP version 13");
        Self::default()
    }

    /// Runs a test; it fails by an error or a panic.
    pub fn test(&mut self, name: &str, body: impl FnOnce() -> Outcome) {
        self.number += 1;
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(format!("panic: {}", text.unwrap_or_default()))
        });
        match outcome {
            Ok(()) => println!("ok {} - {name}", self.number),
            Err(seen) => {
                self.failed += 1;
                println!("not ok {} - {name}", self.number);
                for line in seen.lines() {
                    println!("# {line}");
                }
            }
        }
    }

    /// Says that a test cannot run here, and why.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.number += 1;
        self.skipped += 1;
        println!("ok {} - {name} # SKIP {why}", self.number);
    }

    /// Runs the calling thread on the first of two CPUs; ends the program, with all skipped, where there is one.
    pub fn on_two_cpus(mut self) -> Self {
        if cpus() < 2 {
            self.skip("all", "this machine has one CPU");
            self.finish();
        }
        pin_to_cpu(0);
        self
    }

    /// Prints the plan and ends the program.
    pub fn finish(self) -> ! {
        println!("1..{}", self.number);
        let passed = self.number - self.failed - self.skipped;
        println!(
            "# Totals: pass:{passed} fail:{} skip:{}",
            self.failed, self.skipped
        );
        std::process::exit(if self.failed != 0 {
            1
        } else if passed == 0 {
            ALL_SKIPPED
        } else {
            0
        })
    }
}

/// An error unless both are equal.
pub fn equal<T: PartialEq + Debug>(what: &str, seen: T, wanted: T) -> Outcome {
    if seen == wanted {
        Ok(())
    } else {
        Err(format!("{what}: saw {seen:x?}, wanted {wanted:x?}"))
    }
}

/// An error unless it is true.
pub fn check(what: &str, ok: bool) -> Outcome {
    if ok {
        Ok(())
    } else {
        Err(what.to_owned())
    }
}
