// SPDX-License-Identifier: GPL-2.0

//! Going through the entries of a table that have something.

use crate::addr::Hpa;
use crate::entry::Entry;
use crate::geometry::ENTRIES;
use crate::host::Host;
use crate::tree::load;

/// How many entries are read at a time: most tables are nearly empty, and most are passed over so.
pub(crate) const CHUNK: usize = 8;

const _: () = assert!(ENTRIES % CHUNK == 0);

/// Calls `each` with every entry of `table` that has something, and its number, in ascending order; only
/// the first `len` entries may have anything.
///
/// What `each` changes in entries to come may not be seen.
#[inline(always)]
pub(crate) fn for_each<H: Host>(
    host: &mut H,
    table: Hpa,
    len: usize,
    mut each: impl FnMut(&mut H, usize, Entry),
) {
    let mut start = 0;
    while start < len {
        if let Some(entries) = chunk(host, table, start) {
            for (offset, entry) in entries.iter().enumerate() {
                if entry.is_used() {
                    each(host, start | offset, *entry);
                }
            }
        }
        // OVERFLOW: Both are small.
        start = start.wrapping_add(CHUNK);
    }
}

/// The entries from number `start` on, a multiple of [`CHUNK`]; none if none has anything.
#[inline(always)]
fn chunk<H: Host>(host: &H, table: Hpa, start: usize) -> Option<[Entry; CHUNK]> {
    let slots = host.entries(table).get(start..)?.first_chunk::<CHUNK>()?;
    let any = slots.iter().fold(0, |any, slot| any | load(slot).0);
    Entry(any).is_used().then(|| slots.each_ref().map(load))
}
