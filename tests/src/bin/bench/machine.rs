// SPDX-License-Identifier: GPL-2.0

//! What is measured alike on uvisor and on KVM.

use std::fs::File;
use std::time::Duration;

use uvisor_tests::code;

use uvisor_tests::bench::measure::{time, Laps, Samples, Summary};
use uvisor_tests::bench::report::{Events, Parts};

/// Where a guest's anonymous memory is, and how much.
pub const ANON: u64 = 0x80_0000;
pub const ANON_LEN: u64 = 16 << 20;
/// Where in it touching begins: before it KVM's guest has its page tables and code.
const TOUCH: u64 = ANON + (2 << 20);
/// Where a file is mapped.
const FILE: u64 = 0x800_0000;
/// Pages that are touched in one run, and how many runs there are.
pub const CHUNK: u64 = 64;
pub const CHUNKS: u64 = 48;
pub const PAGE: u64 = 4096;
/// The length of the file.
pub const FILE_LEN: u64 = CHUNK * CHUNKS * PAGE;

/// Rounds of the loops of the difference method.
const ROUNDS: u64 = 100;

code! { leave:
    "1: vmcall",
    "jmp 1b",
}

code! { cpuid:
    "1: xor %eax, %eax",
    "cpuid",
    "dec %rsi",
    "jnz 1b",
    "vmcall",
}

code! { empty:
    "1: xor %eax, %eax",
    "nop",
    "dec %rsi",
    "jnz 1b",
    "vmcall",
}

code! { write:
    "1: mov %rsi, (%rdi)",
    "add $4096, %rdi",
    "dec %rsi",
    "jnz 1b",
    "vmcall",
}

code! { read:
    "1: mov (%rdi), %rax",
    "add $4096, %rdi",
    "dec %rsi",
    "jnz 1b",
    "vmcall",
}

/// What a guest can do; the number is its place in the code page.
#[derive(Clone, Copy)]
pub enum Program {
    /// Exits to user space, again and again.
    Leave = 0,
    /// CPUID `count` times.
    Cpuid = 1,
    /// The same without CPUID.
    Empty = 2,
    /// Writes to `count` pages.
    Write = 3,
    /// Reads `count` pages.
    Read = 4,
}

impl Program {
    /// The bytes that each has.
    const ROOM: usize = 64;

    /// Where it begins in the code page.
    pub fn offset(self) -> u64 {
        self as u64 * Self::ROOM as u64
    }
}

/// A VMCALL, the guest's way out.
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];

/// The code page, with `way_out` for the VMCALLs.
pub fn code(way_out: [u8; 3]) -> Vec<u8> {
    let mut page = Vec::new();
    for program in [leave(), cpuid(), empty(), write(), read()] {
        let mut program = program.to_vec();
        while let Some(at) = program.windows(3).position(|bytes| bytes == VMCALL) {
            if way_out == VMCALL {
                break;
            }
            program[at..at + 3].copy_from_slice(&way_out);
        }
        // What follows traps: INT3.
        program.resize(Program::ROOM, 0xcc);
        page.extend(program);
    }
    page.resize(PAGE as usize, 0xcc);
    page
}

/// A machine with [`ANON_LEN`] of memory, one vCPU and the programs.
pub trait Machine: Sized {
    /// What machines are made with, opened and prepared before any is measured.
    type System;

    /// Makes one that will exit by its first instruction.
    fn create(system: &Self::System, laps: &mut Laps) -> Self;

    /// Maps a file, readable, at `gpa`.
    fn map_file(&mut self, gpa: u64, len: u64, file: &File);

    /// Sets the registers for `program`, which the next run begins.
    fn start(&mut self, program: Program, address: u64, count: u64);

    /// Runs to the guest's way out; the next run goes on behind it.
    fn run(&mut self);

    /// What has been counted so far.
    fn events(&self) -> Events;

    /// What it has to give back, as events of its destruction.
    fn holds(&self) -> Events {
        Events::default()
    }

    /// Frees everything.
    fn destroy(self, laps: &mut Laps);
}

/// What was measured: the figures, and the events of one operation.
pub struct Figure {
    pub summary: Summary,
    pub events: Events,
}

