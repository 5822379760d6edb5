// SPDX-License-Identifier: GPL-2.0

//! A CPU that walks the tables as the manual says, and caches all that it may cache.
//!
//! It is written without the crate's own notion of an entry. A real CPU may forget what it cached
//! at any time; this one never does, so that a missing flush is always seen.

use std::sync::atomic::Ordering;

use uvisor_ept::{Gpa, Host, Hpa, Perm};

use crate::host::{NumberMap, TestHost};

/// The width of a physical address.
const PHYSICAL_BITS: u32 = 46;

/// Where a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The frame.
    pub frame: Hpa,
    /// What all levels allow.
    pub perm: Perm,
}

/// A CPU's caches.
#[derive(Default, Debug)]
pub struct Cpu {
    /// Translations by page number.
    tlb: NumberMap<u64, Translation>,
    /// Tables by their level and the part of the page number that leads to them, with what the
    /// levels above allow.
    tables: NumberMap<(u32, u64), (u64, Perm)>,
}

impl Cpu {
    /// INVEPT.
    pub fn flush(&mut self) {
        self.tlb.clear();
        self.tables.clear();
    }

    /// Accesses the page of `gpa`, by way of the caches where they have something.
    ///
    /// None is an EPT violation, which drops what is cached for the address.
    pub fn access(
        &mut self,
        host: &TestHost,
        eptp: u64,
        gpa: Gpa,
        access: Perm,
    ) -> Option<Translation> {
        let page = gpa.0 >> 12;
        if let Some(&cached) = self.tlb.get(&page) {
            if cached.perm.contains(access) {
                return Some(cached);
            }
        }
        let cached = (0..3).find_map(|level| {
            let &(table, perm) = self.tables.get(&(level, page >> (9 * (level + 1))))?;
            Some((level, table, perm))
        });
        let (level, table, perm) = cached.unwrap_or_else(|| root(eptp));
        let tables = &mut self.tables;
        let found = walk(host, page, level, table, perm, |level, table, perm| {
            tables.insert((level, page >> (9 * (level + 1))), (table, perm));
        });
        match found.filter(|found| found.perm.contains(access)) {
            Some(found) => {
                self.tlb.insert(page, found);
                Some(found)
            }
            None => {
                self.tlb.remove(&page);
                for level in 0..3 {
                    self.tables.remove(&(level, page >> (9 * (level + 1))));
                }
                None
            }
        }
    }

    /// What is cached, by page number.
    pub fn cached(&self) -> impl Iterator<Item = (u64, Translation)> + '_ {
        self.tlb
            .iter()
            .map(|(&page, &translation)| (page, translation))
    }

    /// All of the table cache: the level and the part of the page number that leads to a table, the table,
    /// and what the levels above allow.
    pub fn table_cache(&self) -> impl Iterator<Item = (u32, u64, u64, Perm)> + '_ {
        let entries = self.tables.iter();
        entries.map(|(&(level, part), &(table, perm))| (level, part, table, perm))
    }

    /// The tables that are cached.
    pub fn cached_tables(&self) -> impl Iterator<Item = u64> + '_ {
        self.tables.values().map(|&(table, _)| table)
    }
}

/// What a CPU without anything cached finds.
pub fn translate(host: &TestHost, eptp: u64, gpa: Gpa) -> Option<Translation> {
    let (level, table, perm) = root(eptp);
    walk(host, gpa.0 >> 12, level, table, perm, |_, _, _| {})
}

/// Where a walk begins.
fn root(eptp: u64) -> (u32, u64, Perm) {
    assert_eq!(eptp & 7, 6, "write-back");
    assert_eq!((eptp >> 3) & 7, 3, "four levels");
    assert_eq!(
        eptp & 0xfc0,
        0,
        "no accessed and dirty bits, nothing reserved"
    );
    assert_eq!(eptp >> PHYSICAL_BITS, 0);
    (3, eptp & !0xfff, Perm::all())
}

/// Walks from a table at `level` down to the leaf, and tells of each table that it comes through.
fn walk(
    host: &TestHost,
    page: u64,
    mut level: u32,
    mut table: u64,
    mut perm: Perm,
    mut passed: impl FnMut(u32, u64, Perm),
) -> Option<Translation> {
    loop {
        let index = (page >> (9 * level)) & 511;
        let entry = host.entries(Hpa(table))[index as usize].load(Ordering::Acquire);
        if entry & 7 == 0 {
            return None;
        }
        check(host, entry, level);
        perm &= Perm::from_bits_truncate(entry);
        let address = entry & ((1 << 52) - 1) & !0xfff;
        if level == 0 {
            return Some(Translation {
                frame: Hpa(address),
                perm,
            });
        }
        level -= 1;
        table = address;
        passed(level, table, perm);
    }
}

/// What would be an EPT misconfiguration (29.3.3.1).
fn check(host: &TestHost, entry: u64, level: u32) {
    let (readable, writable) = (entry & 1 != 0, entry & 2 != 0);
    assert!(readable || !writable, "writable and not readable");
    assert!(
        readable || host.exec_only,
        "execute-only without the feature"
    );
    assert_eq!(
        (entry & ((1 << 52) - 1)) >> PHYSICAL_BITS,
        0,
        "an address beyond all memory"
    );
    if level == 0 {
        assert_eq!((entry >> 3) & 7, 6, "write-back");
        assert_ne!(entry & (1 << 6), 0, "the guest's PAT is ignored");
    } else {
        assert_eq!(entry & 0xf8, 0, "reserved");
    }
    assert_eq!(
        entry & 0xb600_0000_0000_0400,
        0,
        "bits of features that are off"
    );
}
