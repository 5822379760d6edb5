// SPDX-License-Identifier: GPL-2.0

//! Guests in ring 0: page tables of the test's own, which map memory for both rings.

use uvisor::{Device, Prot, Vcpu, Vm, VmFlags, PAGE_SIZE};

use crate::guest::{load, CODE, DATA};

/// Where the page tables are.
pub const TABLES: u64 = 0x10_0000;
/// Where ring 0 sees address 0: SMEP keeps it from executing what ring 3 can reach.
pub const SUPERVISOR: u64 = 0xffff_ffff_8000_0000;
/// How many pages the tables have.
const TABLE_PAGES: u64 = 5;
/// Bits of an entry: present, writable, accessed, dirty.
const ENTRY: u64 = 0x63;
const USER: u64 = 0x4;
const LARGE: u64 = 0x80;

/// A micro-VM whose first GiB is mapped one to one for ring 3, and at [`SUPERVISOR`] for ring 0.
pub struct Kernel {
    /// The device, kept open.
    pub device: Device,
    /// The micro-VM.
    pub vm: Vm,
    /// Its vCPU.
    pub vcpu: Vcpu,
}

impl Kernel {
    /// One that runs `code` in `ring`, with a page of data and its stack at the end of it.
    pub fn new(code: &[u8], ring: u64) -> Self {
        Self::with(code, ring, VmFlags::empty())
    }

    /// The same in a micro-VM with `flags`.
    pub fn with(code: &[u8], ring: u64, flags: VmFlags) -> Self {
        let device = Device::open().expect("the device");
        let vm = device.create_vm_with(0, flags).expect("a micro-VM");
        install_tables(&vm);
        load(&vm, CODE, code);
        vm.map_anonymous(DATA, PAGE_SIZE, Prot::READ | Prot::WRITE)
            .expect("data");
        let mut vcpu = vm.create_vcpu(TABLES, 0, 0).expect("a vCPU");
        enter(&mut vcpu, ring);
        Self { device, vm, vcpu }
    }
}

/// Sets a vCPU to the start of the code in `ring`.
pub fn enter(vcpu: &mut Vcpu, ring: u64) {
    let base = if ring == 0 { SUPERVISOR } else { 0 };
    let regs = vcpu.regs_mut();
    regs.rip = base + CODE;
    regs.rsp = DATA + PAGE_SIZE - 0x100;
    regs.cpl = ring;
}

/// Maps and fills the tables.
pub fn install_tables(vm: &Vm) {
    vm.map_anonymous(TABLES, TABLE_PAGES * PAGE_SIZE, Prot::READ | Prot::WRITE)
        .expect("page tables");
    let set = |page: u64, index: u64, entry: u64| {
        let at = TABLES + page * PAGE_SIZE + index * 8;
        vm.write_at(at, &entry.to_le_bytes()).expect("an entry");
    };
    let table = |page: u64| (TABLES + page * PAGE_SIZE) | ENTRY;
    set(0, 0, table(1) | USER);
    set(0, 511, table(2));
    set(1, 0, table(3) | USER);
    set(2, 510, table(4));
    for (page, user) in [(3, USER), (4, 0)] {
        let entries = (0..512u64).map(|entry| (entry << 21) | ENTRY | LARGE | user);
        let bytes: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        vm.write_at(TABLES + page * PAGE_SIZE, &bytes)
            .expect("large pages");
    }
}
