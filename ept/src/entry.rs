// SPDX-License-Identifier: GPL-2.0

//! The format of an entry (Intel SDM volume 3, 29.3.2).

use bitflags::bitflags;

use crate::addr::Hpa;

bitflags! {
    /// What a guest may do with a page; the same bits as in an EPT entry.
    pub struct Perm: u64 {
        /// Read.
        const R = 1 << 0;
        /// Write.
        const W = 1 << 1;
        /// Execute.
        const X = 1 << 2;
    }
}

impl Perm {
    /// Whether a CPU can have this permission: an entry with others is an EPT misconfiguration.
    #[inline]
    pub fn is_expressible(self, exec_only: bool) -> bool {
        self.contains(Self::R) || self.is_empty() || (exec_only && self == Self::X)
    }
}

/// Whose frame a leaf maps.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The micro-VM's own: zeroed memory, or a copy of a file's page.
    Private,
    /// One that began as some micro-VM's own, and that clones may have in common; nobody writes to it.
    Shared,
    /// A file's, in the page cache; a guest must never write to it.
    File,
    /// One whose content everybody has who has it, whoever writes: it is never copied.
    Live,
    /// That of another tree, which has the reference: a view's leaf.
    Lent,
    /// A page of user memory, on which nobody here has a reference: it goes when its owner says so (see
    /// [`user`](crate::user)).
    User,
}

impl Owner {
    /// What of a region's permission a frame of this owner may have.
    #[inline]
    pub(crate) fn limit(self, perm: Perm) -> Perm {
        match self {
            Owner::Private | Owner::Live | Owner::Lent | Owner::User => perm,
            Owner::Shared | Owner::File => perm - Perm::W,
        }
    }
}

/// A mapped page.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The page's frame.
    pub frame: Hpa,
    /// What the guest may do with it; nothing is possible too, the frame is then kept for later.
    pub perm: Perm,
    /// Whose frame it is.
    pub owner: Owner,
}

/// Bits 51:12, the address of a frame or a table.
const ADDRESS: u64 = ((1 << 52) - 1) & !((1 << 12) - 1);
/// Memory type write-back, in bits 5:3 of a leaf, where it is the only one for ordinary memory.
const WRITE_BACK: u64 = 6 << 3;
/// The guest's PAT and CR0.CD do not matter (a leaf's bit).
const IGNORE_PAT: u64 = 1 << 6;
/// Ours: the entry has a frame or a table. The CPU ignores bits 56:52 in every entry.
const USED: u64 = 1 << 52;
/// Ours: the frame is a file's.
const FILE: u64 = 1 << 53;
/// Ours: clones may have the frame in common.
const SHARED: u64 = 1 << 55;
/// Where the permission of a hidden entry is, which has none for the CPU: any bits will do.
const HIDDEN_PERM: u32 = 3;
/// Ours: all who have the frame see what is written to it.
const LIVE: u64 = 1 << 56;
/// [`Owner::User`].
const USER: u64 = FILE | LIVE;
/// Ours: unmapped, and waits for a flush to be given back.
const DETACHED: u64 = 1 << 54;

/// An entry of a table; the level tells whether it is a leaf or points to a table.
///
/// An entry with no permission at all is not present for the CPU, and all its other bits are ours.
/// The address is then stored inverted, because a CPU with L1TF reads speculatively from the
/// address in a non-present entry: an inverted one is beyond all memory.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry(pub(crate) u64);

impl Entry {
    /// Nothing is here.
    pub(crate) const UNUSED: Self = Self(0);

    /// The entry for `address` with `perm` and the bits `other`.
    #[inline]
    fn new(address: Hpa, perm: Perm, other: u64) -> Self {
        let hide = if perm.is_empty() { ADDRESS } else { 0 };
        Self(USED | ((address.0 ^ hide) & ADDRESS) | perm.bits() | other)
    }

    /// A leaf; its permission must be expressible.
    #[inline]
    pub(crate) fn leaf(leaf: Leaf) -> Self {
        let owner = match leaf.owner {
            Owner::Private => 0,
            Owner::Shared => SHARED,
            Owner::File => FILE,
            Owner::Live => LIVE,
            Owner::Lent => FILE | SHARED,
            Owner::User => USER,
        };
        Self::new(leaf.frame, leaf.perm, WRITE_BACK | IGNORE_PAT | owner)
    }

