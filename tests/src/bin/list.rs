// SPDX-License-Identifier: GPL-2.0

//! LIST: who sees which micro-VMs, and what is said of them.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{E2BIG, EFAULT, EINVAL};
use uvisor::{Device, ListEntry, ListFlags, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, held, parent, text, HEAP};
use uvisor_tests::raw::{fails, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{host, Tap};
use uvisor_uapi as uapi;
use uvisor_uapi::List;

/// An effective user that is nobody's here.
const OTHER: u32 = 12345;

fn device() -> Result<Device, String> {
    Device::open().map_err(text)
}

/// A new one, and what is said of it.
fn new(device: &Device) -> Result<(Vm, ListEntry), String> {
    let before = ids(device)?;
    let vm = device.create_vm(0).map_err(text)?;
    Ok((vm, only_new(device, &before)?))
}

fn ids(device: &Device) -> Result<HashSet<u64>, String> {
    let list = device.list().map_err(text)?;
    Ok(list.iter().map(|entry| entry.id).collect())
}

/// The one that is not among `before`.
fn only_new(device: &Device, before: &HashSet<u64>) -> Result<ListEntry, String> {
    let list = device.list().map_err(text)?;
    let mut new = list.into_iter().filter(|entry| !before.contains(&entry.id));
    match (new.next(), new.next()) {
        (Some(entry), None) => Ok(entry),
        (first, second) => Err(format!("new: {first:?}, {second:?}")),
    }
}

fn entry(device: &Device, id: u64) -> Result<Option<ListEntry>, String> {
    let list = device.list().map_err(text)?;
    Ok(list.into_iter().find(|entry| entry.id == id))
}

/// What is said of one is what it says itself, as it changes.
fn says_what_is() -> Outcome {
    const PAGES: u64 = 20_000;
    let before = ids(&device()?)?;
    let template = parent(add(), PAGES)?;
    let device = device()?;
    let of_template = only_new(&device, &before)?;
    let id = of_template.id;
    // SAFETY: The call has no arguments.
    let me = unsafe { (libc::getpid() as u32, libc::geteuid()) };
    equal("pid and uid", (of_template.pid, of_template.uid), me)?;
    equal(
        "parent, flags, vCPUs",
        (of_template.parent, of_template.flags, of_template.vcpus),
        (0, 0, 1),
    )?;
    let same = |what: &str, vm: &Vm, id: u64| {
        let stats = vm.stats().map_err(text)?;
        let seen = entry(&device, id)?.ok_or("not listed")?;
        equal(
            &format!("{what}: private, shared, tables, charged"),
            (seen.private, seen.shared, seen.tables, seen.charged),
            (stats.private, stats.shared, stats.tables, stats.charged),
        )?;
        Ok::<_, String>(seen)
    };
    let alone = same("alone", &template.vm, id)?;
    check(
        &format!("{alone:?} has {PAGES} pages"),
        alone.private >= PAGES * PAGE_SIZE && alone.shared == 0,
    )?;
    let known = ids(&device)?;
    let clone = template.vm.share(0).map_err(text)?;
    let of_clone = only_new(&device, &known)?;
    equal("the clone's parent", of_clone.parent, id)?;
    check("the clone is younger", of_clone.id > id)?;
    let vcpu = clone.create_vcpu_from(&template.vcpu).map_err(text)?;
    for page in 0..3 {
        clone
            .write_at(HEAP + page * 600 * PAGE_SIZE, &[1])
            .map_err(text)?;
    }
    let seen = same("the clone", &clone, of_clone.id)?;
    equal("private", seen.private, 3 * PAGE_SIZE)?;
    equal("its vCPUs", seen.vcpus, 1)?;
    same("the parent", &template.vm, id)?;
    drop(vcpu);
    let seen = same("without the vCPU", &clone, of_clone.id)?;
    equal("its vCPUs then", seen.vcpus, 0)?;
    equal("not frozen", seen.flags, 0)?;
    template.vm.freeze().map_err(text)?;
    let seen = same("frozen", &template.vm, id)?;
    equal("frozen", seen.flags, ListFlags::FROZEN.bits())?;
    // The clone outlives it, and names it all the same.
    drop(template);
    equal("closed", entry(&device, id)?, None)?;
    let seen = same("alone", &clone, of_clone.id)?;
    equal("the parent's number", seen.parent, id)?;
    drop(clone);
    equal("all closed", ids(&device)?, before)
}

/// No number is given twice.
fn numbers_are_new() -> Outcome {
    let device = device()?;
    let mut last = 0;
    for round in 0..20 {
        let (vm, entry) = new(&device)?;
        check(
            &format!("{round}: {} after {last}", entry.id),
            entry.id > last,
        )?;
        last = entry.id;
        drop(vm);
    }
    Ok(())
}

/// Runs `body` in a child that shares this process's descriptors if `files`; what it returned. In one whose
/// parent is the first process of a new PID namespace, if `alone`.
fn in_child(
    files: bool,
    alone: bool,
    body: impl FnOnce() -> Result<u8, String>,
) -> Result<u8, String> {
    let flags = if files { libc::CLONE_FILES } else { 0 };
    let flags = flags | if alone { libc::CLONE_NEWPID } else { 0 };
    // SAFETY: As `fork`, of a process with one thread; the child ends in here.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if child == 0 {
        let code = body().unwrap_or_else(|seen| {
            println!("# child: {seen}");
            255
        });
        // SAFETY: Ends the child.
        unsafe { libc::_exit(code.into()) };
    }
    let mut status = 0;
    // SAFETY: The call writes to the variable.
    let waited = unsafe { libc::waitpid(child as i32, &mut status, 0) };
    equal("waitpid", i64::from(waited), child)?;
    match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status) as u8) {
        Some(255) | None => Err(format!("the child failed: {status:#x}")),
        Some(code) => Ok(code),
    }
}

