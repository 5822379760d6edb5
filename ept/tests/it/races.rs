// SPDX-License-Identifier: GPL-2.0

//! What may happen between a fault and the page that was made for it, case by case.

use uvisor_ept::{Marks, Perm, Range, Taken};

use crate::cpu::Cpu;
use crate::host::{Back, Failure, TestHost};
use crate::machine::{Machine, Served};
use crate::model::Outcome;
use crate::store::new_space;

/// Read and write.
const RW: Perm = Perm::from_bits_truncate(3);
/// A file.
const FILE: Back = Back::File(0, 5);

/// One with a region of four segments.
fn machine(perm: Perm, backing: &Back) -> Machine {
    let mut machine = Machine::new(Failure::default()).unwrap();
    machine.map(1, 4, perm, backing).unwrap();
    machine
}

#[test]
fn the_slower_vcpu_gives_up() {
    for backing in [Back::Zero, FILE] {
        for (first, second) in [(Perm::R, Perm::W), (Perm::W, Perm::R), (Perm::W, Perm::W)] {
            let mut machine = machine(RW, &backing);
            machine.begin(2, first, false);
            machine.begin(2, second, false);
            assert_eq!(machine.finish(), Some(Ok(Served::Done)));
            assert_eq!(machine.finish(), Some(Ok(Served::Occupied)));
            assert_eq!(machine.access(2, Perm::W, 9), Outcome::Content(9));
            machine.end();
        }
    }
}

#[test]
fn two_copies_of_one_page_become_one() {
    let mut machine = machine(RW, &FILE);
    let _ = machine.access(2, Perm::R, 0);
    machine.begin(2, Perm::W, false);
    machine.begin(2, Perm::W, true);
    assert_eq!(machine.finish(), Some(Ok(Served::Done)));
    assert_eq!(machine.access(2, Perm::W, 9), Outcome::Content(9));
    assert_eq!(machine.finish(), Some(Ok(Served::Stale)));
    assert_eq!(machine.access(2, Perm::R, 0), Outcome::Content(9));
    machine.end();
}

#[test]
fn a_page_for_what_was_unmapped_is_stale() {
    for backing in [Back::Zero, FILE] {
        let mut machine = machine(RW, &backing);
        machine.begin(2, Perm::W, false);
        machine.unmap(2, 2).unwrap();
        assert_eq!(machine.finish(), Some(Ok(Served::Stale)));
        machine.end();
    }
}

#[test]
fn a_page_for_another_backing_is_stale() {
    let others = [Back::Zero, FILE, Back::File(0, 6), Back::File(1, 5)];
    for before in &others {
        for after in others.iter().filter(|after| *after != before) {
            for access in [Perm::R, Perm::W] {
                let mut machine = machine(RW, before);
                machine.begin(2, access, false);
                machine.unmap(1, 4).unwrap();
                machine.reap();
                machine.map(1, 4, RW, after).unwrap();
                assert_eq!(machine.finish(), Some(Ok(Served::Stale)));
                machine.end();
            }
        }
    }
}

#[test]
fn the_same_backing_by_another_region_will_do() {
    let mut machine = machine(RW, &FILE);
    machine.begin(2, Perm::W, false);
    machine.unmap(1, 4).unwrap();
    machine.map(2, 2, Perm::R, &Back::File(0, 6)).unwrap();
    assert_eq!(machine.finish(), Some(Ok(Served::Done)));
    assert_eq!(machine.access(2, Perm::W, 9), Outcome::Denied);
    machine.end();
}

#[test]
fn the_permission_is_that_of_the_end() {
    for perm in [Perm::empty(), Perm::R, Perm::R | Perm::X, Perm::X] {
        // The last one makes a copy of a page that is mapped.
        for (backing, is_mapped) in [(Back::Zero, false), (FILE, false), (FILE, true)] {
            let mut machine = machine(RW, &backing);
            if is_mapped {
                let _ = machine.access(2, Perm::R, 0);
            }
            machine.begin(2, Perm::W, false);
            machine.protect(1, 3, perm).unwrap();
            assert_eq!(machine.finish(), Some(Ok(Served::Done)));
            assert_eq!(machine.access(2, Perm::W, 9), Outcome::Denied);
            machine.protect(1, 3, RW).unwrap();
            assert_eq!(machine.access(2, Perm::W, 9), Outcome::Content(9));
            machine.end();
        }
    }
}

