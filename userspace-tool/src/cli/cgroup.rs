// SPDX-License-Identifier: GPL-2.0

//! A cgroup of a task's own: a second wall behind its limits, and the only one about what is of all its processes together
//! and nobody else counts: memory files, sockets' buffers, brokers, and the time of CPUs.
//!
//! The module's limit of memory, and the personality's of processes, are exact and need nothing. Where a cgroup cannot be
//! had, `uvctl doctor` says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uvisor::profile::LimitRules;

/// Memory that brokers, and what the kernel keeps of them, may have besides what the task may have.
const BESIDES: u64 = 128 << 20;

/// Processes that there are besides the task's: those that end it and open its sockets, and forks that find no place.
const OTHERS: u32 = 16;

/// What limits a task there.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// How the cgroups of tasks are called, before a number.
const NAME: &str = "uvisor-";

/// A cgroup that this process is in; it goes back, and removes it, when this is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
}

/// Where the processes of a cgroup are listed.
const PROCESSES: &str = "cgroup.procs";

/// Where it says what is controlled in the cgroups below.
const CONTROLLED: &str = "cgroup.subtree_control";

/// Where it says what can be.
const OFFERED: &str = "cgroup.controllers";

/// The directory of this process's cgroup, if there is a hierarchy of version 2.
fn own() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let mounts = read("/proc/self/mounts")?;
    let cgroups = read("/proc/self/cgroup")?;
    find(&mounts, &cgroups).ok_or_else(|| "there is no cgroup v2 hierarchy".to_owned())
}

/// [`own`], from the two lists of the kernel's.
fn find(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then_some(at)
    })?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

/// Whether a file of words has a word.
fn has(path: &Path, word: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().any(|other| other == word)
}

/// Why a task cannot be limited so, if it cannot.
pub(crate) fn missing() -> Option<String> {
    let own = match own() {
        Ok(own) => own,
        Err(why) => return Some(why),
    };
    let controlled = own.join(CONTROLLED);
    let lacks = CONTROLLERS
        .iter()
        .filter(|name| !has(&controlled, name))
        .collect::<Vec<_>>();
    if let Some(name) = lacks.iter().find(|name| !has(&own.join(OFFERED), name)) {
        return Some(format!("{} has no controller `{name}`", own.display()));
    }
    if lacks.is_empty() {
        return None;
    }
    // Processes in a cgroup keep it from controlling those below, but for the uppermost.
    let others = fs::read_to_string(own.join(PROCESSES)).unwrap_or_default();
    let uppermost = !own.join("cgroup.type").exists();
    match uppermost || others.lines().count() <= 1 {
        true => None,
        false => Some(format!("{} has other processes", own.display())),
    }
}

/// Whether limits are worth a cgroup, which costs about as much as the process that removes it again: others than that of
/// processes, which is known without.
pub(crate) fn is_needed(limits: &LimitRules) -> bool {
    limits.memory.is_some() || limits.cpu.is_some()
}

/// What a controller is told.
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
}

/// What limits are to controllers; the time of CPUs needs none.
fn settings(limits: &LimitRules) -> Vec<Setting> {
    let setting = |controller, file, value| Setting {
        controller,
        file,
        value,
    };
    let mut all = Vec::new();
    if let Some(memory) = limits.memory {
        let limit = memory.saturating_add(BESIDES).to_string();
        all.push(setting("memory", "memory.max", limit));
        // What goes to a disk would not be counted.
        all.push(setting("memory", "memory.swap.max", "0".into()));
    }
    if let Some(pids) = limits.pids {
        let limit = pids.saturating_add(OTHERS).to_string();
        all.push(setting("pids", "pids.max", limit));
    }
    all
}

impl Cgroup {
    /// Moves this process into a new cgroup, where limits hold, but that a bit more is allowed for what is not the
    /// task; and what of it could not be had.
    pub(crate) fn enter(limits: &LimitRules) -> Result<(Self, Vec<String>), String> {
        let home = own()?;
        sweep(&home);
        let path = home.join(format!("{NAME}{}", std::process::id()));
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let cgroup = Self { path: path.clone() };
        // First, as a cgroup with processes cannot control those below.
        cgroup.move_to(&path).map_err(failed)?;
        let mut lacks = Vec::new();
        for Setting {
            controller,
            file,
            value,
        } in settings(limits)
        {
            let controlled = home.join(CONTROLLED);
            let enabled = match has(&controlled, controller) {
                true => Ok(()),
                false => fs::write(&controlled, format!("+{controller}")),
            };
            // A kernel without swap has no limit of it.
            let is_lack = |error: &io::Error| {
                enabled.is_err()
                    || file != "memory.swap.max"
                    || error.kind() != io::ErrorKind::NotFound
            };
            match fs::write(path.join(file), value) {
                Err(error) if is_lack(&error) => lacks.push(format!(
                    "{}: {}",
                    path.join(file).display(),
                    enabled.as_ref().err().unwrap_or(&error)
                )),
                _ => {}
            }
        }
        Ok((cgroup, lacks))
    }

    /// The time of CPUs that all in it have used, also those that have ended.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        let text = fs::read_to_string(self.path.join("cpu.stat")).ok()?;
        used(&text)
    }

    /// Moves this process.
    fn move_to(&self, path: &Path) -> io::Result<()> {
        fs::write(path.join(PROCESSES), std::process::id().to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(home) = self.path.parent() else {
            return;
        };
        if self.move_to(home).is_err() {
            // The next one sweeps it up.
            return;
        }
        // All that are left end with this process in any case, and take a moment for it.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

/// The time in the statistics of the kernel's.
fn used(text: &str) -> Option<Duration> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    line.parse().ok().map(Duration::from_micros)
}

/// Removes the cgroups of tasks that were killed and are no more: one with processes stays.
fn sweep(home: &Path) {
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(NAME) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let hybrid = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";
        let found = |mounts, cgroups| find(mounts, cgroups);
        assert_eq!(
            found(mounts, "0::/user.slice/a.scope\n"),
            Some(PathBuf::from("/sys/fs/cgroup/user.slice/a.scope"))
        );
        assert_eq!(
            found(mounts, "0::/\n"),
            Some(PathBuf::from("/sys/fs/cgroup/"))
        );
        assert_eq!(found(hybrid, "0::/\n"), None);
        assert_eq!(found(mounts, "3:memory:/x\n"), None);
    }

    #[test]
    fn limits_are_settings() {
        let limits = LimitRules {
            memory: Some(64 << 20),
            pids: Some(8),
            ..LimitRules::default()
        };
        let all = settings(&limits);
        let all: Vec<_> = all.iter().map(|one| (one.file, &*one.value)).collect();
        let expected = [
            ("memory.max", "201326592"),
            ("memory.swap.max", "0"),
            ("pids.max", "24"),
        ];
        assert_eq!(all, expected);
        assert!(is_needed(&limits) && settings(&LimitRules::default()).is_empty());
    }

    #[test]
    fn time_is_in_the_statistics() {
        let text = "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n";
        assert_eq!(used(text), Some(Duration::from_millis(1500)));
        assert_eq!(used("user_usec 1\n"), None);
    }
}
