// SPDX-License-Identifier: GPL-2.0

//! What is measured of machines and of their memory, with the most ticks that it may take.

use uvisor_tests::bench::report::{Bar, Work};

pub const CREATE: Work = Work::within("create to first guest instruction", 120_000);
pub const DESTROY: Work = Work::within("destroy", 200_000);
pub const KERNEL_EXIT: Work = Work::within("exit handled in the kernel (CPUID)", 400);
/// The figure of KVM's that this bar was set by is one without mitigations, and so is the bar.
pub const USER_EXIT: Work = Work {
    name: "exit to user space and back",
    bar: Bar::Unmitigated(1_300),
};
pub const TOUCH_ANONYMOUS: Work = Work::shown("first touch of an anonymous page");
pub const TOUCH_FILE: Work = Work::shown("first touch of a file page");
pub const VIEW_VMFUNC: Work = Work::within("switch of views by VMFUNC", 20);
pub const VIEW_HYPERCALL: Work = Work::within("switch of views by hypercall", 450);

/// What is measured of the clones of one template.
pub struct OfClones {
    pub clone: Work,
    pub destroy: Work,
    pub reset: Work,
    pub copy: Work,
}

/// A template of 16 MiB.
pub const SMALL: OfClones = OfClones {
    clone: Work::within("clone (fork; KVM: build), 16 MiB", 60_000),
    destroy: Work::within("destroy a clone, 16 MiB", 60_000),
    reset: Work::within("reset after 10 pages, 16 MiB", 40_000),
    copy: Work::within("copy-on-write of a page, 16 MiB", 2_500),
};

/// A template of 1 GiB.
pub const LARGE: OfClones = OfClones {
    clone: Work::within("clone (fork; KVM: build), 1 GiB", 60_000),
    destroy: Work::within("destroy a clone, 1 GiB", 60_000),
    reset: Work::within("reset after 10 pages, 1 GiB", 40_000),
    copy: Work::within("copy-on-write of a page, 1 GiB", 2_500),
};
