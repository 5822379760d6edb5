// SPDX-License-Identifier: GPL-2.0

//! uvisor beside KVM and the host itself, in one boot, on one CPU.
//!
//! ```text
//! bench [--json] [--no-bars]
//! ```
//!
//! uvisor is measured twice: before kvm_intel is loaded (its windows own VMX), which `bench` then does
//! itself, and after (they borrow it). Figures are ticks of the time-stamp counter; where the
//! machine is Bochs, that counts instructions, and says nothing about time. The events beside a
//! figure are what hardware charges for on top.
//!
//! Exits with 1 if a bar is missed, unless `--no-bars` is given, and with 2 if it cannot measure.

mod clones;
mod kvm;
mod machine;
mod native;
mod uv;
mod views;
mod work;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use uvisor_tests::host::{memory_file, pin_to_cpu};

use machine::{Machine, FILE_LEN};
use uvisor_tests::bench::measure::Laps;
use uvisor_tests::bench::report::{Events, Report, System};

const LIVES: usize = 60;
const EXITS: usize = 300;

/// How much memory a small and a large template have.
const SMALL: u64 = 16 << 20;
const LARGE: u64 = 1 << 30;

/// What this process is like to be measured from: one CPU, pages of 4 KiB.
fn settle() {
    pin_to_cpu(0);
    // SAFETY: The call takes integers. A huge page is other work than a page, and uvisor has none.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    assert_eq!(result, 0, "PR_SET_THP_DISABLE");
}

/// A file whose pages are all in the page cache.
fn cached_file() -> File {
    let file = memory_file(&[]);
    let block = vec![0x5a; 1 << 20];
    for at in (0..FILE_LEN).step_by(block.len()) {
        file.write_all_at(&block, at).expect("write to the file");
    }
    file
}

/// The first value of `key` in a file of `key: value` lines.
fn field(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(':'))
        .map_or(String::new(), |(_, value)| value.trim().to_owned())
}

/// What a virtual machine does.
fn machine<M: Machine>(
    report: &mut Report,
    name: System,
    system: &M::System,
    nothing: u64,
    file: &File,
) {
    let [create, destroy] = machine::life::<M>(system, LIVES);
    for (work, (figure, parts)) in [(work::CREATE, create), (work::DESTROY, destroy)] {
        report.add(work, name, figure.summary, figure.events);
        report.parts(work, name, parts);
    }
    let mut laps = Laps::new();
    let mut machine = M::create(system, &mut laps);
    machine.run();
    for (work, figure) in [
        (
            work::USER_EXIT,
            machine::user_exit(&mut machine, EXITS, nothing),
        ),
        (work::KERNEL_EXIT, machine::kernel_exit(&mut machine, EXITS)),
        (
            work::TOUCH_ANONYMOUS,
            machine::touch_anonymous(&mut machine),
        ),
        (work::TOUCH_FILE, machine::touch_file(&mut machine, file)),
    ] {
        report.add(work, name, figure.summary, figure.events);
    }
    machine.destroy(&mut laps);
}

fn has_kvm() -> bool {
    Path::new("/sys/module/kvm_intel").exists()
}

/// Measures everything.
fn measure(report: &mut Report) -> Result<(), String> {
    settle();
    let nothing = uvisor_tests::bench::measure::nothing();
    let file = cached_file();
    let uvisor = uv::System::new().map_err(|e| e.to_string())?;

    report.condition(
        "unit",
        "ticks of the time-stamp counter (in Bochs: instructions)",
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.condition("kernel", release.trim());
    report.condition("processor", field("/proc/cpuinfo", "model name"));
    report.condition("mitigations of uvisor", uvisor.mitigations());
    report.set_mitigated(uvisor.is_mitigated());
    report.condition("pages", "4 KiB everywhere: no transparent huge pages");

    let memory = [
        (work::TOUCH_ANONYMOUS, None),
        (work::TOUCH_FILE, Some(&file)),
    ];
    for (work, file) in memory {
        report.add(work, System::Native, native::touch(file), Events::default());
    }

    let system = if has_kvm() {
        System::Borrowed
    } else {
        System::Owned
    };
    for (bytes, of) in [(SMALL, work::SMALL), (LARGE, work::LARGE)] {
        let forks = if bytes == SMALL { LIVES } else { LIVES / 10 };
        report.add(
            of.clone,
            System::Native,
            clones::fork(bytes, forks),
            Events::default(),
        );
        let clones = clones::of_template(&uvisor, bytes, LIVES);
        for (work, figure) in [
            (of.clone, clones.clone),
            (of.destroy, clones.destroy),
            (of.reset, clones.reset),
            (of.copy, clones.copy),
        ] {
            report.add(work, system, figure.summary, figure.events);
        }
    }

    match views::vmfunc() {
        Ok(figure) => report.add(work::VIEW_VMFUNC, system, figure.summary, figure.events),
        Err(why) => report.missing(work::VIEW_VMFUNC, system, why),
    }
    let figure = views::hypercall();
    report.add(work::VIEW_HYPERCALL, system, figure.summary, figure.events);

    if !has_kvm() {
        machine::<uv::MicroVm>(report, System::Owned, &uvisor, nothing, &file);
        let status = Command::new("modprobe")
            .args(["kvm-intel", "nested=1", "enable_apicv=0"])
            .status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("bench: KVM is not measured: modprobe kvm-intel failed");
            return Ok(());
        }
    }
    machine::<uv::MicroVm>(report, System::Borrowed, &uvisor, nothing, &file);
    let kvm = kvm::System::new().map_err(|e| format!("/dev/kvm: {e}"))?;
    machine::<kvm::KvmVm>(report, System::Kvm, &kvm, nothing, &file);
    for (work, bytes) in [(work::SMALL.clone, SMALL), (work::LARGE.clone, LARGE)] {
        let count = if bytes == SMALL { LIVES / 3 } else { 3 };
        let summary = kvm::from_scratch(&kvm, bytes, count);
        report.add(work, System::Kvm, summary, Events::default());
    }
    Ok(())
}

fn main() -> ExitCode {
    let (mut json, mut bars) = (false, true);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--no-bars" => bars = false,
            _ => {
                eprintln!("usage: bench [--json] [--no-bars]");
                return ExitCode::from(2);
            }
        }
    }
    let mut report = Report::default();
    if let Err(why) = measure(&mut report) {
        eprintln!("bench: {why}");
        return ExitCode::from(2);
    }
    print!("{}", if json { report.json() } else { report.text() });
    ExitCode::from(u8::from(bars && !report.all_met()))
}
