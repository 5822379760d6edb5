// SPDX-License-Identifier: GPL-2.0

//! Faults: the pages that an access needs, found, made and mapped.

use kernel::prelude::*;

use uvisor_ept::{
    Copied,
    Fault,
    Gpa,
    Host,
    Hpa,
    Installed,
    Leaf,
    Owner,
    Perm,
    Range, //
};
use uvisor_uapi::{
    Event,
    MemoryCause, //
};

use super::{
    GuestSpace,
    Inner,
    Memory,
    NoPage, //
};
use crate::{
    backing::MemoryBacking,
    pages::{
        Charged,
        Pages,
        Reserve, //
    },
    sys::frame::Frame, //
};

/// How often a fault is looked at again when other threads keep changing what it found.
const MAX_RETRIES: u32 = 1000;

/// How often it is tried again with frames that the kernel had to look for.
const MAX_RESERVES: u32 = 4;

/// Who wants a page, and for what.
#[derive(Clone, Copy)]
pub(super) enum Access {
    /// The guest in a view, which tries again.
    Guest(usize, Perm),
    /// We, for user space.
    User(Perm),
    /// User space, which gets it mapped.
    Mapping(Perm),
    /// We, to have it in a frame of the micro-VM's own whatever is allowed.
    Own,
}

impl Access {
    /// In which view what has to be allowed; user space has what view 0 allows.
    fn needs(self) -> Option<(usize, Perm)> {
        match self {
            Self::Guest(view, perm) => Some((view, perm)),
            Self::User(perm) | Self::Mapping(perm) => Some((0, perm)),
            Self::Own => None,
        }
    }

    /// Whether the page is to be written.
    fn writes(self) -> bool {
        self.needs().is_none_or(|(_, perm)| perm.contains(Perm::W))
    }
}

/// What a step on the way to a page came to.
enum Step {
    /// The access is possible, by this leaf.
    Done(Leaf),
    /// The page was mapped, or another was faster.
    Mapped,
    /// Something is out of the way.
    Again,
    /// A page of a file is wanted, to be read without the lock.
    Fetch(MemoryBacking),
    /// A page of user memory is wanted, likewise.
    User(Perm),
}

/// A frame for the tables, with a reference.
enum NewFrame {
    /// The micro-VM's own.
    Own(Charged),
    /// A page of a file, of this owner.
    File(Frame, Owner),
}

impl Memory {
    /// Makes an access of the guest in a view possible, as far as it takes to try it again.
    pub(crate) fn fault(&self, view: u64, gpa: Gpa, access: Perm) -> Result<(), MemoryCause> {
        // One that is too large is not there either.
        let view = usize::try_from(view).unwrap_or(usize::MAX);
        let access = Access::Guest(view, access);
        match self.serve(gpa, access, |_| ()).map(drop) {
            // A template does not run: what it is about is seen before the guest is entered again.
            Ok(()) | Err(NoPage::Busy | NoPage::Frozen) => Ok(()),
            Err(NoPage::Cause(cause)) => Err(cause),
            // Which is for user space only.
            Err(NoPage::User(_)) => Err(MemoryCause::Denied),
        }
    }

    /// Makes `access` to the page of `gpa` possible, and runs `then` on its leaf with the lock held:
    /// the page stays mapped meanwhile. `then` must not touch user memory, which may be ours.
    pub(crate) fn with_page<R>(
        &self,
        gpa: Gpa,
        access: Perm,
        then: impl FnOnce(Leaf) -> R,
    ) -> Result<R, NoPage> {
        self.serve(gpa, Access::User(access), then)?
            .ok_or(NoPage::Busy)
    }

    /// [`Self::with_page`], of which `then` may add the page to a user mapping.
    pub(crate) fn with_page_to_map<R>(
        &self,
        gpa: Gpa,
        access: Perm,
        then: impl FnOnce(Leaf) -> R,
    ) -> Result<R, NoPage> {
        self.serve(gpa, Access::Mapping(access), then)?
            .ok_or(NoPage::Busy)
    }

