// SPDX-License-Identifier: GPL-2.0

//! What a space should be: a list of pages, each with all that is to know about it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use uvisor_ept::{Backing, Gpa, Marks, Move, Owner, Perm, Range, Region, RegionError};

use crate::host::{file_content, Back, NoMemory};

/// How many bits a guest-physical address has: more than one entry of the root has something.
pub const GPA_BITS: u32 = 40;
/// How many regions there can be: few, so that the limit is met.
pub const MAX_REGIONS: usize = 8;
/// How many pages there are around each of [`CLUSTERS`].
const CLUSTER: u64 = 12;
/// Numbers of pages where a table of some level ends, and the first.
const CLUSTERS: [u64; 4] = [CLUSTER / 2, 1 << 9, 1 << 18, 1 << 27];
/// How many segments there are: the pages of the clusters, and the gaps between these.
pub const SEGMENTS: usize = CLUSTERS.len() * CLUSTER as usize + CLUSTERS.len() - 1;

/// The first page and the number of pages of a segment. Only the first is ever touched.
pub fn segment(number: usize) -> (u64, u64) {
    let cluster = number / (CLUSTER as usize + 1);
    let offset = (number % (CLUSTER as usize + 1)) as u64;
    let start = CLUSTERS[cluster] - CLUSTER / 2 + offset;
    if offset < CLUSTER {
        (start, 1)
    } else {
        (start, CLUSTERS[cluster + 1] - CLUSTER / 2 - start)
    }
}

/// The first address of a segment.
pub fn gpa(number: usize) -> Gpa {
    Gpa(segment(number).0 << 12)
}

/// The range of the segments `from..=to`.
pub fn range(from: usize, to: usize) -> Range {
    let (start, _) = segment(from);
    let (last, pages) = segment(to);
    Range::new(start << 12, (last + pages - start) << 12, GPA_BITS).unwrap()
}

/// A page that was touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// Whose frame it has.
    pub owner: Owner,
    /// What is in it; nothing here if it is [`Owner::Live`], but in [`LivePages`].
    pub content: u64,
}

/// What was written in place, by file and page; models that are clones have them in common.
pub type LivePages = Rc<RefCell<BTreeMap<(u32, u64), u64>>>;

/// A segment that is mapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapped {
    /// What the guest may do.
    pub perm: Perm,
    /// Whether it is sealed, and what it was where nothing may be writable and executable.
    pub marks: Marks,
    /// What its first page is made from.
    pub back: Back,
    /// Its first page, if it was touched.
    pub page: Option<Page>,
}

impl Mapped {
    /// What the guest may do with the page as it is.
    pub fn page_perm(&self) -> Option<Perm> {
        Some(match self.page?.owner {
            Owner::Private | Owner::Shared | Owner::Live | Owner::Lent | Owner::User => self.perm,
            Owner::File => self.perm - Perm::W,
        })
    }

    /// Touches the page; what is in it then.
    pub fn touch(&mut self, write: Option<u64>, live: &LivePages) -> u64 {
        let fresh = match self.back {
            Back::Zero => Page {
                owner: Owner::Private,
                content: 0,
            },
            Back::File(file, page) => Page {
                owner: Owner::File,
                content: file_content(file, page),
            },
            Back::Live(file, page) => {
                self.page = Some(Page {
                    owner: Owner::Live,
                    content: 0,
                });
                if let Some(content) = write {
                    live.borrow_mut().insert((file, page), content);
                }
                return live_content(live, file, page);
            }
        };
        let page = self.page.get_or_insert(fresh);
        if let Some(content) = write {
            *page = Page {
                owner: Owner::Private,
                content,
            };
        }
        page.content
    }
}

/// What is in a page that is written to in place.
fn live_content(live: &LivePages, file: u32, page: u64) -> u64 {
    let live = live.borrow();
    live.get(&(file, page))
        .copied()
        .unwrap_or_else(|| file_content(file, page))
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// No region is there.
    Unmapped,
    /// The region does not allow it.
    Denied,
    /// The view does not allow it.
    Hidden,
    /// It finds this in the page, or leaves it there.
    Content(u64),
    /// A table could not be had.
    NoMemory,
    /// What was unmapped there was not reaped yet.
    Busy,
}

