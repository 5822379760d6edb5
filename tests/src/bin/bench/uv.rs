// SPDX-License-Identifier: GPL-2.0

//! uvisor's side.

use std::fs::File;
use std::os::fd::AsFd;

use uvisor::guest::Guest;
use uvisor::{Device, Event, Exit, Prot, Vcpu, Vm, HYPERCALL_LEN, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::CODE;

use crate::machine::{code, Machine, Program, ANON, ANON_LEN};
use uvisor_tests::bench::measure::Laps;
use uvisor_tests::bench::report::Events;

/// What is the same for every micro-VM.
pub struct System {
    device: Device,
    tables: Guest,
    code: File,
}

impl System {
    /// Opens the device.
    pub fn new() -> uvisor::Result<Self> {
        let device = Device::open()?;
        let tables = Guest::new(&device)?;
        let code = memory_file(&code([0x0f, 0x01, 0xc1]));
        Ok(Self {
            device,
            tables,
            code,
        })
    }

    /// Whether any mitigation is applied.
    pub fn is_mitigated(&self) -> bool {
        self.device.info().is_ok_and(|info| info.mitigations != 0)
    }

    /// The mitigations that are applied.
    pub fn mitigations(&self) -> String {
        self.device.info().map_or_else(
            |e| e.to_string(),
            |info| match uvisor::Mitigations::from_bits_truncate(info.mitigations) {
                none if none.is_empty() => "none".to_owned(),
                some => format!("{some:?}"),
            },
        )
    }
}

/// What happened to a micro-VM so far.
pub fn events(vm: &Vm) -> Events {
    let stats = vm.stats().expect("STATS");
    Event::NAMES
        .iter()
        .zip(stats.events)
        .map(|(&name, count)| (name.to_owned(), count as f64))
        .collect()
}

/// A micro-VM.
pub struct MicroVm {
    pub vm: Vm,
    pub vcpu: Vcpu,
}

impl Machine for MicroVm {
    type System = System;

    fn create(system: &System, laps: &mut Laps) -> Self {
        let vm = system.device.create_vm(0).expect("VM_CREATE");
        laps.lap("VM_CREATE");
        vm.map_anonymous(ANON, ANON_LEN, Prot::READ | Prot::WRITE)
            .expect("memory");
        laps.lap("MAP of the memory");
        system.tables.install(&vm).expect("page tables");
        laps.lap("MAP of the page tables and the shim");
        let prot = Prot::READ | Prot::EXEC;
        vm.map_file(CODE, PAGE_SIZE, prot, system.code.as_fd(), 0)
            .expect("code");
        laps.lap("MAP of the code");
        let mut vcpu = system.tables.create_vcpu(&vm).expect("VCPU_CREATE");
        vcpu.regs_mut().rip = CODE;
        laps.lap("VCPU_CREATE and its run page");
        Self { vm, vcpu }
    }

    fn map_file(&mut self, gpa: u64, len: u64, file: &File) {
        self.vm
            .map_file(gpa, len, Prot::READ, file.as_fd(), 0)
            .expect("file");
    }

    fn start(&mut self, program: Program, address: u64, count: u64) {
        let regs = self.vcpu.regs_mut();
        regs.rip = CODE + program.offset();
        regs.rdi = address;
        regs.rsi = count;
    }

    fn run(&mut self) {
        loop {
            match self.vcpu.run().expect("RUN") {
                Exit::Hypercall { .. } => break,
                Exit::Interrupted => {}
                other => panic!("{other:x?} at {:x?}", self.vcpu.regs()),
            }
        }
        self.vcpu.regs_mut().rip += HYPERCALL_LEN;
    }

    fn events(&self) -> Events {
        events(&self.vm)
    }

    fn holds(&self) -> Events {
        let stats = self.vm.stats().expect("STATS");
        [
            ("frames_freed", stats.private / PAGE_SIZE),
            ("tables_freed", stats.tables / PAGE_SIZE),
            ("file_pages_put", stats.file / PAGE_SIZE),
        ]
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count as f64))
        .collect()
    }

    fn destroy(self, laps: &mut Laps) {
        drop(self.vcpu);
        laps.lap("run page and vCPU");
        drop(self.vm);
        laps.lap("VM");
    }
}
