// SPDX-License-Identifier: GPL-2.0

//! The same work without a virtual machine, and the work of whole programs.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;

use uvisor::Event;

use crate::machine::{CHUNK, CHUNKS, PAGE};
use crate::measure::{time, Samples, Summary};
use crate::report::Events;

/// A private mapping; unmapped when dropped.
pub struct Memory {
    base: *mut u8,
    len: usize,
}

impl Memory {
    /// Maps `len` bytes: of `file`, readable, or zeroed and writable.
    pub fn map(len: u64, file: Option<&File>) -> Self {
        let len = len as usize;
        let (prot, flags, fd) = match file {
            Some(file) => (libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd()),
            None => (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
            ),
        };
        // SAFETY: The kernel chooses an unused range.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap");
        Self {
            base: base.cast(),
            len,
        }
    }

    /// The first byte.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Copies bytes to it, which must be writable.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: The range is inside, and the mapping ours.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The range is ours.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// The first touch of a page, of memory or of a file.
pub fn touch(file: Option<&File>) -> Summary {
    let memory = Memory::map(CHUNKS * CHUNK * PAGE, file);
    let pass = |chunk: u64| {
        time(|| {
            for page in 0..CHUNK {
                let offset = (chunk * CHUNK + page) * PAGE;
                // SAFETY: The offset is inside; only memory without a file is writable.
                unsafe {
                    let word = memory.base().add(offset as usize).cast::<u64>();
                    match file {
                        Some(_) => drop(word.read_volatile()),
                        None => word.write_volatile(page),
                    }
                }
            }
        })
    };
    let mut all = Samples::with_capacity(CHUNKS as usize);
    for chunk in 0..CHUNKS {
        let first = pass(chunk);
        let second = pass(chunk);
        if chunk >= CHUNKS / 8 {
            all.push(first.saturating_sub(second) / CHUNK);
        }
    }
    all.summary()
}

/// Start to end of a program that succeeds.
pub fn program(command: &[&str], samples: usize) -> Result<Summary, String> {
    let mut all = Samples::with_capacity(samples);
    for round in 0..samples + 2 {
        let mut ready = Command::new(command[0]);
        ready
            .args(&command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let mut result = Err("not run".to_owned());
        let ticks = time(|| result = ready.status().map_err(|e| e.to_string()));
        let status = result.map_err(|e| format!("{}: {e}", command[0]))?;
        if !status.success() {
            return Err(format!("{}: {status}", command.join(" ")));
        }
        if round >= 2 {
            all.push(ticks);
        }
    }
    Ok(all.summary())
}

/// The program that measures itself.
fn bench_task() -> Result<PathBuf, String> {
    let itself = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(itself.with_file_name("bench_task"))
}

/// What happened to the micro-VM of a program, from start to end.
pub fn events_of(program: &Path, arguments: &[&str]) -> Result<Events, String> {
    let output = Command::new("uvctl")
        .args(["run", "--stats", "--json", "--"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("{}: {}", program.display(), output.status));
    }
    let stats: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&output.stderr).map_err(|e| e.to_string())?;
    let count = |name: &str| Some((name.to_owned(), stats.get(name)?.as_f64()?));
    Ok(Event::NAMES.into_iter().filter_map(count).collect())
}

/// What happens by one system call of a task: what many more of them add.
pub fn events_of_call(call: &str) -> Result<Events, String> {
    const MORE: u64 = 1000;
    let task = bench_task()?;
    let few = events_of(&task, &[call, "1"])?;
    let many = events_of(&task, &[call, &(MORE + 1).to_string()])?;
    Ok(many.since(&few).per(MORE))
}

/// What `bench_task` measured about itself, run by `prefix`: a summary by name.
pub fn task(prefix: &[&str]) -> Result<Vec<(String, Summary)>, String> {
    let task = bench_task()?;
    let mut words = prefix.iter().map(AsRef::as_ref).chain([task.as_os_str()]);
    let output = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    if !output.status.success() {
        return Err(format!("bench_task: {}", output.status));
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| parse(line).ok_or_else(|| format!("bench_task: {line}")))
        .collect()
}

/// A line of `bench_task`: a name, and the samples.
fn parse(line: &str) -> Option<(String, Summary)> {
    let (name, samples) = line.split_once(':')?;
    let samples: Option<Samples> = samples.split_whitespace().map(|s| s.parse().ok()).collect();
    Some((name.to_owned(), samples?.summary()))
}
