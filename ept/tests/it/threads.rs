// SPDX-License-Identifier: GPL-2.0

//! Trees that have tables in common, changed by several threads at once, each with a lock of its own.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use uvisor_ept::{Host, Hpa, Owner};

use crate::guest::{Frames, Guest};

/// How many pages of memory there are.
const MEMORY: usize = 20_000;
/// How many pages the guests have, in several tables of each level.
const PAGES: u64 = 64;
/// What is in a page that was given back.
const POISON: u64 = 0x00de_ad00_0000_0000;

/// Memory with atomic references, as the module has it.
struct Memory {
    words: Vec<[AtomicU64; 512]>,
    refs: Vec<AtomicU64>,
    free: Mutex<Vec<usize>>,
    held: AtomicUsize,
}

/// One tree's view of it.
#[derive(Clone)]
struct Pages(Arc<Memory>);

fn number(page: Hpa) -> usize {
    (page.0 >> 12) as usize
}

impl Pages {
    fn new() -> Self {
        Self(Arc::new(Memory {
            words: (0..MEMORY)
                .map(|_| [const { AtomicU64::new(0) }; 512])
                .collect(),
            refs: (0..MEMORY).map(|_| AtomicU64::new(0)).collect(),
            free: Mutex::new((1..MEMORY).collect()),
            held: AtomicUsize::new(0),
        }))
    }

    fn allocate(&self) -> Hpa {
        let page = self
            .0
            .free
            .lock()
            .unwrap()
            .pop()
            .expect("no memory is left");
        for word in &self.0.words[page] {
            word.store(0, Ordering::Relaxed);
        }
        assert_eq!(self.0.refs[page].swap(1, Ordering::Relaxed), 0);
        self.0.held.fetch_add(1, Ordering::Relaxed);
        Hpa((page as u64) << 12)
    }

    fn share(&self, page: Hpa) {
        let before = self.0.refs[number(page)].fetch_add(1, Ordering::Relaxed);
        assert!(before > 0, "a page without references is shared");
    }

    fn is_shared(&self, page: Hpa) -> bool {
        self.0.refs[number(page)].load(Ordering::Acquire) != 1
    }

    fn put(&self, page: Hpa) -> bool {
        let before = self.0.refs[number(page)].fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a reference is dropped twice");
        before == 1
    }

    fn give_back(&self, page: Hpa) {
        for word in &self.0.words[number(page)] {
            word.store(POISON, Ordering::Relaxed);
        }
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.free.lock().unwrap().insert(0, number(page));
    }
}

impl Frames for Pages {
    fn new_frame(&mut self) -> Hpa {
        self.allocate()
    }

    fn read(&self, frame: Hpa) -> u64 {
        self.0.words[number(frame)][0].load(Ordering::Relaxed)
    }

    fn write(&self, frame: Hpa, value: u64) {
        self.0.words[number(frame)][0].store(value, Ordering::Relaxed);
    }
}

// SAFETY: a page is one array from `allocate` to `give_back`.
unsafe impl Host for Pages {
    type Error = ();

    fn alloc_table(&mut self) -> Result<Hpa, ()> {
        Ok(self.allocate())
    }

    fn share_table(&self, table: Hpa) {
        self.share(table);
    }

    fn is_table_shared(&self, table: Hpa) -> bool {
        self.is_shared(table)
    }

    fn put_table(&mut self, table: Hpa) -> bool {
        self.put(table)
    }

    fn free_table(&mut self, table: Hpa) {
        self.give_back(table);
    }

    fn entries(&self, table: Hpa) -> &[AtomicU64; 512] {
        &self.0.words[number(table)]
    }

    fn share_frame(&self, frame: Hpa, _: Owner) -> Result<(), ()> {
        self.share(frame);
        Ok(())
    }

    fn is_frame_shared(&self, frame: Hpa) -> bool {
        self.is_shared(frame)
    }

    fn put_frame(&mut self, frame: Hpa, _: Owner) {
        if self.put(frame) {
            self.give_back(frame);
        }
    }
}

/// Numbers that need not be very random (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// What one thread does: it takes a guest that nobody uses, does something with it, and gives it back.
fn work(
    seed: u64,
    rounds: u64,
    mut pages: Pages,
    template: &Mutex<Guest>,
    pool: &Mutex<Vec<Guest>>,
) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
    for round in 0..rounds {
        let taken = {
            let mut pool = pool.lock().unwrap();
            let count = pool.len() as u64;
            (count > 0).then(|| pool.swap_remove(random.below(count) as usize))
        };
        let Some(mut guest) = taken else { continue };
        let many = pool.lock().unwrap().len();
        match random.below(40) {
            0..=1 => {
                guest.tree.hide(&mut pages);
                let mut template = template.lock().unwrap();
                let keep = random.below(4) as u32;
                guest.tree.restore(&mut pages, &mut template.tree, keep);
                guest.model = template.model.clone();
            }
            2..=8 if many < 40 => {
                let clone = guest.clone(&mut pages);
                pool.lock().unwrap().push(clone);
            }
            9..=13 if many > 15 => {
                guest.tree.destroy(&mut pages);
                continue;
            }
            14..=30 => {
                let value = (seed << 40) | (round << 8) | 1;
                guest.write(&mut pages, random.below(PAGES), value);
            }
            _ => guest.check(&pages),
        }
        pool.lock().unwrap().push(guest);
    }
}

#[test]
fn share_tables_without_a_common_lock() {
    let rounds = match (cfg!(miri), cfg!(debug_assertions)) {
        (true, _) => 30,
        (_, true) => 15_000,
        _ => 100_000,
    };
    let mut pages = Pages::new();
    let mut template = Guest::new(&mut pages, PAGES);
    for page in 0..PAGES {
        template.write(&mut pages, page, 1000 + page);
    }
    let first = template.clone(&mut pages);
    let (template, pool) = (Mutex::new(template), Mutex::new(vec![first]));
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (pages, template, pool) = (pages.clone(), &template, &pool);
            scope.spawn(move || work(seed, rounds, pages, template, pool));
        }
    });
    for guest in pool.into_inner().unwrap() {
        guest.check(&pages);
        guest.tree.destroy(&mut pages);
    }
    let template = template.into_inner().unwrap();
    template.check(&pages);
    template.tree.destroy(&mut pages);
    assert_eq!(pages.0.held.load(Ordering::Relaxed), 0);
}
