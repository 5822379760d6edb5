// SPDX-License-Identifier: GPL-2.0

//! Tables that several trees have in common, and are copied when one of the trees changes something.
//!
//! A clone has a root of its own; what that points to is its parent's. Each table has a reference for
//! each entry that points to it, and while there may be several, nobody changes it. To the CPU that is
//! said once, at the top: what a page allows is the AND of what the entries on the way to it allow, so
//! an entry without `W` protects everything below it.
//!
//! Who has to change something goes down from the root ([`Tree::unshare`]). A table that is pointed to
//! without `W` is exchanged for a copy, whose entries point to the same tables and frames, again without
//! `W`; or is taken over if all others let go of it meanwhile. So a write costs a table a level, once,
//! and one frame.
//!
//! Several threads may do that at once in trees that have tables in common, each with the lock of its own
//! tree: a table that is shared is only read, and who sees that it is not shared any more is the only one
//! who can reach it, since the tables on the way to it are its own by then.
//!
//! But for pages of files: who has the locks of all these trees, and so is the only one who reads, takes
//! them out of shared tables as well (see [`files`](crate::Files)).
//!
//! A CPU may have a table cached that was exchanged, for as long as it is not flushed, and the others may
//! give it back at any time. So the reference of the tree that exchanged it goes last: what
//! [`Retired`] has is given back behind the flush.

use crate::addr::{Gpa, Hpa, Range};
use crate::entry::{Entry, Owner};
use crate::geometry::{Level, ENTRIES};
use crate::host::Host;
use crate::tree::{load, slot, store, Taken, Tree};
use crate::unmap::{free_entry, put_table};
use crate::used::{for_each, CHUNK};

/// How many tables are on the way to a page, without the root.
const BELOW_ROOT: usize = 3;

/// Tables that were exchanged, whose references are dropped after a flush.
#[derive(Default, Debug)]
#[must_use = "its references are dropped by `give_back` only"]
pub struct Retired {
    /// With the level of each.
    tables: [Option<(Hpa, Level)>; BELOW_ROOT],
}

impl Retired {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is none, so that no flush is needed.
    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(Option::is_none)
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.tables.iter().flatten().fold(0, |count, _| count + 1)
    }

    /// Adds a table; there is room, as no more are on the way to a page.
    fn add(&mut self, table: Hpa, level: Level) {
        if let Some(room) = self.tables.iter_mut().find(|table| table.is_none()) {
            *room = Some((table, level));
        }
    }

    /// Drops the references. The caller has flushed all CPUs since, unless there was none.
    pub fn give_back<H: Host>(&mut self, host: &mut H) {
        for (table, level) in self.tables.iter_mut().filter_map(Option::take) {
            put_table(host, table, level);
        }
    }
}

impl Tree {
    /// A tree with the same pages, all of which both have in common from now on.
    ///
    /// The cost does not depend on how many pages there are. `host` is the new tree's. If permission
    /// was taken from this tree, what a CPU writes to it before the flush is seen in the other one.
    /// No range of this tree may be detached and not reaped.
    pub fn share<H: Host>(&mut self, host: &mut H) -> Result<(Self, Taken), H::Error> {
        let mut clone = Self::new(host)?;
        let mut taken = Taken::Nothing;
        for_each(host, self.root(), self.root_len(), |host, at, entry| {
            if entry.is_own_table() {
                taken = Taken::Something;
            }
            let shared = Entry::shared_table(entry.address());
            host.share_table(entry.address());
            put(host, self.root(), at, shared);
            // INVARIANT: the clone's entry has the reference just taken.
            put(host, clone.root(), at, shared);
        });
        self.was_shared = true;
        clone.was_shared = true;
        clone.set_root_len(self);
        Ok((clone, taken))
    }

