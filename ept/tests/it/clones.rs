// SPDX-License-Identifier: GPL-2.0

//! Clones: what one does, the others do not see, and what nobody did costs nothing.

use proptest::prelude::*;
use uvisor_ept::{Gpa, Owner, Perm};

use crate::family::Family;
use crate::host::{Back, Failure, What};
use crate::model::{gpa, Model, Outcome, SEGMENTS};
use crate::step::{run, Rules, Step};

const RW: Perm = Perm::from_bits_truncate(3);
const RULES: Rules = Rules {
    template: false,
    members: 8,
};

/// A segment, often one of a few, so that much happens to the same.
fn segment_number() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0..SEGMENTS, 2 => prop::sample::select(vec![0, 1, 18, 19, 44])]
}

/// Segments, most often few.
fn segments() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        4 => (segment_number(), 0..5_usize),
        1 => (segment_number(), 0..SEGMENTS),
    ]
    .prop_map(|(from, more)| (from, (from + more).min(SEGMENTS - 1)))
}

fn perm() -> impl Strategy<Value = Perm> {
    prop_oneof![
        5 => Just(RW),
        1 => Just(Perm::all()),
        1 => Just(Perm::R),
        1 => Just(Perm::X),
        1 => Just(Perm::empty()),
    ]
}

fn access() -> impl Strategy<Value = Perm> {
    prop_oneof![2 => Just(Perm::R), 4 => Just(Perm::W), 1 => Just(Perm::X)]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Zeros),
        2 => (0..2_u32).prop_map(What::File),
        2 => Just(What::Live),
    ]
}

