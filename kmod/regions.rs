// SPDX-License-Identifier: GPL-2.0

//! Where the list of a micro-VM's regions is: in memory of its own, or of a template's, in common with all its clones.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        UniqueArc, //
    }, //
};

use uvisor_ept::{
    Region,
    Store, //
};

use crate::backing::MemoryBacking;

/// The regions of a micro-VM, in a vector that is charged to the task's memory cgroup.
pub(crate) enum Regions {
    /// This micro-VM's own.
    Own(KVVec<Region<MemoryBacking>>),
    /// Clones have it in common; nobody changes it.
    Shared(Arc<KVVec<Region<MemoryBacking>>>),
}

impl Regions {
    /// None.
    pub(crate) fn new() -> Self {
        Self::Own(KVVec::new())
    }
}

impl Store<Region<MemoryBacking>> for Regions {
    type Error = Error;

    fn as_slice(&self) -> &[Region<MemoryBacking>] {
        match self {
            Self::Own(regions) => regions,
            Self::Shared(regions) => regions,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Region<MemoryBacking>] {
        match self {
            Self::Own(regions) => regions,
            // `RegionMap` calls `reserve` before.
            Self::Shared(_) => &mut [],
        }
    }

    fn reserve(&mut self, additional: usize) -> Result {
        match self {
            Self::Own(regions) => {
                if additional > 0 {
                    regions.reserve(additional, GFP_KERNEL_ACCOUNT)?;
                }
            }
            Self::Shared(regions) => {
                let room = regions.len().checked_add(additional).ok_or(ENOMEM)?;
                let mut own = KVVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
                for region in regions.iter() {
                    own.push(region.clone(), GFP_KERNEL_ACCOUNT)?;
                }
                *self = Self::Own(own);
            }
        }
        Ok(())
    }

    fn share(&mut self) -> Result<Self> {
        let shared = match self {
            Self::Shared(regions) => return Ok(Self::Shared(regions.clone())),
            Self::Own(regions) => {
                // Allocated first, so that the regions are not lost where there is no memory.
                let empty = UniqueArc::new_uninit(GFP_KERNEL_ACCOUNT)?;
                Arc::from(empty.write(core::mem::replace(regions, KVVec::new())))
            }
        };
        *self = Self::Shared(shared.clone());
        Ok(Self::Shared(shared))
    }

    fn insert(&mut self, at: usize, value: Region<MemoryBacking>) {
        if let Self::Own(regions) = self {
            // `RegionMap` reserved the room and `at` is not beyond the end, so it cannot fail.
            let _ = regions.insert_within_capacity(at, value);
        }
    }

    fn remove(&mut self, at: usize) -> Option<Region<MemoryBacking>> {
        match self {
            Self::Own(regions) => regions.remove(at).ok(),
            Self::Shared(_) => None,
        }
    }
}
