// SPDX-License-Identifier: GPL-2.0

//! Searches among steps with pages of files: such as are written in place, such as go elsewhere, and such as are given
//! back although others have the table.

use uvisor_ept::Perm;

use super::{explore, Pages, Play, RW};
use crate::host::What;
use crate::step::{Rules, Step};

/// Steps of a member that has a file to which is written in place; a write leaves `content`.
fn steps_with_live_pages([a, b, c]: Pages, member: usize, content: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::Clone(member),
        Step::Reset(member),
        Step::Destroy(member),
        Step::Map(member, (a, c), RW, What::Live),
        Step::Map(member, (a, b), Perm::R, What::Live),
        Step::Map(member, (a, a), RW, What::Zeros),
        Step::Unmap(member, (a, a)),
        Step::Unmap(member, (a, c)),
        Step::Discard(member, (b, c)),
        Step::GiveBack(member, 1),
        Step::Protect(member, (a, b), Perm::R),
        Step::Protect(member, (a, b), RW),
        Step::Seal(member, (b, b)),
    ];
    for page in [a, c] {
        steps.push(Step::Access(member, 0, page, Perm::W, content));
        steps.push(Step::Access(member, 1, page, Perm::W, content));
        steps.push(Step::Access(member, 0, page, Perm::R, 0));
    }
    steps
}

/// A family whose first member has all pages of a file to which is written in place, and a clone of it.
fn with_live_pages([a, _, c]: Pages) -> Vec<Step> {
    vec![
        Step::Map(0, (a, c), RW, What::Live),
        Step::AddView(0, Perm::all()),
        Step::Access(0, 0, a, Perm::W, 1000),
        Step::Access(0, 1, c, Perm::R, 0),
        Step::Clone(0),
    ]
}

#[test]
fn live_pages_of_clones() {
    explore(&Play {
        name: "two clones with a file to which is written in place",
        rules: Rules {
            template: false,
            members: 2,
        },
        before: with_live_pages,
        steps: steps_with_live_pages,
        depths: [2, 3, 4],
    });
}

#[test]
fn live_pages_of_a_template() {
    explore(&Play {
        name: "a template and a clone with a file to which is written in place",
        rules: Rules {
            template: true,
            members: 2,
        },
        before: with_live_pages,
        steps: steps_with_live_pages,
        depths: [2, 4, 5],
    });
}

/// Steps of a member that moves pages; a write leaves `content`.
fn steps_with_moves([a, b, c]: Pages, member: usize, content: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::Clone(member),
        Step::Reset(member),
        Step::Destroy(member),
        Step::Map(member, (a, a), RW, What::Zeros),
        Step::Map(member, (c, c), RW, What::File(0)),
        Step::Map(member, (b, c), RW, What::Live),
        Step::Unmap(member, (a, a)),
        Step::Unmap(member, (b, c)),
        Step::GiveBack(member, 1),
        Step::Protect(member, (a, a), Perm::R),
    ];
    for page in [a, b, c] {
        steps.push(Step::Access(member, 0, page, Perm::W, content));
    }
    steps.push(Step::Access(member, 1, b, Perm::R, 0));
    for (from, to) in [(a, b), (b, a), (a, c), (c, a), (c, b)] {
        steps.push(Step::Remap(member, (from, from), to, 0));
    }
    steps.push(Step::Remap(member, (a, a), b, 1));
    steps
}

/// A family whose first member has a page, a view, and a clone.
fn with_a_page([a, ..]: Pages) -> Vec<Step> {
    vec![
        Step::Map(0, (a, a), RW, What::Zeros),
        Step::AddView(0, Perm::all()),
        Step::Access(0, 1, a, Perm::W, 1000),
        Step::Clone(0),
    ]
}

#[test]
fn moves_of_clones() {
    explore(&Play {
        name: "two clones that move pages",
        rules: Rules {
            template: false,
            members: 2,
        },
        before: with_a_page,
        steps: steps_with_moves,
        depths: [2, 3, 4],
    });
}

#[test]
fn moves_of_a_template() {
    explore(&Play {
        name: "a template and a clone that moves pages",
        rules: Rules {
            template: true,
            members: 2,
        },
        before: with_a_page,
        steps: steps_with_moves,
        depths: [2, 4, 5],
    });
}

/// Steps of a member with pages of files; a write leaves `content`.
fn steps_with_files([a, b, c]: Pages, member: usize, content: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::Clone(member),
        Step::Reset(member),
        Step::Destroy(member),
        Step::Unmap(member, (b, b)),
        Step::Map(member, (b, b), Perm::R, What::File(1)),
        Step::Discard(member, (a, b)),
        Step::GiveBack(member, 2),
        Step::GiveBackCommon(member, 1, true),
        Step::GiveBackCommon(member, 3, false),
        Step::Access(member, 1, a, Perm::R, 0),
    ];
    for page in [a, b, c] {
        steps.push(Step::Access(member, 0, page, Perm::W, content));
        steps.push(Step::Access(member, 0, page, Perm::R, 0));
    }
    steps
}

/// A family whose first member has pages of a file, one copied, and a view that has seen one of them, and a
/// clone of it.
fn with_files([a, b, c]: Pages) -> Vec<Step> {
    vec![
        Step::Map(0, (a, c), RW, What::File(0)),
        Step::Access(0, 0, a, Perm::R, 0),
        Step::Access(0, 0, b, Perm::R, 0),
        Step::Access(0, 0, c, Perm::W, 1000),
        Step::AddView(0, Perm::all()),
        Step::Access(0, 1, a, Perm::R, 0),
        Step::Clone(0),
    ]
}

#[test]
fn files_of_a_template() {
    explore(&Play {
        name: "a template with pages of files and two clones",
        rules: Rules {
            template: true,
            members: 3,
        },
        before: with_files,
        steps: steps_with_files,
        depths: [2, 4, 5],
    });
}

#[test]
fn files_of_clones() {
    explore(&Play {
        name: "three clones with pages of files",
        rules: Rules {
            template: false,
            members: 3,
        },
        before: with_files,
        steps: steps_with_files,
        depths: [2, 3, 4],
    });
}
