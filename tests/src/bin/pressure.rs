// SPDX-License-Identifier: GPL-2.0

//! A machine with little memory: micro-VMs give back what they can, and take no more than there is.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use uvisor::uapi::{MemoryCause, Stats};
use uvisor::{Event, Exit, GuestMemory, Prot, Vcpu, Vm, PAGE_SIZE};
use uvisor_tests::guest::load;
use uvisor_tests::heap::{held, step, sum, text, HEAP};
use uvisor_tests::proc::number;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap};

// Writes to each page from rdi on, without end.
code! { fill:
    "1: mov %rdi, (%rdi)",
    "add $4096, %rdi",
    "jmp 1b",
}

/// A number of /proc/meminfo, in bytes.
fn meminfo(name: &str) -> u64 {
    number("/proc/meminfo", name) << 10
}

/// A number of /proc/vmstat.
fn vmstat(name: &str) -> u64 {
    number("/proc/vmstat", name)
}

/// How many processes the kernel ended for want of memory.
fn killed() -> u64 {
    vmstat("oom_kill")
}

/// Adds large files below `dir` to `files` until these have `wanted` bytes in whole pages.
fn find(dir: &Path, wanted: u64, files: &mut Vec<(PathBuf, u64)>, sum: &mut u64) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if *sum >= wanted {
            return;
        } else if meta.is_dir() {
            find(&entry.path(), wanted, files, sum);
        } else if meta.is_file() && meta.size() >= 32 * PAGE_SIZE {
            let len = meta.size().next_multiple_of(PAGE_SIZE);
            files.push((entry.path(), len));
            *sum += len;
        }
    }
}

/// A child that has so much memory of its own, for a moment.
fn hog(bytes: u64) -> libc::pid_t {
    let page = PAGE_SIZE as usize;
    // SAFETY: The child of this process, which has one thread, only uses what it makes, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut memory = vec![0u8; bytes as usize];
        memory.chunks_mut(page).for_each(|page| page[0] = 1);
        let sum: usize = memory.chunks(page).map(|page| usize::from(page[0])).sum();
        let code = i32::from(sum != memory.len().div_ceil(page));
        // SAFETY: Ends the child.
        unsafe { libc::_exit(code) };
    }
    child
}

/// Whether a child lived to its good end.
fn lived(child: libc::pid_t) -> bool {
    let mut status = 0;
    // SAFETY: The call writes to the variable.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    waited == child && status == 0
}

/// The first words of all pages of many files, as a guest has them mapped.
struct Words(Vec<u64>);

impl Words {
    /// A guest with files mapped that are a good part of all memory, none of which it has looked at yet.
    fn map() -> Result<(Guest, Self), String> {
        let total = meminfo("MemTotal:");
        let wanted = total * 6 / 10;
        let (mut files, mut bytes) = (Vec::new(), 0);
        find(Path::new("/usr"), wanted, &mut files, &mut bytes);
        check(
            &format!("{bytes} bytes of files, {wanted} wanted"),
            bytes >= wanted,
        )?;
        let mut guest = Guest::new(sum());
        let (mut at, mut words) = (HEAP, Vec::new());
        for (path, len) in &files {
            let file = File::open(path).map_err(text)?;
            guest
                .vm
                .map_file(at, *len, Prot::READ, file.as_fd(), 0)
                .map_err(|e| format!("{path:?}: {e}"))?;
            at += len;
            for page in 0..len / PAGE_SIZE {
                let mut word = [0; 8];
                // The last page is zero behind the end of the file.
                let mut have = 0;
                while have < 8 {
                    match file.read_at(&mut word[have..], page * PAGE_SIZE + have as u64) {
                        Ok(0) => break,
                        Ok(n) => have += n,
                        Err(error) => return Err(format!("{path:?}: {error}")),
                    }
                }
                words.push(u64::from_le_bytes(word));
            }
        }
        let pages = (at - HEAP) / PAGE_SIZE;
        println!(
            "# {} files, {pages} pages, {} MiB of memory",
            files.len(),
            total >> 20
        );
        let regs = guest.vcpu.regs_mut();
        (regs.rdi, regs.rcx) = (HEAP, pages);
        Ok((guest, Self(words)))
    }

    /// Lets a vCPU of the guest, or of a clone, look at all pages.
    fn look(&self, vcpu: &mut Vcpu) -> Outcome {
        step(vcpu)?;
        let sum = |sum: u64, &word: &u64| sum.wrapping_add(word);
        equal("the sum", vcpu.regs().rax, self.0.iter().fold(0, sum))
    }

    /// Looks at some pages by a user mapping.
    fn check_mapping(&self, memory: &GuestMemory) -> Outcome {
        let same = self.0.iter().enumerate().step_by(23).all(|(page, &word)| {
            let at = memory.address(HEAP + page as u64 * PAGE_SIZE, 8);
            // SAFETY: Memory of the guest, which does not run now.
            let seen = at.map(|at| unsafe { at.cast::<u64>().read_volatile() });
            seen == Some(word)
        });
        check("the mapping shows the files", same)
    }
}

