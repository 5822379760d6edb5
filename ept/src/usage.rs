// SPDX-License-Identifier: GPL-2.0

//! What a tree has, and what of it others have as well.

use crate::addr::Hpa;
use crate::entry::Owner;
use crate::geometry::Level;
use crate::host::Host;
use crate::tree::{load, Tree};

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

impl Tree {
    /// Counts all; it goes through every table.
    pub fn usage<H: Host>(&self, host: &H) -> Usage {
        let mut usage = Usage::default();
        count(host, self.root(), Level::ROOT, true, &mut usage);
        usage
    }
}

/// Counts a table, which is `own` if no other tree has it, and what is below it.
fn count<H: Host>(host: &H, table: Hpa, level: Level, own: bool, usage: &mut Usage) {
    *if own {
        &mut usage.tables
    } else {
        &mut usage.shared_tables
    } += 1;
    for slot in host.entries(table) {
        let entry = load(slot);
        if !entry.is_used() {
            continue;
        }
        if let Some(below) = level.below() {
            let inner = entry.address();
            let own = own && !host.is_table_shared(inner);
            count(host, inner, below, own, usage);
            continue;
        }
        let leaf = entry.to_leaf();
        *match leaf.owner {
            // Counted where it is lent from.
            Owner::Lent => continue,
            Owner::File => &mut usage.file,
            _ if own && !host.is_frame_shared(leaf.frame) => &mut usage.private,
            _ => &mut usage.shared,
        } += 1;
    }
}
