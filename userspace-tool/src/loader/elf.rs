// SPDX-License-Identifier: GPL-2.0

//! Reading an ELF file as the kernel does, with every number checked.

use object::elf::{self, FileHeader64, ProgramHeader64};
use object::{pod, LittleEndian};
use thiserror::Error;
use uvisor_uapi::{Prot, PAGE_SIZE};

use crate::layout::{page_down, page_up};

/// The most bytes of program headers that the kernel reads.
const MAX_HEADERS: u64 = 65536;

/// The longest path of an interpreter, with its NUL.
const MAX_INTERPRETER: u64 = 4096;

/// Why a file is not a program that can run here.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ElfError {
    #[error("not an ELF file")]
    NotElf,
    #[error("the ELF file is truncated: {what} end at byte {end}, the file at byte {len}")]
    Truncated {
        what: &'static str,
        end: u64,
        len: u64,
    },
    #[error("a {0}-bit program; only 64-bit programs run in a micro-VM")]
    Class(u32),
    #[error("a program for {0}; this machine runs x86-64 programs")]
    Machine(String),
    #[error("a big-endian program; this machine is little-endian")]
    BigEndian,
    #[error("ELF version {0} is not known")]
    Version(u32),
    #[error("not a program: {0}")]
    Type(&'static str),
    #[error("the ELF header says that a program header has {0} bytes; it has 56")]
    HeaderSize(u16),
    #[error("the ELF header says that there are {0} program headers; 1 to 1170 are possible")]
    HeaderCount(u16),
    #[error("the ELF file has nothing to load")]
    NothingToLoad,
    #[error("segment {0}: its address and its offset in the file disagree within the page")]
    Misaligned(usize),
    #[error("segment {0}: more bytes in the file than in memory")]
    FileExceedsMemory(usize),
    #[error("segment {0}: it ends beyond the address space")]
    BeyondSpace(usize),
    #[error("segment {0}: it shares a page with, or is below, the one before it")]
    Overlap(usize),
    #[error("segment {0}: its alignment {1:#x} is not a power of two")]
    Alignment(usize, u64),
    #[error("the entry point {0:#x} is in no executable segment")]
    Entry(u64),
    #[error("the name of the interpreter is not a string of 1 to 4095 bytes")]
    Interpreter,
    #[error("cannot read the file: {0}")]
    Read(String),
}

/// A file to read from.
pub trait Source {
    /// Its length.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `bytes` from `offset`.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ElfError>;
}

impl Source for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ElfError> {
        let source = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..)?.get(..bytes.len()))
            .ok_or_else(|| ElfError::Read("beyond its end".into()))?;
        bytes.copy_from_slice(source);
        Ok(())
    }
}

/// A segment to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first address.
    pub address: u64,
    /// Bytes in memory, more than zero.
    pub memory: u64,
    /// The offset in the file.
    pub offset: u64,
    /// Bytes in the file.
    pub file: u64,
    /// The permission.
    pub prot: Prot,
}

impl Segment {
    /// The start of its first page.
    pub fn start(&self) -> u64 {
        page_down(self.address)
    }

    /// The end of its last page.
    pub fn end(&self) -> u64 {
        // The parser checked that this does not overflow.
        page_up(self.address.saturating_add(self.memory)).unwrap_or(u64::MAX)
    }
}

/// A program as its file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// Whether it can be loaded at any address.
    pub relocatable: bool,
    /// The entry point.
    pub entry: u64,
    /// The segments by address; at least one.
    pub segments: Vec<Segment>,
    /// The interpreter's path.
    pub interpreter: Option<Vec<u8>>,
    /// The address of the program headers in memory, or 0.
    pub headers: u64,
    /// The number of program headers.
    pub header_count: u16,
    /// The alignment that its address needs.
    pub align: u64,
    /// Whether its stack is executable.
    pub executable_stack: bool,
}

