// SPDX-License-Identifier: GPL-2.0

//! A guest that calculates with all registers at once, while its thread is interrupted, preempted,
//! signalled and moved.
//!
//! Each register is changed in every round of the guest's loop, so that whatever is lost, mixed up or
//! loaded twice on the way makes the results wrong, and what they must be is known beforehand.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uvisor::{Event, PAGE_SIZE};
use uvisor_tests::host::{alarm_every_ms, cpus, move_to_cpu, on_alarm, pin_to_cpu, without_alarms};
use uvisor_tests::own_state::{ioctl_keeping, keeping};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, CODE, DATA};

use crate::{guest, read};

/// How often the loop is run: some tens of milliseconds, with up to 100 instructions each time.
const ROUNDS: u64 = 600_000;
/// What is added to pairs of general registers, so that there is a carry most of the time.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Where the data page has what the registers begin with; the results are a page behind it.
const VECTORS: u64 = 0;
const FPU: u64 = 0x800;
const MASKS: u64 = 0x840;
const CONTROL: u64 = 0x880;
/// MXCSR and the FPU's control word: rounding upwards, all exceptions masked.
const MXCSR: u32 = 0x5f80;
const FCW: u16 = 0x0b7f;
/// Mask registers, of which the last seven decide which parts of a vector register change.
const MASK: [u16; 8] = [0xa5c3, 0xff, 0x01, 0x80, 0x55, 0xaa, 0x3c, 0xe7];

// The lines that load, change and store the vector registers go between those for the rest.
macro_rules! live {
    ($name:ident, [$($load:literal),+], [$($change:literal),+], [$($store:literal),+]) => {
        code! { $name:
            "fninit",
            "fldcw 0x500884",
            "ldmxcsr 0x500880",
            ".irp i,0,1,2,3,4,5,6",
            "fildll 0x500800 + 8 * \\i",
            ".endr",
            $($load,)+
            "1: add %r15, %rax",
            "adc $0, %rbx",
            "add %r15, %rdx",
            "adc $0, %rsi",
            "add %r15, %rdi",
            "adc $0, %rbp",
            "add %r15, %r8",
            "adc $0, %r9",
            "add %r15, %r10",
            "adc $0, %r11",
            "add %r15, %r12",
            "adc $0, %r13",
            "rdfsbase %r14",
            "inc %r14",
            "wrfsbase %r14",
            "rdgsbase %r14",
            "inc %r14",
            "wrgsbase %r14",
            $($change,)+
            "fld1",
            ".irp i,1,2,3,4,5,6,7",
            "fadd %st, %st(\\i)",
            ".endr",
            "fstp %st(0)",
            "dec %rcx",
            "jnz 1b",
            $($store,)+
            ".irp i,0,1,2,3,4,5,6",
            "fistpll 0x501800 + 8 * \\i",
            ".endr",
            "stmxcsr 0x501880",
            "fnstcw 0x501884",
            "vmcall",
        }
    };
}

live!(
    sse,
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movdqu 0x500000 + 64 * \\i, %xmm\\i",
        ".endr"
    ],
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14",
        "paddq %xmm15, %xmm\\i",
        ".endr"
    ],
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "movdqu %xmm\\i, 0x501000 + 64 * \\i",
        ".endr"
    ]
);

// Without AVX2 there is no addition of integers of this width.
live!(
    avx,
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vmovdqu 0x500000 + 64 * \\i, %ymm\\i",
        ".endr"
    ],
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14",
        "vaddpd %ymm15, %ymm\\i, %ymm\\i",
        ".endr"
    ],
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
        "vmovdqu %ymm\\i, 0x501000 + 64 * \\i",
        ".endr"
    ]
);

live!(
    avx512,
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "vmovdqu64 0x500000 + 64 * \\i, %zmm\\i",
        ".endr",
        ".irp i,0,1,2,3,4,5,6,7",
        "kmovw 0x500840 + 2 * \\i, %k\\i",
        ".endr"
    ],
    [
        ".irp i,0,7,14,21,28",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k1}}",
        ".endr",
        ".irp i,1,8,15,22,29",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k2}}",
        ".endr",
        ".irp i,2,9,16,23,30",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k3}}",
        ".endr",
        ".irp i,3,10,17,24",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k4}}",
        ".endr",
        ".irp i,4,11,18,25",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k5}}",
        ".endr",
        ".irp i,5,12,19,26",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k6}}",
        ".endr",
        ".irp i,6,13,20,27",
        "vpaddq %zmm31, %zmm\\i, %zmm\\i {{%k7}}",
        ".endr"
    ],
    [
        ".irp i,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
        "vmovdqu64 %zmm\\i, 0x501000 + 64 * \\i",
        ".endr",
        ".irp i,0,1,2,3,4,5,6,7",
        "kmovw %k\\i, 0x501840 + 2 * \\i",
        ".endr"
    ]
);

