// SPDX-License-Identifier: GPL-2.0

//! Spaces that are clones of each other, each with a guest in it and a model beside it that shares
//! nothing: every step is done to both and compared.

use std::collections::BTreeMap;

use uvisor_ept::{
    destroy_views, Gpa, Marks, Move, Owner, Perm, Range, Region, RegionError, Retired, Taken, Tree,
};

use crate::cpu::Cpu;
use crate::host::{Back, Failure, NoMemory, TestHost};
use crate::model::{gpa, range, Model, Refusal, GPA_BITS, MAX_REGIONS, SEGMENTS};
use crate::store::{new_space, TestSlots, TestSpace, TestStore};

// Said, so that it is found from the fuzzer as well.
#[path = "family/access.rs"]
mod access;
#[path = "family/check.rs"]
mod check;

/// All addresses.
pub fn everything() -> Range {
    Range::new(0, 1 << GPA_BITS, GPA_BITS).unwrap()
}

/// A space, its guest's CPU and what it should be.
#[derive(Debug)]
pub struct Member {
    pub space: TestSpace,
    /// What the CPU has cached, by the EPT pointer that it is tagged with.
    pub caches: BTreeMap<u64, Cpu>,
    pub model: Model,
}

impl Member {
    /// INVEPT of all.
    fn flush(&mut self) {
        self.caches.clear();
    }
}

/// All of them, and the memory that they have in common.
#[derive(Debug)]
pub struct Family {
    pub host: TestHost,
    pub members: Vec<Member>,
    /// The segments that are compared after each step; all that is in others is still counted. If there
    /// is none, nothing is compared.
    pub watched: Vec<usize>,
}

impl Family {
    /// One space.
    pub fn new(failure: &Failure) -> Result<Self, NoMemory> {
        let mut host = TestHost::new();
        host.failure = failure.clone();
        let space = new_space(&mut host, failure, MAX_REGIONS)?;
        let first = Member {
            space,
            caches: BTreeMap::new(),
            model: Model::new(),
        };
        Ok(Self {
            host,
            members: vec![first],
            watched: (0..SEGMENTS).collect(),
        })
    }

    /// Makes the tables at the edges of a range a member's own.
    fn unshare_edges(&mut self, of: usize, range: Range) -> Result<(), NoMemory> {
        for at_end in [false, true] {
            let mut retired = Retired::new();
            let space = &mut self.members[of].space;
            let done = space.unshare_edge(&mut self.host, range, at_end, &mut retired);
            self.give_back(of, retired);
            done?;
        }
        Ok(())
    }

    /// Makes all tables of a range a member's own.
    fn unshare_all(&mut self, of: usize, range: Range) -> Result<(), NoMemory> {
        let mut rest = Some(range);
        while let Some(part) = rest {
            let mut retired = Retired::new();
            let space = &mut self.members[of].space;
            let next = space.unshare_next(&mut self.host, part, &mut retired);
            self.give_back(of, retired);
            rest = next?;
        }
        Ok(())
    }

    /// Flushes, and gives back tables that were exchanged.
    fn give_back(&mut self, of: usize, mut retired: Retired) {
        if !retired.is_empty() {
            self.members[of].flush();
        }
        retired.give_back(&mut self.host);
    }

    /// Does to a member's model what was done to the space, unless that ran out of memory.
    fn agree<T>(
        &mut self,
        of: usize,
        done: Result<T, Refusal>,
        model: impl FnOnce(&mut Model) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let done = done.map(drop);
        if done != Err(RegionError::Store(NoMemory)) {
            assert_eq!(done, model(&mut self.members[of].model));
        }
        self.check();
        done
    }

    /// Maps segments.
    pub fn map(
        &mut self,
        of: usize,
        (from, to): (usize, usize),
        perm: Perm,
        backing: &Back,
    ) -> Result<(), Refusal> {
        let region = Region {
            range: range(from, to),
            perm,
            marks: Marks::empty(),
            backing: backing.clone(),
        };
        let done = self.members[of].space.map(region);
        self.agree(of, done, |model| model.map(from, to, perm, backing))
    }