#[test]
fn a_copy_of_what_was_replaced_is_stale() {
    let mut machine = machine(RW, &FILE);
    let _ = machine.access(2, Perm::R, 0);
    machine.begin(2, Perm::W, false);
    machine.unmap(1, 4).unwrap();
    machine.reap();
    machine.map(1, 4, RW, &Back::File(1, 5)).unwrap();
    let _ = machine.access(2, Perm::R, 0);
    assert_eq!(machine.finish(), Some(Ok(Served::Stale)));
    machine.end();
}

#[test]
fn a_new_page_waits_for_the_old_one_to_be_reaped() {
    let mut machine = machine(RW, &Back::Zero);
    assert_eq!(machine.access(2, Perm::W, 9), Outcome::Content(9));
    machine.unmap(1, 4).unwrap();
    machine.map(1, 4, RW, &Back::Zero).unwrap();
    assert_eq!(machine.access(2, Perm::R, 0), Outcome::Busy);
    machine.reap();
    assert_eq!(machine.access(2, Perm::R, 0), Outcome::Content(0));
    machine.end();
}

#[test]
fn the_module_may_touch_what_the_guest_may_not() {
    let mut machine = machine(Perm::empty(), &FILE);
    machine.begin(1, Perm::W, true);
    machine.begin(2, Perm::R, true);
    assert_eq!(machine.finish(), Some(Ok(Served::Done)));
    assert_eq!(machine.finish(), Some(Ok(Served::Done)));
    machine.begin(2, Perm::W, true);
    assert_eq!(machine.finish(), Some(Ok(Served::Done)));
    assert_eq!(machine.access(2, Perm::R, 0), Outcome::Denied);
    machine.end();
}

/// Between the two passes a CPU that was not flushed still uses the old pages and tables, which is
/// why they must still be there.
#[test]
fn detached_memory_stays_until_it_is_reaped() {
    let mut host = TestHost::new();
    let failure = Failure::default();
    let mut space = new_space(&mut host, &failure, 8).unwrap();
    let range = Range::new(0x20_0000, 0x20_0000, 48).unwrap();
    let backing = Back::Zero;
    space
        .map(uvisor_ept::Region {
            range,
            perm: RW,
            marks: Marks::empty(),
            backing,
        })
        .unwrap();
    let eptp = space.tree().eptp();
    let mut cpu = Cpu::default();
    for (gpa, content) in range.pages().zip(1..4) {
        let frame = host.new_frame(content);
        let owner = uvisor_ept::Owner::Private;
        let installed = space.install(&mut host, gpa, frame, owner, None);
        assert_eq!(installed, Ok(uvisor_ept::Installed::Done));
    }
    let mut pages = range.pages();
    let (first, second) = (pages.next().unwrap(), pages.next().unwrap());
    assert!(cpu.access(&host, eptp, first, Perm::W).is_some());

    assert_eq!(space.unmap(&host, range), Ok(Taken::Something));
    // From the cached translation, and from the cached table to a page that was never touched.
    for (gpa, content) in [(first, 1), (second, 2)] {
        let found = cpu
            .access(&host, eptp, gpa, Perm::W)
            .expect("the CPU was not flushed");
        assert_eq!(host.frame(found.frame).content, content);
    }
    assert_eq!(host.references(), 3);
    cpu.flush();
    assert!(range
        .pages()
        .all(|gpa| cpu.access(&host, eptp, gpa, Perm::empty()).is_none()));
    space.reap(&mut host, range);
    assert_eq!((host.references(), host.tables()), (0, 1));
    space.destroy(&mut host);
}