/// A process wants half of the memory for a moment, and gets it; how many pages of files `vms` gave back for
/// that, which must be some.
fn press<'a>(vms: impl IntoIterator<Item = &'a Vm> + Clone) -> Result<u64, String> {
    let sum = |of: fn(&Stats) -> u64| -> Result<u64, String> {
        let stats = vms.clone().into_iter().map(|vm| vm.stats());
        let all = stats.collect::<Result<Vec<_>, _>>().map_err(text)?;
        Ok(all.iter().map(of).sum())
    };
    let given_back = |stats: &Stats| stats.events[Event::FileGivenBack as usize];
    let (mapped, before) = (sum(|stats| stats.file)?, sum(given_back)?);
    check(
        "a process with half of the memory lives",
        lived(hog(meminfo("MemTotal:") / 2)),
    )?;
    let (left, given) = (sum(|stats| stats.file)?, sum(given_back)? - before);
    println!("# mapped {mapped}, then {left}, given back {given} pages");
    check("some were given back", given > 0)?;
    Ok(given)
}

/// Pages of files that are mapped are no more in the way of others than those that are not.
fn file_pages_go() -> Outcome {
    let (mut guest, words) = Words::map()?;
    let memory = guest.vm.memory().map_err(text)?;
    let before = killed();
    for _ in 0..2 {
        words.look(&mut guest.vcpu)?;
        // What user space has mapped goes as well, and comes back.
        words.check_mapping(&memory)?;
        press([&guest.vm])?;
    }
    equal("processes killed", killed(), before)
}

/// Nor are those that a template has in common with its clones.
fn common_file_pages_go() -> Outcome {
    let (held_before, killed_before) = (held(), killed());
    let (mut guest, words) = Words::map()?;
    words.look(&mut guest.vcpu)?;
    guest.vm.freeze().map_err(text)?;
    let clone = || -> Result<(Vm, Vcpu), String> {
        let vm = guest.vm.share(0).map_err(text)?;
        let vcpu = vm.create_vcpu_from(&guest.vcpu).map_err(text)?;
        Ok((vm, vcpu))
    };
    // They do nothing, and must be no obstacle.
    let idle: Result<Vec<_>, _> = (0..1000).map(|_| guest.vm.share(0)).collect();
    let idle = idle.map_err(text)?;
    let mut clones = Vec::new();
    let tables = |vm: &Vm| vm.stats().map(|stats| stats.tables).map_err(text);
    for _ in 0..3 {
        let (vm, mut vcpu) = clone()?;
        let before = tables(&vm)?;
        words.look(&mut vcpu)?;
        equal("tables of a clone that looked", tables(&vm)?, before)?;
        clones.push((vm, vcpu));
    }
    let file = |vm: &Vm| vm.stats().map(|stats| stats.file).map_err(text);
    let mapping = clones[0].0.memory().map_err(text)?;
    let template_mapping = guest.vm.memory().map_err(text)?;
    for round in 0..2 {
        words.check_mapping(&mapping)?;
        if round == 0 {
            words.check_mapping(&template_mapping)?;
        }
        let before = file(&guest.vm)?;
        press(
            [&guest.vm]
                .into_iter()
                .chain(clones.iter().map(|(vm, _)| vm)),
        )?;
        if round == 0 {
            check("the template gave back some", file(&guest.vm)? < before)?;
        }
        for (vm, vcpu) in &mut clones {
            words.look(vcpu)?;
            vm.reset().map_err(text)?;
            vcpu.reset().map_err(text)?;
            equal(
                "differences after a reset",
                vm.diff().map_err(text)?,
                vec![],
            )?;
            words.look(vcpu)?;
            equal("differences by looking", vm.diff().map_err(text)?, vec![])?;
        }
    }
    // What the template itself looks at comes back for all.
    words.check_mapping(&template_mapping)?;
    let (vm, mut vcpu) = clone()?;
    equal("files of a new clone", file(&vm)?, file(&guest.vm)?)?;
    check("some", file(&vm)? > 0)?;
    words.look(&mut vcpu)?;
    drop((vm, vcpu, mapping, template_mapping, clones, idle));
    drop(guest);
    equal("processes killed", killed(), killed_before)?;
    equal("all is given back", held(), held_before)
}

/// Lets a vCPU write to page after page, with nothing to stop it but the end of the memory; how many bytes
/// its micro-VM has then.
fn take_all(vm: &Vm, vcpu: &mut Vcpu) -> Result<u64, String> {
    const FILL: u64 = 0x6000_0000;
    let total = meminfo("MemTotal:");
    load(vm, FILL - PAGE_SIZE, fill());
    let rw = Prot::READ | Prot::WRITE;
    vm.map_anonymous(FILL, 2 * total, rw).map_err(text)?;
    let regs = vcpu.regs_mut();
    (regs.rip, regs.rdi) = (FILL - PAGE_SIZE, FILL);
    let before = vmstat("slabs_scanned");
    let exit = vcpu.run().map_err(text)?;
    let Exit::Memory { cause, .. } = exit else {
        return Err(format!("{exit:x?}"));
    };
    equal("why", cause, MemoryCause::Limit)?;
    let filled = vm.stats().map_err(text)?.private;
    let scanned = vmstat("slabs_scanned") - before;
    println!(
        "# {} of {} MiB, {scanned} objects of caches looked at",
        filled >> 20,
        total >> 20
    );
    // The kernel asks for what cannot be had, and must not be led to ask on: ten times as many, then.
    check("not many", scanned < 200_000)?;
    Ok(filled)
}