/// Becomes another user, without privileges.
fn become_other() -> Outcome {
    // SAFETY: Plain numbers.
    equal("setuid", unsafe { libc::setuid(OTHER) }, 0)
}

/// Who is not privileged sees what its own user made; who is, all.
fn sees_its_own() -> Outcome {
    let device = device()?;
    let (vm, mine) = new(&device)?;
    let before = ids(&device)?;
    // The child's micro-VM stays open here.
    let fd = in_child(true, false, || {
        become_other()?;
        equal(
            "what another user sees",
            device.list().map_err(text)?,
            vec![],
        )?;
        let (vm, entry) = new(&device)?;
        equal("its own", entry.uid, OTHER)?;
        // SAFETY: The call has no arguments.
        equal("its pid", entry.pid, unsafe { libc::getpid() } as u32)?;
        let fd = vm.as_fd().as_raw_fd();
        std::mem::forget(vm);
        u8::try_from(fd).map_err(text)
    })?;
    // SAFETY: The child made it, in descriptors that it shared with us, and is gone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd.into()) };
    let others = only_new(&device, &before)?;
    equal("the other's user", others.uid, OTHER)?;
    equal("its process, which ended", others.pid, 0)?;
    in_child(false, false, || {
        become_other()?;
        let seen = ids(&device)?;
        equal("of the same user", seen, HashSet::from([others.id]))?;
        Ok(0)
    })?;
    // A process of another PID namespace has no number for us, and all the same sees us.
    in_child(false, true, || {
        let seen = entry(&device, mine.id)?.ok_or("not seen")?;
        equal("the pid outside", seen.pid, 0)?;
        let (_vm, own) = new(&device)?;
        equal("the pid inside", own.pid, 1)?;
        Ok(0)
    })?;
    // In a user namespace of its own, root is nobody special, and the same user as before.
    in_child(false, false, || {
        // SAFETY: Plain numbers.
        equal("unshare", unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0)?;
        let seen = ids(&device)?;
        check(
            &format!("{seen:?}"),
            seen.contains(&mine.id) && !seen.contains(&others.id),
        )?;
        let uid = entry(&device, mine.id)?.map(|entry| entry.uid);
        equal("no number there", uid, Some(u32::MAX))?;
        Ok(0)
    })?;
    drop(fd);
    equal("the other is gone", ids(&device)?, before)?;
    drop(vm);
    Ok(())
}

/// Every bad argument.
fn bad_arguments() -> Outcome {
    const SIZE: usize = size_of::<ListEntry>();
    let device = device()?;
    let vms: Vec<_> = (0..5).map(|_| new(&device)).collect::<Result<_, _>>()?;
    let mut room = [ListEntry::default(); 8];
    let list = |at: usize, count: u32, entry_size: u32| {
        let mut list = List {
            entries: at as u64,
            count,
            entry_size,
            ..List::new()
        };
        ioctl_with(&device, uapi::LIST, &mut list).map(|_| list)
    };
    let (at, size) = (room.as_mut_ptr() as usize, SIZE as u32);
    // Nothing is written where there is room for none.
    let none = works("no room", list(0, 0, size))?;
    check("total", none.total >= 5 && none.count == 0)?;
    let total = none.total;
    let some = works("little room", list(at, 3, size))?;
    equal("filled", (some.count, some.total), (3, total))?;
    check("three", room[2].id != 0)?;
    equal("and no more", room[3], ListEntry::default())?;
    let all = works("much room", list(at, 8, size))?;
    equal("all", (u64::from(all.count), all.total), (total, total))?;
    check(
        "in order",
        room[..5].windows(2).all(|two| two[0].id < two[1].id),
    )?;
    for size in [0, 8, 56, 63, 65, 68] {
        fails(&format!("{size}"), list(at, 8, size), EINVAL)?;
    }
    for size in [4104, 1 << 20, u32::MAX - 7] {
        fails(&format!("{size}"), list(at, 8, size), E2BIG)?;
    }
    // Of what the module does not know it says that it is zero.
    let mut wide = [[u64::MAX; 10]; 5];
    works("wide", list(wide.as_mut_ptr() as usize, 5, 80))?;
    for (wide, entry) in wide.iter().zip(&room) {
        equal("wide", (wide[0], wide[8], wide[9]), (entry.id, 0, 0))?;
    }
    // Memory that is not there, or only in part.
    for bad in [0, 8, usize::MAX << 47, usize::MAX - 7] {
        fails(&format!("at {bad:#x}"), list(bad, 8, size), EFAULT)?;
    }
    let page = PAGE_SIZE as usize;
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let memory = works("mmap", mmap(None, 2 * page, rw, libc::MAP_PRIVATE, 0))?;
    // SAFETY: The second page of a mapping of ours, with no reference into it.
    unsafe { libc::mprotect(memory.add(page).cast(), page, libc::PROT_READ) };
    let end = memory as usize + page;
    fails("cut off", list(end - 2 * SIZE - 8, 8, size), EFAULT)?;
    works("just enough", list(end - 2 * SIZE, 2, size))?;
    fails("read-only", list(end, 1, size), EFAULT)?;
    munmap(memory, 2 * page);
    drop(vms);
    Ok(())
}

