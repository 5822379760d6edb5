// SPDX-License-Identifier: GPL-2.0

//! Frames that are kept for those that are wanted next.
//!
//! They are the micro-VM's and charged as all others; so whoever has the last page of the limit may as well
//! take one of these. They save a way through the kernel's allocator for each, and a fault that needs no more
//! than one of them is served without leaving the window. There are never more of them than were taken so
//! far, so that who needs little has little.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::{
    Account,
    Charged, //
};
use crate::sys::frame::{
    self,
    Frame, //
};

/// The logarithm of how many are in a piece: the kernel has so many without looking for them long.
const PIECE_ORDER: u32 = 3;

/// The logarithm of how many are allocated at once.
const MAX_ORDER: u32 = 4;

/// How many of each kind are kept.
const ROOM: usize = 1 << MAX_ORDER;

/// How many frames a fault needs at most, with all tables on the way.
const RESERVE: usize = 6;

/// Zeroed frames for a fault for which the kernel had none at hand. It looks for them while this is made; nobody
/// who does that may have the lock of a memory.
pub(crate) struct Reserve(KVec<Charged>);

impl Reserve {
    /// As many as there are.
    pub(crate) fn new(account: &Arc<Account>) -> Result<Self> {
        let mut frames = KVec::with_capacity(ROOM, GFP_KERNEL_ACCOUNT)?;
        while frames.len() < RESERVE && account.room() > 0 {
            let Ok(page) = Frame::new(true) else { break };
            // There is room.
            let _ = frames.push_within_capacity(account.charge(page));
        }
        if frames.is_empty() {
            return Err(ENOMEM);
        }
        Ok(Self(frames))
    }
}

/// Frames to come.
pub(super) struct Spare {
    /// Zeroed ones.
    zeroed: KVec<Charged>,
    /// Ones that the micro-VM had before.
    used: KVec<Charged>,
    /// The logarithm of how many are allocated next.
    order: u32,
}

impl Spare {
    /// None.
    pub(super) fn new() -> Self {
        Self {
            zeroed: KVec::new(),
            used: KVec::new(),
            order: 0,
        }
    }

    /// Whether there is none.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.zeroed.is_empty() && self.used.is_empty()
    }

    /// One of them; not zeroed if the caller overwrites all of it.
    #[inline]
    pub(super) fn take(&mut self, zeroed: bool) -> Option<Charged> {
        if !zeroed {
            return self.used.pop().or_else(|| self.zeroed.pop());
        }
        self.zeroed.pop().or_else(|| {
            let used = self.used.pop()?;
            // SAFETY: The page is ours alone.
            unsafe { frame::clear_page(frame::virt(used.phys())) };
            Some(used)
        })
    }

    /// Gets more, if the kernel has them at hand and the limit is not near; the more, the more often.
    pub(super) fn refill(&mut self, account: &Arc<Account>, zero: bool) {
        let order = self.order;
        self.order = MAX_ORDER.min(order.saturating_add(1));
        if order == 0 || account.room() < 1 << order {
            return;
        }
        for kind in [&mut self.zeroed, &mut self.used] {
            if kind.reserve(ROOM, GFP_KERNEL_ACCOUNT).is_err() {
                return;
            }
        }
        let piece = order.min(PIECE_ORDER);
        for _ in 0..1 << order.saturating_sub(piece) {
            Frame::at_once(zero, piece, |page, is_zeroed| {
                let kind = if is_zeroed {
                    &mut self.zeroed
                } else {
                    &mut self.used
                };
                // There is room: both were empty.
                let _ = kind.push_within_capacity(account.charge(page));
            });
        }
    }

    /// Keeps those of a reserve, if none are there.
    pub(super) fn add(&mut self, Reserve(frames): Reserve) {
        if self.zeroed.is_empty() {
            self.zeroed = frames;
        }
    }

    /// Keeps one, which nobody has any more, if there is room.
    pub(super) fn keep(&mut self, page: Charged) {
        if self.used.len() < ROOM {
            // Without capacity it is given back.
            let _ = self.used.push_within_capacity(page);
        }
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.zeroed.clear();
        self.used.clear();
        self.order = 0;
    }
}
