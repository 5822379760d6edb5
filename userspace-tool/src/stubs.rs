// SPDX-License-Identifier: GPL-2.0

//! Where system calls enter ring 0 of the guest: a stub for each thread.
//!
//! A stub answers what needs no host: the numbers of the thread, its process and the parent. All else leaves the
//! micro-VM, and the stub returns when the result is in `rax`. The stubs of a process are in a memory file of its own,
//! which its guest can read and execute and only the broker can write.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{
    AtomicU32,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::Arc;

use uvisor_uapi::{Prot, HYPERCALL_LEN, PAGE_SIZE};

use crate::errno::{Errno, SysResult};
use crate::guest::Shim;
use crate::map::Mapping;
use crate::pass;
use crate::personality::{Fds, Moving};
use crate::{Error, Vm};

/// Bytes of a stub.
const STUB: usize = 128;

/// The most stubs: as many as a micro-VM has vCPUs.
const STUBS: usize = 256;

/// Bytes of all.
const LEN: u64 = (STUB * STUBS) as u64;

/// What becomes of their file when it is mapped to be written.
const SEALS: i32 =
    libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Where a stub keeps its numbers: the parent's, the process's, the thread's.
const NUMBERS: [usize; 3] = [112, 116, 120];

/// Where a stub says which process has it; 0 is none. It is there that this is said, as the child of a `vfork` and its
/// parent take stubs of the same file.
const OWNER: usize = 124;

/// The system calls that return them.
const CALLS: [i64; 3] = [libc::SYS_getppid, libc::SYS_getpid, libc::SYS_gettid];

/// `vmcall`, `sysretq`.
const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
const SYSRET: [u8; 3] = [0x48, 0x0f, 0x07];

/// Bytes of the code that compares with a call's number, and of the code that answers it.
const COMPARE: usize = 7;
const ANSWER: usize = 9;

/// Where in a stub the VMCALL is.
const LEAVE: usize = COMPARE * CALLS.len();

/// Where in a stub call `index` is answered: `mov eax, [number]; sysretq`.
const fn answer(index: usize) -> usize {
    LEAVE + VMCALL.len() + SYSRET.len() + ANSWER * index
}

/// The code of a stub. It changes nothing that `SYSCALL` has not, before the instruction that sets the result.
fn code() -> [u8; STUB] {
    let mut code = Vec::with_capacity(STUB);
    for (index, call) in CALLS.into_iter().enumerate() {
        // `cmp eax, call; je answer`
        code.push(0x3d);
        code.extend((call as u32).to_le_bytes());
        let behind = COMPARE * (index + 1);
        code.extend([0x74, (answer(index) - behind) as u8]);
    }
    code.extend(VMCALL);
    code.extend(SYSRET);
    for (index, number) in NUMBERS.into_iter().enumerate() {
        // Relative to the end of the instruction.
        let behind = answer(index) + 6;
        code.extend([0x8b, 0x05]);
        code.extend(((number - behind) as u32).to_le_bytes());
        code.extend(SYSRET);
    }
    // What follows traps: INT3.
    let mut bytes = [0xcc; STUB];
    for (byte, from) in bytes.iter_mut().zip(code) {
        *byte = from;
    }
    bytes
}

/// Where a thread is in its stub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The call was neither served nor answered.
    Before,
    /// Its result is in `rax`.
    Behind,
}

/// The stubs of a process.
#[derive(Debug)]
pub struct Stubs {
    fd: OwnedFd,
    mapping: Mapping,
    shim: Shim,
}

impl Stubs {
    /// Those of a new process; none is in use. Nobody writes them but by the mapping that is made here; what another
    /// thread may have written to the file before that is overwritten when a stub is taken.
    pub(crate) fn new(fds: &Fds, moving: &Moving<'_>, shim: Shim) -> crate::Result<Arc<Self>> {
        let error = |errno: Errno| Error::errno_of("memfd_create", errno.number());
        let flags = libc::MFD_ALLOW_SEALING;
        let fd = fds.memory_file_with(moving, c"uvisor-stubs", LEN, flags);
        let fd = fd.map_err(error)?;
        let mapping = Mapping::new(fd.as_fd(), LEN as usize)?;
        let sealed = pass!(FCNTL, fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS as u64);
        sealed.map_err(|errno| Error::errno_of("F_ADD_SEALS", errno.number()))?;
        Ok(Arc::new(Self { fd, mapping, shim }))
    }

