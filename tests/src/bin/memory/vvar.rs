// SPDX-License-Identifier: GPL-2.0

//! The kernel's vDSO data, and its code that runs on them in a guest.

use std::os::fd::AsFd;

use uvisor::{Event, Exit, MemoryCause, Prot, PAGE_SIZE};
use uvisor_tests::host::{memory_file, own_mapping};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, DATA};

use crate::machine::{Machine, Read, Write, AT};

// Calls r14 with the clock r12 and the place r13 until it fails, its time goes back, or rbx is 0; the last time
// in r15, or 0 if it failed.
code! { clock:
    "2: mov %r12, %rdi",
    "mov %r13, %rsi",
    "call *%r14",
    "test %eax, %eax",
    "jnz 3f",
    "imul $1000000000, (%r13), %rax",
    "add 8(%r13), %rax",
    "cmp %r15, %rax",
    "jb 3f",
    "mov %rax, %r15",
    "dec %rbx",
    "jnz 2b",
    "vmcall",
    "3: xor %r15d, %r15d",
    "vmcall",
}

code! { features: "mov $0x80000001, %eax", "cpuid", "vmcall" }

/// The vDSO's code as a guest can run it. Where a CPU has RDTSCP and its guests do not, the kernel's other
/// way to read the counter in order takes its place, which is as long.
fn runnable(image: &[u8]) -> Vec<u8> {
    const RDTSCP: [u8; 5] = [0x0f, 0x01, 0xf9, 0x66, 0x90];
    const LFENCE_RDTSC: [u8; 5] = [0x0f, 0xae, 0xe8, 0x0f, 0x31];
    let mut guest = Guest::new(features());
    guest.run();
    let mut image = image.to_vec();
    if guest.vcpu.regs().rdx & (1 << 27) == 0 {
        println!("# guests have no RDTSCP here");
        for at in 0..image.len() - RDTSCP.len() {
            let place = &mut image[at..at + RDTSCP.len()];
            if place == RDTSCP {
                place.copy_from_slice(&LFENCE_RDTSC);
            }
        }
    }
    image
}

/// What a clock of the host's says, in nanoseconds.
fn now(clock: libc::clockid_t) -> u64 {
    // SAFETY: The call fills the structure.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The host's code runs in the guest, on the host's own data, and takes no exit.
pub(crate) fn time() -> Outcome {
    let clock_source = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let clock_source = std::fs::read_to_string(clock_source).map_err(|e| e.to_string())?;
    if clock_source.trim() != "tsc" {
        println!("# the vDSO makes system calls, as the clock source is {clock_source}");
        return Ok(());
    }
    let (data, image) = (own_mapping("[vvar]")?, own_mapping("[vdso]")?);
    // SAFETY: The names are C strings, and the image is one of this process for good.
    let function = unsafe {
        let flags = libc::RTLD_NOW | libc::RTLD_NOLOAD;
        let handle = libc::dlopen(c"linux-vdso.so.1".as_ptr(), flags);
        libc::dlsym(handle, c"__vdso_clock_gettime".as_ptr()) as u64
    };
    check("the function", image.contains(&function))?;
    // SAFETY: The kernel maps the image readable, and nobody takes it away.
    let bytes = unsafe {
        let len = (image.end - image.start) as usize;
        std::slice::from_raw_parts(image.start as *const u8, len)
    };
    let mut guest = Guest::new(clock());
    let vm = &guest.vm;
    let text = |e: uvisor::Error| e.to_string();
    vm.map_vvar(AT, data.end - data.start, data.start)
        .map_err(text)?;
    let there = AT + (image.start - data.start);
    let (file, prot) = (memory_file(&runnable(bytes)), Prot::READ | Prot::EXEC);
    vm.map_file(there, image.end - image.start, prot, file.as_fd(), 0)
        .map_err(text)?;
    let start = *guest.vcpu.regs();
    for clock in [
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME,
    ] {
        for (round, calls) in [(0, 1), (1, 200)] {
            let before = guest.vm.stats().map_err(text)?.events;
            let first = now(clock);
            let regs = guest.vcpu.regs_mut();
            *regs = start;
            regs.r12 = clock as u64;
            regs.r13 = DATA;
            regs.r14 = function - image.start + there;
            regs.r15 = first;
            regs.rbx = calls;
            let exit = guest.run();
            let last = now(clock);
            let what = format!("clock {clock}, round {round}");
            equal(&what, exit, Exit::Hypercall { ring: 3 })?;
            let seen = guest.vcpu.regs().r15;
            check(
                &format!("{what}: {first} {seen} {last}"),
                first <= seen && seen <= last,
            )?;
            equal("calls left", guest.vcpu.regs().rbx, 0)?;
            let after = guest.vm.stats().map_err(text)?.events;
            let more = |event: Event| after[event as usize] - before[event as usize];
            equal("exits to user space", more(Event::ExitUser), 1)?;
            equal("hypercalls", more(Event::ExitHypercall), 1)?;
            if round > 0 {
                equal("faults", more(Event::ExitEpt), 0)?;
                equal("others in the kernel", more(Event::ExitKernel), 0)?;
            }
        }
    }
    Ok(())
}

/// The pages are the very ones that the host has, and nobody writes to them.
pub(crate) fn pages() -> Outcome {
    let data = own_mapping("[vvar]")?;
    let len = data.end - data.start;
    let mut machine = Machine::new();
    let before = machine.stats()?;
    let text = |e: uvisor::Error| e.to_string();
    machine.vm().map_vvar(AT, len, data.start).map_err(text)?;
    // The kernel writes to the page now and then.
    let is_same = |machine: &Machine| {
        let mut bytes = [0; 256];
        machine.vm().read_at(AT, &mut bytes).map_err(text)?;
        let at = data.start as *const u64;
        let own = (0..32).map(|number| {
            // SAFETY: The page is mapped for good; the kernel may write to it, hence volatile.
            unsafe { at.add(number).read_volatile() }
        });
        let own: Vec<u64> = own.collect();
        let words = bytes.chunks_exact(8);
        let seen: Vec<u64> = words
            .map(|w| w.try_into().map_or(0, u64::from_le_bytes))
            .collect();
        Ok::<_, String>(seen == own && own.iter().any(|&word| word != 0))
    };
    let mut same = 0;
    for _ in 0..1000 {
        same += u32::from(is_same(&machine)?);
    }
    check(&format!("the same {same} times of 1000"), same > 300)?;
    machine.refused(Write, AT, MemoryCause::Denied)?;
    let clone = machine.vm().share(0).map_err(text)?;
    clone.read_at(AT, &mut [0; 8]).map_err(text)?;
    let written = clone.write_at(AT, &[1]).map_err(|e| e.errno());
    equal("pwrite", written, Err(Some(libc::EFAULT)))?;
    drop(clone);
    let vm = machine.vm();
    vm.remap(AT..AT + len, AT + 0x10_0000..AT + 0x10_0000 + 2 * len)
        .map_err(text)?;
    check("the time", machine.read(AT + 0x10_0000 + 8)? != 0)?;
    // What is longer than the data goes on with nothing.
    machine.refused(Read, AT + 0x10_0000 + len, MemoryCause::FileEnd)?;
    equal("private", machine.stats()?.private, before.private)?;
    machine.unmap(AT + 0x10_0000, 2 * len / PAGE_SIZE)
}
