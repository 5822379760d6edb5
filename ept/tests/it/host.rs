// SPDX-License-Identifier: GPL-2.0

//! A host of which every table and frame is accounted for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use uvisor_ept::{Backing, Host, Hpa, Owner};

/// No memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// Lets the n-th allocation from now on fail, once; shared by all that allocate.
#[derive(Clone, Default, Debug)]
pub struct Failure {
    /// How many allocations go well before it.
    left: Rc<Cell<Option<usize>>>,
    /// Whether what failed was a reference on a frame.
    reference: Rc<Cell<bool>>,
}

impl Failure {
    /// Lets the allocation after `n` others fail; none if `n` is none.
    pub fn after(&self, n: Option<usize>) {
        self.left.set(n);
        self.reference.set(false);
    }

    /// Whether an allocation is still going to fail.
    pub fn is_pending(&self) -> bool {
        self.left.get().is_some()
    }

    /// Whether the allocation that failed was a reference on a frame.
    pub fn was_reference(&self) -> bool {
        self.reference.get()
    }

    /// Counts a reference on a frame, which is an allocation as well.
    fn refer(&self) -> Result<(), NoMemory> {
        self.allocate().inspect_err(|_| self.reference.set(true))
    }

    /// Counts an allocation.
    pub fn allocate(&self) -> Result<(), NoMemory> {
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                Err(NoMemory)
            }
            left => {
                self.left.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}

/// A map by numbers that nobody chooses to harm, so that a fast hash will do.
pub type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// The hash of numbers: each is mixed in by a multiplication.
#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = self.0.rotate_left(5) ^ number;
        self.0 = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A frame of guest memory.
#[derive(Debug)]
pub struct Frame {
    /// Whose it is.
    pub owner: Owner,
    /// References on it.
    pub refs: usize,
    /// What is in it; one number stands for all its bytes.
    pub content: u64,
}

/// Tables, frames and a page cache. No address is ever used twice, so that a stale one is noticed.
#[derive(Default, Debug)]
pub struct TestHost {
    /// The tables, on the heap, so that a sanitizer sees what is used after it was freed.
    tables: NumberMap<u64, Box<[AtomicU64; 512]>>,
    /// References on each table.
    table_refs: RefCell<NumberMap<u64, usize>>,
    /// The frames that have a reference.
    frames: NumberMap<u64, Frame>,
    /// References that leaves of other tables took on frames.
    shared: RefCell<NumberMap<u64, usize>>,
    /// The frames of files' pages, with a reference each, by file and page number.
    cache: NumberMap<(u32, u64), Hpa>,
    /// How many pages there ever were.
    pages: u64,
    /// Which allocation fails.
    pub failure: Failure,
    /// Whether the CPU has execute-only pages.
    pub exec_only: bool,
}

impl TestHost {
    /// A host with a CPU that has execute-only pages.
    pub fn new() -> Self {
        Self {
            exec_only: true,
            ..Self::default()
        }
    }

    /// The address of a page that never was.
    fn fresh_page(&mut self) -> u64 {
        self.pages += 1;
        self.pages << 12
    }

    /// How many tables there are.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }

    /// Whether there is such a table.
    pub fn is_table(&self, address: u64) -> bool {
        self.tables.contains_key(&address)
    }

    /// How many references there are on a table that must exist.
    pub fn table_references(&self, table: Hpa) -> usize {
        self.table_refs.borrow()[&table.0]
    }

    /// How many references there are on a frame that must exist.
    pub fn frame_references(&self, frame: Hpa) -> usize {
        self.frame(frame).refs + self.shared.borrow().get(&frame.0).unwrap_or(&0)
    }

    /// How many references there are on all frames but the page cache's own.
    pub fn references(&self) -> usize {
        let shared: usize = self.shared.borrow().values().sum();
        let own: usize = self.frames.values().map(|frame| frame.refs).sum();
        own + shared - self.cache.len()
    }

    /// A frame of the micro-VM's own, with the caller's reference.
    pub fn new_frame(&mut self, content: u64) -> Hpa {
        let address = self.fresh_page();
        self.frames.insert(
            address,
            Frame {
                owner: Owner::Private,
                refs: 1,
                content,
            },
        );
        Hpa(address)
    }

    /// The frame of a file's page, with a reference for the caller.
    pub fn file_frame(&mut self, file: u32, page: u64) -> Hpa {
        self.cached_frame(file, page, Owner::File)
    }

    /// The frame of a page of a file that is written to in place, with a reference for the caller.
    pub fn live_frame(&mut self, file: u32, page: u64) -> Hpa {
        self.cached_frame(file, page, Owner::Live)
    }

    /// The frame that a fault wants, with a reference for the caller.
    pub fn wanted_frame(&mut self, backing: &Back, owner: Owner) -> Hpa {
        match (backing, owner) {
            (&Back::File(file, page), Owner::File) => self.file_frame(file, page),
            (&Back::File(file, page), Owner::Private) => self.new_frame(file_content(file, page)),
            (&Back::Live(file, page), Owner::Live) => self.live_frame(file, page),
            _ => panic!("{backing:?} for {owner:?}"),
        }
    }

    /// The pages that were written to in place, and what is in them.
    pub fn written(&self) -> Vec<(u32, u64, u64)> {
        let cached = self.cache.iter().map(|(&(file, page), &frame)| {
            let content = self.frame(frame).content;
            (file, page, content)
        });
        let mut written: Vec<_> = cached
            .filter(|&(file, page, content)| content != file_content(file, page))
            .collect();
        written.sort_unstable();
        written
    }