    /// Flushes if something was taken from a member, and gives back what was detached.
    fn reap(&mut self, of: usize, range: Range, taken: Taken) {
        let member = &mut self.members[of];
        if taken == Taken::Something {
            member.flush();
        }
        member.space.reap(&mut self.host, range);
    }

    /// Unmaps segments.
    pub fn unmap(&mut self, of: usize, (from, to): (usize, usize)) -> Result<(), Refusal> {
        let range = range(from, to);
        let mut done = self.unshare_edges(of, range).map_err(RegionError::Store);
        if done.is_ok() {
            done = self.members[of]
                .space
                .unmap(&self.host, range)
                .map(|taken| self.reap(of, range, taken));
        }
        self.agree(of, done, |model| model.unmap(from, to))
    }

    /// Discards the pages of segments.
    pub fn discard(&mut self, of: usize, (from, to): (usize, usize)) -> Result<(), Refusal> {
        let range = range(from, to);
        let mut done = self.unshare_edges(of, range).map_err(RegionError::Store);
        if done.is_ok() {
            done = self.members[of]
                .space
                .discard(&self.host, range)
                .map(|taken| self.reap(of, range, taken));
        }
        self.agree(of, done, |model| model.discard(from, to))
    }

    /// Changes the permission of segments.
    pub fn protect(
        &mut self,
        of: usize,
        (from, to): (usize, usize),
        perm: Perm,
    ) -> Result<(), Refusal> {
        let range = range(from, to);
        if let Err(error) = self.unshare_all(of, range) {
            self.check();
            return Err(RegionError::Store(error));
        }
        let done = self.members[of].space.protect(&self.host, range, perm);
        if done == Ok(Taken::Something) {
            self.members[of].flush();
        }
        self.members[of].space.reap_views(&mut self.host, range);
        self.agree(of, done, |model| model.protect(from, to, perm).map(drop))
    }

    /// Moves segments to the segment `target`, with `more` behind them; nothing if that makes no sense.
    pub fn remap(
        &mut self,
        of: usize,
        (from, to): (usize, usize),
        target: usize,
        more: usize,
    ) -> Result<(), Refusal> {
        let Some(what) = Model::moves(from, to, target, more) else {
            return Ok(());
        };
        let mut done = self.members[of].space.moved(&what).map(drop);
        if done.is_ok() {
            done = self.try_move(of, &what);
        }
        self.agree(of, done, |model| model.remap(from, to, target, more))
    }

    /// [`Family::remap`] in the space only, where nothing but memory and room is missing.
    fn try_move(&mut self, of: usize, what: &Move) -> Result<(), Refusal> {
        self.unshare_edges(of, what.to())
            .map_err(RegionError::Store)?;
        self.unshare_all(of, what.from())
            .map_err(RegionError::Store)?;
        let mut prepared = Ok(());
        let mut rest = Some(what.from());
        while let (Some(part), Ok(())) = (rest, prepared) {
            let mut retired = Retired::new();
            let space = &mut self.members[of].space;
            let next = space.prepare_move(&mut self.host, what, part, &mut retired);
            self.give_back(of, retired);
            match next {
                Ok(next) => rest = next,
                Err(error) => prepared = Err(RegionError::Store(error)),
            }
        }
        let Member { space, .. } = &mut self.members[of];
        match prepared.and_then(|()| space.begin_move(&self.host, what)) {
            Ok(taken) => {
                if taken == Taken::Something {
                    self.members[of].flush();
                }
                let Member { space, .. } = &mut self.members[of];
                let mut rest = Some(what.from());
                while let Some(part) = rest {
                    rest = space.move_pages(&self.host, what, part);
                }
                space.reap(&mut self.host, what.from());
                Ok(())
            }
            Err(error) => {
                let taken = space.abandon_move(&self.host, what);
                self.reap(of, what.to(), taken);
                Err(error)
            }
        }
    }

