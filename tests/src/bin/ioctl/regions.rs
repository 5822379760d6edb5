// SPDX-License-Identifier: GPL-2.0

//! Regions of memory: ranges, permissions, overlaps.

use std::os::fd::AsRawFd;

use libc::{EEXIST, EFAULT, EINVAL, ENOMEM, EPERM, EROFS};
use uvisor::{Device, Features};
use uvisor_tests::guest::has;
use uvisor_tests::host::memory_file;
use uvisor_tests::raw::{fails, ioctl_with, works};
use uvisor_tests::tap::Outcome;
use uvisor_uapi as uapi;
use uvisor_uapi::{Map, MapFlags, Protect, Remap, Unmap, PAGE_SIZE};

use crate::{guest, map, FREE};

pub(crate) fn ranges() -> Outcome {
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

pub(crate) fn permissions() -> Outcome {
    let guest = guest();
    let exec_only = has(Features::EXEC_ONLY);
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

pub(crate) fn overlaps() -> Outcome {
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

pub(crate) fn moves() -> Outcome {
    let page = PAGE_SIZE;
    let top = 1u64 << Device::open().map_err(|e| e.to_string())?.gpa_bits();
    let guest = guest();
    let map = |map: &Map| ioctl_with(&guest.vm, uapi::MAP, &mut { *map });
    let remap = |gpa, len, new_gpa, new_len| {
        let mut remap = Remap {
            gpa,
            len,
            new_gpa,
            new_len,
            ..Remap::new()
        };
        ioctl_with(&guest.vm, uapi::REMAP, &mut remap)
    };
    let (at, free) = (FREE + 8 * page, FREE + 64 * page);
    let region = |gpa, len, prot| Map {
        gpa,
        len,
        prot,
        ..Map::new()
    };
    works("MAP", map(&region(at, 4 * page, 3)))?;
    works("MAP of its neighbour", map(&region(at + 4 * page, page, 1)))?;
    for (gpa, len, new_gpa, new_len) in [
        (at, 0, free, page),
        (at, page, free, 0),
        (at, page + 1, free, 2 * page),
        (at, page, free + 1, page),
        (at, page, free, page + 8),
        (at + 8, page, free, page),
        (at, 2 * page, free, page),
        (at, 2 * page, at + page, 2 * page),
        (at + page, page, at, 2 * page),
        (at, page, at, page),
        (at, page, at, 2 * page),
        (at, page, 0, top),
        (at, page, top, page),
        (at, page, top - page, 2 * page),
        (at, page, 0u64.wrapping_sub(page), page),
        (at, page, 0u64.wrapping_sub(page), 2 * page),
        (top, page, free, page),
        (u64::MAX - page + 1, page, free, page),
        (at, u64::MAX - page + 1, free, page),
    ] {
        let what = format!("REMAP {gpa:#x}+{len:#x} to {new_gpa:#x}+{new_len:#x}");
        fails(&what, remap(gpa, len, new_gpa, new_len), EINVAL)?;
    }
    for (gpa, len) in [
        (at - page, page),
        (at - page, 2 * page),
        (at + 3 * page, 2 * page),
        (at + 4 * page, 2 * page),
        (at, 100 * page),
    ] {
        let what = format!("REMAP of {gpa:#x}+{len:#x}");
        fails(&what, remap(gpa, len, free + 200 * page, len), EFAULT)?;
    }
    for (new_gpa, new_len) in [
        (at + 2 * page, page),
        (at + page, 2 * page),
        (at + 4 * page, page),
        (free - 8 * page, 100 * page),
    ] {
        let taken = region(free, page, 0);
        works("MAP in the way", map(&taken))?;
        let what = format!("REMAP to {new_gpa:#x}+{new_len:#x}");
        fails(&what, remap(at, page, new_gpa, new_len), EEXIST)?;
        let mut unmap = Unmap {
            gpa: free,
            len: page,
            ..Unmap::new()
        };
        works("UNMAP", ioctl_with(&guest.vm, uapi::UNMAP, &mut unmap))?;
    }
    let file = memory_file(&[1; 100]);
    let last = Map {
        flags: MapFlags::FILE.bits(),
        fd: file.as_raw_fd(),
        offset: i64::MAX as u64 + 1 - 2 * page,
        ..region(free, page, 1)
    };
    works("MAP near the largest offset", map(&last))?;
    fails(
        "beyond it",
        remap(free, page, free + 8 * page, 2 * page),
        EINVAL,
    )?;
    works("REMAP", remap(free, page, free + 8 * page, page))?;
    works(
        "REMAP to the end",
        remap(at, page, top - 2 * page, 2 * page),
    )?;
    works("REMAP and back", remap(top - 2 * page, page, at, page))?;
    let mut sealed = Unmap {
        gpa: at + 4 * page,
        len: page,
        ..Unmap::new()
    };
    works("SEAL", ioctl_with(&guest.vm, uapi::SEAL, &mut sealed))?;
    let of_sealed = remap(at + 4 * page, page, free, page);
    fails("REMAP of what is sealed", of_sealed, EPERM)?;
    guest.vm.freeze().map_err(|e| e.to_string())?;
    fails("REMAP of a template", remap(at, page, free, page), EROFS)
}