    /// The frame of a page in the page cache.
    fn cached_frame(&mut self, file: u32, page: u64, owner: Owner) -> Hpa {
        let frame = match self.cache.get(&(file, page)) {
            Some(&frame) => frame,
            None => {
                let frame = Hpa(self.fresh_page());
                let content = file_content(file, page);
                self.frames.insert(
                    frame.0,
                    Frame {
                        owner,
                        refs: 1,
                        content,
                    },
                );
                self.cache.insert((file, page), frame);
                frame
            }
        };
        self.get_frame(frame);
        frame
    }

    /// A frame that must exist.
    pub fn frame(&self, frame: Hpa) -> &Frame {
        self.frames.get(&frame.0).expect("the frame was given back")
    }

    /// Writes to a frame, which must be the micro-VM's own, or one that is written to in place.
    pub fn write(&mut self, frame: Hpa, content: u64) {
        let frame = self
            .frames
            .get_mut(&frame.0)
            .expect("the frame was given back");
        assert_ne!(frame.owner, Owner::File, "a file's page is written to");
        frame.content = content;
    }

    /// Takes another reference on a frame.
    pub fn get_frame(&mut self, frame: Hpa) {
        self.frames
            .get_mut(&frame.0)
            .expect("the frame was given back")
            .refs += 1;
    }

    /// How many frames there are but the page cache's.
    pub fn frames(&self) -> usize {
        self.frames.len() - self.cache.len()
    }

    /// Drops a reference.
    pub fn drop_frame(&mut self, frame: Hpa) {
        if let Some(shared) = self.shared.get_mut().get_mut(&frame.0) {
            *shared -= 1;
            if *shared == 0 {
                self.shared.get_mut().remove(&frame.0);
            }
            return;
        }
        let refs = &mut self
            .frames
            .get_mut(&frame.0)
            .expect("no reference is left")
            .refs;
        *refs -= 1;
        if *refs == 0 {
            self.frames.remove(&frame.0);
        }
    }
}

// SAFETY: a table stays in its box from `alloc_table` to `free_table`, and only `entries` gives it.
unsafe impl Host for TestHost {
    type Error = NoMemory;

    fn alloc_table(&mut self) -> Result<Hpa, NoMemory> {
        self.failure.allocate()?;
        let address = self.fresh_page();
        let table = Box::new([const { AtomicU64::new(0) }; 512]);
        self.tables.insert(address, table);
        self.table_refs.get_mut().insert(address, 1);
        Ok(Hpa(address))
    }

    fn share_table(&self, table: Hpa) {
        let mut refs = self.table_refs.borrow_mut();
        *refs.get_mut(&table.0).expect("the table was given back") += 1;
    }

    fn is_table_shared(&self, table: Hpa) -> bool {
        self.table_refs.borrow()[&table.0] > 1
    }

    fn put_table(&mut self, table: Hpa) -> bool {
        let refs = self.table_refs.get_mut().get_mut(&table.0);
        let refs = refs.expect("the table was given back");
        *refs -= 1;
        *refs == 0
    }

    fn free_table(&mut self, table: Hpa) {
        let refs = self.table_refs.get_mut().remove(&table.0);
        assert_eq!(refs, Some(0), "the table has references");
        assert!(
            self.tables.remove(&table.0).is_some(),
            "no table at {table:?}"
        );
    }

    fn entries(&self, table: Hpa) -> &[AtomicU64; 512] {
        self.tables.get(&table.0).expect("the table was given back")
    }

    fn share_frame(&self, frame: Hpa, owner: Owner) -> Result<(), NoMemory> {
        self.failure.refer()?;
        assert_eq!(self.frame(frame).owner, kind(owner));
        *self.shared.borrow_mut().entry(frame.0).or_default() += 1;
        Ok(())
    }

    fn is_frame_shared(&self, frame: Hpa) -> bool {
        self.frame_references(frame) > 1
    }

    fn put_frame(&mut self, frame: Hpa, owner: Owner) {
        if owner == Owner::Lent {
            return;
        }
        assert_eq!(self.frame(frame).owner, kind(owner));
        self.drop_frame(frame);
    }

    fn exec_only(&self) -> bool {
        self.exec_only
    }
}

/// What a frame is that a leaf of this owner has.
fn kind(owner: Owner) -> Owner {
    match owner {
        Owner::Shared => Owner::Private,
        owner => owner,
    }
}

/// What a file has at a page.
pub fn file_content(file: u32, page: u64) -> u64 {
    ((u64::from(file) + 1) << 40) | page
}

/// What a region's pages are made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Back {
    /// Zeros.
    Zero,
    /// A file from a page on.
    File(u32, u64),
    /// A file from a page on, to which is written in place; none that is [`Back::File`] as well.
    Live(u32, u64),
}

impl Back {
    /// What a region that begins at this page is made from.
    pub fn new(what: What, page: u64) -> Self {
        match what {
            What::Zeros => Self::Zero,
            What::File(file) => Self::File(file, page),
            What::Live => Self::Live(LIVE_FILE, page),
        }
    }
}

/// The file of all [`Back::Live`] of random steps.
const LIVE_FILE: u32 = 9;

/// What a region is made from, wherever it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Zeros.
    Zeros,
    /// A file.
    File(u32),
    /// A file to which is written in place.
    Live,
}

impl Backing for Back {
    fn advance(&self, bytes: u64) -> Self {
        match *self {
            Back::Zero => Back::Zero,
            Back::File(file, page) => Back::File(file, page + (bytes >> 12)),
            Back::Live(file, page) => Back::Live(file, page + (bytes >> 12)),
        }
    }

    fn continues(&self, bytes: u64, next: &Self) -> bool {
        self.advance(bytes) == *next
    }

    fn is_anonymous(&self) -> bool {
        *self == Back::Zero
    }

    fn is_live(&self) -> bool {
        matches!(self, Back::Live(..))
    }
}