impl Elf {
    /// Reads a program; all its addresses will be below `limit`.
    pub fn parse<S: Source + ?Sized>(source: &S, limit: u64) -> Result<Self, ElfError> {
        let header = read_header(source)?;
        let end = LittleEndian;
        let relocatable = match header.e_type.get(end) {
            elf::ET_EXEC => false,
            elf::ET_DYN => true,
            elf::ET_REL => return Err(ElfError::Type("an object file")),
            elf::ET_CORE => return Err(ElfError::Type("a core dump")),
            _ => return Err(ElfError::Type("an unknown type of ELF file")),
        };
        let headers = read_headers(source, &header)?;
        let mut parsed = Self {
            relocatable,
            entry: header.e_entry.get(end),
            segments: Vec::new(),
            interpreter: None,
            headers: 0,
            header_count: header.e_phnum.get(end),
            align: PAGE_SIZE,
            executable_stack: true,
        };
        let mut stack_seen = false;
        for (index, header) in headers.iter().enumerate() {
            match header.p_type.get(end) {
                elf::PT_LOAD => parsed.add_segment(index, header, source.len(), limit)?,
                elf::PT_INTERP if parsed.interpreter.is_none() => {
                    parsed.interpreter = Some(read_interpreter(source, header)?);
                }
                elf::PT_PHDR => parsed.headers = header.p_vaddr.get(end),
                elf::PT_GNU_STACK => {
                    stack_seen = true;
                    parsed.executable_stack = header.p_flags.get(end) & elf::PF_X != 0;
                }
                _ => {}
            }
        }
        // On x86-64 a program that says nothing has a stack that is not executable.
        parsed.executable_stack &= stack_seen;
        parsed.finish(header.e_phoff.get(end))
    }

    /// Checks and adds a segment.
    fn add_segment(
        &mut self,
        index: usize,
        header: &ProgramHeader64<LittleEndian>,
        len: u64,
        limit: u64,
    ) -> Result<(), ElfError> {
        let end = LittleEndian;
        let segment = Segment {
            address: header.p_vaddr.get(end),
            memory: header.p_memsz.get(end),
            offset: header.p_offset.get(end),
            file: header.p_filesz.get(end),
            prot: permission(header.p_flags.get(end)),
        };
        if segment.file > segment.memory {
            return Err(ElfError::FileExceedsMemory(index));
        }
        if segment.memory == 0 {
            return Ok(());
        }
        if segment.file > 0 {
            let file_end = segment.offset.saturating_add(segment.file);
            check_end("segments", file_end, len)?;
            if segment.address % PAGE_SIZE != segment.offset % PAGE_SIZE {
                return Err(ElfError::Misaligned(index));
            }
        }
        let last = segment.address.checked_add(segment.memory);
        match last.and_then(page_up) {
            Some(last) if last <= limit => {}
            _ => return Err(ElfError::BeyondSpace(index)),
        }
        if let Some(before) = self.segments.last() {
            if segment.start() < before.end() {
                return Err(ElfError::Overlap(index));
            }
        }
        let align = header.p_align.get(end);
        if align > 1 && !align.is_power_of_two() {
            return Err(ElfError::Alignment(index, align));
        }
        if align > limit {
            return Err(ElfError::BeyondSpace(index));
        }
        self.align = self.align.max(align);
        self.segments.push(segment);
        Ok(())
    }

    /// Checks what concerns the segments together.
    fn finish(mut self, headers_offset: u64) -> Result<Self, ElfError> {
        if self.segments.is_empty() {
            return Err(ElfError::NothingToLoad);
        }
        let entry = self.entry;
        let inside = |segment: &Segment| {
            segment.prot.contains(Prot::EXEC)
                && entry
                    .checked_sub(segment.address)
                    .is_some_and(|offset| offset < segment.memory)
        };
        if !self.segments.iter().any(inside) {
            return Err(ElfError::Entry(entry));
        }
        // Where the headers are in memory, if PT_PHDR does not say it, or says nonsense.
        let size = u64::from(self.header_count) * HEADER_SIZE as u64;
        let computed = self.segments.iter().find_map(|segment| {
            let offset = headers_offset.checked_sub(segment.offset)?;
            let fits = offset.checked_add(size)? <= segment.file;
            fits.then(|| segment.address + offset)
        });
        self.headers = computed.unwrap_or(0);
        Ok(self)
    }

    /// The start of the first page and the end of the last.
    pub fn span(&self) -> (u64, u64) {
        let start = self.segments.first().map_or(0, Segment::start);
        let end = self.segments.last().map_or(0, Segment::end);
        (start, end)
    }
}

const HEADER_SIZE: usize = size_of::<ProgramHeader64<LittleEndian>>();

/// Fails if `what` end behind the end of the file.
fn check_end(what: &'static str, end: u64, len: u64) -> Result<(), ElfError> {
    if end > len {
        return Err(ElfError::Truncated { what, end, len });
    }
    Ok(())
}

