// SPDX-License-Identifier: GPL-2.0

//! Whether a clone that has run, and was reset, is what its template is.
//!
//! The template's memory is read by way of a fresh clone: reading a page that the template has never
//! touched would make it come into being there, for good. What is not zero is read from the template as well.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use super::point::run_until;
use super::{Result, Template, TemplateError};
use crate::space::{Backing, Space};
use crate::task::{End, Task, TaskError};
use crate::{Exit, Prot, Regs, Vcpu, Vm, PAGE_SIZE};

/// What is changed on purpose behind the reset, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A byte of memory.
    Memory,
    /// A bit of a general register.
    Register,
    /// A vector register.
    Vector,
}

/// How far the clone runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// To this system call.
    pub calls: Option<u64>,
    /// For so long.
    pub time: Option<Duration>,
}

/// What the clone did before it was reset.
#[derive(Debug)]
pub struct Ran {
    /// How it ended, if it did.
    pub end: Option<End>,
    /// How many system calls it made.
    pub calls: u64,
    /// How many pages of its own it gave back.
    pub pages: u64,
}

/// A clone that has been reset.
#[derive(Debug)]
pub struct Reset {
    vm: Vm,
    vcpu: Vcpu,
    /// What the task had mapped at its end.
    space: Space,
    /// An address that the template has memory at.
    somewhere: u64,
}

/// What was compared, and what differs.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pages whose bytes were compared.
    pub pages: u64,
    /// Those among them that are not zero, and were compared with the template's own.
    pub pages_with_content: u64,
    /// Pages that the guest can read in neither.
    pub pages_unreadable: u64,
    /// Names of registers that were compared.
    pub registers: Vec<&'static str>,
    /// Bytes of extended state (x87, vector registers, protection keys) that were compared.
    pub extended_bytes: u64,
    /// What differs, in words.
    pub differences: Vec<String>,
}