    /// A pointer to a table of this tree alone, which restricts nothing.
    #[inline]
    pub(crate) fn table(table: Hpa) -> Self {
        Self::new(table, Perm::all(), 0)
    }

    /// A pointer to a table that other trees may have as well: below it, nobody writes.
    #[inline]
    pub(crate) fn shared_table(table: Hpa) -> Self {
        Self::new(table, Perm::R | Perm::X, 0)
    }

    /// Whether this entry, which points to a table, points to one of this tree alone.
    #[inline]
    pub(crate) fn is_own_table(self) -> bool {
        self.perm().contains(Perm::W)
    }

    /// What this entry, a pointer to a table, becomes when others may have the table.
    #[inline]
    pub(crate) fn protected_table(self) -> Self {
        Self(self.0 & !Perm::W.bits())
    }

    /// What this entry, a leaf, becomes when others may have the frame. All but a private one stay what they
    /// are.
    #[inline]
    pub(crate) fn protected_leaf(self) -> Self {
        if self.0 & LIVE != 0 {
            return self;
        }
        self.protected_or_strange_leaf()
    }

    /// [`Entry::protected_leaf`], in fewer instructions; but of a live one that is not detached, which is no
    /// entry that there is.
    #[inline]
    pub(crate) fn protected_or_strange_leaf(self) -> Self {
        let is_private = self.0 & (USED | FILE | DETACHED) == USED;
        let shared = if is_private { SHARED } else { 0 };
        // Others but live ones have no `W`.
        Self(self.0 & !Perm::W.bits() | shared)
    }

    /// The same frame or table, unreachable for CPUs.
    #[inline]
    pub(crate) fn detached(self) -> Self {
        let other = self.0 & !(ADDRESS | Perm::all().bits());
        Self::new(self.address(), Perm::empty(), other | DETACHED)
    }

    /// The same pointer to a table, unreachable for CPUs until [`Entry::shown`]; an unused entry stays one.
    #[inline]
    pub(crate) fn hidden(self) -> Self {
        if !self.is_used() {
            return self;
        }
        let perm = self.perm().bits() << HIDDEN_PERM;
        Self::new(self.address(), Perm::empty(), DETACHED | perm)
    }

    /// What was [`Entry::hidden`].
    #[inline]
    pub(crate) fn shown(self) -> Self {
        if !self.is_used() {
            return self;
        }
        let perm = Perm::from_bits_truncate(self.0 >> HIDDEN_PERM);
        Self::new(self.address(), perm, 0)
    }

    /// What the CPU may do through this entry.
    #[inline]
    fn perm(self) -> Perm {
        Perm::from_bits_truncate(self.0)
    }

    /// The frame or table; meaningless for an unused entry.
    #[inline]
    pub(crate) fn address(self) -> Hpa {
        let hide = if self.perm().is_empty() { ADDRESS } else { 0 };
        Hpa((self.0 ^ hide) & ADDRESS)
    }

    /// Whether there is a frame or a table, detached ones included.
    #[inline]
    pub(crate) fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// Whether it waits to be given back.
    #[inline]
    pub(crate) fn is_detached(self) -> bool {
        self.0 & DETACHED != 0
    }

    /// Whether there is a frame or a table that is still mapped.
    #[inline]
    pub(crate) fn is_mapped(self) -> bool {
        self.is_used() && !self.is_detached()
    }

    /// This entry as a leaf; meaningless for an unused entry.
    #[inline]
    pub(crate) fn to_leaf(self) -> Leaf {
        let owner = match self.0 & (FILE | SHARED | LIVE) {
            0 => Owner::Private,
            SHARED => Owner::Shared,
            FILE => Owner::File,
            LIVE => Owner::Live,
            USER => Owner::User,
            _ => Owner::Lent,
        };
        Leaf {
            frame: self.address(),
            perm: self.perm(),
            owner,
        }
    }
}

