// SPDX-License-Identifier: GPL-2.0

//! A process that gets itself a table of descriptors of its own, to leave its task by that.

use std::time::Duration;

use crate::call::{call, error_name, exit, in_child, must, wait};

/// `CLOSE_RANGE_UNSHARE`.
const UNSHARE: u64 = 2;

/// Parts from what threads have in common; natively that is possible.
fn part() -> i64 {
    call(libc::SYS_close_range, &[900, 901, UNSHARE])
}

/// Says what comes of it alone and beside another thread, and whether the process can be killed afterwards.
pub fn main() {
    println!("alone: {}", in_child(|| part().unsigned_abs()));
    let pid = must_fork(|| {
        let other = std::thread::spawn(|| std::thread::sleep(Duration::from_millis(100)));
        let result = part();
        let _ = other.join();
        println!("beside another thread: {}", error_name(-result));
        loop {
            call(libc::SYS_pause, &[]);
        }
    });
    std::thread::sleep(Duration::from_millis(500));
    let killed = call(libc::SYS_kill, &[pid as u64, 9]);
    if killed < 0 {
        println!("it cannot be killed: {}", error_name(-killed));
        exit(1);
    }
    println!("killed: {}", wait(pid));
}

/// A child that goes on by itself.
fn must_fork(body: impl FnOnce()) -> i64 {
    let pid = must(libc::SYS_fork, &[]) as i64;
    if pid == 0 {
        body();
        exit(0);
    }
    pid
}
