// SPDX-License-Identifier: GPL-2.0

//! The exit qualification of an EPT violation.

/// What the guest tried to do to the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A data read, or the read of a page-table entry.
    Read,
    /// A data write, or the update of a page-table entry.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// What the exit qualification says of an EPT violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EptViolation {
    /// The access was a read, or part of a page walk, which always reads.
    pub read: bool,
    /// The access was a write, or the page walk wanted to write to the entry.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// There is a guest-linear address, and the VMCS holds it.
    pub linear_valid: bool,
    /// The access was to the page that the linear address stands for; if clear, it was to a
    /// page-table entry on the way there.
    pub of_linear: bool,
    /// The EPT entries allow reading.
    pub may_read: bool,
    /// The EPT entries allow writing.
    pub may_write: bool,
    /// The EPT entries allow execution.
    pub may_execute: bool,
    /// An IRET was under way that had ended the blocking of NMIs.
    pub nmi_unblocking: bool,
}

impl EptViolation {
    /// Takes the exit qualification apart.
    ///
    /// Bits 6 and 13 are not looked at: they only mean something with mode-based execution and with
    /// supervisor shadow stacks, neither of which micro-VMs use, and not every implementation keeps
    /// them apart.
    pub const fn decode(qualification: u64) -> Self {
        /// Whether a bit is set.
        const fn has(word: u64, mask: u64) -> bool {
            word & mask != 0
        }

        let linear_valid = has(qualification, 1 << 7);
        // Bit 8 means nothing without a linear address.
        let of_linear = linear_valid && has(qualification, 1 << 8);
        let walk = linear_valid && !of_linear;
        Self {
            // A walk reads whatever else it does, but with accessed and dirty bits in use some
            // implementations report only the write that it counts as.
            read: has(qualification, 1 << 0) || walk,
            write: has(qualification, 1 << 1),
            fetch: has(qualification, 1 << 2) && !walk,
            linear_valid,
            of_linear,
            may_read: has(qualification, 1 << 3),
            may_write: has(qualification, 1 << 4),
            may_execute: has(qualification, 1 << 5),
            nmi_unblocking: has(qualification, 1 << 12),
        }
    }

    /// Whether the CPU was walking the guest's page tables.
    pub const fn is_walk(&self) -> bool {
        self.linear_valid && !self.of_linear
    }

    /// The permission that has to be there for the access to succeed.
    ///
    /// Where an access both reads and writes, it is the write: memory that can be written can be read.
    pub const fn access(&self) -> Access {
        if self.write {
            Access::Write
        } else if self.fetch {
            Access::Fetch
        } else {
            Access::Read
        }
    }

    /// Whether there is no EPT entry for the address, as against one that forbids the access.
    pub const fn is_unmapped(&self) -> bool {
        !self.may_read && !self.may_write && !self.may_execute
    }
}
