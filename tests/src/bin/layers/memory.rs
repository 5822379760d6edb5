// SPDX-License-Identifier: GPL-2.0

//! What a hostile program tries with memory, to execute code of its own: what extended page tables stop by themselves.

use crate::attacks::{attacks, map, syscall, Attack, Outcome};
use crate::world::World;

attacks! {
    /// Those that are made with memory.
    ATTACKS:
    write_and_execute: "have memory that can be written and executed";
    turn_into_code: "write code to memory and make that executable";
    turn_by_key: "the same by `pkey_mprotect`";
    turn_moved: "the same when it has moved it elsewhere";
    turn_in_child: "the same in a child, of what the parent wrote";
    change_code: "make code writable, change it, and execute it";
    share_code: "make memory executable that processes have in common";
    share_code_by_file: "execute what it writes to a memory file by another mapping of that";
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// `mov eax, 42; ret`.
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];

/// Executes what is at an address; it is to be [`CODE`].
fn run_code(address: u64) -> Outcome {
    // SAFETY: There is a function that returns a number, or what the attack did not get to change: nothing is there
    // that does not return.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(address) };
    match function() {
        42 => Ok(()),
        _ => Err("not changed".into()),
    }
}

fn put_code(address: u64) {
    // SAFETY: The page was mapped to be written, and nothing else is in the first bytes that is in use.
    unsafe { (address as *mut u8).copy_from_nonoverlapping(CODE.as_ptr(), CODE.len()) };
}

fn protect(address: u64, prot: i32) -> Outcome {
    let args = [address, 4096, prot as u64, 0, 0, 0];
    syscall(libc::SYS_mprotect, args).map(drop)
}

/// Memory with code in it, which it can write.
fn written() -> Result<u64, String> {
    let address = map(RW, ANONYMOUS, -1)?;
    put_code(address);
    Ok(address)
}

/// A page of memory with nothing but zeros, as code.
fn executable() -> Result<u64, String> {
    map(RX, ANONYMOUS, -1)
}

fn write_and_execute(_: &World) -> Outcome {
    let address = map(RW | RX, ANONYMOUS, -1)?;
    put_code(address);
    run_code(address)
}

fn turn_into_code(_: &World) -> Outcome {
    let address = written()?;
    protect(address, RX)?;
    run_code(address)
}

fn turn_by_key(_: &World) -> Outcome {
    let address = written()?;
    let args = [address, 4096, RX as u64, u64::MAX, 0, 0];
    syscall(libc::SYS_pkey_mprotect, args)?;
    run_code(address)
}

fn turn_moved(_: &World) -> Outcome {
    let (old, new) = (written()?, map(RX, ANONYMOUS, -1)?);
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    syscall(libc::SYS_mremap, [old, 4096, 4096, flags, new, 0])?;
    protect(new, RX)?;
    run_code(new)
}

fn turn_in_child(_: &World) -> Outcome {
    let address = written()?;
    // SAFETY: There is one thread.
    match unsafe { libc::fork() } {
        -1 => Err("no process".into()),
        0 => {
            let outcome = protect(address, RX).and_then(|()| run_code(address));
            // SAFETY: It ends the child, whose memory nobody needs.
            unsafe { libc::_exit(outcome.is_err().into()) }
        }
        child => {
            let mut status = 0;
            // SAFETY: The status is ours.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            match (waited == child, status) {
                (true, 0) => Ok(()),
                (true, 0x100) => Err("refused".into()),
                _ => Err(format!("status {status:#x}")),
            }
        }
    }
}

fn change_code(_: &World) -> Outcome {
    let address = executable()?;
    protect(address, RW)?;
    put_code(address);
    protect(address, RX)?;
    run_code(address)
}

fn share_code(_: &World) -> Outcome {
    let address = map(RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)?;
    put_code(address);
    protect(address, RX)?;
    run_code(address)
}

fn share_code_by_file(_: &World) -> Outcome {
    let text = c"code".as_ptr() as u64;
    let fd = syscall(libc::SYS_memfd_create, [text, 0, 0, 0, 0, 0])? as i32;
    syscall(libc::SYS_ftruncate, [fd as u64, 4096, 0, 0, 0, 0])?;
    put_code(map(RW, libc::MAP_SHARED, fd)?);
    run_code(map(RX, libc::MAP_PRIVATE, fd)?)
}
