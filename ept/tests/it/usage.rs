// SPDX-License-Identifier: GPL-2.0

//! What a tree has is counted once, however many pieces it takes.

use std::collections::BTreeSet;

use uvisor_ept::{Count, Gpa, Host, Leaf, Owner, Perm, Retired, Tree, Usage};

use crate::host::TestHost;

/// Counts a tree; also how many pieces that took.
fn count(host: &TestHost, tree: &Tree) -> (Usage, u64) {
    let mut count = Count::new();
    let mut pieces = 1;
    while count.go_on(host, tree) {
        pieces += 1;
    }
    (count.usage(), pieces)
}

/// Adds a leaf.
fn add(host: &mut TestHost, tree: &mut Tree, page: u64, owner: Owner) {
    let frame = match owner {
        Owner::File => host.file_frame(0, page),
        _ => host.new_frame(page),
    };
    let perm = Perm::R;
    tree.insert(host, Gpa(page << 12), Leaf { frame, perm, owner })
        .expect("a leaf");
}

/// How many tables these pages need, the root among them.
fn tables(pages: &BTreeSet<u64>) -> u64 {
    let level = |bits: u32| {
        pages
            .iter()
            .map(|page| page >> bits)
            .collect::<BTreeSet<_>>()
    };
    1 + (level(9).len() + level(18).len() + level(27).len()) as u64
}

#[test]
fn counts_what_is_there() {
    let mut host = TestHost::new();
    let mut tree = Tree::new(&mut host).unwrap();
    let root = Usage {
        tables: 1,
        ..Usage::default()
    };
    assert_eq!(count(&host, &tree), (root, 1));
    let (mut pages, mut files) = (BTreeSet::new(), 0);
    // Tables side by side, and some far apart; at the ends of what four levels map as well.
    let near = (0..100).map(|n| n * 300);
    let far = (0..70).map(|n| (n * n * 77_777_777) % (1 << 36));
    for (number, page) in near.chain(far).chain([0, 511, (1 << 36) - 1]).enumerate() {
        if !pages.insert(page) {
            continue;
        }
        let owner = match number % 3 {
            0 => Owner::File,
            _ => Owner::Private,
        };
        files += u64::from(owner == Owner::File);
        add(&mut host, &mut tree, page, owner);
        let all = tables(&pages);
        let (usage, pieces) = count(&host, &tree);
        let wanted = Usage {
            private: pages.len() as u64 - files,
            file: files,
            tables: all,
            ..Usage::default()
        };
        assert_eq!(usage, wanted, "{number}");
        assert_eq!(all, host.tables() as u64, "{number}");
        // No piece has many.
        assert!(pieces >= all / 48, "{pieces} pieces");
    }
    tree.destroy(&mut host);
}

#[test]
fn knows_what_others_have_as_well() {
    let mut host = TestHost::new();
    let mut tree = Tree::new(&mut host).unwrap();
    let pages: BTreeSet<u64> = (0..40).map(|n| n << 9).collect();
    for &page in &pages {
        add(&mut host, &mut tree, page, Owner::Private);
    }
    add(&mut host, &mut tree, 7, Owner::File);
    let (mut clone, _) = tree.share(&mut host).unwrap();
    for tree in [&tree, &clone] {
        let wanted = Usage {
            shared: 40,
            file: 1,
            tables: 1,
            shared_tables: 42,
            ..Usage::default()
        };
        assert_eq!(count(&host, tree).0, wanted);
    }
    // A table at each level becomes the clone's; its frames do not.
    let mut retired = Retired::new();
    clone.unshare(&mut host, Gpa(0), &mut retired).unwrap();
    retired.give_back(&mut host);
    let wanted = Usage {
        shared: 40,
        file: 1,
        tables: 4,
        shared_tables: 39,
        ..Usage::default()
    };
    assert_eq!(count(&host, &clone).0, wanted);
    // Now one of them.
    let frame = host.new_frame(1);
    let leaf = Leaf {
        frame,
        perm: Perm::R,
        owner: Owner::Private,
    };
    let old = clone.replace(&host, Gpa(0), leaf).expect("a leaf");
    host.put_frame(old.frame, old.owner);
    let usage = count(&host, &clone).0;
    assert_eq!((usage.private, usage.shared), (1, 39));
    clone.destroy(&mut host);
    // All is the first one's again, which finds out.
    let usage = count(&host, &tree).0;
    assert_eq!((usage.private, usage.tables), (40, 43));
    tree.destroy(&mut host);
    assert_eq!((host.tables(), host.frames()), (0, 0));
}

