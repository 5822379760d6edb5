// SPDX-License-Identifier: GPL-2.0

//! Clones of a template, beside `fork` of a process with as much memory.

use std::time::Duration;

use uvisor::{Prot, Vcpu, Vm};

use crate::machine::{Figure, Machine, Program, CHUNK, PAGE};
use crate::native::Memory;
use crate::uv::{MicroVm, System};
use uvisor_tests::bench::measure::{time, Laps, Samples, Summary};

/// Where the template's memory is.
const HEAP: u64 = 1 << 32;
/// How many pages a clone changes before it is reset.
const DIRTY: u64 = 10;

/// What is measured of a template's clones.
pub struct Clones {
    pub clone: Figure,
    pub destroy: Figure,
    pub reset: Figure,
    pub copy: Figure,
}

/// Measures clones of a template with `bytes` of memory that was touched.
pub fn of_template(system: &System, bytes: u64, count: usize) -> Clones {
    let mut template = MicroVm::create(system, &mut Laps::new());
    let rw = Prot::READ | Prot::WRITE;
    template.vm.map_anonymous(HEAP, bytes, rw).expect("memory");
    template.start(Program::Write, HEAP, bytes / PAGE);
    template.run();
    template.start(Program::Leave, 0, 0);
    template.vm.freeze().expect("FREEZE");

    let mut totals = [(); 3].map(|()| Samples::with_capacity(count));
    let mut last = None;
    for round in 0..count + 4 {
        std::thread::sleep(Duration::from_millis(5));
        let mut clone = None;
        let made = time(|| {
            let vm: Vm = template.vm.share(0).expect("CLONE");
            let vcpu: Vcpu = vm.create_vcpu_from(&template.vcpu).expect("VCPU_CREATE");
            let mut machine = MicroVm { vm, vcpu };
            machine.run();
            clone = Some(machine);
        });
        let mut clone = clone.expect("a clone");
        let events = clone.events();
        clone.start(Program::Write, HEAP, DIRTY);
        clone.run();
        let before = clone.events();
        let mut pages = 0;
        let reset = time(|| {
            pages = clone.vm.reset().expect("RESET");
            clone.vcpu.reset().expect("VCPU_RESET");
        });
        assert_eq!(pages, DIRTY, "pages given back");
        let of_reset = clone.events().since(&before);
        let holds = clone.holds();
        let gone = time(|| clone.destroy(&mut Laps::new()));
        last = Some([events, holds, of_reset]);
        if round >= 4 {
            for (samples, ticks) in totals.iter_mut().zip([made, gone, reset]) {
                samples.push(ticks);
            }
        }
    }
    let [events, holds, of_reset] = last.expect("a round");
    let [made, gone, reset] = totals.map(Samples::summary);
    Clones {
        clone: Figure {
            summary: made,
            events,
        },
        destroy: Figure {
            summary: gone,
            events: holds,
        },
        reset: Figure {
            summary: reset,
            events: of_reset,
        },
        copy: copy(&template),
    }
}

/// Copy-on-write of a page: what a run that writes to pages in common takes more than the next one, in a
/// table that is copied already.
fn copy(template: &MicroVm) -> Figure {
    const ROUNDS: u64 = 42;
    let vm = template.vm.share(0).expect("CLONE");
    let vcpu = vm.create_vcpu_from(&template.vcpu).expect("VCPU_CREATE");
    let mut clone = MicroVm { vm, vcpu };
    let mut all = Samples::with_capacity(ROUNDS as usize);
    let mut events = Default::default();
    for round in 0..ROUNDS {
        let table = HEAP + (round << 21 & 0xff_ffff);
        let address = table + (round >> 3) * CHUNK * PAGE + PAGE;
        // The tables are copied by a write to another page of theirs.
        clone.start(Program::Write, table, 1);
        clone.run();
        let before = clone.events();
        clone.start(Program::Write, address, CHUNK - 1);
        let first = time(|| clone.run());
        let middle = clone.events();
        clone.start(Program::Write, address, CHUNK - 1);
        let second = time(|| clone.run());
        let after = clone.events();
        all.push(first.saturating_sub(second) / (CHUNK - 1));
        events = middle
            .since(&before)
            .since(&after.since(&middle))
            .per(CHUNK - 1);
    }
    Figure {
        summary: all.summary(),
        events,
    }
}

/// `fork`, `_exit` and `waitpid` of this process with so much memory more.
pub fn fork(bytes: u64, count: usize) -> Summary {
    let mut memory = Memory::map(bytes, None);
    for page in 0..bytes / PAGE {
        memory.write((page * PAGE) as usize, &[1]);
    }
    (0..count)
        .map(|_| {
            time(|| {
                // SAFETY: The child ends at once; nothing else is done in it.
                unsafe {
                    let child = libc::fork();
                    if child == 0 {
                        libc::_exit(0);
                    }
                    assert_eq!(libc::waitpid(child, std::ptr::null_mut(), 0), child);
                }
            })
        })
        .collect::<Samples>()
        .summary()
}
