// SPDX-License-Identifier: GPL-2.0

//! Bytes as steps of a family, for a fuzzer that invents them. All bytes mean something.

use uvisor_ept::Perm;

use crate::family::Family;
use crate::host::{Failure, What};
use crate::model::SEGMENTS;
use crate::step::{run, Rules, Step};

/// How many bytes a step has.
const STEP: usize = 4;
/// How many steps are done at most: more are slow, and find nothing that fewer do not.
const STEPS: usize = 64;
const MEMBERS: usize = 5;

/// The permissions of a region; those that tasks most often have come twice.
const PERMS: [u64; 8] = [3, 3, 7, 1, 1, 5, 4, 0];
/// What accesses need.
const ACCESSES: [u64; 4] = [1, 2, 4, 3];

/// One of `all`, chosen by a byte.
fn choose(all: &[u64], by: u8) -> Perm {
    Perm::from_bits_truncate(all[usize::from(by) % all.len()])
}

/// The step that four bytes mean, and which of its allocations fails; a write leaves `content`.
///
/// The first byte says what is done, and above that what fails; the second who does it, and above that with
/// what permission; the others where.
fn decode([what, who, from, more]: [u8; STEP], content: u64) -> (Step, Option<usize>) {
    let member = usize::from(who & 7);
    let how = who >> 3;
    let from = usize::from(from) % SEGMENTS;
    // Most often few segments.
    let len = match more {
        0..=0xdf => more & 7,
        _ => more,
    };
    let segments = (from, (from + usize::from(len)).min(SEGMENTS - 1));
    let view = usize::from(how >> 3) & 1;
    let step = match what & 15 {
        0 | 1 => Step::Map(member, segments, choose(&PERMS, how), What::Zeros),
        2 => {
            let what = [What::File(0), What::File(1), What::Live, What::Live];
            let what = what[usize::from(how >> 3) & 3];
            Step::Map(member, segments, choose(&PERMS, how), what)
        }
        3 => Step::Unmap(member, segments),
        4 => Step::Protect(member, segments, choose(&PERMS, how)),
        5 => Step::Discard(member, segments),
        6 => Step::Clone(member),
        7 => {
            let to = (from + usize::from(how & 3)).min(SEGMENTS - 1);
            Step::Remap(
                member,
                (from, to),
                usize::from(more) % SEGMENTS,
                usize::from(how >> 3),
            )
        }
        8 => Step::Reset(member),
        9 => Step::Destroy(member),
        10 | 11 => Step::Access(member, 0, from, choose(&ACCESSES, how), content),
        12 => Step::Access(member, 1 + view, from, choose(&ACCESSES, how), content),
        13 => Step::AddView(member, choose(&PERMS, how)),
        14 => Step::ProtectView(member, 1 + view, segments, choose(&PERMS, how)),
        _ if view == 0 => Step::RemoveView(member, 1 + usize::from(how & 1)),
        _ if how & 1 == 0 => Step::Seal(member, segments),
        _ if more & 8 == 0 => Step::GiveBack(member, u32::from(more & 7)),
        _ => Step::GiveBackCommon(member, u32::from(more & 7), more & 16 != 0),
    };
    let fail = usize::from(what >> 4);
    (step, fail.checked_sub(8))
}

/// Does what the bytes say, compares after each step, and ends it.
pub fn play(bytes: &[u8]) {
    let Some((rules, bytes)) = bytes.split_first() else {
        return;
    };
    let rules = Rules {
        template: rules & 1 != 0,
        members: MEMBERS,
    };
    let failure = Failure::default();
    let mut family = Family::new(&failure).unwrap();
    for (number, bytes) in bytes.chunks_exact(STEP).take(STEPS).enumerate() {
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let step = decode(bytes, number as u64 + 1);
        run(&mut family, &failure, &step, rules);
    }
    family.end();
}
