// SPDX-License-Identifier: GPL-2.0

//! What a micro-VM holds, and what happened: for STATS and LIST.

use kernel::prelude::*;

use uvisor_ept::Count;
use uvisor_uapi::{
    Stats,
    PAGE_SIZE, //
};

use super::{
    Memory,
    ViewTable, //
};
use crate::sys::{
    irq,
    task, //
};

/// What a micro-VM holds, in bytes: see [`Stats`].
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) private: u64,
    pub(crate) shared: u64,
    pub(crate) file: u64,
    pub(crate) tables: u64,
    pub(crate) charged: u64,
}

/// How many bytes so many pages have.
fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_SIZE)
}

impl Memory {
    /// What is held; what changes meanwhile is counted as it was before or as it is after. Fails with
    /// `EINTR` if a signal ends the calling task.
    pub(crate) fn held(&self) -> Result<Held> {
        let mut count = Count::new();
        // There may be much, and nobody must wait for all of it.
        let charged = loop {
            let inner = self.inner.lock();
            let space = inner.space.as_ref().ok_or(ENXIO)?;
            if !count.go_on_in(&inner.pages, space) {
                break inner.pages.charged();
            }
            drop(inner);
            if task::is_dying() {
                return Err(EINTR);
            }
            irq::cond_resched();
        };
        let usage = count.usage();
        let lists = self.views().map_or(0, |_| ViewTable::PAGES);
        Ok(Held {
            private: bytes(usage.private),
            shared: bytes(usage.shared.saturating_add(usage.shared_tables)),
            file: bytes(usage.file),
            tables: bytes(usage.tables.saturating_add(lists)),
            charged: bytes(charged),
        })
    }

    /// Fills in what is held and what happened.
    pub(crate) fn report(&self, stats: &mut Stats) -> Result {
        let held = self.held()?;
        stats.private = held.private;
        stats.file = held.file;
        stats.tables = held.tables;
        stats.shared = held.shared;
        stats.charged = held.charged;
        let inner = self.inner.lock();
        stats.memory_limit = match inner.pages.limit() {
            u64::MAX => 0,
            pages => bytes(pages),
        };
        let regions = inner.space.as_ref().map_or(0, |s| s.regions().len());
        // CAST: At most `MAX_REGIONS`.
        stats.regions = regions as u32;
        self.events.report(stats);
        Ok(())
    }
}
