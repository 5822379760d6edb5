// SPDX-License-Identifier: GPL-2.0

//! Calls whose addresses are not in their arguments.

use std::arch::asm;

use crate::arena::{Arena, Bad};
use crate::call::{call, in_child, must};

/// The stack pointer is bad where the kernel reads a frame from it, or writes one to it.
pub fn special(arena: &mut Arena) {
    for bad in Bad::ALL {
        let stack = arena.place_badly(&[0; 1024], bad);
        let ended = in_child(|| {
            // SAFETY: The call reads a frame of zeros at most: it does not come back.
            unsafe {
                asm!(
                    "mov rsp, {stack}",
                    "mov eax, 15",
                    "syscall",
                    "ud2",
                    stack = in(reg) stack,
                    options(noreturn),
                )
            }
        });
        println!("rt_sigreturn sp {bad:?}: {ended}");
        let ended = in_child(|| {
            let action = [handler as *const () as u64, 0x0400_0000, 0, 0];
            must(libc::SYS_rt_sigaction, &[10, action.as_ptr() as u64, 0, 8]);
            let none = 0u64;
            must(libc::SYS_rt_sigprocmask, &[2, &raw const none as u64, 0, 8]);
            let pid = must(libc::SYS_getpid, &[]);
            // SAFETY: The frame goes to a stack that the program has no other use for, if it can be written
            // there at all, and the handler ends the process.
            unsafe {
                asm!(
                    "mov rsp, {stack}",
                    "mov eax, 62",
                    "syscall",
                    "mov edi, 7",
                    "mov eax, 231",
                    "syscall",
                    stack = in(reg) stack,
                    in("rdi") pid,
                    in("rsi") 10u64,
                    options(noreturn),
                )
            }
        });
        println!("signal sp {bad:?}: {ended}");
    }
    let end = must(libc::SYS_brk, &[0]);
    for bad in Bad::ALL {
        let wanted = arena.place_badly(&[0; 64], bad);
        let same = call(libc::SYS_brk, &[wanted]) as u64 == end;
        println!(
            "brk 0 {bad:?}: {}",
            if same { "as it was" } else { "moved" }
        );
    }
}

extern "C" fn handler() {
    crate::call::exit(5);
}
