// SPDX-License-Identifier: GPL-2.0

//! What all micro-VMs give back when the kernel has little memory: clean pages of files.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

use kernel::rbtree::RBTree;

use uvisor_ept::Files;

use super::{
    Entry,
    ALL, //
};
use crate::{
    memory::Memory,
    pages::FILE_PAGES,
    sys::shrinker::Reclaim, //
};

/// How much one call does, in units of about 200 instructions: a visit to an idle micro-VM.
const WORK: u32 = 1 << 14;

/// A leaf table that is looked at.
const TABLE_WORK: u32 = 8;

/// A member of a family whose lock is held: taken and let go of, and flushed in between.
const MEMBER_WORK: u32 = 5;

/// The largest family whose locks are all held at once. Lockdep has room for 48 of a task.
const MAX_FAMILY: usize = if cfg!(CONFIG_LOCKDEP) { 32 } else { usize::MAX };

/// Where the next search for memory begins.
static NEXT_TO_SHRINK: AtomicU64 = AtomicU64::new(0);

/// All micro-VMs.
pub(crate) struct AllMemory;

impl Reclaim for AllMemory {
    fn count() -> usize {
        FILE_PAGES.load(Relaxed)
    }

    fn give_back(wanted: usize) -> Option<usize> {
        // With the lock held none of them goes, so that it is not for us to end one. Who is waited for here
        // may be making or ending a micro-VM, and is the very task that looks for memory.
        let all = ALL.try_lock()?;
        let all = all.as_ref()?;
        let (mut given, mut work) = (0, WORK);
        let first = NEXT_TO_SHRINK.load(Relaxed);
        let (mut next, mut is_around) = (first, false);
        let mut busy = None;
        while work > 0 {
            // A template comes before its clones, and has what they have in common.
            let Some(cursor) = all.cursor_lower_bound(&next) else {
                next = 0;
                if is_around {
                    break;
                }
                is_around = true;
                continue;
            };
            let (&id, entry) = cursor.current();
            if is_around && id > first {
                // All were looked at; the first one twice, as that may have begun in the middle of it.
                break;
            }
            let memory = &*entry.memory;
            let parent = all.get(&entry.parent).map(|parent| &*parent.memory);
            let most = u32::try_from(wanted.saturating_sub(given)).unwrap_or(u32::MAX);
            let mut files = memory.give_back_files(parent, most).unwrap_or_default();
            spend(&mut work, 1, files.tables);
            // CAST: A 32-bit number fits.
            given = given.saturating_add(files.count as usize);
            if let (Some(page), true) = (files.common, given < wanted) {
                let most = u32::try_from(wanted.saturating_sub(given)).unwrap_or(u32::MAX);
                if busy == Some(memory.family()) {
                    // It will not be any better now.
                } else if let Some(family) = Family::try_hold(all, memory.family(), &mut work) {
                    files = family.give_back(id, entry.parent, page, most);
                    spend(&mut work, 0, files.tables);
                    // CAST: As above.
                    given = given.saturating_add(files.count as usize);
                } else {
                    busy = Some(memory.family());
                }
            }
            if given >= wanted {
                // There may be more where these were.
                next = id;
                break;
            }
            // OVERFLOW: Numbers are given one by one.
            next = if files.next == 0 {
                id.wrapping_add(1)
            } else {
                id
            };
        }
        NEXT_TO_SHRINK.store(next, Relaxed);
        // Without any, the kernel would ask again and again for as many as are counted.
        (given > 0).then_some(given)
    }
}

/// Counts work that was done.
fn spend(work: &mut u32, units: u32, tables: u32) {
    let tables = tables.saturating_mul(TABLE_WORK);
    *work = work.saturating_sub(units.saturating_add(tables));
}

/// A micro-VM and all clones of it and of each other, whose memory nobody else uses as long as this lives.
///
/// # Invariants
///
/// The locks of all members below `end` are held by [`Memory::try_hold`] of this task. Who has a guard
/// ([`Family::try_hold`] returned it) has those of all members.
struct Family<'a> {
    all: &'a RBTree<u64, Entry>,
    id: u64,
    /// The number behind that of the last one whose lock is held.
    end: u64,
}

impl<'a> Family<'a> {
    /// Takes the locks of all members, or none if one is taken.
    ///
    /// Members that are not listed need none: those that are being made are not used by anybody yet, and
    /// those that go not by CPUs any more. They count their own pages at most, and give back what nobody
    /// else has.
    fn try_hold(all: &'a RBTree<u64, Entry>, id: u64, work: &mut u32) -> Option<Self> {
        let mut family = Self { all, id, end: id };
        for (count, (&id, entry)) in all
            .iter()
            .filter(|(_, e)| e.memory.family() == id)
            .enumerate()
        {
            *work = work.saturating_sub(MEMBER_WORK);
            if count == MAX_FAMILY || !entry.memory.try_hold() {
                return None;
            }
            // INVARIANT: They come in ascending order. OVERFLOW: Numbers are given one by one.
            family.end = id.wrapping_add(1);
        }
        Some(family)
    }

    /// The members whose locks are held.
    fn members(&self) -> impl Iterator<Item = &'a Memory> {
        let (id, end) = (self.id, self.end);
        let entries = self.all.iter().take_while(move |(&number, _)| number < end);
        let memories = entries.map(|(_, entry)| &*entry.memory);
        memories.filter(move |memory| memory.family() == id)
    }

    /// The member of this number.
    fn member(&self, id: u64) -> Option<&'a Memory> {
        let memory = &*self.all.get(&id)?.memory;
        (memory.family() == self.id).then_some(memory)
    }

    /// Gives back up to `most` pages of files that a member has, from the page number `start` on, on behalf
    /// of all; those in tables that `parent`, an older member if there still is one, has as well are left to
    /// that one.
    fn give_back(&self, id: u64, parent: u64, start: u64, most: u32) -> Files {
        let Some(member) = self.member(id) else {
            return Files::default();
        };
        let parent = self.member(parent).filter(|_| parent != id);
        // SAFETY: By the invariant, as `self` lives until the end; `parent` is a member, and another one.
        let files = unsafe { member.detach_common_files(parent, start, most) };
        if let Some(range) = files.range {
            for each in self.members() {
                // SAFETY: As above.
                unsafe { each.forget_common_files(range) };
            }
        }
        // SAFETY: As above.
        unsafe { member.drop_common_files(parent, &files) };
        files
    }
}

impl Drop for Family<'_> {
    fn drop(&mut self) {
        for member in self.members() {
            // SAFETY: By the invariant.
            unsafe { member.let_go() };
        }
    }
}