/// Why a region operation fails.
pub type Refusal = RegionError<NoMemory>;

/// All that is to know about a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// All segments.
    pub segments: Vec<Option<Mapped>>,
    /// What was written in place.
    pub live: LivePages,
    /// Whether nothing may be writable and executable.
    pub w_xor_x: bool,
    /// What each view allows in each segment, and last behind all of them; view 1 comes first.
    pub views: Vec<Option<Vec<Perm>>>,
}

impl Model {
    /// Nothing is mapped.
    pub fn new() -> Self {
        Self {
            segments: vec![None; SEGMENTS],
            live: LivePages::default(),
            w_xor_x: false,
            views: Vec::new(),
        }
    }

    /// The regions: segments that look alike are one.
    pub fn regions(&self) -> Vec<Region<Back>> {
        let mut regions: Vec<Region<Back>> = Vec::new();
        for (number, mapped) in self.segments.iter().enumerate() {
            let Some(mapped) = mapped else { continue };
            let here = range(number, number);
            let extended = regions.last().filter(|last| {
                let goes_on = match (&last.backing, &mapped.back) {
                    (Back::Zero, Back::Zero) => true,
                    (Back::File(file, page), Back::File(next, next_page))
                    | (Back::Live(file, page), Back::Live(next, next_page)) => {
                        file == next && page + (last.range.len() >> 12) == *next_page
                    }
                    _ => false,
                };
                last.range.end() == here.start()
                    && (last.perm, last.marks) == (mapped.perm, mapped.marks)
                    && goes_on
            });
            if let Some(last) = extended {
                let start = last.range.start().0;
                let range = Range::new(start, here.end().0 - start, GPA_BITS).unwrap();
                regions.last_mut().unwrap().range = range;
            } else {
                regions.push(Region {
                    range: here,
                    perm: mapped.perm,
                    marks: mapped.marks,
                    backing: mapped.back.clone(),
                });
            }
        }
        regions
    }

    /// The first page of a segment, if it was touched.
    pub fn page(&self, number: usize) -> Option<Page> {
        let mapped = self.segments[number].as_ref()?;
        let page = mapped.page?;
        Some(match mapped.back {
            Back::Live(file, at) => Page {
                content: live_content(&self.live, file, at),
                ..page
            },
            _ => page,
        })
    }

