// SPDX-License-Identifier: GPL-2.0

//! What the files of `/proc` about processes say to a task: the host's text about the broker, with what is the
//! broker's own exchanged for what is the task's.

use std::fmt::Write as _;
use std::sync::Arc;

use uvisor_uapi::{Prot, PAGE_SIZE};

use super::process;
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::process::split_stat;
use crate::space::{Backing, NamedFile, Piece};
use crate::task::Task;

/// The files about the task itself.
pub(super) const OWN: [&str; 19] = [
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "cpuset",
    "environ",
    "gid_map",
    "io",
    "limits",
    "maps",
    "oom_score",
    "oom_score_adj",
    "schedstat",
    "setgroups",
    "smaps",
    "stat",
    "statm",
    "status",
    "uid_map",
];

/// Those that there are of another process of the task's.
pub(super) const OTHER: [&str; 10] = [
    "cgroup",
    "cmdline",
    "comm",
    "cpuset",
    "oom_score",
    "oom_score_adj",
    "schedstat",
    "stat",
    "statm",
    "status",
];

/// What a file about another process says, of whose broker the host says what is in the directory `base`. How large
/// it is is not known here, and told as nothing.
pub(super) fn other(task: &Task, pid: u32, base: &str, name: &str) -> SysResult<Vec<u8>> {
    let sizes = Sizes::default();
    match name {
        // One of which it is not known is shown by its short name, as are those of the kernel.
        "cmdline" => Ok(task.told(pid).map_or(Vec::new(), |told| told.command)),
        "statm" => Ok(sizes.statm().into_bytes()),
        "stat" => {
            let text = host(base, name)?;
            stat(&text, [(0, 0); 3], &sizes).ok_or(Errno::EIO)
        }
        "status" => Ok(status(&host(base, name)?, &sizes)),
        name => host(base, name),
    }
}

/// What a file about the task says; `base` is the directory in which the host speaks of its process or its thread.
pub(super) fn own(task: &Task, base: &str, name: &str) -> SysResult<Vec<u8>> {
    let initial = task.shared.layout.initial;
    match name {
        "cmdline" => Ok(read(task, initial.arguments)),
        "environ" => Ok(read(task, initial.environment)),
        "auxv" => Ok(read(task, initial.auxv)),
        "maps" => Ok(areas(task, |_| String::new())),
        "smaps" => Ok(areas(task, area_details)),
        "limits" => limits(task).map(String::into_bytes),
        "statm" => Ok(sizes(task)?.statm().into_bytes()),
        "stat" => {
            let text = host(base, name)?;
            let heap = task.shared.book.lock().heap.start;
            let places = [initial.arguments, initial.environment, (heap, heap)];
            stat(&text, places, &sizes(task)?).ok_or(Errno::EIO)
        }
        "status" => Ok(status(&host(base, name)?, &sizes(task)?)),
        name => host(base, name),
    }
}

/// What the host says of a broker or its thread.
fn host(base: &str, name: &str) -> SysResult<Vec<u8>> {
    Ok(std::fs::read(format!("{base}/{name}"))?)
}

/// A range of the task's memory, as much of it as can be read.
fn read(task: &Task, (start, end): (u64, u64)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = start;
    while at < end {
        let next = (at | (PAGE_SIZE - 1)).saturating_add(1).min(end);
        match task.memory.read_vec(at, (next - at) as usize) {
            Ok(page) => bytes.extend(page),
            Err(_) => break,
        }
        at = next;
    }
    bytes
}

/// The areas, as the broker's book has them, each with what `more` says of it.
fn areas(task: &Task, more: impl Fn(&Piece) -> String) -> Vec<u8> {
    let space = task.shared.book.lock().space.clone();
    let stack = task.shared.layout.stack_top;
    let mut text = Vec::new();
    for piece in space.pieces(0, task.memory.limit()) {
        if piece.backing != Backing::Reserved {
            text.extend(area_line(&piece, space.file(piece.start), stack));
            text.extend(more(&piece).bytes());
        }
    }
    text
}

/// A line of `maps`; `file` is what the area shows, and from where.
fn area_line(piece: &Piece, file: Option<(&Arc<NamedFile>, u64)>, stack_top: u64) -> Vec<u8> {
    let flag = |prot, letter| match piece.prot.contains(prot) {
        true => letter,
        false => '-',
    };
    let shared = match piece.backing {
        Backing::SharedFile | Backing::BrokerFile => 's',
        _ => 'p',
    };
    let name = match (file, piece.backing) {
        (Some((file, _)), _) => file.name(),
        (_, Backing::Heap) => b"[heap]".to_vec(),
        (_, Backing::Kernel) => b"[vvar]".to_vec(),
        _ if piece.end == stack_top => b"[stack]".to_vec(),
        _ => Vec::new(),
    };
    let (offset, device, inode) = match file {
        Some((file, offset)) => (offset, file.device, file.inode),
        None => (0, 0, 0),
    };
    let line = format!(
        "{:08x}-{:08x} {}{}{}{shared} {offset:08x} {:02x}:{:02x} {inode} ",
        piece.start,
        piece.end,
        flag(Prot::READ, 'r'),
        flag(Prot::WRITE, 'w'),
        flag(Prot::EXEC, 'x'),
        libc::major(device),
        libc::minor(device),
    );
    let mut line = match name.is_empty() {
        true => line.into_bytes(),
        false => format!("{line:<73}").into_bytes(),
    };
    line.extend(name);
    line.push(b'\n');
    line
}

