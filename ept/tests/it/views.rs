// SPDX-License-Identifier: GPL-2.0

//! Views: less is allowed in them, and they cost nothing that nobody uses.

use uvisor_ept::{Perm, RegionError};

use crate::family::Family;
use crate::host::{Back, Failure};
use crate::model::{Outcome, SEGMENTS};

const RW: Perm = Perm::from_bits_truncate(3);
const RX: Perm = Perm::from_bits_truncate(5);

/// A family whose first member has all segments mapped, and a view in which the second is hidden.
fn with_view() -> Family {
    let mut family = Family::new(&Failure::default()).unwrap();
    family.map(0, (0, SEGMENTS - 1), RW, &Back::Zero).unwrap();
    for number in 0..4 {
        family.access(0, number, Perm::W, 100 + number as u64);
    }
    assert_eq!(family.add_view(0, Perm::all()), Ok(1));
    family.protect_view(0, 1, (1, 1), Perm::empty()).unwrap();
    family
}

#[test]
fn hide_and_restrict() {
    let mut family = with_view();
    let outcome =
        |family: &mut Family, view, number, access| family.view_access(0, view, number, access, 7);
    assert_eq!(outcome(&mut family, 1, 0, Perm::R), Outcome::Content(100));
    assert_eq!(outcome(&mut family, 1, 1, Perm::R), Outcome::Hidden);
    assert_eq!(outcome(&mut family, 0, 1, Perm::R), Outcome::Content(101));
    family.protect_view(0, 1, (2, 2), Perm::R).unwrap();
    assert_eq!(outcome(&mut family, 1, 2, Perm::W), Outcome::Hidden);
    assert_eq!(outcome(&mut family, 1, 2, Perm::R), Outcome::Content(102));
    // What a view allows more than the region is nothing.
    family.protect_view(0, 1, (0, 4), Perm::all()).unwrap();
    assert_eq!(outcome(&mut family, 1, 2, Perm::X), Outcome::Denied);
    assert_eq!(outcome(&mut family, 1, 1, Perm::W), Outcome::Content(7));
    family.end();
}

/// What is taken from a view, or from memory, is taken from what a CPU has of the view as well.
#[test]
fn lose_what_is_taken() {
    let mut family = with_view();
    let write = |family: &mut Family, number| family.view_access(0, 1, number, Perm::W, 7);
    for number in [0, 2, 3] {
        assert_eq!(write(&mut family, number), Outcome::Content(7));
    }
    family.protect_view(0, 1, (0, 0), Perm::R).unwrap();
    assert_eq!(write(&mut family, 0), Outcome::Hidden);
    family.protect(0, (2, 2), Perm::R).unwrap();
    assert_eq!(write(&mut family, 2), Outcome::Denied);
    family.unmap(0, (3, 3)).unwrap();
    assert_eq!(write(&mut family, 3), Outcome::Unmapped);
    family.end();
}

/// A view costs its tables when it is used, and nothing in a clone that does not use it.
#[test]
fn cost_what_is_used() {
    let mut family = with_view();
    let tables = family.host.tables();
    let second = family.add_view(0, RW).unwrap();
    assert_eq!(family.host.tables(), tables);
    family.view_access(0, second, 0, Perm::R, 0);
    // A root and three tables.
    assert_eq!(family.host.tables(), tables + 4);
    let frames = family.host.frames();
    family.clone(0).unwrap();
    // The clone's root; the parent's view is empty but for its root.
    assert_eq!(family.host.tables(), tables + 2);
    assert_eq!(family.host.frames(), frames);
    family.remove_view(0, second);
    assert_eq!(family.host.tables(), tables + 1);
    assert_eq!(
        family.protect_view(0, second, (0, 0), RW),
        Err(RegionError::NoView)
    );
    family.end();
}

