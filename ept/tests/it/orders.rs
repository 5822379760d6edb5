// SPDX-License-Identifier: GPL-2.0

//! Clones that are used by several threads at once, in all orders and with all that the orderings of their
//! references allow, by loom.
//!
//! References are counted as the module counts them (`kmod/pages.rs`), and the trees are real ones. Loom
//! changes threads at a reference only, which is where threads meet; it does not see the entries of tables
//! nor what is in frames, but it is told who looked at a page and who changed it, and fails if a change is
//! not ordered behind all that others did before. Looking is told by [`Host::entries`]. That a table was
//! changed is found by comparing it with a copy, before the next change of threads; and who is told that
//! a page is not shared any more, or that it dropped the last reference, may do what it likes from there on,
//! so that it counts as a change.
//!
//! That loom finds an ordering that is too weak is tested as well.

use std::cell::RefCell;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::sync::atomic::{self, AtomicU64, AtomicUsize};
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use loom::sync::atomic::{AtomicU64 as References, Ordering};
use loom::thread;
use uvisor_ept::{Host, Hpa, Owner};

use crate::effort::Effort;
use crate::guest::{Frames, Guest};

/// How references are counted.
#[derive(Clone, Copy)]
struct Orders {
    is_shared: Ordering,
    put: Ordering,
}

/// What the module does.
const MODULE: Orders = Orders {
    is_shared: Acquire,
    put: AcqRel,
};

/// A table or a frame.
struct Page {
    words: Box<[AtomicU64; 512]>,
    /// What was in it when threads could last change.
    seen: RefCell<Box<[u64; 512]>>,
    references: References,
    /// Stands for the page, for loom.
    accesses: UnsafeCell<()>,
    is_free: RefCell<bool>,
}

/// Pages that there ever were: none is used twice, since nothing but the allocator would order that.
struct Memory {
    orders: Orders,
    pages: RefCell<Vec<Rc<Page>>>,
}

/// One tree's view of it. Loom's threads are coroutines of one thread, so that what changes at no
/// reference needs no lock.
#[derive(Clone)]
struct Pages(Rc<Memory>);

impl Page {
    fn look(&self) {
        assert!(!*self.is_free.borrow(), "a page that was given back");
        self.accesses.with(|_| ());
    }

    fn change(&self) {
        assert!(!*self.is_free.borrow(), "a page that was given back");
        self.accesses.with_mut(|_| ());
    }
}

impl Pages {
    fn new(orders: Orders) -> Self {
        Self(Rc::new(Memory {
            orders,
            pages: RefCell::new(Vec::new()),
        }))
    }

    fn page(&self, at: Hpa) -> Rc<Page> {
        Rc::clone(&self.0.pages.borrow()[(at.0 >> 12) as usize - 1])
    }

    fn allocate(&self) -> Hpa {
        let page = Page {
            words: Box::new([const { AtomicU64::new(0) }; 512]),
            seen: RefCell::new(Box::new([0; 512])),
            references: References::new(1),
            accesses: UnsafeCell::new(()),
            is_free: RefCell::new(false),
        };
        page.change();
        let mut pages = self.0.pages.borrow_mut();
        pages.push(Rc::new(page));
        Hpa((pages.len() as u64) << 12)
    }

    /// Tells what this thread has changed, before another may go on.
    fn settle(&self) {
        for page in self.0.pages.borrow().iter() {
            let mut seen = page.seen.borrow_mut();
            let mut is_changed = false;
            for (word, seen) in page.words.iter().zip(seen.iter_mut()) {
                let now = word.load(atomic::Ordering::Relaxed);
                is_changed |= now != *seen;
                *seen = now;
            }
            if is_changed {
                page.change();
            }
        }
    }

    fn share(&self, at: Hpa) {
        self.settle();
        let before = self.page(at).references.fetch_add(1, Relaxed);
        assert!(before > 0, "a page without references is shared");
    }

    fn is_shared(&self, at: Hpa) -> bool {
        self.settle();
        let page = self.page(at);
        let is_shared = page.references.load(self.0.orders.is_shared) != 1;
        if !is_shared {
            page.change();
        }
        is_shared
    }

    fn put(&self, at: Hpa) -> bool {
        self.settle();
        let page = self.page(at);
        let before = page.references.fetch_sub(1, self.0.orders.put);
        assert!(before > 0, "a reference is dropped twice");
        if before == 1 {
            page.change();
        }
        before == 1
    }

    fn give_back(&self, at: Hpa) {
        let page = self.page(at);
        page.change();
        *page.is_free.borrow_mut() = true;
    }

    /// How many pages were not given back.
    fn held(&self) -> usize {
        let pages = self.0.pages.borrow();
        pages.iter().filter(|page| !*page.is_free.borrow()).count()
    }
}

