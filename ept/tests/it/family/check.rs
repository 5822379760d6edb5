// SPDX-License-Identifier: GPL-2.0

//! What must be true of a family after each step.

use uvisor_ept::{Count, Gpa, Owner, Perm, Usage};

use super::{Family, Member};
use crate::cpu::{translate, Cpu};
use crate::model::gpa;

impl Family {
    /// What the members have must be what there is: what is private or a table of one member is nobody
    /// else's, and the rest several have.
    fn check_usage(&self) {
        let usages: Vec<_> = self
            .members
            .iter()
            .map(|m| {
                let mut count = Count::new();
                while count.go_on_in(&self.host, &m.space) {}
                count.usage()
            })
            .collect();
        for (usage, member) in usages.iter().zip(&self.members) {
            let pages = member
                .model
                .segments
                .iter()
                .flatten()
                .filter_map(|m| m.page);
            let (file, own): (Vec<_>, Vec<_>) =
                pages.partition(|page| matches!(page.owner, Owner::File | Owner::Live));
            assert_eq!(usage.file, file.len() as u64);
            assert_eq!(usage.private + usage.shared, own.len() as u64);
        }
        let sum = |of: fn(&Usage) -> u64| usages.iter().map(of).sum::<u64>();
        let (frames, tables) = (self.host.frames() as u64, self.host.tables() as u64);
        let (private, shared) = (sum(|u| u.private), sum(|u| u.shared));
        assert!(private <= frames && frames <= private + shared / 2);
        let (own, common) = (sum(|u| u.tables), sum(|u| u.shared_tables));
        assert!(own <= tables && tables <= own + common / 2);
    }

    /// Compares all with their models.
    pub fn check(&self) {
        if self.watched.is_empty() {
            return;
        }
        self.check_usage();
        for member in &self.members {
            assert_eq!(member.space.regions().as_slice(), member.model.regions());
            for &number in &self.watched {
                self.check_segment(member, number);
                self.check_views(member, number);
            }
            for (eptp, cpu) in &member.caches {
                self.check_cache(*eptp, cpu);
            }
        }
    }

    /// What view 0 of a member has at a segment.
    fn check_segment(&self, member: &Member, number: usize) {
        let Member { space, model, .. } = member;
        let mapped = model.segments[number].as_ref();
        let expected = mapped.and_then(|mapped| Some((model.page(number)?, mapped.page_perm()?)));
        let leaf = space.tree().get(&self.host, gpa(number));
        let found = translate(&self.host, space.tree().eptp(), gpa(number));
        let Some((page, perm)) = expected else {
            assert_eq!((leaf, found), (None, None), "something is at {number}");
            return;
        };
        let leaf = leaf.expect("the leaf is gone");
        let frame = self.host.frame(leaf.frame);
        assert_eq!(frame.content, page.content, "at {number}");
        for owner in [Owner::File, Owner::Live] {
            assert_eq!(leaf.owner == owner, page.owner == owner);
        }
        let found_perm = found.map_or(Perm::empty(), |found| found.perm);
        // Nothing but W may be missing, until the first write.
        assert_eq!(found_perm - Perm::W, perm - Perm::W, "at {number}");
        assert!(perm.contains(found_perm), "at {number}");
        if found_perm.contains(Perm::W) && leaf.owner != Owner::Live {
            assert_eq!(leaf.owner, Owner::Private);
            assert!(!uvisor_ept::Host::is_frame_shared(&self.host, leaf.frame));
        }
    }

    /// What other views of a member have at a segment: no more than view 0, nor than their limits allow.
    fn check_views(&self, member: &Member, number: usize) {
        let Member { space, model, .. } = member;
        let below = translate(&self.host, space.tree().eptp(), gpa(number));
        for (at, limits) in model.views.iter().enumerate() {
            let view = space.view(at + 1);
            assert_eq!(view.is_some(), limits.is_some());
            let (Some(view), Some(limits)) = (view, limits) else {
                continue;
            };
            assert_eq!(view.limit(gpa(number)), limits[number]);
            let found = view
                .eptp()
                .and_then(|eptp| translate(&self.host, eptp, gpa(number)));
            if let Some(found) = found {
                let below = below.expect("a view has what view 0 does not have");
                assert_eq!(found.frame, below.frame, "a view has an old page");
                assert!((below.perm & limits[number]).contains(found.perm));
            }
        }
    }

    /// What a CPU has cached must still be allowed, and must not have been given back.
    fn check_cache(&self, eptp: u64, cpu: &Cpu) {
        for (page, cached) in cpu.cached() {
            let now = translate(&self.host, eptp, Gpa(page << 12));
            let now = now.expect("a CPU has a page cached that is gone");
            assert_eq!(now.frame, cached.frame, "a CPU has the old page cached");
            assert!(
                now.perm.contains(cached.perm),
                "a CPU has more permission cached"
            );
        }
        for table in cpu.cached_tables() {
            assert!(
                self.host.is_table(table),
                "a CPU has a table cached that is gone"
            );
        }
    }
}
