// SPDX-License-Identifier: GPL-2.0

//! All micro-VMs that there are.
//!
//! Whoever goes through them has the lock for a few of them at a time, and goes on behind the last one's
//! number: numbers are given in ascending order, and never again.

use core::sync::atomic::Ordering::Relaxed;

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        global_lock,
        Arc, //
    },
    task::Kuid, //
};

use uvisor_uapi::{
    ListEntry,
    ListFlags, //
};

use crate::{
    memory::Memory,
    sys::task::{
        self,
        Process, //
    }, //
};

mod shrink;

pub(crate) use shrink::AllMemory;

/// How many LIST looks at before the lock is given to others.
const AT_ONCE: u32 = 64;

global_lock! {
    // SAFETY: Initialised by `init` before anything can lock it.
    unsafe(uninit) static ALL: Mutex<Option<RBTree<u64, Entry>>> = None;
}

/// Prepares the list.
///
/// # Safety
///
/// Once per load of the module, before all else here.
pub(crate) unsafe fn init() {
    // SAFETY: By the caller's promise.
    unsafe { ALL.init() };
    *ALL.lock() = Some(RBTree::new());
}

/// A micro-VM that exists.
struct Entry {
    memory: Arc<Memory>,
    /// What it is a clone of; 0 if it is none.
    parent: u64,
    /// Who made it.
    process: Process,
    /// The effective user then.
    uid: Kuid,
}

/// A micro-VM is listed while this lives.
pub(crate) struct Listed {
    id: u64,
}

impl Listed {
    /// Lists the micro-VM with this memory as one that the calling task made, as a clone of `parent` or 0.
    pub(crate) fn new(memory: Arc<Memory>, parent: u64) -> Result<Self> {
        let id = memory.id();
        let entry = Entry {
            memory,
            parent,
            process: Process::current()?,
            uid: Kuid::current_euid(),
        };
        let node = RBTreeNode::new(id, entry, GFP_KERNEL_ACCOUNT)?;
        if let Some(all) = &mut *ALL.lock() {
            // No other one has this number.
            let _ = all.insert(node);
        }
        Ok(Self { id })
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let entry = ALL.lock().as_mut().and_then(|all| all.remove(&self.id));
        // The memory may go with it, without the lock.
        drop(entry);
    }
}

/// Whose micro-VMs a task sees.
pub(crate) struct Viewer {
    uid: Kuid,
    /// Everybody's.
    is_admin: bool,
}

impl Viewer {
    /// The calling task.
    pub(crate) fn current() -> Self {
        Self {
            uid: Kuid::current_euid(),
            is_admin: task::is_admin(),
        }
    }

    /// Calls `each` with the number of each micro-VM that it sees, in ascending order, and a way to find
    /// out what it has. Those that come or go meanwhile may be among them.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Seen) -> Result) -> Result {
        // So that whoever makes new ones meanwhile does not keep us.
        let Some(last) = newest() else {
            return Ok(());
        };
        let mut next = 0;
        while next <= last {
            if task::is_dying() {
                return Err(EINTR);
            }
            let seen = match self.find(next) {
                Found::Seen(seen) => seen,
                Found::Unseen(behind) => {
                    next = behind;
                    continue;
                }
                Found::None => break,
            };
            let id = seen.memory.id();
            if id > last {
                break;
            }
            each(&seen)?;
            // OVERFLOW: Numbers are given one by one.
            next = id.wrapping_add(1);
        }
        Ok(())
    }

    /// The first one from `start` on.
    fn find(&self, start: u64) -> Found {
        let all = ALL.lock();
        let Some(all) = &*all else {
            return Found::None;
        };
        let mut next = start;
        for _ in 0..AT_ONCE {
            let Some(cursor) = all.cursor_lower_bound(&next) else {
                return Found::None;
            };
            let (&id, entry) = cursor.current();
            if self.is_admin || entry.uid == self.uid {
                return Found::Seen(Seen {
                    memory: entry.memory.clone(),
                    parent: entry.parent,
                    pid: entry.process.number(),
                    uid: entry.uid,
                });
            }
            // OVERFLOW: As above.
            next = id.wrapping_add(1);
        }
        Found::Unseen(next)
    }
}

/// What [`Viewer::find`] found.
enum Found {
    /// One.
    Seen(Seen),
    /// None of the first few; it goes on at this number.
    Unseen(u64),
    /// None.
    None,
}

/// The greatest number.
fn newest() -> Option<u64> {
    let all = ALL.lock();
    let last = all.as_ref()?.cursor_back()?;
    Some(*last.current().0)
}

/// A micro-VM that a task sees.
pub(crate) struct Seen {
    memory: Arc<Memory>,
    parent: u64,
    /// Of who made it, as the task has it.
    pid: u32,
    uid: Kuid,
}

impl Seen {
    /// What is said about it; takes the longer the more memory it has.
    pub(crate) fn describe(&self) -> Result<ListEntry> {
        let memory = &*self.memory;
        let mut flags = ListFlags::empty();
        flags.set(ListFlags::FROZEN, memory.is_frozen());
        let held = memory.held()?;
        Ok(ListEntry {
            id: memory.id(),
            parent: self.parent,
            pid: self.pid,
            uid: self.uid.into_uid_in_current_ns(),
            flags: flags.bits(),
            vcpus: memory.vcpus.load(Relaxed),
            private: held.private,
            shared: held.shared,
            tables: held.tables,
            charged: held.charged,
        })
    }
}
