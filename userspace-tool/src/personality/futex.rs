// SPDX-License-Identifier: GPL-2.0

//! Futexes: the host's, on the guest's words where the broker has them mapped.
//!
//! All threads of a process find a word at the same address of the broker's, so that the host's private futexes serve,
//! also for a guest that asks for shared ones on memory that no other process has.

use super::Args;
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::task::Task;

pub(super) fn futex(task: &mut Task, args: Args) -> SysResult {
    let [address, operation, value, argument, second, third] = args;
    let operation = operation as u32 as i32;
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    if address % 4 != 0 {
        return Err(Errno::EINVAL);
    }
    let word = task.memory.range(address, 4)?;
    let value = value as u32 as i32;
    let operation = operation | libc::FUTEX_PRIVATE_FLAG;
    let third = u64::from(third as u32);
    match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET | libc::FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => {
            let mut time = task.memory.read_optional::<16>(argument)?;
            if time.is_none() {
                return pass!(FUTEX_WAIT, word, operation, value, None, None, third);
            }
            pass!(
                FUTEX_WAIT_UNTIL,
                word,
                operation,
                value,
                &mut time,
                None,
                third
            )
        }
        libc::FUTEX_WAIT_REQUEUE_PI => {
            let mut time = task.memory.read_optional::<16>(argument)?;
            let second = task.memory.range(second, 4)?;
            pass!(
                FUTEX_WAIT_UNTIL,
                word,
                operation,
                value,
                &mut time,
                Some(second),
                third
            )
        }
        libc::FUTEX_WAKE
        | libc::FUTEX_WAKE_BITSET
        | libc::FUTEX_UNLOCK_PI
        | libc::FUTEX_TRYLOCK_PI => pass!(FUTEX, word, operation, value, 0, None, third),
        libc::FUTEX_REQUEUE
        | libc::FUTEX_CMP_REQUEUE
        | libc::FUTEX_WAKE_OP
        | libc::FUTEX_CMP_REQUEUE_PI => {
            let second = task.memory.range(second, 4)?;
            let count = argument as u32 as i32;
            pass!(FUTEX, word, operation, value, count, Some(second), third)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// `FUTEX_LOCK_PI2`.
const FUTEX_LOCK_PI2: i32 = 13;

pub(super) fn get_robust_list(task: &mut Task, [tid, head, len, ..]: Args) -> SysResult {
    if tid as u32 != 0 && tid as u32 as i32 != crate::signal::own_tid() {
        return Err(Errno::EPERM);
    }
    task.memory.write(len, &24u64.to_le_bytes())?;
    task.memory.write(head, &task.thread.robust.to_le_bytes())?;
    Ok(0)
}
