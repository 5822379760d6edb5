// SPDX-License-Identifier: GPL-2.0

//! What the audit is told besides system calls: faults, and how processes end.

use uvisor_uapi::Prot;

use super::{End, Task};
use crate::audit::{Outlet, Verdict, Wall, What};
use crate::Exit;

impl Task {
    /// Where it is told what the task does, if anybody wants to know.
    #[inline]
    pub(super) fn reader(&self) -> Option<&Outlet> {
        self.audit.as_deref().filter(|outlet| outlet.is_on())
    }

    /// Tells what the hardware did not let through.
    #[inline]
    pub(super) fn tell_fault(&self, exit: Exit, rip: u64) {
        let Some(outlet) = self.reader() else {
            return;
        };
        if let Some((what, wall)) = refused(exit, rip) {
            outlet.tell_all(what, Verdict::Refused, None, None, Some(wall));
        }
    }

    /// Tells how the process ends.
    pub(super) fn tell_end(&self, end: &End) {
        let Some(outlet) = self.reader() else {
            return;
        };
        let (status, signal) = match end {
            End::Exit(status) => (Some((*status).into()), None),
            End::Signal(signal) | End::Fault(signal, _) => (None, Some(*signal)),
            End::MemoryLimit | End::ExitLimit => (None, Some(libc::SIGKILL)),
        };
        outlet.tell(What::Exit { status, signal });
    }
}

/// What an exit says that was refused, and by what.
fn refused(exit: Exit, rip: u64) -> Option<(What, Wall)> {
    let privileged = |exception: &str| {
        let exception = exception.to_owned();
        Some((What::Privileged { exception, rip }, Wall::Processor))
    };
    match exit {
        Exit::Memory { gpa, access, .. } => {
            let access = match access {
                access if access.contains(Prot::WRITE) => "write",
                access if access.contains(Prot::EXEC) => "execute",
                _ => "read",
            };
            let what = What::Violation {
                access: access.into(),
                address: gpa,
                rip,
            };
            Some((what, Wall::Ept))
        }
        Exit::Exception { vector: 13, .. } => privileged("#GP"),
        Exit::Exception { vector: 6, .. } => privileged("#UD"),
        Exit::Privileged { .. } | Exit::Hypercall { .. } => privileged("VM exit"),
        Exit::View { .. } => privileged("VMFUNC"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_do_by_mistake_is_not_told() {
        let exception = |vector| Exit::Exception {
            vector,
            error_code: 0,
            address: 0,
        };
        assert_eq!(refused(exception(0), 1), None);
        let (what, wall) = refused(exception(13), 1).unwrap();
        let exception = "#GP".to_owned();
        assert_eq!(what, What::Privileged { exception, rip: 1 });
        assert_eq!(wall, Wall::Processor);
    }
}
