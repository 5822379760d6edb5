// SPDX-License-Identifier: GPL-2.0

//! Measures system calls from inside: a part of `bench`, which runs it natively and by `uvctl run`.
//!
//! ```text
//! bench_task             a line for each system call: its name, a colon, and ticks of the time-stamp
//!                        counter
//! bench_task CALL COUNT  the system call COUNT times and nothing else, for whoever counts events
//! ```

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

fn getppid() {
    // SAFETY: It takes no argument.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

fn read(zero: &File) {
    let mut byte = 0u8;
    // SAFETY: The buffer has the byte.
    let count = unsafe { libc::read(zero.as_raw_fd(), (&raw mut byte).cast(), 1) };
    assert_eq!(count, 1, "read of /dev/zero");
}

fn main() {
    let zero = File::open("/dev/zero").expect("/dev/zero");
    let mut arguments = std::env::args().skip(1);
    if let Some(call) = arguments.next() {
        let count = arguments.next().and_then(|count| count.parse().ok());
        for _ in 0..count.unwrap_or(1) {
            match call.as_str() {
                "getppid" => getppid(),
                "read" => read(&zero),
                other => panic!("no such call: {other}"),
            }
        }
        return;
    }
    let mut empty = [0; 101];
    empty.fill_with(|| time(|| ()));
    empty.sort_unstable();
    let nothing = empty[50];

    let parent = line("getppid", nothing, getppid);
    let read = line("read", nothing, || read(&zero));
    println!("{parent}\n{read}");
}
