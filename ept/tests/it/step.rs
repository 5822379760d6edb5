// SPDX-License-Identifier: GPL-2.0

//! What can happen to a family: the steps that random, exhaustive and fuzzed sequences are made of.

use uvisor_ept::{Perm, RegionError};

use crate::family::Family;
use crate::host::{Back, Failure, NoMemory, What};
use crate::model::{segment, Outcome};

/// A step; the first number says which member, modulo how many there are.
#[derive(Clone, Debug)]
pub enum Step {
    /// Maps segments.
    Map(usize, (usize, usize), Perm, What),
    /// Unmaps segments.
    Unmap(usize, (usize, usize)),
    /// Changes the permission of segments.
    Protect(usize, (usize, usize), Perm),
    /// Discards the pages of segments.
    Discard(usize, (usize, usize)),
    /// Moves segments to another one, with so many more behind them.
    Remap(usize, (usize, usize), usize, usize),
    /// Seals segments.
    Seal(usize, (usize, usize)),
    /// The guest accesses a segment in a view, or in view 0 if that is not there; a write leaves the number.
    Access(usize, usize, usize, Perm, u64),
    /// Adds a view, unless there are many.
    AddView(usize, Perm),
    /// Changes what a view allows in segments.
    ProtectView(usize, usize, (usize, usize), Perm),
    /// A view goes.
    RemoveView(usize, usize),
    /// The kernel takes some pages of files back.
    GiveBack(usize, u32),
    /// The kernel takes some pages of files back that a member, or a template, has, from all that have them
    /// in common; if it is said and there is another, not in tables that the first one has as well.
    GiveBackCommon(usize, u32, bool),
    /// Makes a clone; of a template too.
    Clone(usize),
    /// Resets a clone to the template.
    Reset(usize),
    /// A member goes, unless it is the last one, or the last clone of a template.
    Destroy(usize),
}

/// What a family may do.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether the first member is a template as soon as it has a clone: it is not changed any more, and
    /// the others are reset to it.
    pub template: bool,
    /// How many members there can be.
    pub members: usize,
}

/// Does a step; whether it ran out of memory.
pub fn do_step(family: &mut Family, step: &Step, rules: Rules) -> bool {
    let count = family.members.len();
    let first = usize::from(rules.template && count > 1);
    let member = |number: usize| first + number % (count - first);
    let no_memory = Err(RegionError::Store(NoMemory));
    match *step {
        Step::Map(of, segments, perm, what) => {
            let back = Back::new(what, segment(segments.0).0);
            family.map(member(of), segments, perm, &back) == no_memory
        }
        Step::Unmap(of, segments) => family.unmap(member(of), segments) == no_memory,
        Step::Protect(of, segments, perm) => {
            family.protect(member(of), segments, perm) == no_memory
        }
        Step::Discard(of, segments) => family.discard(member(of), segments) == no_memory,
        Step::Remap(of, segments, target, more) => {
            family.remap(member(of), segments, target, more) == no_memory
        }
        Step::Seal(of, segments) => family.seal(member(of), segments) == no_memory,
        Step::Access(of, view, number, access, content) => {
            let of = member(of);
            let views = &family.members[of].model.views;
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
        Step::GiveBack(of, most) => {
            family.give_back_files(member(of), most);
            false
        }
        Step::GiveBackCommon(of, most, not_of_first) => {
            let of = of % count;
            let but = (not_of_first && of > 0).then_some(0);
            family.give_back_common_files(of, most, but);
            false
        }
        Step::RemoveView(of, view) => {
            family.remove_view(member(of), view);
            false
        }
        Step::Clone(of) => count < rules.members && family.clone(of % count).is_err(),
        Step::Reset(of) => first == 1 && family.reset(member(of), 0).is_err(),
        Step::Destroy(which) => {
            if count > first + 1 {
                family.destroy(member(which));
            }
            false
        }
    }
}

/// Whether a step that was just done must say that it ran out of memory, with `fail` as which of its allocations
/// was to fail.
///
/// All that fails is told, but in a reset a reference on a frame, for a table of the clone's own: the template's
/// table serves instead.
pub fn is_told(step: &Step, failure: &Failure, fail: Option<usize>) -> bool {
    let failed = fail.is_some() && !failure.is_pending();
    let is_made_up_for = matches!(step, Step::Reset(_)) && failure.was_reference();
    failed && !is_made_up_for
}

/// Does a step, and again without a failure if it ran out of memory.
pub fn run(
    family: &mut Family,
    failure: &Failure,
    (step, fail): &(Step, Option<usize>),
    rules: Rules,
) {
    failure.after(*fail);
    let no_memory = do_step(family, step, rules);
    assert_eq!(
        no_memory,
        is_told(step, failure, *fail),
        "a failure is told, and there is no other"
    );
    failure.after(None);
    if no_memory {
        assert!(!do_step(family, step, rules));
    }
}
