// SPDX-License-Identifier: GPL-2.0

//! Whether two families are in the same state: no step that follows can tell them apart.
//!
//! All is in it that a step may look at: what `Debug` prints of the spaces, with all private fields, and so
//! of what is added to them; the tables with every entry; references and contents; and the CPUs' caches.
//! Addresses and contents are only ever compared with each other, so that they are numbered in the order
//! in which they are met. The models are left out: they say what the spaces say, by [`Family::check`].

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;

use uvisor_ept::{Host, Hpa, MAX_VIEWS};

use crate::cpu::Cpu;
use crate::family::Family;
use crate::host::TestHost;

/// The bits of an entry that are an address.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
/// From here on contents are those of files, which are told apart.
const FILES: u64 = 1 << 40;

/// Numbers in the order in which they are met.
#[derive(Default)]
struct Names(HashMap<u64, usize>);

impl Names {
    /// The name of `number`, and whether it is new.
    fn name(&mut self, number: u64) -> (usize, bool) {
        let count = self.0.len();
        let name = *self.0.entry(number).or_insert(count);
        (name, name == count)
    }
}

/// A state that is being written down.
#[derive(Default)]
struct State {
    text: String,
    pages: Names,
    contents: Names,
    arrays: Names,
}

/// What the state of a family is, in so many bits that no two states will ever have the same.
pub fn of(family: &Family) -> u128 {
    let mut state = State::default();
    let mut debug = String::new();
    for member in &family.members {
        debug.clear();
        write!(debug, "{:?}", member.space).unwrap();
        state.debug(&debug);
        let views = (1..MAX_VIEWS).map_while(|number| {
            let count = member.model.views.len();
            (number <= count).then(|| member.space.view(number).and_then(|view| view.eptp()))
        });
        let eptps: Vec<u64> = [member.space.tree().eptp()]
            .into_iter()
            .chain(views.flatten())
            .collect();
        for eptp in eptps {
            state.table(&family.host, eptp & ADDRESS, 3);
            if let Some(cpu) = member.caches.get(&eptp) {
                state.caches(cpu);
            }
        }
    }
    for (file, page, content) in family.host.written() {
        let content = state.contents.name(content).0;
        write!(state.text, "\nwritten {file} {page} {content}").unwrap();
    }
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, &state.text).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

impl State {
    /// Adds what `Debug` printed, with names for addresses.
    fn debug(&mut self, mut text: &str) {
        self.text.push('\n');
        loop {
            let page = text.find("Hpa(").map(|at| (at, at + 4, 10));
            let array = text.find("0x").map(|at| (at, at + 2, 16));
            let next = [page, array].into_iter().flatten().min();
            let Some((at, start, radix)) = next else {
                break self.text.push_str(text);
            };
            let digits = &text[start..];
            let len = digits.find(|c: char| !c.is_digit(radix)).unwrap();
            let number = u64::from_str_radix(&digits[..len], radix).unwrap();
            let names = if radix == 10 {
                &mut self.pages
            } else {
                &mut self.arrays
            };
            let name = names.name(number).0;
            write!(self.text, "{}{name}", &text[..at]).unwrap();
            text = &digits[len..];
        }
    }

    /// Adds what a CPU has cached.
    fn caches(&mut self, cpu: &Cpu) {
        let mut tlb: Vec<_> = cpu.cached().collect();
        tlb.sort_unstable_by_key(|&(page, _)| page);
        for (page, found) in tlb {
            let frame = self.pages.name(found.frame.0).0;
            write!(self.text, "\nTLB {page} {frame} {}", found.perm.bits()).unwrap();
        }
        let mut tables: Vec<_> = cpu.table_cache().collect();
        tables.sort_unstable_by_key(|&(level, part, ..)| (level, part));
        for (level, part, table, perm) in tables {
            let table = self.pages.name(table).0;
            write!(self.text, "\nvia {level} {part} {table} {}", perm.bits()).unwrap();
        }
    }

    /// Adds a table and all below it, unless that is there already.
    fn table(&mut self, host: &TestHost, table: u64, level: u32) {
        let (name, is_new) = self.pages.name(table);
        // A root is named by its tree before it comes here, and met once.
        if !is_new && level < 3 {
            return;
        }
        let refs = host.table_references(Hpa(table));
        write!(self.text, "\ntable {name} {refs}").unwrap();
        let mut below = Vec::new();
        for (at, slot) in host.entries(Hpa(table)).iter().enumerate() {
            let entry = slot.load(Ordering::Relaxed);
            if entry == 0 {
                continue;
            }
            // What is not present has its address inverted.
            let address = if entry & 7 == 0 { !entry } else { entry } & ADDRESS;
            let (name, is_new) = match level {
                0 => self.pages.name(address),
                _ => {
                    below.push(address);
                    (0, false)
                }
            };
            write!(self.text, "; {at} {:x} {name}", entry & !ADDRESS).unwrap();
            if is_new {
                self.frame(host, Hpa(address));
            }
        }
        for table in below {
            self.text.push_str("\nto");
            self.table(host, table, level - 1);
            let name = self.pages.name(table).0;
            write!(self.text, " {name}").unwrap();
        }
    }

    /// Adds a frame.
    fn frame(&mut self, host: &TestHost, at: Hpa) {
        let refs = host.frame_references(at);
        let frame = host.frame(at);
        let content = match frame.content {
            0 => 0,
            content if content < FILES => 1 + self.contents.name(content).0 as u64,
            content => content,
        };
        write!(self.text, " {:?} {refs} {content}", frame.owner).unwrap();
    }
}