/// Lists while others come and go, and change.
fn while_they_change() -> Outcome {
    let device = device()?;
    let before = held();
    let (kept, first) = new(&device)?;
    let template = parent(add(), 3000)?;
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        let (stop, template, kept) = (&stop, &template, &kept);
        let workers: Vec<_> = (0..3)
            .map(|number| {
                scope.spawn(move || -> Outcome {
                    if host::cpus() > 1 {
                        host::pin_to_cpu(number % 2);
                    }
                    let mut round = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let source = if round % 2 == 0 { &template.vm } else { kept };
                        let vm = source.share(0).map_err(text)?;
                        let again = vm.share(0).map_err(text)?;
                        if round % 2 == 0 {
                            let page = (round + number as u64 * 700) % 3000;
                            vm.write_at(HEAP + page * PAGE_SIZE, &[1]).map_err(text)?;
                            let vcpu = again.create_vcpu_from(&template.vcpu).map_err(text)?;
                            drop((vm, again, vcpu));
                        }
                        round += 1;
                    }
                    check(&format!("{round} rounds"), round > 1)
                })
            })
            .collect();
        let mut seen = HashSet::new();
        let mut look = || -> Outcome {
            for round in 0..300 {
                let list = device.list().map_err(text)?;
                for two in list.windows(2) {
                    check(&format!("{round}: order"), two[0].id < two[1].id)?;
                }
                for entry in &list {
                    seen.insert(entry.id);
                    check(
                        &format!("{round}: {entry:?}"),
                        entry.parent < entry.id
                            && entry.tables >= PAGE_SIZE
                            && entry.private < 4000 * PAGE_SIZE
                            && entry.shared < 4000 * PAGE_SIZE
                            && entry.charged < 4000 * PAGE_SIZE
                            && entry.vcpus <= 1,
                    )?;
                }
                check(
                    &format!("{round}: the first is always there"),
                    list.first().map(|entry| entry.id) == Some(first.id),
                )?;
            }
            Ok(())
        };
        let looked = look();
        stop.store(true, Ordering::Relaxed);
        let joined: Result<Vec<()>, String> = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a panic".to_owned())?)
            .collect();
        looked?;
        joined?;
        check(&format!("{} seen", seen.len()), seen.len() > 10)
    });
    outcome?;
    drop((kept, template));
    equal("nothing is left", held(), before)?;
    let left = device.list().map_err(text)?;
    equal("nor listed", left, vec![])
}

/// Many: each is there once, and it takes a bounded time to find one's own.
fn many() -> Outcome {
    const COUNT: usize = 2000;
    let device = device()?;
    let (first, _) = new(&device)?;
    let clones: Vec<Vm> = (0..COUNT)
        .map(|_| first.share(0).map_err(text))
        .collect::<Result<_, _>>()?;
    let list = device.list().map_err(text)?;
    equal("all", list.len(), COUNT + 1)?;
    in_child(false, false, || {
        become_other()?;
        equal("nothing", device.list().map_err(text)?, vec![])?;
        // Its own comes behind all the others.
        let (_vm, entry) = new(&device)?;
        equal("its own", entry.uid, OTHER)?;
        Ok(0)
    })?;
    drop(clones);
    equal("one", device.list().map_err(text)?.len(), 1)
}

fn main() {
    // Each test gets as many descriptors as it may.
    // SAFETY: The calls read and write the structure.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let mut tap = Tap::new();
    tap.test("it says what is", says_what_is);
    tap.test("numbers are new", numbers_are_new);
    tap.test("each user sees its own, root sees all", sees_its_own);
    tap.test("bad arguments", bad_arguments);
    tap.test("while others come and go", while_they_change);
    tap.test("many", many);
    tap.finish();
}
