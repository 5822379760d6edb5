// SPDX-License-Identifier: GPL-2.0

//! Any number that a guest or a user can give: nothing panics.

use proptest::prelude::*;
use uvisor_ept::{
    Copied, Fault, Gpa, Hpa, InsertError, Installed, Leaf, Marks, Owner, Perm, Range, Region,
    RegionError, Tree,
};

use crate::host::{Back, Failure, TestHost};
use crate::store::new_space;

/// Numbers near a power of two, and any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0..64_u32, any::<u8>(), any::<bool>()).prop_map(|(bit, near, below)| {
            let near = u64::from(near) << 12;
            let base = 1_u64 << bit;
            if below {
                base.wrapping_sub(near)
            } else {
                base.wrapping_add(near)
            }
        }),
    ]
}

/// Any permission bits.
fn perm() -> impl Strategy<Value = Perm> {
    any::<u64>().prop_map(Perm::from_bits_truncate)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 500 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn ranges_are_what_they_must_be(start in number(), len in number(), bits in any::<u32>()) {
        if let Some(range) = Range::new(start, len, bits) {
            prop_assert_eq!((range.start().0, range.len()), (start, len));
            prop_assert_eq!(range.end().0, start + len);
            prop_assert!(range.end().0 <= 1 << bits.min(48));
            prop_assert!(len > 0 && start % 4096 == 0 && len % 4096 == 0);
        }
        if let Some(range) = Range::new(start & !0xfff, len & !0xfff, bits) {
            prop_assert!(range.contains(range.start()) && !range.contains(range.end()));
            let pages = range.pages();
            prop_assert!(pages.take(3).all(|page| range.contains(page)));
        }
    }

    #[test]
    fn any_address_and_access_is_served(
        whole in any::<bool>(),
        steps in prop::collection::vec((number(), number(), perm(), perm()), 1..40),
    ) {
        let mut host = TestHost::new();
        host.exec_only = false;
        let failure = Failure::default();
        let mut space = new_space(&mut host, &failure, 8).unwrap();
        if whole {
            let range = Range::new(0, 1 << 48, 48).unwrap();
            let region = Region { range, perm: Perm::all(), marks: Marks::empty(), backing: Back::File(0, 0) };
            prop_assert_eq!(space.map(region), Ok(()));
        }
        for (at, len, perm, access) in steps {
            let gpa = Gpa(at);
            if let Some(range) = Range::new(at & !0xfff, len & !0xfff, 48) {
                let region = Region { range, perm, marks: Marks::empty(), backing: Back::Zero };
                let mapped = space.map(region);
                let refused = !perm.is_expressible(false);
                prop_assert_eq!(mapped == Err(RegionError::Perm), refused);
                let protected = space.protect(&host, range, access);
                prop_assert_eq!(
                    protected == Err(RegionError::Perm),
                    !access.is_expressible(false)
                );
                if perm.contains(Perm::W) && space.unmap(&host, range).is_ok() {
                    space.reap(&mut host, range);
                }
                prop_assert!(space.regions().len() <= 8);
                prop_assert!(space.regions().iter(range).all(|r| r.range.intersect(&range).is_some()));
            }
            let fault = space.fault(&host, gpa, access);
            let frame = host.new_frame(0);
            let installed = space.install(&mut host, gpa, frame, Owner::Private, None).unwrap();
            prop_assert!(installed != Installed::Done || fault != Fault::Unmapped);
            if installed != Installed::Done {
                host.drop_frame(frame);
            }
            let from = Leaf { frame: Hpa(len), perm, owner: Owner::File };
            prop_assert_eq!(space.install_copy(&host, gpa, from, Hpa(0)), Copied::Stale);
            if at >> 48 != 0 {
                prop_assert_eq!(fault, Fault::Unmapped);
                prop_assert_eq!(space.tree().get(&host, gpa), None);
            }
        }
        space.destroy(&mut host);
        prop_assert_eq!((host.tables(), host.references()), (0, 0));
    }

    #[test]
    fn a_tree_alone_takes_any_leaf(
        exec_only in any::<bool>(),
        leaves in prop::collection::vec((number(), perm(), any::<bool>()), 1..20),
    ) {
        let mut host = TestHost::new();
        host.exec_only = exec_only;
        let mut tree = Tree::new(&mut host).unwrap();
        for (at, perm, is_replacement) in leaves {
            let gpa = Gpa(at);
            let frame = host.new_frame(0);
            let leaf = Leaf { frame, perm, owner: Owner::Private };
            let shown = if perm.is_expressible(exec_only) { perm } else { Perm::empty() };
            let gone = if is_replacement {
                match tree.replace(&host, gpa, leaf) {
                    Some(old) => old.frame,
                    None => frame,
                }
            } else {
                match tree.insert(&mut host, gpa, leaf) {
                    Ok(()) => {
                        prop_assert_eq!(tree.get(&host, gpa), Some(Leaf { perm: shown, ..leaf }));
                        continue;
                    }
                    Err(InsertError::Range) => prop_assert!(at >> 48 != 0),
                    Err(InsertError::Occupied) => prop_assert!(tree.get(&host, gpa).is_some()),
                    Err(InsertError::Shared) => unreachable!("there is no clone"),
                    Err(InsertError::Host(_)) => unreachable!("no allocation fails"),
                }
                frame
            };
            host.drop_frame(gone);
        }
        tree.destroy(&mut host);
        prop_assert_eq!((host.tables(), host.references()), (0, 0));
    }
}
