// SPDX-License-Identifier: GPL-2.0

//! Micro-VMs beside KVM: a guest of each on one CPU, at the same time.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uvisor::{Event, Exit};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::raw::{ioctl, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE};

const KVM_CREATE_VM: u32 = 0xae01;
const KVM_GET_VCPU_MMAP_SIZE: u32 = 0xae04;
const KVM_CREATE_VCPU: u32 = 0xae41;
const KVM_SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const KVM_RUN: u32 = 0xae80;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_SET_REGS: u32 = 0x4090_ae82;
const KVM_GET_SREGS: u32 = 0x8138_ae83;
const KVM_SET_SREGS: u32 = 0x4138_ae84;
const KVM_EXIT_IO: u32 = 2;

/// How many numbers each guest sums up from one exit to the next.
const COUNT: u64 = 2000;
/// Which are these.
const SUM: u64 = COUNT * (COUNT + 1) / 2;
/// How long they run beside each other.
const TIME: Duration = Duration::from_millis(700);

// Real mode: sums up 1 to CX in EDX, with an exit that KVM handles in the kernel, then leaves.
code! { kvm_code:
    ".code16",
    "1: mov $2000, %cx",
    "xor %esi, %esi",
    "2: movzwl %cx, %edi",
    "add %edi, %esi",
    "loop 2b",
    "xor %eax, %eax",
    "cpuid",
    "out %al, $0x10",
    "jmp 1b",
    ".code64",
}

code! { uvisor_code:
    "1: mov $2000, %ecx",
    "xor %esi, %esi",
    "2: add %rcx, %rsi",
    "loop 2b",
    "xor %eax, %eax",
    "cpuid",
    "vmcall",
    "jmp 1b",
}

/// A KVM guest, by plain ioctls.
struct Kvm {
    vcpu: OwnedFd,
    // Kept open as long as the vCPU.
    _vm: OwnedFd,
    memory: *mut u8,
    run: *mut u8,
    run_len: usize,
}

impl Kvm {
    fn new() -> Result<Self, String> {
        let mut options = OpenOptions::new();
        let device = options.read(true).write(true).open("/dev/kvm");
        let device: File = device.map_err(|e| format!("/dev/kvm: {e}"))?;
        // SAFETY: The calls make these descriptors for us.
        let owned = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        let vm = owned(works("KVM_CREATE_VM", ioctl(&device, KVM_CREATE_VM, 0))?);
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let anonymous = libc::MAP_PRIVATE;
        let memory = works("memory", mmap(None, 0x1000, rw, anonymous, 0))?;
        // SAFETY: The page is ours, and the code shorter.
        unsafe { std::ptr::copy_nonoverlapping(kvm_code().as_ptr(), memory, kvm_code().len()) };
        let mut region = [0u64, 0x1000, 0x1000, memory as u64];
        works(
            "memory region",
            ioctl_with(&vm, KVM_SET_USER_MEMORY_REGION, &mut region),
        )?;
        let vcpu = owned(works("KVM_CREATE_VCPU", ioctl(&vm, KVM_CREATE_VCPU, 0))?);
        let size = works("mmap size", ioctl(&device, KVM_GET_VCPU_MMAP_SIZE, 0))?;
        let run_len = size as usize;
        let run = works(
            "run page",
            mmap(Some(&vcpu.as_raw_fd()), run_len, rw, libc::MAP_SHARED, 0),
        )?;
        // CS is the third of the segments of 24 bytes, DS, ES and so on behind it: base and selector.
        let mut sregs = [0u8; 0x138];
        works(
            "KVM_GET_SREGS",
            ioctl_with(&vcpu, KVM_GET_SREGS, &mut sregs),
        )?;
        sregs[..8].fill(0);
        sregs[12..14].fill(0);
        works(
            "KVM_SET_SREGS",
            ioctl_with(&vcpu, KVM_SET_SREGS, &mut sregs),
        )?;
        let mut regs = [0u64; 18];
        regs[16] = 0x1000;
        regs[17] = 2;
        works("KVM_SET_REGS", ioctl_with(&vcpu, KVM_SET_REGS, &mut regs))?;
        Ok(Self {
            vcpu,
            _vm: vm,
            memory,
            run,
            run_len,
        })
    }

