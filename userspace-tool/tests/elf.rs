// SPDX-License-Identifier: GPL-2.0

//! The ELF loader on files that are not as they should be: it never panics, and always says what is
//! wrong.

use proptest::prelude::*;
use uvisor::loader::elf::{Elf, ElfError, Segment};
use uvisor::loader::plan::{plan, Step};
use uvisor::{Prot, PAGE_SIZE};

/// The end of the address space of a micro-VM with 39 bits.
const LIMIT: u64 = 511 << 30;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// The offsets of fields in the file header.
mod field {
    pub const CLASS: usize = 4;
    pub const DATA: usize = 5;
    pub const TYPE: usize = 16;
    pub const MACHINE: usize = 18;
    pub const VERSION: usize = 20;
    pub const ENTRY: usize = 24;
    pub const PHOFF: usize = 32;
    pub const PHENTSIZE: usize = 54;
    pub const PHNUM: usize = 56;
}

/// The offsets of fields in a program header.
mod part {
    pub const TYPE: usize = 0;
    pub const OFFSET: usize = 8;
    pub const VADDR: usize = 16;
    pub const FILESZ: usize = 32;
    pub const MEMSZ: usize = 40;
    pub const ALIGN: usize = 48;
}

/// Where the program header with this index is.
const fn program_header(index: usize) -> usize {
    HEADER + index * PROGRAM_HEADER
}

