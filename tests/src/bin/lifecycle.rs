// SPDX-License-Identifier: GPL-2.0

//! Micro-VMs come and go: closing in every order, owners that die, many at once, none left behind.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use uvisor::{Device, Exit, MemoryCause, Prot, Vcpu, PAGE_SIZE};
use uvisor_tests::host::{alarm_in_ms, on_alarm};
use uvisor_tests::proc::number;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap};

code! { count:
    "2: inc %rax",
    "vmcall",
    "jmp 2b",
}

code! { spin:
    "2: inc %rax",
    "jmp 2b",
}

// Touches page after page from 0x1000000 on.
code! { touch:
    "mov $0x1000000, %edi",
    "2: movb $1, (%rdi)",
    "add $0x1000, %rdi",
    "inc %rax",
    "jmp 2b",
}

/// What the module holds: micro-VMs, and bytes of memory.
fn held() -> (u64, u64) {
    let info = Device::open().and_then(|d| d.info()).expect("INFO");
    (info.vms, info.memory)
}

/// Free memory of the machine in KiB.
fn available() -> u64 {
    number("/proc/meminfo", "MemAvailable:")
}

/// A vCPU still runs.
fn runs(vcpu: &mut Vcpu) -> Outcome {
    let before = vcpu.regs().rax;
    let exit = vcpu.run().map_err(|e| e.to_string())?;
    check(&format!("{exit:?}"), matches!(exit, Exit::Hypercall { .. }))?;
    equal("count", vcpu.regs().rax, before + 1)?;
    vcpu.regs_mut().rip += uvisor::HYPERCALL_LEN;
    Ok(())
}

/// Closes device, VM, vCPU and mapping in the order of `order`; the vCPU runs as long as it is open.
fn close_in(order: [usize; 4]) -> Outcome {
    let before = held();
    let Guest { device, vm, vcpu } = Guest::new(count());
    let memory = vm.memory().map_err(|e| e.to_string())?;
    let mut parts = (Some(device), Some(vm), Some(vcpu), Some(memory));
    for part in order {
        match part {
            0 => parts.0 = None,
            1 => parts.1 = None,
            2 => parts.2 = None,
            _ => parts.3 = None,
        }
        if let Some(vcpu) = &mut parts.2 {
            runs(vcpu)?;
        }
    }
    equal("held after", held(), before)
}

/// All orders of four things.
fn orders() -> Vec<[usize; 4]> {
    let mut orders = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|&b| b != a) {
            for c in (0..4).filter(|&c| c != a && c != b) {
                orders.push([a, b, c, 6 - a - b - c]);
            }
        }
    }
    orders
}

/// Makes a child that runs an endless guest; returns its pid when the guest runs.
fn spinning_child() -> libc::pid_t {
    let mut pipe = [0; 2];
    // SAFETY: The call writes two descriptors.
    let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    assert_eq!(made, 0, "a pipe");
    let [from, to] = pipe;
    // SAFETY: The child of this single-threaded process only uses what it made itself, and exits.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let mut guest = Guest::new(spin());
        // The parent waits for this byte.
        let byte = [1u8];
        // SAFETY: Writes a byte from a live buffer.
        unsafe { libc::write(to, byte.as_ptr().cast(), 1) };
        loop {
            let _ = guest.vcpu.run();
        }
    }
    let mut byte = [0u8];
    // SAFETY: Reads a byte into a live buffer, and closes descriptors that nothing else uses.
    unsafe {
        libc::close(to);
        libc::read(from, byte.as_mut_ptr().cast(), 1);
        libc::close(from);
    }
    std::thread::sleep(Duration::from_millis(20));
    pid
}

