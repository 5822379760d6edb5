// SPDX-License-Identifier: GPL-2.0

//! Each allocation of a life fails once.

use uvisor_ept::{Gpa, InsertError, Leaf, Owner, Perm, RegionError, Tree};

use crate::host::{Back, Failure, NoMemory, TestHost};
use crate::machine::{Machine, Served};
use crate::model::{Outcome, SEGMENTS};

/// Read and write.
const RW: Perm = Perm::from_bits_truncate(3);

/// Does something until it does not run out of memory; how often it did.
fn retry(mut done: impl FnMut() -> bool) -> usize {
    let failed = (0..).take_while(|_| !done()).count();
    assert!(failed <= 1, "one allocation fails, and only once");
    failed
}

/// A life in which everything allocates; how often it ran out of memory. Each step compares all
/// with the model, also after it failed.
fn live(failure: &Failure) -> Result<usize, NoMemory> {
    let mut machine = Machine::new(failure.clone())?;
    let mut failed = 0;
    let no_memory = Err(RegionError::Store(NoMemory));
    let last = SEGMENTS - 1;
    failed += retry(|| machine.map(0, 20, RW, &Back::Zero) != no_memory);
    failed += retry(|| machine.map(30, last, RW, &Back::File(0, 7)) != no_memory);
    for number in [0, 3, 19, 33, last] {
        for access in [Perm::R, Perm::W] {
            let content = number as u64 + 1;
            failed += retry(|| machine.access(number, access, content) != Outcome::NoMemory);
        }
    }
    machine.begin(31, Perm::R, false);
    match machine.finish().unwrap() {
        Ok(served) => assert_eq!(served, Served::Done),
        Err(NoMemory) => failed += 1,
    }
    failed += retry(|| machine.protect(2, 4, Perm::R) != no_memory);
    failed += retry(|| machine.protect(2, 40, RW) != no_memory);
    failed += retry(|| machine.unmap(33, 34) != no_memory);
    machine.reap();
    failed += retry(|| machine.map(33, 33, Perm::R, &Back::Zero) != no_memory);
    failed += machine.read_all();
    failed += retry(|| machine.unmap(0, last) != no_memory);
    machine.reap();
    assert_eq!(machine.host.tables(), 1, "only the root is left");
    machine.end();
    Ok(failed)
}

#[test]
fn leave_nothing_behind() {
    let mut allocations = 0;
    loop {
        let failure = Failure::default();
        failure.after(Some(allocations));
        let result = live(&failure);
        if failure.is_pending() {
            assert_eq!(result, Ok(0));
            break;
        }
        assert_eq!(
            result,
            if allocations == 0 {
                Err(NoMemory)
            } else {
                Ok(1)
            }
        );
        allocations += 1;
    }
    assert!(
        allocations >= 20,
        "only {allocations} allocations in a life"
    );
}

#[test]
fn unmapping_all_never_allocates() {
    let failure = Failure::default();
    let mut machine = Machine::new(failure.clone()).unwrap();
    for number in 0..5 {
        machine
            .map(number * 10, number * 10 + 4, RW, &Back::File(0, 100))
            .unwrap();
        assert!(matches!(
            machine.access(number * 10 + 1, Perm::W, 1),
            Outcome::Content(1)
        ));
    }
    failure.after(Some(0));
    // From inside one region to inside another, a part at the edge of one, and all.
    machine.unmap(2, 13).unwrap();
    machine.unmap(22, 24).unwrap();
    machine.unmap(0, SEGMENTS - 1).unwrap();
    machine.reap();
    assert!(failure.is_pending());
    machine.end();
}

/// A failing insertion takes neither the frame nor a table, however many it needs.
#[test]
fn insertion_is_all_or_nothing() {
    for n in 0..3 {
        let mut host = TestHost::new();
        let mut tree = Tree::new(&mut host).unwrap();
        let frame = host.new_frame(1);
        let leaf = Leaf {
            frame,
            perm: RW,
            owner: Owner::Private,
        };
        host.failure.after(Some(n));
        assert_eq!(
            tree.insert(&mut host, Gpa(0), leaf),
            Err(InsertError::Host(NoMemory))
        );
        assert_eq!((host.tables(), host.references()), (1, 1));
        assert_eq!(tree.get(&host, Gpa(0)), None);
        assert_eq!(tree.insert(&mut host, Gpa(0), leaf), Ok(()));
        assert_eq!(tree.get(&host, Gpa(0)), Some(leaf));
        tree.destroy(&mut host);
        assert_eq!((host.tables(), host.references()), (0, 0));
    }
}
