// SPDX-License-Identifier: GPL-2.0

//! A memory cgroup of a task's own, for what the module does not count: memory files, sockets' buffers, brokers.
//!
//! The limit of the module is exact and needs nothing; this one is a second wall behind it. Where it cannot be had,
//! `uvctl doctor` says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Memory that brokers, and what the kernel keeps of them, may have besides what the task may have.
const BESIDES: u64 = 128 << 20;

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

/// Why a task's memory cannot be limited so, if it cannot.
pub(crate) fn missing() -> Option<String> {
    let own = match own() {
        Ok(own) => own,
        Err(why) => return Some(why),
    };
    if !has(&own.join("cgroup.controllers"), "memory") {
        return Some(format!("{} has no memory controller", own.display()));
    }
    if has(&own.join(CONTROLLED), "memory") {
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

impl Cgroup {
    /// Moves this process into a new cgroup, whose memory is limited to a bit more than `memory`.
    pub(crate) fn enter(memory: u64) -> Result<Self, String> {
        let home = own()?;
        sweep(&home);
        let path = home.join(format!("{NAME}{}", std::process::id()));
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        fs::create_dir(&path).map_err(failed)?;
        let cgroup = Self { path: path.clone() };
        // First, as a cgroup with processes cannot control those below.
        cgroup.move_to(&path).map_err(failed)?;
        if !has(&home.join(CONTROLLED), "memory") {
            fs::write(home.join(CONTROLLED), "+memory").map_err(failed)?;
        }
        let limit = memory.saturating_add(BESIDES);
        fs::write(path.join("memory.max"), limit.to_string()).map_err(failed)?;
        Ok(cgroup)
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
}
