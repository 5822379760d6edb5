// SPDX-License-Identifier: GPL-2.0

//! vCPUs: what VCPU_CREATE, RUN and KICK refuse, and the run page.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use libc::{EBADF, EBUSY, EINVAL, ENOSPC};
use uvisor::RunFlags;
use uvisor_tests::raw::{fails, ioctl, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, DATA};
use uvisor_uapi as uapi;
use uvisor_uapi::{VcpuCreate, PAGE_SIZE};

use crate::{guest, PAGE};

code! { endless: "movl $1, 0x500000", "1: jmp 1b" }

pub(crate) fn registers() -> Outcome {
    let mut guest = guest();
    let good = *guest.vcpu.regs();
    let hole = [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff, 0x8000_0000_0000];
    let mut bad = Vec::new();
    for address in hole {
        bad.push((
            "rip",
            uvisor::Regs {
                rip: address,
                ..good
            },
        ));
        bad.push((
            "fs_base",
            uvisor::Regs {
                fs_base: address,
                ..good
            },
        ));
        bad.push((
            "gs_base",
            uvisor::Regs {
                gs_base: address,
                ..good
            },
        ));
        bad.push((
            "kernel_gs_base",
            uvisor::Regs {
                kernel_gs_base: address,
                ..good
            },
        ));
    }
    for cpl in [1, 2, 4, 7, u64::MAX, 1 << 32] {
        bad.push(("cpl", uvisor::Regs { cpl, ..good }));
    }
    for (name, regs) in bad {
        *guest.vcpu.regs_mut() = regs;
        fails(
            &format!("{name} in {regs:x?}"),
            ioctl(&guest.vcpu, uapi::RUN, 0),
            EINVAL,
        )?;
        equal("registers of a refused RUN", *guest.vcpu.regs(), regs)?;
    }
    *guest.vcpu.regs_mut() = good;
    for bit in 1..32 {
        // SAFETY: The module is what judges the bits.
        let flags = unsafe { RunFlags::from_bits_unchecked(1 << bit) };
        guest.vcpu.set_flags(flags);
        fails(
            &format!("run flag {bit}"),
            ioctl(&guest.vcpu, uapi::RUN, 0),
            EINVAL,
        )?;
    }
    guest.vcpu.set_flags(RunFlags::empty());
    for argument in [1, 8, PAGE, usize::MAX] {
        fails(
            "RUN with an argument",
            ioctl(&guest.vcpu, uapi::RUN, argument),
            EINVAL,
        )?;
        fails(
            "VCPU_RESET with an argument",
            ioctl(&guest.vcpu, uapi::VCPU_RESET, argument),
            EINVAL,
        )?;
        fails(
            "FREEZE with an argument",
            ioctl(&guest.vm, uapi::FREEZE, argument),
            EINVAL,
        )?;
        fails(
            "KICK with an argument",
            ioctl(&guest.vcpu, uapi::KICK, argument),
            EINVAL,
        )?;
    }
    guest.run_to_hypercall()
}

