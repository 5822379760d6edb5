// SPDX-License-Identifier: GPL-2.0

//! Accesses of the guests of a family: each fault is served in the space as the module does it.

use uvisor_ept::{Copied, Fault, Hpa, Installed, Owner, Perm, Retired};

use super::Family;
use crate::cpu::translate;
use crate::host::{Back, NoMemory};
use crate::model::{gpa, Outcome};

impl Family {
    /// The guest of a member accesses a segment in view 0; a write leaves `content`.
    pub fn access(&mut self, of: usize, number: usize, access: Perm, content: u64) -> Outcome {
        self.view_access(of, 0, number, access, content)
    }

    /// The guest of a member accesses a segment in a view; a write leaves `content`.
    pub fn view_access(
        &mut self,
        of: usize,
        view: usize,
        number: usize,
        access: Perm,
        content: u64,
    ) -> Outcome {
        let outcome = self.try_access(of, view, number, access, content);
        if outcome != Outcome::NoMemory {
            let model = &mut self.members[of].model;
            assert_eq!(outcome, model.view_access(view, number, access, content));
        } else if view != 0 {
            self.note_page(of, number);
        }
        self.check();
        outcome
    }

    /// Whether a CPU finds a segment in a view of a member, without a fault.
    pub fn is_mapped_in(&self, of: usize, view: usize, number: usize) -> bool {
        let view = self.members[of].space.view(view).expect("a view");
        let eptp = view.eptp().expect("an open view");
        translate(&self.host, eptp, gpa(number)).is_some()
    }

    /// Tells a member's model of a page that an access brought into view 0, though not into the view.
    fn note_page(&mut self, of: usize, number: usize) {
        let member = &mut self.members[of];
        let leaf = member.space.tree().get(&self.host, gpa(number));
        let (Some(leaf), Some(mapped)) = (leaf, &mut member.model.segments[number]) else {
            return;
        };
        let live = &member.model.live;
        let content = mapped.touch(None, live);
        if !matches!(leaf.owner, Owner::File | Owner::Live) {
            mapped.touch(Some(content), live);
        }
    }

    /// [`Family::view_access`] in the space only.
    fn try_access(
        &mut self,
        of: usize,
        view: usize,
        number: usize,
        access: Perm,
        content: u64,
    ) -> Outcome {
        // One fault each for a stale translation, the tables, the page, a copy of it, and a view.
        for _ in 0..6 {
            let member = &mut self.members[of];
            let eptp = if view == 0 {
                member.space.tree().eptp()
            } else {
                match member.space.open_view(&mut self.host, view) {
                    Ok(Some((eptp, is_new))) => {
                        if is_new {
                            member.flush();
                        }
                        eptp
                    }
                    Ok(None) => panic!("no view {view}"),
                    Err(NoMemory) => return Outcome::NoMemory,
                }
            };
            let cpu = member.caches.entry(eptp).or_default();
            if let Some(found) = cpu.access(&self.host, eptp, gpa(number), access) {
                if access.contains(Perm::W) {
                    self.host.write(found.frame, content);
                }
                return Outcome::Content(self.host.frame(found.frame).content);
            }
            let fault = member
                .space
                .view_fault(&self.host, view, gpa(number), access);
            let served = match fault {
                Fault::Unmapped => return Outcome::Unmapped,
                Fault::Denied => return Outcome::Denied,
                Fault::Hidden => return Outcome::Hidden,
                Fault::NoView => panic!("no view {view}"),
                Fault::User { .. } => panic!("user memory"),
                Fault::Fill => member.space.fill(&mut self.host, view, gpa(number)),
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
                Fault::File { backing, owner } => {
                    let frame = self.host.wanted_frame(&backing, owner);
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
                            member.flush();
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
}
