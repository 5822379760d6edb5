// SPDX-License-Identifier: GPL-2.0

//! Clones: what one does, the others do not see, and what nobody did costs nothing.

use proptest::prelude::*;
use uvisor_ept::{Gpa, Perm, RegionError};

use crate::family::Family;
use crate::host::{Back, Failure};
use crate::model::{segment, Outcome, SEGMENTS};

const RW: Perm = Perm::from_bits_truncate(3);

/// A step; the first number says which member, modulo how many there are.
#[derive(Clone, Debug)]
enum Step {
    Map(usize, (usize, usize), Perm, Option<u32>),
    Unmap(usize, (usize, usize)),
    Protect(usize, (usize, usize), Perm),
    Discard(usize, (usize, usize)),
    Seal(usize, (usize, usize)),
    Access(usize, usize, usize, Perm, u64),
    AddView(usize, Perm),
    ProtectView(usize, usize, (usize, usize), Perm),
    RemoveView(usize, usize),
    Clone(usize),
    Reset(usize),
    Destroy(usize),
}

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

/// A step, and which allocation in it fails.
fn step() -> impl Strategy<Value = (Step, Option<usize>)> {
    let member = 0..8_usize;
    let step = prop_oneof![
        4 => (member.clone(), segments(), perm(), prop::option::of(0..2_u32))
            .prop_map(|(m, s, p, f)| Step::Map(m, s, p, f)),
        2 => (member.clone(), segments()).prop_map(|(m, s)| Step::Unmap(m, s)),
        2 => (member.clone(), segments(), perm()).prop_map(|(m, s, p)| Step::Protect(m, s, p)),
        1 => (member.clone(), segments()).prop_map(|(m, s)| Step::Discard(m, s)),
        1 => (member.clone(), segments()).prop_map(|(m, s)| Step::Seal(m, s)),
        14 => (member.clone(), 0..4_usize, segment_number(), access(), 1..1000_u64)
            .prop_map(|(m, v, n, a, c)| Step::Access(m, v, n, a, c)),
        1 => (member.clone(), perm()).prop_map(|(m, p)| Step::AddView(m, p)),
        2 => (member.clone(), 1..4_usize, segments(), perm())
            .prop_map(|(m, v, s, p)| Step::ProtectView(m, v, s, p)),
        1 => (member.clone(), 1..4_usize).prop_map(|(m, v)| Step::RemoveView(m, v)),
        3 => member.clone().prop_map(Step::Clone),
        1 => member.clone().prop_map(Step::Reset),
        1 => member.prop_map(Step::Destroy),
    ];
    (
        step,
        prop_oneof![4 => Just(None), 1 => (0..5_usize).prop_map(Some)],
    )
}

/// Does a step; whether it ran out of memory. The first member is the template of `template`.
fn do_step(family: &mut Family, step: &Step, template: bool) -> bool {
    // A template is not changed.
    let first = usize::from(template && family.members.len() > 1);
    let member = |number: usize| first + number % (family.members.len() - first);
    let no_memory = Err(RegionError::Store(crate::host::NoMemory));
    match step.clone() {
        Step::Map(of, segments, perm, file) => {
            let start = segment(segments.0).0;
            let back = file.map_or(Back::Zero, |file| Back::File(file, start));
            family.map(member(of), segments, perm, &back) == no_memory
        }
        Step::Unmap(of, segments) => family.unmap(member(of), segments) == no_memory,
        Step::Protect(of, segments, perm) => {
            family.protect(member(of), segments, perm) == no_memory
        }
        Step::Discard(of, segments) => family.discard(member(of), segments) == no_memory,
        Step::Seal(of, segments) => family.seal(member(of), segments) == no_memory,
        Step::Access(of, view, number, access, content) => {
            let of = member(of);
            let views = &family.members[of].model.views;
            // Those that are not there are view 0.
            let view = match view.checked_sub(1).and_then(|at| views.get(at)) {
                Some(Some(_)) => view,
                _ => 0,
            };
            family.view_access(of, view, number, access, content) == Outcome::NoMemory
        }
        Step::AddView(of, perm) => {
            let of = member(of);
            let views = &family.members[of].model.views;
            let count = views.iter().flatten().count();
            count < 3 && family.add_view(of, perm).is_err()
        }
        Step::ProtectView(of, view, segments, perm) => {
            family.protect_view(member(of), view, segments, perm) == no_memory
        }
        Step::RemoveView(of, view) => {
            family.remove_view(member(of), view);
            false
        }
        Step::Clone(of) => family.members.len() < 8 && family.clone(member(of)).is_err(),
        Step::Reset(of) => first == 1 && family.reset(member(of), 0).is_err(),
        Step::Destroy(which) => {
            if family.members.len() > 2 {
                family.destroy(member(which));
            }
            false
        }
    }
}

/// Does a step, and again without a failure if it ran out of memory.
fn run(family: &mut Family, failure: &Failure, step: &Step, fail: Option<usize>, template: bool) {
    failure.after(fail);
    let no_memory = do_step(family, step, template);
    assert!(!no_memory || fail.is_some());
    failure.after(None);
    if no_memory {
        assert!(!do_step(family, step, template));
    }
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
        for (step, fail) in &steps {
            run(&mut family, &failure, step, *fail, false);
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
        for (step, fail) in &before {
            if !matches!(step, Step::Clone(_)) {
                run(&mut family, &failure, step, *fail, false);
            }
        }
        family.clone(0).unwrap();
        let frozen = family.members[0].model.clone();
        for (step, fail) in &after {
            run(&mut family, &failure, step, *fail, true);
        }
        for clone in 1..family.members.len() {
            family.reset(clone, 0).unwrap();
            prop_assert_eq!(family.differences(clone, 0), []);
        }
        prop_assert_eq!(&family.members[0].model, &frozen);
        family.end();
    }
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
    assert_eq!(
        family.differences(1, 0),
        [crate::model::gpa(0), crate::model::gpa(1)]
    );
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
    let frames = family.host.frames();
    family.destroy(0);
    for number in 0..3 {
        family.access(0, number, Perm::W, 100);
    }
    assert_eq!(family.host.frames(), frames);
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