pub(crate) fn vcpu_arguments() -> Outcome {
    let guest = guest();
    let create = |cr3, syscall_entry| {
        let mut create = VcpuCreate {
            cr3,
            syscall_entry,
            ..VcpuCreate::new()
        };
        let fd = ioctl_with(&guest.vm, uapi::VCPU_CREATE, &mut create)?;
        // SAFETY: The call made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let sourced = |change: fn(&mut VcpuCreate)| {
        let mut create = VcpuCreate {
            flags: uapi::VcpuFlags::SOURCE.bits(),
            source: guest.vcpu.as_fd().as_raw_fd(),
            ..VcpuCreate::new()
        };
        change(&mut create);
        let fd = ioctl_with(&guest.vm, uapi::VCPU_CREATE, &mut create)?;
        // SAFETY: The call made it for us.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(())
    };
    works("from a source", sourced(|_| ()))?;
    fails(
        "a source without its flag",
        sourced(|c| c.flags = 0),
        EINVAL,
    )?;
    fails("a source and cr3", sourced(|c| c.cr3 = PAGE_SIZE), EINVAL)?;
    works(
        "a source and an entry",
        sourced(|c| c.syscall_entry = PAGE_SIZE),
    )?;
    fails(
        "a source and an entry that is not canonical",
        sourced(|c| c.syscall_entry = 1 << 47),
        EINVAL,
    )?;
    fails(
        "a source and a mask",
        sourced(|c| c.syscall_mask = 1),
        EINVAL,
    )?;
    fails("a reserved field", sourced(|c| c.reserved = 1), EINVAL)?;
    fails("no such file", sourced(|c| c.source = -1), EBADF)?;
    fails("a file too large", sourced(|c| c.source = i32::MAX), EBADF)?;
    fails("another kind of file", sourced(|c| c.source = 0), EBADF)?;
    let vm = VcpuCreate {
        flags: uapi::VcpuFlags::SOURCE.bits(),
        source: guest.vm.as_fd().as_raw_fd(),
        ..VcpuCreate::new()
    };
    let result = ioctl_with(&guest.vm, uapi::VCPU_CREATE, &mut { vm });
    fails("a VM as the source", result, EBADF)?;
    let top = 1u64 << guest.device.gpa_bits();
    for cr3 in [1, 8, 0xfff, 0x1001, top, 1 << 52, 1 << 63, u64::MAX] {
        fails(&format!("cr3 {cr3:#x}"), create(cr3, 0), EINVAL)?;
    }
    for entry in [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff] {
        fails(&format!("entry {entry:#x}"), create(0, entry), EINVAL)?;
    }
    works("the last cr3", create(top - PAGE_SIZE, u64::MAX))?;
    let info = guest.device.info().map_err(|e| e.to_string())?;
    let mut vcpus = vec![];
    for number in 1..info.max_vcpus {
        vcpus.push(works(&format!("vCPU {number}"), create(0, 0))?);
    }
    fails("one vCPU too many", create(0, 0), ENOSPC)?;
    vcpus.pop();
    works("a vCPU for one that went", create(0, 0)).map(drop)
}

pub(crate) fn run_page() -> Outcome {
    let guest = guest();
    let fd = guest.vcpu.as_fd();
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let exec = rw | libc::PROT_EXEC;
    let page = PAGE as i64;
    for (what, len, prot, flags, offset, errno) in [
        ("two pages", 2 * PAGE, rw, shared, 0, EINVAL),
        ("second page", PAGE, rw, shared, page, EINVAL),
        ("private", PAGE, rw, libc::MAP_PRIVATE, 0, EINVAL),
        ("executable", PAGE, exec, shared, 0, libc::EPERM),
    ] {
        fails(what, mmap(Some(&fd), len, prot, flags, offset), errno)?;
    }
    let at = works("good", mmap(Some(&fd), PAGE, rw, shared, 0))?;
    // SAFETY: A mapping of ours.
    let result = unsafe { libc::mprotect(at.cast(), PAGE, exec) };
    equal("made executable", result, -1)?;
    munmap(at, PAGE);
    let fd = guest.vm.as_fd();
    for (what, prot, flags, errno) in [
        ("private", rw, libc::MAP_PRIVATE, EINVAL),
        ("executable", exec, shared, libc::EPERM),
    ] {
        fails(
            &format!("VM: {what}"),
            mmap(Some(&fd), PAGE, prot, flags, 0),
            errno,
        )?;
    }
    let at = works("VM: good", mmap(Some(&fd), PAGE, rw, shared, 0))?;
    // SAFETY: A mapping of ours.
    let result = unsafe { libc::mprotect(at.cast(), PAGE, exec) };
    munmap(at, PAGE);
    equal("VM: made executable", result, -1)
}

pub(crate) fn busy() -> Outcome {
    let guest = Guest::new(endless());
    let fd = works(
        "dup",
        guest.vcpu.as_fd().try_clone_to_owned().map_err(|_| 0),
    )?;
    let kicker = guest.vcpu.kicker();
    let (mut vcpu, vm) = (guest.vcpu, guest.vm);
    let thread = std::thread::spawn(move || vcpu.run().map_err(|e| e.to_string()));
    let mut started = [0];
    while started == [0] && !thread.is_finished() {
        vm.read_at(DATA, &mut started).map_err(|e| e.to_string())?;
        std::thread::yield_now();
    }
    check("the guest started", started != [0])?;
    let seen = ioctl(&fd, uapi::RUN, 0);
    kicker.kick().map_err(|e| e.to_string())?;
    let other = thread.join().map_err(|_| "the runner panicked")??;
    equal("the runner", other, uvisor::Exit::Interrupted)?;
    fails("RUN of a running vCPU", seen, EBUSY)
}