/// Kills a child, and waits for it.
fn kill(pid: libc::pid_t) {
    // SAFETY: The pid is that of a child of ours.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

fn main() {
    let mut tap = Tap::new();

    tap.test(
        "device, VM, vCPU and mapping closed in each of 24 orders",
        || {
            orders().into_iter().try_for_each(|order| {
                close_in(order).map_err(|seen| format!("order {order:?}: {seen}"))
            })
        },
    );

    tap.test("kill -9 of the owner while its guest spins", || {
        let before = held();
        let pid = spinning_child();
        check("a micro-VM is there", held().0 == before.0 + 1)?;
        let start = Instant::now();
        kill(pid);
        check(
            "it took less than a second",
            start.elapsed() < Duration::from_secs(1),
        )?;
        equal("held after", held(), before)
    });

    tap.test(
        "an endless guest does not delay another task on its CPU",
        || {
            let pid = spinning_child();
            let mut worst = Duration::ZERO;
            for _ in 0..20 {
                let start = Instant::now();
                std::thread::sleep(Duration::from_millis(2));
                worst = worst.max(start.elapsed());
            }
            kill(pid);
            check(
                &format!("slept 2 ms, woke after up to {worst:?}"),
                worst < Duration::from_millis(60),
            )
        },
    );

    tap.test(
        "SIGALRM ends RUN, and the guest goes on where it was",
        || {
            on_alarm();
            let mut guest = Guest::new(spin());
            for _ in 0..5 {
                let before = guest.vcpu.regs().rax;
                alarm_in_ms(10);
                let exit = guest.run();
                equal("exit", exit, Exit::Interrupted)?;
                let after = guest.vcpu.regs().rax;
                check(
                    &format!("it counted from {before} to {after}"),
                    after > before,
                )?;
            }
            Ok(())
        },
    );

    tap.test("immediate_exit ends RUN before the guest runs", || {
        let mut guest = Guest::new(count());
        guest.vcpu.set_immediate_exit(true);
        equal("exit", guest.run(), Exit::Interrupted)?;
        equal("rax", guest.vcpu.regs().rax, 0)?;
        guest.vcpu.set_immediate_exit(false);
        runs(&mut guest.vcpu)
    });

    tap.test("a kick ends the next RUN, once, and a running one", || {
        let mut guest = Guest::new(spin());
        guest.vcpu.kick().map_err(|e| e.to_string())?;
        equal("exit", guest.run(), Exit::Interrupted)?;
        let kicker = guest.vcpu.kicker();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            kicker.kick()
        });
        equal("exit of a running guest", guest.run(), Exit::Interrupted)?;
        thread
            .join()
            .map_err(|_| "thread")?
            .map_err(|e| e.to_string())
    });

    tap.test("64 micro-VMs at once, each running", || {
        let before = held();
        let mut guests: Vec<Guest> = (0..64).map(|_| Guest::new(count())).collect();
        check("all are counted", held().0 == before.0 + 64)?;
        for round in 0..3 {
            for guest in &mut guests {
                runs(&mut guest.vcpu).map_err(|seen| format!("round {round}: {seen}"))?;
            }
        }
        drop(guests);
        equal("held after", held(), before)
    });

    tap.test(
        "a second RUN of the same vCPU is refused while it runs",
        || {
            static STARTED: AtomicU32 = AtomicU32::new(0);
            let mut guest = Guest::new(spin());
            let fd = {
                use std::os::fd::AsFd;
                guest.vcpu.as_fd().as_raw_fd()
            };
            let kicker = guest.vcpu.kicker();
            let thread = std::thread::spawn(move || {
                STARTED.store(1, Ordering::SeqCst);
                guest.vcpu.run().map_err(|e| e.to_string())
            });
            while STARTED.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(30));
            // SAFETY: RUN takes no pointer.
            let result = unsafe { libc::ioctl(fd, uvisor_uapi::RUN.into(), 0) };
            let errno = std::io::Error::last_os_error().raw_os_error();
            kicker.kick().map_err(|e| e.to_string())?;
            equal(
                "exit of the first",
                thread.join().map_err(|_| "thread")??,
                Exit::Interrupted,
            )?;
            equal("result and errno", (result, errno), (-1, Some(libc::EBUSY)))
        },
    );

    tap.test(
        "at the memory limit the task gets an exit, and goes on when there is more",
        || {
            let mut guest = Guest::with_limit(touch(), 64 * PAGE_SIZE);
            guest
                .vm
                .map_anonymous(0x100_0000, 256 * PAGE_SIZE, Prot::READ | Prot::WRITE)
                .map_err(|e| e.to_string())?;
            let exit = guest.run();
            let limit = |exit: &Exit| {
                matches!(
                    exit,
                    Exit::Memory {
                        cause: MemoryCause::Limit,
                        ..
                    }
                )
            };
            check(&format!("{exit:?}"), limit(&exit))?;
            let touched = guest.vcpu.regs().rax;
            check(&format!("{touched} pages"), (40..64).contains(&touched))?;
            let stats = guest.vm.stats().map_err(|e| e.to_string())?;
            equal("held", stats.private + stats.tables, 64 * PAGE_SIZE)?;
            guest
                .vm
                .set_memory_limit(128 * PAGE_SIZE)
                .map_err(|e| e.to_string())?;
            let exit = guest.run();
            check(&format!("{exit:?}"), limit(&exit))?;
            equal("more pages", guest.vcpu.regs().rax, touched + 64)?;
            guest.vm.set_memory_limit(0).map_err(|e| e.to_string())?;
            let exit = guest.run();
            let end = matches!(
                exit,
                Exit::Memory {
                    cause: MemoryCause::Unmapped,
                    ..
                }
            );
            check(&format!("{exit:?}"), end)?;
            equal("all pages", guest.vcpu.regs().rax, 256)
        },
    );

    tap.test(
        "no memory is lost after 200 rounds of create, run and destroy",
        || {
            let round = || -> Outcome {
                let mut guest = Guest::new(count());
                let memory = guest.vm.memory().map_err(|e| e.to_string())?;
                runs(&mut guest.vcpu)?;
                drop(memory);
                Ok(())
            };
            // The kernel's caches fill in the first rounds.
            for _ in 0..50 {
                round()?;
            }
            let (before, free) = (held(), available());
            for _ in 0..200 {
                round()?;
            }
            equal("held", held(), before)?;
            let lost = free.saturating_sub(available());
            // A micro-VM has more than 10 pages: losing one page of each would be 800 KiB.
            check(&format!("{lost} KiB less are available"), lost < 700)
        },
    );

    tap.finish();
}