#[test]
fn takes_out_pages_of_files_only() {
    let mut host = TestHost::new();
    let mut tree = Tree::new(&mut host).unwrap();
    // Two of a file, one private, and again, in 50 tables far apart.
    let pages: BTreeSet<u64> = (0..50).map(|n| n * 70_000).collect();
    for &page in &pages {
        for (at, owner) in [(0, Owner::File), (1, Owner::Private), (511, Owner::File)] {
            add(&mut host, &mut tree, page + at, owner);
        }
    }
    let before = count(&host, &tree).0;
    assert_eq!((before.file, before.private), (100, 50));
    let (mut next, mut rounds, mut gone) = (0, 0, 0);
    loop {
        let files = tree.detach_files(&host, next, 7, None);
        assert!(files.count <= 7);
        // What is detached is not there, and its frame is.
        assert_eq!(files.range.is_some(), files.count > 0);
        if let Some(range) = files.range {
            let own = range.pages().filter(|&gpa| tree.get(&host, gpa).is_some());
            for gpa in own {
                assert_eq!(tree.get(&host, gpa).unwrap().owner, Owner::Private);
            }
            let references = host.references();
            tree.reap(&mut host, range);
            assert_eq!(references - host.references(), files.count as usize);
        }
        gone += u64::from(files.count);
        rounds += 1;
        assert_eq!(count(&host, &tree).0.file, 100 - gone);
        if files.next == 0 {
            break;
        }
        next = files.next;
    }
    assert_eq!((gone, rounds), (100, 15));
    let after = count(&host, &tree).0;
    assert_eq!((after.file, after.private), (0, 50));
    assert_eq!(after.tables, before.tables);
    // They can come back; and those in tables that a clone has are found and left alone.
    add(&mut host, &mut tree, 70_000, Owner::File);
    let (mut clone, _) = tree.share(&mut host).unwrap();
    for (tree, but, common) in [
        (&mut tree, None, Some(70_000)),
        (&mut clone, None, Some(70_000)),
    ] {
        let files = tree.detach_files(&host, 0, 100, but);
        assert_eq!((files.count, files.range, files.common), (0, None, common));
    }
    // Whoever has the other one passes them over.
    let files = clone.detach_files(&host, 0, 100, Some(&tree));
    assert_eq!((files.common, files.tables), (None, 0));
    let files = clone.detach_common_files(&host, 0, 100, Some(&tree));
    assert_eq!((files.count, files.tables), (0, 0));
    // For both of them at once.
    let (references, files) = (
        host.references(),
        tree.detach_common_files(&host, 0, 100, None),
    );
    let range = files.range.expect("a page");
    assert_eq!((files.count, files.tables), (1, 32));
    assert_eq!(range.pages().collect::<Vec<_>>(), [Gpa(70_000 << 12)]);
    assert_eq!(clone.get(&host, range.start()), None);
    assert_eq!(host.references(), references);
    tree.reap_common_files(&mut host, range, None);
    assert_eq!(host.references(), references - 1);
    assert_eq!(count(&host, &clone).0.file, 0);
    clone.destroy(&mut host);
    tree.destroy(&mut host);
    assert_eq!((host.tables(), host.frames()), (0, 0));
}
