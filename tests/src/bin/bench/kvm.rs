// SPDX-License-Identifier: GPL-2.0

//! KVM's side: the same work by plain ioctls, as little of it as KVM allows.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use uvisor_tests::kvm::{cmd, Cpuid, Region, Regs, Segment, Sregs, EXIT_IO, RDI, RFLAGS, RIP, RSI};

use crate::machine::{code, Machine, Program, ANON, ANON_LEN, PAGE};
use crate::native::Memory;
use uvisor_tests::bench::measure::{time, Laps, Samples, Summary};
use uvisor_tests::bench::report::Events;

/// The guest's way out: `out %al, $0x10; nop`.
const WAY_OUT: [u8; 3] = [0xe6, 0x10, 0x90];
/// Where `struct kvm_run` has the reason of an exit.
const EXIT_REASON: usize = 8;
const MEM_READONLY: u32 = 2;

/// Where the guest's code is, in its memory, with the page tables behind it.
const CODE: u64 = ANON;
const TABLES: u64 = ANON + 0x1000;

/// Calls an ioctl that takes an integer.
fn call(fd: &File, command: u32, argument: u64) -> i32 {
    // SAFETY: The callers' commands take an integer, or one of the structures above, by `call_with`.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), command as _, argument) };
    let error = std::io::Error::last_os_error();
    assert!(result >= 0, "KVM ioctl {command:#x}: {error}");
    result
}

/// Calls an ioctl that takes the structure `T`.
fn call_with<T>(fd: &File, command: u32, argument: &mut T) -> i32 {
    call(fd, command, ptr::from_mut(argument) as u64)
}

/// The file that an ioctl returned.
fn new_file(fd: i32) -> File {
    // SAFETY: The kernel just made it for us.
    unsafe { File::from_raw_fd(fd) }
}

/// What is the same for every VM.
pub struct System {
    device: File,
    run_len: usize,
    sregs: Sregs,
    /// All that KVM supports.
    cpuid: Box<Cpuid>,
    code: Vec<u8>,
    /// A page-map level 4 and its one table, of 1 GiB pages, one to one.
    tables: Vec<u8>,
}

impl System {
    /// Opens the device.
    pub fn new() -> std::io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/kvm")?;
        let run_len = call(&device, cmd::GET_VCPU_MMAP_SIZE, 0) as usize;

        // Reset values from a vCPU that nobody runs; the rest is long mode, flat.
        let vm = new_file(call(&device, cmd::CREATE_VM, 0));
        let vcpu = new_file(call(&vm, cmd::CREATE_VCPU, 0));
        let mut sregs = Sregs::default();
        call_with(&vcpu, cmd::GET_SREGS, &mut sregs);
        let data = Segment {
            limit: u32::MAX,
            selector: 0x18,
            kind: 3,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Segment::default()
        };
        for segment in &mut sregs.segments[..6] {
            *segment = data;
        }
        sregs.segments[0] = Segment {
            selector: 0x10,
            kind: 11,
            db: 0,
            l: 1,
            ..data
        };
        sregs.cr0 = 0x8000_0033;
        sregs.cr3 = TABLES;
        sregs.cr4 = 0x20;
        sregs.efer = 0x500;

        let mut cpuid = Cpuid::empty();
        call_with(&device, cmd::GET_SUPPORTED_CPUID, &mut *cpuid);

        let mut entries = [0u64; 1024];
        entries[0] = (TABLES + 0x1000) | 0x23;
        for (gib, entry) in entries[512..516].iter_mut().enumerate() {
            *entry = (gib as u64) << 30 | 0xe3;
        }
        let tables = entries.iter().flat_map(|entry| entry.to_le_bytes());
        Ok(Self {
            device,
            run_len,
            sregs,
            cpuid,
            code: code(WAY_OUT),
            tables: tables.collect(),
        })
    }
}

/// The shared page of a vCPU; unmapped when dropped.
struct RunPage {
    base: NonNull<u8>,
    len: usize,
}