/// A copy is put into all views that had the original, without a fault in each.
#[test]
fn follow_a_copy() {
    let mut family = with_view();
    let second = family.add_view(0, Perm::all()).unwrap();
    family.clone(0).unwrap();
    for view in [1, second] {
        family.view_access(0, view, 0, Perm::R, 0);
    }
    family.access(0, 0, Perm::W, 555);
    for view in [1, second] {
        assert!(family.is_mapped_in(0, view, 0), "it would fault again");
        assert_eq!(
            family.view_access(0, view, 0, Perm::R, 0),
            Outcome::Content(555)
        );
    }
    assert_eq!(
        family.view_access(1, 1, 0, Perm::R, 0),
        Outcome::Content(100)
    );
    family.end();
}

#[test]
fn come_back_by_a_reset() {
    let mut family = with_view();
    family.clone(0).unwrap();
    family.protect_view(1, 1, (1, 1), Perm::all()).unwrap();
    let new = family.add_view(1, RW).unwrap();
    family.view_access(1, new, 1, Perm::W, 9);
    family.view_access(1, 1, 1, Perm::W, 10);
    family.reset(1, 0).unwrap();
    assert_eq!(family.view_access(1, 1, 1, Perm::R, 0), Outcome::Hidden);
    assert_eq!(family.add_view(1, RX), Ok(new));
    family.end();
}

#[test]
fn are_sealed_with_their_range() {
    let mut family = with_view();
    assert_eq!(family.seal(0, (1, 2)), Err(RegionError::Writable));
    family.protect(0, (1, 2), Perm::R).unwrap();
    family.seal(0, (1, 2)).unwrap();
    for of in [0, 1] {
        let sealed = Err(RegionError::Sealed);
        assert_eq!(family.protect_view(of, 1, (0, 1), RW), sealed);
        assert_eq!(family.protect(of, (2, 3), Perm::empty()), sealed);
        assert_eq!(family.unmap(of, (0, 8)), sealed);
        assert_eq!(family.discard(of, (2, 2)), sealed);
        assert_eq!(family.view_access(of, 1, 1, Perm::R, 0), Outcome::Hidden);
        assert_eq!(family.access(of, 1, Perm::R, 0), Outcome::Content(101));
        if of == 0 {
            family.clone(0).unwrap();
        }
    }
    family.end();
}

/// Nothing that was writable becomes executable, by whatever detour, until it is unmapped.
#[test]
fn keep_w_xor_x() {
    let mut family = Family::new(&Failure::default()).unwrap();
    family.forbid_writable_executable(0);
    let refused = Err(RegionError::WritableExecutable);
    assert_eq!(family.map(0, (0, 3), Perm::all(), &Back::Zero), refused);
    family.map(0, (0, 3), RW, &Back::Zero).unwrap();
    family.map(0, (4, 7), RX, &Back::File(0, 0)).unwrap();
    family.protect(0, (1, 2), Perm::empty()).unwrap();
    family.clone(0).unwrap();
    for of in [0, 1] {
        assert_eq!(family.protect(of, (0, 3), RX), refused);
        assert_eq!(family.protect(of, (2, 2), Perm::X), refused);
        assert_eq!(family.protect(of, (4, 4), RW), refused);
        family.protect(of, (3, 6), Perm::R).unwrap();
        assert_eq!(family.protect(of, (3, 6), RW), refused);
        assert_eq!(family.protect(of, (3, 6), RX), refused);
        family.unmap(of, (3, 3)).unwrap();
        family.map(of, (3, 3), RX, &Back::Zero).unwrap();
        // Others write to what is live, also where it can only be read.
        let live = Back::Live(9, 0);
        assert_eq!(family.map(of, (10, 10), RX, &live), refused);
        family.map(of, (10, 10), Perm::R, &live).unwrap();
        assert_eq!(family.protect(of, (10, 10), RX), refused);
        family.protect(of, (10, 10), RW).unwrap();
        assert_eq!(family.protect(of, (10, 10), RX), refused);
        family.unmap(of, (10, 10)).unwrap();
        assert_eq!(family.access(of, 3, Perm::X, 0), Outcome::Content(0));
    }
    family.end();
}