/// Reads and checks the file header.
fn read_header<S: Source + ?Sized>(source: &S) -> Result<FileHeader64<LittleEndian>, ElfError> {
    const SIZE: usize = size_of::<FileHeader64<LittleEndian>>();
    let len = source.len();
    let mut bytes = [0; SIZE];
    let there = SIZE.min(usize::try_from(len).unwrap_or(SIZE));
    source.read(0, &mut bytes[..there])?;
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    if there > 4 && bytes[4] == elf::ELFCLASS32 {
        return Err(ElfError::Class(32));
    }
    check_end("its headers", SIZE as u64, len)?;
    let end = LittleEndian;
    let (header, _) = pod::from_bytes::<FileHeader64<LittleEndian>>(&bytes)
        .map_err(|()| ElfError::Read("its header".into()))?;
    if header.e_ident.class != elf::ELFCLASS64 {
        return Err(ElfError::NotElf);
    }
    match header.e_ident.data {
        elf::ELFDATA2LSB => {}
        elf::ELFDATA2MSB => return Err(ElfError::BigEndian),
        _ => return Err(ElfError::NotElf),
    }
    if header.e_machine.get(end) != elf::EM_X86_64 {
        return Err(ElfError::Machine(machine(header.e_machine.get(end))));
    }
    for version in [u32::from(header.e_ident.version), header.e_version.get(end)] {
        if version != u32::from(elf::EV_CURRENT) {
            return Err(ElfError::Version(version));
        }
    }
    Ok(*header)
}

/// The name of a machine.
fn machine(number: u16) -> String {
    let name = match number {
        elf::EM_386 => "i386",
        elf::EM_ARM => "32-bit ARM",
        elf::EM_AARCH64 => "AArch64",
        elf::EM_RISCV => "RISC-V",
        elf::EM_PPC64 => "PowerPC",
        elf::EM_S390 => "S/390",
        elf::EM_MIPS => "MIPS",
        elf::EM_LOONGARCH => "LoongArch",
        elf::EM_BPF => "BPF",
        _ => return format!("machine number {number}"),
    };
    name.into()
}

/// Reads the program headers.
fn read_headers<S: Source + ?Sized>(
    source: &S,
    header: &FileHeader64<LittleEndian>,
) -> Result<Vec<ProgramHeader64<LittleEndian>>, ElfError> {
    let end = LittleEndian;
    let (size, count) = (header.e_phentsize.get(end), header.e_phnum.get(end));
    if usize::from(size) != HEADER_SIZE {
        return Err(ElfError::HeaderSize(size));
    }
    let bytes = u64::from(count) * u64::from(size);
    if count == 0 || bytes > MAX_HEADERS {
        return Err(ElfError::HeaderCount(count));
    }
    let offset = header.e_phoff.get(end);
    check_end("its headers", offset.saturating_add(bytes), source.len())?;
    let mut table = vec![0; bytes as usize];
    source.read(offset, &mut table)?;
    let headers = pod::slice_from_all_bytes::<ProgramHeader64<LittleEndian>>(&table)
        .map_err(|()| ElfError::Read("its program headers".into()))?;
    Ok(headers.to_vec())
}

/// Reads the path of the interpreter.
fn read_interpreter<S: Source + ?Sized>(
    source: &S,
    header: &ProgramHeader64<LittleEndian>,
) -> Result<Vec<u8>, ElfError> {
    let end = LittleEndian;
    let (offset, size) = (header.p_offset.get(end), header.p_filesz.get(end));
    if !(2..=MAX_INTERPRETER).contains(&size) {
        return Err(ElfError::Interpreter);
    }
    let file_end = offset.saturating_add(size);
    check_end("the interpreter's name", file_end, source.len())?;
    let mut path = vec![0; size as usize];
    source.read(offset, &mut path)?;
    let nul = path.iter().position(|&byte| byte == 0);
    match nul {
        Some(nul) if nul > 0 => path.truncate(nul),
        _ => return Err(ElfError::Interpreter),
    }
    Ok(path)
}

/// The permission of a segment; as on x86, what can be written or executed can be read.
fn permission(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    for (flag, gives) in [
        (elf::PF_R, Prot::READ),
        (elf::PF_W, Prot::READ | Prot::WRITE),
        (elf::PF_X, Prot::READ | Prot::EXEC),
    ] {
        if flags & flag != 0 {
            prot |= gives;
        }
    }
    prot
}