impl RunPage {
    fn map(vcpu: &File, len: usize) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: The kernel chooses an unused range.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                prot,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        assert_ne!(base, libc::MAP_FAILED, "mmap of a vCPU");
        let base = NonNull::new(base.cast()).expect("an address");
        Self { base, len }
    }

    fn exit_reason(&self) -> u32 {
        // SAFETY: The field is inside, aligned, and written by RUN alone.
        unsafe {
            self.base
                .as_ptr()
                .add(EXIT_REASON)
                .cast::<u32>()
                .read_volatile()
        }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: The range is ours.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A VM of KVM's.
pub struct KvmVm {
    page: RunPage,
    vcpu: File,
    vm: File,
    memory: Vec<Memory>,
}

impl KvmVm {
    /// Shows the guest `memory` at `gpa`.
    fn add_region(&mut self, gpa: u64, len: u64, flags: u32, memory: Memory) {
        region(&self.vm, self.memory.len() as u32, gpa, len, flags, &memory);
        self.memory.push(memory);
    }
}

/// A VM with as much memory as a template has, filled by the host with a word a page, up to its first
/// instruction: what KVM has to do each time, as it has no templates.
pub fn from_scratch(system: &System, bytes: u64, count: usize) -> Summary {
    /// Where the memory is: below what the page tables map.
    const HEAP: u64 = 1 << 30;
    let build = || {
        let mut machine = KvmVm::create(system, &mut Laps::new());
        let mut memory = Memory::map(bytes, None);
        for page in 0..bytes / PAGE {
            memory.write((page * PAGE) as usize, &page.to_le_bytes());
        }
        machine.add_region(HEAP, bytes, 0, memory);
        machine.run();
        machine
    };
    let samples: Samples = (0..count)
        .map(|_| {
            let mut machine = None;
            let ticks = time(|| machine = Some(build()));
            drop(machine);
            ticks
        })
        .collect();
    samples.summary()
}

/// Sets a memory slot.
fn region(vm: &File, slot: u32, gpa: u64, len: u64, flags: u32, memory: &Memory) {
    let mut region = Region {
        slot,
        flags,
        gpa,
        len,
        address: memory.base() as u64,
    };
    call_with(vm, cmd::SET_USER_MEMORY_REGION, &mut region);
}

impl Machine for KvmVm {
    type System = System;

    fn create(system: &System, laps: &mut Laps) -> Self {
        let vm = new_file(call(&system.device, cmd::CREATE_VM, 0));
        laps.lap("CREATE_VM");
        let mut memory = Memory::map(ANON_LEN, None);
        memory.write(0, &system.code);
        memory.write((TABLES - ANON) as usize, &system.tables);
        laps.lap("mmap of the memory, code, page tables");
        region(&vm, 0, ANON, ANON_LEN, 0, &memory);
        laps.lap("SET_USER_MEMORY_REGION");
        let vcpu = new_file(call(&vm, cmd::CREATE_VCPU, 0));
        laps.lap("CREATE_VCPU");
        let page = RunPage::map(&vcpu, system.run_len);
        laps.lap("mmap of the vCPU");
        // Without it the vCPU has no long mode.
        let cpuid = ptr::from_ref::<Cpuid>(&system.cpuid) as u64;
        call(&vcpu, cmd::SET_CPUID2, cpuid);
        laps.lap("SET_CPUID2");
        call_with(&vcpu, cmd::SET_SREGS, &mut { system.sregs });
        let mut machine = Self {
            page,
            vcpu,
            vm,
            memory: vec![memory],
        };
        machine.start(Program::Leave, 0, 0);
        laps.lap("SET_SREGS, SET_REGS");
        machine
    }

    fn map_file(&mut self, gpa: u64, len: u64, file: &File) {
        self.add_region(gpa, len, MEM_READONLY, Memory::map(len, Some(file)));
    }

    fn start(&mut self, program: Program, address: u64, count: u64) {
        let mut regs = Regs::default();
        regs[RIP] = CODE + program.offset();
        regs[RFLAGS] = 2;
        regs[RDI] = address;
        regs[RSI] = count;
        call_with(&self.vcpu, cmd::SET_REGS, &mut regs);
    }

    fn run(&mut self) {
        // SAFETY: The command takes no argument.
        while unsafe { libc::ioctl(self.vcpu.as_raw_fd(), cmd::RUN as _, 0) } < 0 {
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::EINTR), "KVM_RUN: {error}");
        }
        assert_eq!(self.page.exit_reason(), EXIT_IO, "reason of KVM's exit");
    }

    fn events(&self) -> Events {
        stats(&self.vcpu).unwrap_or_default()
    }

    fn destroy(self, laps: &mut Laps) {
        drop(self.page);
        drop(self.vcpu);
        laps.lap("run page and vCPU");
        drop(self.vm);
        laps.lap("VM");
        drop(self.memory);
        laps.lap("munmap of the memory");
    }
}

/// The cumulative counters of a vCPU, by the binary statistics interface.
fn stats(vcpu: &File) -> Option<Events> {
    let file = new_file(call(vcpu, cmd::GET_STATS_FD, 0));
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    // Flags, the length of names, the number of counters, and where things are.
    let header = read(0, 24)?;
    let (name_len, count) = (word(&header, 4)? as usize, word(&header, 8)? as usize);
    let (descriptors, data) = (word(&header, 16)?, word(&header, 20)?);
    let entry = 16 + name_len;
    let all = read(descriptors.into(), entry * count)?;
    let mut counters = Vec::new();
    for descriptor in all.chunks_exact(entry) {
        let (flags, size) = (word(descriptor, 0)?, word(descriptor, 4)? >> 16);
        // Of the cumulative type, with no unit, and a single value.
        if flags & 0xff != 0 || size != 1 {
            continue;
        }
        let name = descriptor[16..].split(|&byte| byte == 0).next()?;
        let at = u64::from(data) + u64::from(word(descriptor, 8)?);
        let value = u64::from_le_bytes(read(at, 8)?.try_into().ok()?);
        counters.push((String::from_utf8_lossy(name).into_owned(), value as f64));
    }
    Some(counters.into_iter().collect())
}
