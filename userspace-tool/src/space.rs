// SPDX-License-Identifier: GPL-2.0

//! Which areas of its address space a task has mapped: the broker's book about the regions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uvisor_uapi::Prot;

pub use crate::named::NamedFile;
use crate::parts::Parts;

/// What an area shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backing {
    /// Zeroed memory of its own.
    Anonymous,
    /// The heap, which `brk` moves.
    Heap,
    /// A file, copied when written.
    PrivateFile,
    /// A file as it is, or memory that processes have in common.
    SharedFile,
    /// The same, where the broker has it mapped at the very place: see [`crate::user`].
    BrokerFile,
    /// Pages of the kernel's own, which it changes.
    Kernel,
    /// Nothing; the range is only kept free.
    Reserved,
}

/// A mapped area without its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// The end.
    pub end: u64,
    /// The permission.
    pub prot: Prot,
    /// What it shows.
    pub backing: Backing,
}

/// A part of an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The start.
    pub start: u64,
    /// The end.
    pub end: u64,
    /// The permission of the area.
    pub prot: Prot,
    /// What the area shows.
    pub backing: Backing,
}

/// The areas of a task, by their starts; they do not overlap.
#[derive(Clone, Debug, Default)]
pub struct Space {
    areas: BTreeMap<u64, Area>,
    /// Which files they show.
    files: Parts<Arc<NamedFile>>,
}

impl Space {
    /// The parts of areas that are in a range, in order.
    pub fn pieces(&self, start: u64, end: u64) -> Vec<Piece> {
        let before = self.areas.range(..start).next_back();
        let inside = self.areas.range(start..end.max(start));
        before
            .into_iter()
            .chain(inside)
            .map(|(&at, area)| Piece {
                start: at.max(start),
                end: area.end.min(end),
                prot: area.prot,
                backing: area.backing,
            })
            .filter(|piece| piece.start < piece.end)
            .collect()
    }

    /// Whether nothing is in a range.
    pub fn is_free(&self, start: u64, end: u64) -> bool {
        self.pieces(start, end).is_empty()
    }

    /// Whether a range has no holes.
    pub fn is_mapped(&self, start: u64, end: u64) -> bool {
        let mut at = start;
        for piece in self.pieces(start, end) {
            if piece.start != at || piece.backing == Backing::Reserved {
                return false;
            }
            at = piece.end;
        }
        at >= end
    }

    /// Adds an area to a free range.
    pub fn insert(&mut self, start: u64, area: Area) {
        debug_assert!(start < area.end && self.is_free(start, area.end));
        self.areas.insert(start, area);
        self.join(start);
        self.join(area.end);
    }

    /// Adds an area that shows a file from `offset` to a free range.
    pub fn insert_file(&mut self, start: u64, area: Area, file: &Arc<NamedFile>, offset: u64) {
        self.files
            .insert((start, area.end), Arc::clone(file), offset);
        self.insert(start, area);
    }

    /// The file that is shown at an address, and what of it is there.
    pub fn file(&self, address: u64) -> Option<(&Arc<NamedFile>, u64)> {
        self.files.find(address, 1)
    }

    /// Joins the areas that meet at `at`, if they are of one kind that nothing tells apart.
    fn join(&mut self, at: u64) {
        let Some((&start, &low)) = self.areas.range(..at).next_back() else {
            return;
        };
        let Some(&high) = self.areas.get(&at) else {
            return;
        };
        let alike = low.prot == high.prot && low.backing == high.backing;
        let plain = matches!(low.backing, Backing::Anonymous | Backing::Heap);
        if low.end == at && alike && plain {
            self.areas.remove(&at);
            self.areas.insert(start, high);
        }
    }

    /// Makes `at` a border between areas.
    fn split(&mut self, at: u64) {
        if let Some((_, area)) = self.areas.range_mut(..at).next_back() {
            if area.end > at {
                let high = *area;
                area.end = at;
                self.areas.insert(at, high);
            }
        }
    }

    /// Removes what is in a range.
    pub fn remove(&mut self, start: u64, end: u64) {
        self.files.remove(start, end);
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self
            .areas
            .range(start..end.max(start))
            .map(|(&at, _)| at)
            .collect();
        for at in inside {
            self.areas.remove(&at);
        }
    }

    /// Gives what is in a range another permission.
    pub fn protect(&mut self, start: u64, end: u64, prot: Prot) {
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self
            .areas
            .range(start..end.max(start))
            .map(|(&at, _)| at)
            .collect();
        for &at in &inside {
            if let Some(area) = self.areas.get_mut(&at) {
                area.prot = prot;
            }
        }
        for at in inside.into_iter().chain([end]) {
            self.join(at);
        }
    }

    /// The highest free range of `len` bytes between `bottom` and `top`.
    pub fn find(&self, len: u64, bottom: u64, top: u64) -> Option<u64> {
        let mut end = top;
        for (&start, area) in self.areas.range(..top).rev() {
            if area.end < end && end - area.end >= len {
                break;
            }
            end = end.min(start);
        }
        let start = end.checked_sub(len)?;
        (start >= bottom).then_some(start)
    }

    /// How many areas there are.
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: u64 = 64;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64, u32, bool),
        Remove(u64, u64),
        Protect(u64, u64, u32),
    }

    fn op() -> impl Strategy<Value = Op> {
        let range = || (0..END).prop_flat_map(|start| (Just(start), start + 1..=END));
        prop_oneof![
            (range(), 0u32..8, any::<bool>()).prop_map(|((a, b), p, f)| Op::Insert(a, b, p, f)),
            range().prop_map(|(a, b)| Op::Remove(a, b)),
            (range(), 0u32..8).prop_map(|((a, b), p)| Op::Protect(a, b, p)),
        ]
    }

    proptest! {
        /// Against one entry for each address.
        #[test]
        fn behaves_like_a_naive_map(ops in proptest::collection::vec(op(), 1..60)) {
            let mut space = Space::default();
            let mut model = [None::<(Prot, Backing)>; END as usize];
            for op in ops {
                match op {
                    Op::Insert(start, end, prot, file) => {
                        let free = model[start as usize..end as usize].iter().all(Option::is_none);
                        prop_assert_eq!(space.is_free(start, end), free);
                        if free {
                            let backing = if file { Backing::PrivateFile } else { Backing::Anonymous };
                            let prot = Prot::from_bits_truncate(prot);
                            space.insert(start, Area { end, prot, backing });
                            model[start as usize..end as usize].fill(Some((prot, backing)));
                        }
                    }
                    Op::Remove(start, end) => {
                        space.remove(start, end);
                        model[start as usize..end as usize].fill(None);
                    }
                    Op::Protect(start, end, prot) => {
                        let prot = Prot::from_bits_truncate(prot);
                        let mapped = model[start as usize..end as usize].iter().all(Option::is_some);
                        prop_assert_eq!(space.is_mapped(start, end), mapped);
                        space.protect(start, end, prot);
                        for entry in model[start as usize..end as usize].iter_mut().flatten() {
                            entry.0 = prot;
                        }
                    }
                }
                let mut seen = [None; END as usize];
                for piece in space.pieces(0, END) {
                    seen[piece.start as usize..piece.end as usize]
                        .fill(Some((piece.prot, piece.backing)));
                }
                prop_assert_eq!(&seen[..], &model[..]);
                for len in 1..END {
                    let naive = (0..=END - len).rev().find(|&at| {
                        model[at as usize..(at + len) as usize].iter().all(Option::is_none)
                    });
                    prop_assert_eq!(space.find(len, 0, END), naive);
                }
            }
        }
    }
}
