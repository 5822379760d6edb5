// SPDX-License-Identifier: GPL-2.0

//! A vCPU thread of KVM's and one of ours take each other's CPU in the midst of RUN.
//!
//! KVM leaves its guest's STAR, LSTAR and FMASK in the CPU until the CPU returns to user space, and
//! remembers what it left. When a thread in our RUN is next on the CPU, without user space in between,
//! it finds them there, and they must be there again when KVM's thread goes on. Both guests go by
//! these MSRs all the time, and look at all that they do.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uvisor::{Device, Event, Prot, Vcpu, Vm, PAGE_SIZE};
use uvisor_tests::guest::load;
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::kernel::{enter, install_tables, SUPERVISOR, TABLES};
use uvisor_tests::kvm::{cmd, RSI};
use uvisor_tests::own_state::{ioctl_keeping, keeping};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, CODE, DATA};

use crate::guest::{self, Kvm, SyscallMsrs};

/// How often each thread must lose the CPU in a call.
const LEAST: u64 = 60;
/// How long the host may take for it.
const LIMIT: Duration = Duration::from_secs(20);
/// How many system calls a guest makes in one call: with some 25 instructions each, a call lasts
/// for several of the scheduler's ticks.
const COUNT: u64 = 400_000;
const SUM: u64 = COUNT * (COUNT + 1) / 2;
/// Where the code has ring 0's entry.
const ENTRY: u64 = 0x100;

/// Carry and direction flag.
const FLAGS: u64 = 0x401;
/// Which of them SYSCALL clears in each guest: the two guests differ in it, and Linux clears both.
const KVM_CLEARS: u64 = 0x400;
const OUR_CLEARS: u64 = 0x001;
/// Selectors of the KVM guest's, none of which is Linux's or ours: ring 0's code, and ring 3's base.
const KVM_KERNEL_CS: u64 = 0x20;
const KVM_USER_BASE: u64 = 0x43;
/// What SWAPGS brings in each guest.
const KVM_GS: u64 = 0x0000_1111_2222_3000;
const OUR_GS: u64 = 0xffff_9999_8888_7000;

// Ring 3 makes RBX system calls with CF and DF set, and looks at flags and selectors after each. Ring
// 0 looks at them too, and at what SWAPGS brings, and adds RBX to RSI. What is wanted is in R8 (CS)
// and R9 (SS) of ring 3, R13 (flags), R15 (CS), R10 (SS) and R14 (base of GS) of ring 0; R12 is the
// count.
macro_rules! system_calls {
    ($name:ident, $start:literal, $exit:literal) => {
        code! { $name:
            "1: mov %r12, %rbx",
            "xor %esi, %esi",
            "2: stc",
            "std",
            "syscall",
            "pushfq",
            "pop %rax",
            "and $0x401, %eax",
            "cmp $0x401, %eax",
            "jne 3f",
            "mov %cs, %eax",
            "cmp %r8d, %eax",
            "jne 3f",
            "mov %ss, %eax",
            "cmp %r9d, %eax",
            "jne 3f",
            "dec %rbx",
            "jnz 2b",
            "cld",
            $exit,
            "jmp 1b",
            "3: ud2",
            $start,
            "pushfq",
            "pop %rax",
            "and $0x401, %eax",
            "cmp %r13d, %eax",
            "jne 4f",
            "mov %cs, %eax",
            "cmp %r15d, %eax",
            "jne 4f",
            "mov %ss, %eax",
            "cmp %r10d, %eax",
            "jne 4f",
            "swapgs",
            "rdgsbase %rax",
            "swapgs",
            "cmp %r14, %rax",
            "jne 4f",
            "add %rbx, %rsi",
            "sysretq",
            "4: ud2",
        }
    };
}
system_calls!(
    kvm_calls,
    ".org guest_kvm_calls_start + 0x100",
    "out %al, $0x10"
);
system_calls!(our_calls, ".org guest_our_calls_start + 0x100", "vmcall");

/// How often this thread lost the CPU without having asked for it.
fn preemptions() -> u64 {
    // SAFETY: The call fills the structure.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    // CAST: A count.
    usage.ru_nivcsw as u64
}

/// What the threads say to each other.
#[derive(Default)]
struct Shared {
    /// How often KVM's thread and ours lost the CPU in a call.
    lost: [AtomicU64; 2],
    /// Somebody failed.
    stop: AtomicBool,
}

impl Shared {
    fn done(&self) -> bool {
        let enough = |lost: &AtomicU64| lost.load(Ordering::Relaxed) >= LEAST;
        self.stop.load(Ordering::Relaxed) || self.lost.iter().all(enough)
    }

