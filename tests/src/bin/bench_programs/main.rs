// SPDX-License-Identifier: GPL-2.0

//! System calls and whole programs in micro-VMs, beside the same natively, under bubblewrap and under
//! gVisor, in one boot, on one CPU.
//!
//! ```text
//! bench_programs [--json] [--no-bars] [--calls]
//! ```
//!
//! `--calls` leaves the whole programs out. Figures are ticks of the time-stamp counter; where the
//! machine is Bochs, that counts instructions, and says nothing about time. KVM is loaded after
//! uvisor was measured, for gVisor.
//!
//! Exits with 1 if a bar is missed, unless `--no-bars` is given, and with 2 if it cannot measure.

mod run;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use uvisor::{Device, Mitigations};
use uvisor_tests::bench::report::{Bar, Events, Report, System, Work};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::random::Random;

/// Where the programs' files are.
const SCRATCH: &str = "/tmp/bench";

/// What runs a program, by system.
const SYSTEMS: [(System, &[&str]); 4] = [
    (System::Native, &[]),
    (System::Owned, &["uvctl", "run", "--rw", SCRATCH, "--"]),
    (
        System::Bubblewrap,
        &[
            "bwrap",
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--bind",
            SCRATCH,
            SCRATCH,
            "--unshare-all",
            "--die-with-parent",
            "--",
        ],
    ),
    (
        System::Gvisor,
        &[
            "runsc",
            "--platform=kvm",
            "--network=none",
            "--ignore-cgroups",
            "do",
        ],
    ),
];

/// What `bench_task` does: its name there, the work, and how often it is repeated to count its events.
const CALLS: [(&str, Work, u64); 11] = [
    ("getppid", Work::within("getppid", 150), 1000),
    ("read-1", Work::within("read of 1 byte", 2_000), 1000),
    (
        "read-4096",
        Work {
            name: "read of 4 KiB",
            bar: Bar::Native(1.5),
        },
        1000,
    ),
    ("pipe", Work::within("pipe, a byte in and out", 4_500), 1000),
    (
        "pipe-processes",
        Work::shown("pipe, to a process and back"),
        300,
    ),
    ("open-close", Work::within("open and close", 8_000), 1000),
    ("touch", Work::within("first touch of a page", 1_500), 1000),
    ("signal", Work::shown("signal to oneself, handled"), 300),
    ("thread", Work::shown("thread, made and joined"), 100),
    ("futex", Work::shown("futex, to a thread and back"), 300),
    ("fork", Work::within("fork, exit, wait", 800_000), 50),
];

/// A whole program: the work, its words, and how often it is run.
type Program = (Work, &'static [&'static str], usize);

const PROGRAMS: [Program; 6] = [
    (Work::within("true", 6_000_000), &["/bin/true"], 20),
    (
        Work::shown("sha256sum, 64 MB"),
        &["sha256sum", "/tmp/bench/random"],
        1,
    ),
    (
        Work::shown("python3, import json"),
        &["python3", "-c", "import json"],
        5,
    ),
    (
        Work::shown("bash, 200 forks"),
        &["bash", "-c", "for i in {1..200}; do (:); done"],
        3,
    ),
    (
        Work::shown("xz -T2, 8 MB"),
        &["xz", "-T2", "-1", "-c", "/tmp/bench/text"],
        1,
    ),
    (
        Work::shown("sqlite3, 10,000 inserts"),
        &["sqlite3", "-batch", "/tmp/bench/db", ".read /tmp/bench/sql"],
        1,
    ),
];