impl Report {
    /// Whether nothing differs.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// The most differences of a kind that are listed one by one.
const LISTED: usize = 8;

/// How much is read at once.
const CHUNK: u64 = 16 * PAGE_SIZE;

impl Task {
    /// Runs a task that goes on with a template, and puts its micro-VM and vCPU back to the template.
    pub fn run_and_reset(mut self, bounds: Bounds) -> Result<(Ran, Reset)> {
        let mut calls = 0;
        let end = run_until(&mut self, bounds.time, |_| {
            calls += 1;
            bounds.calls.is_some_and(|most| calls > most)
        })?;
        let somewhere = self.shared.random.address;
        let space = self.shared.book.lock().space.clone();
        let mut vcpu = self.vcpu;
        let vm = self.memory.vm().duplicate()?;
        let pages = vm.reset().map_err(|error| match error.errno() {
            Some(libc::EINVAL) => TemplateError::Executed,
            _ => error.into(),
        })?;
        vcpu.reset()?;
        let ran = Ran { end, calls, pages };
        let reset = Reset {
            vm,
            vcpu,
            space,
            somewhere,
        };
        Ok((ran, reset))
    }
}

impl Reset {
    /// Compares it with its template.
    pub fn compare(mut self, template: &Template, change: Option<Change>) -> Result<Report> {
        match change {
            Some(Change::Memory) => {
                let mut byte = [0];
                self.vm.read_at(self.somewhere, &mut byte)?;
                self.vm.write_at(self.somewhere, &[!byte[0]])?;
            }
            Some(Change::Register) => self.vcpu.regs_mut().rbx ^= 1,
            Some(Change::Vector) | None => {}
        }
        let mut report = Report::default();
        // First, as reading makes pages come into being.
        let diff = self.vm.diff()?;
        list(&mut report, "pages that DIFF lists", &diff);
        let counts = (template.vm.stats()?.regions, self.vm.stats()?.regions);
        if counts.0 != counts.1 {
            let text = format!("{} regions, the template has {}", counts.1, counts.0);
            report.differences.push(text);
        }
        registers(&mut report, self.vcpu.regs(), template.vcpu.regs());

        let fresh = template.vm.share(0)?;
        let mut fresh_vcpu = fresh.create_vcpu_from(&template.vcpu)?;
        let space = template.state.space();
        let limit = template.state.layout.limit;
        let mut ranges = union(&[&space, &self.space], limit);
        // What the shim needs is beyond what the task can address.
        ranges.push(limit..fresh.size());
        let mut memory = Comparison {
            ours: &self.vm,
            fresh: &fresh,
            template: &template.vm,
            report: &mut report,
            different: Vec::new(),
        };
        for range in ranges {
            memory.compare(range)?;
        }
        let different = std::mem::take(&mut memory.different);
        list(&mut report, "pages with other bytes", &different);

        // Last, as it changes both.
        let mut both = space;
        for piece in self.space.pieces(0, limit) {
            both.remove(piece.start, piece.end);
            let (end, prot, backing) = (piece.end, piece.prot, Backing::Reserved);
            both.insert(piece.start, crate::space::Area { end, prot, backing });
        }
        let at = both.find(
            PROBE_LEN,
            crate::layout::MMAP_MIN,
            template.state.layout.mmap_top,
        );
        let at = at.ok_or(TemplateError::Message("no room for a probe"))?;
        let theirs = extended_state(&fresh, &mut fresh_vcpu, at, false)?;
        let spoiled = change == Some(Change::Vector);
        let ours = extended_state(&self.vm, &mut self.vcpu, at, spoiled)?;
        report.extended_bytes = ours.len() as u64;
        let places = (0..).zip(ours.iter().zip(&theirs));
        let differ = places
            .filter(|(_, (a, b))| a != b)
            .map(|(at, _)| at..at + 1);
        let differ: Vec<Range<u64>> = differ.collect();
        list(&mut report, "bytes of extended state", &differ);
        Ok(report)
    }
}

/// Notes ranges that differ; adjacent ones are one.
fn list(report: &mut Report, what: &str, ranges: &[Range<u64>]) {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range.clone()),
        }
    }
    for range in joined.iter().take(LISTED) {
        let text = format!("{what}: {:#x} to {:#x}", range.start, range.end);
        report.differences.push(text);
    }
    if joined.len() > LISTED {
        let text = format!("{what}: {} more ranges", joined.len() - LISTED);
        report.differences.push(text);
    }
}

/// The general registers by name.
fn named(regs: &Regs) -> [(&'static str, u64); 23] {
    [
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rbp", regs.rbp),
        ("rsp", regs.rsp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
        ("rip", regs.rip),
        ("rflags", regs.rflags),
        ("fs_base", regs.fs_base),
        ("gs_base", regs.gs_base),
        ("kernel_gs_base", regs.kernel_gs_base),
        ("cpl", regs.cpl),
        ("view", regs.view),
    ]
}

/// Compares the general registers.
fn registers(report: &mut Report, ours: &Regs, template: &Regs) {
    for ((name, ours), (_, theirs)) in named(ours).into_iter().zip(named(template)) {
        report.registers.push(name);
        if ours != theirs {
            let text = format!("register {name}: {ours:#x}, the template has {theirs:#x}");
            report.differences.push(text);
        }
    }
}

/// What is in any of some spaces, in ascending order, but for what the kernel changes.
fn union(spaces: &[&Space], end: u64) -> Vec<Range<u64>> {
    let pieces = spaces
        .iter()
        .flat_map(|space| space.pieces(0, end))
        .filter(|piece| piece.backing != Backing::Kernel);
    let borders: BTreeSet<(u64, u64)> = pieces.map(|piece| (piece.start, piece.end)).collect();
    let mut all: Vec<Range<u64>> = Vec::new();
    for (start, end) in borders {
        match all.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => all.push(start..end),
        }
    }
    all
}

/// Memory being compared.
struct Comparison<'a> {
    ours: &'a Vm,
    fresh: &'a Vm,
    template: &'a Vm,
    report: &'a mut Report,
    different: Vec<Range<u64>>,
}

