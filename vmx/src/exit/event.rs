// SPDX-License-Identifier: GPL-2.0

//! Interruption information: the event that caused an exit, or that one cut short.

/// How an event came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// An external interrupt.
    ExternalInterrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// An exception that the CPU raised.
    HardwareException,
    /// INT n.
    SoftwareInterrupt,
    /// INT1.
    PrivilegedSoftwareException,
    /// INT3 or INTO.
    SoftwareException,
    /// None of these.
    Other,
}

/// An event, as the fields for interruption information and for IDT vectoring describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The vector.
    pub vector: u8,
    /// How it came about; named so because `type` is a keyword.
    pub kind: EventType,
    /// There is an error code, and the field beside this one holds it.
    pub error_code_valid: bool,
    /// An IRET was under way that had ended the blocking of NMIs.
    pub nmi_unblocking: bool,
}

impl Event {
    /// The vector of debug exceptions.
    pub const DEBUG: u8 = 1;
    /// The vector of non-maskable interrupts.
    pub const NMI: u8 = 2;
    /// The vector of page faults.
    pub const PAGE_FAULT: u8 = 14;
    /// The vector of alignment checks, and of split locks where the host has them fault.
    pub const ALIGNMENT_CHECK: u8 = 17;
    /// The vector of machine checks.
    pub const MACHINE_CHECK: u8 = 18;

    /// Takes the field apart; [`None`] if it says that there is no event.
    pub const fn decode(field: u32) -> Option<Self> {
        if field & (1 << 31) == 0 {
            return None;
        }
        Some(Self {
            vector: field as u8,
            kind: match (field >> 8) & 7 {
                0 => EventType::ExternalInterrupt,
                2 => EventType::Nmi,
                3 => EventType::HardwareException,
                4 => EventType::SoftwareInterrupt,
                5 => EventType::PrivilegedSoftwareException,
                6 => EventType::SoftwareException,
                _ => EventType::Other,
            },
            error_code_valid: field & (1 << 11) != 0,
            nmi_unblocking: field & (1 << 12) != 0,
        })
    }

    /// Whether this is an NMI, which the host's handler has yet to see.
    pub const fn is_nmi(&self) -> bool {
        matches!(self.kind, EventType::Nmi)
    }

    /// Whether this is a machine check, which the host's handler has yet to see.
    pub const fn is_machine_check(&self) -> bool {
        matches!(self.kind, EventType::HardwareException) && self.vector == Self::MACHINE_CHECK
    }
}

/// What the manual calls the exception of a vector.
pub const fn exception_name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "NMI",
        3 => "breakpoint",
        4 => "overflow",
        5 => "BOUND range exceeded",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        9 => "coprocessor segment overrun",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point exception",
        20 => "virtualization exception",
        21 => "control protection",
        _ => "reserved exception",
    }
}
