// SPDX-License-Identifier: GPL-2.0

//! Two CPUs: vCPUs that migrate, and permission that is taken from one that runs.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uvisor::{Exit, MemoryCause, Prot, PAGE_SIZE};
use uvisor_tests::guest::live_word;
use uvisor_tests::host::{memory_file, pin_to_cpu};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, DATA};

/// Where a page goes that is moved.
const THERE: u64 = 0x9000_0000;
/// A page that is taken away.
const PAGE: u64 = 0x70_0000;

code! { count:
    "2: inc %rax",
    "vmcall",
    "jmp 2b",
}

// Reads PAGE and then counts in DATA, so that the count says which reads succeeded.
code! { reader:
    "mov $0x700000, %esi",
    "mov $0x500000, %edi",
    "2: mov (%rsi), %rax",
    "lock incq (%rdi)",
    "jmp 2b",
}

// As `reader`, writing.
code! { writer:
    "mov $0x700000, %esi",
    "mov $0x500000, %edi",
    "2: mov %rax, (%rsi)",
    "lock incq (%rdi)",
    "jmp 2b",
}

// Counts at rdi and in rax.
code! { twice:
    "2: incq (%rdi)",
    "inc %rax",
    "jmp 2b",
}

// Waits until the first word of PAGE changes.
code! { watcher:
    "mov $0x700000, %esi",
    "mov (%rsi), %rbx",
    "2: mov (%rsi), %rax",
    "cmp %rax, %rbx",
    "je 2b",
    "vmcall",
}

