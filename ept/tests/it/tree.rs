// SPDX-License-Identifier: GPL-2.0

//! The tables by themselves.

use uvisor_ept::{Gpa, InsertError, Leaf, Owner, Perm, Range, Taken, Tree};

use crate::cpu::translate;
use crate::host::TestHost;

/// A leaf with a new frame.
fn leaf(host: &mut TestHost, perm: Perm) -> Leaf {
    Leaf {
        frame: host.new_frame(0),
        perm,
        owner: Owner::Private,
    }
}

/// A leaf with a page of a file.
fn file_leaf(host: &mut TestHost, perm: Perm) -> Leaf {
    Leaf {
        frame: host.file_frame(0, 0),
        perm,
        owner: Owner::File,
    }
}

/// The range of `len` bytes at `start`.
fn range(start: u64, len: u64) -> Range {
    Range::new(start, len, 48).unwrap()
}

/// A tree and its host.
fn tree() -> (TestHost, Tree) {
    let mut host = TestHost::new();
    let tree = Tree::new(&mut host).unwrap();
    (host, tree)
}

#[test]
fn names_its_root() {
    let (mut host, tree) = tree();
    assert_eq!(tree.eptp(), tree.root().0 | 0x1e);
    tree.destroy(&mut host);
    assert_eq!(host.tables(), 0);
}

#[test]
fn maps_each_page_by_itself() {
    let (mut host, mut tree) = tree();
    // The same offset in tables of all levels.
    let addresses = [0, 1 << 12, 1 << 21, 1 << 30, 1 << 39, (1 << 48) - 4096];
    let leaves = addresses.map(|gpa| (Gpa(gpa), leaf(&mut host, Perm::R)));
    for (gpa, leaf) in leaves {
        assert_eq!(tree.get(&host, gpa), None);
        tree.insert(&mut host, Gpa(gpa.0 + 0xabc), leaf).unwrap();
    }
    for (gpa, leaf) in leaves {
        assert_eq!(tree.get(&host, gpa), Some(leaf));
        assert_eq!(tree.get(&host, Gpa(gpa.0 | 0xfff)), Some(leaf));
        assert_eq!(
            translate(&host, tree.eptp(), gpa).unwrap().frame,
            leaf.frame
        );
        let other = Gpa(gpa.0 ^ (1 << 20));
        assert_eq!(
            (tree.get(&host, other), translate(&host, tree.eptp(), other)),
            (None, None)
        );
    }
    assert_eq!(tree.get(&host, Gpa(1 << 48)), None, "addresses do not wrap");
    tree.destroy(&mut host);
    assert_eq!((host.tables(), host.references()), (0, 0));
}

#[test]
fn keeps_what_is_there() {
    let (mut host, mut tree) = tree();
    let old = leaf(&mut host, Perm::empty());
    let new = leaf(&mut host, Perm::R);
    assert_eq!(tree.replace(&host, Gpa(0), new), None);
    tree.insert(&mut host, Gpa(0), old).unwrap();
    assert_eq!(
        tree.insert(&mut host, Gpa(0), new),
        Err(InsertError::Occupied)
    );
    assert_eq!(
        tree.get(&host, Gpa(0)),
        Some(old),
        "also without permission"
    );
    assert_eq!(translate(&host, tree.eptp(), Gpa(0)), None);
    assert_eq!(tree.replace(&host, Gpa(0), new), Some(old));
    host.drop_frame(old.frame);
    tree.destroy(&mut host);
    assert_eq!(host.references(), 0);
}

#[test]
fn says_when_permission_is_taken() {
    let (mut host, mut tree) = tree();
    let (private, file) = (leaf(&mut host, Perm::all()), file_leaf(&mut host, Perm::R));
    tree.insert(&mut host, Gpa(0), private).unwrap();
    tree.insert(&mut host, Gpa(0x1000), file).unwrap();
    let all = range(0, 1 << 48);
    let rw = Perm::R | Perm::W;
    let perms = |tree: &Tree, host: &TestHost| {
        [Gpa(0), Gpa(0x1000)].map(|gpa| tree.get(host, gpa).unwrap().perm)
    };
    assert_eq!(
        tree.protect(&host, range(0x2000, 0x1000), Perm::empty()),
        Taken::Nothing
    );
    assert_eq!(
        tree.protect(&host, range(0x1000, 0x1000), rw),
        Taken::Nothing
    );
    assert_eq!(perms(&tree, &host), [Perm::all(), Perm::R]);
    assert_eq!(tree.protect(&host, all, rw), Taken::Something);
    assert_eq!(perms(&tree, &host), [rw, Perm::R]);
    assert_eq!(tree.protect(&host, all, rw), Taken::Nothing);
    assert_eq!(tree.protect(&host, all, Perm::all()), Taken::Nothing);
    assert_eq!(perms(&tree, &host), [Perm::all(), Perm::R | Perm::X]);
    assert_eq!(tree.protect(&host, all, Perm::empty()), Taken::Something);
    assert_eq!(tree.protect(&host, all, Perm::empty()), Taken::Nothing);
    assert_eq!(perms(&tree, &host), [Perm::empty(); 2]);
    tree.destroy(&mut host);
    assert_eq!(host.references(), 0);
}