    /// Maps them in a micro-VM, in place of others.
    pub fn install(&self, vm: &Vm) -> crate::Result<()> {
        let start = self.shim.stubs();
        vm.unmap(start, LEN)?;
        let prot = Prot::READ | Prot::EXEC;
        vm.map_file(start, LEN, prot, self.fd.as_fd(), 0)
    }

    /// Takes a stub for the calling process, the first that is free.
    pub fn take(self: &Arc<Self>) -> SysResult<Stub> {
        let index = (0..STUBS).find(|&index| self.change_owner(index, 0, crate::process::id()));
        let stub = Stub {
            index: index.ok_or(Errno::EAGAIN)?,
            stubs: Arc::clone(self),
        };
        // Not what is behind the code: that is the owner's already.
        let code = code();
        for at in (0..NUMBERS[0]).step_by(4) {
            if let Some(word) = self.number(stub.index, at) {
                word.store(crate::memory::word32(&code, at), Relaxed);
            }
        }
        Ok(stub)
    }

    /// Gives a stub of one process to another, or to nobody; false if it was not the former's.
    fn change_owner(&self, index: usize, from: u32, to: u32) -> bool {
        let owner = self.number(index, OWNER);
        owner.is_some_and(|owner| owner.compare_exchange(from, to, AcqRel, Relaxed).is_ok())
    }

    /// Makes all stubs free that a process has left behind which had its memory in common with this one.
    pub fn free_all_of(&self, process: u32) {
        for index in 0..STUBS {
            self.change_owner(index, process, 0);
        }
    }

    /// The parent of the calling process is another one: all of its stubs say so.
    pub fn set_parent(&self, parent: u32) {
        let own = crate::process::id();
        for index in 0..STUBS {
            let number = |which: usize| self.number(index, NUMBERS[which]);
            if let (Some(of), Some(process)) = (number(0), number(1)) {
                // Those of a child that shares the memory say something else.
                if process.load(Relaxed) == own {
                    of.store(parent, Relaxed);
                }
            }
        }
    }

