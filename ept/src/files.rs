// SPDX-License-Identifier: GPL-2.0

//! Pages of files, taken out so that the page cache may let go of them.

use crate::addr::{Hpa, Range};
use crate::entry::Owner;
use crate::geometry::Level;
use crate::host::Host;
use crate::tree::{load, store, Tree};

/// How many leaf tables are looked at by one call, at most.
const TABLES: u32 = 32;

/// What [`Tree::detach_files`] found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Files {
    /// How many pages it detached.
    pub count: u32,
    /// A range that has all of them; none if there is none.
    pub range: Option<Range>,
    /// The page number to go on at; 0 if that was the end.
    pub next: u64,
}

impl Tree {
    /// First pass of taking pages of files out, as [`Tree::detach`]: up to `most` of them, from the page
    /// number `start` on.
    ///
    /// Only those in tables that are the tree's own: those that clones have, or had, cannot be changed. A
    /// table may be left without entries. Flush and [`Tree::reap`] are as with [`Tree::detach`].
    pub fn detach_files<H: Host>(&mut self, host: &H, start: u64, most: u32) -> Files {
        let mut walk = Walk {
            next: start,
            left: most,
            tables: TABLES,
            pages: None,
        };
        let stopped = most > 0 && walk.table(host, (self.root(), Level::ROOT), 0);
        let range = walk.pages.and_then(|(first, last)| {
            let len = last.saturating_sub(first).saturating_add(1);
            Range::new(first << 12, len << 12, 48)
        });
        Files {
            count: most.saturating_sub(walk.left),
            range,
            next: if stopped { walk.next } else { 0 },
        }
    }
}

/// [`Tree::detach_files`], on its way.
struct Walk {
    /// The page to go on at.
    next: u64,
    /// How many more pages are wanted.
    left: u32,
    /// How many more tables are looked at.
    tables: u32,
    /// The first and the last page that was detached.
    pages: Option<(u64, u64)>,
}

impl Walk {
    /// Goes through a table whose first page is `first`; true if that was enough.
    fn table<H: Host>(&mut self, host: &H, (table, level): (Hpa, Level), first: u64) -> bool {
        for (at, slot) in host.entries(table).iter().enumerate() {
            // CAST: Below the number of entries.
            let page = first.saturating_add(level.pages(at as u64));
            let end = level.span(page).end;
            let entry = load(slot);
            if end <= self.next || !entry.is_mapped() {
                continue;
            }
            if let Some(below) = level.below() {
                let inner = entry.address();
                if entry.is_own_table() && self.table(host, (inner, below), page) {
                    return true;
                }
                continue;
            }
            if entry.to_leaf().owner == Owner::File {
                store(slot, entry.detached());
                let (from, _) = self.pages.unwrap_or((page, page));
                self.pages = Some((from, page));
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.next = end;
                    return true;
                }
            }
        }
        if level.below().is_none() {
            let pages = level.pages(host.entries(table).len() as u64);
            self.next = self.next.max(first.saturating_add(pages));
            self.tables = self.tables.saturating_sub(1);
            return self.tables == 0;
        }
        false
    }
}
