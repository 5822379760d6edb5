// SPDX-License-Identifier: GPL-2.0

//! Files to map.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{EACCES, EBADF, EINVAL, ENODEV};
use uvisor_tests::host::{memory_file, own_mapping};
use uvisor_tests::raw::{fails, ioctl_with, mmap, munmap, works};
use uvisor_tests::tap::{equal, Outcome};
use uvisor_uapi as uapi;
use uvisor_uapi::{Map, Protect, PAGE_SIZE};

use crate::{guest, map, FREE, PAGE};

fn open(path: &str, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    options.open(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub(crate) fn file_kinds() -> Outcome {
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

pub(crate) fn shared() -> Outcome {
    let region = |flags: u32, prot: u32, fd: i32| {
        map(Map {
            flags,
            gpa: FREE,
            len: PAGE_SIZE,
            prot,
            fd,
            ..Map::new()
        })
    };
    const SHARED: u32 = 3;
    fails("SHARED without FILE", region(2, 3, 0), EINVAL)?;
    fails("SHARED, closed fd", region(SHARED, 3, 1000), EBADF)?;
    let writer = |path: &str| {
        std::fs::write(path, [7; PAGE]).map_err(|e| e.to_string())?;
        let options = OpenOptions::new().read(true).write(true).open(path);
        options.map_err(|e| e.to_string())
    };
    let memory = memory_file(&[1; 5000]);
    works("memfd", region(SHARED, 3, memory.as_raw_fd()))?;
    works("memfd, to read", region(SHARED, 1, memory.as_raw_fd()))?;
    let file = writer("/tmp/shared")?;
    works("tmpfs", region(SHARED, 3, file.as_raw_fd()))?;
    let reader = open("/tmp/shared", 0);
    let fd = reader.as_raw_fd();
    works("a reader", region(SHARED, 1, fd))?;
    fails("a reader, to write", region(SHARED, 3, fd), EACCES)?;
    let program = open("/usr/bin/env", 0);
    let fd = program.as_raw_fd();
    works("a program", region(SHARED, 5, fd))?;
    fails("a program, to write", region(SHARED, 3, fd), EACCES)?;
    // The root is an overlay, whose pages are another file system's.
    let overlay = writer("/root/shared")?;
    let fd = overlay.as_raw_fd();
    fails("an overlay, to write", region(SHARED, 3, fd), ENODEV)?;
    let append = |flag: i32| {
        let mut flag = flag;
        // FS_IOC_SETFLAGS
        ioctl_with(&file, 0x4008_6602, &mut flag)
    };
    works("chattr +a", append(0x20))?;
    let result = region(SHARED, 3, file.as_raw_fd());
    works("chattr -a", append(0))?;
    fails("append-only, to write", result, EACCES)?;
    let vm = uvisor::Device::open()
        .and_then(|device| device.create_vm_with(0, uvisor::VmFlags::W_XOR_X));
    let vm = vm.map_err(|e| e.to_string())?;
    let map = |prot| {
        let map = Map {
            flags: SHARED,
            gpa: FREE,
            len: PAGE_SIZE,
            fd: memory.as_raw_fd(),
            prot,
            ..Map::new()
        };
        ioctl_with(&vm, uapi::MAP, &mut { map })
    };
    fails("to execute, with W^X", map(5), EACCES)?;
    works("to write, with W^X", map(3))?;
    let protect = |prot| {
        let mut protect = Protect {
            gpa: FREE,
            len: PAGE_SIZE,
            prot,
            ..Protect::new()
        };
        ioctl_with(&vm, uapi::PROTECT, &mut protect)
    };
    works("PROTECT to read, with W^X", protect(1))?;
    fails("PROTECT to execute, with W^X", protect(5), EACCES)
}

pub(crate) fn noexec() -> Outcome {
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

/// The result of a MAP of the first page of this process's vDSO data, in a time namespace of its own.
fn in_a_time_namespace(map: impl Fn() -> Result<i32, i32>) -> Result<i32, String> {
    // SAFETY: There is one thread. The child's child is in the namespace, and neither returns.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            const CLONE_NEWTIME: i32 = 0x80;
            if libc::unshare(CLONE_NEWTIME) != 0 {
                libc::_exit(255);
            }
            let inner = libc::fork();
            if inner == 0 {
                libc::_exit(map().map_or_else(|errno| errno, |_| 0));
            }
            let mut status = 0;
            libc::waitpid(inner, &mut status, 0);
            libc::_exit(libc::WEXITSTATUS(status));
        }
        let mut status = 0;
        equal("waitpid", libc::waitpid(child, &mut status, 0), child)?;
        equal("exited", libc::WIFEXITED(status), true)?;
        Ok(libc::WEXITSTATUS(status))
    }
}

pub(crate) fn vvar() -> Outcome {
    const VVAR: u32 = 4;
    let page = PAGE_SIZE;
    let data = own_mapping("[vvar]")?;
    let len = data.end - data.start;
    let guest = guest();
    let region = |flags: u32, offset: u64, len: u64, prot: u32, fd: i32| {
        map(Map {
            flags,
            gpa: FREE,
            len,
            prot,
            fd,
            offset,
            ..Map::new()
        })
    };
    works("[vvar]", region(VVAR, data.start, len, 1, 0))?;
    works("its first page", region(VVAR, data.start, page, 1, 0))?;
    works("without permission", region(VVAR, data.start, page, 0, 0))?;
    for prot in [3, 5, 7] {
        let what = format!("prot {prot}");
        fails(&what, region(VVAR, data.start, page, prot, 0), EACCES)?;
    }
    for flags in [VVAR | 1, VVAR | 2, VVAR | 3] {
        let memory = memory_file(&[1; PAGE]);
        for fd in [0, memory.as_raw_fd()] {
            let result = region(flags, data.start, page, 1, fd);
            fails(&format!("flags {flags}"), result, EINVAL)?;
        }
    }
    fails("a file", region(VVAR, data.start, page, 1, 1), EINVAL)?;
    for len in [len + page, 8 * page, 9 * page, 1 << 30] {
        fails(
            &format!("{len:#x} bytes"),
            region(VVAR, data.start, len, 1, 0),
            EINVAL,
        )?;
    }
    // Other mappings of this process: memory, files, devices, and the kernel's others; and none.
    let file = File::create_new("/tmp/[vvar]").map_err(|e| e.to_string())?;
    file.set_len(page).map_err(|e| e.to_string())?;
    let file = open("/tmp/[vvar]", 0);
    let mapped = |file: Option<&dyn AsRawFd>| mmap(file, PAGE, 1, libc::MAP_PRIVATE, 0);
    let (of_file, anonymous) = (mapped(Some(&file)), mapped(None));
    let run_page = mmap(Some(&guest.vcpu.as_fd()), PAGE, 1, libc::MAP_SHARED, 0);
    let memory = mmap(Some(&guest.vm.as_fd()), PAGE, 1, libc::MAP_SHARED, 0);
    let text = |e: i32| format!("mmap: {e}");
    let (of_file, anonymous) = (of_file.map_err(text)?, anonymous.map_err(text)?);
    let (run_page, memory) = (run_page.map_err(text)?, memory.map_err(text)?);
    for (what, address) in [
        ("the null page", 0),
        ("its second page", data.start + page),
        ("its middle", data.start + 1),
        ("before it", data.start - page),
        ("[vvar_vclock]", own_mapping("[vvar_vclock]")?.start),
        ("[vdso]", own_mapping("[vdso]")?.start),
        ("[stack]", own_mapping("[stack]")?.start),
        ("[heap]", own_mapping("[heap]")?.start),
        ("[vsyscall]", 0xffff_ffff_ff60_0000),
        ("the kernel", 0xffff_8880_0000_0000),
        ("a file of this name", of_file as u64),
        ("anonymous memory", anonymous as u64),
        ("a run page", run_page as u64),
        ("guest memory", memory as u64),
        ("no address", u64::MAX - page + 1),
    ] {
        fails(what, region(VVAR, address, page, 1, 0), EINVAL)?;
    }
    for at in [of_file, anonymous, run_page, memory] {
        munmap(at, PAGE);
    }
    let mut map = Map {
        flags: VVAR,
        gpa: FREE,
        len: page,
        prot: 1,
        offset: data.start,
        ..Map::new()
    };
    works("MAP", ioctl_with(&guest.vm, uapi::MAP, &mut map))?;
    for (prot, refused) in [(3, true), (5, true), (0, false), (1, false), (3, true)] {
        let mut protect = Protect {
            gpa: FREE,
            len: page,
            prot,
            ..Protect::new()
        };
        let result = ioctl_with(&guest.vm, uapi::PROTECT, &mut protect);
        let what = format!("PROTECT {prot}");
        if refused {
            fails(&what, result, EACCES)?;
        } else {
            works(&what, result)?;
        }
    }
    let sealed = guest.vm.seal(FREE, page).map_err(|e| e.errno());
    equal("SEAL", sealed, Err(Some(EACCES)))?;
    let there = in_a_time_namespace(|| region(VVAR, data.start, page, 1, 0))?;
    equal("in a time namespace", there, libc::EOPNOTSUPP)
}
