// SPDX-License-Identifier: GPL-2.0

//! What to map where for a program: its segments as regions.

use uvisor_uapi::Prot;

use super::elf::{Elf, Segment};
use crate::layout::{page_down, page_up};

/// One step of loading a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Map pages of the file.
    File {
        /// The first address.
        gpa: u64,
        /// Bytes, a multiple of the page size.
        len: u64,
        /// The permission.
        prot: Prot,
        /// The offset in the file, a multiple of the page size.
        offset: u64,
    },
    /// Map zeroed memory.
    Anonymous {
        /// The first address.
        gpa: u64,
        /// Bytes, a multiple of the page size.
        len: u64,
        /// The permission.
        prot: Prot,
    },
    /// Write zeros over the file's bytes behind the end of a segment's data.
    Zero {
        /// The first address.
        gpa: u64,
        /// Bytes, less than a page.
        len: u64,
    },
}

/// The steps that load `elf`, its addresses moved up by `bias`; `None` if that overflows.
pub fn plan(elf: &Elf, bias: u64) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    for segment in &elf.segments {
        add(&mut steps, segment, bias)?;
    }
    Some(steps)
}

/// Adds the steps for one segment.
fn add(steps: &mut Vec<Step>, segment: &Segment, bias: u64) -> Option<()> {
    let prot = segment.prot;
    let address = segment.address.checked_add(bias)?;
    let start = page_down(address);
    let data_end = address.checked_add(segment.file)?;
    let end = page_up(address.checked_add(segment.memory)?)?;
    let mut mapped = start;
    if segment.file > 0 {
        let file_end = page_up(data_end)?;
        steps.push(Step::File {
            gpa: start,
            len: file_end - start,
            prot,
            offset: page_down(segment.offset),
        });
        // The rest of the last page belongs to what is zeroed. Without write permission nobody can
        // have put a variable there, and the kernel leaves it too.
        if segment.memory > segment.file && data_end < file_end && prot.contains(Prot::WRITE) {
            steps.push(Step::Zero {
                gpa: data_end,
                len: file_end - data_end,
            });
        }
        mapped = file_end;
    }
    if mapped < end {
        steps.push(Step::Anonymous {
            gpa: mapped,
            len: end - mapped,
            prot,
        });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(segments: Vec<Segment>) -> Elf {
        Elf {
            relocatable: true,
            entry: 0,
            segments,
            interpreter: None,
            headers: 0,
            header_count: 1,
            align: 4096,
            executable_stack: false,
        }
    }

    #[test]
    fn data_bss_and_tail() {
        let prot = Prot::READ | Prot::WRITE;
        let segment = Segment {
            address: 0x3e10,
            memory: 0x4000,
            offset: 0x2e10,
            file: 0x200,
            prot,
        };
        let steps = plan(&elf(vec![segment]), 0x10000).unwrap();
        assert_eq!(
            steps,
            [
                Step::File {
                    gpa: 0x13000,
                    len: 0x2000,
                    prot,
                    offset: 0x2000
                },
                Step::Zero {
                    gpa: 0x14010,
                    len: 0xff0
                },
                Step::Anonymous {
                    gpa: 0x15000,
                    len: 0x3000,
                    prot
                },
            ]
        );
    }

    #[test]
    fn pure_bss() {
        let prot = Prot::READ | Prot::WRITE;
        let segment = Segment {
            address: 0x1008,
            memory: 8,
            offset: 0x99,
            file: 0,
            prot,
        };
        let steps = plan(&elf(vec![segment]), 0).unwrap();
        assert_eq!(
            steps,
            [Step::Anonymous {
                gpa: 0x1000,
                len: 0x1000,
                prot
            }]
        );
    }

    #[test]
    fn overflow_is_refused() {
        let segment = Segment {
            address: 0x1000,
            memory: 0x1000,
            offset: 0,
            file: 0,
            prot: Prot::READ,
        };
        assert_eq!(plan(&elf(vec![segment]), u64::MAX - 0x1fff), None);
    }
}
