// SPDX-License-Identifier: GPL-2.0

//! A space with a guest in it, and the model beside it: every step is done to both and compared.

use uvisor_ept::{
    Copied, Fault, Gpa, Hpa, Installed, Leaf, Marks, Owner, Perm, Range, Region, RegionError, Taken,
};

use crate::cpu::{translate, Cpu};
use crate::host::{Back, Failure, NoMemory, TestHost};
use crate::model::{gpa, range, Model, Outcome, Refusal, MAX_REGIONS, SEGMENTS};
use crate::store::{new_space, TestSpace};

/// A fault that the module is busy with, and has let go of its lock for.
#[derive(Debug)]
pub struct Service {
    /// The segment.
    number: usize,
    /// The page that was made for it, with a reference.
    frame: Hpa,
    /// What to do with it.
    kind: Kind,
}

/// What the page of a [`Service`] is for.
#[derive(Debug)]
enum Kind {
    /// It is to be installed.
    Install(Owner, Option<Back>),
    /// It replaces this leaf, on whose frame there is another reference.
    Copy(Leaf),
}

/// What came of a [`Service`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Served {
    /// The page is in.
    Done,
    /// Another was there.
    Occupied,
    /// It was not wanted any more.
    Stale,
}

/// All of it.
#[derive(Debug)]
pub struct Machine {
    /// Memory.
    pub host: TestHost,
    /// The guest's CPU.
    pub cpu: Cpu,
    /// What is tested.
    pub space: TestSpace,
    /// What it should be.
    pub model: Model,
    /// What was unmapped and not yet reaped, and how many pages it had.
    detached: Option<(Range, usize)>,
    /// Faults that are being served.
    services: Vec<Service>,
}

impl Machine {
    /// A new one; fails if `failure` lets it.
    pub fn new(failure: Failure) -> Result<Self, NoMemory> {
        let mut host = TestHost::new();
        host.failure = failure.clone();
        let space = match new_space(&mut host, &failure, MAX_REGIONS) {
            Ok(space) => space,
            Err(error) => {
                assert_eq!(host.tables(), 0);
                return Err(error);
            }
        };
        let (cpu, model) = (Cpu::default(), Model::new());
        Ok(Self {
            host,
            cpu,
            space,
            model,
            detached: None,
            services: Vec::new(),
        })
    }

    /// Does to the model what was done to the space, unless that ran out of memory.
    fn agree(
        &mut self,
        done: Result<(), Refusal>,
        model: impl FnOnce(&mut Model) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if done != Err(RegionError::Store(NoMemory)) {
            assert_eq!(done, model(&mut self.model));
        }
        self.check();
        done
    }

    /// Maps segments.
    pub fn map(
        &mut self,
        from: usize,
        to: usize,
        perm: Perm,
        backing: &Back,
    ) -> Result<(), Refusal> {
        let region = Region {
            range: range(from, to),
            perm,
            marks: Marks::empty(),
            backing: backing.clone(),
        };
        let done = self.space.map(region);
        self.agree(done, |model| model.map(from, to, perm, backing))
    }

    /// Unmaps segments; they are given back by [`Machine::reap`].
    pub fn unmap(&mut self, from: usize, to: usize) -> Result<(), Refusal> {
        self.reap();
        let range = range(from, to);
        let pages = self
            .model
            .pages()
            .filter(|page| range.contains(Gpa(page << 12)))
            .count();
        let done = self.space.unmap(&self.host, range);
        if let Ok(taken) = done {
            assert_eq!(taken == Taken::Something, pages > 0);
            if taken == Taken::Something {
                self.cpu.flush();
            }
            self.detached = Some((range, pages));
            for number in from..=to {
                let found = self.cpu.access(
                    &self.host,
                    self.space.tree().eptp(),
                    gpa(number),
                    Perm::empty(),
                );
                assert_eq!(found, None, "a CPU reaches what was unmapped");
            }
        }
        self.agree(done.map(drop), |model| model.unmap(from, to))
    }

    /// Gives back what was unmapped.
    pub fn reap(&mut self) {
        if let Some((range, _)) = self.detached.take() {
            self.space.reap(&mut self.host, range);
            self.check();
        }
    }

    /// Changes the permission of segments.
    pub fn protect(&mut self, from: usize, to: usize, perm: Perm) -> Result<(), Refusal> {
        let done = self.space.protect(&self.host, range(from, to), perm);
        if done == Ok(Taken::Something) {
            self.cpu.flush();
        }
        self.agree(done.map(drop), |model| {
            let lost = model.protect(from, to, perm)?;
            assert_eq!(
                done,
                Ok(if lost {
                    Taken::Something
                } else {
                    Taken::Nothing
                })
            );
            Ok(())
        })
    }