// Writes to the first word of PAGE.
code! { changer:
    "mov $0x700000, %esi",
    "movq $77, (%rsi)",
    "vmcall",
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Takes a permission from a running guest by `take`; not one access may succeed after it returned.
fn taken(code: &[u8], access: Prot, take: fn(&uvisor::Vm) -> uvisor::Result<()>) -> Outcome {
    for round in 0..30 {
        let guest = Guest::new(code);
        guest
            .vm
            .map_anonymous(PAGE, PAGE_SIZE, Prot::READ | Prot::WRITE)
            .map_err(text)?;
        let memory = guest.vm.memory().map_err(text)?;
        let count = live_word(&memory, DATA)?;
        let mut vcpu = guest.vcpu;
        let thread = std::thread::spawn(move || {
            pin_to_cpu(1);
            vcpu.run().map_err(text)
        });
        while count.load(Ordering::SeqCst) < 100 {
            std::thread::sleep(Duration::from_micros(50));
        }
        std::thread::sleep(Duration::from_micros(37 * round));
        take(&guest.vm).map_err(text)?;
        let after = count.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        // An access from before may have its count still to come.
        let more = count.load(Ordering::SeqCst) - after;
        let exit = thread.join().map_err(|_| "thread")??;
        let wanted = matches!(exit, Exit::Memory { gpa: PAGE, access: a, cause, .. }
            if a == access && cause != MemoryCause::Limit);
        check(&format!("round {round}: {exit:?}"), wanted)?;
        check(&format!("round {round}: {more} more accesses"), more <= 1)?;
    }
    Ok(())
}

fn main() {
    let mut tap = Tap::new().on_two_cpus();

    tap.test(
        "a vCPU runs on one CPU and then on the other, 400 times",
        || {
            let mut guest = Guest::new(count());
            for round in 0..400u64 {
                pin_to_cpu(round as usize % 2);
                guest.run_to_hypercall()?;
                equal("count", guest.vcpu.regs().rax, round + 1)?;
            }
            pin_to_cpu(0);
            Ok(())
        },
    );

    tap.test(
        "UNMAP takes a page from a guest that reads it on the other CPU",
        || taken(reader(), Prot::READ, |vm| vm.unmap(PAGE, PAGE_SIZE)),
    );
    tap.test("PROTECT takes reading from it", || {
        taken(reader(), Prot::READ, |vm| {
            vm.protect(PAGE, PAGE_SIZE, Prot::empty())
        })
    });
    tap.test("PROTECT takes writing from a guest that writes", || {
        taken(writer(), Prot::WRITE, |vm| {
            vm.protect(PAGE, PAGE_SIZE, Prot::READ)
        })
    });

    tap.test(
        "a copy that one vCPU's write makes is what the other sees",
        || {
            for _ in 0..20 {
                let file = memory_file(&[1; 4096]);
                let mut guest = Guest::new(watcher());
                guest
                    .vm
                    .map_file(PAGE, PAGE_SIZE, Prot::READ | Prot::WRITE, file.as_fd(), 0)
                    .map_err(text)?;
                let mut second = guest.another_vcpu();
                uvisor_tests::guest::load(&guest.vm, 0x80_0000, changer());
                second.regs_mut().rip = 0x80_0000;
                let thread = std::thread::spawn(move || {
                    pin_to_cpu(1);
                    guest
                        .vcpu
                        .run()
                        .map_err(text)
                        .map(|exit| (exit, guest.vcpu.regs().rax))
                });
                std::thread::sleep(Duration::from_millis(2));
                let exit = second.run().map_err(text)?;
                equal("exit of the writer", exit, Exit::Hypercall { ring: 3 })?;
                let (exit, seen) = thread.join().map_err(|_| "thread")??;
                equal("exit of the reader", exit, Exit::Hypercall { ring: 3 })?;
                equal("what it saw", seen, 77)?;
            }
            Ok(())
        },
    );

    tap.test("regions come and go under a running guest", || {
        let guest = Guest::new(writer());
        let done = AtomicBool::new(false);
        let Guest { vm, mut vcpu, .. } = guest;
        std::thread::scope(|scope| {
            let runner = scope.spawn(|| {
                pin_to_cpu(1);
                let mut faults = 0u64;
                while !done.load(Ordering::SeqCst) {
                    match vcpu.run() {
                        Ok(Exit::Memory { gpa: PAGE, .. }) => faults += 1,
                        other => return Err(format!("{other:?}")),
                    }
                }
                Ok(faults)
            });
            let mut byte = [0; 1];
            for round in 0..500u32 {
                vm.map_anonymous(PAGE, 4 * PAGE_SIZE, Prot::READ | Prot::WRITE)
                    .map_err(text)?;
                vm.read_at(PAGE, &mut byte).map_err(text)?;
                if round % 3 == 0 {
                    vm.protect(PAGE, PAGE_SIZE, Prot::READ).map_err(text)?;
                }
                vm.unmap(PAGE, 4 * PAGE_SIZE).map_err(text)?;
            }
            done.store(true, Ordering::SeqCst);
            let faults = runner.join().map_err(|_| "thread")??;
            check("the guest faulted", faults > 0)
        })
    });

    tap.test(
        "a page is moved to and fro under a guest that writes to it",
        || {
            const ROUNDS: u64 = 400;
            let Guest { vm, mut vcpu, .. } = Guest::new(twice());
            vm.map_anonymous(PAGE, PAGE_SIZE, Prot::READ | Prot::WRITE)
                .map_err(text)?;
            let runner = std::thread::spawn(move || {
                pin_to_cpu(1);
                vcpu.regs_mut().rdi = PAGE;
                let mut followed = 0u64;
                loop {
                    let exit = vcpu.run().map_err(text)?;
                    vcpu.regs_mut().rdi = match exit {
                        Exit::Memory {
                            cause: MemoryCause::Denied,
                            ..
                        } => {
                            return Ok::<_, String>((followed, vcpu.regs().rax));
                        }
                        Exit::Memory {
                            gpa: PAGE,
                            cause: MemoryCause::Unmapped,
                            ..
                        } => THERE,
                        Exit::Memory {
                            gpa: THERE,
                            cause: MemoryCause::Unmapped,
                            ..
                        } => PAGE,
                        other => return Err(format!("{other:?}")),
                    };
                    followed += 1;
                }
            });
            let (mut at, mut there) = (PAGE, THERE);
            for round in 0..ROUNDS {
                vm.remap(at..at + PAGE_SIZE, there..there + PAGE_SIZE)
                    .map_err(text)?;
                (at, there) = (there, at);
                std::thread::sleep(Duration::from_micros(round % 64));
            }
            vm.protect(at, PAGE_SIZE, Prot::READ).map_err(text)?;
            let (followed, count) = runner.join().map_err(|_| "thread")??;
            let mut bytes = [0; 8];
            vm.read_at(at, &mut bytes).map_err(text)?;
            equal("count in memory", u64::from_le_bytes(bytes), count)?;
            check(
                &format!("it followed {followed} times"),
                followed > ROUNDS / 10,
            )
        },
    );

    tap.finish();
}
