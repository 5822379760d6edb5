// SPDX-License-Identifier: GPL-2.0

//! Each attack against each of the two layers alone, and against both.
//!
//! * *natively* nothing stops it: an attack that does not come to its aim there proves nothing;
//! * *personality*: a task in a micro-VM, whose broker is not confined;
//! * *sandbox*: a process that is confined as a broker is, but is no broker: as if the attacker had taken that over;
//! * *both*: as `uvctl run` does it;
//! * *EPT alone*, for those that are made with memory: a task that may execute every file, whose broker is not confined.
//!
//! `layers table` prints the table of `docs/security.md`.

mod attacks;
mod files;
mod memory;
mod outside;
mod world;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use attacks::{tell, Attack, Outcome};
use uvisor::confine::confine;
use uvisor::loader::Program;
use uvisor::profile::{Profile, Rules, Surroundings};
use uvisor::sandbox::Layers;
use uvisor::task::{Options, Task};
use uvisor::Device;
use uvisor_tests::tap::{check, Tap};
use world::{Made, World};

/// Attacks that a setting alone does not stop, with the reason.
const LEFT: &[(&str, &str, &str)] = &[
    (
        "probe_process",
        "task",
        "over a link to something of a process in the host's own /proc, errors differ",
    ),
    (
        "probe_process",
        "sandbox",
        "a signal is EPERM to a process outside, and ESRCH to none",
    ),
    (
        "share_code_by_file",
        "ept",
        "which files are code is for the personality to say",
    ),
];

/// The results of all attacks in one setting.
type Results = BTreeMap<String, String>;

/// Makes one attack in a process of its own.
fn attempt(attack: &Attack, world: &World) -> Outcome {
    let mut ends = [0; 2];
    // SAFETY: There is room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err("no pipe".into());
    }
    // SAFETY: The kernel has just made them, and each is used as one file.
    let [mut reader, writer] = ends.map(|fd| unsafe { std::fs::File::from_raw_fd(fd) });
    // SAFETY: This program has one thread.
    match unsafe { libc::fork() } {
        -1 => Err("no process".into()),
        0 => {
            drop(reader);
            // SAFETY: It touches no memory. What waits is ended.
            unsafe { libc::alarm(30) };
            let outcome = (attack.run)(world);
            if let Err(why) = &outcome {
                let _ = std::io::Write::write_all(&mut &writer, why.as_bytes());
            }
            // SAFETY: It does not return, and touches no memory.
            unsafe { libc::_exit(outcome.is_err().into()) }
        }
        pid => {
            drop(writer);
            let (mut why, mut status) = (String::new(), 0);
            let _ = reader.read_to_string(&mut why);
            // SAFETY: The status is ours.
            let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
            match status {
                _ if waited != pid => Err(format!("lost: {}", std::io::Error::last_os_error())),
                0 => Ok(()),
                status if libc::WIFSIGNALED(status) => {
                    Err(format!("signal {}", libc::WTERMSIG(status)))
                }
                _ => Err(why),
            }
        }
    }
}

/// The hostile program: makes all attacks, and tells what came of them.
fn attack(world: &World) -> ExitCode {
    for attack in attacks::all() {
        tell(attack.name, &attempt(attack, world));
    }
    ExitCode::SUCCESS
}

/// The same with memory alone.
fn attack_memory(world: &World) -> ExitCode {
    for attack in memory::ATTACKS {
        tell(attack.name, &attempt(attack, world));
    }
    ExitCode::SUCCESS
}

/// The rules of a profile.
fn rules(profile: &Path) -> Result<Rules, String> {
    let path = profile.display().to_string();
    let profile = Profile::load(&path, &Surroundings::of_this_process());
    Ok(profile.map_err(|error| error.to_string())?.rules)
}

/// The hostile program in the sandbox of a broker, without being one.
fn in_sandbox(world: &World) -> Result<ExitCode, String> {
    let confined =
        confine(rules(&world.profile())?, Layers::ALL, &[]).map_err(|error| error.to_string())?;
    for lack in &confined.report.lacks {
        eprintln!("# the host lacks ({}): {}", lack.layer, lack.what);
    }
    Ok(attack(world))
}

/// The hostile program in a micro-VM whose broker is not confined; `mode` is what it begins with.
fn in_task(world: &World, profile: &Path, mode: &str) -> Result<ExitCode, String> {
    let rules = rules(profile)?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut arguments = vec![mode.into()];
    arguments.extend(world.arguments().map(String::into_bytes));
    let program = Program::find(own.as_os_str(), &arguments).map_err(|error| error.to_string())?;
    let device = Device::open().map_err(|error| error.to_string())?;
    let confined = confine(rules, Layers::NONE, &[]).map_err(|error| error.to_string())?;
    let variable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()
    };
    let options = Options {
        environment: confined.environment.iter().cloned().map(variable).collect(),
        confined,
        memory_limit: 0,
        pids: 0,
        aslr: true,
        trace: None,
        pipe_ignored: false,
    };
    let mut task = Task::new(device, program, options).map_err(|error| error.to_string())?;
    let end = task.run().map_err(|error| error.to_string())?;
    Ok(ExitCode::from(end.status()))
}