    /// The guest accesses a segment; a write leaves `content`.
    pub fn access(&mut self, number: usize, access: Perm, content: u64) -> Outcome {
        let outcome = self.try_access(number, access, content);
        match outcome {
            Outcome::NoMemory => {}
            Outcome::Busy => assert!(self.detached.is_some(), "nothing is there"),
            _ => assert_eq!(outcome, self.model.access(number, access, content)),
        }
        self.check();
        outcome
    }

    /// [`Machine::access`] in the space only.
    fn try_access(&mut self, number: usize, access: Perm, content: u64) -> Outcome {
        // At most a fault for a stale translation, one for the page, and one for a copy of it.
        for _ in 0..4 {
            let eptp = self.space.tree().eptp();
            if let Some(found) = self.cpu.access(&self.host, eptp, gpa(number), access) {
                if access.contains(Perm::W) {
                    self.host.write(found.frame, content);
                }
                return Outcome::Content(self.host.frame(found.frame).content);
            }
            let fault = self.space.fault(&self.host, gpa(number), access);
            match fault {
                Fault::Unmapped => return Outcome::Unmapped,
                Fault::Denied => return Outcome::Denied,
                Fault::Done => continue,
                _ => {}
            }
            let service = self.prepare(number, fault).expect("a page is wanted");
            match self.complete(service) {
                Ok(Served::Done) => {}
                Ok(Served::Occupied) => return Outcome::Busy,
                Ok(Served::Stale) => panic!("stale at once"),
                Err(NoMemory) => return Outcome::NoMemory,
            }
        }
        panic!("the guest faults without end");
    }

    /// Makes the page that a fault wants.
    fn prepare(&mut self, number: usize, fault: Fault<Back>) -> Option<Service> {
        let (frame, kind) = match fault {
            Fault::Anonymous => (self.host.new_frame(0), Kind::Install(Owner::Private, None)),
            Fault::File { backing, owner } => {
                let frame = self.host.wanted_frame(&backing, owner);
                (frame, Kind::Install(owner, Some(backing)))
            }
            Fault::Copy { from } => {
                assert_eq!(from.owner, Owner::File);
                self.host.get_frame(from.frame);
                let content = self.host.frame(from.frame).content;
                (self.host.new_frame(content), Kind::Copy(from))
            }
            _ => return None,
        };
        Some(Service {
            number,
            frame,
            kind,
        })
    }

    /// Puts the page in, or drops it.
    fn complete(&mut self, service: Service) -> Result<Served, NoMemory> {
        let Service {
            number,
            frame,
            kind,
        } = service;
        let served = match kind {
            Kind::Install(owner, backing) => {
                let space = &mut self.space;
                match space.install(&mut self.host, gpa(number), frame, owner, backing.as_ref()) {
                    Ok(Installed::Done) => Ok(Served::Done),
                    Ok(Installed::Occupied) => Ok(Served::Occupied),
                    Ok(Installed::Stale) => Ok(Served::Stale),
                    Err(error) => Err(error),
                }
            }
            Kind::Copy(from) => {
                let copied = self
                    .space
                    .install_copy(&self.host, gpa(number), from, frame);
                self.host.drop_frame(from.frame);
                match copied {
                    Copied::Done { old } => {
                        assert_eq!((old.frame, old.owner), (from.frame, Owner::File));
                        self.cpu.flush();
                        self.host.drop_frame(old.frame);
                        Ok(Served::Done)
                    }
                    Copied::Stale => Ok(Served::Stale),
                }
            }
        };
        if served != Ok(Served::Done) {
            self.host.drop_frame(frame);
        }
        served
    }

    /// The module begins to serve a fault, and then does something else.
    pub fn begin(&mut self, number: usize, access: Perm, by_host: bool) {
        let write = access.contains(Perm::W);
        let fault = if by_host {
            self.space.host_fault(&self.host, gpa(number), write)
        } else {
            self.space.fault(&self.host, gpa(number), access)
        };
        let mapped = self.model.segments[number].as_ref();
        assert_eq!(fault == Fault::Unmapped, mapped.is_none());
        if let Some(mapped) = mapped {
            let denied = access.is_empty() || !mapped.perm.contains(access);
            assert_eq!(fault == Fault::Denied, denied && !by_host);
        }
        let service = self.prepare(number, fault);
        self.services.extend(service);
        self.check();
    }

