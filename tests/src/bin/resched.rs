// SPDX-License-Identifier: GPL-2.0

//! RUN beside another task on the same CPU, which has to be let run at any moment: also between the
//! system call and the first window.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uvisor::{Exit, HYPERCALL_LEN};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE};

code! { two_ways:
    "vmcall",
    "nop",
    "vmcall",
}

/// Where the second VMCALL is.
const SECOND: u64 = CODE + HYPERCALL_LEN + 1;

/// How often this thread was made to give up the CPU.
fn preemptions() -> i64 {
    // SAFETY: The call fills the structure, which is valid when it is zeroed.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_nivcsw
    }
}

/// A thread that wants the CPU all the time, until dropped.
struct Hog {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Hog {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            pin_to_cpu(0);
            while !seen.load(Ordering::Relaxed) {
                // A timer that ends soon makes the scheduler look again and again who is to run.
                std::thread::sleep(Duration::from_micros(50));
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(20) {}
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the hog");
        }
    }
}

/// Each RUN begins where user space says, not where the last one ended.
fn takes_registers() -> Outcome {
    const ENOUGH: i64 = 2000;
    let mut guest = Guest::new(two_ways());
    let _hog = Hog::start();
    let before = preemptions();
    let end = Instant::now() + Duration::from_secs(4);
    let mut rounds = 0u64;
    while preemptions() - before < ENOUGH && Instant::now() < end {
        let place = if rounds % 3 == 0 { CODE } else { SECOND };
        let regs = guest.vcpu.regs_mut();
        regs.rip = place;
        regs.rsp = 0x1000 + rounds;
        regs.fs_base = 0x2000 + rounds;
        regs.gs_base = 0x3000 + rounds;
        regs.kernel_gs_base = 0x4000 + rounds;
        equal("exit", guest.run(), Exit::Hypercall { ring: 3 })?;
        let regs = guest.vcpu.regs();
        let seen = [
            regs.rip,
            regs.rsp,
            regs.fs_base,
            regs.gs_base,
            regs.kernel_gs_base,
        ];
        let given = [
            place,
            0x1000 + rounds,
            0x2000 + rounds,
            0x3000 + rounds,
            0x4000 + rounds,
        ];
        equal(&format!("round {rounds}"), seen, given)?;
        rounds += 1;
    }
    let preempted = preemptions() - before;
    println!("# {rounds} rounds, {preempted} preemptions");
    check("preempted too seldom to tell", preempted >= 20)
}

fn main() {
    let mut tap = Tap::new();
    pin_to_cpu(0);
    tap.test(
        "each RUN takes the registers that it is given",
        takes_registers,
    );
    tap.finish();
}
