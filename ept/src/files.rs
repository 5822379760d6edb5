// SPDX-License-Identifier: GPL-2.0

//! Pages of files, taken out so that the page cache may let go of them.
//!
//! Whoever has the lock of a tree can take them out of tables that are the tree's own. A table that clones
//! may have as well can be changed only by who has the locks of all trees that were ever cloned from each
//! other: a family. Then nobody reads it, and its leaves can go for all of them at once. Such a table stays
//! what it was otherwise: whoever wants a page there again makes the table its own first.

use core::ops;

use crate::addr::{Hpa, Range};
use crate::entry::{Entry, Owner};
use crate::geometry::{Index, Level};
use crate::host::Host;
use crate::tree::{load, slot, store, Tree};
use crate::unmap::free_entry;

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
    /// The number of a page of a file in a table that others may have as well, and that was left alone.
    pub common: Option<u64>,
    /// How many leaf tables it looked at.
    pub tables: u32,
}

impl Tree {
    /// First pass of taking pages of files out, as [`Tree::detach`]: up to `most` of them, from the page
    /// number `start` on.
    ///
    /// Only those in tables that are the tree's own; of the others it says where the first one is. Tables
    /// that `but` has at the same place, which is another tree, are passed over: they are its to look at. A
    /// table may be left without entries. Flush and [`Tree::reap`] are as with [`Tree::detach`].
    pub fn detach_files<H: Host>(
        &mut self,
        host: &H,
        start: u64,
        most: u32,
        but: Option<&Tree>,
    ) -> Files {
        self.walk_files(host, start, most, but, false)
    }

    /// [`Tree::detach_files`], of all tables.
    ///
    /// Until [`Tree::reap_common_files`] nobody may look at any tree of the family, and no tree may have a
    /// range that is detached and not reaped. All trees of the family lose these pages, and so the CPUs of
    /// all must be flushed, and their views forget the range.
    pub fn detach_common_files<H: Host>(
        &mut self,
        host: &H,
        start: u64,
        most: u32,
        but: Option<&Tree>,
    ) -> Files {
        self.walk_files(host, start, most, but, true)
    }

    /// Second pass of [`Tree::detach_common_files`], with the range that it gave and the same `but`: drops
    /// the references of what it detached.
    pub fn reap_common_files<H: Host>(&mut self, host: &mut H, range: Range, but: Option<&Tree>) {
        let root = Place::root(self, but);
        reap_files(host, root, Level::ROOT, range.page_numbers());
    }

    /// [`Tree::detach_files`]; of `all` tables, or only of its own.
    fn walk_files<H: Host>(
        &mut self,
        host: &H,
        start: u64,
        most: u32,
        but: Option<&Tree>,
        all: bool,
    ) -> Files {
        let mut walk = Walk {
            all,
            left: most,
            pages: None,
            files: Files::default(),
        };
        // CAST: At most the number of entries.
        let end = Level::ROOT.pages(self.root_len() as u64);
        let root = Place::root(self, but);
        let stopped = most > 0 && walk.table(host, root, Level::ROOT, start..end);
        let mut files = walk.files;
        files.count = most.saturating_sub(walk.left);
        files.range = walk.pages.and_then(|(first, last)| {
            let len = last.saturating_sub(first).saturating_add(1);
            Range::new(first << 12, len << 12, 48)
        });
        if !stopped {
            files.next = 0;
        }
        files
    }
}

/// A table on the way through a tree.
#[derive(Clone, Copy)]
struct Place {
    table: Hpa,
    /// What is at the same place in the tree whose tables are passed over.
    but: Option<Hpa>,
    /// Whether no other tree has it.
    own: bool,
}

impl Place {
    /// The root of `tree`.
    fn root(tree: &Tree, but: Option<&Tree>) -> Self {
        Self {
            table: tree.root(),
            but: but.map(Tree::root),
            own: true,
        }
    }

    /// The table that `entry`, which is at `index` here, points to; none if it is passed over.
    fn below<H: Host>(self, host: &H, index: Index, entry: Entry) -> Option<Self> {
        let table = entry.address();
        let but = self.but.map(|but| load(slot(host, but, index)));
        let but = but.filter(|but| but.is_mapped()).map(Entry::address);
        (but != Some(table)).then_some(Self {
            table,
            but,
            own: self.own && entry.is_own_table(),
        })
    }
}

/// [`Tree::detach_files`], on its way.
struct Walk {
    /// Whether pages are taken out of tables that others have as well.
    all: bool,
    /// How many more pages are wanted.
    left: u32,
    /// The first and the last page that was detached.
    pages: Option<(u64, u64)>,
    files: Files,
}

impl Walk {
    /// Goes through the `pages` that a table spans; true if that was enough.
    fn table<H: Host>(
        &mut self,
        host: &H,
        place: Place,
        level: Level,
        pages: ops::Range<u64>,
    ) -> bool {
        let end = pages.end;
        for part in level.parts(pages) {
            let slot = slot(host, place.table, part.index);
            let entry = load(slot);
            if !entry.is_mapped() {
                continue;
            }
            let page = part.pages.start;
            let Some(below) = level.below() else {
                if entry.to_leaf().owner != Owner::File {
                    continue;
                }
                if !self.takes(place) {
                    self.files.common = Some(page);
                    break;
                }
                store(slot, entry.detached());
                let (from, _) = self.pages.unwrap_or((page, page));
                self.pages = Some((from, page));
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    self.files.next = page.saturating_add(1);
                    return true;
                }
                continue;
            };
            let Some(inner) = place.below(host, part.index, entry) else {
                continue;
            };
            // One in such a table is enough.
            let is_wanted = self.takes(inner) || self.files.common.is_none();
            if is_wanted && self.table(host, inner, below, part.pages) {
                return true;
            }
        }
        if level.below().is_some() {
            return false;
        }
        self.files.next = end;
        self.files.tables = self.files.tables.saturating_add(1);
        self.files.tables == TABLES
    }

    /// Whether leaves of a table are taken out.
    fn takes(&self, place: Place) -> bool {
        self.all || place.own
    }
}

/// [`Tree::reap_common_files`] for the `pages` that a table spans.
fn reap_files<H: Host>(host: &mut H, place: Place, level: Level, pages: ops::Range<u64>) {
    for part in level.parts(pages) {
        let entry = load(slot(host, place.table, part.index));
        match level.below() {
            None if entry.is_detached() => {
                store(slot(host, place.table, part.index), Entry::UNUSED);
                free_entry(host, entry, level);
            }
            Some(below) if entry.is_mapped() => {
                if let Some(inner) = place.below(host, part.index, entry) {
                    reap_files(host, inner, below, part.pages);
                }
            }
            _ => {}
        }
    }
}