/// Creation to the first instruction, and destruction, each with its parts.
pub fn life<M: Machine>(system: &M::System, count: usize) -> [(Figure, Parts); 2] {
    let mut laps = [Laps::new(), Laps::new()];
    let mut totals = [(); 2].map(|()| Samples::with_capacity(count));
    let mut parts = [(); 2].map(|()| Vec::<(&'static str, Samples)>::new());
    let mut events = [(); 2].map(|()| Events::default());
    const WARM_UP: usize = 4;
    for round in 0..count + WARM_UP {
        // What the last one left to be done later is not this one's.
        std::thread::sleep(Duration::from_millis(5));
        laps[0].start();
        let mut machine = M::create(system, &mut laps[0]);
        machine.run();
        laps[0].lap("first run");
        events = [machine.events(), machine.holds()];
        laps[1].start();
        machine.destroy(&mut laps[1]);
        if round < WARM_UP {
            continue;
        }
        for ((laps, totals), parts) in laps.iter().zip(&mut totals).zip(&mut parts) {
            totals.push(laps.total());
            for (index, &(name, ticks)) in laps.parts().iter().enumerate() {
                if parts.len() <= index {
                    parts.push((name, Samples::with_capacity(count)));
                }
                parts[index].1.push(ticks);
            }
        }
    }
    let mut events = events.into_iter();
    let mut totals = totals.into_iter();
    parts.map(|parts| {
        let figure = Figure {
            summary: totals.next().expect("as many").summary(),
            events: events.next().expect("as many"),
        };
        let p50 = |(name, samples): (_, Samples)| (name, samples.summary().p50);
        (figure, parts.into_iter().map(p50).collect())
    })
}

/// Runs a program that exits once; the ticks.
fn once<M: Machine>(machine: &mut M, program: Program, address: u64, count: u64) -> u64 {
    machine.start(program, address, count);
    time(|| machine.run())
}

/// An exit that is handled in the kernel: what [`ROUNDS`] CPUIDs more take, less the loop.
pub fn kernel_exit<M: Machine>(machine: &mut M, samples: usize) -> Figure {
    let slope = |machine: &mut M, program| {
        let long = once(machine, program, 0, ROUNDS + 1);
        let short = once(machine, program, 0, 1);
        long.saturating_sub(short) / ROUNDS
    };
    let empty: Samples = (0..101).map(|_| slope(machine, Program::Empty)).collect();
    let empty = empty.summary().p50;
    let all: Samples = (0..samples)
        .map(|_| slope(machine, Program::Cpuid).saturating_sub(empty))
        .collect();
    // The first round's events are those of the window.
    let before = machine.events();
    once(machine, Program::Cpuid, 0, 1);
    let middle = machine.events();
    once(machine, Program::Cpuid, 0, ROUNDS + 1);
    let after = machine.events();
    Figure {
        summary: all.summary(),
        events: after
            .since(&middle)
            .since(&middle.since(&before))
            .per(ROUNDS),
    }
}

/// An exit to user space and back.
pub fn user_exit<M: Machine>(machine: &mut M, samples: usize, nothing: u64) -> Figure {
    const BATCH: u64 = 8;
    machine.start(Program::Leave, 0, 0);
    let batch = |machine: &mut M| {
        let ticks = time(|| (0..BATCH).for_each(|_| machine.run()));
        (ticks - nothing) / BATCH
    };
    for _ in 0..32 {
        batch(machine);
    }
    let before = machine.events();
    let all: Samples = (0..samples).map(|_| batch(machine)).collect();
    let events = machine.events().since(&before);
    Figure {
        summary: all.summary(),
        events: events.per(samples as u64 * BATCH),
    }
}

/// The first touch of a page: what a run over new pages takes more than the next one over them.
fn touch<M: Machine>(machine: &mut M, program: Program, start: u64) -> Figure {
    let mut all = Samples::with_capacity(CHUNKS as usize);
    let mut counted = Events::default();
    for chunk in 0..CHUNKS {
        let address = start + chunk * CHUNK * PAGE;
        let before = machine.events();
        let first = once(machine, program, address, CHUNK);
        let middle = machine.events();
        let second = once(machine, program, address, CHUNK);
        let after = machine.events();
        if chunk >= CHUNKS / 8 {
            all.push(first.saturating_sub(second) / CHUNK);
            counted = middle.since(&before).since(&after.since(&middle));
        }
    }
    Figure {
        summary: all.summary(),
        events: counted.per(CHUNK),
    }
}

/// The first touch of anonymous pages.
pub fn touch_anonymous<M: Machine>(machine: &mut M) -> Figure {
    touch(machine, Program::Write, TOUCH)
}

/// The first touch of a file's pages.
pub fn touch_file<M: Machine>(machine: &mut M, file: &File) -> Figure {
    machine.map_file(FILE, FILE_LEN, file);
    touch(machine, Program::Read, FILE)
}
