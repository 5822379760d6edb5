// SPDX-License-Identifier: GPL-2.0

//! Views follow what happens to the memory below them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use uvisor::{Exit, Features, MemoryCause, Prot, Vcpu, ViewFlags, Vm, PAGE_SIZE};
use uvisor_tests::guest::{has, live_word};
use uvisor_tests::heap::{held, step, text, HEAP};
use uvisor_tests::host::{cpus, pin_to_cpu};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, DATA};

use super::{by_hypercall, gone, guest, hidden, read_write, ALL, RW};

// Reads the word at rsi and counts at rdi, without end.
code! { reader:
    "1: mov (%rsi), %rax",
    "lock incq (%rdi)",
    "jmp 1b",
}

// Goes from the view in r12 to that in r13 and back, and counts at rdi, without end.
code! { restless:
    "1: xor %eax, %eax",
    "mov %r12, %rcx",
    "vmfunc",
    "lock incq (%rdi)",
    "mov %r13, %rcx",
    "vmfunc",
    "jmp 1b",
}

/// Reads the word at `gpa` in a view, by a guest that is about to read.
fn read_in(vcpu: &mut Vcpu, view: u32, gpa: u64) -> Result<u64, String> {
    let regs = vcpu.regs_mut();
    (regs.view, regs.rsi) = (view.into(), gpa);
    step(vcpu)?;
    Ok(vcpu.regs().rbx)
}

/// Two guests' worth of the same: a view sees what another wrote, and copies as well.
fn copies() -> Outcome {
    let mut guest = guest(read_write())?;
    let views: Vec<u32> = (0..3)
        .map(|_| guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text))
        .collect::<Result<_, _>>()?;
    // All views have the page before it is shared.
    for &view in &views {
        equal(
            "before",
            read_in(&mut guest.vcpu, view, HEAP + PAGE_SIZE)?,
            11,
        )?;
        step(&mut guest.vcpu)?;
    }
    let clone = guest.vm.share(0).map_err(text)?;
    let mut theirs = clone.create_vcpu_from(&guest.vcpu).map_err(text)?;
    // The parent writes in one view: the clone does not see it, and all views of the parent do.
    equal(
        "read",
        read_in(&mut guest.vcpu, views[1], HEAP + PAGE_SIZE)?,
        11,
    )?;
    guest.vcpu.regs_mut().rbx = 1000;
    step(&mut guest.vcpu)?;
    for view in [0, views[0], views[1], views[2]] {
        equal(
            "the parent's",
            read_in(&mut guest.vcpu, view, HEAP + PAGE_SIZE)?,
            1000,
        )?;
        step(&mut guest.vcpu)?;
        equal(
            "the clone's",
            read_in(&mut theirs, view, HEAP + PAGE_SIZE)?,
            11,
        )?;
        step(&mut theirs)?;
    }
    // And the other way round, by user space.
    clone
        .write_at(HEAP + PAGE_SIZE, &2000_u64.to_le_bytes())
        .map_err(text)?;
    for view in views {
        equal(
            "the clone's",
            read_in(&mut theirs, view, HEAP + PAGE_SIZE)?,
            2000,
        )?;
        step(&mut theirs)?;
        equal(
            "the parent's",
            read_in(&mut guest.vcpu, view, HEAP + PAGE_SIZE)?,
            1000,
        )?;
        step(&mut guest.vcpu)?;
    }
    Ok(())
}

/// What is unmapped, discarded or protected is so in all views.
fn taken() -> Outcome {
    let mut guest = guest(read_write())?;
    let view = guest
        .vm
        .create_view(ALL, ViewFlags::empty())
        .map_err(text)?;
    for page in 0..4 {
        equal(
            "before",
            read_in(&mut guest.vcpu, view, HEAP + page * PAGE_SIZE)?,
            page * 11,
        )?;
        step(&mut guest.vcpu)?;
    }
    guest.vm.unmap(HEAP, PAGE_SIZE).map_err(text)?;
    guest
        .vm
        .discard(HEAP + PAGE_SIZE, PAGE_SIZE)
        .map_err(text)?;
    guest
        .vm
        .protect(HEAP + 2 * PAGE_SIZE, PAGE_SIZE, Prot::READ)
        .map_err(text)?;
    guest
        .vm
        .protect(HEAP + 3 * PAGE_SIZE, PAGE_SIZE, Prot::empty())
        .map_err(text)?;
    let memory = |page: u64, access, cause| Exit::Memory {
        gpa: HEAP + page * PAGE_SIZE,
        linear: Some(HEAP + page * PAGE_SIZE),
        access,
        cause,
    };
    guest.vcpu.regs_mut().rsi = HEAP;
    let unmapped = memory(0, Prot::READ, MemoryCause::Unmapped);
    equal("unmapped", guest.run(), unmapped)?;
    equal(
        "discarded",
        read_in(&mut guest.vcpu, view, HEAP + PAGE_SIZE)?,
        0,
    )?;
    step(&mut guest.vcpu)?;
    equal(
        "read-only",
        read_in(&mut guest.vcpu, view, HEAP + 2 * PAGE_SIZE)?,
        22,
    )?;
    let denied = memory(2, Prot::WRITE, MemoryCause::Denied);
    equal("read-only", guest.run(), denied)?;
    guest.vcpu.regs_mut().rsi = HEAP + PAGE_SIZE;
    step(&mut guest.vcpu)?;
    guest.vcpu.regs_mut().rsi = HEAP + 3 * PAGE_SIZE;
    let denied = memory(3, Prot::READ, MemoryCause::Denied);
    equal("no permission", guest.run(), denied)
}

