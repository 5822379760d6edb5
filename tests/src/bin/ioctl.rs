// SPDX-License-Identifier: GPL-2.0

//! Every call with every bad argument.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{
    E2BIG, EACCES, EBADF, EBUSY, EEXIST, EFAULT, EINVAL, EMFILE, ENODEV, ENOMEM, ENOSPC, ENOTTY,
};
use uvisor::{Device, Features, RunFlags};
use uvisor_tests::host::memory_file;
use uvisor_tests::raw::{fails, ioctl, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, DATA};
use uvisor_uapi as uapi;
use uvisor_uapi::{Info, Limits, Map, Protect, Stats, Unmap, VcpuCreate, VmCreate, PAGE_SIZE};

const PAGE: usize = PAGE_SIZE as usize;
/// An address where no test's guest has anything.
const FREE: u64 = 0x1000_0000;

code! { call: "vmcall", "hlt" }
code! { endless: "movl $1, 0x500000", "1: jmp 1b" }

/// The device and one micro-VM with one vCPU.
fn guest() -> Guest {
    Guest::new(call())
}

fn device() -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(uapi::DEVICE).expect("the device")
}

/// A call that takes a structure: how to make it, and how to undo it when it worked.
struct Call {
    name: &'static str,
    command: u32,
    argument: Vec<u8>,
    known_flags: u32,
    writes: bool,
    returns_fd: bool,
    on_device: bool,
}

/// The bytes of a structure of the interface.
fn bytes<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: The structures of the interface have no padding.
    unsafe { std::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }.to_vec()
}

fn calls() -> Vec<Call> {
    let call = |name, command, argument| Call {
        name,
        command,
        argument,
        known_flags: 0,
        writes: false,
        returns_fd: false,
        on_device: false,
    };
    let (gpa, len) = (FREE, PAGE_SIZE);
    let map = Map {
        gpa,
        len,
        prot: 1,
        ..Map::new()
    };
    let protect = Protect {
        gpa,
        len,
        prot: 3,
        ..Protect::new()
    };
    let unmap = Unmap {
        gpa,
        len,
        ..Unmap::new()
    };
    vec![
        Call {
            writes: true,
            on_device: true,
            ..call("INFO", uapi::INFO, bytes(&Info::new()))
        },
        Call {
            returns_fd: true,
            on_device: true,
            ..call("VM_CREATE", uapi::VM_CREATE, bytes(&VmCreate::new()))
        },
        Call {
            known_flags: 1,
            ..call("MAP", uapi::MAP, bytes(&map))
        },
        call("PROTECT", uapi::PROTECT, bytes(&protect)),
        call("UNMAP", uapi::UNMAP, bytes(&unmap)),
        Call {
            writes: true,
            ..call("STATS", uapi::STATS, bytes(&Stats::new()))
        },
        call("LIMITS", uapi::LIMITS, bytes(&Limits::new())),
        Call {
            returns_fd: true,
            ..call("VCPU_CREATE", uapi::VCPU_CREATE, bytes(&VcpuCreate::new()))
        },
    ]
}

impl Call {
    /// Makes the call at `at` in a fresh micro-VM in which it works.
    fn at(&self, at: usize) -> Result<(), i32> {
        let guest = guest();
        if self.command == uapi::PROTECT {
            let prot = uvisor::Prot::READ;
            guest.vm.map_anonymous(FREE, PAGE_SIZE, prot).expect("MAP");
        }
        let value = if self.on_device {
            ioctl(&guest.device, self.command, at)?
        } else {
            ioctl(&guest.vm, self.command, at)?
        };
        if self.returns_fd {
            // SAFETY: The call made it for us.
            drop(unsafe { OwnedFd::from_raw_fd(value) });
        } else {
            assert_eq!(value, 0, "{}: returned", self.name);
        }
        Ok(())
    }