    /// [`Self::with_page`]; or, for the guest, until the page is mapped.
    pub(super) fn serve<R>(
        &self,
        gpa: Gpa,
        access: Access,
        then: impl FnOnce(Leaf) -> R,
    ) -> Result<Option<R>, NoPage> {
        // A file's page that was fetched without the lock.
        let mut fetched: Option<(MemoryBacking, Frame)> = None;
        let mut then = Some(then);
        let (mut reserve, mut reserves) = (None, 0);
        for round in 0..MAX_RETRIES {
            // A range that others keep changing must not hold up a signal.
            if round > 2 && current!().signal_pending() {
                break;
            }
            let mut inner = self.inner.lock();
            if let Some(reserve) = reserve.take() {
                inner.pages.add(reserve);
            }
            // Who waits for memory with the lock held keeps everybody from getting what this family can give back.
            inner.pages.set_may_wait(false);
            let step = self.step(&mut inner, gpa, access, fetched.take());
            inner.pages.set_may_wait(true);
            let step = match step {
                Err(NoPage::Cause(MemoryCause::Limit))
                    if reserves < MAX_RESERVES && !inner.pages.is_at_limit() =>
                {
                    let account = inner.pages.account();
                    drop(inner);
                    let found = Reserve::new(&account).map_err(|_| MemoryCause::Limit)?;
                    reserve = Some(found);
                    reserves += 1;
                    continue;
                }
                step => step?,
            };
            match step {
                Step::Done(leaf) => {
                    if matches!(access, Access::Mapping(_)) {
                        inner.mapped.add(gpa);
                    }
                    return Ok(then.take().map(|then| then(leaf)));
                }
                // In other views the page is put last.
                Step::Mapped if matches!(access, Access::Guest(0, _)) => return Ok(None),
                Step::Mapped | Step::Again => {}
                Step::User(perm) => {
                    drop(inner);
                    match self.user_fault(gpa, perm) {
                        // Others change what is there, and a signal must be seen.
                        Ok(()) | Err(NoPage::Busy) => return Ok(None),
                        Err(why) => return Err(why),
                    }
                }
                Step::Fetch(backing) => {
                    drop(inner);
                    let page = self.fetch(&backing)?;
                    fetched = Some((backing, page));
                }
            }
        }
        Err(NoPage::Busy)
    }

    /// One step on the way to a page, with `fetched` if the last one asked for it.
    fn step(
        &self,
        inner: &mut Inner,
        gpa: Gpa,
        access: Access,
        fetched: Option<(MemoryBacking, Frame)>,
    ) -> Result<Step, NoPage> {
        let Inner {
            pages,
            space,
            mapping,
            mapped,
            ..
        } = inner;
        let space = space.as_mut().ok_or(MemoryCause::Unmapped)?;
        // Under the lock, so that whoever froze it knows that nobody writes any more.
        if self.is_frozen() && access.writes() {
            return Err(NoPage::Frozen);
        }
        let fault = match access.needs() {
            Some((view, perm)) => space.view_fault(pages, view, gpa, perm),
            None => space.own_fault(pages, gpa),
        };
        match fault {
            Fault::Unmapped => return Err(MemoryCause::Unmapped.into()),
            Fault::Denied => return Err(MemoryCause::Denied.into()),
            Fault::Hidden => return Err(MemoryCause::Hidden.into()),
            // The next window says so.
            Fault::NoView => return Err(NoPage::Busy),
            Fault::Fill => {
                if let Access::Guest(view, _) = access {
                    space
                        .fill(pages, view, gpa)
                        .map_err(|_| MemoryCause::Limit)?;
                }
            }
            Fault::User { mapped } => {
                return match access {
                    Access::Guest(..) if mapped => Ok(Step::Mapped),
                    Access::Guest(_, perm) => Ok(Step::User(perm)),
                    Access::User(_) => Err(NoPage::User(self.user_address(gpa)?)),
                    Access::Mapping(_) | Access::Own => Err(MemoryCause::Denied.into()),
                }
            }
            Fault::Done => {
                let mut leaf = space.tree().get(pages, gpa).ok_or(MemoryCause::Unmapped)?;
                if self.is_frozen() {
                    leaf.perm -= Perm::W;
                }
                return Ok(Step::Done(leaf));
            }
            Fault::Unshare => {
                self.unshare(pages, |pages, retired| space.unshare(pages, gpa, retired))
                    .map_err(|_| MemoryCause::Limit)?;
                return Ok(Step::Again);
            }
            Fault::Reuse => self.reuse(space, pages, gpa),
            Fault::Anonymous => self.install_zeroed(space, pages, gpa)?,
            Fault::Copy { from } => {
                let flush = || match Range::page_of(gpa) {
                    Some(page) if mapped.may_have(gpa) => self.take(*mapping, page),
                    _ => self.flush(),
                };
                self.replace_by_copy(space, pages, gpa, from, flush)?;
            }
            Fault::File { backing, owner } => {
                let Some((of, page)) = fetched else {
                    return Ok(Step::Fetch(backing));
                };
                if !self.install_file(space, pages, gpa, (&of, page), owner)? {
                    return Ok(Step::Fetch(backing));
                }
            }
        }
        Ok(Step::Mapped)
    }