/// A step, and which allocation in it fails.
fn step() -> impl Strategy<Value = (Step, Option<usize>)> {
    let member = 0..8_usize;
    let step = prop_oneof![
        4 => (member.clone(), segments(), perm(), what())
            .prop_map(|(m, s, p, w)| Step::Map(m, s, p, w)),
        2 => (member.clone(), segments()).prop_map(|(m, s)| Step::Unmap(m, s)),
        2 => (member.clone(), segments(), perm()).prop_map(|(m, s, p)| Step::Protect(m, s, p)),
        1 => (member.clone(), segments()).prop_map(|(m, s)| Step::Discard(m, s)),
        1 => (member.clone(), segments()).prop_map(|(m, s)| Step::Seal(m, s)),
        3 => (member.clone(), segments(), segment_number(), 0..3_usize)
            .prop_map(|(m, s, t, more)| Step::Remap(m, s, t, more)),
        14 => (member.clone(), 0..4_usize, segment_number(), access(), 1..1000_u64)
            .prop_map(|(m, v, n, a, c)| Step::Access(m, v, n, a, c)),
        1 => (member.clone(), perm()).prop_map(|(m, p)| Step::AddView(m, p)),
        2 => (member.clone(), 1..4_usize, segments(), perm())
            .prop_map(|(m, v, s, p)| Step::ProtectView(m, v, s, p)),
        1 => (member.clone(), 1..4_usize).prop_map(|(m, v)| Step::RemoveView(m, v)),
        1 => (member.clone(), 1..4_u32).prop_map(|(m, n)| Step::GiveBack(m, n)),
        1 => (member.clone(), 1..4_u32, any::<bool>())
            .prop_map(|(m, n, b)| Step::GiveBackCommon(m, n, b)),
        3 => member.clone().prop_map(Step::Clone),
        1 => member.clone().prop_map(Step::Reset),
        1 => member.prop_map(Step::Destroy),
    ];
    (
        step,
        prop_oneof![4 => Just(None), 1 => (0..5_usize).prop_map(Some)],
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Clones of clones do what their models do, which share nothing.
    #[test]
    fn are_what_their_models_say(
        steps in prop::collection::vec(step(), 1..100),
        w_xor_x in any::<bool>(),
        prepared in any::<bool>(),
    ) {
        let failure = Failure::default();
        let mut family = Family::new(&failure).unwrap();
        if w_xor_x {
            family.forbid_writable_executable(0);
        }
        if prepared {
            family.map(0, (0, SEGMENTS - 1), RW, &Back::Zero).unwrap();
            for _ in 0..2 {
                family.add_view(0, Perm::all()).unwrap();
            }
        }
        for step in &steps {
            run(&mut family, &failure, step, RULES);
        }
        family.end();
    }

    /// A template stays what it was, and its clones go back to it.
    #[test]
    fn go_back_to_their_template(
        before in prop::collection::vec(step(), 1..40),
        after in prop::collection::vec(step(), 1..80),
    ) {
        let failure = Failure::default();
        let mut family = Family::new(&failure).unwrap();
        for step in &before {
            if !matches!(step.0, Step::Clone(_)) {
                run(&mut family, &failure, step, RULES);
            }
        }
        family.clone(0).unwrap();
        let frozen = without_files(&family.members[0].model);
        for step in &after {
            run(&mut family, &failure, step, Rules { template: true, ..RULES });
        }
        for clone in 1..family.members.len() {
            family.reset(clone, 0).unwrap();
            prop_assert_eq!(family.differences(clone, 0), []);
        }
        prop_assert_eq!(&without_files(&family.members[0].model), &frozen);
        family.end();
    }
}

/// A model, as if the kernel had taken all pages of files back.
fn without_files(model: &Model) -> Model {
    let mut model = model.clone();
    for mapped in model.segments.iter_mut().flatten() {
        mapped.page = mapped.page.filter(|page| page.owner != Owner::File);
    }
    model
}

/// A family whose first member has touched all of some segments, and a clone of it.
fn template(touched: usize) -> Family {
    let failure = Failure::default();
    let mut family = Family::new(&failure).unwrap();
    family.map(0, (0, SEGMENTS - 1), RW, &Back::Zero).unwrap();
    for number in 0..touched {
        assert_eq!(
            family.access(0, number, Perm::W, number as u64),
            Outcome::Content(number as u64)
        );
    }
    family.clone(0).unwrap();
    family
}

#[test]
fn cost_a_root_whatever_the_size() {
    for touched in [1, SEGMENTS] {
        let mut family = template(touched);
        let (tables, frames) = (family.host.tables(), family.host.frames());
        family.clone(0).unwrap();
        family.clone(1).unwrap();
        assert_eq!(family.host.tables(), tables + 2);
        assert_eq!(family.host.frames(), frames);
        family.end();
    }
}

#[test]
fn copy_one_table_a_level_and_one_frame() {
    let mut family = template(SEGMENTS);
    let (tables, frames) = (family.host.tables(), family.host.frames());
    family.access(1, 0, Perm::W, 77);
    assert_eq!(family.host.tables(), tables + 3);
    assert_eq!(family.host.frames(), frames + 1);
    // The next one in the same tables costs a frame only.
    family.access(1, 1, Perm::W, 78);
    assert_eq!(family.host.tables(), tables + 3);
    assert_eq!(family.host.frames(), frames + 2);
    assert_eq!(family.differences(1, 0), [gpa(0), gpa(1)]);
    assert_eq!(family.reset(1, 0), Ok(2));
    assert_eq!(family.host.tables(), tables);
    assert_eq!(family.host.frames(), frames);
    assert_eq!(family.differences(1, 0), Vec::<Gpa>::new());
    family.end();
}

/// Reading what is there copies nothing.
#[test]
fn read_without_a_copy() {
    let mut family = template(SEGMENTS);
    let (tables, frames) = (family.host.tables(), family.host.frames());
    for number in 0..SEGMENTS {
        family.access(1, number, Perm::R, 0);
    }
    assert_eq!(
        (family.host.tables(), family.host.frames()),
        (tables, frames)
    );
    family.end();
}

/// The last one that has a frame takes it over instead of copying it.
#[test]
fn take_over_what_others_let_go_of() {
    let mut family = template(3);
    family.destroy(0);
    let frames = |family: &Family| {
        let tree = family.members[0].space.tree();
        [0, 1, 2].map(|number| tree.get(&family.host, gpa(number)).unwrap().frame)
    };
    let (before, tables) = (frames(&family), family.host.tables());
    for number in 0..3 {
        family.access(0, number, Perm::W, 100);
    }
    assert_eq!((frames(&family), family.host.tables()), (before, tables));
    family.end();
}

/// Pages of files that the kernel took back from a template and its clones, or from some of them, are no
/// difference, unless the file is another one; they come back into tables of who touches them.
#[test]
fn lose_pages_of_files_all_at_once() {
    let failure = Failure::default();
    let mut family = Family::new(&failure).unwrap();
    family.map(0, (0, 5), RW, &Back::File(0, 0)).unwrap();
    let contents: Vec<_> = (0..6)
        .map(|number| family.access(0, number, Perm::R, 0))
        .collect();
    family.access(0, 5, Perm::W, 55);
    for _ in 0..2 {
        family.clone(0).unwrap();
    }
    // Of the first clone's own: a page of a file, that is another file's from now on.
    family.unmap(1, (4, 4)).unwrap();
    family.map(1, (4, 4), Perm::R, &Back::File(1, 4)).unwrap();
    family.access(1, 4, Perm::R, 0);
    assert_eq!(family.differences(1, 0), [gpa(4)]);
    let tables = family.host.tables();
    // Five of the template and the second clone, the first clone's stay.
    let references = family.host.references();
    family.give_back_common_files(2, 100, None);
    assert_eq!(family.host.references(), references - 5);
    assert_eq!(family.host.tables(), tables);
    assert_eq!(family.differences(1, 0), [gpa(4)]);
    assert_eq!(family.differences(2, 0), Vec::<Gpa>::new());
    for member in [2, 1] {
        for (number, content) in contents.iter().enumerate().take(4) {
            assert_eq!(family.access(member, number, Perm::R, 0), *content);
        }
    }
    assert_eq!(family.access(2, 5, Perm::R, 0), Outcome::Content(55));
    assert_eq!(family.host.tables(), tables + 3);
    assert_eq!(family.differences(2, 0), Vec::<Gpa>::new());
    family.give_back_files(1, 100);
    family.reset(1, 0).unwrap();
    assert_eq!(family.access(1, 4, Perm::R, 0), contents[4]);
    family.end();
}

#[test]
fn have_clones_of_any_depth() {
    let mut family = template(4);
    for depth in 1..50 {
        family.clone(depth).unwrap();
        family.access(depth + 1, depth % 4, Perm::W, 1000 + depth as u64);
    }
    // From the middle and from both ends.
    while family.members.len() > 1 {
        family.destroy(family.members.len() / 2);
        family.destroy(0);
        if family.members.is_empty() {
            break;
        }
    }
    family.end();
}