    /// The pages that were touched.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        let touched = |number: &usize| {
            self.segments[*number]
                .as_ref()
                .is_some_and(|m| m.page.is_some())
        };
        (0..SEGMENTS)
            .filter(touched)
            .map(|number| segment(number).0)
    }

    /// How many tables these pages need.
    pub fn tables(&self) -> usize {
        let mut tables = std::collections::BTreeSet::from([(3, 0)]);
        for page in self.pages() {
            tables.extend((0..3).map(|level| (level, page >> (9 * (level + 1)))));
        }
        tables.len()
    }

    /// Whether the start (or the end) of `from..=to` cuts a region that `counts`.
    fn cuts(&self, from: usize, to: usize, counts: impl Fn(&Region<Back>) -> bool) -> (bool, bool) {
        let range = range(from, to);
        let cut = |at: Gpa| {
            let regions = self.regions();
            let mut cut = regions
                .iter()
                .filter(|r| r.range.start() < at && at < r.range.end());
            cut.any(&counts)
        };
        (cut(range.start()), cut(range.end()))
    }

    /// Whether there may be `more` regions than now.
    fn room(&self, more: usize) -> Result<(), Refusal> {
        if more > 0 && self.regions().len() + more > MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        Ok(())
    }

    /// The marks of a segment of `back` that had `old` and gets `perm`.
    fn marks(&self, old: Marks, back: &Back, perm: Perm) -> Result<Marks, Refusal> {
        let mut new = old;
        if self.w_xor_x && (perm.contains(Perm::W) || matches!(back, Back::Live(..))) {
            new |= Marks::WRITABLE;
        }
        if self.w_xor_x && perm.contains(Perm::X) {
            new |= Marks::EXECUTABLE;
        }
        if new.contains(Marks::WRITABLE | Marks::EXECUTABLE) {
            return Err(RegionError::WritableExecutable);
        }
        Ok(new)
    }

    /// Fails if one of the segments `from..=to` is sealed.
    fn not_sealed(&self, from: usize, to: usize) -> Result<(), Refusal> {
        let mut mapped = self.segments[from..=to].iter().flatten();
        if mapped.any(|mapped| mapped.marks.contains(Marks::SEALED)) {
            return Err(RegionError::Sealed);
        }
        Ok(())
    }

    /// Maps the segments `from..=to`.
    pub fn map(&mut self, from: usize, to: usize, perm: Perm, back: &Back) -> Result<(), Refusal> {
        let marks = self.marks(Marks::empty(), back, perm)?;
        if self.segments[from..=to].iter().any(Option::is_some) {
            return Err(RegionError::Exists);
        }
        let mut mapped = self.clone();
        for number in from..=to {
            let pages = segment(number).0 - segment(from).0;
            let back = match *back {
                Back::Zero => Back::Zero,
                Back::File(file, page) => Back::File(file, page + pages),
                Back::Live(file, page) => Back::Live(file, page + pages),
            };
            mapped.segments[number] = Some(Mapped {
                perm,
                marks,
                back,
                page: None,
            });
        }
        if mapped.regions().len() > self.regions().len() {
            self.room(1)?;
        }
        *self = mapped;
        Ok(())
    }

    /// Unmaps the segments `from..=to`.
    pub fn unmap(&mut self, from: usize, to: usize) -> Result<(), Refusal> {
        self.not_sealed(from, to)?;
        let mut unmapped = self.clone();
        unmapped.segments[from..=to].fill(None);
        if unmapped.regions().len() > self.regions().len() {
            self.room(1)?;
        }
        *self = unmapped;
        Ok(())
    }

    /// Whether segments are pages that follow each other.
    fn are_pages(from: usize, to: usize) -> bool {
        to < SEGMENTS && range(from, to).pages().count() == to - from + 1
    }

    /// From where to where the segments `from..=to` move if they go to the segment `target`, with `more`
    /// behind them; none if that is not possible.
    pub fn moves(from: usize, to: usize, target: usize, more: usize) -> Option<Move> {
        let last = target + (to - from) + more;
        if !Self::are_pages(from, to) || !Self::are_pages(target, last) {
            return None;
        }
        Move::new(range(from, to), range(target, last))
    }

    /// Moves the segments `from..=to` to the segment `target`, with `more` behind them.
    pub fn remap(
        &mut self,
        from: usize,
        to: usize,
        target: usize,
        more: usize,
    ) -> Result<(), Refusal> {
        let whole = range(from, to);
        let is_in = |r: &Region<Back>| r.range.intersect(&whole) == Some(whole);
        if !self.regions().iter().any(is_in) {
            return Err(RegionError::Unmapped);
        }
        self.not_sealed(from, to)?;
        let last = target + (to - from) + more;
        if self.segments[target..=last].iter().any(Option::is_some) {
            return Err(RegionError::Exists);
        }
        let (start, end) = self.cuts(from, to, |_| true);
        self.room(usize::from(start) + usize::from(end))?;
        for number in target..=last {
            let offset = number - target;
            let old = self
                .segments
                .get_mut(from + offset)
                .filter(|_| offset <= to - from);
            self.segments[number] = match old.and_then(Option::take) {
                Some(mapped) => Some(mapped),
                None => {
                    let before = self.segments[number - 1]
                        .clone()
                        .expect("it was just moved");
                    Some(Mapped {
                        back: before.back.advance(1 << 12),
                        page: None,
                        ..before
                    })
                }
            };
        }
        Ok(())
    }

    /// Whether [`Model::protect`] has to divide a region.
    pub fn divides(&self, from: usize, to: usize, perm: Perm) -> usize {
        let (start, end) = self.cuts(from, to, |old| {
            self.marks(old.marks, &old.backing, perm) != Ok(old.marks) || old.perm != perm
        });
        usize::from(start) + usize::from(end)
    }

    /// Gives the segments `from..=to` a permission. Says whether a page lost some.
    pub fn protect(&mut self, from: usize, to: usize, perm: Perm) -> Result<bool, Refusal> {
        if self.segments[from..=to].iter().any(Option::is_none) {
            return Err(RegionError::Unmapped);
        }
        for mapped in self.segments[from..=to].iter().flatten() {
            self.marks(mapped.marks, &mapped.back, perm)?;
        }
        self.not_sealed(from, to)?;
        self.room(self.divides(from, to, perm))?;
        let mut changed = self.clone();
        let mut lost = false;
        for mapped in changed.segments[from..=to].iter_mut().flatten() {
            let old = mapped.page_perm();
            mapped.marks = self.marks(mapped.marks, &mapped.back, perm)?;
            mapped.perm = perm;
            let new = mapped.page_perm();
            lost |= old
                .zip(new)
                .is_some_and(|(old, new)| !(old - new).is_empty());
        }
        *self = changed;
        Ok(lost)
    }

    /// Seals the segments `from..=to`.
    pub fn seal(&mut self, from: usize, to: usize) -> Result<(), Refusal> {
        if self.segments[from..=to].iter().any(Option::is_none) {
            return Err(RegionError::Unmapped);
        }
        let mut mapped = self.segments[from..=to].iter().flatten();
        let is_live = |mapped: &Mapped| matches!(mapped.back, Back::Live(..));
        if mapped.any(|mapped| mapped.perm.contains(Perm::W) || is_live(mapped)) {
            return Err(RegionError::Writable);
        }
        let (start, end) = self.cuts(from, to, |old| !old.marks.contains(Marks::SEALED));
        self.room(usize::from(start) + usize::from(end))?;
        for mapped in self.segments[from..=to].iter_mut().flatten() {
            mapped.marks |= Marks::SEALED;
        }
        Ok(())
    }

    /// Adds a view that allows `perm` everywhere; its number.
    pub fn add_view(&mut self, perm: Perm) -> usize {
        let view = Some(vec![perm; SEGMENTS + 1]);
        match self.views.iter().position(Option::is_none) {
            Some(at) => {
                self.views[at] = view;
                at + 1
            }
            None => {
                self.views.push(view);
                self.views.len()
            }
        }
    }

    /// Takes a view away.
    pub fn remove_view(&mut self, number: usize) {
        if let Some(view) = self.views.get_mut(number - 1) {
            *view = None;
        }
    }

    /// Lets a view allow at most `perm` in the segments `from..=to`.
    pub fn protect_view(
        &mut self,
        number: usize,
        from: usize,
        to: usize,
        perm: Perm,
    ) -> Result<(), Refusal> {
        self.not_sealed(from, to)?;
        let Some(Some(view)) = self.views.get_mut(number - 1) else {
            return Err(RegionError::NoView);
        };
        let runs = 1 + view.windows(2).filter(|two| two[0] != two[1]).count();
        let cuts_start = from > 0 && view[from - 1] == view[from] && view[from] != perm;
        let cuts_end = view[to] == view[to + 1] && view[to] != perm;
        let cuts = usize::from(cuts_start) + usize::from(cuts_end);
        if cuts > 0 && runs + cuts > MAX_REGIONS {
            return Err(RegionError::TooMany);
        }
        view[from..=to].fill(perm);
        Ok(())
    }

    /// An access of the guest's in a view.
    pub fn view_access(
        &mut self,
        view: usize,
        number: usize,
        access: Perm,
        content: u64,
    ) -> Outcome {
        let limit = view
            .checked_sub(1)
            .map_or(Perm::all(), |at| self.views[at].as_ref().unwrap()[number]);
        if self.segments[number].is_some() && !limit.contains(access) {
            return Outcome::Hidden;
        }
        self.access(number, access, content)
    }

    /// Forgets the pages of the segments `from..=to`.
    pub fn discard(&mut self, from: usize, to: usize) -> Result<(), Refusal> {
        self.not_sealed(from, to)?;
        for mapped in self.segments[from..=to].iter_mut().flatten() {
            mapped.page = None;
        }
        Ok(())
    }

    /// An access of the guest's; a write leaves `content`.
    pub fn access(&mut self, number: usize, access: Perm, content: u64) -> Outcome {
        match &mut self.segments[number] {
            None => Outcome::Unmapped,
            Some(mapped) if !mapped.perm.contains(access) => Outcome::Denied,
            Some(mapped) => {
                let write = access.contains(Perm::W).then_some(content);
                Outcome::Content(mapped.touch(write, &self.live))
            }
        }
    }
}