/// What `smaps` says of an area, as far as the broker knows: not what of it is in memory.
fn area_details(piece: &Piece) -> String {
    let flag = |prot, text| match piece.prot.contains(prot) {
        true => text,
        false => "",
    };
    let shared = match piece.backing {
        Backing::SharedFile | Backing::BrokerFile => "sh ",
        _ => "",
    };
    format!(
        "Size:           {:8} kB\nKernelPageSize: {:8} kB\nMMUPageSize:    {:8} kB\nVmFlags: {}{}{}{shared}mr mw me \n",
        (piece.end - piece.start) / 1024,
        PAGE_SIZE / 1024,
        PAGE_SIZE / 1024,
        flag(Prot::READ, "rd "),
        flag(Prot::WRITE, "wr "),
        flag(Prot::EXEC, "ex "),
    )
}

/// How large a task is, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sizes {
    total: u64,
    data: u64,
    stack: u64,
    code: u64,
    other: u64,
    resident: u64,
    resident_file: u64,
}

impl Sizes {
    fn statm(&self) -> String {
        let pages = |bytes: u64| bytes / PAGE_SIZE;
        format!(
            "{} {} {} {} 0 {} 0\n",
            pages(self.total),
            pages(self.resident),
            pages(self.resident_file),
            pages(self.code),
            pages(self.data + self.stack),
        )
    }
}

/// How large the task is: by the broker's book, and by what the micro-VM has.
fn sizes(task: &Task) -> SysResult<Sizes> {
    let stats = task.stats()?;
    let mut sizes = Sizes {
        resident: stats.private + stats.file + stats.shared,
        resident_file: stats.file,
        ..Sizes::default()
    };
    let pieces = task.shared.book.lock().space.pieces(0, task.memory.limit());
    for piece in pieces {
        let len = piece.end - piece.start;
        let kind = match piece.backing {
            Backing::Reserved => continue,
            _ if piece.end == task.shared.layout.stack_top => &mut sizes.stack,
            _ if piece.prot.contains(Prot::EXEC) => &mut sizes.code,
            _ if piece.prot.contains(Prot::WRITE) => &mut sizes.data,
            _ => &mut sizes.other,
        };
        *kind += len;
        sizes.total += len;
    }
    Ok(sizes)
}

/// `stat` with the task's sizes, and where its arguments, its environment and its heap are.
fn stat(text: &[u8], places: [(u64, u64); 3], sizes: &Sizes) -> Option<Vec<u8>> {
    let [arguments, environment, (heap, _)] = places;
    // As proc_pid_stat(5) numbers them.
    exchange(
        text,
        &[
            (23, sizes.total),
            (24, sizes.resident / PAGE_SIZE),
            (26, 0),
            (27, 0),
            (28, arguments.0),
            (29, 0),
            (30, 0),
            (45, 0),
            (46, 0),
            (47, heap),
            (48, arguments.0),
            (49, arguments.1),
            (50, environment.0),
            (51, environment.1),
        ],
    )
}

/// Exchanges fields of a `stat` by their numbers, which count from 1.
fn exchange(text: &[u8], values: &[(usize, u64)]) -> Option<Vec<u8>> {
    let (head, tail) = split_stat(text)?;
    let tail = std::str::from_utf8(tail).ok()?;
    let mut fields: Vec<String> = tail.split_ascii_whitespace().map(String::from).collect();
    for &(number, value) in values {
        *fields.get_mut(number.checked_sub(3)?)? = value.to_string();
    }
    let mut result = head.to_vec();
    result.push(b' ');
    result.extend(fields.join(" ").bytes());
    result.push(b'\n');
    Some(result)
}

/// `status` with the task's sizes, without the broker's capabilities.
fn status(text: &[u8], sizes: &Sizes) -> Vec<u8> {
    let mut result = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        let bytes = match name {
            b"VmPeak" | b"VmSize" => sizes.total,
            b"VmHWM" | b"VmRSS" => sizes.resident,
            b"RssAnon" => sizes.resident - sizes.resident_file,
            b"RssFile" => sizes.resident_file,
            b"VmData" => sizes.data,
            b"VmStk" => sizes.stack,
            b"VmExe" => sizes.code,
            b"VmLck" | b"VmPin" | b"VmLib" | b"VmPTE" | b"VmSwap" | b"RssShmem" => 0,
            b"HugetlbPages" => 0,
            b"CapInh" | b"CapPrm" | b"CapEff" | b"CapBnd" | b"CapAmb" => {
                result.extend_from_slice(name);
                result.extend_from_slice(b":\t0000000000000000\n");
                continue;
            }
            b"NoNewPrivs" => {
                result.extend_from_slice(b"NoNewPrivs:\t1\n");
                continue;
            }
            _ => {
                result.extend_from_slice(line);
                continue;
            }
        };
        result.extend_from_slice(name);
        result.extend(format!(":\t{:8} kB\n", bytes / 1024).bytes());
    }
    result
}