    /// Makes the tables on the way to the page of `gpa` the tree's own, as far as there are any.
    ///
    /// What was exchanged is added to `retired`, which must be empty, also if this fails; what was done
    /// until then stays, and changes nothing for the guest.
    pub fn unshare<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        retired: &mut Retired,
    ) -> Result<(), H::Error> {
        match Range::page_of(gpa) {
            Some(page) if self.was_shared => self.unshare_to(host, gpa, &page, retired),
            _ => Ok(()),
        }
    }

    /// Makes the tables the tree's own that are only in part in `range`, on the way to its page `gpa`.
    fn unshare_to<H: Host>(
        &mut self,
        host: &mut H,
        gpa: Gpa,
        range: &Range,
        retired: &mut Retired,
    ) -> Result<(), H::Error> {
        let Some(page) = gpa.page() else {
            return Ok(());
        };
        let (mut table, mut level) = (self.root(), Level::ROOT);
        while let Some(below) = level.below() {
            let index = level.index(page);
            let entry = load(slot(host, table, index));
            let span = level.span(page);
            let pages = range.page_numbers();
            let whole = pages.start <= span.start && span.end <= pages.end;
            if !entry.is_mapped() || whole {
                break;
            }
            let mut inner = entry.address();
            if !entry.is_own_table() {
                if host.is_table_shared(inner) {
                    let copy = copy_table(host, inner, below)?;
                    retired.add(inner, below);
                    inner = copy;
                } else {
                    take_over(host, inner, below);
                }
                // INVARIANT: nobody else has it, and its entries say that others may have what they
                // point to.
                store(slot(host, table, index), Entry::table(inner));
            }
            (table, level) = (inner, below);
        }
        Ok(())
    }

    /// Makes the first tables in `range` the tree's own that are not; the rest of the range that is to be
    /// looked at behind them, or none.
    ///
    /// `retired` is as with [`Tree::unshare`]; the caller gives it back, after a flush, before it goes on.
    pub fn unshare_next<H: Host>(
        &mut self,
        host: &mut H,
        range: Range,
        retired: &mut Retired,
    ) -> Result<Option<Range>, H::Error> {
        if !self.was_shared {
            return Ok(None);
        }
        self.unshare(host, range.start(), retired)?;
        Ok(range.since_page(self.next_table(host, range.start())))
    }

    /// The number of the first page behind the leaf table of `gpa`, or behind the largest span around it
    /// in which nothing is mapped.
    fn next_table<H: Host>(&self, host: &H, gpa: Gpa) -> u64 {
        let Some(page) = gpa.page() else {
            return u64::MAX;
        };
        let (mut table, mut level) = (self.root(), Level::ROOT);
        loop {
            let entry = load(slot(host, table, level.index(page)));
            let end = level.span(page).end;
            match level.below() {
                Some(below) if entry.is_mapped() && below.below().is_some() => {
                    (table, level) = (entry.address(), below);
                }
                _ => return end,
            }
        }
    }

    /// Makes the tables the tree's own that are only in part in `range`, at its start if `at_end` is not
    /// set, else at its end; for [`Tree::detach`]. `retired` is as with [`Tree::unshare`].
    pub fn unshare_edge<H: Host>(
        &mut self,
        host: &mut H,
        range: Range,
        at_end: bool,
        retired: &mut Retired,
    ) -> Result<(), H::Error> {
        if !self.was_shared {
            return Ok(());
        }
        let edge = if at_end {
            range.pages().next_back()
        } else {
            Some(range.start())
        };
        match edge {
            Some(gpa) => self.unshare_to(host, gpa, &range, retired),
            None => Ok(()),
        }
    }

    /// First pass of a reset: no CPU that is flushed after this reaches anything.
    ///
    /// Until [`Tree::restore`], nothing else may be done with the tree. No range of it may be detached and
    /// not reaped.
    pub fn hide<H: Host>(&mut self, host: &mut H) {
        let root = self.root();
        for_each(host, root, self.root_len(), |host, at, entry| {
            put(host, root, at, entry.hidden());
        });
    }

    /// Second pass of a reset, after a flush of all CPUs: gives the tree the pages of `template`, and gives
    /// back what it had of its own; how many frames that were.
    ///
    /// What both have in common is only looked at, so that the cost is that of what was changed. Of the
    /// tree's own tables up to `keep` stay, in which its next changes may be. No range of the template may
    /// be detached and not reaped, and no CPU may run in it.
    pub fn restore<H: Host>(&mut self, host: &mut H, template: &mut Tree, keep: u32) -> u64 {
        let mut restore = Restore { keep, frames: 0 };
        for at in 0..self.root_len().max(template.root_len()) {
            let now = get(host, self.root(), at).shown();
            let wanted = protected(get(host, template.root(), at), Level::ROOT);
            // What is below it may get more references, so that the template must not change it.
            put(host, template.root(), at, wanted);
            let entry = restore.entry(host, now, wanted, Level::ROOT);
            put(host, self.root(), at, entry.unwrap_or(Entry::UNUSED));
        }
        self.was_shared = true;
        self.set_root_len(template);
        restore.frames
    }

    /// Calls `differs` for the pages from that of `start` on that are not the same in this tree and in
    /// `other`, in ascending order, until it returns false; with whether one of them has a page of a file
    /// there, and the other none.
    pub fn compare<H: Host>(
        &self,
        host: &H,
        other: &Self,
        start: Gpa,
        differs: &mut impl FnMut(Gpa, bool) -> bool,
    ) {
        if let Some(start) = start.page() {
            let roots = [Some(self.root()), Some(other.root())];
            compare_tables(host, roots, Level::ROOT, 0, start, differs);
        }
    }
}

