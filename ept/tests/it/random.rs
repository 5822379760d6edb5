// SPDX-License-Identifier: GPL-2.0

//! Random sequences of everything that can happen to a space, compared with the model.

use proptest::prelude::*;
use uvisor_ept::{Perm, RegionError};

use crate::host::{Back, Failure, What};
use crate::machine::Machine;
use crate::model::{segment, Outcome, SEGMENTS};

/// A step.
#[derive(Clone, Debug)]
enum Step {
    /// Maps segments; a file at the page with the number of the address and so much more.
    Map(usize, usize, Perm, What, u64),
    /// Unmaps segments, up to the flush.
    Unmap(usize, usize),
    /// Gives back what was unmapped.
    Reap,
    /// Changes a permission.
    Protect(usize, usize, Perm),
    /// The guest accesses a segment.
    Access(usize, Perm, u64),
    /// The guest, or the module for user space, faults, which begins to be served.
    Begin(usize, Perm, bool),
    /// The service of a fault ends.
    Finish,
}

/// Segments, most often few.
fn segments() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        4 => (0..SEGMENTS, 0..5_usize),
        1 => (0..SEGMENTS, 0..SEGMENTS),
    ]
    .prop_map(|(from, more)| (from, (from + more).min(SEGMENTS - 1)))
}

/// What the test's CPU can express.
fn perm() -> impl Strategy<Value = Perm> {
    prop_oneof![
        4 => Just(Perm::R | Perm::W),
        1 => Just(Perm::all()),
        2 => Just(Perm::R),
        1 => Just(Perm::R | Perm::X),
        1 => Just(Perm::X),
        1 => Just(Perm::empty()),
    ]
}

/// What a guest may try; one with more bits is a read and write, or an execution.
fn access() -> impl Strategy<Value = Perm> {
    prop_oneof![
        3 => Just(Perm::R),
        3 => Just(Perm::W),
        1 => Just(Perm::R | Perm::W),
        1 => Just(Perm::X),
    ]
}

/// What to map, and how much further on in a file.
fn what() -> impl Strategy<Value = (What, u64)> {
    let what = prop_oneof![
        2 => Just(What::Zeros),
        1 => (0..2_u32).prop_map(What::File),
        1 => Just(What::Live),
    ];
    (what, 0..2_u64)
}

/// A step, and which allocation in it fails.
fn step() -> impl Strategy<Value = (Step, Option<usize>)> {
    let step = prop_oneof![
        5 => (segments(), perm(), what()).prop_map(|((a, b), p, (w, more))| Step::Map(a, b, p, w, more)),
        2 => segments().prop_map(|(a, b)| Step::Unmap(a, b)),
        1 => Just(Step::Reap),
        3 => (segments(), perm()).prop_map(|((a, b), perm)| Step::Protect(a, b, perm)),
        12 => (0..SEGMENTS, access(), 1..1000_u64).prop_map(|(n, a, c)| Step::Access(n, a, c)),
        2 => (0..SEGMENTS, access(), any::<bool>()).prop_map(|(n, a, h)| Step::Begin(n, a, h)),
        2 => Just(Step::Finish),
    ];
    (
        step,
        prop_oneof![5 => Just(None), 1 => (0..4_usize).prop_map(Some)],
    )
}

/// Does a step, and again without a failure if it ran out of memory.
fn run(machine: &mut Machine, failure: &Failure, step: &Step, fail: Option<usize>) {
    failure.after(fail);
    let no_memory = do_step(machine, step);
    assert!(!no_memory || fail.is_some());
    failure.after(None);
    if no_memory && !matches!(step, Step::Finish) {
        assert!(!do_step(machine, step));
    }
}

/// Does a step; whether it ran out of memory.
fn do_step(machine: &mut Machine, step: &Step) -> bool {
    let result = match *step {
        Step::Map(from, to, perm, what, more) => {
            let back = Back::new(what, segment(from).0 + more);
            machine.map(from, to, perm, &back)
        }
        Step::Unmap(from, to) => machine.unmap(from, to),
        Step::Protect(from, to, perm) => machine.protect(from, to, perm),
        Step::Reap => {
            machine.reap();
            Ok(())
        }
        Step::Access(number, access, content) => {
            let mut outcome = machine.access(number, access, content);
            if outcome == Outcome::Busy {
                machine.reap();
                outcome = machine.access(number, access, content);
                assert_ne!(outcome, Outcome::Busy);
            }
            return outcome == Outcome::NoMemory;
        }
        Step::Begin(number, access, by_host) => {
            machine.begin(number, access, by_host);
            Ok(())
        }
        Step::Finish => return machine.finish().is_some_and(|served| served.is_err()),
    };
    matches!(result, Err(RegionError::Store(_)))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 200 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The space does what the model does, whatever happens.
    #[test]
    fn is_what_the_model_says(steps in prop::collection::vec(step(), 1..120)) {
        let failure = Failure::default();
        let mut machine = Machine::new(failure.clone()).unwrap();
        for (step, fail) in &steps {
            run(&mut machine, &failure, step, *fail);
        }
        while machine.finish().is_some() {}
        machine.reap();
        assert_eq!(machine.read_all(), 0);
        machine.end();
    }

    /// It can end at any time, with faults being served and pages waiting to be given back.
    #[test]
    fn ends_in_any_state(steps in prop::collection::vec(step(), 1..40)) {
        let failure = Failure::default();
        let mut machine = Machine::new(failure.clone()).unwrap();
        for (step, fail) in &steps {
            run(&mut machine, &failure, step, *fail);
        }
        machine.end();
    }
}