/// Vector registers, as some CPUs have them.
pub(crate) struct Vectors {
    pub(crate) name: &'static str,
    /// The bits of XCR0 that they need.
    pub(crate) xcr0: u64,
    code: fn() -> &'static [u8],
    count: usize,
    /// Numbers of 64 bits in each.
    lanes: usize,
    floats: bool,
    masked: bool,
}

/// All there are.
pub(crate) const ALL: [Vectors; 3] = [
    Vectors {
        name: "general, x87 and SSE registers",
        xcr0: 0b11,
        code: sse,
        count: 16,
        lanes: 2,
        floats: false,
        masked: false,
    },
    Vectors {
        name: "general, x87 and AVX registers",
        xcr0: 0b111,
        code: avx,
        count: 16,
        lanes: 4,
        floats: true,
        masked: false,
    },
    Vectors {
        name: "general, x87 and AVX-512 registers",
        xcr0: 0xe7,
        code: avx512,
        count: 32,
        lanes: 8,
        floats: false,
        masked: true,
    },
];

impl Vectors {
    /// What a part of a register is after so many rounds.
    fn after(&self, register: usize, lane: usize, rounds: u64) -> u64 {
        let last = register == self.count - 1;
        let first = |register: usize| (register * 8 + lane + 1) as u64;
        let masked = self.masked && MASK[register % 7 + 1] >> lane & 1 == 0;
        let step = if last || masked {
            0
        } else {
            first(self.count - 1)
        };
        let value = first(register) + rounds * step;
        if self.floats {
            // All of these are integers that a float can have.
            (value as f64).to_bits()
        } else {
            value
        }
    }

    /// All of them, as the data page has them, 64 bytes each.
    fn all_after(&self, rounds: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.count * 64];
        for (register, place) in bytes.chunks_mut(64).enumerate() {
            for (lane, place) in place.chunks_mut(8).take(self.lanes).enumerate() {
                place.copy_from_slice(&self.after(register, lane, rounds).to_le_bytes());
            }
        }
        bytes
    }
}

/// What the x87 registers have after so many rounds.
fn fpu_after(rounds: u64) -> Vec<u8> {
    // What is loaded first is stored last.
    let value = |n: u64| (1 << 40) + (n << 20) + rounds;
    (0..7).flat_map(|n| value(n).to_le_bytes()).collect()
}

/// The general registers but RCX, R14, R15 and RSP, in pairs: low and high.
fn pairs(regs: &mut uvisor::Regs) -> [[&mut u64; 2]; 6] {
    [
        [&mut regs.rax, &mut regs.rbx],
        [&mut regs.rdx, &mut regs.rsi],
        [&mut regs.rdi, &mut regs.rbp],
        [&mut regs.r8, &mut regs.r9],
        [&mut regs.r10, &mut regs.r11],
        [&mut regs.r12, &mut regs.r13],
    ]
}

/// What the pair `number` begins with.
fn pair(number: usize) -> u128 {
    (number as u128 + 1) << 64 | (number as u128 * 77)
}