    /// The module ends what it began, the oldest first.
    pub fn finish(&mut self) -> Option<Result<Served, NoMemory>> {
        if self.services.is_empty() {
            return None;
        }
        let service = self.services.remove(0);
        let number = service.number;
        let mut model = self.model.clone();
        let live = model.live.clone();
        let expected = match (&service.kind, &mut model.segments[number]) {
            (_, None) => Served::Stale,
            (Kind::Install(owner, backing), Some(mapped)) => {
                if mapped.back != backing.clone().unwrap_or(Back::Zero) {
                    Served::Stale
                } else if mapped.page.is_some() {
                    Served::Occupied
                } else {
                    let content = self.host.frame(service.frame).content;
                    mapped.touch((*owner == Owner::Private).then_some(content), &live);
                    Served::Done
                }
            }
            (Kind::Copy(_), Some(mapped)) => match mapped.page {
                Some(page) if page.owner == Owner::File => {
                    // The same page of the file, or it would have other content.
                    if page.content == self.host.frame(service.frame).content {
                        mapped.touch(Some(page.content), &live);
                        Served::Done
                    } else {
                        Served::Stale
                    }
                }
                _ => Served::Stale,
            },
        };
        let served = self.complete(service);
        match served {
            Ok(Served::Occupied) if expected == Served::Done => assert!(self.detached.is_some()),
            Err(NoMemory) => assert_eq!(expected, Served::Done),
            _ => assert_eq!(served, Ok(expected)),
        }
        if served == Ok(Served::Done) {
            self.model = model;
        }
        self.check();
        Some(served)
    }

    /// Compares the space with the model, and counts all memory.
    pub fn check(&self) {
        assert_eq!(self.space.regions().as_slice(), self.model.regions());
        assert_eq!(self.space.regions().len(), self.model.regions().len());
        let eptp = self.space.tree().eptp();
        for number in 0..SEGMENTS {
            let mapped = self.model.segments[number].as_ref();
            let expected =
                mapped.and_then(|mapped| Some((self.model.page(number)?, mapped.page_perm()?)));
            let leaf = self.space.tree().get(&self.host, gpa(number));
            let found = translate(&self.host, eptp, gpa(number));
            let Some((page, perm)) = expected else {
                assert_eq!(
                    (leaf, found),
                    (None, None),
                    "something is at segment {number}"
                );
                continue;
            };
            let leaf = leaf.expect("the leaf is gone");
            assert_eq!((leaf.owner, leaf.perm), (page.owner, perm));
            let frame = self.host.frame(leaf.frame);
            assert_eq!((frame.owner, frame.content), (page.owner, page.content));
            assert!(page.owner != Owner::File || !perm.contains(Perm::W));
            let found = found.map(|found| (found.frame, found.perm));
            assert_eq!(found, (!perm.is_empty()).then_some((leaf.frame, perm)));
        }
        self.check_caches();
        self.check_memory();
    }

    /// What the CPU has cached must still be allowed, and must not have been given back.
    fn check_caches(&self) {
        for (page, cached) in self.cpu.cached() {
            let leaf = self.space.tree().get(&self.host, Gpa(page << 12));
            let leaf = leaf.expect("a CPU has a page cached that is gone");
            assert_eq!(leaf.frame, cached.frame, "a CPU has the old page cached");
            assert!(
                leaf.perm.contains(cached.perm),
                "a CPU has more permission cached"
            );
        }
        for table in self.cpu.cached_tables() {
            assert!(
                self.host.is_table(table),
                "a CPU has a table cached that is gone"
            );
        }
    }

    /// Each reference is one that somebody must have, and each table one that something is in.
    fn check_memory(&self) {
        let services = self.services.iter();
        let held: usize = services
            .map(|s| 1 + usize::from(matches!(s.kind, Kind::Copy(_))))
            .sum();
        let pages = self.model.pages().count();
        let detached = self.detached.map_or(0, |(_, pages)| pages);
        assert_eq!(self.host.references(), held + pages + detached);
        if self.detached.is_none() {
            assert_eq!(self.host.tables(), self.model.tables());
        }
    }

    /// Ends it, in whatever state it is: the memory of the space must be back.
    pub fn end(mut self) {
        while let Some(service) = self.services.pop() {
            self.host.drop_frame(service.frame);
            if let Kind::Copy(from) = service.kind {
                self.host.drop_frame(from.frame);
            }
        }
        self.cpu.flush();
        self.space.destroy(&mut self.host);
        assert_eq!((self.host.tables(), self.host.references()), (0, 0));
    }

    /// Reads all memory of the guest; how often it ran out of memory on the way.
    pub fn read_all(&mut self) -> usize {
        let mut failed = 0;
        for number in 0..SEGMENTS {
            while self.access(number, Perm::R, 0) == Outcome::NoMemory {
                failed += 1;
            }
        }
        failed
    }
}