/// [`Tree::restore`], on its way.
struct Restore {
    /// How many more tables may be kept.
    keep: u32,
    /// How many private frames were given back.
    frames: u64,
}

impl Restore {
    /// What an entry of a table at `level` that is `now` becomes where `wanted` is wanted, which the template
    /// has. Fails only for leaves, and changes nothing then.
    fn entry<H: Host>(
        &mut self,
        host: &mut H,
        now: Entry,
        wanted: Entry,
        level: Level,
    ) -> Result<Entry, H::Error> {
        if now == wanted {
            return Ok(now);
        }
        if let (Some(below), true) = (level.below(), now.is_mapped() && wanted.is_mapped()) {
            let (own, of) = (now.address(), wanted.address());
            if self.keep > 0 && now.is_own_table() && !host.is_table_shared(own) {
                self.keep = self.keep.saturating_sub(1);
                if self.table(host, own, of, below).is_ok() {
                    return Ok(now);
                }
            }
        }
        if wanted.is_used() {
            take_reference(host, wanted, level)?;
        }
        if now.is_used() {
            let frames = free_entry(host, now, level);
            // OVERFLOW: A tree has at most 2^36 leaves.
            self.frames = self.frames.wrapping_add(frames);
        }
        Ok(wanted)
    }

    /// Makes `table` of `level`, which is the tree's own, one with what `of` has, as far as no reference
    /// fails.
    fn table<H: Host>(
        &mut self,
        host: &mut H,
        table: Hpa,
        of: Hpa,
        level: Level,
    ) -> Result<(), H::Error> {
        let mut start = 0;
        while start < ENTRIES {
            // Most are equal, and are passed over so; live ones are looked at.
            let differs = match level.below() {
                Some(_) => differ(host, table, of, start, Entry::protected_table),
                None => differ(host, table, of, start, Entry::protected_or_strange_leaf),
            };
            // OVERFLOW: Both are small.
            let end = start.wrapping_add(CHUNK);
            for at in if differs { start..end } else { 0..0 } {
                let now = get(host, table, at);
                let wanted = protected(get(host, of, at), level);
                if now != wanted {
                    let entry = self.entry(host, now, wanted, level)?;
                    put(host, table, at, entry);
                }
            }
            start = end;
        }
        Ok(())
    }
}

