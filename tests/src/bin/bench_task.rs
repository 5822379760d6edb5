// SPDX-License-Identifier: GPL-2.0

//! Measures system calls from inside: a part of `bench`, which runs it natively and by `uvctl run`.
//!
//! Prints a line for each system call: its name, a colon, and ticks of the time-stamp counter.

use std::arch::x86_64::{_mm_lfence, _rdtsc};
use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsRawFd;

const SAMPLES: usize = 400;
const WARM_UP: usize = 50;

/// The ticks that `body` takes.
#[inline(always)]
fn time(body: impl FnOnce()) -> u64 {
    // SAFETY: Every x86-64 CPU has these instructions.
    unsafe {
        _mm_lfence();
        let start = _rdtsc();
        _mm_lfence();
        body();
        _mm_lfence();
        let end = _rdtsc();
        _mm_lfence();
        end - start
    }
}

/// The line of `body`, less what measuring takes.
fn line(name: &str, nothing: u64, mut body: impl FnMut()) -> String {
    for _ in 0..WARM_UP {
        body();
    }
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        *sample = time(&mut body).saturating_sub(nothing);
    }
    samples.iter().fold(format!("{name}:"), |mut line, sample| {
        // Writing to a string cannot fail.
        let _ = write!(line, " {sample}");
        line
    })
}

fn main() {
    let mut empty = [0; 101];
    empty.fill_with(|| time(|| ()));
    empty.sort_unstable();
    let nothing = empty[50];

    let zero = File::open("/dev/zero").expect("/dev/zero");
    let mut byte = 0u8;
    let parent = line("getppid", nothing, || {
        // SAFETY: It takes no argument.
        unsafe { libc::syscall(libc::SYS_getppid) };
    });
    let read = line("read", nothing, || {
        // SAFETY: The buffer has the byte.
        let count = unsafe { libc::read(zero.as_raw_fd(), (&raw mut byte).cast(), 1) };
        assert_eq!(count, 1, "read of /dev/zero");
    });
    println!("{parent}\n{read}");
}
