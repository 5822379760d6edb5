// SPDX-License-Identifier: GPL-2.0

//! Pages of user memory, which come and go by their entries.

use uvisor_ept::user::tables_of;
use uvisor_ept::{
    Backing, Count, Fault, Gpa, Hpa, Marks, Perm, Range, Region, Retired, Space, Taken,
};

use crate::host::{Failure, NoMemory, TestHost};
use crate::store::{TestSlots, TestStore};

const RW: Perm = Perm::from_bits_truncate(3);

/// Zeros, or user memory.
#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    Zero,
    User,
}

impl Backing for What {
    fn advance(&self, _: u64) -> Self {
        self.clone()
    }

    fn continues(&self, _: u64, next: &Self) -> bool {
        self == next
    }

    fn is_anonymous(&self) -> bool {
        *self == Self::Zero
    }

    fn is_live(&self) -> bool {
        self.is_user()
    }

    fn is_user(&self) -> bool {
        *self == Self::User
    }
}

type UserSpace = Space<
    What,
    TestStore<Region<What>>,
    TestSlots<uvisor_ept::View<What, TestStore<Region<What>>>>,
>;

const FRAME: Hpa = Hpa(0x1234_5000);
const AT: Gpa = Gpa(0x20_3000);

fn range(start: u64, end: u64) -> Range {
    Range::new(start, end - start, 48).unwrap()
}

/// A space with user memory in the second 2 MiB.
fn space(host: &mut TestHost, failure: &Failure) -> UserSpace {
    let slots = TestSlots::new(failure);
    let mut space = Space::new(host, TestStore::new(failure), slots, 100).unwrap();
    let region = Region {
        range: range(0x20_0000, 0x40_0000),
        perm: RW,
        marks: Marks::empty(),
        backing: What::User,
    };
    space.map(region).unwrap();
    space
}

/// Whether the guest has the page, as a fault says.
fn mapped(space: &UserSpace, host: &TestHost, access: Perm) -> bool {
    match space.fault(host, AT, access) {
        Fault::User { mapped } => mapped,
        other => panic!("{other:?}"),
    }
}

#[test]
fn come_and_go() {
    let (failure, mut host) = (Failure::default(), TestHost::new());
    let mut space = space(&mut host, &failure);
    let tables = host.tables();
    assert!(!mapped(&space, &host, Perm::R) && !mapped(&space, &host, Perm::W));
    assert_eq!(space.fault(&host, AT, Perm::X), Fault::Denied);
    let found = space.user_entry(&mut host, AT, Perm::X);
    assert_eq!(found.unwrap().map(|(_, perm)| perm), None);
    let (entry, perm) = space.user_entry(&mut host, AT, Perm::R).unwrap().unwrap();
    assert_eq!(perm, RW);
    // The tables are made first, and nothing is there yet.
    assert_eq!(host.tables(), tables + 3);
    assert!(!mapped(&space, &host, Perm::R));
    // SAFETY: The table is there until the space is destroyed.
    unsafe {
        assert!(!entry.set(FRAME, Perm::R));
        assert!(mapped(&space, &host, Perm::R) && !mapped(&space, &host, Perm::W));
        // More permission is none that a CPU has to forget; less is, and another frame.
        assert!(!entry.set(FRAME, RW));
        assert!(mapped(&space, &host, Perm::W));
        assert!(entry.set(FRAME, Perm::R));
        assert!(entry.set(Hpa(0x7777_0000), RW));
        // Nobody else uses what the tables say.
        assert_eq!(
            space.host_fault(&host, AT, true),
            Fault::User { mapped: true }
        );
        let mut count = Count::new();
        while count.go_on(&host, space.tree()) {}
        assert_eq!(
            count.usage().private + count.usage().file + count.usage().shared,
            0
        );
        entry.clear();
    }
    assert!(!mapped(&space, &host, Perm::R));
    // The entry was the table's only one.
    let part = range(0x20_0000, 0x40_0000);
    assert_eq!(space.unmap(&host, part), Ok(Taken::Something));
    space.reap(&mut host, part);
    assert_eq!(host.tables(), tables);
    assert_eq!(space.fault(&host, AT, Perm::R), Fault::Unmapped);
    space.destroy(&mut host);
}

