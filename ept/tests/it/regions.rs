// SPDX-License-Identifier: GPL-2.0

//! The region map by itself.

use uvisor_ept::{Gpa, Marks, Perm, Range, Region, RegionError, RegionMap};

use crate::host::{Back, Failure};
use crate::store::TestStore;

/// A map of at most so many regions.
fn map(max_regions: usize) -> RegionMap<Back, TestStore<Region<Back>>> {
    RegionMap::new(TestStore::new(&Failure::default()), max_regions)
}

/// The pages `from..to`.
fn pages(from: u64, to: u64) -> Range {
    Range::new(from << 12, (to - from) << 12, 48).unwrap()
}

/// A region of zeros.
fn zeros(from: u64, to: u64, perm: Perm) -> Region<Back> {
    Region {
        range: pages(from, to),
        perm,
        marks: Marks::empty(),
        backing: Back::Zero,
    }
}

/// A region of a file.
fn file(from: u64, to: u64, perm: Perm, page: u64) -> Region<Back> {
    Region {
        range: pages(from, to),
        perm,
        marks: Marks::empty(),
        backing: Back::File(0, page),
    }
}

#[test]
fn finds_by_address() {
    let mut map = map(4);
    assert!(map.is_empty());
    map.insert(zeros(2, 4, Perm::R)).unwrap();
    map.insert(zeros(5, 6, Perm::R)).unwrap();
    let start = |gpa| {
        map.find(Gpa(gpa))
            .map(|region| region.range.start().0 >> 12)
    };
    assert_eq!(start(0x1fff), None);
    assert_eq!(start(0x2000), Some(2));
    assert_eq!(start(0x3fff), Some(2));
    assert_eq!(start(0x4000), None);
    assert_eq!(start(0x5123), Some(5));
    assert_eq!(start(0x6000), None);
    assert_eq!(start(u64::MAX), None);
    assert_eq!(map.iter(pages(3, 5)).count(), 1);
    assert_eq!(map.iter(pages(3, 6)).count(), 2);
    assert_eq!(map.iter(pages(4, 5)).count(), 0);
}

#[test]
fn joins_neighbours() {
    let mut map = map(3);
    map.insert(file(0, 2, Perm::R, 10)).unwrap();
    map.insert(file(4, 6, Perm::R, 14)).unwrap();
    map.insert(file(6, 7, Perm::R, 17)).unwrap();
    assert_eq!(map.len(), 3, "another offset");
    assert_eq!(
        map.insert(file(2, 4, Perm::W | Perm::R, 12)),
        Err(RegionError::TooMany)
    );
    map.insert(file(2, 4, Perm::R, 12)).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(0, 6, Perm::R, 10), file(6, 7, Perm::R, 17)]
    );
    // Before the next one only.
    map.remove(pages(0, 3)).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(3, 6, Perm::R, 13), file(6, 7, Perm::R, 17)]
    );
    map.insert(file(2, 3, Perm::R, 12)).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(2, 6, Perm::R, 12), file(6, 7, Perm::R, 17)]
    );
}

#[test]
fn refuses_what_overlaps() {
    let mut map = map(8);
    map.insert(zeros(4, 8, Perm::R)).unwrap();
    for (from, to) in [(3, 5), (7, 9), (5, 6), (0, 20), (4, 8)] {
        assert_eq!(
            map.insert(zeros(from, to, Perm::R)),
            Err(RegionError::Exists)
        );
    }
    assert_eq!(map.as_slice(), [zeros(4, 8, Perm::R)]);
}

#[test]
fn removes_from_the_middle() {
    let mut map = map(2);
    map.remove(pages(0, 9)).unwrap();
    map.insert(file(0, 9, Perm::R, 100)).unwrap();
    map.remove(pages(3, 5)).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(0, 3, Perm::R, 100), file(5, 9, Perm::R, 105)]
    );
    assert_eq!(map.remove(pages(6, 7)), Err(RegionError::TooMany));
    assert_eq!(map.len(), 2);
    map.remove(pages(2, 6)).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(0, 2, Perm::R, 100), file(6, 9, Perm::R, 106)]
    );
}

#[test]
fn protects_all_or_nothing() {
    let mut map = map(4);
    map.insert(file(0, 4, Perm::R, 0)).unwrap();
    map.insert(file(5, 9, Perm::R, 5)).unwrap();
    for (from, to) in [(3, 6), (0, 5), (4, 5), (4, 6), (8, 10), (20, 21)] {
        assert_eq!(
            map.protect(pages(from, to), Perm::X),
            Err(RegionError::Unmapped)
        );
    }
    assert_eq!(
        map.as_slice(),
        [file(0, 4, Perm::R, 0), file(5, 9, Perm::R, 5)]
    );
    // The same permission needs no division.
    map.protect(pages(1, 2), Perm::R).unwrap();
    assert_eq!(map.len(), 2);
    map.protect(pages(6, 8), Perm::X).unwrap();
    let parts = [(5, 6, Perm::R), (6, 8, Perm::X), (8, 9, Perm::R)];
    let parts = parts.map(|(from, to, perm)| file(from, to, perm, from));
    assert_eq!(map.iter(pages(5, 9)).cloned().collect::<Vec<_>>(), parts);
    assert_eq!(map.protect(pages(1, 4), Perm::X), Err(RegionError::TooMany));
    map.protect(pages(5, 9), Perm::R).unwrap();
    assert_eq!(
        map.as_slice(),
        [file(0, 4, Perm::R, 0), file(5, 9, Perm::R, 5)]
    );
}

#[test]
fn the_same_permission_needs_no_room() {
    let mut map = map(1);
    map.insert(zeros(0, 9, Perm::R)).unwrap();
    for (from, to) in [(0, 4), (4, 9), (4, 5), (0, 9)] {
        map.protect(pages(from, to), Perm::R).unwrap();
    }
    map.protect(pages(0, 9), Perm::X).unwrap();
    assert_eq!(map.protect(pages(0, 4), Perm::R), Err(RegionError::TooMany));
    assert_eq!(map.protect(pages(4, 9), Perm::R), Err(RegionError::TooMany));
    assert_eq!(map.as_slice(), [zeros(0, 9, Perm::X)]);
}

/// As many regions as a user may make, and the calls that touch them all, in no time that grows
/// with the square of their number.
#[test]
fn handles_many_regions() {
    let count = if cfg!(miri) { 100 } else { 30_000 };
    let mut map = map(count);
    for n in 0..count as u64 {
        let perm = if n % 2 == 0 { Perm::R } else { Perm::all() };
        map.insert(zeros(n, n + 1, perm)).unwrap();
    }
    assert_eq!(map.len(), count);
    map.remove(pages(0, 2)).unwrap();
    map.remove(pages(10, count as u64 / 2)).unwrap();
    map.protect(pages(count as u64 / 2, count as u64), Perm::X)
        .unwrap();
    assert_eq!(map.len(), 9);
    map.remove(pages(0, count as u64)).unwrap();
    assert!(map.is_empty());
}
