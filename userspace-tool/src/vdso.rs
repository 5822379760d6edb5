// SPDX-License-Identifier: GPL-2.0

//! The host kernel's vDSO in the guest: clocks are read without leaving it.
//!
//! The code is a copy of what this process has, and the data are the kernel's own pages, read-only. What the code
//! would ask of the CPU that a guest does not have is replaced in the copy: `RDTSCP` by the kernel's own other
//! sequence, and `getcpu`, which reads the host's descriptor table, by the system call.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use object::read::elf::{FileHeader, Sym};
use object::{elf, Endianness};
use uvisor_uapi::{Prot, PAGE_SIZE};

use crate::guest::sealed_file;
use crate::layout::Layout;
use crate::memory::Memory;
use crate::personality::Fds;
use crate::space::{Area, Backing, NamedFile, Space};

/// Where the kernel says what it tells time by.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// `rdtscp` and what follows it to fill the place, and the sequence for CPUs without it: `lfence; rdtsc`.
const RDTSCP: [u8; 5] = [0x0f, 0x01, 0xf9, 0x66, 0x90];
const LFENCE_RDTSC: [u8; 5] = [0x0f, 0xae, 0xe8, 0x0f, 0x31];

/// `mov eax, 309; syscall; ret`: the system call `getcpu`.
const GETCPU: [u8; 8] = [0xb8, 0x35, 0x01, 0x00, 0x00, 0x0f, 0x05, 0xc3];

/// The vDSO of this machine, if its guests can have it.
#[derive(Debug)]
struct Vdso {
    /// The code.
    file: OwnedFd,
    len: u64,
    /// The kernel's data, as this process has them.
    data: Range<u64>,
    /// From the data to the code.
    distance: u64,
}

/// What was found out once.
static FOUND: OnceLock<Option<Vdso>> = OnceLock::new();

/// Whether the host's clock is the time-stamp counter, which guests can read as well.
///
/// Who is about to lose sight of `/sys` asks before.
pub(crate) fn clock_is_tsc() -> bool {
    static IS_TSC: OnceLock<bool> = OnceLock::new();
    *IS_TSC.get_or_init(|| {
        let source = std::fs::read_to_string(CLOCK_SOURCE);
        source.is_ok_and(|source| source.trim() == "tsc")
    })
}

/// The vDSO of this machine; nothing if the host makes system calls for the time, or its pages are not to be had.
///
/// Whoever forks while it may be the first time in another thread finds out before.
pub(crate) fn prepare(fds: &Fds) {
    find(fds);
}

/// See [`prepare`].
fn find(fds: &Fds) -> Option<&'static Vdso> {
    FOUND.get_or_init(|| Vdso::new(fds)).as_ref()
}

/// The descriptor of the code, which forked processes keep.
pub(crate) fn descriptor() -> Option<RawFd> {
    Some(FOUND.get()?.as_ref()?.file.as_raw_fd())
}

/// Maps the vDSO in a new micro-VM, and returns where its ELF header is (`AT_SYSINFO_EHDR`). A task without it makes
/// system calls instead.
pub(crate) fn install(
    fds: &Fds,
    memory: &Memory,
    space: &mut Space,
    layout: &Layout,
) -> Option<u64> {
    let vdso = find(fds)?;
    let all = vdso.distance + vdso.len;
    let start = space.find(all, PAGE_SIZE, layout.mmap_top)?;
    let data_len = vdso.data.end - vdso.data.start;
    let vm = memory.vm();
    vm.map_vvar(start, data_len, vdso.data.start).ok()?;
    let code = start + vdso.distance;
    let prot = Prot::READ | Prot::EXEC;
    if vm
        .map_file(code, vdso.len, prot, vdso.file.as_fd(), 0)
        .is_err()
    {
        // It was free before.
        let _ = vm.unmap(start, data_len);
        return None;
    }
    let mut note = |start, end, prot, backing| space.insert(start, Area { end, prot, backing });
    note(start, start + data_len, Prot::READ, Backing::Kernel);
    if start + data_len < code {
        note(start + data_len, code, Prot::empty(), Backing::Reserved);
    }
    let (end, backing) = (code + vdso.len, Backing::PrivateFile);
    let named = Arc::new(NamedFile::special("[vdso]"));
    space.insert_file(code, Area { end, prot, backing }, &named, 0);
    Some(code)
}