    /// Makes the call with the bytes of its structure changed, and room behind them.
    fn with(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<(), i32> {
        let mut bytes = self.argument.clone();
        bytes.resize(2 * PAGE, 0);
        change(&mut bytes);
        self.at(bytes.as_mut_ptr() as usize)
    }

    /// Makes the call with another size.
    fn with_size(&self, size: usize) -> Result<(), i32> {
        self.with(|b| set_size(b, size))
    }

    fn bad_memory(&self) -> Outcome {
        let name = self.name;
        fails(&format!("{name}: NULL"), self.at(0), EFAULT)?;
        fails(
            &format!("{name}: kernel address"),
            self.at(usize::MAX << 47),
            EFAULT,
        )?;
        fails(&format!("{name}: last byte"), self.at(usize::MAX), EFAULT)?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        let memory = mmap(None, 2 * PAGE, rw, libc::MAP_PRIVATE, 0).expect("mmap");
        let start = memory as usize;
        // Kept, so that nothing else is mapped there meanwhile.
        // SAFETY: The second page of a mapping of ours, with no reference into it.
        unsafe { libc::mprotect(memory.add(PAGE).cast(), PAGE, libc::PROT_NONE) };
        fails(&format!("{name}: unmapped"), self.at(start + PAGE), EFAULT)?;
        for cut in [4, 8, self.argument.len() - 1] {
            let head = &self.argument[..cut];
            let at = start + PAGE - cut;
            // SAFETY: The end of the first page, which is ours.
            unsafe { std::ptr::copy_nonoverlapping(head.as_ptr(), at as *mut u8, cut) };
            fails(&format!("{name}: cut off after {cut}"), self.at(at), EFAULT)?;
        }
        let len = self.argument.len();
        // SAFETY: The start of the first page, which is ours, and then only read by the call.
        unsafe {
            std::ptr::copy_nonoverlapping(self.argument.as_ptr(), memory, len);
            libc::mprotect(memory.cast(), PAGE, libc::PROT_READ);
        }
        let read_only = self.at(start);
        munmap(memory, 2 * PAGE);
        if self.writes {
            fails(&format!("{name}: read-only"), read_only, EFAULT)
        } else {
            works(&format!("{name}: read-only"), read_only)
        }
    }

    fn sizes(&self) -> Outcome {
        let (name, len) = (self.name, self.argument.len());
        works(&format!("{name}: as it is"), self.with(|_| ()))?;
        for size in [0, 1, 4, 7, 8, len - 8, len - 1] {
            fails(
                &format!("{name}: size {size}"),
                self.with_size(size),
                EINVAL,
            )?;
        }
        for size in [len + 1, len + 8, 1024, PAGE] {
            works(&format!("{name}: size {size}, zeros"), self.with_size(size))?;
            for at in [len, size - 1] {
                let tail = self.with(|b| {
                    set_size(b, size);
                    b[at] = 1;
                });
                fails(
                    &format!("{name}: size {size}, not zero at {at}"),
                    tail,
                    E2BIG,
                )?;
            }
            let beyond = self.with(|b| {
                set_size(b, size);
                b[size] = 1;
            });
            works(&format!("{name}: size {size}, not zero behind it"), beyond)?;
        }
        for size in [PAGE + 1, PAGE + 8, 2 * PAGE, u32::MAX as usize] {
            fails(&format!("{name}: size {size}"), self.with_size(size), E2BIG)?;
        }
        Ok(())
    }

    fn flags(&self) -> Outcome {
        for bit in (0..32).filter(|bit| self.known_flags & 1 << bit == 0) {
            let result = self.with(|b| b[4 + bit / 8] |= 1 << (bit % 8));
            fails(&format!("{}: flag {bit}", self.name), result, EINVAL)?;
        }
        Ok(())
    }
}

fn set_size(bytes: &mut [u8], size: usize) {
    bytes[..4].copy_from_slice(&(size as u32).to_le_bytes());
}

fn unknown_commands() -> Outcome {
    let guest = guest();
    let all = [
        uapi::INFO,
        uapi::VM_CREATE,
        uapi::MAP,
        uapi::UNMAP,
        uapi::PROTECT,
        uapi::STATS,
        uapi::LIMITS,
        uapi::VCPU_CREATE,
        uapi::RUN,
        uapi::KICK,
    ];
    let unknown = |command: u32| (uapi::IOCTL_TYPE << 8) | command;
    let strange = [
        unknown(0x02),
        unknown(0x0f),
        unknown(0x1f),
        unknown(0x32),
        unknown(0xff),
        0xae80,
    ];
    let known = [
        ("device", guest.device.as_fd(), &all[..2]),
        ("VM", guest.vm.as_fd(), &all[2..8]),
        ("vCPU", guest.vcpu.as_fd(), &all[8..]),
    ];
    for (name, fd, own) in known {
        for command in all.into_iter().chain(strange).filter(|c| !own.contains(c)) {
            for argument in [0, PAGE] {
                fails(
                    &format!("{name}: {command:#x}"),
                    ioctl(&fd, command, argument),
                    ENOTTY,
                )?;
            }
        }
        // A direction and a size in the number make it another command.
        let other = own[0] | 0xc008_0000;
        fails(&format!("{name}: {other:#x}"), ioctl(&fd, other, 0), ENOTTY)?;
    }
    Ok(())
}

/// MAP of one structure in a fresh micro-VM.
fn map(map: Map) -> Result<i32, i32> {
    ioctl_with(&guest().vm, uapi::MAP, &mut { map })
}

fn ranges() -> Outcome {
    let top = 1u64 << Device::open().map_err(|e| e.to_string())?.gpa_bits();
    let page = PAGE_SIZE;
    let bad = [
        (FREE, 0),
        (FREE, 1),
        (FREE, page - 1),
        (FREE, page + 1),
        (FREE + 1, page),
        (FREE + 8, page),
        (FREE + page - 1, page),
        (top, page),
        (top - page, 2 * page),
        (1 << 47, page),
        (1 << 52, page),
        (1 << 63, page),
        (0, top + page),
        (0, 0u64.wrapping_sub(page)),
        (0u64.wrapping_sub(page), page),
        (0u64.wrapping_sub(page), 2 * page),
        (page, u64::MAX),
        (u64::MAX, u64::MAX),
    ];
    let guest = guest();
    for (gpa, len) in bad {
        let what = |call| format!("{call} {gpa:#x}+{len:#x}");
        let mut map = Map {
            gpa,
            len,
            prot: 1,
            ..Map::new()
        };
        fails(
            &what("MAP"),
            ioctl_with(&guest.vm, uapi::MAP, &mut map),
            EINVAL,
        )?;
        let mut unmap = Unmap {
            gpa,
            len,
            ..Unmap::new()
        };
        fails(
            &what("UNMAP"),
            ioctl_with(&guest.vm, uapi::UNMAP, &mut unmap),
            EINVAL,
        )?;
        let mut protect = Protect {
            gpa,
            len,
            ..Protect::new()
        };
        fails(
            &what("PROTECT"),
            ioctl_with(&guest.vm, uapi::PROTECT, &mut protect),
            EINVAL,
        )?;
    }
    let good = Unmap {
        len: top,
        ..Unmap::new()
    };
    works(
        "UNMAP of everything",
        ioctl_with(&guest.vm, uapi::UNMAP, &mut { good }),
    )?;
    let mut all = Map {
        len: top,
        prot: 3,
        ..Map::new()
    };
    works(
        "MAP of everything",
        ioctl_with(&guest.vm, uapi::MAP, &mut all),
    )
    .map(drop)
}

fn permissions() -> Outcome {
    let guest = guest();
    let features =
        Features::from_bits_truncate(guest.device.info().map_err(|e| e.to_string())?.features);
    let exec_only = features.contains(Features::EXEC_ONLY);
    let (gpa, len) = (FREE, PAGE_SIZE);
    works(
        "a region",
        ioctl_with(
            &guest.vm,
            uapi::MAP,
            &mut Map {
                gpa,
                len,
                ..Map::new()
            },
        ),
    )?;
    for prot in (0..8)
        .chain((3..32).map(|bit| 1 << bit))
        .chain([u32::MAX, 1 | 1 << 31])
    {
        let good = matches!(prot, 0 | 1 | 3 | 5 | 7) || (prot == 4 && exec_only);
        let region = Map {
            gpa: FREE + 0x10_0000,
            len,
            prot,
            ..Map::new()
        };
        let mapped = ioctl_with(&guest.vm, uapi::MAP, &mut { region });
        let protect = Protect {
            gpa,
            len,
            prot,
            ..Protect::new()
        };
        let protected = ioctl_with(&guest.vm, uapi::PROTECT, &mut { protect });
        if good {
            works(&format!("MAP prot {prot:#x}"), mapped)?;
            works(&format!("PROTECT prot {prot:#x}"), protected)?;
            let mut unmap = Unmap {
                gpa: FREE + 0x10_0000,
                len,
                ..Unmap::new()
            };
            works("UNMAP", ioctl_with(&guest.vm, uapi::UNMAP, &mut unmap))?;
        } else {
            fails(&format!("MAP prot {prot:#x}"), mapped, EINVAL)?;
            fails(&format!("PROTECT prot {prot:#x}"), protected, EINVAL)?;
        }
    }
    let protect = Protect {
        gpa,
        len,
        reserved: 1,
        ..Protect::new()
    };
    fails(
        "PROTECT reserved",
        ioctl_with(&guest.vm, uapi::PROTECT, &mut { protect }),
        EINVAL,
    )?;
    let base = Map {
        gpa: FREE + 0x10_0000,
        len,
        prot: 1,
        ..Map::new()
    };
    fails("anonymous with fd", map(Map { fd: 1, ..base }), EINVAL)?;
    fails("anonymous with fd -1", map(Map { fd: -1, ..base }), EINVAL)?;
    fails(
        "anonymous with offset",
        map(Map {
            offset: PAGE_SIZE,
            ..base
        }),
        EINVAL,
    )
}

fn overlaps() -> Outcome {
    let page = PAGE_SIZE;
    let guest = guest();
    let map = |gpa, len| {
        ioctl_with(
            &guest.vm,
            uapi::MAP,
            &mut Map {
                gpa,
                len,
                prot: 1,
                ..Map::new()
            },
        )
    };
    let at = FREE + 8 * page;
    works("MAP", map(at, 4 * page))?;
    for (gpa, len) in [
        (at, 4),
        (at, 1),
        (at + 3 * page, 1),
        (at + page, 2),
        (at - page, 2),
        (at + 3 * page, 2),
        (at - page, 6),
        (at - 8 * page, 100),
    ] {
        fails(
            &format!("MAP {gpa:#x}+{len} pages"),
            map(gpa, len * page),
            EEXIST,
        )?;
    }
    works("right before", map(at - page, page))?;
    works("right behind", map(at + 4 * page, page))?;
    let protect = |gpa, len| {
        ioctl_with(
            &guest.vm,
            uapi::PROTECT,
            &mut Protect {
                gpa,
                len,
                prot: 3,
                ..Protect::new()
            },
        )
    };
    fails("PROTECT before", protect(at - 2 * page, 2 * page), ENOMEM)?;
    fails("PROTECT behind", protect(at + 4 * page, 2 * page), ENOMEM)?;
    let mut unmap = Unmap {
        gpa: at + page,
        len: page,
        ..Unmap::new()
    };
    works("UNMAP", ioctl_with(&guest.vm, uapi::UNMAP, &mut unmap))?;
    works(
        "UNMAP again",
        ioctl_with(&guest.vm, uapi::UNMAP, &mut unmap),
    )?;
    fails("PROTECT with a hole", protect(at, 4 * page), ENOMEM)?;
    fails("PROTECT of the hole", protect(at + page, page), ENOMEM)?;
    works("the hole again", map(at + page, page))?;
    works("PROTECT without a hole", protect(at, 4 * page)).map(drop)
}

fn open(path: &str, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    options.open(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn file_kinds() -> Outcome {
    let region = |fd: i32, offset: u64| {
        map(Map {
            flags: 1,
            gpa: FREE,
            len: PAGE_SIZE,
            prot: 1,
            fd,
            offset,
            ..Map::new()
        })
    };
    fails("fd -1", region(-1, 0), EBADF)?;
    fails("fd i32::MIN", region(i32::MIN, 0), EBADF)?;
    fails("closed fd", region(1000, 0), EBADF)?;
    let write_only = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open("/tmp/w");
    fails(
        "O_WRONLY",
        region(write_only.map_err(|e| e.to_string())?.as_raw_fd(), 0),
        EBADF,
    )?;
    fails(
        "O_PATH",
        region(open("/tmp/w", libc::O_PATH).as_raw_fd(), 0),
        EBADF,
    )?;
    for path in [
        "/",
        "/proc/self/stat",
        "/dev/zero",
        "/dev/null",
        uapi::DEVICE,
        "/sys/kernel/notes",
    ] {
        let result = region(open(path, 0).as_raw_fd(), 0);
        fails(path, result, ENODEV)?;
    }
    let mut pipe = [0; 2];
    // SAFETY: The array has room for both.
    let made = unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) };
    equal("pipe", made, 0)?;
    // SAFETY: Both are new and ours.
    let pipe = pipe.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    fails("pipe", region(pipe[0].as_raw_fd(), 0), ENODEV)?;
    let other = guest();
    fails("a VM", region(other.vm.as_fd().as_raw_fd(), 0), ENODEV)?;
    fails("a vCPU", region(other.vcpu.as_fd().as_raw_fd(), 0), ENODEV)?;
    std::fs::write("/tmp/file", [7; 100]).map_err(|e| e.to_string())?;
    for path in ["/tmp/file", "/usr/bin/env", "/proc/self/exe"] {
        works(path, region(open(path, 0).as_raw_fd(), 0))?;
    }
    let file = memory_file(&[1; 5000]);
    let fd = file.as_raw_fd();
    for offset in [0, PAGE_SIZE, 1 << 40, i64::MAX as u64 + 1 - 2 * PAGE_SIZE] {
        works(&format!("offset {offset:#x}"), region(fd, offset))?;
    }
    let last = i64::MAX as u64 + 1 - PAGE_SIZE;
    for offset in [
        1,
        8,
        PAGE_SIZE - 1,
        PAGE_SIZE + 1,
        last,
        last + PAGE_SIZE,
        0u64.wrapping_sub(PAGE_SIZE),
        u64::MAX,
    ] {
        fails(&format!("offset {offset:#x}"), region(fd, offset), EINVAL)?;
    }
    Ok(())
}

fn noexec() -> Outcome {
    let at = CString::new("/tmp/noexec").expect("a name");
    std::fs::create_dir_all("/tmp/noexec").map_err(|e| e.to_string())?;
    // SAFETY: All pointers are C strings, or null where that is allowed.
    let result = unsafe {
        let (kind, flags) = (c"tmpfs".as_ptr(), libc::MS_NOEXEC);
        libc::mount(kind, at.as_ptr(), kind, flags, std::ptr::null())
    };
    equal("mount", result, 0)?;
    let result = (|| {
        std::fs::write("/tmp/noexec/code", [0x90; PAGE]).map_err(|e| e.to_string())?;
        let file = open("/tmp/noexec/code", 0);
        let guest = guest();
        let (gpa, len, fd) = (FREE, PAGE_SIZE, file.as_raw_fd());
        let region = Map {
            flags: 1,
            gpa,
            len,
            fd,
            prot: 1,
            ..Map::new()
        };
        let map = |prot| ioctl_with(&guest.vm, uapi::MAP, &mut Map { prot, ..region });
        fails("MAP with EXEC", map(5), EACCES)?;
        works("MAP without", map(1))?;
        let protect = |prot| {
            ioctl_with(
                &guest.vm,
                uapi::PROTECT,
                &mut Protect {
                    gpa,
                    len,
                    prot,
                    ..Protect::new()
                },
            )
        };
        fails("PROTECT with EXEC", protect(5), EACCES)?;
        works("PROTECT without", protect(3)).map(drop)
    })();
    // SAFETY: A C string.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    result
}

fn registers() -> Outcome {
    let mut guest = guest();
    let good = *guest.vcpu.regs();
    let hole = [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff, 0x8000_0000_0000];
    let mut bad = Vec::new();
    for address in hole {
        bad.push((
            "rip",
            uvisor::Regs {
                rip: address,
                ..good
            },
        ));
        bad.push((
            "fs_base",
            uvisor::Regs {
                fs_base: address,
                ..good
            },
        ));
        bad.push((
            "gs_base",
            uvisor::Regs {
                gs_base: address,
                ..good
            },
        ));
        bad.push((
            "kernel_gs_base",
            uvisor::Regs {
                kernel_gs_base: address,
                ..good
            },
        ));
    }
    for cpl in [1, 2, 4, 7, u64::MAX, 1 << 32] {
        bad.push(("cpl", uvisor::Regs { cpl, ..good }));
    }
    for (name, regs) in bad {
        *guest.vcpu.regs_mut() = regs;
        fails(
            &format!("{name} in {regs:x?}"),
            ioctl(&guest.vcpu, uapi::RUN, 0),
            EINVAL,
        )?;
        equal("registers of a refused RUN", *guest.vcpu.regs(), regs)?;
    }
    *guest.vcpu.regs_mut() = good;
    for bit in 1..32 {
        // SAFETY: The module is what judges the bits.
        let flags = unsafe { RunFlags::from_bits_unchecked(1 << bit) };
        guest.vcpu.set_flags(flags);
        fails(
            &format!("run flag {bit}"),
            ioctl(&guest.vcpu, uapi::RUN, 0),
            EINVAL,
        )?;
    }
    guest.vcpu.set_flags(RunFlags::empty());
    for argument in [1, 8, PAGE, usize::MAX] {
        fails(
            "RUN with an argument",
            ioctl(&guest.vcpu, uapi::RUN, argument),
            EINVAL,
        )?;
        fails(
            "KICK with an argument",
            ioctl(&guest.vcpu, uapi::KICK, argument),
            EINVAL,
        )?;
    }
    guest.run_to_hypercall()
}

fn vcpu_arguments() -> Outcome {
    let guest = guest();
    let create = |cr3, syscall_entry| {
        let mut create = VcpuCreate {
            cr3,
            syscall_entry,
            ..VcpuCreate::new()
        };
        let fd = ioctl_with(&guest.vm, uapi::VCPU_CREATE, &mut create)?;
        // SAFETY: The call made it for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    let top = 1u64 << guest.device.gpa_bits();
    for cr3 in [1, 8, 0xfff, 0x1001, top, 1 << 52, 1 << 63, u64::MAX] {
        fails(&format!("cr3 {cr3:#x}"), create(cr3, 0), EINVAL)?;
    }
    for entry in [1 << 47, 1 << 63, 0xffff_7fff_ffff_ffff] {
        fails(&format!("entry {entry:#x}"), create(0, entry), EINVAL)?;
    }
    works("the last cr3", create(top - PAGE_SIZE, u64::MAX))?;
    let info = guest.device.info().map_err(|e| e.to_string())?;
    let mut vcpus = vec![];
    for number in 1..info.max_vcpus {
        vcpus.push(works(&format!("vCPU {number}"), create(0, 0))?);
    }
    fails("one vCPU too many", create(0, 0), ENOSPC)?;
    vcpus.pop();
    works("a vCPU for one that went", create(0, 0)).map(drop)
}

fn limits() -> Outcome {
    let device = device();
    for memory_limit in [1, PAGE_SIZE - 1] {
        let mut create = VmCreate {
            memory_limit,
            ..VmCreate::new()
        };
        fails(
            "VM_CREATE limit",
            ioctl_with(&device, uapi::VM_CREATE, &mut create),
            EINVAL,
        )?;
        let mut limits = Limits {
            memory_limit,
            ..Limits::new()
        };
        fails(
            "LIMITS",
            ioctl_with(&guest().vm, uapi::LIMITS, &mut limits),
            EINVAL,
        )?;
    }
    let mut limits = Limits {
        memory_limit: u64::MAX,
        ..Limits::new()
    };
    works("LIMITS", ioctl_with(&guest().vm, uapi::LIMITS, &mut limits)).map(drop)
}

fn run_page() -> Outcome {
    let guest = guest();
    let fd = guest.vcpu.as_fd();
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let exec = rw | libc::PROT_EXEC;
    let page = PAGE as i64;
    for (what, len, prot, flags, offset, errno) in [
        ("two pages", 2 * PAGE, rw, shared, 0, EINVAL),
        ("second page", PAGE, rw, shared, page, EINVAL),
        ("private", PAGE, rw, libc::MAP_PRIVATE, 0, EINVAL),
        ("executable", PAGE, exec, shared, 0, libc::EPERM),
    ] {
        fails(what, mmap(Some(&fd), len, prot, flags, offset), errno)?;
    }
    let at = works("good", mmap(Some(&fd), PAGE, rw, shared, 0))?;
    // SAFETY: A mapping of ours.
    let result = unsafe { libc::mprotect(at.cast(), PAGE, exec) };
    equal("made executable", result, -1)?;
    munmap(at, PAGE);
    let fd = guest.vm.as_fd();
    for (what, prot, flags, errno) in [
        ("private", rw, libc::MAP_PRIVATE, EINVAL),
        ("executable", exec, shared, libc::EPERM),
    ] {
        fails(
            &format!("VM: {what}"),
            mmap(Some(&fd), PAGE, prot, flags, 0),
            errno,
        )?;
    }
    let at = works("VM: good", mmap(Some(&fd), PAGE, rw, shared, 0))?;
    // SAFETY: A mapping of ours.
    let result = unsafe { libc::mprotect(at.cast(), PAGE, exec) };
    munmap(at, PAGE);
    equal("VM: made executable", result, -1)
}

fn exhausted() -> Outcome {
    let device = device();
    let guest = guest();
    let vms = || {
        Device::open()
            .and_then(|d| d.info())
            .map(|i| (i.vms, i.memory))
            .map_err(|e| e.to_string())
    };
    let before = vms()?;
    // SAFETY: An all-zero structure is valid, and the calls fill or read it.
    let old = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit
    };
    let none = libc::rlimit { rlim_cur: 0, ..old };
    // SAFETY: As above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &none) };
    let mut results = vec![];
    for _ in 0..100 {
        results.push(ioctl_with(&device, uapi::VM_CREATE, &mut VmCreate::new()));
        results.push(ioctl_with(
            &guest.vm,
            uapi::VCPU_CREATE,
            &mut VcpuCreate::new(),
        ));
    }
    // SAFETY: As above.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &old) };
    for result in results {
        fails("create", result, EMFILE)?;
    }
    equal("micro-VMs and memory", vms()?, before)?;
    let stats = guest.vm.stats().map_err(|e| e.to_string())?;
    equal("vCPUs", stats.vcpus, 1)
}

fn busy() -> Outcome {
    let guest = Guest::new(endless());
    let fd = works(
        "dup",
        guest.vcpu.as_fd().try_clone_to_owned().map_err(|_| 0),
    )?;
    let kicker = guest.vcpu.kicker();
    let (mut vcpu, vm) = (guest.vcpu, guest.vm);
    let thread = std::thread::spawn(move || vcpu.run().map_err(|e| e.to_string()));
    let mut started = [0];
    while started == [0] && !thread.is_finished() {
        vm.read_at(DATA, &mut started).map_err(|e| e.to_string())?;
        std::thread::yield_now();
    }
    check("the guest started", started != [0])?;
    let seen = ioctl(&fd, uapi::RUN, 0);
    kicker.kick().map_err(|e| e.to_string())?;
    let other = thread.join().map_err(|_| "the runner panicked")??;
    equal("the runner", other, uvisor::Exit::Interrupted)?;
    fails("RUN of a running vCPU", seen, EBUSY)
}

fn main() {
    let mut tap = Tap::new();
    for call in calls() {
        tap.test(&format!("{}: memory that is not there", call.name), || {
            call.bad_memory()
        });
        tap.test(&format!("{}: sizes", call.name), || call.sizes());
        tap.test(&format!("{}: unknown flags", call.name), || call.flags());
    }
    tap.test("unknown commands on each file", unknown_commands);
    tap.test("ranges", ranges);
    tap.test("permissions and reserved fields", permissions);
    tap.test("overlaps and holes", overlaps);
    tap.test("files to map, by kind and offset", file_kinds);
    tap.test("nothing executable from a noexec mount", noexec);
    tap.test("registers, run flags, arguments of RUN and KICK", registers);
    tap.test("VCPU_CREATE", vcpu_arguments);
    tap.test("memory limits", limits);
    tap.test("mmap of the run page and of guest memory", run_page);
    tap.test("no file descriptors left", exhausted);
    tap.test("RUN of a vCPU that runs", busy);
    tap.test("all micro-VMs are gone", || {
        let info = Device::open()
            .and_then(|d| d.info())
            .map_err(|e| e.to_string())?;
        check(
            &format!("left over: {info:?}"),
            info.vms == 0 && info.memory == 0,
        )
    });
    tap.finish();
}
