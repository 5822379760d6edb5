// SPDX-License-Identifier: GPL-2.0

//! Futexes: the host's, on the guest's words where the broker has them mapped.
//!
//! All threads of a process find a word at the same address of the broker's, so that the host's private futexes serve,
//! also for a guest that asks for shared ones on memory that no other process has. In memory that others have,
//! the word is where the broker has the file itself ([`super::shared`]).

use std::sync::Arc;

use super::Args;
use crate::errno::{Errno, SysResult};
use crate::map::Mapping;
use crate::memory::GuestRange;
use crate::pass;
use crate::task::Task;

/// The word at `address`, which is `common` if other processes may have it.
fn at<'a>(
    task: &'a Task,
    address: u64,
    common: &'a Option<(Arc<Mapping>, u64)>,
) -> SysResult<GuestRange<'a>> {
    match common {
        Some((mapping, offset)) => GuestRange::of_mapping(mapping, *offset, 4),
        None => task.memory.range(address, 4),
    }
}

/// A futex that others may have is found by the page that it is in, so there must be one.
fn present(task: &Task, address: u64, private: bool) -> SysResult<()> {
    if !private && address % 4 == 0 {
        task.memory.read::<4>(address)?;
    }
    Ok(())
}

pub(super) fn futex(task: &mut Task, args: Args) -> SysResult {
    let [address, operation, value, argument, second, third] = args;
    let operation = operation as u32 as i32;
    let command = operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    // Who unlocks reads the word first.
    if address % 4 != 0 && command != libc::FUTEX_UNLOCK_PI {
        return Err(Errno::EINVAL);
    }
    let private = operation & libc::FUTEX_PRIVATE_FLAG != 0;
    let common = |address| match private {
        true => None,
        false => task.shared.book.lock().shared.find(address),
    };
    let (first_common, second_common) = (common(address), common(second));
    let word = at(task, address, &first_common)?;
    let second = || {
        present(task, second, private)?;
        at(task, second, &second_common).map(Some)
    };
    present(task, address, private)?;
    let value = value as u32 as i32;
    let operation = match first_common {
        Some(_) => operation,
        None => operation | libc::FUTEX_PRIVATE_FLAG,
    };
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
            pass!(
                FUTEX_WAIT_UNTIL,
                word,
                operation,
                value,
                &mut time,
                second()?,
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
            let count = argument as u32 as i32;
            pass!(FUTEX, word, operation, value, count, second()?, third)
        }
        _ => Err(Errno::ENOSYS),
    }
}

/// What is changed in a word before who waits there is woken: one, if it says nothing else.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    None,
    /// It becomes this, a bit. It does not say any more that others wait, so all are woken.
    To(u32),
    /// This bit is set as well.
    With(u32),
}

/// Wakes one that waits at a word, wherever it is.
pub(crate) fn wake_one(task: &Task, address: u64, change: Change) -> SysResult {
    let common = task.shared.book.lock().shared.find(address);
    let private = match common {
        Some(_) => 0,
        None => libc::FUTEX_PRIVATE_FLAG,
    };
    let word = at(task, address, &common)?;
    let (operation, bit, most) = match change {
        Change::None => return pass!(FUTEX, word, libc::FUTEX_WAKE | private, 1, 0, None, 0),
        Change::To(bit) => (libc::FUTEX_OP_SET, bit, i32::MAX),
        Change::With(bit) => (libc::FUTEX_OP_OR, bit, 1),
    };
    // The argument is the number of a bit.
    let operation = (libc::FUTEX_OP_OPARG_SHIFT | operation) as u32;
    let change = u64::from(operation << 28 | bit.trailing_zeros() << 12);
    let operation = libc::FUTEX_WAKE_OP | private;
    pass!(FUTEX, word, operation, most, 0, Some(word), change)
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