    /// The kernel takes up to `most` pages of files back from a member.
    pub fn give_back_files(&mut self, of: usize, most: u32) {
        let member = &mut self.members[of];
        let files = member.space.detach_files(&self.host, 0, most, None);
        assert!(files.count <= most);
        member.flush();
        if let Some(range) = files.range {
            member.space.reap(&mut self.host, range);
        }
        let mut gone = 0;
        for (number, mapped) in member.model.segments.iter_mut().enumerate() {
            let Some(mapped) = mapped else { continue };
            let leaf = member.space.tree().get(&self.host, gpa(number));
            if mapped.page.is_some() && leaf.is_none() {
                assert_eq!(mapped.page.map(|page| page.owner), Some(Owner::File));
                mapped.page = None;
                gone += 1;
            }
        }
        assert_eq!(gone, files.count);
        self.check();
    }

    /// The kernel takes up to `most` pages of files back that a member has, from all that have them in
    /// common; but not in tables that `but` has as well.
    pub fn give_back_common_files(&mut self, of: usize, most: u32, but: Option<usize>) {
        let before = self.host.references();
        let (host, members) = (&mut self.host, &mut self.members);
        let (member, other) = with_other(members, of, but);
        let files = member.space.detach_common_files(host, 0, most, other);
        assert!(files.count <= most);
        assert_eq!(files.range.is_some(), files.count > 0);
        if let Some(range) = files.range {
            for member in &mut *members {
                member.space.forget(host, range);
                member.flush();
                member.space.reap_views(host, range);
            }
            assert_eq!(host.references(), before, "a frame went too early");
            let (member, other) = with_other(members, of, but);
            member.space.reap_common_files(host, range, other);
        }
        assert_eq!(before - host.references(), files.count as usize);
        let mut gone = 0;
        for member in members {
            for (number, mapped) in member.model.segments.iter_mut().enumerate() {
                let Some(mapped) = mapped else { continue };
                let leaf = member.space.tree().get(host, gpa(number));
                if mapped.page.is_some() && leaf.is_none() {
                    assert_eq!(mapped.page.map(|page| page.owner), Some(Owner::File));
                    mapped.page = None;
                    gone += 1;
                }
            }
        }
        assert!(gone >= files.count, "each was somebody's");
        let pages = self.members[of].model.segments.iter().flatten();
        let mut left = pages.filter(|m| m.page.is_some_and(|page| page.owner == Owner::File));
        if but.is_none() && files.count < most {
            assert!(left.next().is_none(), "a page of a file stayed");
        }
        self.check();
    }

    /// Seals segments.
    pub fn seal(&mut self, of: usize, (from, to): (usize, usize)) -> Result<(), Refusal> {
        let done = self.members[of].space.seal(range(from, to));
        self.agree(of, done, |model| model.seal(from, to))
    }

    /// From now on, a member has nothing that is writable and executable.
    pub fn forbid_writable_executable(&mut self, of: usize) {
        self.members[of].space.forbid_writable_executable();
        self.members[of].model.w_xor_x = true;
    }

    /// Adds a view to a member, that allows `perm` everywhere.
    pub fn add_view(&mut self, of: usize, perm: Perm) -> Result<usize, NoMemory> {
        let limit = Region {
            range: everything(),
            perm,
            marks: Marks::empty(),
            backing: Back::Zero,
        };
        let store = TestStore::new(&self.host.failure);
        let member = &mut self.members[of];
        let added = member.space.add_view(store, MAX_REGIONS, limit, true);
        let added = match added {
            Err(RegionError::Store(error)) => Err(error),
            added => {
                let number = member.model.add_view(perm);
                assert_eq!(added, Ok(number));
                Ok(number)
            }
        };
        self.check();
        added
    }

    /// Takes a view of a member away.
    pub fn remove_view(&mut self, of: usize, number: usize) {
        let member = &mut self.members[of];
        let view = member.space.remove_view(number);
        member.model.remove_view(number);
        member.flush();
        if let Some(view) = view {
            view.destroy(&mut self.host);
        }
        self.check();
    }

