// SPDX-License-Identifier: GPL-2.0

//! Every call with every bad argument.

mod files;
mod regions;
mod structures;
mod vcpus;

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use libc::{EINVAL, EMFILE, ENOTTY};
use uvisor::Device;
use uvisor_tests::raw::{fails, ioctl, ioctl_with, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap};
use uvisor_uapi as uapi;
use uvisor_uapi::{Limits, Map, VcpuCreate, VmCreate, PAGE_SIZE};

const PAGE: usize = PAGE_SIZE as usize;
/// An address where no test's guest has anything.
const FREE: u64 = 0x1000_0000;

code! { call: "vmcall", "hlt" }

/// The device and one micro-VM with one vCPU.
fn guest() -> Guest {
    Guest::new(call())
}

fn device() -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(uapi::DEVICE).expect("the device")
}

fn unknown_commands() -> Outcome {
    let guest = guest();
    let all = [
        uapi::INFO,
        uapi::VM_CREATE,
        uapi::LIST,
        uapi::MAP,
        uapi::UNMAP,
        uapi::REMAP,
        uapi::PROTECT,
        uapi::STATS,
        uapi::LIMITS,
        uapi::VCPU_CREATE,
        uapi::CLONE,
        uapi::FREEZE,
        uapi::RESET,
        uapi::DISCARD,
        uapi::DIFF,
        uapi::BIND,
        uapi::RUN,
        uapi::KICK,
        uapi::VCPU_RESET,
    ];
    let unknown = |command: u32| (uapi::IOCTL_TYPE << 8) | command;
    let strange = [
        unknown(0x03),
        unknown(0x0f),
        unknown(0x2f),
        unknown(0x33),
        unknown(0xff),
        0xae80,
    ];
    let known = [
        ("device", guest.device.as_fd(), &all[..3]),
        ("VM", guest.vm.as_fd(), &all[3..16]),
        ("vCPU", guest.vcpu.as_fd(), &all[16..]),
    ];
    for (name, fd, own) in known {
        for command in all.into_iter().chain(strange).filter(|c| !own.contains(c)) {
            for argument in [0, PAGE] {
                fails(
                    &format!("{name}: {command:#x}"),
                    ioctl(&fd, command, argument),
                    ENOTTY,
                )?;
            }
        }
        // A direction and a size in the number make it another command.
        let other = own[0] | 0xc008_0000;
        fails(&format!("{name}: {other:#x}"), ioctl(&fd, other, 0), ENOTTY)?;
    }
    Ok(())
}

/// MAP of one structure in a fresh micro-VM.
fn map(map: Map) -> Result<i32, i32> {
    ioctl_with(&guest().vm, uapi::MAP, &mut { map })
}

fn limits() -> Outcome {
    let device = device();
    for memory_limit in [1, PAGE_SIZE - 1] {
        let mut create = VmCreate {
            memory_limit,
            ..VmCreate::new()
        };
        fails(
            "VM_CREATE limit",
            ioctl_with(&device, uapi::VM_CREATE, &mut create),
            EINVAL,
        )?;
        let mut limits = Limits {
            memory_limit,
            ..Limits::new()
        };
        fails(
            "LIMITS",
            ioctl_with(&guest().vm, uapi::LIMITS, &mut limits),
            EINVAL,
        )?;
    }
    let mut limits = Limits {
        memory_limit: u64::MAX,
        ..Limits::new()
    };
    works("LIMITS", ioctl_with(&guest().vm, uapi::LIMITS, &mut limits)).map(drop)
}

fn exhausted() -> Outcome {
    let device = device();
    let guest = guest();
    let vms = || {
        Device::open()
            .and_then(|d| d.info())
            .map(|i| (i.vms, i.memory))
            .map_err(|e| e.to_string())
    };
    let before = vms()?;
    // SAFETY: An all-zero structure is valid, and the calls fill or read it.
    let old = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit
    };
    let none = libc::rlimit { rlim_cur: 0, ..old };
    // SAFETY: As above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) };
    let mut results = vec![];
    for _ in 0..100 {
        results.push(ioctl_with(&device, uapi::VM_CREATE, &mut VmCreate::new()));
        results.push(ioctl_with(
            &guest.vm,
            uapi::VCPU_CREATE,
            &mut VcpuCreate::new(),
        ));
    }
    // SAFETY: As above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &old) };
    for result in results {
        fails("create", result, EMFILE)?;
    }
    equal("micro-VMs and memory", vms()?, before)?;
    let stats = guest.vm.stats().map_err(|e| e.to_string())?;
    equal("vCPUs", stats.vcpus, 1)
}

fn main() {
    let mut tap = Tap::new();
    for call in structures::calls() {
        tap.test(&format!("{}: memory that is not there", call.name), || {
            call.bad_memory()
        });
        tap.test(&format!("{}: sizes", call.name), || call.sizes());
        tap.test(&format!("{}: unknown flags", call.name), || call.flags());
    }
    tap.test("unknown commands on each file", unknown_commands);
    tap.test("ranges", regions::ranges);
    tap.test("permissions and reserved fields", regions::permissions);
    tap.test("overlaps and holes", regions::overlaps);
    tap.test("ranges to move", regions::moves);
    tap.test("files to map, by kind and offset", files::file_kinds);
    tap.test("files to write in place", files::shared);
    tap.test("the data of the vDSO", files::vvar);
    tap.test("nothing executable from a noexec mount", files::noexec);
    tap.test(
        "registers, run flags, arguments of RUN and KICK",
        vcpus::registers,
    );
    tap.test("VCPU_CREATE", vcpus::vcpu_arguments);
    tap.test("memory limits", limits);
    tap.test("mmap of the run page and of guest memory", vcpus::run_page);
    tap.test("no file descriptors left", exhausted);
    tap.test("RUN of a vCPU that runs", vcpus::busy);
    tap.test("all micro-VMs are gone", || {
        let info = Device::open()
            .and_then(|d| d.info())
            .map_err(|e| e.to_string())?;
        check(
            &format!("left over: {info:?}"),
            info.vms == 0 && info.memory == 0,
        )
    });
    tap.finish();
}