/// Whether any of the entries from number `start` on, a multiple of [`CHUNK`], is in `table` another one than
/// what those in `of` become by `protect`.
#[inline(always)]
fn differ<H: Host>(
    host: &H,
    table: Hpa,
    of: Hpa,
    start: usize,
    protect: impl Fn(Entry) -> Entry,
) -> bool {
    let chunk = |table| {
        let slots = host.entries(table).get(start..);
        slots.and_then(|slots| slots.first_chunk::<CHUNK>())
    };
    let (Some(now), Some(of)) = (chunk(table), chunk(of)) else {
        return false;
    };
    let mut bits = 0;
    for (now, of) in now.iter().zip(of) {
        bits |= load(now).0 ^ protect(load(of)).0;
    }
    bits != 0
}

/// [`Tree::compare`] for two tables that span the pages from `first` on; none is an empty one.
fn compare_tables<H: Host>(
    host: &H,
    tables: [Option<Hpa>; 2],
    level: Level,
    first: u64,
    start: u64,
    differs: &mut impl FnMut(Gpa, bool) -> bool,
) -> bool {
    for at in 0..ENTRIES {
        // CAST: below the number of entries.
        let page = first.saturating_add(level.pages(at as u64));
        if level.span(page).end <= start {
            continue;
        }
        let entries = tables.map(|table| {
            table
                .map(|table| get(host, table, at))
                .filter(|entry| entry.is_mapped())
        });
        let [a, b] = entries.map(|entry| entry.map(Entry::address));
        if a == b {
            continue;
        }
        let goes_on = match level.below() {
            Some(below) => compare_tables(host, [a, b], below, page, start, differs),
            None => {
                let of_file = match entries {
                    [Some(leaf), None] | [None, Some(leaf)] => leaf.to_leaf().owner == Owner::File,
                    _ => false,
                };
                differs(Gpa::of_page(page), of_file)
            }
        };
        if !goes_on {
            return false;
        }
    }
    true
}

/// The entry `at` of `table`.
fn get<H: Host>(host: &H, table: Hpa, at: usize) -> Entry {
    host.entries(table).get(at).map_or(Entry::UNUSED, load)
}

/// Writes the entry `at` of `table`.
fn put<H: Host>(host: &H, table: Hpa, at: usize, entry: Entry) {
    if let Some(slot) = host.entries(table).get(at) {
        store(slot, entry);
    }
}

/// What an entry of a table at `level` becomes when others may have what it points to.
#[inline]
fn protected(entry: Entry, level: Level) -> Entry {
    match level.below() {
        Some(_) => entry.protected_table(),
        None => entry.protected_leaf(),
    }
}

/// A copy of the table `from` of `level`, with references of its own.
fn copy_table<H: Host>(host: &mut H, from: Hpa, level: Level) -> Result<Hpa, H::Error> {
    let copy = host.alloc_table()?;
    if let Err(error) = fill_copy(host, from, copy, level) {
        put_table(host, copy, level);
        return Err(error);
    }
    Ok(copy)
}

/// Makes `copy`, which is empty, a copy of `from`, up to the first reference that cannot be had.
fn fill_copy<H: Host>(host: &H, from: Hpa, copy: Hpa, level: Level) -> Result<(), H::Error> {
    for (from, to) in host.entries(from).iter().zip(host.entries(copy)) {
        let entry = load(from);
        if !entry.is_used() {
            continue;
        }
        take_reference(host, entry, level)?;
        store(to, protected(entry, level));
    }
    Ok(())
}

/// Takes a reference on what an entry of a table at `level` points to.
fn take_reference<H: Host>(host: &H, entry: Entry, level: Level) -> Result<(), H::Error> {
    match level.below() {
        Some(_) => host.share_table(entry.address()),
        None => {
            let leaf = entry.to_leaf();
            host.share_frame(leaf.frame, leaf.owner)?;
        }
    }
    Ok(())
}

/// Makes the entries of `table` say that others may have what they point to: copies of it, made while it
/// was shared, may be theirs.
///
/// No CPU can write through the table yet, so that nothing is taken.
fn take_over<H: Host>(host: &H, table: Hpa, level: Level) {
    for slot in host.entries(table) {
        let entry = load(slot);
        if entry.is_used() {
            store(slot, protected(entry, level));
        }
    }
}
