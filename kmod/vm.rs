// SPDX-License-Identifier: GPL-2.0

//! A micro-VM: its memory, its vCPUs, and the ioctls of its file.

use core::sync::atomic::Ordering::Relaxed;

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

use uvisor_ept::{
    Gpa,
    Move,
    Perm, //
};
use uvisor_uapi::{
    self as uapi,
    Bind,
    CloneFlags,
    CloneVm,
    Diff,
    DiffRange,
    Limits,
    Map,
    MapFlags,
    Prot,
    Protect,
    Remap,
    Reset,
    Stats,
    Unmap,
    VcpuCreate,
    ViewCreate,
    ViewDestroy,
    ViewFlags,
    ViewProtect,
    VmCreate,
    VmFlags, //
};

use crate::{
    args,
    backing::{
        MemoryBacking,
        Writes, //
    },
    events::Counters,
    hardware::Hardware,
    memory::Memory,
    registry::Listed,
    sys::{
        file::{
            self,
            PageFile, //
        },
        vvar::VvarPages, //
    },
    vcpu::Vcpu, //
};

mod operations;

pub(crate) use operations::FileOperations;

use operations::FOPS;

/// How many ranges one DIFF lists at most.
const MAX_DIFF: usize = 256;

/// How many vCPUs a micro-VM can have.
pub(crate) const MAX_VCPUS: usize = 256;

/// A micro-VM.
#[pin_data(PinnedDrop)]
pub(crate) struct Vm {
    pub(crate) hardware: Arc<Hardware>,
    /// Never given to another one.
    pub(crate) id: u64,
    /// Whether it is as [`VmFlags::NO_TSC`] has it.
    pub(crate) no_tsc: bool,
    /// The template that it is a clone of; none if it is one itself, so that no chain of them has to go
    /// at once.
    #[pin]
    template: Mutex<Option<Arc<Self>>>,
    pub(crate) memory: Arc<Memory>,
    _listed: Listed,
    /// The counters of each vCPU whose file is open, by its number.
    #[pin]
    vcpus: Mutex<KVec<Option<Arc<Counters>>>>,
}

#[pinned_drop]
impl PinnedDrop for Vm {
    fn drop(self: Pin<&mut Self>) {
        self.hardware.vms.fetch_sub(1, Relaxed);
    }
}

/// The permission in an ioctl.
fn perm(prot: u32) -> Result<Perm> {
    let prot = Prot::from_bits(prot).ok_or(EINVAL)?;
    let mut perm = Perm::empty();
    perm.set(Perm::R, prot.contains(Prot::READ));
    perm.set(Perm::W, prot.contains(Prot::WRITE));
    perm.set(Perm::X, prot.contains(Prot::EXEC));
    Ok(perm)
}

impl Vm {
    /// `VM_CREATE`: makes one and returns its file descriptor.
    pub(crate) fn create(hardware: Arc<Hardware>, arg: usize) -> Result<isize> {
        let (create, _) = args::read::<VmCreate>(arg)?;
        let id = hardware.new_id();
        let w_xor_x = create.flags & VmFlags::W_XOR_X.bits() != 0;
        let no_tsc = create.flags & VmFlags::NO_TSC.bits() != 0;
        if no_tsc && !hardware.controls.features.rdtsc_exiting {
            return Err(EOPNOTSUPP);
        }
        let pool = Memory::new_pool(create.memory_limit)?;
        let memory = Memory::new(hardware.clone(), id, pool, w_xor_x)?;
        Self::install(hardware, (id, 0), no_tsc, None, memory)
    }

    /// `CLONE`: makes one with the memory of this one, or none, and returns its file descriptor.
    fn share(self: ArcBorrow<'_, Self>, clone: &CloneVm) -> Result<isize> {
        let flags = CloneFlags::from_bits(clone.flags).ok_or(EINVAL)?;
        let pool = if !flags.contains(CloneFlags::JOINT) {
            Memory::new_pool(clone.memory_limit)?
        } else if clone.memory_limit == 0 {
            self.memory.pool()
        } else {
            return Err(EINVAL);
        };
        let hardware = self.hardware.clone();
        let id = hardware.new_id();
        if flags.contains(CloneFlags::EMPTY) {
            let memory = self.memory.empty(id, pool)?;
            return Self::install(hardware, (id, 0), self.no_tsc, None, memory);
        }
        let (memory, is_template) = self.memory.share(id, pool)?;
        let template = is_template.then(|| self.into());
        Self::install(hardware, (id, self.id), self.no_tsc, template, memory)
    }

