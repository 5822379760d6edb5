// SPDX-License-Identifier: GPL-2.0

//! Spaces that are clones of each other, each with a guest in it and a model beside it that shares
//! nothing: every step is done to both and compared.

use uvisor_ept::{
    Copied, Count, Fault, Gpa, Hpa, Installed, Owner, Perm, Range, Region, RegionError, Retired,
    Space, Taken, Usage,
};

use crate::cpu::{translate, Cpu};
use crate::host::{file_content, Back, Failure, NoMemory, TestHost, TestStore};
use crate::model::{gpa, range, Model, Outcome, Refusal, MAX_REGIONS, SEGMENTS};

/// A space, its guest's CPU and what it should be.
#[derive(Debug)]
pub struct Member {
    space: Space<Back, TestStore<Region<Back>>>,
    cpu: Cpu,
    pub model: Model,
}

/// All of them, and the memory that they have in common.
#[derive(Debug)]
pub struct Family {
    pub host: TestHost,
    pub members: Vec<Member>,
    /// How many resets there were: each keeps another number of tables.
    resets: u32,
}

impl Family {
    /// One space.
    pub fn new(failure: &Failure) -> Result<Self, NoMemory> {
        let mut host = TestHost::new();
        host.failure = failure.clone();
        let space = Space::new(&mut host, TestStore::new(failure), MAX_REGIONS)?;
        let first = Member {
            space,
            cpu: Cpu::default(),
            model: Model::new(),
        };
        Ok(Self {
            host,
            members: vec![first],
            resets: 0,
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

    /// Flushes, and gives back tables that were exchanged.
    fn give_back(&mut self, of: usize, mut retired: Retired) {
        if !retired.is_empty() {
            self.members[of].cpu.flush();
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
            backing: backing.clone(),
        };
        let done = self.members[of].space.map(region);
        self.agree(of, done, |model| model.map(from, to, perm, backing))
    }

    /// Flushes if something was taken from a member, and gives back what was detached.
    fn reap(&mut self, of: usize, range: Range, taken: Taken) {
        let member = &mut self.members[of];
        if taken == Taken::Something {
            member.cpu.flush();
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
            let taken = self.members[of].space.discard(&self.host, range);
            self.reap(of, range, taken);
            done = Ok(());
        }
        self.agree(of, done, |model| {
            model.discard(from, to);
            Ok(())
        })
    }

    /// Changes the permission of segments.
    pub fn protect(
        &mut self,
        of: usize,
        (from, to): (usize, usize),
        perm: Perm,
    ) -> Result<(), Refusal> {
        let range = range(from, to);
        let mut rest = Some(range);
        while let Some(part) = rest {
            let mut retired = Retired::new();
            let space = &mut self.members[of].space;
            let next = space.unshare_next(&mut self.host, part, &mut retired);
            self.give_back(of, retired);
            match next {
                Ok(next) => rest = next,
                Err(error) => {
                    self.check();
                    return Err(RegionError::Store(error));
                }
            }
        }
        let done = self.members[of].space.protect(&self.host, range, perm);
        if done == Ok(Taken::Something) {
            self.members[of].cpu.flush();
        }
        self.agree(of, done, |model| model.protect(from, to, perm).map(drop))
    }

    /// The guest of a member accesses a segment; a write leaves `content`.
    pub fn access(&mut self, of: usize, number: usize, access: Perm, content: u64) -> Outcome {
        let outcome = self.try_access(of, number, access, content);
        if outcome != Outcome::NoMemory {
            let model = &mut self.members[of].model;
            assert_eq!(outcome, model.access(number, access, content));
        }
        self.check();
        outcome
    }

    /// [`Family::access`] in the space only.
    fn try_access(&mut self, of: usize, number: usize, access: Perm, content: u64) -> Outcome {
        // One fault each for a stale translation, the tables, the page, and a copy of it.
        for _ in 0..5 {
            let member = &mut self.members[of];
            let eptp = member.space.tree().eptp();
            if let Some(found) = member.cpu.access(&self.host, eptp, gpa(number), access) {
                if access.contains(Perm::W) {
                    self.host.write(found.frame, content);
                }
                return Outcome::Content(self.host.frame(found.frame).content);
            }
            let served = match member.space.fault(&self.host, gpa(number), access) {
                Fault::Unmapped => return Outcome::Unmapped,
                Fault::Denied => return Outcome::Denied,
                Fault::Done => Ok(()),
                Fault::Reuse => {
                    member.space.reuse(&self.host, gpa(number));
                    Ok(())
                }
                Fault::Unshare => {
                    let mut retired = Retired::new();
                    let done = member
                        .space
                        .unshare(&mut self.host, gpa(number), &mut retired);
                    self.give_back(of, retired);
                    done
                }
                Fault::Anonymous => {
                    let frame = self.host.new_frame(0);
                    self.install(of, number, frame, Owner::Private, None)
                }
                Fault::File { backing, copy } => {
                    let Back::File(file, page) = backing else {
                        panic!("{backing:?} is no file")
                    };
                    let (frame, owner) = if copy {
                        (
                            self.host.new_frame(file_content(file, page)),
                            Owner::Private,
                        )
                    } else {
                        (self.host.file_frame(file, page), Owner::File)
                    };
                    self.install(of, number, frame, owner, Some(&backing))
                }
                Fault::Copy { from } => {
                    let copy = self.host.new_frame(self.host.frame(from.frame).content);
                    match member
                        .space
                        .install_copy(&self.host, gpa(number), from, copy)
                    {
                        Copied::Done { old } => {
                            assert_eq!(old.frame, from.frame);
                            member.cpu.flush();
                            self.host.drop_frame(old.frame);
                        }
                        Copied::Stale => panic!("stale at once"),
                    }
                    Ok(())
                }
            };
            if served.is_err() {
                return Outcome::NoMemory;
            }
        }
        panic!("the guest faults without end");
    }

    /// Puts a page into a member, or drops it.
    fn install(
        &mut self,
        of: usize,
        number: usize,
        frame: Hpa,
        owner: Owner,
        backing: Option<&Back>,
    ) -> Result<(), NoMemory> {
        let space = &mut self.members[of].space;
        let done = space.install(&mut self.host, gpa(number), frame, owner, backing);
        match done {
            Ok(Installed::Done) => Ok(()),
            Ok(other) => panic!("{other:?} at once"),
            Err(error) => {
                self.host.drop_frame(frame);
                Err(error)
            }
        }
    }

    /// Makes a clone of a member, the last one from then on.
    pub fn clone(&mut self, of: usize) -> Result<(), NoMemory> {
        let member = &mut self.members[of];
        let shared = member.space.share(&mut self.host);
        // What is taken counts also when it failed behind that.
        let (space, taken) = match shared {
            Ok(shared) => shared,
            Err(error) => {
                self.check();
                return Err(error);
            }
        };
        if taken == Taken::Something {
            member.cpu.flush();
        }
        let clone = Member {
            space,
            cpu: Cpu::default(),
            model: member.model.clone(),
        };
        self.members.push(clone);
        self.check();
        Ok(())
    }

    /// Resets a member to another, which is a template: nobody changes it.
    pub fn reset(&mut self, of: usize, template: usize) -> Result<u64, NoMemory> {
        let [member, template] = self.members.get_disjoint(of, template);
        member.space.hide(&mut self.host, &mut template.space)?;
        member.cpu.flush();
        let keep = self.resets % 5;
        self.resets += 1;
        let frames = member
            .space
            .restore(&mut self.host, &mut template.space, keep);
        member.model = template.model.clone();
        self.check();
        Ok(frames)
    }

    /// A member goes.
    pub fn destroy(&mut self, which: usize) {
        let Member { space, mut cpu, .. } = self.members.swap_remove(which);
        cpu.flush();
        space.destroy(&mut self.host);
        self.check();
    }

    /// The pages that differ between two members, as the trees say.
    pub fn differences(&self, one: usize, other: usize) -> Vec<Gpa> {
        let mut pages = Vec::new();
        let (one, other) = (&self.members[one].space, &self.members[other].space);
        one.tree()
            .compare(&self.host, other.tree(), Gpa(0), &mut |gpa| {
                pages.push(gpa);
                true
            });
        // Begun anywhere, it gives those from there on.
        for (number, start) in pages.iter().enumerate() {
            let mut rest = pages[number..].iter();
            one.tree()
                .compare(&self.host, other.tree(), *start, &mut |gpa| {
                    assert_eq!(rest.next(), Some(&gpa));
                    true
                });
            assert_eq!(rest.next(), None);
        }
        pages
    }

    /// What the members have must be what there is: what is private or a table of one member is nobody
    /// else's, and the rest several have.
    fn check_usage(&self) {
        let usages: Vec<_> = self
            .members
            .iter()
            .map(|m| {
                let mut count = Count::new();
                while count.go_on(&self.host, m.space.tree()) {}
                count.usage()
            })
            .collect();
        for (usage, member) in usages.iter().zip(&self.members) {
            let pages = member.model.0.iter().flatten().filter_map(|m| m.page);
            let (file, own): (Vec<_>, Vec<_>) = pages.partition(|page| page.owner == Owner::File);
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
        self.check_usage();
        for member in &self.members {
            let Member { space, cpu, model } = member;
            assert_eq!(space.regions().as_slice(), model.regions());
            let eptp = space.tree().eptp();
            for number in 0..SEGMENTS {
                let mapped = model.0[number].as_ref();
                let expected = mapped.and_then(|mapped| Some((mapped.page?, mapped.page_perm()?)));
                let leaf = space.tree().get(&self.host, gpa(number));
                let found = translate(&self.host, eptp, gpa(number));
                let Some((page, perm)) = expected else {
                    assert_eq!((leaf, found), (None, None), "something is at {number}");
                    continue;
                };
                let leaf = leaf.expect("the leaf is gone");
                let frame = self.host.frame(leaf.frame);
                assert_eq!(frame.content, page.content, "at {number}");
                assert_eq!(leaf.owner == Owner::File, page.owner == Owner::File);
                let found_perm = found.map_or(Perm::empty(), |found| found.perm);
                // Nothing but W may be missing, until the first write.
                assert_eq!(found_perm - Perm::W, perm - Perm::W, "at {number}");
                assert!(perm.contains(found_perm), "at {number}");
                if found_perm.contains(Perm::W) {
                    assert_eq!(leaf.owner, Owner::Private);
                    assert!(!uvisor_ept::Host::is_frame_shared(&self.host, leaf.frame));
                }
            }
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

    /// Ends all: the memory must be back.
    pub fn end(mut self) {
        while !self.members.is_empty() {
            self.destroy(self.members.len() / 2);
        }
        assert_eq!((self.host.tables(), self.host.references()), (0, 0));
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