fn put16(file: &mut [u8], at: usize, value: u16) {
    file[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put32(file: &mut [u8], at: usize, value: u32) {
    file[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put64(file: &mut [u8], at: usize, value: u64) {
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// A program with an interpreter, text, and data with bss.
fn valid() -> Vec<u8> {
    const PT_LOAD: u32 = 1;
    const PT_INTERP: u32 = 3;
    const INTERPRETER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut file = vec![0; 0x1234];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    put16(&mut file, field::TYPE, 3);
    put16(&mut file, field::MACHINE, 62);
    put32(&mut file, field::VERSION, 1);
    put64(&mut file, field::ENTRY, 0x1100);
    put64(&mut file, field::PHOFF, HEADER as u64);
    put16(&mut file, 52, HEADER as u16);
    put16(&mut file, field::PHENTSIZE, PROGRAM_HEADER as u16);
    put16(&mut file, field::PHNUM, 4);
    let headers: [(u32, u32, u64, u64, u64, u64); 4] = [
        (PT_INTERP, 4, 0x200, 0x200, INTERPRETER.len() as u64, 0x1c),
        (PT_LOAD, 4, 0, 0, 0x800, 0x800),
        (PT_LOAD, 5, 0x1000, 0x1000, 0x200, 0x200),
        (PT_LOAD, 6, 0x1200, 0x2200, 0x34, 0x3000),
    ];
    for (index, (kind, flags, offset, address, size, memory)) in headers.into_iter().enumerate() {
        let at = program_header(index);
        put32(&mut file, at + part::TYPE, kind);
        put32(&mut file, at + 4, flags);
        put64(&mut file, at + part::OFFSET, offset);
        put64(&mut file, at + part::VADDR, address);
        put64(&mut file, at + part::FILESZ, size);
        put64(&mut file, at + part::MEMSZ, memory);
        put64(&mut file, at + part::ALIGN, 0x1000);
    }
    file[0x200..0x200 + INTERPRETER.len()].copy_from_slice(INTERPRETER);
    file
}

fn parse(file: &[u8]) -> Result<Elf, ElfError> {
    Elf::parse(file, LIMIT)
}

/// What must hold for everything that the parser accepts.
fn check(elf: &Elf, len: u64) {
    assert!(!elf.segments.is_empty());
    assert!(elf.align.is_power_of_two());
    let mut last = 0;
    for Segment {
        address,
        memory,
        offset,
        file,
        ..
    } in &elf.segments
    {
        assert!(*address >= last, "segments overlap");
        assert!(file <= memory && *memory > 0);
        last = address + memory;
        assert!(last <= LIMIT);
        if *file > 0 {
            assert!(offset + file <= len);
        }
    }
    let steps = plan(elf, 0).unwrap();
    let mut last = 0;
    for step in &steps {
        match *step {
            Step::File {
                gpa, len, offset, ..
            } => {
                assert!(gpa >= last && len > 0);
                assert_eq!((gpa % PAGE_SIZE, len % PAGE_SIZE), (0, 0));
                assert_eq!(offset % PAGE_SIZE, 0);
                last = gpa + len;
            }
            Step::Anonymous { gpa, len, .. } => {
                assert!(gpa >= last && len > 0);
                assert_eq!((gpa % PAGE_SIZE, len % PAGE_SIZE), (0, 0));
                last = gpa + len;
            }
            // In the last page of the file's part.
            Step::Zero { gpa, len } => {
                assert!(len < PAGE_SIZE);
                assert_eq!(gpa + len, last);
            }
        }
    }
}

#[test]
fn a_valid_file_is_read_right() {
    let elf = parse(&valid()).unwrap();
    check(&elf, 0x1234);
    assert!(elf.relocatable);
    assert_eq!(elf.entry, 0x1100);
    assert_eq!(elf.headers, 0x40);
    assert_eq!(elf.header_count, 4);
    assert_eq!(
        elf.interpreter.as_deref(),
        Some(&b"/lib64/ld-linux-x86-64.so.2"[..])
    );
    assert_eq!(elf.segments.len(), 3);
    assert_eq!(elf.segments[2].prot, Prot::READ | Prot::WRITE);
    assert_eq!(elf.span(), (0, 0x6000));
    assert!(!elf.executable_stack);
}

#[test]
fn truncation_at_every_length_is_an_error() {
    let file = valid();
    for len in 0..file.len() {
        match parse(&file[..len]) {
            Err(ElfError::NotElf) => assert!(len < 4, "{len}"),
            Err(ElfError::Truncated { end, len: told, .. }) => {
                assert_eq!(told, len as u64);
                assert!(end > told);
            }
            other => panic!("{len}: {other:?}"),
        }
    }
}

#[test]
fn no_changed_header_byte_does_harm() {
    let file = valid();
    for at in 0..program_header(4) {
        for value in 0..=255 {
            let mut file = file.clone();
            file[at] = value;
            match parse(&file) {
                Ok(elf) => check(&elf, file.len() as u64),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// The error of the valid file with one change.
fn error_of(change: impl FnOnce(&mut Vec<u8>)) -> ElfError {
    let mut file = valid();
    change(&mut file);
    parse(&file).unwrap_err()
}

#[test]
fn each_wrong_field_has_its_error() {
    let (text, data) = (program_header(2), program_header(3));
    assert_eq!(error_of(|f| f[0] = b'#'), ElfError::NotElf);
    assert_eq!(error_of(|f| f[field::CLASS] = 1), ElfError::Class(32));
    assert_eq!(error_of(|f| f[field::DATA] = 2), ElfError::BigEndian);
    assert_eq!(
        error_of(|f| put16(f, field::MACHINE, 183)),
        ElfError::Machine("AArch64".into())
    );
    assert_eq!(
        error_of(|f| put32(f, field::VERSION, 9)),
        ElfError::Version(9)
    );
    assert_eq!(
        error_of(|f| put16(f, field::TYPE, 1)),
        ElfError::Type("an object file")
    );
    assert_eq!(
        error_of(|f| put16(f, field::PHENTSIZE, 55)),
        ElfError::HeaderSize(55)
    );
    assert_eq!(
        error_of(|f| put16(f, field::PHNUM, 0)),
        ElfError::HeaderCount(0)
    );
    assert_eq!(
        error_of(|f| put16(f, field::PHNUM, 0xffff)),
        ElfError::HeaderCount(0xffff)
    );
    assert!(matches!(
        error_of(|f| put64(f, field::PHOFF, u64::MAX)),
        ElfError::Truncated { .. }
    ));
    assert_eq!(
        error_of(|f| put64(f, field::ENTRY, 0x2200)),
        ElfError::Entry(0x2200)
    );
    assert_eq!(
        error_of(|f| put64(f, data + part::FILESZ, 0x3001)),
        ElfError::FileExceedsMemory(3)
    );
    assert!(matches!(
        error_of(|f| put64(f, data + part::OFFSET, u64::MAX)),
        ElfError::Truncated { .. }
    ));
    assert_eq!(
        error_of(|f| put64(f, data + part::VADDR, 0x2201)),
        ElfError::Misaligned(3)
    );
    for address in [LIMIT + 0x200, u64::MAX - 0xdff, LIMIT - 0x2e00] {
        assert_eq!(
            error_of(|f| put64(f, data + part::VADDR, address)),
            ElfError::BeyondSpace(3)
        );
    }
    assert_eq!(
        error_of(|f| put64(f, data + part::MEMSZ, u64::MAX)),
        ElfError::BeyondSpace(3)
    );
    assert_eq!(
        error_of(|f| put64(f, data + part::VADDR, 0x1200)),
        ElfError::Overlap(3)
    );
    assert_eq!(
        error_of(|f| put64(f, text + part::ALIGN, 3)),
        ElfError::Alignment(2, 3)
    );
    assert_eq!(error_of(|f| f[0x21b] = b'x'), ElfError::Interpreter);
    assert_eq!(error_of(|f| f[0x200] = 0), ElfError::Interpreter);
    assert_eq!(
        error_of(|f| {
            for index in 1..4 {
                put32(f, program_header(index), 0);
            }
        }),
        ElfError::NothingToLoad
    );
}

#[test]
fn errors_tell_people_what_is_wrong() {
    let text = error_of(|f| f.truncate(0x1210)).to_string();
    assert_eq!(
        text,
        "the ELF file is truncated: segments end at byte 4660, the file at byte 4624"
    );
    let text = error_of(|f| put16(f, field::MACHINE, 40)).to_string();
    assert_eq!(
        text,
        "a program for 32-bit ARM; this machine runs x86-64 programs"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_do_no_harm(file in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(parse(&file).is_err());
    }

    #[test]
    fn random_headers_do_no_harm(
        bytes in proptest::collection::vec(any::<u8>(), program_header(4) - field::TYPE),
    ) {
        let mut file = valid();
        file[field::TYPE..program_header(4)].copy_from_slice(&bytes);
        put16(&mut file, field::TYPE, 2);
        put16(&mut file, field::MACHINE, 62);
        put32(&mut file, field::VERSION, 1);
        put64(&mut file, field::PHOFF, HEADER as u64);
        put16(&mut file, field::PHENTSIZE, PROGRAM_HEADER as u16);
        put16(&mut file, field::PHNUM, 4);
        if let Ok(elf) = parse(&file) {
            check(&elf, file.len() as u64);
        }
    }

    #[test]
    fn several_changes_do_no_harm(
        changes in proptest::collection::vec((0..program_header(4), any::<u8>()), 1..6),
    ) {
        let mut file = valid();
        for (at, value) in changes {
            file[at] = value;
        }
        if let Ok(elf) = parse(&file) {
            check(&elf, file.len() as u64);
        }
    }
}
