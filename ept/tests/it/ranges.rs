// SPDX-License-Identifier: GPL-2.0

//! Clones that change ranges which end at, right before and right behind the ends of tables of each level.

use uvisor_ept::Perm;

use crate::family::Family;
use crate::host::{Back, Failure};
use crate::model::{segment, Outcome, SEGMENTS};

const RW: Perm = Perm::from_bits_truncate(3);

/// The segments within two pages of an end of a table, and the gaps between.
fn ends() -> Vec<usize> {
    let is_near = |number: &usize| {
        let (page, pages) = segment(*number);
        pages > 1 || (page + 2) % (1 << 9) < 5
    };
    (0..SEGMENTS).filter(is_near).collect()
}

/// Does something to each range in a clone of its own of a template with all pages.
fn each_range(change: impl Fn(&mut Family, (usize, usize))) {
    let mut family = Family::new(&Failure::default()).unwrap();
    family.map(0, (0, SEGMENTS - 1), RW, &Back::Zero).unwrap();
    for number in 0..SEGMENTS {
        let content = number as u64 + 1;
        assert_eq!(
            family.access(0, number, Perm::W, content),
            Outcome::Content(content)
        );
    }
    let ends = ends();
    assert!(ends.len() > 15);
    for (number, &from) in ends.iter().enumerate() {
        for &to in &ends[number..] {
            family.clone(0).unwrap();
            change(&mut family, (from, to));
            family.destroy(1);
        }
    }
    family.end();
}

#[test]
fn are_unmapped() {
    each_range(|family, range| family.unmap(1, range).unwrap());
}

#[test]
fn are_discarded() {
    each_range(|family, range| family.discard(1, range).unwrap());
}

#[test]
fn are_protected() {
    // Of all permission, since what lacks only `W` looks like what is shared.
    each_range(|family, range| family.protect(1, range, Perm::empty()).unwrap());
}