// SAFETY: a page keeps its words, and no other gets its address.
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
        let page = self.page(table);
        page.look();
        // SAFETY: the words are in a box that lives as long as `self` has the memory, which forgets no page.
        unsafe { &*std::ptr::from_ref(&*page.words) }
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

impl Frames for Pages {
    fn new_frame(&mut self) -> Hpa {
        self.allocate()
    }

    fn read(&self, frame: Hpa) -> u64 {
        let page = self.page(frame);
        page.look();
        page.words[0].load(atomic::Ordering::Relaxed)
    }

    fn write(&self, frame: Hpa, value: u64) {
        let page = self.page(frame);
        page.change();
        page.words[0].store(value, atomic::Ordering::Relaxed);
    }
}

/// What a thread does with a guest of its own, the first of those that it gets; behind it the first thread
/// has their template.
type Work = fn(&mut Pages, &mut Vec<Guest>);

/// Writes to a page.
const WRITE: Work = |pages, guests| {
    guests[0].write(pages, 0, 77);
    guests[0].check(pages);
};

/// Writes to a page in another leaf table.
const WRITE_OTHER: Work = |pages, guests| {
    guests[0].write(pages, 8, 78);
    guests[0].check(pages);
};

/// Goes.
const DESTROY: Work = |pages, guests| guests.swap_remove(0).tree.destroy(pages);

/// Is cloned and written to.
const CLONE: Work = |pages, guests| {
    let clone = guests[0].clone(pages);
    guests[0].write(pages, 0, 79);
    clone.check(pages);
    guests.push(clone);
};

/// Writes, and goes back to its template.
const RESET: Work = |pages, guests| {
    let [guest, template] = &mut guests[..] else {
        panic!("no template")
    };
    guest.write(pages, 0, 80);
    guest.tree.hide(pages);
    guest.tree.restore(pages, &mut template.tree, 2);
    guest.model.clone_from(&template.model);
    guest.check(pages);
};

/// Lets clones of a template do their work at once, in all orders with few changes of threads that nothing
/// asks for; then counts all pages. How many orders that were.
fn explore(orders: Orders, works: &'static [Work]) -> usize {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let mut builder = loom::model::Builder::new();
    let bound = [1, 3, 4][Effort::now() as usize];
    builder.preemption_bound = Some(if works.len() > 2 { bound.min(2) } else { bound });
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, atomic::Ordering::Relaxed);
        let mut pages = Pages::new(orders);
        let mut template = Guest::new(&mut pages, 9);
        for page in [0, 8] {
            template.write(&mut pages, page, 1000 + page);
        }
        let mut parties: Vec<_> = works
            .iter()
            .map(|work| (*work, vec![template.clone(&mut pages)]))
            .collect();
        parties[0].1.push(template);
        pages.settle();
        let threads: Vec<_> = parties
            .into_iter()
            .map(|(work, mut guests)| {
                let mut pages = pages.clone();
                thread::spawn(move || {
                    work(&mut pages, &mut guests);
                    pages.settle();
                    guests
                })
            })
            .collect();
        for thread in threads {
            for guest in thread.join().unwrap() {
                guest.check(&pages);
                guest.tree.destroy(&mut pages);
            }
        }
        assert_eq!(pages.held(), 0);
    });
    count.load(atomic::Ordering::Relaxed)
}

/// What is done at once.
const PLAYS: &[(&str, &[Work])] = &[
    ("two write to one page", &[WRITE, WRITE]),
    ("two write to two pages", &[WRITE, WRITE_OTHER]),
    ("one writes and one goes", &[WRITE, DESTROY]),
    ("two go", &[DESTROY, DESTROY]),
    ("one is cloned and one writes", &[CLONE, WRITE]),
    ("one is cloned and one goes", &[CLONE, DESTROY]),
    ("one is reset and one writes", &[RESET, WRITE]),
    ("one is reset and one goes", &[RESET, DESTROY]),
    ("two write and one goes", &[WRITE, WRITE, DESTROY]),
];

#[test]
fn are_enough() {
    for (name, works) in PLAYS {
        let count = explore(MODULE, works);
        println!("{name}: {count} orders");
        assert!(count > 5);
    }
}

/// Whether loom finds something wrong, and what.
fn finding(orders: Orders) -> Option<String> {
    PLAYS.iter().find_map(|(_, works)| {
        let failed = catch_unwind(|| explore(orders, works)).err()?;
        let text = failed.downcast_ref::<String>();
        Some(text.cloned().unwrap_or_default())
    })
}

#[test]
fn are_needed() {
    let weak = [
        Orders {
            is_shared: Relaxed,
            ..MODULE
        },
        Orders {
            put: Acquire,
            ..MODULE
        },
        Orders {
            put: Release,
            ..MODULE
        },
        Orders {
            put: Relaxed,
            ..MODULE
        },
    ];
    for orders in weak {
        let found = finding(orders).expect("loom sees nothing wrong");
        assert!(found.contains("Causality violation"), "{found}");
    }
}