    /// Lets a view of a member allow at most `perm` in segments.
    pub fn protect_view(
        &mut self,
        of: usize,
        number: usize,
        (from, to): (usize, usize),
        perm: Perm,
    ) -> Result<(), Refusal> {
        let range = range(from, to);
        let member = &mut self.members[of];
        let done = member.space.protect_view(&self.host, number, range, perm);
        if done == Ok(Taken::Something) {
            member.flush();
            member.space.reap_view(&mut self.host, number, range);
        }
        self.agree(of, done, |model| model.protect_view(number, from, to, perm))
    }

    /// Makes a clone of a member, the last one from then on.
    pub fn clone(&mut self, of: usize) -> Result<(), NoMemory> {
        let member = &mut self.members[of];
        let views = TestSlots::new(&self.host.failure);
        let shared = member.space.share(&mut self.host, views, everything());
        // What is taken counts also when it failed behind that.
        let (space, taken) = match shared {
            Ok(shared) => shared,
            Err(error) => {
                self.check();
                return Err(error);
            }
        };
        if taken == Taken::Something {
            member.flush();
        }
        member.space.reap_views(&mut self.host, everything());
        let clone = Member {
            space,
            caches: BTreeMap::new(),
            model: member.model.clone(),
        };
        self.members.push(clone);
        self.check();
        Ok(())
    }

    /// Resets a member to another, which is a template: nobody changes it.
    pub fn reset(&mut self, of: usize, template: usize) -> Result<u64, NoMemory> {
        // Another number of tables is kept in each state, and always the same one.
        let keep = (2 * self.members.len() + of) as u32 % 5;
        let [member, template] = self.members.get_disjoint(of, template);
        let mut views = TestSlots::new(&self.host.failure);
        member.space.hide(
            &mut self.host,
            &mut template.space,
            &mut views,
            everything(),
        )?;
        member.flush();
        destroy_views(&mut self.host, &mut views);
        member.space.reap_views(&mut self.host, everything());
        let frames = member
            .space
            .restore(&mut self.host, &mut template.space, keep);
        member.model = template.model.clone();
        self.check();
        Ok(frames)
    }

    /// A member goes.
    pub fn destroy(&mut self, which: usize) {
        let Member { space, .. } = self.members.swap_remove(which);
        space.destroy(&mut self.host);
        self.check();
    }

    /// The pages that differ between two members, as the trees say.
    pub fn differences(&self, one: usize, other: usize) -> Vec<Gpa> {
        let mut pages = Vec::new();
        let (one, other) = (&self.members[one].space, &self.members[other].space);
        one.compare(&self.host, other, Gpa(0), &mut |gpa| {
            pages.push(gpa);
            true
        });
        // Begun anywhere, it gives those from there on.
        for (number, start) in pages.iter().enumerate() {
            let mut rest = pages[number..].iter();
            one.compare(&self.host, other, *start, &mut |gpa| {
                assert_eq!(rest.next(), Some(&gpa));
                true
            });
            assert_eq!(rest.next(), None);
        }
        pages
    }

    /// Ends all: the memory must be back.
    pub fn end(mut self) {
        while !self.members.is_empty() {
            self.destroy(self.members.len() / 2);
        }
        assert_eq!((self.host.tables(), self.host.references()), (0, 0));
    }
}

/// A member, and the tables of another one.
fn with_other(
    members: &mut Vec<Member>,
    of: usize,
    other: Option<usize>,
) -> (&mut Member, Option<&Tree>) {
    match other {
        Some(other) => {
            let [member, other] = members.get_disjoint(of, other);
            (member, Some(other.space.tree()))
        }
        None => (&mut members[of], None),
    }
}

/// Two elements at once.
trait Disjoint<T> {
    /// The elements `one` and `other`, which must not be the same.
    fn get_disjoint(&mut self, one: usize, other: usize) -> [&mut T; 2];
}

impl<T> Disjoint<T> for Vec<T> {
    fn get_disjoint(&mut self, one: usize, other: usize) -> [&mut T; 2] {
        assert_ne!(one, other);
        let (low, high) = self.split_at_mut(one.max(other));
        let (a, b) = (&mut low[one.min(other)], &mut high[0]);
        if one < other {
            [a, b]
        } else {
            [b, a]
        }
    }
}