/// The files that the programs work on.
fn files() -> std::io::Result<()> {
    fs::create_dir_all(SCRATCH)?;
    let mut random = Random(1);
    let words: Vec<_> = (0..8 << 20).map(|_| random.number()).collect();
    let bytes: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    fs::write(format!("{SCRATCH}/random"), bytes)?;
    // Words of a language with few of them.
    let mut text = fs::File::create(format!("{SCRATCH}/text"))?;
    let mut line = String::new();
    while text.metadata()?.len() < 8 << 20 {
        line.clear();
        for word in &words[text.metadata()?.len() as usize / 64..][..2000] {
            line += &format!("{:x} ", word % 5003);
        }
        text.write_all(line.as_bytes())?;
    }
    let mut sql = String::from("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT);\nBEGIN;\n");
    for (number, word) in words.iter().enumerate().take(10_000) {
        sql += &format!("INSERT INTO t VALUES ({number}, '{word:x}');\n");
        if number % 100 == 99 {
            sql += "COMMIT;\nBEGIN;\n";
        }
    }
    fs::write(format!("{SCRATCH}/sql"), sql + "COMMIT;\n")
}

/// Removes what a program left.
fn clean() {
    // There may be none.
    let _ = fs::remove_file(format!("{SCRATCH}/db"));
}

/// The events of some work, where it is uvisor that does it.
fn events(name: System, count: impl FnOnce() -> Result<Events, String>) -> Events {
    match name {
        System::Owned => count().unwrap_or_else(|why| panic!("events: {why}")),
        _ => Events::default(),
    }
}

/// Measures one system.
fn system(report: &mut Report, name: System, prefix: &[&str], programs: &[Program]) {
    match run::task(prefix) {
        Ok(lines) => {
            for (line, summary) in lines {
                let (_, work, more) = CALLS
                    .into_iter()
                    .find(|call| call.0 == line)
                    .unwrap_or_else(|| panic!("bench_task: {line} is new"));
                let events = events(name, || run::events_of_work(&line, more));
                report.add(work, name, summary, events);
            }
        }
        Err(why) => {
            for (_, work, _) in CALLS {
                report.missing(work, name, why.as_str());
            }
        }
    }
    for &(work, words, samples) in programs {
        match run::program(&[prefix, words].concat(), samples, clean) {
            Ok(summary) => {
                clean();
                let events = events(name, || run::events_of(&["--rw", SCRATCH], words));
                report.add(work, name, summary, events);
            }
            Err(why) => report.missing(work, name, why),
        }
    }
}

/// Measures everything.
fn measure(report: &mut Report, programs: &[Program]) -> Result<(), String> {
    pin_to_cpu(0);
    files().map_err(|error| format!("{SCRATCH}: {error}"))?;
    let device = Device::open().map_err(|error| error.to_string())?;
    let info = device.info().map_err(|error| error.to_string())?;
    let mitigations = Mitigations::from_bits_truncate(info.mitigations);
    report.condition(
        "unit",
        "ticks of the time-stamp counter (in Bochs: instructions)",
    );
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.condition("kernel", release.trim());
    report.condition("mitigations of uvisor", format!("{mitigations:?}"));
    report.set_mitigated(!mitigations.is_empty());
    for (name, prefix) in SYSTEMS {
        if name == System::Gvisor && !Path::new("/dev/kvm").exists() {
            let status = Command::new("modprobe")
                .args(["kvm-intel", "nested=1", "enable_apicv=0"])
                .status();
            if !status.is_ok_and(|status| status.success()) {
                eprintln!("bench_programs: modprobe kvm-intel failed");
            }
        }
        system(report, name, prefix, programs);
    }
    Ok(())
}

fn main() -> ExitCode {
    let (mut json, mut bars, mut programs) = (false, true, &PROGRAMS[..]);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            "--no-bars" => bars = false,
            "--calls" => programs = &PROGRAMS[..1],
            _ => {
                eprintln!("usage: bench_programs [--json] [--no-bars] [--calls]");
                return ExitCode::from(2);
            }
        }
    }
    let mut report = Report::default();
    if let Err(why) = measure(&mut report, programs) {
        eprintln!("bench_programs: {why}");
        return ExitCode::from(2);
    }
    print!("{}", if json { report.json() } else { report.text() });
    ExitCode::from(u8::from(bars && !report.all_met()))
}
