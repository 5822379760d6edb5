// SPDX-License-Identifier: GPL-2.0

//! What a tree has, and what of it others have as well.

use crate::addr::Hpa;
use crate::entry::Owner;
use crate::geometry::Level;
use crate::host::Host;
use crate::region::{Backing, Region, Store};
use crate::space::Space;
use crate::tree::{load, Tree};
use crate::view::{Slots, View};

/// How many leaf tables are looked at by one call: some 50,000 instructions.
const PIECE: u32 = 16;

/// How many pages a tree has of each kind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Frames that only this tree has.
    pub private: u64,
    /// Frames that other trees have as well.
    pub shared: u64,
    /// Pages of files.
    pub file: u64,
    /// Tables that only this tree has, the root among them.
    pub tables: u64,
    /// Tables that other trees have as well.
    pub shared_tables: u64,
}

/// Counts a tree piece by piece, so that nobody has to keep it from changing for long.
///
/// What changes meanwhile is counted as it was before or as it is after.
#[derive(Default, Debug)]
pub struct Count {
    usage: Usage,
    /// The page to go on at.
    next: u64,
    /// The view to go on in.
    view: usize,
}

impl Count {
    /// Nothing is counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts the next piece of `tree`, always the same one; false if that was the last one.
    pub fn go_on<H: Host>(&mut self, host: &H, tree: &Tree) -> bool {
        let mut left = PIECE;
        self.table(host, (tree.root(), Level::ROOT), true, 0, &mut left)
    }

    /// [`Count::go_on`] for a space, whose views have tables as well.
    pub fn go_on_in<H, B, S, V>(&mut self, host: &H, space: &Space<B, S, V>) -> bool
    where
        H: Host,
        B: Backing,
        S: Store<Region<B>>,
        V: Slots<View<B, S>, Error = S::Error>,
    {
        while self.view <= space.max_view() {
            let Some(tree) = space.tree_of(self.view) else {
                self.view = self.view.saturating_add(1);
                continue;
            };
            if !self.go_on(host, tree) {
                self.view = self.view.saturating_add(1);
                self.next = 0;
            }
            return true;
        }
        false
    }

    /// What was counted.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Counts what is not counted yet of a table whose first page is `first`, which is `own` if no other
    /// tree has it, and of what is below it; true if it stopped within, with `left` leaf tables looked at.
    fn table<H: Host>(
        &mut self,
        host: &H,
        (table, level): (Hpa, Level),
        own: bool,
        first: u64,
        left: &mut u32,
    ) -> bool {
        // A table goes with its first page.
        if first >= self.next {
            let usage = &mut self.usage;
            *if own {
                &mut usage.tables
            } else {
                &mut usage.shared_tables
            } += 1;
        }
        let Some(below) = level.below() else {
            self.leaves(host, table, own);
            self.next = first.saturating_add(level.pages(host.entries(table).len() as u64));
            *left = left.saturating_sub(1);
            return *left == 0;
        };
        for (at, slot) in host.entries(table).iter().enumerate() {
            let entry = load(slot);
            // CAST: Below the number of entries.
            let page = first.saturating_add(level.pages(at as u64));
            if !entry.is_used() || level.span(page).end <= self.next {
                continue;
            }
            let inner = entry.address();
            let own = own && !host.is_table_shared(inner);
            if self.table(host, (inner, below), own, page, left) {
                return true;
            }
        }
        false
    }

    /// Counts the leaves of a table.
    fn leaves<H: Host>(&mut self, host: &H, table: Hpa, own: bool) {
        let usage = &mut self.usage;
        for slot in host.entries(table) {
            let entry = load(slot);
            if !entry.is_used() {
                continue;
            }
            let leaf = entry.to_leaf();
            *match leaf.owner {
                // Counted where it is lent from, and by whose memory it is.
                Owner::Lent | Owner::User => continue,
                Owner::File | Owner::Live => &mut usage.file,
                _ if own && !host.is_frame_shared(leaf.frame) => &mut usage.private,
                _ => &mut usage.shared,
            } += 1;
        }
    }
}
