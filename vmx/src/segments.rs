// SPDX-License-Identifier: GPL-2.0

//! The guest's segments: flat, 64-bit, and all it will ever have.
//!
//! The guest has no GDT and no IDT (their limits are 0). SYSCALL and SYSRET load fixed segments by
//! themselves, from selectors that only look like those of Linux; anything else that would load a
//! segment faults, and every fault exits.

/// The shim's code segment.
pub const KERNEL_CS: u16 = 0x10;
/// The shim's stack segment; SYSCALL makes it of [`KERNEL_CS`].
pub const KERNEL_SS: u16 = 0x18;
/// The task's code segment, as Linux has it.
pub const USER_CS: u16 = 0x33;
/// The task's stack segment, as Linux has it.
pub const USER_SS: u16 = 0x2b;
/// The task's DS, ES, FS and GS: null, as Linux has them.
pub const USER_DATA: u16 = 0;
/// The task register's selector: as in Linux, though there is no GDT behind it.
pub const TR: u16 = 0x40;
/// The LDT's selector: there is none.
pub const LDTR: u16 = 0;

/// `IA32_STAR`: SYSCALL takes [`KERNEL_CS`] from bits 32 to 47; SYSRET to 64-bit mode takes
/// [`USER_CS`] as 16 and [`USER_SS`] as 8 above bits 48 to 63.
pub const STAR: u64 = ((KERNEL_CS as u64) << 32) | ((USER_CS as u64 - 16) << 48);

/// The limit of a flat segment.
pub const FLAT_LIMIT: u32 = u32::MAX;
/// The limit of the TSS.
///
/// It has no room for an I/O bitmap, so an IN in ring 3 faults without looking into the guest's memory.
pub const TR_LIMIT: u32 = 0;
/// The limit of the GDT and of the IDT.
pub const TABLE_LIMIT: u32 = 0;

/// Type: code, execute and read, accessed.
const TYPE_CODE: u32 = 0xb;
/// Type: data, read and write, accessed.
const TYPE_DATA: u32 = 0x3;
/// Type: a busy TSS of 64 bits. VM entry accepts no other.
const TYPE_BUSY_TSS: u32 = 0xb;
/// Code or data, not a system segment.
const CODE_OR_DATA: u32 = 1 << 4;
/// The segment's privilege level, ring 3.
const RING3: u32 = 3 << 5;
/// The segment is present.
const PRESENT: u32 = 1 << 7;
/// 64-bit code.
const LONG: u32 = 1 << 13;
/// A big stack segment.
const BIG: u32 = 1 << 14;
/// The limit counts pages.
const GRANULARITY: u32 = 1 << 15;

/// Access rights of 64-bit code in ring 0.
pub const KERNEL_CODE_RIGHTS: u32 = TYPE_CODE | CODE_OR_DATA | PRESENT | LONG | GRANULARITY;
/// Access rights of flat data in ring 0.
pub const KERNEL_DATA_RIGHTS: u32 = TYPE_DATA | CODE_OR_DATA | PRESENT | BIG | GRANULARITY;
/// Access rights of 64-bit code in ring 3.
pub const USER_CODE_RIGHTS: u32 = KERNEL_CODE_RIGHTS | RING3;
/// Access rights of flat data in ring 3.
pub const USER_DATA_RIGHTS: u32 = KERNEL_DATA_RIGHTS | RING3;
/// Access rights of the TSS.
pub const TSS_RIGHTS: u32 = TYPE_BUSY_TSS | PRESENT;
/// Access rights of a segment that does not exist: LDTR, and null data segments.
pub const UNUSABLE: u32 = 1 << 16;
