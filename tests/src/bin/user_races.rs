// SPDX-License-Identifier: GPL-2.0

//! Memory of the process that goes, or is changed, while the guest uses it on another CPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uvisor::{Event, Exit, MemoryCause, Prot, Vm, PAGE_SIZE};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::random::Random;
use uvisor_tests::raw::{mmap, munmap};
use uvisor_tests::tap::{check, Outcome};
use uvisor_tests::{code, Guest, Tap};

/// Where the guest has the pages.
const AT: u64 = 0x70_0000;
const PAGES: usize = 8;
const PAGE: usize = PAGE_SIZE as usize;
const RW: Prot = Prot::READ.union(Prot::WRITE);

// Counts in the first word of each of the pages, for ever.
code! { count:
    "1: mov $0x700000, %edi",
    "2: lock incq (%rdi)",
    "add $0x1000, %rdi",
    "cmp $0x708000, %rdi",
    "jb 2b",
    "jmp 1b",
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Pages of this process's, which it may take away; and as many places beside them.
struct Own(*mut u8);

// SAFETY: What is there is reached by atomics only.
unsafe impl Sync for Own {}

impl Own {
    fn new() -> Result<Self, String> {
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let at = mmap(None, 2 * PAGES * PAGE, both, libc::MAP_PRIVATE, 0);
        Ok(Self(at.map_err(|e| format!("mmap: {e}"))?))
    }

    fn place(&self, page: usize) -> *mut u8 {
        self.0.wrapping_add(page * PAGE)
    }

    /// The counter of a page, or place, which is mapped.
    fn word(&self, page: usize) -> &AtomicU64 {
        assert!(page < 2 * PAGES);
        // SAFETY: The callers know that it is mapped.
        unsafe { AtomicU64::from_ptr(self.place(page).cast()) }
    }

    /// Moves a page to another place, in which nothing is.
    fn carry(&self, from: usize, to: usize) -> Outcome {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: Both places are ours.
        let moved =
            unsafe { libc::mremap(self.place(from).cast(), PAGE, PAGE, flags, self.place(to)) };
        check("mremap", moved == self.place(to).cast())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        munmap(self.0, 2 * PAGES * PAGE);
    }
}

/// Runs the guest on the other CPU, again and again, while `act` is done here.
fn while_counting(act: impl FnOnce(&Vm, &Own) -> Outcome) -> Outcome {
    let guest = Guest::new(count());
    let own = Own::new()?;
    guest.vm.bind(own.0 as u64 - AT).map_err(text)?;
    let len = PAGES as u64 * PAGE_SIZE;
    guest.vm.map_user(AT, len, RW).map_err(text)?;
    let Guest { vm, mut vcpu, .. } = guest;
    let done = AtomicBool::new(false);
    let kick = vcpu.kicker();
    std::thread::scope(|threads| {
        let runner = threads.spawn(|| {
            pin_to_cpu(1);
            while !done.load(Ordering::SeqCst) {
                match vcpu.run() {
                    // Nothing is there now, or it is changing.
                    Ok(Exit::Memory { cause, .. }) if cause != MemoryCause::Limit => {}
                    Ok(Exit::Interrupted) => {}
                    other => return Err(format!("saw {other:x?}")),
                }
            }
            Ok(())
        });
        let acted = act(&vm, &own);
        done.store(true, Ordering::SeqCst);
        while !runner.is_finished() {
            kick.kick().map_err(text)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        runner.join().map_err(|_| "the runner")?.and(acted)
    })
}

/// Waits until the guest counts in a page.
fn wait(own: &Own, page: usize) -> Outcome {
    let before = own.word(page).load(Ordering::SeqCst);
    let end = Instant::now() + Duration::from_secs(30);
    while own.word(page).load(Ordering::SeqCst) == before {
        check("it does not count", Instant::now() < end)?;
        std::thread::sleep(Duration::from_micros(20));
    }
    Ok(())
}

/// An error if the guest goes on counting in a page.
fn stays(own: &Own, page: usize, round: usize) -> Outcome {
    let then = own.word(page).load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_micros(200));
    let now = own.word(page).load(Ordering::SeqCst);
    check(
        &format!("round {round}: counted {} on", now - then),
        now == then,
    )
}

/// A page that was moved away is not counted in any more, as of then.
fn moved() -> Outcome {
    const ROUNDS: usize = 200;
    while_counting(|vm, own| {
        let flushes = || {
            let stats = vm.stats().map_err(text)?;
            Ok::<_, String>(stats.events[Event::Invept as usize])
        };
        let before = flushes()?;
        for round in 0..ROUNDS {
            let page = round % PAGES;
            wait(own, page)?;
            own.carry(page, PAGES + page)?;
            stays(own, PAGES + page, round)?;
            own.carry(PAGES + page, page)?;
        }
        // The other CPU is also interrupted for what the process itself has there, and an emulated one forgets more
        // than it has to.
        let flushed = flushes()? - before;
        check(
            &format!("flushed {flushed} times"),
            flushed >= ROUNDS as u64,
        )
    })
}

/// Nor one that was made read-only, until it is writable again.
fn protected() -> Outcome {
    while_counting(|_, own| {
        for round in 0..200 {
            let page = round % PAGES;
            wait(own, page)?;
            let protect = |prot| {
                // SAFETY: What is there is reached by atomics only.
                let result = unsafe { libc::mprotect(own.place(page).cast(), PAGE, prot) };
                check("mprotect", result == 0)
            };
            protect(libc::PROT_READ)?;
            stays(own, page, round)?;
            protect(libc::PROT_READ | libc::PROT_WRITE)?;
        }
        Ok(())
    })
}

/// Nor one whose region was taken away.
fn unmapped() -> Outcome {
    while_counting(|vm, own| {
        for round in 0..100 {
            let page = round % PAGES;
            wait(own, page)?;
            let at = AT + page as u64 * PAGE_SIZE;
            vm.unmap(at, PAGE_SIZE).map_err(text)?;
            stays(own, page, round)?;
            vm.map_user(at, PAGE_SIZE, RW).map_err(text)?;
        }
        Ok(())
    })
}

/// Everything at once, by two threads: what changes the process's memory, and what changes the micro-VM.
fn all() -> Outcome {
    while_counting(|vm, own| {
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let process = threads.spawn(|| {
                let mut random = Random(5);
                while !done.load(Ordering::SeqCst) {
                    let page = random.below(PAGES as u64) as usize;
                    match random.below(4) {
                        0 => {
                            own.carry(page, PAGES + page)?;
                            own.carry(PAGES + page, page)?;
                        }
                        1 => {
                            // SAFETY: What is there is reached by atomics only.
                            unsafe {
                                libc::madvise(own.place(page).cast(), PAGE, libc::MADV_DONTNEED)
                            };
                        }
                        2 => {
                            // SAFETY: The child ends at once.
                            let child = unsafe { libc::fork() };
                            if child == 0 {
                                // SAFETY: As above.
                                unsafe { libc::_exit(0) }
                            }
                            // SAFETY: It is ours to wait for.
                            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                        }
                        _ => {
                            // SAFETY: As above, for all.
                            unsafe {
                                libc::mprotect(own.place(page).cast(), PAGE, libc::PROT_READ)
                            };
                            let both = libc::PROT_READ | libc::PROT_WRITE;
                            // SAFETY: As above.
                            unsafe { libc::mprotect(own.place(page).cast(), PAGE, both) };
                        }
                    }
                }
                Ok::<(), String>(())
            });
            let mut random = Random(6);
            let changed = (|| {
                for _ in 0..400 {
                    let at = AT + random.below(PAGES as u64) * PAGE_SIZE;
                    match random.below(5) {
                        0 => {
                            vm.unmap(at, PAGE_SIZE).map_err(text)?;
                            vm.map_user(at, PAGE_SIZE, RW).map_err(text)?;
                        }
                        1 => {
                            vm.protect(at, PAGE_SIZE, Prot::READ).map_err(text)?;
                            vm.protect(at, PAGE_SIZE, RW).map_err(text)?;
                        }
                        2 => drop(vm.share(0).map_err(text)?),
                        3 => vm.bind(own.0 as u64 - AT).map_err(text)?,
                        _ => {
                            // Which leaves tables empty.
                            let len = PAGES as u64 * PAGE_SIZE;
                            vm.unmap(AT, len).map_err(text)?;
                            vm.map_user(AT, len, RW).map_err(text)?;
                        }
                    }
                }
                Ok(())
            })();
            done.store(true, Ordering::SeqCst);
            process
                .join()
                .map_err(|_| "the process's thread")?
                .and(changed)
        })?;
        (0..PAGES).try_for_each(|page| wait(own, page))
    })
}

fn main() {
    let mut tap = Tap::new().on_two_cpus();
    tap.test("a page that the process moves away", moved);
    tap.test("a page that the process makes read-only", protected);
    tap.test("a page whose region goes", unmapped);
    tap.test("changes by the process, and of the micro-VM", all);
    tap.finish();
}