    /// Runs to the next exit, and looks at its sum.
    fn round(&mut self) -> Outcome {
        while let Err(error) = ioctl(&self.vcpu, KVM_RUN, 0) {
            if error != libc::EINTR {
                return works("KVM_RUN", Err(error));
            }
        }
        // SAFETY: The page is mapped; the exit reason is at offset 8.
        let reason = unsafe { self.run.add(8).cast::<u32>().read_volatile() };
        equal("KVM exit", reason, KVM_EXIT_IO)?;
        let mut regs = [0u64; 18];
        works(
            "KVM_GET_REGS",
            ioctl_with(&self.vcpu, KVM_GET_REGS, &mut regs),
        )?;
        equal("sum of the KVM guest", regs[4], SUM)
    }
}

impl Drop for Kvm {
    fn drop(&mut self) {
        munmap(self.run, self.run_len);
        munmap(self.memory, 0x1000);
    }
}

/// Runs a micro-VM to its next exit, and looks at its sum.
fn round(guest: &mut Guest) -> Outcome {
    loop {
        match guest.vcpu.run().map_err(|e| e.to_string())? {
            Exit::Interrupted => (),
            Exit::Hypercall { ring: 3 } => break,
            other => return Err(format!("{other:x?}")),
        }
    }
    let regs = guest.vcpu.regs_mut();
    regs.rip += uvisor::HYPERCALL_LEN;
    let inside = (CODE..CODE + 0x100).contains(&regs.rip);
    check("RIP", inside)?;
    equal("sum of the micro-VM", regs.rsi, SUM)
}

/// The other process: KVM guests for a while, made anew after `renew` rounds; prints how many rounds.
fn other_process(renew: u64) -> Outcome {
    pin_to_cpu(0);
    let start = Instant::now();
    let mut rounds = 0;
    let mut kvm = Kvm::new()?;
    while start.elapsed() < TIME {
        kvm.round()?;
        rounds += 1;
        if rounds % renew == 0 {
            kvm = Kvm::new()?;
        }
    }
    println!("{rounds}");
    Ok(())
}

fn start_other_process(renew: u64) -> Result<Child, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(this);
    command
        .arg(renew.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().map_err(|e| e.to_string())
}

/// Micro-VMs here and KVM guests in another process, on one CPU.
fn side_by_side(renew: u64, least: u64) -> Outcome {
    let mut child = start_other_process(renew)?;
    let mut guest = Guest::new(uvisor_code());
    let (mut rounds, mut borrowed, mut owned) = (0, 0, 0);
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        round(&mut guest).inspect_err(|_| drop(child.kill()))?;
        rounds += 1;
        if rounds % renew == 0 {
            let stats = guest.vm.stats().map_err(|e| e.to_string())?;
            borrowed += stats.events[Event::WindowBorrowed as usize];
            owned += stats.events[Event::WindowOwned as usize];
            guest = Guest::new(uvisor_code());
        }
    }
    let (mut text, mut errors) = (String::new(), String::new());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    out.map(|mut o| o.read_to_string(&mut text));
    err.map(|mut e| e.read_to_string(&mut errors));
    let stats = guest.vm.stats().map_err(|e| e.to_string())?;
    borrowed += stats.events[Event::WindowBorrowed as usize];
    owned += stats.events[Event::WindowOwned as usize];
    println!(
        "# {rounds} rounds here, {} there; {borrowed} windows borrowed, {owned} owned",
        text.trim()
    );
    let theirs: u64 = text
        .trim()
        .parse()
        .map_err(|_| format!("the KVM guest: {errors}"))?;
    check("the micro-VM got on", rounds >= least)?;
    check("the KVM guest got on", theirs >= least)?;
    check("windows were borrowed", borrowed >= least)
}

fn main() {
    if let Some(renew) = std::env::args().nth(1).and_then(|a| a.parse().ok()) {
        if let Err(error) = other_process(renew) {
            eprintln!("{error}");
            std::process::exit(1);
        }
        return;
    }
    let mut tap = Tap::new();
    if !std::path::Path::new("/dev/kvm").exists() {
        tap.skip("micro-VMs and KVM guests on one CPU", "KVM is not loaded");
        tap.finish();
    }
    pin_to_cpu(0);
    tap.test("a micro-VM and a KVM guest on one CPU", || {
        side_by_side(u64::MAX, 50)
    });
    tap.test("the same, with both made anew again and again", || {
        side_by_side(20, 20)
    });
    tap.test("a KVM guest after all that", || Kvm::new()?.round());
    tap.finish();
}
