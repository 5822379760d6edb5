// SPDX-License-Identifier: GPL-2.0

//! Signal frames that are none, and stacks without room for one: what becomes of who goes back by them.

use std::arch::asm;

use crate::call::{exit, in_child};

/// An address where nothing is.
const NOWHERE: usize = 0x108;

/// Handles SIGSEGV: says what came with it, and ends.
extern "C" fn caught(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The kernel gives a whole structure.
    let info = unsafe { &*info };
    // SAFETY: The address is there for this signal.
    let address = unsafe { info.si_addr() } as usize;
    println!("caught: code {}, address {address:#x}", info.si_code);
    exit(7);
}

/// Has a signal handled, on the alternate stack if `flags` say so.
fn handle(number: i32, handler: usize, flags: i32) {
    // SAFETY: All bytes zero are a valid value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_SIGINFO | flags;
    // SAFETY: The structure is whole, and the handler one of those here.
    unsafe { libc::sigaction(number, &action, std::ptr::null_mut()) };
}

/// Gives the thread an alternate stack, and SIGSEGV a handler there.
fn catch() {
    let stack = Box::leak(vec![0u8; 64 << 10].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: stack.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: stack.len(),
    };
    // SAFETY: The stack is nobody else's, and stays.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
    handle(
        libc::SIGSEGV,
        caught as *const () as usize,
        libc::SA_ONSTACK,
    );
}

/// Makes a system call, of two arguments, with a stack that is none.
fn call_without_stack(number: i64, first: u64, second: u64) -> u64 {
    let mut result = number;
    // SAFETY: The stack pointer is put back before anything uses it, if the call comes back.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, r13",
            "syscall",
            "mov rsp, r12",
            inout("rax") result,
            in("rdi") first,
            in("rsi") second,
            in("r13") NOWHERE,
            out("r12") _,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result as u64
}

/// Goes back by a frame that is not there.
fn go_back() -> u64 {
    call_without_stack(libc::SYS_rt_sigreturn, 0, 0)
}

/// Sends itself a signal whose handler has no stack.
fn no_room() -> u64 {
    handle(libc::SIGUSR1, caught as *const () as usize, 0);
    let pid = u64::from(std::process::id());
    call_without_stack(libc::SYS_kill, pid, libc::SIGUSR1 as u64)
}

/// Changes the frame that its handler goes back by.
fn changed(change: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::ucontext_t)) -> u64 {
    handle(libc::SIGUSR1, change as *const () as usize, 0);
    // SAFETY: It is handled.
    unsafe { libc::raise(libc::SIGUSR1) };
    1
}

extern "C" fn bad_state(_: libc::c_int, _: *mut libc::siginfo_t, frame: *mut libc::ucontext_t) {
    // SAFETY: The kernel gives a whole frame.
    unsafe { (*frame).uc_mcontext.fpregs = 0x40 as *mut _ };
}

extern "C" fn bad_place(_: libc::c_int, _: *mut libc::siginfo_t, frame: *mut libc::ucontext_t) {
    // SAFETY: As above.
    unsafe { (*frame).uc_mcontext.gregs[libc::REG_RIP as usize] = 1 << 62 };
}

extern "C" fn bad_and_blocked(
    number: libc::c_int,
    info: *mut libc::siginfo_t,
    frame: *mut libc::ucontext_t,
) {
    // SAFETY: As above.
    unsafe { libc::sigaddset(&raw mut (*frame).uc_sigmask, libc::SIGSEGV) };
    bad_state(number, info, frame);
}

/// Blocks SIGSEGV.
fn block() {
    let mask = 1u64 << (libc::SIGSEGV - 1);
    let mask = &raw const mask as u64;
    crate::call::must(libc::SYS_rt_sigprocmask, &[0, mask, 0, 8]);
}

/// Says what comes of each.
pub fn main() {
    // The Rust runtime handles it as well.
    // SAFETY: There is no handler left by it.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    let play = |what: &str, body: fn() -> u64| println!("{what}: {}", in_child(body));
    play("no frame, and no handler", go_back);
    play("no frame", || {
        catch();
        go_back()
    });
    play("no frame, and what is forced is blocked", || {
        catch();
        block();
        go_back()
    });
    play("no frame, and no other stack", || {
        handle(libc::SIGSEGV, caught as *const () as usize, 0);
        go_back()
    });
    play("no room for a handler", || {
        catch();
        no_room()
    });
    play("no room, and no other handler", no_room);
    play("no extended state", || {
        catch();
        changed(bad_state)
    });
    play("no place to go", || {
        catch();
        changed(bad_place)
    });
    play("a mask that counts", || {
        catch();
        changed(bad_and_blocked)
    });
}