/// The EPT pointer for the root table `root`: write-back, four levels.
///
/// Accessed and dirty bits stay off: with them each walk of the guest's own page tables counts as
/// a write to these, and they are read-only.
#[inline]
pub(crate) fn eptp(root: Hpa) -> u64 {
    const WALK_LENGTH: u64 = 3 << 3;
    const TYPE_WRITE_BACK: u64 = 6;
    (root.0 & ADDRESS) | WALK_LENGTH | TYPE_WRITE_BACK
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All combinations of permission bits.
    fn perms() -> impl Iterator<Item = Perm> {
        (0..8).map(Perm::from_bits_truncate)
    }

    const OWNERS: [Owner; 6] = [
        Owner::Private,
        Owner::Shared,
        Owner::File,
        Owner::Live,
        Owner::Lent,
        Owner::User,
    ];

    /// Bits that must be clear in a leaf of 4 KiB: the address beyond a physical width of 46 bits.
    const RESERVED_LEAF: u64 = ((1 << 52) - 1) & !((1 << 46) - 1);
    /// Bits that must be clear in a pointer to a table: bits 6:3, and bit 7, which would make it a
    /// large leaf.
    const RESERVED_TABLE: u64 = RESERVED_LEAF | 0xf8;
    /// What features that stay off would read in a leaf: mode-based execution (10), verify guest
    /// paging (57), paging-write access (58), supervisor shadow stack (60), sub-page permissions
    /// (61) and suppress #VE (63).
    const OTHER_FEATURES: u64 = 0xb600_0000_0000_0400;

    #[test]
    fn knows_what_a_cpu_can_express() {
        for perm in perms() {
            let write_only = perm.contains(Perm::W) && !perm.contains(Perm::R);
            assert_eq!(perm.is_expressible(true), !write_only, "{perm:?}");
            assert_eq!(
                perm.is_expressible(false),
                !write_only && perm != Perm::X,
                "{perm:?}"
            );
        }
        // What a file's frame gets is expressible if the region's permission is.
        for exec_only in [false, true] {
            for perm in perms().filter(|perm| perm.is_expressible(exec_only)) {
                assert!(Owner::File.limit(perm).is_expressible(exec_only));
                assert!(!Owner::File.limit(perm).contains(Perm::W));
                assert_eq!(Owner::Private.limit(perm), perm);
                assert_eq!(Owner::Live.limit(perm), perm);
            }
        }
    }

    #[test]
    fn encodes_leaves_as_the_manual_says() {
        let frame = Hpa(0x2ade_adbe_e000);
        let leaf = Leaf {
            frame,
            perm: Perm::R | Perm::X,
            owner: Owner::Private,
        };
        assert_eq!(Entry::leaf(leaf).0, 0x0010_2ade_adbe_e075);
        let leaf = Leaf {
            frame,
            perm: Perm::all(),
            owner: Owner::File,
        };
        assert_eq!(Entry::leaf(leaf).0, 0x0030_2ade_adbe_e077);
    }

    #[test]
    fn returns_what_was_put_in() {
        for perm in perms() {
            for owner in OWNERS {
                for frame in [Hpa(0), Hpa(0x1000), Hpa(ADDRESS), Hpa(0x2a_5555_5000)] {
                    let leaf = Leaf { frame, perm, owner };
                    let entry = Entry::leaf(leaf);
                    assert!(entry.is_mapped() && entry.is_used() && !entry.is_detached());
                    assert_eq!(entry.to_leaf(), leaf);
                    let gone = entry.detached();
                    assert!(gone.is_used() && gone.is_detached() && !gone.is_mapped());
                    assert_eq!(
                        gone.to_leaf(),
                        Leaf {
                            perm: Perm::empty(),
                            ..leaf
                        }
                    );
                    assert_eq!(gone.detached(), gone);
                }
            }
        }
        for perm in perms().filter(|perm| perm.is_expressible(true)) {
            for owner in [Owner::Private, Owner::Shared, Owner::File, Owner::Live] {
                let frame = Hpa(0x2a_5555_5000);
                let perm = owner.limit(perm);
                let (perm_then, owner_then) = match owner {
                    Owner::Private => (perm - Perm::W, Owner::Shared),
                    _ => (perm, owner),
                };
                let shared = Leaf {
                    frame,
                    perm: perm_then,
                    owner: owner_then,
                };
                let entry = Entry::leaf(Leaf { frame, perm, owner });
                assert_eq!(entry.protected_leaf(), Entry::leaf(shared));
                let gone = entry.detached();
                assert_eq!(gone.protected_leaf(), gone);
                let hasty = entry.protected_or_strange_leaf();
                let all = OWNERS.into_iter().flat_map(|owner| {
                    let leaf = move |perm| Entry::leaf(Leaf { frame, perm, owner });
                    perms().map(leaf)
                });
                match owner {
                    Owner::Live => assert!(all.into_iter().all(|other| other != hasty)),
                    _ => assert_eq!(hasty, entry.protected_leaf()),
                }
            }
        }
        let table = Entry::table(Hpa(0x5000));
        let shared = Entry::shared_table(Hpa(0x5000));
        assert_eq!(table.protected_table(), shared);
        assert_eq!(shared.protected_table(), shared);
        assert_eq!(Entry::UNUSED.protected_table(), Entry::UNUSED);
        assert_eq!(Entry::UNUSED.protected_leaf(), Entry::UNUSED);
        for entry in [Entry::table(Hpa(0x5000)), Entry::shared_table(Hpa(ADDRESS))] {
            let hidden = entry.hidden();
            assert_eq!(hidden.0 & 7, 0, "not present");
            assert!(hidden.is_used() && !hidden.is_mapped());
            assert_eq!(hidden.address(), entry.address());
            assert_eq!(hidden.shown(), entry);
        }
        assert_eq!(Entry::UNUSED.hidden(), Entry::UNUSED);
        assert_eq!(Entry::UNUSED.shown(), Entry::UNUSED);
        assert!(!Entry::UNUSED.is_used() && !Entry::UNUSED.is_mapped());
    }

    #[test]
    fn keeps_reserved_bits_clear() {
        let frame = Hpa((1 << 46) - 0x1000);
        for perm in perms().filter(|perm| !perm.is_empty()) {
            for owner in OWNERS {
                let entry = Entry::leaf(Leaf { frame, perm, owner }).0;
                assert_eq!(entry & (RESERVED_LEAF | OTHER_FEATURES), 0);
                assert_eq!((entry >> 3) & 7, 6, "write-back");
                assert_eq!((entry >> 6) & 3, 1, "PAT ignored, not a large leaf");
            }
        }
        let entry = Entry::table(frame).0;
        assert_eq!(entry & (RESERVED_TABLE | OTHER_FEATURES), 0);
        assert_eq!(entry & 7, 7);
        assert_eq!(Entry::table(frame).address(), frame);
        assert!(Entry::table(frame).is_own_table());
        let entry = Entry::shared_table(frame);
        assert_eq!(entry.0 & (RESERVED_TABLE | OTHER_FEATURES), 0);
        assert_eq!(entry.0 & 7, 5);
        assert_eq!(entry.address(), frame);
        assert!(!entry.is_own_table());
    }

    /// A large leaf has no bit 12 for the PAT as in ordinary page tables: bits 20:12 of one of
    /// 2 MiB and bits 29:12 of one of 1 GiB are reserved. An aligned frame and our own bits keep
    /// clear of them, so that large leaves need bit 7 only.
    #[test]
    fn has_room_for_large_leaves() {
        const LARGE: u64 = 1 << 7;
        for (size, reserved) in [(1 << 21, 0x1f_f000), (1 << 30, 0x3fff_f000)] {
            let frame = Hpa(5 * size);
            for owner in OWNERS {
                let entry = Entry::leaf(Leaf {
                    frame,
                    perm: Perm::all(),
                    owner,
                })
                .0 | LARGE;
                assert_eq!(entry & (reserved | RESERVED_LEAF | OTHER_FEATURES), 0);
                assert_eq!(entry & (1 << 12), 0);
                assert_eq!(Entry(entry).to_leaf().frame, frame);
            }
        }
    }

    #[test]
    fn hides_addresses_from_speculation() {
        for frame in [Hpa(0x1000), Hpa((1 << 45) - 0x1000)] {
            let leaf = Leaf {
                frame,
                perm: Perm::empty(),
                owner: Owner::Private,
            };
            let top = 1 << 51;
            for entry in [Entry::leaf(leaf), Entry::table(frame).detached()] {
                assert_eq!(entry.0 & 7, 0, "not present");
                assert_eq!(entry.0 & top, top, "beyond all memory");
                assert_eq!(entry.address(), frame);
            }
        }
    }

    #[test]
    fn points_to_the_root() {
        assert_eq!(eptp(Hpa(0x1_2345_6000)), 0x1_2345_601e);
    }
}