/// Clones have the same views with the same limits; a reset brings the template's back.
fn clones_and_resets() -> Outcome {
    let before = held();
    let mut guest = guest(by_hypercall())?;
    let view = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
    let secret = HEAP + PAGE_SIZE;
    let hide = |vm: &Vm, prot| vm.protect_view(view, secret, PAGE_SIZE, prot).map_err(text);
    hide(&guest.vm, Prot::empty())?;
    guest.vcpu.regs_mut().r12 = view.into();
    guest.vcpu.regs_mut().rsi = HEAP;
    step(&mut guest.vcpu)?;
    guest.vm.freeze().map_err(text)?;
    let errno = |result: uvisor::Result<u32>| result.map_err(|e| e.errno());
    equal(
        "VIEW_CREATE in a template",
        errno(guest.vm.create_view(ALL, ViewFlags::empty())),
        Err(Some(libc::EROFS)),
    )?;
    let clone = guest.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&guest.vcpu).map_err(text)?;
    equal("the view", vcpu.regs().view, view.into())?;
    vcpu.regs_mut().rsi = secret;
    equal(
        "in the clone",
        vcpu.run().map_err(text)?,
        hidden(secret, Prot::READ),
    )?;
    // The clone's views are its own now.
    hide(&clone, ALL)?;
    step(&mut vcpu)?;
    equal("shown", vcpu.regs().rbx, 11)?;
    let second = clone
        .create_view(Prot::READ, ViewFlags::GUEST)
        .map_err(text)?;
    vcpu.regs_mut().view = second.into();
    vcpu.regs_mut().rsi = HEAP;
    // It cannot even execute there.
    let exit = vcpu.run().map_err(text)?;
    check(
        &format!("fetch in a view that reads only: {exit:x?}"),
        matches!(
            exit,
            Exit::Memory {
                access: Prot::EXEC,
                cause: MemoryCause::Hidden,
                ..
            }
        ),
    )?;
    clone.reset().map_err(text)?;
    // As it was: the view is gone, and the other hides.
    equal(
        "the new view",
        vcpu.run().map_err(text)?,
        gone(second.into()),
    )?;
    vcpu.reset().map_err(text)?;
    equal("the view after a reset", vcpu.regs().view, view.into())?;
    vcpu.regs_mut().rsi = secret;
    equal(
        "after a reset",
        vcpu.run().map_err(text)?,
        hidden(secret, Prot::READ),
    )?;
    let again = clone.create_view(ALL, ViewFlags::empty()).map_err(text)?;
    equal("its number is free", again, second)?;
    drop((vcpu, clone, guest));
    equal("held after all", held(), before)
}

/// Lets a thread run `vcpu` on the other CPU until it exits, does `take` when it counts, and gives the
/// exit; the count must not go on behind that.
fn while_running(
    guest: Guest,
    take: impl FnOnce(&Vm) -> uvisor::Result<()>,
) -> Result<(Exit, u64), String> {
    let memory = guest.vm.memory().map_err(text)?;
    let count = live_word(&memory, DATA)?;
    let mut vcpu = guest.vcpu;
    let thread = std::thread::spawn(move || {
        pin_to_cpu(1);
        let exit = vcpu.run().map_err(text);
        exit.map(|exit| (exit, vcpu.regs().view))
    });
    let start = Instant::now();
    while count.load(Ordering::SeqCst) < 1000 {
        if start.elapsed() > Duration::from_secs(60) {
            return Err("the guest does not count".into());
        }
        std::thread::yield_now();
    }
    take(&guest.vm).map_err(text)?;
    let after = count.load(Ordering::SeqCst);
    let ended = thread.join().map_err(|_| "panic".to_owned())??;
    // One that was under way when it was interrupted.
    let later = count.load(Ordering::SeqCst);
    check(&format!("{after} became {later}"), later <= after + 1)?;
    Ok(ended)
}

