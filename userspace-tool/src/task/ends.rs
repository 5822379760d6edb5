// SPDX-License-Identifier: GPL-2.0

//! The end of threads and processes: what they had is let go of, so that nobody waits for it for ever.

use std::mem;
use std::time::Duration;

use super::{End, Ending, Task};
use crate::errno::SysResult;
use crate::memory::{word, word32};
use crate::personality::{self, Change};
use crate::signal;

/// The most entries of a thread's list of robust futexes that are looked at, as Linux has it.
const ROBUST_MAX: usize = 2048;

/// In the word of a futex: its owner has died.
const OWNER_DIED: u32 = 1 << 30;

/// How long the other threads of a process that ends may take to let go of what they have. One that waits in the kernel for
/// what no signal ends would take longer.
const LEAVE_TIME: Duration = Duration::from_millis(100);

impl Task {
    /// Other processes may have memory of this one's from here on, and wait for what its threads have locked there: so
    /// it takes what would end it, and the others know.
    pub(crate) fn has_common_memory(&self) {
        if !signal::take_fatal() {
            return;
        }
        self.shared.actions.lock().apply_defaults();
        if let Some(tree) = self.tree.lock().as_ref() {
            // Without that it is killed as one that has none.
            let _ = tree.take_fatal();
        }
    }

    /// Lets go of what others wait for that this thread has.
    pub(super) fn let_go(&mut self) {
        self.let_robust_go();
        let address = mem::take(&mut self.thread.clear_tid);
        if address != 0 && self.memory.write(address, &[0; 4]).is_ok() {
            // Nobody waits at what is no memory.
            let _ = personality::wake_one(self, address, Change::None);
        }
    }

    /// Marks the robust futexes that the thread has.
    pub(super) fn let_robust_go(&mut self) {
        let head = mem::take(&mut self.thread.robust);
        if head != 0 {
            // A list that is broken is the program's problem.
            let _ = self.walk_robust(head);
        }
    }

    fn walk_robust(&self, list: u64) -> SysResult<()> {
        let head = self.memory.read::<24>(list)?;
        let offset = word(&head, 8);
        let pending = word(&head, 16);
        let mut entry = word(&head, 0);
        for _ in 0..ROBUST_MAX {
            // Bit 0 says that it is one with priority inheritance.
            let at = entry & !1;
            if at == list {
                break;
            }
            let next = u64::from_le_bytes(self.memory.read(at)?);
            if at != pending & !1 {
                self.owner_died(entry, offset, false)?;
            }
            entry = next;
        }
        match pending & !1 {
            0 => Ok(()),
            _ => self.owner_died(pending, offset, true),
        }
    }

    /// Says in the futex of an entry that is this thread's that it has died, and wakes one that waits for it; also if it
    /// was about to wake one, as may be where it is `pending`.
    fn owner_died(&self, entry: u64, offset: u64, pending: bool) -> SysResult<()> {
        let address = (entry & !1).wrapping_add(offset);
        let value = word32(&self.memory.read::<4>(address)?, 0);
        // The kernel hands over one with priority inheritance, by what is in it.
        let change = match entry & 1 {
            0 => Change::To(OWNER_DIED),
            _ => Change::With(OWNER_DIED),
        };
        let change = match value & 0x3fff_ffff == signal::own_tid() as u32 {
            true => change,
            false if pending && value == 0 => Change::None,
            false => return Ok(()),
        };
        match address % 4 {
            0 => personality::wake_one(self, address, change).map(drop),
            _ => Ok(()),
        }
    }

    /// Lets go of what this thread and, where other processes could wait for it, all others have, as the process ends;
    /// false if another thread is faster, and this one is to leave.
    pub(super) fn leads_the_end(&mut self) -> bool {
        self.let_robust_go();
        let alone = !signal::takes_fatal() || self.shared.threads.is_alone();
        alone || self.stop_others(Some(LEAVE_TIME))
    }

    /// The process ends by a signal that it does not handle, as the host would have it; if another thread ends it
    /// already, it goes that one's way, and this one leaves.
    pub(crate) fn die(&mut self, number: i32) -> Ending {
        let blocked = signal::BlockAll::new();
        // Who becomes another program is not waited for.
        if !self.leads_the_end() && self.is_ending() {
            return Ending::Left;
        }
        mem::forget(blocked);
        self.tell_end(&End::Signal(number));
        if self.child.is_some() {
            self.count();
        }
        // Nobody gives it another action any more.
        mem::forget(self.shared.actions.lock());
        signal::die_of(number)
    }
}