#[test]
fn gives_nothing_that_the_cpu_cannot_express() {
    for exec_only in [false, true] {
        let mut host = TestHost::new();
        host.exec_only = exec_only;
        let mut tree = Tree::new(&mut host).unwrap();
        let first = leaf(&mut host, Perm::X);
        tree.insert(&mut host, Gpa(0), first).unwrap();
        for perm in (0..8).map(Perm::from_bits_truncate) {
            let _ = tree.protect(&host, range(0, 0x1000), perm);
            // The walk itself checks for misconfigurations.
            let found = translate(&host, tree.eptp(), Gpa(0)).map(|found| found.perm);
            let expected = perm.is_expressible(exec_only) && !perm.is_empty();
            assert_eq!(found, expected.then_some(perm));
        }
        tree.destroy(&mut host);
    }
}

#[test]
fn detached_pages_are_nobodys() {
    let (mut host, mut tree) = tree();
    let (old, new) = (leaf(&mut host, Perm::R), leaf(&mut host, Perm::R));
    let other = leaf(&mut host, Perm::R);
    tree.insert(&mut host, Gpa(0), old).unwrap();
    tree.insert(&mut host, Gpa(0x1000), other).unwrap();
    let page = range(0, 0x1000);
    assert_eq!(tree.detach(&host, range(0x2000, 0x1000)), Taken::Nothing);
    assert_eq!(tree.detach(&host, page), Taken::Something);
    assert_eq!(
        tree.detach(&host, page),
        Taken::Something,
        "not flushed for this caller yet"
    );
    assert_eq!(tree.get(&host, Gpa(0)), None);
    assert_eq!(tree.replace(&host, Gpa(0), new), None);
    assert_eq!(tree.protect(&host, page, Perm::all()), Taken::Nothing);
    assert_eq!(translate(&host, tree.eptp(), Gpa(0)), None);
    assert_eq!(
        tree.insert(&mut host, Gpa(0), new),
        Err(InsertError::Occupied)
    );
    tree.reap(&mut host, page);
    assert_eq!(tree.insert(&mut host, Gpa(0), new), Ok(()));
    tree.reap(&mut host, page);
    assert_eq!(
        tree.get(&host, Gpa(0)),
        Some(new),
        "only what was detached goes"
    );
    assert_eq!(tree.get(&host, Gpa(0x1000)), Some(other));
    tree.destroy(&mut host);
    assert_eq!((host.tables(), host.references()), (0, 0));
}

#[test]
fn gives_emptied_tables_back() {
    let (mut host, mut tree) = tree();
    let (first, second) = (leaf(&mut host, Perm::R), leaf(&mut host, Perm::R));
    tree.insert(&mut host, Gpa(0), first).unwrap();
    tree.insert(&mut host, Gpa(1 << 30), second).unwrap();
    assert_eq!(host.tables(), 6);
    let page = range(0, 0x1000);
    assert_eq!(tree.detach(&host, page), Taken::Something);
    // The table is on its way out, with all that it could map.
    let new = leaf(&mut host, Perm::R);
    assert_eq!(
        tree.insert(&mut host, Gpa(0x5000), new),
        Err(InsertError::Occupied)
    );
    assert_eq!(host.tables(), 6);
    tree.reap(&mut host, page);
    assert_eq!(host.tables(), 4);
    assert_eq!(tree.insert(&mut host, Gpa(0x5000), new), Ok(()));
    assert_eq!(tree.detach(&host, range(0, 1 << 48)), Taken::Something);
    tree.reap(&mut host, range(0, 1 << 48));
    assert_eq!((host.tables(), host.references()), (1, 0));
    tree.destroy(&mut host);
}

#[test]
fn destroys_what_is_detached_too() {
    let (mut host, mut tree) = tree();
    for page in 0..4 {
        let leaf = leaf(&mut host, Perm::all());
        tree.insert(&mut host, Gpa(page << 20), leaf).unwrap();
    }
    assert_eq!(
        tree.detach(&host, range(1 << 20, 1 << 20)),
        Taken::Something
    );
    assert_eq!(
        tree.detach(&host, range(1 << 21, 1 << 21)),
        Taken::Something
    );
    tree.destroy(&mut host);
    assert_eq!((host.tables(), host.references()), (0, 0));
}