/// What is hidden in a view in which another CPU runs is hidden when the call returns.
fn hidden_while_running() -> Outcome {
    for round in 0..20 {
        let mut guest = guest(reader())?;
        let view = guest
            .vm
            .create_view(ALL, ViewFlags::empty())
            .map_err(text)?;
        let regs = guest.vcpu.regs_mut();
        (regs.view, regs.rsi, regs.rdi) = (view.into(), HEAP + PAGE_SIZE, DATA);
        let (exit, at) = while_running(guest, |vm| {
            vm.protect_view(view, HEAP, 4 * PAGE_SIZE, Prot::empty())
        })?;
        equal("the exit", exit, hidden(HEAP + PAGE_SIZE, Prot::READ))?;
        equal(&format!("the view in round {round}"), at, view.into())?;
    }
    Ok(())
}

/// A view that is destroyed while another CPU goes in and out of it, or runs in it, is left.
fn destroyed_while_running(code: &'static [u8]) -> Outcome {
    for round in 0..20 {
        let mut guest = guest(code)?;
        let one = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
        let other = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
        let regs = guest.vcpu.regs_mut();
        (regs.r12, regs.r13) = (one.into(), other.into());
        (regs.view, regs.rsi, regs.rdi) = (one.into(), HEAP, DATA);
        let (exit, _) = while_running(guest, |vm| vm.destroy_view(one))?;
        equal(
            &format!("the exit in round {round}"),
            exit,
            gone(one.into()),
        )?;
    }
    Ok(())
}

/// A vCPU whose view went does not find itself in another one that has its number by then.
fn made_anew_while_running() -> Outcome {
    for round in 0..40 {
        let mut guest = guest(reader())?;
        let view = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
        let regs = guest.vcpu.regs_mut();
        (regs.view, regs.rsi, regs.rdi) = (view.into(), HEAP, DATA);
        let mut number = 0;
        let (exit, at) = while_running(guest, |vm| {
            vm.destroy_view(view)?;
            number = vm.create_view(ALL, ViewFlags::empty())?;
            Ok(())
        })?;
        equal("the number is used again", number, view)?;
        equal(
            &format!("the exit in round {round}"),
            exit,
            gone(view.into()),
        )?;
        equal("the view it names", at, view.into())?;
    }
    Ok(())
}

/// Writes in two views of one micro-VM, and of its clone, at once.
fn writes_on_two_cpus() -> Outcome {
    let guest = guest(read_write())?;
    let views: Vec<u32> = (0..2)
        .map(|_| {
            guest
                .vm
                .create_view(RW | Prot::EXEC, ViewFlags::GUEST)
                .map_err(text)
        })
        .collect::<Result<_, _>>()?;
    let clone = guest.vm.share(0).map_err(text)?;
    let run = |vm: &Vm, cpu: usize, view: u32, page: u64| {
        let mut vcpu = vm.create_vcpu_from(&guest.vcpu).map_err(text)?;
        Ok::<_, String>(move || {
            pin_to_cpu(cpu);
            for _ in 0..200 {
                let word = read_in(&mut vcpu, view, HEAP + page * PAGE_SIZE)?;
                vcpu.regs_mut().rbx = word + 1;
                step(&mut vcpu)?;
            }
            Ok::<_, String>(())
        })
    };
    let jobs = [
        run(&guest.vm, 0, views[0], 0)?,
        run(&guest.vm, 1, views[1], 1)?,
        run(&clone, 1, views[0], 0)?,
        run(&clone, 0, views[1], 1)?,
    ];
    let threads = jobs.map(std::thread::spawn);
    for thread in threads {
        thread.join().map_err(|_| "panic".to_owned())??;
    }
    for vm in [&guest.vm, &clone] {
        for page in 0..2 {
            let mut bytes = [0; 8];
            vm.read_at(HEAP + page * PAGE_SIZE, &mut bytes)
                .map_err(text)?;
            equal("a word", u64::from_le_bytes(bytes), page * 11 + 200)?;
        }
    }
    Ok(())
}

pub(crate) fn test(tap: &mut Tap) {
    tap.test("a copy is seen in all views", copies);
    tap.test("what is taken from memory is taken from views", taken);
    tap.test(
        "clones have the views, and resets bring them back",
        clones_and_resets,
    );
    if cpus() < 2 {
        for name in [
            "a view is hidden while it runs",
            "a view goes while it runs",
            "a view goes and another gets its number",
            "views on two CPUs",
        ] {
            tap.skip(name, "needs two CPUs");
        }
        return;
    }
    tap.test(
        "a range is hidden from a view that runs",
        hidden_while_running,
    );
    tap.test("a view goes while a guest runs in it", || {
        destroyed_while_running(reader())
    });
    tap.test(
        "a view goes, and another gets its number, while a guest runs in it",
        made_anew_while_running,
    );
    if has(Features::VMFUNC) {
        tap.test("a view goes while a guest goes in and out of it", || {
            destroyed_while_running(restless())
        });
    } else {
        tap.skip(
            "a view goes while a guest goes in and out",
            "this CPU has no VMFUNC",
        );
    }
    tap.test(
        "two views are written on two CPUs, in a clone as well",
        writes_on_two_cpus,
    );
}