#[test]
fn are_only_in_tables_of_ones_own() {
    let (failure, mut host) = (Failure::default(), TestHost::new());
    let mut space = space(&mut host, &failure);
    let (entry, _) = space.user_entry(&mut host, AT, Perm::R).unwrap().unwrap();
    // SAFETY: The table is there.
    unsafe {
        assert!(!entry.set(FRAME, RW));
        entry.clear();
    }
    let everything = range(0, 1 << 39);
    let slots = TestSlots::new(&failure);
    let (mut clone, _) = space.share(&mut host, slots, everything).unwrap();
    for space in [&mut space, &mut clone] {
        assert_eq!(space.fault(&host, AT, Perm::R), Fault::Unshare);
        assert!(space.user_entry(&mut host, AT, Perm::R).unwrap().is_none());
    }
    let mut retired = Retired::new();
    clone.unshare(&mut host, AT, &mut retired).unwrap();
    retired.give_back(&mut host);
    let (entry, _) = clone.user_entry(&mut host, AT, Perm::R).unwrap().unwrap();
    // SAFETY: The table is there, and is the clone's own.
    unsafe {
        assert!(!entry.set(FRAME, RW));
        assert!(mapped(&clone, &host, Perm::W));
        assert_ne!(
            space.fault(&host, AT, Perm::R),
            Fault::User { mapped: true }
        );
        entry.clear();
    }
    clone.destroy(&mut host);
    space.destroy(&mut host);
    assert_eq!((host.tables(), host.frames()), (0, 0));
}

#[test]
fn are_not_in_views() {
    let (failure, mut host) = (Failure::default(), TestHost::new());
    let mut space = space(&mut host, &failure);
    let limit = Region {
        range: range(0, 1 << 39),
        perm: Perm::all(),
        marks: Marks::empty(),
        backing: What::Zero,
    };
    let store = TestStore::new(&failure);
    assert_eq!(space.add_view(store, 100, limit, true), Ok(1));
    let (entry, _) = space.user_entry(&mut host, AT, Perm::R).unwrap().unwrap();
    // SAFETY: The table is there.
    unsafe {
        assert!(!entry.set(FRAME, RW));
        assert_eq!(space.view_fault(&host, 1, AT, Perm::R), Fault::Hidden);
        let in_view_0 = space.view_fault(&host, 0, AT, Perm::R);
        assert_eq!(in_view_0, Fault::User { mapped: true });
        entry.clear();
    }
    space.destroy(&mut host);
}

#[test]
fn need_tables_that_may_not_be_had() {
    let (failure, mut host) = (Failure::default(), TestHost::new());
    host.failure = failure.clone();
    let mut space = space(&mut host, &failure);
    let tables = host.tables();
    for n in 0..3 {
        failure.after(Some(n));
        assert_eq!(
            space.user_entry(&mut host, AT, Perm::R).map(|_| ()),
            Err(NoMemory)
        );
        failure.after(None);
        assert_eq!(host.tables(), tables);
    }
    assert!(space.user_entry(&mut host, AT, Perm::R).unwrap().is_some());
    space.destroy(&mut host);
}

#[test]
fn tables_are_whole() {
    let whole = |start, end| tables_of(range(start, end));
    assert_eq!(whole(0x1000, 0x2000), range(0, 0x20_0000));
    assert_eq!(whole(0x1f_f000, 0x20_1000), range(0, 0x40_0000));
    assert_eq!(whole(0x20_0000, 0x40_0000), range(0x20_0000, 0x40_0000));
}