/// Starts the hostile program in a setting; what it told.
fn run(setting: &str, world: &World) -> Results {
    let own = std::env::current_exe().expect("a path of its own");
    let mut command = match setting {
        "both" => {
            let mut command = Command::new("uvctl");
            command.arg("run").arg("--profile").arg(world.profile());
            command.arg("--").arg(&own).arg("attack");
            command
        }
        mode => {
            let mut command = Command::new(&own);
            command.arg(mode);
            command
        }
    };
    command.args(world.arguments()).stdin(Stdio::null());
    let output = command.output().expect("a program that can be started");
    for line in String::from_utf8_lossy(&output.stderr).lines().take(20) {
        println!("# {setting}: {line}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .map(|(name, why)| (name.to_owned(), why.to_owned()))
        .collect()
}

/// The settings, the first of which stops nothing.
const SETTINGS: [&str; 5] = ["attack", "task", "sandbox", "ept", "both"];

/// Prints the table of the documentation.
fn table(results: &[Results; 5]) {
    println!("| attack | personality alone | sandbox alone | EPT alone | both |");
    println!("|---|---|---|---|---|");
    for attack in attacks::all() {
        let of = |index: usize| match results[index].get(attack.name).map(String::as_str) {
            Some("done") => "**not stopped**".to_owned(),
            Some(why) => why.to_owned(),
            None => String::new(),
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            attack.what,
            of(1),
            of(2),
            of(3),
            of(4)
        );
    }
}

fn test(results: &[Results; 5]) -> ! {
    let mut tap = Tap::new();
    let told = |tap: &mut Tap, name: &str, ok: bool| tap.test(name, || check("as said", ok));
    for attack in attacks::all() {
        let [native, alone @ .., both] = results.each_ref().map(|all| all.get(attack.name));
        let what = attack.what;
        // What this kernel was built without can be tried by nobody.
        let done = native.is_some_and(|why| why == "done");
        let absent =
            native.is_some_and(|why| ["ENOSYS", "ENODEV", "ENOENT"].contains(&why.as_str()));
        match absent {
            true => tap.skip(
                &format!("natively: {what}"),
                native.map_or("", String::as_str),
            ),
            false => told(&mut tap, &format!("natively: {what} ({native:?})"), done),
        }
        let by_memory = memory::ATTACKS
            .iter()
            .any(|other| other.name == attack.name);
        for (setting, found) in SETTINGS[1..4].iter().zip(alone) {
            if *setting == "ept" && !by_memory {
                continue;
            }
            let layer = match *setting {
                "task" => "personality",
                other => other,
            };
            let left = LEFT
                .iter()
                .find(|(name, of, _)| (*name, of) == (attack.name, setting));
            let stopped = found.is_some_and(|why| why != "done" && !why.starts_with("lost"));
            match left {
                // What is said to be left is to be true as well.
                Some((.., why)) => told(
                    &mut tap,
                    &format!("{layer} does not stop: {what}: {why} ({found:?})"),
                    found.is_some() && !stopped,
                ),
                None => told(
                    &mut tap,
                    &format!("{layer} stops: {what} ({found:?})"),
                    stopped,
                ),
            }
        }
        let stopped = both.is_some_and(|why| why != "done" && !why.starts_with("lost"));
        told(&mut tap, &format!("both stop: {what} ({both:?})"), stopped);
    }
    tap.finish()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mode, rest) = match arguments.split_first() {
        Some((mode, rest)) => (mode.as_str(), rest),
        None => ("test", &[][..]),
    };
    if matches!(mode, "test" | "table") {
        let made = match Made::new() {
            Ok(made) => made,
            Err(error) => {
                println!("Bail out! the world cannot be made: {error}");
                return ExitCode::FAILURE;
            }
        };
        let results = SETTINGS.map(|setting| run(setting, &made.world));
        if mode == "table" {
            table(&results);
            return ExitCode::SUCCESS;
        }
        drop(made);
        test(&results);
    }
    let Some(world) = World::from_arguments(rest) else {
        eprintln!("layers: not for use by hand");
        return ExitCode::FAILURE;
    };
    let result = match mode {
        "attack" => Ok(attack(&world)),
        "sandbox" => in_sandbox(&world),
        "memory" => Ok(attack_memory(&world)),
        "task" => in_task(&world, &world.profile(), "attack"),
        "ept" => in_task(&world, &world.open_profile(), "memory"),
        _ => Err(format!("{mode} is no mode")),
    };
    result.unwrap_or_else(|why| {
        eprintln!("layers: {why}");
        ExitCode::FAILURE
    })
}