    /// Makes a call again and again until both threads lost the CPU often enough; after each, the
    /// host's system calls must work.
    fn repeat(&self, own: usize, mut call: impl FnMut() -> Outcome) -> Outcome {
        pin_to_cpu(0);
        let (start, parent) = (Instant::now(), std::os::unix::process::parent_id());
        let mut rounds = 0;
        let mut round = || -> Outcome {
            let before = preemptions();
            call()?;
            let lost = preemptions() - before;
            self.lost[own].fetch_add(lost, Ordering::Relaxed);
            rounds += 1;
            let seen = keeping(libc::SYS_getppid, [0; 3])?;
            equal("getppid", seen, i64::from(parent))?;
            check(
                &format!("lost the CPU {:?} times, {rounds} calls", self.lost),
                start.elapsed() < LIMIT,
            )
        };
        while !self.done() {
            round().inspect_err(|_| self.stop.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// The KVM guest.
fn kvm_guest() -> Result<Kvm, String> {
    let msrs = SyscallMsrs {
        star: KVM_USER_BASE << 48 | KVM_KERNEL_CS << 32,
        lstar: guest::BASE + ENTRY,
        fmask: KVM_CLEARS,
        kernel_gs_base: KVM_GS,
    };
    let kvm = Kvm::long_mode(kvm_calls(), &msrs)?;
    let mut regs = kvm.regs()?;
    let wanted = [
        (KVM_USER_BASE + 16) | 3,
        (KVM_USER_BASE + 8) | 3,
        KVM_KERNEL_CS + 8,
        0,
        COUNT,
        FLAGS & !KVM_CLEARS,
        KVM_GS,
        KVM_KERNEL_CS,
    ];
    // R8 to R15.
    regs[8..16].copy_from_slice(&wanted);
    kvm.set_regs(&mut regs)?;
    Ok(kvm)
}

/// Our guest: the micro-VM and its vCPU.
fn our_guest() -> Result<(Vm, Vcpu), String> {
    let text = |e: uvisor::Error| e.to_string();
    let vm = Device::open().and_then(|d| d.create_vm(0)).map_err(text)?;
    install_tables(&vm);
    load(&vm, CODE, our_calls());
    vm.map_anonymous(DATA, PAGE_SIZE, Prot::READ | Prot::WRITE)
        .map_err(text)?;
    let entry = SUPERVISOR + CODE + ENTRY;
    let mut vcpu = vm.create_vcpu(TABLES, entry, OUR_CLEARS).map_err(text)?;
    enter(&mut vcpu, 3);
    let regs = vcpu.regs_mut();
    regs.kernel_gs_base = OUR_GS;
    regs.r12 = COUNT;
    regs.r13 = FLAGS & !OUR_CLEARS;
    regs.r14 = OUR_GS;
    // Ours are Linux's.
    (regs.r8, regs.r9, regs.r15, regs.r10) = (0x33, 0x2b, 0x10, 0x18);
    Ok((vm, vcpu))
}

/// One call of ours: to the guest's hypercall.
fn our_call(vcpu: &mut Vcpu) -> Outcome {
    while ioctl_keeping(&vcpu.as_fd(), uvisor_uapi::RUN)? == -i64::from(libc::EINTR) {}
    let exit = vcpu.raw_exit();
    let regs = vcpu.regs_mut();
    check(
        &format!("exit of the micro-VM: {exit:x?}, {regs:x?}"),
        exit.reason == uvisor_uapi::ExitReason::Hypercall as u32 && regs.cpl == 3,
    )?;
    regs.rip += uvisor::HYPERCALL_LEN;
    equal("sum of the micro-VM", regs.rsi, SUM)
}

/// One of KVM's: to the guest's OUT.
fn kvm_call(kvm: &Kvm) -> Outcome {
    kvm.run(|fd| ioctl_keeping(fd, cmd::RUN).map(|result| result as i32))?;
    equal("sum of the KVM guest", kvm.regs()?[RSI], SUM)
}

/// Both threads on one CPU, and with `third` one that makes system calls all the time.
pub(crate) fn in_the_midst_of_run(third: bool) -> Outcome {
    let shared = Shared::default();
    let kvm = kvm_guest()?;
    let (vm, mut vcpu) = our_guest()?;
    let outcomes = std::thread::scope(|scope| {
        let shared = &shared;
        let mut threads = vec![
            scope.spawn(move || shared.repeat(0, || kvm_call(&kvm))),
            scope.spawn(move || shared.repeat(1, || our_call(&mut vcpu))),
        ];
        if third {
            threads.push(scope.spawn(move || -> Outcome {
                pin_to_cpu(0);
                while !shared.done() {
                    keeping(libc::SYS_gettid, [0; 3])?;
                }
                Ok(())
            }));
        }
        let results = threads.into_iter().map(|thread| thread.join());
        results.collect::<Vec<_>>()
    });
    for outcome in outcomes {
        outcome.map_err(|_| "a thread panicked")??;
    }
    let stats = vm.stats().map_err(|e| e.to_string())?;
    let (borrowed, owned) = (
        stats.events[Event::WindowBorrowed as usize],
        stats.events[Event::WindowOwned as usize],
    );
    println!(
        "# lost the CPU in a call: {:?} times (KVM's thread, ours); {borrowed} windows borrowed, {owned} owned",
        shared.lost
    );
    check("windows were borrowed", borrowed >= LEAST)
}