    /// Makes one with `memory`, its own number and its parent's, and returns its file descriptor.
    fn install(
        hardware: Arc<Hardware>,
        (id, parent): (u64, u64),
        no_tsc: bool,
        template: Option<Arc<Self>>,
        memory: impl PinInit<Memory, Error>,
    ) -> Result<isize> {
        let memory = Arc::pin_init(memory, GFP_KERNEL_ACCOUNT)?;
        let vm = Arc::pin_init(
            try_pin_init!(Self {
                id,
                no_tsc,
                template <- new_mutex!(template),
                _listed: Listed::new(memory.clone(), parent)?,
                memory,
                vcpus <- new_mutex!(KVec::new()),
                hardware: {
                    hardware.vms.fetch_add(1, Relaxed);
                    hardware
                },
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let ready = vm.clone();
        // SAFETY: `FOPS` is the module's and treats the private data as an `Arc<Vm>`.
        unsafe {
            file::install(c"[uvisor-vm]", &FOPS.0, vm, |mapping| {
                ready.memory.set_mapping(Some(mapping));
            })
        }
    }

    /// The ioctls of the file.
    fn ioctl(self: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::MAP => self.map(&args::read::<Map>(arg)?.0)?,
            uapi::UNMAP => {
                let (unmap, _) = args::read::<Unmap>(arg)?;
                self.memory
                    .unmap(self.memory.range(unmap.gpa, unmap.len)?)?;
            }
            uapi::REMAP => {
                let (remap, _) = args::read::<Remap>(arg)?;
                let from = self.memory.range(remap.gpa, remap.len)?;
                let to = self.memory.range(remap.new_gpa, remap.new_len)?;
                self.memory.remap(&Move::new(from, to).ok_or(EINVAL)?)?;
            }
            uapi::PROTECT => {
                let (protect, _) = args::read::<Protect>(arg)?;
                if protect.reserved != 0 {
                    return Err(EINVAL);
                }
                let range = self.memory.range(protect.gpa, protect.len)?;
                self.memory.protect(range, perm(protect.prot)?)?;
            }
            uapi::STATS => {
                let (_, place) = args::read::<Stats>(arg)?;
                place.write(&self.stats()?)?;
            }
            uapi::LIMITS => self
                .memory
                .set_limit(args::read::<Limits>(arg)?.0.memory_limit)?,
            uapi::BIND => self.memory.bind(args::read::<Bind>(arg)?.0.address)?,
            uapi::VCPU_CREATE => {
                return Vcpu::create(self.into(), &args::read::<VcpuCreate>(arg)?.0)
            }
            uapi::CLONE => return self.share(&args::read::<CloneVm>(arg)?.0),
            uapi::FREEZE if arg != 0 => return Err(EINVAL),
            uapi::FREEZE => {
                self.memory.freeze()?;
                // Dropped without the lock.
                let old = self.template.lock().take();
                drop(old);
            }
            uapi::RESET => {
                let (mut reset, place) = args::read::<Reset>(arg)?;
                reset.pages = self.memory.reset(&self.template()?.memory)?;
                place.write(&reset)?;
            }
            uapi::DISCARD => {
                let (range, _) = args::read::<Unmap>(arg)?;
                let range = self.memory.range(range.gpa, range.len)?;
                self.memory.discard(range)?;
            }
            uapi::SEAL => {
                let (range, _) = args::read::<Unmap>(arg)?;
                self.memory.seal(self.memory.range(range.gpa, range.len)?)?;
            }
            uapi::VIEW_CREATE => {
                let (create, _) = args::read::<ViewCreate>(arg)?;
                if create.reserved != 0 {
                    return Err(EINVAL);
                }
                let guest = create.flags & ViewFlags::GUEST.bits() != 0;
                let view = self.memory.create_view(perm(create.prot)?, guest)?;
                // CAST: Below `MAX_VIEWS`.
                return Ok(view as isize);
            }
            uapi::VIEW_PROTECT => {
                let (protect, _) = args::read::<ViewProtect>(arg)?;
                let range = self.memory.range(protect.gpa, protect.len)?;
                self.memory
                    .protect_view(protect.view, range, perm(protect.prot)?)?;
            }
            uapi::VIEW_DESTROY => {
                let (destroy, _) = args::read::<ViewDestroy>(arg)?;
                if destroy.reserved != 0 {
                    return Err(EINVAL);
                }
                self.memory.destroy_view(destroy.view)?;
            }
            uapi::DIFF => {
                let (mut diff, place) = args::read::<Diff>(arg)?;
                self.diff(&mut diff)?;
                place.write(&diff)?;
            }
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }

    /// What is behind the region of a MAP.
    fn backing(map: &Map, perm: Perm) -> Result<MemoryBacking> {
        let flags = MapFlags::from_bits_truncate(map.flags);
        if flags.contains(MapFlags::USER) {
            if flags != MapFlags::USER || map.fd != 0 || map.offset != 0 {
                return Err(EINVAL);
            }
            return Ok(MemoryBacking::User);
        }
        let file = if flags.contains(MapFlags::FILE) {
            if flags.contains(MapFlags::VVAR) || map.offset % uapi::PAGE_SIZE != 0 {
                return Err(EINVAL);
            }
            PageFile::from_fd(map.fd)?
        } else if flags.contains(MapFlags::SHARED) || map.fd != 0 {
            return Err(EINVAL);
        } else if flags.contains(MapFlags::VVAR) {
            let pages = VvarPages::new(map.offset, map.len)?;
            return Ok(MemoryBacking::Vvar {
                pages: Arc::new(pages, GFP_KERNEL_ACCOUNT)?,
                first: 0,
            });
        } else if map.offset != 0 {
            return Err(EINVAL);
        } else {
            return Ok(MemoryBacking::Anonymous);
        };
        let writes = if !flags.contains(MapFlags::SHARED) {
            Writes::Copied
        } else if let Some(shared) = file.share(perm.contains(Perm::W))? {
            Writes::InPlace(Arc::new(shared, GFP_KERNEL_ACCOUNT)?)
        } else {
            Writes::Refused
        };
        Ok(MemoryBacking::File {
            file,
            offset: map.offset,
            writes,
        })
    }

    /// `MAP`.
    fn map(&self, map: &Map) -> Result {
        let range = self.memory.range(map.gpa, map.len)?;
        let perm = perm(map.prot)?;
        let backing = Self::backing(map, perm)?;
        backing.check_len(map.len)?;
        self.memory.map(range, perm, backing)
    }

    /// The template that it is a clone of.
    fn template(&self) -> Result<Arc<Self>> {
        self.template.lock().clone().ok_or(EINVAL)
    }

    /// `DIFF`.
    fn diff(&self, diff: &mut Diff) -> Result {
        if diff.reserved != 0 || diff.start % uapi::PAGE_SIZE != 0 || diff.count == 0 {
            return Err(EINVAL);
        }
        // CAST: At most `MAX_DIFF`.
        let room = (diff.count as usize).min(MAX_DIFF);
        let mut ranges: KVec<DiffRange> = KVec::with_capacity(room, GFP_KERNEL_ACCOUNT)?;
        let mut next = 0;
        let template = self.template()?;
        self.memory
            .compare(&template.memory, Gpa(diff.start), |gpa| {
                if let Some(last) = ranges.last_mut() {
                    if last.gpa.saturating_add(last.len) == gpa.0 {
                        last.len = last.len.saturating_add(uapi::PAGE_SIZE);
                        return true;
                    }
                }
                let range = DiffRange {
                    gpa: gpa.0,
                    len: uapi::PAGE_SIZE,
                };
                if ranges.len() < room && ranges.push_within_capacity(range).is_ok() {
                    return true;
                }
                next = gpa.0;
                false
            })?;
        args::write_all(diff.ranges, &ranges)?;
        // CAST: At most `MAX_DIFF`.
        diff.count = ranges.len() as u32;
        diff.start = next;
        Ok(())
    }

    /// `STATS`.
    fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::new();
        self.memory.report(&mut stats)?;
        for counters in self.vcpus.lock().iter().flatten() {
            counters.report(&mut stats);
            stats.vcpus += 1;
        }
        Ok(stats)
    }

    /// A number and counters for a new vCPU; `ENOSPC` if there are too many.
    pub(crate) fn add_vcpu(&self) -> Result<(usize, Arc<Counters>)> {
        let counters = Arc::new(Counters::new(), GFP_KERNEL_ACCOUNT)?;
        let mut vcpus = self.vcpus.lock();
        if let Some((number, slot)) = vcpus.iter_mut().enumerate().find(|(_, s)| s.is_none()) {
            *slot = Some(counters.clone());
            self.memory.add_vcpu();
            // Its VPID was another vCPU's, which may have had other page tables: INVEPT drops those
            // translations as well.
            self.memory.flush();
            return Ok((number, counters));
        }
        let number = vcpus.len();
        if number >= MAX_VCPUS {
            return Err(ENOSPC);
        }
        vcpus.push(Some(counters.clone()), GFP_KERNEL_ACCOUNT)?;
        self.memory.add_vcpu();
        Ok((number, counters))
    }

    /// Gives back the number of a vCPU; what it counted stays.
    pub(crate) fn remove_vcpu(&self, number: usize) {
        let mut vcpus = self.vcpus.lock();
        if let Some(counters) = vcpus.get_mut(number).and_then(Option::take) {
            self.memory.remove_vcpu();
            counters.add_to(&self.memory.events);
        }
    }
}
