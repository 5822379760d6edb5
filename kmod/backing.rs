// SPDX-License-Identifier: GPL-2.0

//! What the pages of a region are made from.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use uvisor_ept::{
    Backing,
    Perm, //
};

use uvisor_uapi::PAGE_SIZE;

use crate::sys::{
    file::{
        PageFile,
        WritableFile, //
    },
    frame::Frame,
    vvar::VvarPages, //
};

/// What becomes of a write to a file's page.
#[derive(Clone)]
pub(crate) enum Writes {
    /// It is made to a copy.
    Copied,
    /// It is refused, for good.
    Refused,
    /// It is made to the page itself.
    InPlace(Arc<WritableFile>),
}

/// What is behind a region.
#[derive(Clone)]
pub(crate) enum MemoryBacking {
    /// Zeros.
    Anonymous,
    /// A file from an offset on.
    File {
        /// The file.
        file: PageFile,
        /// The offset in bytes.
        offset: u64,
        /// What becomes of writes.
        writes: Writes,
    },
    /// The data of the kernel's vDSO.
    Vvar {
        /// Its pages.
        pages: Arc<VvarPages>,
        /// The number of the first one.
        first: u64,
    },
    /// Memory of the process that the micro-VM is bound to, at the same distance from everywhere: see
    /// [`crate::memory::Memory::bind`].
    User,
}

impl MemoryBacking {
    /// Fails with `EACCES` if a region of this never gets `perm`.
    pub(crate) fn check(&self, perm: Perm) -> Result {
        let is_refused = match self {
            Self::Anonymous => false,
            Self::File { file, writes, .. } => {
                (perm.contains(Perm::X) && file.is_noexec())
                    || (perm.contains(Perm::W) && matches!(writes, Writes::Refused))
            }
            Self::Vvar { .. } => perm.intersects(Perm::W | Perm::X),
            // Whether it may be executed, the process alone knows.
            Self::User => perm.contains(Perm::X),
        };
        if is_refused {
            return Err(EACCES);
        }
        Ok(())
    }

    /// Fails with `EINVAL` if a region of so many bytes would run over the end of a file's offsets, which are
    /// signed.
    pub(crate) fn check_len(&self, len: u64) -> Result {
        let Self::File { offset, .. } = self else {
            return Ok(());
        };
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        i64::try_from(end).map(drop).map_err(|_| EINVAL)
    }

    /// The page that is there, if it is not an anonymous one; `ENXIO` if there is none. If it need not be
    /// `at_hand`, this may sleep for I/O; `EAGAIN` if it is not.
    pub(crate) fn page(&self, at_hand: bool) -> Result<Frame> {
        match self {
            Self::Anonymous | Self::User => Err(ENXIO),
            Self::File {
                file,
                offset,
                writes,
            } => match writes {
                Writes::InPlace(file) => file.page(*offset, at_hand),
                Writes::Copied | Writes::Refused => file.page(*offset, at_hand),
            },
            Self::Vvar { pages, first } => pages.page(*first),
        }
    }
}

impl Backing for MemoryBacking {
    fn advance(&self, bytes: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::User => Self::User,
            Self::File {
                file,
                offset,
                writes,
            } => Self::File {
                file: file.clone(),
                // MAP refuses files whose last offset overflows.
                offset: offset.saturating_add(bytes),
                writes: writes.clone(),
            },
            Self::Vvar { pages, first } => Self::Vvar {
                pages: pages.clone(),
                first: first.saturating_add(bytes / PAGE_SIZE),
            },
        }
    }

    fn continues(&self, bytes: u64, next: &Self) -> bool {
        match (self, next) {
            (Self::Anonymous, Self::Anonymous) | (Self::User, Self::User) => true,
            (
                Self::File {
                    file,
                    offset,
                    writes,
                },
                Self::File {
                    file: next_file,
                    offset: next_offset,
                    writes: next_writes,
                },
            ) => {
                file.is_same(next_file)
                    && offset.checked_add(bytes) == Some(*next_offset)
                    && core::mem::discriminant(writes) == core::mem::discriminant(next_writes)
            }
            (
                Self::Vvar { pages, first },
                Self::Vvar {
                    pages: next_pages,
                    first: next_first,
                },
            ) => {
                Arc::ptr_eq(pages, next_pages)
                    && first.checked_add(bytes / PAGE_SIZE) == Some(*next_first)
            }
            _ => false,
        }
    }

    fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    fn is_live(&self) -> bool {
        match self {
            Self::Anonymous => false,
            Self::File { writes, .. } => matches!(writes, Writes::InPlace(_)),
            // The kernel writes to it; and the process.
            Self::Vvar { .. } | Self::User => true,
        }
    }

    fn is_user(&self) -> bool {
        matches!(self, Self::User)
    }
}