    /// A number of a stub, or a word of its code.
    fn number(&self, index: usize, at: usize) -> Option<&AtomicU32> {
        let word = self.mapping.address((index * STUB + at) as u64, 4)?;
        // SAFETY: The word is inside the mapping, which lives as long as `self`; it is aligned, and accessed
        // atomically only.
        Some(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// The descriptor, which a process that shares the memory keeps.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The stub of a thread; free again when it is dropped.
#[derive(Debug)]
pub struct Stub {
    stubs: Arc<Stubs>,
    index: usize,
}

impl Stub {
    /// Where its system calls enter, guest-virtual.
    pub fn entry(&self) -> u64 {
        self.stubs.shim.stubs_at() + (self.index * STUB) as u64
    }

    /// It is the calling process's now, and no more that of its parent, which has taken it.
    pub fn adopt(&self, parent: u32) {
        self.stubs
            .change_owner(self.index, parent, crate::process::id());
    }

    /// What it answers: the numbers of the parent, the process and the thread.
    pub fn set(&self, parent: u32, process: u32, thread: u32) {
        for (at, number) in NUMBERS.into_iter().zip([parent, process, thread]) {
            if let Some(word) = self.stubs.number(self.index, at) {
                word.store(number, Relaxed);
            }
        }
    }

    /// Where in it a thread in ring 0 is.
    pub fn place(&self, rip: u64) -> Option<Place> {
        let offset = usize::try_from(rip.checked_sub(self.entry())?).ok()?;
        let at_sysret = |index: usize| offset == answer(index) + 6;
        match offset {
            _ if offset == LEAVE + HYPERCALL_LEN as usize => Some(Place::Behind),
            _ if (0..CALLS.len()).any(at_sysret) => Some(Place::Behind),
            0..STUB => Some(Place::Before),
            _ => None,
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        // Another one may have it by now.
        self.stubs.change_owner(self.index, crate::process::id(), 0);
    }
}

const _: () = assert!(LEN % PAGE_SIZE == 0 && answer(CALLS.len()) <= NUMBERS[0]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_and_loads_hit() {
        let code = code();
        for (index, call) in CALLS.into_iter().enumerate() {
            let compare = &code[COMPARE * index..][..COMPARE];
            assert_eq!(compare[0], 0x3d);
            assert_eq!(crate::memory::word32(compare, 1), call as u32);
            let target = COMPARE * (index + 1) + compare[6] as usize;
            assert_eq!(target, answer(index));
            let load = &code[target..];
            let number = target + 6 + crate::memory::word32(load, 2) as usize;
            assert_eq!(number, NUMBERS[index]);
            assert_eq!(load[6..9], SYSRET);
        }
        assert_eq!(code[LEAVE..LEAVE + 6], [VMCALL, SYSRET].concat());
    }

    #[test]
    fn places_are_told_apart() {
        let fds = Fds::reserve().unwrap();
        let stubs = Stubs::new(&fds, &fds.hold(), Shim::default()).unwrap();
        let (first, second) = (stubs.take().unwrap(), stubs.take().unwrap());
        assert_eq!(second.entry() - first.entry(), STUB as u64);
        let place = |offset: usize| second.place(second.entry() + offset as u64);
        assert_eq!(place(0), Some(Place::Before));
        assert_eq!(place(LEAVE), Some(Place::Before));
        assert_eq!(place(LEAVE + 3), Some(Place::Behind));
        assert_eq!(place(answer(1)), Some(Place::Before));
        assert_eq!(place(answer(1) + 6), Some(Place::Behind));
        assert_eq!(place(STUB), None);
        assert_eq!(second.place(first.entry()), None);
        let freed = first.entry();
        drop(first);
        assert_eq!(stubs.take().unwrap().entry(), freed);
    }

    /// Two processes that take stubs of the same file, as the child of a `vfork` and its parent.
    #[test]
    fn processes_that_share_stubs_take_others() {
        let fds = Fds::reserve().unwrap();
        let stubs = Stubs::new(&fds, &fds.hold(), Shim::default()).unwrap();
        let for_child = stubs.take().unwrap();
        let parent = crate::process::id();
        let (read, write) = fds.pipe(&fds.hold()).unwrap();
        let (wait, go) = fds.pipe(&fds.hold()).unwrap();
        // SAFETY: The child takes stubs, writes to a pipe and ends.
        let child = match unsafe { libc::fork() } {
            0 => {
                for_child.adopt(parent);
                let taken = [stubs.take(), stubs.take()];
                let mut indices: Vec<u8> = vec![for_child.index as u8];
                indices.extend(taken.iter().flatten().map(|stub| stub.index as u8));
                let len = indices.len() as u64;
                let _ = pass!(WRITE_NOW, write.as_raw_fd(), indices.as_mut_slice(), len);
                let mut byte = [0];
                let _ = pass!(READ, wait.as_raw_fd(), &mut byte, 1);
                // SAFETY: It ends the process, which leaves its stubs behind.
                unsafe { libc::_exit(0) }
            }
            pid => pid,
        };
        let mut indices = [0xff; 3];
        let mut got = 0;
        while got < 3 {
            let rest = &mut indices[got..];
            let len = rest.len() as u64;
            got += pass!(READ, read.as_raw_fd(), rest, len).unwrap() as usize;
        }
        assert_eq!(indices, [0, 1, 2]);
        let ours = [stubs.take().unwrap(), stubs.take().unwrap()];
        assert_eq!(ours.each_ref().map(|stub| stub.index), [3, 4]);
        // What it was taken with is the child's.
        drop(for_child);
        let more = stubs.take().unwrap();
        assert_eq!(more.index, 5);
        let mut byte = [0];
        pass!(WRITE_NOW, go.as_raw_fd(), &mut byte, 1).unwrap();
        let mut status = 0;
        // SAFETY: The status is ours.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        stubs.free_all_of(child as u32);
        let again: Vec<_> = (0..4).map(|_| stubs.take().unwrap()).collect();
        let indices: Vec<usize> = again.iter().map(|stub| stub.index).collect();
        assert_eq!(indices, [0, 1, 2, 6]);
    }
}