/// A guest that takes all memory gets an error, and nobody else is harmed.
fn there_is_no_more() -> Outcome {
    let before = killed();
    let held_before = held();
    // Somebody with memory of its own, that has nothing to do with it.
    // SAFETY: As in `hog`.
    let bystander = unsafe { libc::fork() };
    if bystander == 0 {
        let memory = vec![1u8; 16 << 20];
        loop {
            std::hint::black_box(&memory);
            // SAFETY: Sleeps.
            unsafe { libc::pause() };
        }
    }
    let mut guest = Guest::new(fill());
    let filled = take_all(&guest.vm, &mut guest.vcpu)?;
    drop(guest);
    let mut status = 0;
    // SAFETY: The call writes to the variable; then the child is ended and waited for.
    let changed = unsafe {
        let changed = libc::waitpid(bystander, &mut status, libc::WNOHANG);
        libc::kill(bystander, libc::SIGKILL);
        libc::waitpid(bystander, std::ptr::null_mut(), 0);
        changed
    };
    equal("the bystander lives", changed, 0)?;
    check("a good part of it", filled > meminfo("MemTotal:") / 3)?;
    equal("processes killed", killed(), before)?;
    equal("all is given back", held(), held_before)
}

/// A clone that takes all memory gets that of pages of files which it has in common with its template, though
/// it is in the middle of using its memory each time when there is none.
fn a_clone_gets_file_pages() -> Outcome {
    let (before, held_before) = (killed(), held());
    let (mut guest, words) = Words::map()?;
    words.look(&mut guest.vcpu)?;
    guest.vm.freeze().map_err(text)?;
    let vm = guest.vm.share(0).map_err(text)?;
    let mut vcpu = vm.create_vcpu_from(&guest.vcpu).map_err(text)?;
    words.look(&mut vcpu)?;
    let filled = take_all(&vm, &mut vcpu)?;
    vm.reset().map_err(text)?;
    vcpu.reset().map_err(text)?;
    words.look(&mut vcpu)?;
    drop((vm, vcpu, guest));
    check("a good part of it", filled > meminfo("MemTotal:") / 2)?;
    equal("processes killed", killed(), before)?;
    equal("all is given back", held(), held_before)
}

/// Sets the policy by which the kernel's thread that looks for memory gets the CPU.
fn schedule_kswapd(policy: libc::c_int) -> Outcome {
    let processes = fs::read_dir("/proc").map_err(text)?;
    let pids = processes.flatten().filter_map(|entry| {
        let comm = fs::read_to_string(entry.path().join("comm")).ok()?;
        let pid: libc::pid_t = entry.file_name().to_str()?.parse().ok()?;
        comm.starts_with("kswapd").then_some(pid)
    });
    let mut any = false;
    for pid in pids {
        let param = libc::sched_param { sched_priority: 0 };
        // SAFETY: The structure lives during the call.
        let set = unsafe { libc::sched_setscheduler(pid, policy, &param) };
        equal("sched_setscheduler", set, 0)?;
        any = true;
    }
    check("there is a kswapd", any)
}

/// The same where whoever wants memory has to look for it: the thread that does that for all gets no CPU as long
/// as the guest wants it. With the memory's lock held meanwhile, others would find none, and the kernel kill them.
fn a_clone_gets_file_pages_by_itself() -> Outcome {
    schedule_kswapd(libc::SCHED_IDLE)?;
    let result = a_clone_gets_file_pages();
    schedule_kswapd(libc::SCHED_OTHER)?;
    result
}

fn main() {
    let mut tap = Tap::new();
    if meminfo("MemTotal:") > 320 << 20 {
        tap.skip("pages of files", "this is for a machine with little memory");
        tap.skip(
            "pages of files of a template",
            "this is for a machine with little memory",
        );
        tap.skip(
            "memory for a clone",
            "this is for a machine with little memory",
        );
        tap.skip(
            "memory for a clone without kswapd",
            "this is for a machine with little memory",
        );
        tap.skip("all memory", "this is for a machine with little memory");
    } else {
        tap.test(
            "pages of files that are mapped are given back",
            file_pages_go,
        );
        tap.test(
            "pages of files that a template and its clones have are given back",
            common_file_pages_go,
        );
        tap.test(
            "a clone that takes all memory gets what its template's files have",
            a_clone_gets_file_pages,
        );
        tap.test(
            "and so it does where nobody looks for memory but who wants it",
            a_clone_gets_file_pages_by_itself,
        );
        tap.test(
            "a guest that takes all memory gets an error",
            there_is_no_more,
        );
    }
    tap.finish();
}
