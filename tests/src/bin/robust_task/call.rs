// SPDX-License-Identifier: GPL-2.0

//! System calls by number, without the C library in between.

use std::arch::asm;

/// Makes a system call; what it returns, or its negative error.
pub fn call(number: i64, args: &[u64]) -> i64 {
    let arg = |index: usize| args.get(index).copied().unwrap_or(0);
    let mut result = number;
    // SAFETY: What the callers make calls with are numbers, memory of the arena's, or what no memory is; they
    // do not touch what the program itself needs.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") arg(0),
            in("rsi") arg(1),
            in("rdx") arg(2),
            in("r10") arg(3),
            in("r8") arg(4),
            in("r9") arg(5),
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The name of an error.
pub fn error_name(number: i64) -> String {
    let error = std::io::Error::from_raw_os_error(number as i32);
    let name = uvisor::errno::Errno::from(error).name();
    name.map_or_else(|| format!("error {number}"), str::to_owned)
}

/// What a call returned, in words; a number only if it matters.
pub fn outcome(result: i64, value_matters: bool) -> String {
    match result {
        -4095..=-1 => error_name(-result),
        _ if value_matters => format!("{result}"),
        _ => "ok".to_owned(),
    }
}

/// A call that must succeed.
pub fn must(number: i64, args: &[u64]) -> u64 {
    let result = call(number, args);
    assert!(
        result >= 0,
        "call {number} {args:x?}: {}",
        error_name(-result)
    );
    result as u64
}

/// Ends the process at once.
pub fn exit(status: u64) -> ! {
    call(libc::SYS_exit_group, &[status]);
    unreachable!("exit_group does not return")
}

/// Runs `body` in a child; how that ended: `exit N`, or `signal N`.
pub fn in_child(body: impl FnOnce() -> u64) -> String {
    let pid = call(libc::SYS_fork, &[]);
    if pid == 0 {
        exit(body());
    }
    if pid < 0 {
        return error_name(-pid);
    }
    wait(pid)
}

/// Waits for a child; how it ended.
pub fn wait(pid: i64) -> String {
    let mut status = 0i32;
    let address = &raw mut status as u64;
    loop {
        match call(libc::SYS_wait4, &[pid as u64, address, 0, 0]) {
            got if got == pid => break,
            -4 => {}
            error => return format!("wait: {}", error_name(-error)),
        }
    }
    match status & 0x7f {
        0 => format!("exit {}", status >> 8 & 0xff),
        signal => format!("signal {signal}"),
    }
}