/// The names of limits and their units, by number.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

/// `limits`.
fn limits(task: &Task) -> SysResult<String> {
    let mut text = format!(
        "{:<25} {:<20} {:<20} {:<10}\n",
        "Limit", "Soft Limit", "Hard Limit", "Units"
    );
    for (index, (name, unit)) in LIMITS.into_iter().enumerate() {
        let pair = process::limit(task, index)?;
        let [soft, hard] = [0, 8].map(|at| match word(&pair, at) {
            libc::RLIM_INFINITY => "unlimited".to_owned(),
            limit => limit.to_string(),
        });
        // Writing to a string cannot fail.
        let _ = write!(text, "{name:<25} {soft:<20} {hard:<20} ");
        let _ = match unit {
            "" => writeln!(text),
            unit => writeln!(text, "{unit:<10}"),
        };
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(start: u64, end: u64, prot: Prot, backing: Backing) -> Piece {
        Piece {
            start,
            end,
            prot,
            backing,
        }
    }

    #[test]
    fn areas_are_lines() {
        let line =
            |piece: &Piece, file, stack| String::from_utf8(area_line(piece, file, stack)).unwrap();
        let code = Prot::READ | Prot::EXEC;
        let area = piece(0x40_0000, 0x40_1000, code, Backing::SharedFile);
        let plain = "00400000-00401000 r-xs 00000000 00:00 0 \n";
        assert_eq!(line(&area, None, 0), plain);
        let data = Prot::READ | Prot::WRITE;
        let stack = line(
            &piece(0x1000, 0x2000, data, Backing::Anonymous),
            None,
            0x2000,
        );
        assert_eq!(stack.find("[stack]"), Some(73));
        assert!(stack.starts_with("00001000-00002000 rw-p "));
        let heap = line(&piece(0x1000, 0x2000, data, Backing::Heap), None, 0);
        assert!(heap.ends_with(" [heap]\n"));
        let vdso = Arc::new(NamedFile::special("[vdso]"));
        let area = piece(
            0x7fff_f7fc_1000,
            0x7fff_f7fc_3000,
            code,
            Backing::PrivateFile,
        );
        let text = line(&area, Some((&vdso, 0)), 0);
        assert!(text.starts_with("7ffff7fc1000-7ffff7fc3000 r-xp 00000000 00:00 0 "));
        assert_eq!(text.find("[vdso]"), Some(73));
    }

    /// This process's own areas are written as the kernel writes them.
    #[test]
    fn files_are_named_as_the_kernel_does() {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let named = NamedFile::of(std::os::fd::AsRawFd::as_raw_fd(&file)).unwrap();
        let named = Arc::new(named);
        let name = String::from_utf8(named.name()).unwrap();
        let line = text.lines().find(|line| line.ends_with(&name)).unwrap();
        let (start, rest) = line.split_once('-').unwrap();
        let [start, end] = [start, rest.split_once(' ').unwrap().0]
            .map(|number| u64::from_str_radix(number, 16).unwrap());
        let area = piece(start, end, Prot::READ, Backing::PrivateFile);
        let ours = String::from_utf8(area_line(&area, Some((&named, 0)), 0)).unwrap();
        // What the kernel has for the device of a file on overlayfs is not what others have.
        let fields = |line: &str| -> Vec<String> {
            line.split_ascii_whitespace().map(String::from).collect()
        };
        let (ours, kernels) = (fields(&ours), fields(line));
        assert_eq!((&ours[..3], &ours[4..]), (&kernels[..3], &kernels[4..]));
    }

    #[test]
    fn fields_are_exchanged_behind_any_name() {
        let text = b"7 (a) b (c) S 1 2 3\n";
        let changed = exchange(text, &[(4, 99), (6, 0)]).unwrap();
        assert_eq!(changed, b"7 (a) b (c) S 99 2 0\n");
        assert_eq!(exchange(text, &[(7, 1)]), None);
        assert_eq!(exchange(b"nothing", &[]), None);
        // As the kernel has it: there are as many fields as are exchanged.
        let text = std::fs::read("/proc/self/stat").unwrap();
        let changed = exchange(&text, &[(51, 12345), (23, 777)]).unwrap();
        assert!(String::from_utf8_lossy(&changed).contains(" 777 "));
    }

    #[test]
    fn the_brokers_sizes_and_capabilities_are_not_told() {
        let text =
            b"Name:\tx\nVmSize:\t 5 kB\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t0\nSigIgn:\t7\n";
        let sizes = Sizes {
            total: 1 << 20,
            ..Sizes::default()
        };
        let expected = "Name:\tx\nVmSize:\t    1024 kB\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSigIgn:\t7\n";
        assert_eq!(status(text, &sizes), expected.as_bytes());
    }
}