/// What the guest can read at an address, if it can.
fn bytes(vm: &Vm, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; len as usize];
    match vm.read_at(at, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.errno() == Some(libc::EFAULT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Comparison<'_> {
    /// Compares a range. The last one, the supervisor's, is a gibibyte of which only the beginning is mapped:
    /// it ends where neither has anything.
    fn compare(&mut self, range: Range<u64>) -> Result<()> {
        let supervisor = range.end == self.fresh.size();
        let mut at = range.start;
        while at < range.end {
            let len = CHUNK.min(range.end - at);
            let (ours, fresh) = (bytes(self.ours, at, len)?, bytes(self.fresh, at, len)?);
            match (&ours, &fresh) {
                (Some(ours), Some(fresh)) if ours == fresh => {
                    self.report.pages += len / PAGE_SIZE;
                    self.content(at, ours)?;
                }
                _ => {
                    let before = self.report.pages_unreadable;
                    for page in (at..at + len).step_by(PAGE_SIZE as usize) {
                        self.page(page)?;
                    }
                    let unreadable = self.report.pages_unreadable - before;
                    if supervisor && unreadable == len / PAGE_SIZE {
                        self.report.pages_unreadable = before;
                        return Ok(());
                    }
                }
            }
            at += len;
        }
        Ok(())
    }

    /// Compares a page.
    fn page(&mut self, at: u64) -> Result<()> {
        let ours = bytes(self.ours, at, PAGE_SIZE)?;
        let fresh = bytes(self.fresh, at, PAGE_SIZE)?;
        match (&ours, &fresh) {
            (None, None) => self.report.pages_unreadable += 1,
            (Some(a), Some(b)) if a == b => {
                self.report.pages += 1;
                self.content(at, a)?;
            }
            _ => {
                self.report.pages += 1;
                self.different.push(at..at + PAGE_SIZE);
            }
        }
        Ok(())
    }

    /// Compares pages of ours that are not zero with the template's own.
    fn content(&mut self, at: u64, ours: &[u8]) -> Result<()> {
        for (index, page) in (0..).zip(ours.chunks(PAGE_SIZE as usize)) {
            let at: u64 = at + index * PAGE_SIZE;
            if page.iter().any(|&byte| byte != 0) {
                self.report.pages_with_content += 1;
                if bytes(self.template, at, PAGE_SIZE)?.as_deref() != Some(page) {
                    self.different.push(at..at + PAGE_SIZE);
                }
            }
        }
        Ok(())
    }
}

/// A page of code, and room for all extended state that there is.
const PROBE_LEN: u64 = PAGE_SIZE + EXTENDED_MAX;
const EXTENDED_MAX: u64 = 4 * PAGE_SIZE;

/// `xsave64 [rdi]; vmcall`, and before it `pcmpeqd xmm15, xmm15` to spoil what is there.
const SPOIL: [u8; 5] = [0x66, 0x45, 0x0f, 0x76, 0xff];
const STORE: [u8; 7] = [0x48, 0x0f, 0xae, 0x27, 0x0f, 0x01, 0xc1];

/// The header of an XSAVE area. It says which parts are in their initial state, as far as the CPU keeps track:
/// two CPUs with the same registers may say other things.
const HEADER: Range<usize> = 512..576;

/// The extended state of a vCPU, as its guest stores it: nothing else can see it. What is at `at` must be
/// free.
fn extended_state(vm: &Vm, vcpu: &mut Vcpu, at: u64, spoil: bool) -> Result<Vec<u8>> {
    vm.map_anonymous(at, PROBE_LEN, Prot::READ | Prot::WRITE | Prot::EXEC)?;
    let code = if spoil {
        [&SPOIL[..], &STORE].concat()
    } else {
        STORE.to_vec()
    };
    vm.write_at(at, &code)?;
    let regs = vcpu.regs_mut();
    (regs.rip, regs.cpl) = (at, 3);
    // All that the guest may have.
    (regs.rax, regs.rdx) = (u64::MAX, u64::MAX);
    regs.rdi = at + PAGE_SIZE;
    loop {
        match vcpu.run()? {
            Exit::Interrupted => {}
            Exit::Hypercall { ring: 3 } => break,
            exit => {
                return Err(TaskError::Ring0 {
                    exit: format!("{exit:?} in a probe"),
                    rip: at,
                }
                .into())
            }
        }
    }
    let mut state = vec![0; EXTENDED_MAX as usize];
    vm.read_at(at + PAGE_SIZE, &mut state)?;
    state.drain(HEADER);
    // What no part of it takes is zero, and not worth being counted.
    let used = state.iter().rposition(|&byte| byte != 0);
    state.truncate(used.map_or(0, |last| last + 1).max(512));
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Area;

    #[test]
    fn registers_are_told_apart() {
        let mut report = Report::default();
        let template = Regs::default();
        registers(&mut report, &template, &template);
        assert!(report.is_equal());
        assert_eq!(report.registers.len() * 8, std::mem::size_of::<Regs>());
        for index in 0..23 {
            let mut words = [0u64; 23];
            words[index] = 1;
            let mut report = Report::default();
            // SAFETY: The structure is these words, and any are valid for it.
            let regs: Regs = unsafe { std::mem::transmute(words) };
            registers(&mut report, &regs, &template);
            assert_eq!(report.differences.len(), 1, "{index}");
        }
    }

    #[test]
    fn ranges_that_meet_are_one() {
        let space = |areas: &[(u64, u64)]| {
            let mut space = Space::default();
            for &(start, end) in areas {
                let (prot, backing) = (Prot::READ, Backing::PrivateFile);
                space.insert(start, Area { end, prot, backing });
            }
            space
        };
        let (a, b) = (space(&[(1, 3), (5, 6)]), space(&[(2, 4), (6, 9), (20, 21)]));
        assert_eq!(union(&[&a, &b], 100), [1..4, 5..9, 20..21]);
        let mut report = Report::default();
        list(&mut report, "x", &[1..2, 2..3, 5..6]);
        assert_eq!(report.differences, ["x: 0x1 to 0x3", "x: 0x5 to 0x6"]);
        let many: Vec<_> = (0..20).map(|n| n * 2..n * 2 + 1).collect();
        let mut report = Report::default();
        list(&mut report, "x", &many);
        assert_eq!(report.differences.len(), LISTED + 1);
    }

    #[test]
    fn memory_is_compared_by_content() {
        use crate::memory::tests::memory;
        let all: Vec<Vm> = (0..3)
            .map(|_| memory(40 * PAGE_SIZE).vm().duplicate().unwrap())
            .collect();
        for vm in &all {
            vm.write_at(5 * PAGE_SIZE, b"x").unwrap();
        }
        let compare = || {
            let mut report = Report::default();
            let mut comparison = Comparison {
                ours: &all[0],
                fresh: &all[1],
                template: &all[2],
                report: &mut report,
                different: Vec::new(),
            };
            // Beyond the end of the file nothing can be read.
            comparison.compare(0..44 * PAGE_SIZE).unwrap();
            let different = comparison.different;
            (report, different)
        };
        let (report, different) = compare();
        assert_eq!((report.pages, report.pages_with_content), (40, 1));
        assert_eq!(report.pages_unreadable, 4);
        assert!(different.is_empty());
        all[0].write_at(7 * PAGE_SIZE + 9, b"y").unwrap();
        let page = 7 * PAGE_SIZE..8 * PAGE_SIZE;
        assert_eq!(compare().1, std::slice::from_ref(&page));
        all[1].write_at(7 * PAGE_SIZE + 9, b"y").unwrap();
        // Now only the template itself is another.
        assert_eq!(compare().1, std::slice::from_ref(&page));
    }
}
