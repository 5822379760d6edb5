// SPDX-License-Identifier: GPL-2.0

//! What a guest may do with its memory.

use uvisor::{Exit, Features, MemoryCause, Prot, PAGE_SIZE};
use uvisor_tests::code;
use uvisor_tests::guest::has;
use uvisor_tests::host::memory_file;
use uvisor_tests::tap::{check, equal, Outcome};

use crate::machine::{Fetch, Machine, Read, Write, AT};

// In a region that is fetched from.
code! { here: "vmcall", "hlt" }

/// Every combination of permission and access, anonymous and of a file, mapped so or changed to it.
pub(crate) fn matrix() -> Outcome {
    let mut machine = Machine::new();
    let exec_only = has(Features::EXEC_ONLY);
    let file = memory_file(here());
    let mut tried = 0;
    for prot in (0..8).map(Prot::from_bits_truncate) {
        let write_only = prot.contains(Prot::WRITE) && !prot.contains(Prot::READ);
        if write_only || (prot == Prot::EXEC && !exec_only) {
            continue;
        }
        for (of_file, later) in [(false, false), (false, true), (true, false), (true, true)] {
            let first = if later {
                Prot::READ | Prot::WRITE
            } else {
                prot
            };
            if of_file {
                machine.map_file(AT, 1, first, &file, 0)?;
            } else {
                machine.map(AT, 1, first)?;
            }
            if later {
                // Present, and with every permission that can go.
                machine.write(AT, u64::from_le_bytes(*b"\x0f\x01\xc1\xf4\0\0\0\0"))?;
                machine.protect(AT, 1, prot)?;
            }
            for access in [Read, Fetch, Write, Read] {
                let what = format!("{access:?} of {prot:?}, file: {of_file}, PROTECT: {later}");
                let result = if !prot.contains(access.prot()) {
                    machine.refused(access, AT, MemoryCause::Denied)
                } else if access == Fetch {
                    let (exit, _) = machine.access(access, AT, 0)?;
                    // Zeros are `add %al, (%rax)`, and RAX is 0, where nothing is.
                    let zeros = matches!(exit, Exit::Memory { gpa: 0, .. });
                    let ok = if of_file || later {
                        exit == Exit::Hypercall { ring: 3 }
                    } else {
                        zeros
                    };
                    check(&format!("{exit:x?}"), ok)
                } else {
                    let (exit, _) = machine.access(access, AT, 0)?;
                    equal("exit", exit, Exit::Hypercall { ring: 3 })
                };
                result.map_err(|e| format!("{what}: {e}"))?;
                tried += 1;
            }
            machine.unmap(AT, 1)?;
        }
    }
    check("all of them were tried", tried >= 5 * 4 * 4)
}

/// Accesses that lie in two pages.
pub(crate) fn crossing() -> Outcome {
    let mut machine = Machine::new();
    let edge = AT + PAGE_SIZE;
    machine.map(AT, 2, Prot::READ | Prot::WRITE)?;
    machine.write(edge - 3, 0x1122_3344_5566_7788)?;
    equal("both pages", machine.read(edge - 3)?, 0x1122_3344_5566_7788)?;
    equal(
        "the second",
        machine.read(edge)? & 0xff_ffff_ffff,
        0x11_2233_4455,
    )?;
    machine.protect(edge, 1, Prot::READ)?;
    machine.refused_at(Write, edge - 3, edge, MemoryCause::Denied)?;
    equal(
        "nothing was written",
        machine.read(edge - 3)?,
        0x1122_3344_5566_7788,
    )?;
    machine.unmap(edge, 1)?;
    machine.refused_at(Read, edge - 1, edge, MemoryCause::Unmapped)?;
    machine.refused_at(Read, AT - 1, AT - 1, MemoryCause::Unmapped)?;
    equal("the first", machine.read(edge - 8)? >> 40, 0x66_7788)
}

/// Permission taken and given while the page is in use, and parts of a region.
pub(crate) fn protect_and_unmap() -> Outcome {
    let mut machine = Machine::new();
    machine.map(AT, 8, Prot::READ | Prot::WRITE)?;
    for page in 0..8 {
        machine.write(AT + page * PAGE_SIZE, 100 + page)?;
    }
    let page = |n: u64| AT + n * PAGE_SIZE;
    machine.protect(page(2), 2, Prot::READ)?;
    machine.protect(page(5), 1, Prot::empty())?;
    machine.unmap(page(6), 1)?;
    equal(
        "regions",
        machine.stats()?.regions - Machine::new().stats()?.regions,
        5,
    )?;
    machine.refused(Write, page(2), MemoryCause::Denied)?;
    machine.refused(Write, page(3), MemoryCause::Denied)?;
    machine.refused(Read, page(5), MemoryCause::Denied)?;
    machine.refused(Read, page(6), MemoryCause::Unmapped)?;
    for n in [0, 1, 2, 3, 4, 7] {
        equal(&format!("page {n}"), machine.read(page(n))?, 100 + n)?;
    }
    for n in [0, 1, 4, 7] {
        machine.write(page(n), 200 + n)?;
    }
    machine.protect(page(0), 6, Prot::READ | Prot::WRITE)?;
    equal("kept without permission", machine.read(page(5))?, 105)?;
    machine.write(page(2), 202)?;
    equal("written again", machine.read(page(2))?, 202)?;
    machine.map(page(6), 1, Prot::READ)?;
    equal("mapped anew", machine.read(page(6))?, 0)?;
    let private = machine.stats()?.private;
    machine.unmap(AT, 8)?;
    equal(
        "given back",
        private - machine.stats()?.private,
        8 * PAGE_SIZE,
    )
}
