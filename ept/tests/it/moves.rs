// SPDX-License-Identifier: GPL-2.0

//! Ranges that are moved.

use uvisor_ept::{Move, Perm, Range, RegionError};

use crate::family::Family;
use crate::host::{Back, Failure};
use crate::model::{segment, Outcome, SEGMENTS};

const RW: Perm = Perm::from_bits_truncate(3);

/// The segment that begins with a page.
fn at(page: u64) -> usize {
    let found = (0..SEGMENTS).find(|&number| segment(number).0 == page);
    found.expect("a segment begins there")
}

#[test]
fn are_checked() {
    let range = |start: u64, end| Range::new(start << 12, (end - start) << 12, 48).unwrap();
    let from = range(4, 8);
    for to in [
        range(4, 8),
        range(0, 5),
        range(7, 12),
        range(5, 6),
        range(0, 100),
    ] {
        assert_eq!(Move::new(from, to), None, "overlap");
    }
    assert_eq!(Move::new(from, range(8, 11)), None, "shorter");
    for to in [range(8, 12), range(0, 4), range(8, 100)] {
        let what = Move::new(from, to).unwrap();
        assert_eq!((what.from(), what.to()), (from, to));
    }
}

#[test]
fn take_content_and_permission_along() {
    let mut family = Family::new(&Failure::default()).unwrap();
    family.map(0, (0, 5), RW, &Back::Zero).unwrap();
    for number in 0..6 {
        family.access(0, number, Perm::W, 100 + number as u64);
    }
    // Within one leaf table, and to others, over the bound between two of them.
    let mut from = 1;
    for target in [7, at((1 << 9) - 2), at((1 << 18) - 1), at((1 << 27) - 3), 1] {
        family.remap(0, (from, from + 3), target, 0).unwrap();
        let frames = family.host.frames();
        for offset in 0..4 {
            let content = Outcome::Content(101 + offset as u64);
            assert_eq!(family.access(0, target + offset, Perm::R, 0), content);
            assert_eq!(
                family.access(0, from + offset, Perm::R, 0),
                Outcome::Unmapped
            );
        }
        assert_eq!(family.host.frames(), frames, "nothing is copied");
        from = target;
    }
    assert_eq!(family.members[0].space.regions().len(), 1, "one again");
    family.protect(0, (1, 2), Perm::R).unwrap();
    assert_eq!(family.remap(0, (1, 3), 7, 0), Err(RegionError::Unmapped));
    family.remap(0, (1, 2), 7, 2).unwrap();
    assert_eq!(family.access(0, 8, Perm::W, 1), Outcome::Denied);
    assert_eq!(family.access(0, 9, Perm::R, 0), Outcome::Content(0));
    assert_eq!(family.remap(0, (3, 4), 6, 0), Err(RegionError::Exists));
    family.seal(0, (7, 7)).unwrap();
    assert_eq!(family.remap(0, (7, 7), 1, 0), Err(RegionError::Sealed));
    family.end();
}

#[test]
fn show_the_next_pages_of_a_file() {
    let mut family = Family::new(&Failure::default()).unwrap();
    family.map(0, (0, 3), RW, &Back::File(0, 50)).unwrap();
    family.access(0, 2, Perm::W, 7);
    family.clone(0).unwrap();
    for of in [1, 0] {
        family.remap(of, (1, 2), 6, 2).unwrap();
        let next = crate::host::file_content(0, 53);
        assert_eq!(family.access(of, 8, Perm::R, 0), Outcome::Content(next));
        assert_eq!(family.access(of, 7, Perm::R, 0), Outcome::Content(7));
        assert_eq!(family.access(of, 1, Perm::R, 0), Outcome::Unmapped);
        family.access(of, 7, Perm::W, 8);
    }
    family.end();
}
