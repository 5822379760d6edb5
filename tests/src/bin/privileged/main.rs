// SPDX-License-Identifier: GPL-2.0

//! What a kernel could do to the machine, tried from ring 3 and from ring 0: each ends in an exit
//! that says what it was, the vCPU runs again, and nothing happened to the host.

mod cases;
mod cpuid;
mod host;
mod rings;

use uvisor::Exit;
use uvisor_tests::kernel::{enter, Kernel};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Tap, CODE};

use cases::{Case, Wanted, Wanted::*, CASES};

code! { resumed: "mov $0x123456789abc, %rax", "vmcall" }

/// Whether an exit is the one that is wanted.
fn matches(exit: Exit, wanted: Wanted) -> bool {
    let exception = |v, c| matches!(exit, Exit::Exception { vector, error_code, .. } if vector == v && error_code == c);
    let left = |r| matches!(exit, Exit::Privileged { reason, .. } if reason == r);
    match wanted {
        Continue | Hypercall => matches!(exit, Exit::Hypercall { .. }),
        Exception(vector, code) => exception(vector, code),
        Vector(v) => matches!(exit, Exit::Exception { vector, .. } if vector == v),
        Exit(reason) => left(reason),
        ExitOrUd(reason) => left(reason) || exception(6, 0),
        ExitOrGp(reason) => left(reason) || exception(13, 0),
        ContinueOrGp => matches!(exit, Exit::Hypercall { .. }) || exception(13, 0),
        UdOrGp => exception(6, 0) || exception(13, 0),
        Halt => exit == Exit::Halt,
        With(_, wanted) => matches(exit, *wanted),
    }
}

/// Runs a case in a ring; then the vCPU must run on as if nothing had been.
fn run(case: &Case, ring: u64, wanted: Wanted) -> Outcome {
    let (code, wanted) = ((case.code)(), wanted.here());
    let mut guest = Kernel::new(code, ring);
    let base = guest.vcpu.regs().rip;
    guest.vcpu.regs_mut().r15 = 0x1505_1505_1505_1505;
    let what = format!("ring {ring}: {} ({})", case.name, case.text);
    let exit = guest.vcpu.run().map_err(|e| format!("{what}: {e}"))?;
    let regs = *guest.vcpu.regs();
    check(
        &format!(
            "{what}: {exit:x?}, wanted {wanted:x?}, at +{:#x}",
            regs.rip.wrapping_sub(base)
        ),
        matches(exit, wanted),
    )?;
    equal(&format!("{what}: r15"), regs.r15, 0x1505_1505_1505_1505)?;
    equal(&format!("{what}: ring"), regs.cpl, ring)?;
    equal(&format!("{what}: IF"), regs.rflags & 0x200, 0x200)?;
    equal(
        &format!("{what}: IOPL, NT as documented"),
        regs.rflags & 0x7000 & !0x7000,
        0,
    )?;
    let at = regs.rip.wrapping_sub(base);
    if matches!(wanted, Continue) {
        equal(
            &format!("{what}: rip"),
            &code[at as usize..],
            &[0x0f, 0x01, 0xc1, 0xf4][..],
        )?;
    }
    // The same vCPU, in the other ring and back.
    for ring in [3 - ring, ring] {
        again(&mut guest, ring).map_err(|e| format!("{what}: afterwards: {e}"))?;
    }
    Ok(())
}

/// Runs something harmless on the vCPU.
pub(crate) fn again(guest: &mut Kernel, ring: u64) -> Outcome {
    guest.vm.unmap(CODE, 0x1000).map_err(|e| e.to_string())?;
    uvisor_tests::guest::load(&guest.vm, CODE, resumed());
    enter(&mut guest.vcpu, ring);
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    equal("exit", exit, Exit::Hypercall { ring })?;
    equal("rax", guest.vcpu.regs().rax, 0x1234_5678_9abc)
}

fn main() {
    let mut tap = Tap::new();
    uvisor_tests::host::pin_to_cpu(0);
    let loaded = std::process::Command::new("modprobe")
        .arg("msr")
        .status()
        .is_ok_and(|s| s.success());
    let before = (host::host_msrs(), host::warnings());
    for case in CASES {
        tap.test(
            &format!("{}: {}", case.name.trim_end_matches('_'), case.text),
            || {
                let outcomes = [run(case, 3, case.ring3), run(case, 0, case.ring0)];
                let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
                if errors.is_empty() {
                    Ok(())
                } else {
                    Err(errors.join("\n"))
                }
            },
        );
    }
    tap.test(
        "page faults tell their address and code",
        rings::page_faults,
    );
    tap.test("ring 0 reads nothing of the host", rings::leaks);
    tap.test(
        "SWAPGS exchanges the bases of the register file",
        rings::swapgs,
    );
    tap.test("a counter that is not to be read exits", rings::no_counter);
    tap.test("32-bit code and back", rings::compatibility_mode);
    tap.test("CPUID at the end of 32-bit code", rings::end_of_32_bits);
    let bounded = "CLI and an endless loop are bounded";
    if uvisor_tests::host::machine().as_deref() == Some("nested") {
        // KVM, which bounds the stay here, needs an interrupt for it. On a CPU, and in Bochs alone,
        // where the preemption timer ends the stay, the test is run.
        let why = "the Bochs below KVM holds interrupts back as long as a guest does";
        tap.skip(bounded, why);
    } else {
        tap.test(bounded, rings::no_interrupts);
    }
    tap.test("CPUID tells what a task may see", cpuid::cpuid);
    if loaded {
        tap.test("the host's MSRs are as before", || {
            let (then, now) = (before.0.clone()?, host::host_msrs()?);
            check("some can be read", then.len() > 5)?;
            equal("MSRs", now, then)
        });
    } else {
        tap.skip("the host's MSRs are as before", "there is no msr module");
    }
    tap.test("the kernel did not complain", || {
        equal("warnings", host::warnings()?, before.1.clone()?)
    });
    tap.finish();
}