impl Vdso {
    fn new(fds: &Fds) -> Option<Self> {
        if !clock_is_tsc() {
            return None;
        }
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let (data, code) = (area(&maps, "[vvar]")?, area(&maps, "[vdso]")?);
        let len = code.end - code.start;
        // SAFETY: The kernel maps it readable for good, and the line says where.
        let image = unsafe { std::slice::from_raw_parts(code.start as *const u8, len as usize) };
        let file = sealed_file(c"uvisor-vdso", &patched(image)?).ok()?;
        Some(Self {
            file: fds.own(file.as_fd()).ok()?,
            len,
            distance: code.start.checked_sub(data.start)?,
            data,
        })
    }
}

/// The addresses of the area that a line of `maps` ends with the name of.
fn area(maps: &str, name: &str) -> Option<Range<u64>> {
    let line = maps.lines().find(|line| line.ends_with(name))?;
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

/// The image for a guest.
fn patched(image: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = image.to_vec();
    // By its rarest byte: each start of uvctl looks through the image.
    let mut at = 0;
    while let Some(found) = bytes.get(at..)?.iter().position(|&byte| byte == RDTSCP[2]) {
        let start = (at + found).saturating_sub(2);
        match bytes.get_mut(start..start + RDTSCP.len()) {
            Some(five) if five == RDTSCP => five.copy_from_slice(&LFENCE_RDTSC),
            _ => {}
        }
        at += found + 1;
    }
    let header = elf::FileHeader64::<Endianness>::parse(image).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, image).ok()?;
    let symbols = sections.symbols(endian, image, elf::SHT_DYNSYM).ok()?;
    for symbol in symbols.iter() {
        let name = symbol.name(endian, symbols.strings()).unwrap_or_default();
        if name == b"__vdso_getcpu" || name == b"getcpu" {
            let start = usize::try_from(symbol.st_value(endian)).ok()?;
            if symbol.st_size(endian) < GETCPU.len() as u64 {
                return None;
            }
            bytes
                .get_mut(start..start + GETCPU.len())?
                .copy_from_slice(&GETCPU);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_found_by_their_names() {
        let maps = "7ff0-8000 r--p 00000000 00:00 0      [vvar]\n8000-a000 r-xp 0 00:00 0 [vdso]\n";
        assert_eq!(area(maps, "[vvar]"), Some(0x7ff0..0x8000));
        assert_eq!(area(maps, "[vdso]"), Some(0x8000..0xa000));
        assert_eq!(area(maps, "[vsyscall]"), None);
    }

    #[test]
    fn the_copy_asks_nothing_that_a_guest_lacks() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let code = area(&maps, "[vdso]").unwrap();
        let len = (code.end - code.start) as usize;
        // SAFETY: The kernel maps it readable for good.
        let image = unsafe { std::slice::from_raw_parts(code.start as *const u8, len) };
        let patched = patched(image).unwrap();
        assert_eq!(patched.len(), len);
        // The image also has what the kernel patches its own code from, which nothing executes.
        let header = elf::FileHeader64::<Endianness>::parse(image).unwrap();
        let endian = header.endian().unwrap();
        let sections = header.sections(endian, image).unwrap();
        let symbols = sections.symbols(endian, image, elf::SHT_DYNSYM).unwrap();
        let mut functions = 0;
        for symbol in symbols.iter().filter(|symbol| symbol.st_size(endian) > 0) {
            let (start, len) = (symbol.st_value(endian), symbol.st_size(endian));
            let code = &patched[start as usize..(start + len) as usize];
            assert!(!code.windows(3).any(|three| three == [0x0f, 0x01, 0xf9]));
            functions += 1;
        }
        assert!(functions >= 5, "{functions} functions");
        assert!(patched.windows(8).any(|eight| eight == GETCPU));
        let changed = image.iter().zip(&patched).filter(|(a, b)| a != b).count();
        assert!((1..100).contains(&changed), "{changed} bytes");
    }
}
