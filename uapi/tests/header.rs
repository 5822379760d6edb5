// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! The C header is compiled, and must say what the Rust types say.

use std::fmt::Write as _;
use std::process::Command;

use memoffset::offset_of;
use uvisor_uapi as uapi;

#[path = "../examples/header.rs"]
mod header;

/// Writes `_Static_assert`s for the size of a structure and the offset of each field.
macro_rules! layout {
    ($text:ident, $c:literal, $type:ident { $($field:ident $(= $name:literal)?),* $(,)? }) => {
        let size = size_of::<uapi::$type>();
        writeln!($text, "_Static_assert(sizeof(struct {}) == {size}, \"size of {}\");", $c, $c).unwrap();
        $(
            let offset = offset_of!(uapi::$type, $field);
            #[allow(unused_variables)]
            let name = stringify!($field);
            $(let name = $name;)?
            writeln!(
                $text,
                "_Static_assert(offsetof(struct {}, {name}) == {offset}, \"{}.{name}\");",
                $c, $c
            )
            .unwrap();
        )*
    };
}

#[test]
fn header_says_what_rust_says() {
    let mut c = String::from("#include <stddef.h>\n#include \"uvisor.h\"\n");
    layout!(
        c,
        "uvisor_info",
        Info {
            size,
            flags,
            abi_version,
            gpa_bits,
            features,
            mitigations,
            max_vcpus,
            max_regions,
            vms,
            memory,
            xcr0,
            tsc_khz,
        }
    );
    layout!(
        c,
        "uvisor_vm_create",
        VmCreate {
            size,
            flags,
            memory_limit
        }
    );
    layout!(
        c,
        "uvisor_map",
        Map {
            size,
            flags,
            gpa,
            len,
            prot,
            fd,
            offset
        }
    );
    layout!(
        c,
        "uvisor_remap",
        Remap {
            size,
            flags,
            gpa,
            len,
            new_gpa,
            new_len
        }
    );
    layout!(
        c,
        "uvisor_unmap",
        Unmap {
            size,
            flags,
            gpa,
            len
        }
    );
    layout!(
        c,
        "uvisor_protect",
        Protect {
            size,
            flags,
            gpa,
            len,
            prot,
            reserved
        }
    );
    layout!(
        c,
        "uvisor_limits",
        Limits {
            size,
            flags,
            memory_limit
        }
    );
    layout!(
        c,
        "uvisor_vcpu_create",
        VcpuCreate {
            size,
            flags,
            cr3,
            syscall_entry,
            syscall_mask,
            source,
            reserved
        }
    );
    layout!(
        c,
        "uvisor_clone_vm",
        CloneVm {
            size,
            flags,
            memory_limit
        }
    );
    layout!(c, "uvisor_reset", Reset { size, flags, pages });
    layout!(
        c,
        "uvisor_diff",
        Diff {
            size,
            flags,
            start,
            ranges,
            count,
            reserved
        }
    );
    layout!(
        c,
        "uvisor_view_create",
        ViewCreate {
            size,
            flags,
            prot,
            reserved
        }
    );
    layout!(
        c,
        "uvisor_view_protect",
        ViewProtect {
            size,
            flags,
            gpa,
            len,
            view,
            prot
        }
    );
    layout!(
        c,
        "uvisor_view_destroy",
        ViewDestroy {
            size,
            flags,
            view,
            reserved
        }
    );
    layout!(
        c,
        "uvisor_list",
        List {
            size,
            flags,
            entries,
            count,
            entry_size,
            total
        }
    );
    layout!(
        c,
        "uvisor_list_entry",
        ListEntry {
            id,
            parent,
            pid,
            uid,
            flags,
            vcpus,
            private = "private_",
            shared,
            tables,
            charged
        }
    );
    layout!(c, "uvisor_stats", Stats {
        size, flags, private = "private_", file, tables, memory_limit, regions, vcpus, events,
        shared, charged,
    });
    layout!(
        c,
        "uvisor_regs",
        Regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rbp,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
            fs_base,
            gs_base,
            kernel_gs_base,
            cpl,
            view,
        }
    );
    layout!(
        c,
        "uvisor_exit",
        Exit {
            reason,
            insn_len,
            info,
            code,
            address,
            linear
        }
    );
    layout!(
        c,
        "uvisor_run_page",
        RunPage {
            immediate_exit,
            flags,
            regs,
            exit,
            reserved
        }
    );
    for (name, value) in [
        ("UVISOR_INFO", uapi::INFO),
        ("UVISOR_VM_CREATE", uapi::VM_CREATE),
        ("UVISOR_LIST", uapi::LIST),
        ("UVISOR_LIST_FROZEN", uapi::ListFlags::FROZEN.bits()),
        ("UVISOR_MAP", uapi::MAP),
        ("UVISOR_UNMAP", uapi::UNMAP),
        ("UVISOR_PROTECT", uapi::PROTECT),
        ("UVISOR_STATS", uapi::STATS),
        ("UVISOR_LIMITS", uapi::LIMITS),
        ("UVISOR_VCPU_CREATE", uapi::VCPU_CREATE),
        ("UVISOR_CLONE", uapi::CLONE),
        ("UVISOR_FREEZE", uapi::FREEZE),
        ("UVISOR_RESET", uapi::RESET),
        ("UVISOR_DISCARD", uapi::DISCARD),
        ("UVISOR_DIFF", uapi::DIFF),
        ("UVISOR_SEAL", uapi::SEAL),
        ("UVISOR_REMAP", uapi::REMAP),
        ("UVISOR_VIEW_CREATE", uapi::VIEW_CREATE),
        ("UVISOR_VIEW_PROTECT", uapi::VIEW_PROTECT),
        ("UVISOR_VIEW_DESTROY", uapi::VIEW_DESTROY),
        ("UVISOR_MAX_VIEWS", uapi::MAX_VIEWS),
        ("UVISOR_VM_W_XOR_X", uapi::VmFlags::W_XOR_X.bits()),
        ("UVISOR_VM_NO_TSC", uapi::VmFlags::NO_TSC.bits()),
        ("UVISOR_CLONE_JOINT", uapi::CloneFlags::JOINT.bits()),
        ("UVISOR_CLONE_EMPTY", uapi::CloneFlags::EMPTY.bits()),
        ("UVISOR_VIEW_GUEST", uapi::ViewFlags::GUEST.bits()),
        ("UVISOR_EXIT_REASON_VIEW", uapi::ExitReason::View as u32),
        ("UVISOR_VIEW_CAUSE_GONE", uapi::ViewCause::Gone as u32),
        ("UVISOR_VCPU_RESET", uapi::VCPU_RESET),
        ("UVISOR_VCPU_SOURCE", uapi::VcpuFlags::SOURCE.bits()),
        ("UVISOR_RUN", uapi::RUN),
        ("UVISOR_KICK", uapi::KICK),
        ("UVISOR_EXIT_REASON_HALT", uapi::ExitReason::Halt as u32),
        ("UVISOR_MEMORY_CAUSE_LIMIT", uapi::MemoryCause::Limit as u32),
        ("UVISOR_EVENT_IBPB", uapi::Event::Ibpb as u32),
        ("UVISOR_PROT_EXEC", uapi::Prot::EXEC.bits()),
        ("UVISOR_MAP_FILE", uapi::MapFlags::FILE.bits()),
        ("UVISOR_RUN_RESET_FPU", uapi::RunFlags::RESET_FPU.bits()),
    ] {
        writeln!(c, "_Static_assert({name} == {value}, \"{name}\");").unwrap();
    }
    let (name, value) = ("UVISOR_HYPERCALL_SWITCH_VIEW", uapi::HYPERCALL_SWITCH_VIEW);
    writeln!(c, "_Static_assert({name} == {value}ULL, \"{name}\");").unwrap();
    c.push_str("int main(void) { return sizeof(UVISOR_DEVICE) == 1; }\n");

    let dir = std::env::temp_dir().join(format!("uvisor-header-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("uvisor.h"), header::header().unwrap()).unwrap();
    std::fs::write(dir.join("layout.c"), &c).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let output = Command::new(&compiler)
        .args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsyntax-only",
            "layout.c",
        ])
        .current_dir(&dir)
        .output()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    let seen = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{seen}\n{c}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn events_have_names_in_order() {
    assert_eq!(uapi::Event::NAMES.len(), uapi::EVENTS);
    assert_eq!(uapi::Event::Served as usize, uapi::EVENTS - 1);
    assert_eq!(
        uapi::Event::NAMES[uapi::Event::ExitCpuid as usize],
        "exits_cpuid"
    );
}
