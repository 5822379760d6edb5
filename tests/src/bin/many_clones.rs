// SPDX-License-Identifier: GPL-2.0

//! Many clones of one template: what each costs while it does nothing, and that none sees another's writes.

use uvisor::{Device, Vcpu, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, parent, step, text, word, HEAP};
use uvisor_tests::random::Random;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{Guest, Tap};

/// How many pages the template has: 64 MiB.
const PAGES: u64 = (64 << 20) / PAGE_SIZE;

/// A template whose pages all have a 1 in their first word.
fn template() -> Result<Guest, String> {
    let guest = parent(add(), PAGES)?;
    guest.vm.freeze().map_err(text)?;
    Ok(guest)
}

/// A clone with a vCPU.
fn clone(template: &Guest) -> Result<(Vm, Vcpu), String> {
    let vm = template.vm.share(0).map_err(text)?;
    let vcpu = vm.create_vcpu_from(&template.vcpu).map_err(text)?;
    Ok((vm, vcpu))
}

/// The sum of the numbers that follow `key` in a file of /proc.
fn sum(path: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(path).expect("a file of /proc");
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key));
    lines
        .filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// Bytes of the machine's memory that are available. What the kernel keeps at hand for each
/// CPU, up to an eighth of the memory, is available as well, and MemAvailable leaves it out.
fn available() -> u64 {
    (sum("/proc/meminfo", "MemAvailable:") << 10) + sum("/proc/zoneinfo", "count:") * PAGE_SIZE
}

/// [`available`], when what others give back has come back.
fn settled() -> u64 {
    let mut last = available();
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = available();
        if now.abs_diff(last) < 256 << 10 {
            return now;
        }
        last = now;
    }
    last
}

/// Thousands of clones, each of which ran and wrote nothing.
fn idle() -> Outcome {
    const CLONES: u64 = 4000;
    const MOST: u64 = 64 << 10;
    let template = template()?;
    // The first one pays for what all need.
    let first = clone(&template)?;
    let before = settled();
    let mut clones = Vec::with_capacity(CLONES as usize);
    for _ in 0..CLONES {
        let (vm, mut vcpu) = clone(&template)?;
        // Into the guest, behind its loop: at the VMCALL, which it then steps over.
        vcpu.regs_mut().rip -= uvisor::HYPERCALL_LEN;
        step(&mut vcpu)?;
        clones.push((vm, vcpu));
    }
    let each = before.saturating_sub(settled()) / CLONES;
    println!("# {CLONES} clones, {each} bytes each");
    // No clone goes without a root and a VMCS.
    check(
        &format!("{each} bytes each are a measurement"),
        each >= 2 * PAGE_SIZE,
    )?;
    check(
        &format!("{each} bytes each, at most {MOST} wanted"),
        each <= MOST,
    )?;
    // They are all alive.
    for (number, (vm, _)) in clones.iter().enumerate().step_by(997) {
        equal(&format!("clone {number}"), word(vm, number as u64)?, 1)?;
    }
    drop((clones, first));
    drop(template);
    let info = Device::open()
        .and_then(|device| device.info())
        .map_err(text)?;
    equal("held after all", (info.vms, info.memory), (0, 0))
}

/// A thousand clones write at random, are reset and go, and are what a model says that shares nothing.
fn at_random() -> Outcome {
    const CLONES: usize = 1000;
    let template = template()?;
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut clones = Vec::new();
    for _ in 0..CLONES {
        clones.push((clone(&template)?, std::collections::HashMap::new()));
    }
    for round in 0..6000u64 {
        let which = random.below(clones.len() as u64) as usize;
        let many = clones.len() > CLONES / 2;
        let ((vm, vcpu), model) = &mut clones[which];
        match random.below(40) {
            0 => {
                let pages = vm.reset().map_err(text)?;
                equal("pages given back", pages, model.len() as u64)?;
                vcpu.reset().map_err(text)?;
                model.clear();
            }
            1 if many => drop(clones.swap_remove(which)),
            _ => {
                let page = random.below(PAGES);
                vcpu.regs_mut().rdi = HEAP + page * PAGE_SIZE;
                vcpu.regs_mut().rcx = 1;
                vcpu.regs_mut().rdx = round;
                step(vcpu)?;
                let word = model.entry(page).or_insert(1u64);
                *word = word.wrapping_add(round);
            }
        }
    }
    for (number, ((vm, _), model)) in clones.iter().enumerate() {
        for (page, wanted) in model {
            equal(
                &format!("clone {number}, page {page}"),
                word(vm, *page)?,
                *wanted,
            )?;
        }
        for _ in 0..3 {
            let page = random.below(PAGES);
            let wanted = *model.get(&page).unwrap_or(&1);
            equal(
                &format!("clone {number}, page {page}"),
                word(vm, page)?,
                wanted,
            )?;
        }
    }
    for page in (0..PAGES).step_by(101) {
        equal("the template's", word(&template.vm, page)?, 1)?;
    }
    drop(clones);
    drop(template);
    let info = Device::open()
        .and_then(|device| device.info())
        .map_err(text)?;
    equal("held after all", (info.vms, info.memory), (0, 0))
}

fn main() {
    let mut tap = Tap::new();
    // Two descriptors for each clone.
    let limit = libc::rlimit {
        rlim_cur: 20_000,
        rlim_max: 20_000,
    };
    // SAFETY: The call reads the structure.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(raised, 0, "RLIMIT_NOFILE");
    tap.test("four thousand idle clones", idle);
    tap.test("a thousand clones at random", at_random);
    tap.finish();
}
