// SPDX-License-Identifier: GPL-2.0

//! Micro-VMs beside KVM: a guest of each on one CPU, at the same time.

mod guest;
mod preempt;

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use uvisor::{Event, Exit};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::kvm::{cmd, RSI};
use uvisor_tests::raw::ioctl;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE};

use guest::Kvm;

/// How many numbers each guest sums up from one exit to the next.
const COUNT: u64 = 2000;
/// Which are these.
const SUM: u64 = COUNT * (COUNT + 1) / 2;
/// How long they run beside each other.
const TIME: Duration = Duration::from_millis(700);

// Real mode: sums up 1 to CX in ESI, with an exit that KVM handles in the kernel, then leaves.
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

/// Runs a KVM guest to its next exit, and looks at its sum.
fn kvm_round(kvm: &Kvm) -> Outcome {
    kvm.run(|fd| Ok(ioctl(fd, cmd::RUN, 0).map_or_else(|e| -e, |_| 0)))?;
    equal("sum of the KVM guest", kvm.regs()?[RSI], SUM)
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

/// One thread runs a guest of each in turn: between them predictions are forgotten each time.
fn barriers() -> Outcome {
    const ROUNDS: u64 = 20;
    let info = uvisor::Device::open().and_then(|device| device.info());
    let mitigations =
        uvisor::Mitigations::from_bits_truncate(info.map_err(|e| e.to_string())?.mitigations);
    check(
        "the CPU has IBPB",
        mitigations.contains(uvisor::Mitigations::IBPB),
    )?;
    let kvm = Kvm::real_mode(kvm_code())?;
    let mut guest = Guest::new(uvisor_code());
    round(&mut guest)?;
    let before = guest.vm.stats().map_err(|e| e.to_string())?;
    for _ in 0..ROUNDS {
        kvm_round(&kvm)?;
        round(&mut guest)?;
    }
    let after = guest.vm.stats().map_err(|e| e.to_string())?;
    let count = after.events[Event::Ibpb as usize] - before.events[Event::Ibpb as usize];
    // On the way in, because KVM's guest ran, and on the way out, because it will.
    check(
        &format!("{count} barriers in {ROUNDS} rounds"),
        count >= 2 * ROUNDS,
    )
}

/// The other process: KVM guests for a while, made anew after `renew` rounds; prints how many rounds.
fn other_process(renew: u64) -> Outcome {
    pin_to_cpu(0);
    let start = Instant::now();
    let mut rounds = 0;
    let mut kvm = Kvm::real_mode(kvm_code())?;
    while start.elapsed() < TIME {
        kvm_round(&kvm)?;
        rounds += 1;
        if rounds % renew == 0 {
            kvm = Kvm::real_mode(kvm_code())?;
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
    tap.test(
        "each loses the CPU to the other in the midst of RUN",
        || preempt::in_the_midst_of_run(false),
    );
    tap.test("the same, beside a thread that makes system calls", || {
        preempt::in_the_midst_of_run(true)
    });
    tap.test(
        "one thread runs both in turn, with barriers between",
        barriers,
    );
    tap.test("a KVM guest after all that", || {
        kvm_round(&Kvm::real_mode(kvm_code())?)
    });
    tap.finish();
}