/// Lets the guest calculate while others disturb it.
pub(crate) fn calculates(vectors: &Vectors) -> Outcome {
    let stop = AtomicBool::new(false);
    // SAFETY: It has no arguments and cannot fail.
    let runner = unsafe { libc::gettid() };
    std::thread::scope(|scope| {
        let (stop, going_on) = (&stop, || !stop.load(Ordering::Relaxed));
        let others = cpus().min(2);
        for number in 0..4 {
            scope.spawn(move || {
                without_alarms();
                pin_to_cpu(number % others);
                while going_on() {
                    if number < 2 {
                        // SAFETY: It has no arguments.
                        unsafe { libc::sched_yield() };
                    } else {
                        (0..1000).for_each(|_| std::hint::spin_loop());
                    }
                }
            });
        }
        if others > 1 {
            scope.spawn(move || {
                without_alarms();
                for cpu in (0..others).cycle().take_while(|_| going_on()) {
                    move_to_cpu(runner, cpu);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let result = calculate(vectors);
        stop.store(true, Ordering::Relaxed);
        result
    })
    .and_then(|()| {
        pin_to_cpu(0);
        keeping(libc::SYS_getpid, [0; 3]).map(drop)
    })
}

/// The guest's thread.
fn calculate(vectors: &Vectors) -> Outcome {
    let text = |e: uvisor::Error| e.to_string();
    let mut guest = guest((vectors.code)())?;
    let put = |offset: u64, bytes: &[u8]| guest.vm.write_at(DATA + offset, bytes).map_err(text);
    put(VECTORS, &vectors.all_after(0))?;
    put(FPU, &fpu_after(0))?;
    put(MASKS, &MASK.map(u16::to_le_bytes).concat())?;
    put(CONTROL, &MXCSR.to_le_bytes())?;
    put(CONTROL + 4, &FCW.to_le_bytes())?;
    let regs = guest.vcpu.regs_mut();
    for (number, [low, high]) in pairs(regs).into_iter().enumerate() {
        // CAST: The halves.
        (*low, *high) = (pair(number) as u64, (pair(number) >> 64) as u64);
    }
    (regs.rcx, regs.r15, regs.fs_base, regs.gs_base) = (ROUNDS, STEP, 0x1000, 0x2000_0000);
    let stack = regs.rsp;

    on_alarm();
    alarm_every_ms(1);
    let (mut interrupted, mut no_progress) = (0, 0);
    let result = loop {
        let before = guest.vcpu.regs().rcx;
        match ioctl_keeping(&guest.vcpu.as_fd(), uvisor_uapi::RUN) {
            Ok(0) => break Ok(()),
            Ok(result) if result == -i64::from(libc::EINTR) => (),
            other => break Err(format!("RUN: {other:x?}")),
        }
        interrupted += 1;
        no_progress += u64::from(before == guest.vcpu.regs().rcx);
    };
    alarm_every_ms(0);
    result?;
    let exit = guest.vcpu.raw_exit();
    let hypercall = uvisor_uapi::ExitReason::Hypercall as u32;
    equal("exit", exit.reason, hypercall)?;

    let mut bytes = vec![0; vectors.count * 64];
    read(&guest, PAGE_SIZE + VECTORS, &mut bytes)?;
    let wanted = vectors.all_after(ROUNDS);
    for (number, (seen, wanted)) in bytes.chunks(64).zip(wanted.chunks(64)).enumerate() {
        equal(&format!("vector register {number}"), seen, wanted)?;
    }
    let mut bytes = [0; 56];
    read(&guest, PAGE_SIZE + FPU, &mut bytes)?;
    let mut wanted = fpu_after(ROUNDS);
    wanted.chunks_mut(8).for_each(|n| n.reverse());
    wanted.reverse();
    equal("x87 registers", &bytes[..], &wanted)?;
    let mut bytes = [0; 6];
    read(&guest, PAGE_SIZE + CONTROL, &mut bytes)?;
    equal("MXCSR", &bytes[..4], &MXCSR.to_le_bytes())?;
    equal("FCW", &bytes[4..], &FCW.to_le_bytes())?;
    if vectors.masked {
        let mut bytes = [0; 16];
        read(&guest, PAGE_SIZE + MASKS, &mut bytes)?;
        equal("masks", &bytes[..], &MASK.map(u16::to_le_bytes).concat())?;
    }
    let regs = guest.vcpu.regs_mut();
    for (number, [low, high]) in pairs(regs).into_iter().enumerate() {
        let seen = u128::from(*high) << 64 | u128::from(*low);
        let wanted = pair(number) + u128::from(STEP) * u128::from(ROUNDS);
        equal(&format!("general registers, pair {number}"), seen, wanted)?;
    }
    let seen = [regs.rcx, regs.rsp, regs.r15, regs.fs_base, regs.gs_base];
    let wanted = [0, stack, STEP, 0x1000 + ROUNDS, 0x2000_0000 + ROUNDS];
    equal("RCX, RSP, R15, bases of FS and GS", seen, wanted)?;
    equal("RIP", (CODE..CODE + PAGE_SIZE).contains(&regs.rip), true)?;

    let stats = guest.vm.stats().map_err(text)?;
    let ended =
        stats.events[Event::ExitInterrupt as usize] + stats.events[Event::ExitTimer as usize];
    let what = format!(
        "{ended} stays ended by the host, {interrupted} times EINTR, {no_progress} of them without a round"
    );
    println!("# {what}");
    check(&what, ended >= 20 && interrupted >= 10)?;
    check(&what, no_progress * 2 < interrupted)
}