    /// Makes a write to the page of `gpa` possible, and removes the page from user mappings.
    pub(crate) fn zap_to_write(&self, gpa: Gpa) -> Result<(), NoPage> {
        match self.with_page(gpa, Perm::R | Perm::W, |_| ()) {
            // The write faults once more.
            Ok(()) | Err(NoPage::Busy) => {}
            Err(why) => return Err(why),
        }
        let inner = self.inner.lock();
        if let (Some(mapping), Some(page)) = (inner.mapping, Range::page_of(gpa)) {
            // SAFETY: The file is open: its release sets the mapping to `None` under our lock.
            unsafe { mapping.zap(page.start().0, page.len()) };
        }
        Ok(())
    }

    /// Reads a file's page; the lock is not held, as this may take long.
    fn fetch(&self, backing: &MemoryBacking) -> Result<Frame, MemoryCause> {
        backing.page(false).map_err(|e| match e {
            e if e == ENOMEM => MemoryCause::Limit,
            _ => MemoryCause::FileEnd,
        })
    }

    /// Takes over a frame that no clone has any more.
    pub(super) fn reuse(&self, space: &mut GuestSpace, pages: &Pages, gpa: Gpa) {
        space.reuse(pages, gpa);
        self.events.add(Event::FrameReused, 1);
    }

    /// Maps a page of zeros.
    pub(super) fn install_zeroed(
        &self,
        space: &mut GuestSpace,
        pages: &mut Pages,
        gpa: Gpa,
    ) -> Result<(), MemoryCause> {
        let frame = pages.zeroed().map_err(|_| MemoryCause::Limit)?;
        if self.install(space, pages, gpa, NewFrame::Own(frame), None)? {
            self.events.add(Event::FrameZeroed, 1);
        }
        Ok(())
    }

    /// Maps the page-cache page `fetched`, or a copy of it if it is to be private; false if it is not wanted
    /// any more.
    pub(super) fn install_file(
        &self,
        space: &mut GuestSpace,
        pages: &mut Pages,
        gpa: Gpa,
        fetched: (&MemoryBacking, Frame),
        owner: Owner,
    ) -> Result<bool, MemoryCause> {
        let (backing, page) = fetched;
        let (frame, event) = if owner == Owner::Private {
            // SAFETY: We have a reference on the page.
            let copied = unsafe { pages.copy_of(page.phys()) };
            let copied = copied.map_err(|_| MemoryCause::Limit)?;
            (NewFrame::Own(copied), Event::FrameCopied)
        } else {
            (NewFrame::File(page, owner), Event::FileMapped)
        };
        let done = self.install(space, pages, gpa, frame, Some(backing))?;
        if done {
            self.events.add(event, 1);
        }
        Ok(done)
    }

    /// Gives `frame` to the tables if it is wanted there; false if not.
    fn install(
        &self,
        space: &mut GuestSpace,
        pages: &mut Pages,
        gpa: Gpa,
        frame: NewFrame,
        backing: Option<&MemoryBacking>,
    ) -> Result<bool, MemoryCause> {
        let (hpa, owner) = match &frame {
            NewFrame::Own(frame) => (frame.phys(), Owner::Private),
            NewFrame::File(frame, owner) => (frame.phys(), *owner),
        };
        match space.install(pages, gpa, Hpa(hpa), owner, backing) {
            Ok(Installed::Done) => {
                // The tables have the reference now.
                match frame {
                    NewFrame::Own(frame) => drop(frame.into_raw()),
                    NewFrame::File(frame, owner) => {
                        let _ = frame.into_raw();
                        if owner == Owner::File {
                            pages.count_file();
                        }
                    }
                }
                Ok(true)
            }
            Ok(Installed::Occupied | Installed::Stale) => Ok(false),
            Err(_) => Err(MemoryCause::Limit),
        }
    }

    /// Exchanges a page of a file, or one that clones have as well, for a copy that the guest may write.
    /// Behind `flush` no CPU that runs the guest, and no user mapping, has the old one any more.
    pub(super) fn replace_by_copy(
        &self,
        space: &mut GuestSpace,
        pages: &mut Pages,
        gpa: Gpa,
        from: Leaf,
        flush: impl FnOnce(),
    ) -> Result<(), MemoryCause> {
        // SAFETY: The tables have a reference on the page, and the lock is held.
        let copy = unsafe { pages.copy_of(from.frame.0) }.map_err(|_| MemoryCause::Limit)?;
        match space.install_copy(pages, gpa, from, Hpa(copy.phys())) {
            Copied::Done { old } => {
                // The tables have the reference now.
                let _ = copy.into_raw();
                self.events.add(Event::FrameCopied, 1);
                flush();
                pages.put_frame(old.frame, old.owner);
                Ok(())
            }
            // `copy` is dropped.
            Copied::Stale => Ok(()),
        }
    }
}
