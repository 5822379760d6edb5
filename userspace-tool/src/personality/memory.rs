// SPDX-License-Identifier: GPL-2.0

//! The address space: every call here changes regions of the micro-VM, and the broker's book of them.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, MutexGuard};

use serde::{Deserialize, Serialize};
use uvisor_uapi::{Prot, PAGE_SIZE};

use super::Args;
use super::{status, SharedMaps};
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::layout::{page_up, MMAP_MIN};
use crate::loader::of_code;
use crate::pass;
use crate::space::{Area, Backing, NamedFile, Piece, Space};
use crate::task::{Child, Task};

/// What a permission of Linux's is for a region; as on x86, what is accessible is readable, unless it is code and the
/// task is not to read that.
fn protection(task: &Task, prot: u64) -> SysResult<Prot> {
    let known = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    // PROT_SEM has no meaning.
    if prot & !(known as u64 | 8) != 0 {
        return Err(Errno::EINVAL);
    }
    let prot = prot as i32;
    let mut result = Prot::empty();
    if prot & known != 0 {
        result |= Prot::READ;
    }
    if prot & libc::PROT_WRITE != 0 {
        result |= Prot::WRITE;
    }
    if prot & libc::PROT_EXEC != 0 {
        result |= Prot::EXEC;
    }
    Ok(of_code(result, task.hides_code()))
}

/// The error of a region call as Linux has it.
pub(super) fn region_error(error: crate::Error) -> Errno {
    match Errno::from(error) {
        // Too many regions are too many mappings.
        Errno::ENOSPC | Errno::EEXIST => Errno::ENOMEM,
        other => other,
    }
}

/// The pages that a call names by a start and a length; `beyond` is the error of a range that is
/// not in the address space.
pub(super) fn pages(task: &Task, start: u64, len: u64, beyond: Errno) -> SysResult<(u64, u64)> {
    if start % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL);
    }
    let len = page_up(len).ok_or(beyond)?;
    match start.checked_add(len) {
        Some(end) if end <= task.memory.limit() => Ok((start, end)),
        _ => Err(beyond),
    }
}

/// What a mapping is to show.
pub(super) enum Source<'a> {
    Anonymous(Backing),
    /// A file from an offset, copied when written.
    Private(BorrowedFd<'a>, u64),
    /// A file from an offset, as it is.
    Shared(BorrowedFd<'a>, u64),
    /// The same, by the broker's own mapping.
    Broker(BorrowedFd<'a>, u64),
    /// Memory that processes will have in common.
    Common(BorrowedFd<'a>),
}

impl Source<'_> {
    /// The file, as it is called, if it is one: mostly the one that was mapped last.
    fn named(&self, last: &Option<Arc<NamedFile>>) -> SysResult<Option<Arc<NamedFile>>> {
        let fd = match self {
            Self::Anonymous(_) => return Ok(None),
            Self::Private(fd, _) | Self::Shared(fd, _) | Self::Broker(fd, _) => fd.as_raw_fd(),
            Self::Common(fd) => {
                let named = NamedFile::called("/dev/zero (deleted)", fd.as_raw_fd());
                return named.map(Arc::new).map(Some);
            }
        };
        match last {
            Some(last) if last.is(fd) => Ok(Some(Arc::clone(last))),
            _ => NamedFile::of(fd).map(Arc::new).map(Some),
        }
    }
}

/// What a process has mapped where, and its heap. Whoever changes the micro-VM's regions has it locked.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub(crate) space: Space,
    pub(crate) heap: Heap,
    /// What of it other processes may have as well.
    pub(crate) shared: SharedMaps,
    /// The file that was mapped last.
    pub(crate) last: Option<Arc<NamedFile>>,
}

impl Book {
    /// The range around an address, below `limit`, in which nothing is mapped by the broker's own mappings. It is one
    /// mapping of guest memory when it is hidden as a whole, however many it has become.
    pub(super) fn without_files(&self, limit: u64, address: u64) -> Range<u64> {
        let files = self.of_broker();
        let below = files.iter().filter(|file| file.end <= address);
        let above = files.iter().filter(|file| file.start > address);
        let start = below.map(|file| file.end).max().unwrap_or(0);
        start..above.map(|file| file.start).min().unwrap_or(limit)
    }

    /// What is mapped by the broker's own mappings.
    pub(crate) fn of_broker(&self) -> Vec<Range<u64>> {
        let all = self.space.pieces(0, u64::MAX);
        all.into_iter()
            .filter(|piece| piece.backing == Backing::BrokerFile)
            .map(|piece| piece.start..piece.end)
            .collect()
    }

    /// That of a process which has mapped `space` so far.
    pub(crate) fn new(space: Space, heap: Heap) -> Self {
        Self {
            space,
            heap,
            shared: SharedMaps::default(),
            last: None,
        }
    }
}

/// The book of a task, to change the address space.
pub(super) fn change(task: &Task) -> SysResult<MutexGuard<'_, Book>> {
    if task.child.as_ref().is_some_and(Child::shares_memory) {
        // The parent, whose memory it is, would not know.
        return Err(Errno::ENOMEM);
    }
    Ok(task.shared.book.lock())
}

/// How many files there can be by the broker's own mappings, of which the kernel has some more for each, and no more
/// than 65,530.
const BROKER_FILES: usize = 10_000;

/// Maps a free range.
pub(super) fn map(
    task: &Task,
    book: &mut Book,
    (start, end): (u64, u64),
    prot: Prot,
    source: &Source<'_>,
) -> SysResult<()> {
    let named = source.named(&book.last)?;
    let (vm, len) = (task.memory.vm(), end - start);
    let (result, backing, offset) = match *source {
        Source::Anonymous(backing) => (vm.map_anonymous(start, len, prot), backing, 0),
        Source::Private(fd, offset) => {
            let result = vm.map_file(start, len, prot, fd, offset);
            (result, Backing::PrivateFile, offset)
        }
        Source::Shared(fd, offset) => {
            let result = vm.map_shared(start, len, prot, fd, offset);
            (result, Backing::SharedFile, offset)
        }
        Source::Broker(fd, offset) => {
            if book.of_broker().len() >= BROKER_FILES {
                return Err(Errno::ENOMEM);
            }
            let shown = task.memory.show(start..end, prot, fd, offset);
            if let Err(errno) = shown {
                task.memory.hide(start..end);
                return Err(errno);
            }
            (Ok(()), Backing::BrokerFile, offset)
        }
        Source::Common(fd) => (
            vm.map_shared(start, len, prot, fd, 0),
            Backing::SharedFile,
            0,
        ),
    };
    result.map_err(region_error)?;
    if let Source::Shared(fd, _) | Source::Broker(fd, _) | Source::Common(fd) = *source {
        // What the broker cannot write no other process waits for there.
        if book.shared.insert((start, end), fd, offset).is_ok() {
            task.has_common_memory();
        }
    }
    let area = Area { end, prot, backing };
    match named {
        None => book.space.insert(start, area),
        Some(named) => {
            book.space.insert_file(start, area, &named, offset);
            book.last = Some(named);
        }
    }
    Ok(())
}

/// Unmaps a range.
pub(super) fn unmap(task: &Task, book: &mut Book, start: u64, end: u64) -> SysResult<()> {
    let pieces = book.space.pieces(start, end);
    if pieces
        .iter()
        .any(|piece| piece.backing != Backing::Reserved)
    {
        let vm = task.memory.vm();
        vm.unmap(start, end - start).map_err(region_error)?;
    }
    book.space.remove(start, end);
    book.shared.remove(start, end);
    if pieces
        .iter()
        .any(|piece| piece.backing == Backing::BrokerFile)
    {
        task.memory
            .hide(book.without_files(task.memory.limit(), start));
    }
    Ok(())
}

pub(super) fn mmap(task: &mut Task, [address, len, prot, flags, fd, offset]: Args) -> SysResult {
    let flags = flags as i32;
    if len == 0 || offset % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL);
    }
    let shared = match flags & libc::MAP_TYPE {
        libc::MAP_PRIVATE => false,
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    let prot = protection(task, prot)?;
    let len = page_up(len).ok_or(Errno::ENOMEM)?;
    if flags & libc::MAP_HUGETLB != 0 {
        // There are no huge pages in the pool.
        return Err(Errno::ENOMEM);
    }
    let file = match flags & libc::MAP_ANONYMOUS {
        0 => mappable(task.fds.guest(fd)?)?,
        _ => None,
    };
    let (memory, pinned);
    let source = match (file, shared) {
        (None, false) => Source::Anonymous(Backing::Anonymous),
        (None, true) => {
            memory = task.fds.memory_file(&task.fds.hold(), c"shared", len)?;
            Source::Common(memory.as_fd())
        }
        (Some(fd), shared) => {
            let checked = prot.contains(Prot::EXEC) && !task.access.executes_all();
            let fd = match checked || !task.shared.threads.is_alone() {
                true => {
                    // What it is now, whatever other threads make of the number.
                    pinned = task.fds.duplicate(fd)?;
                    mappable(pinned.as_raw_fd())?;
                    pinned.as_fd()
                }
                // SAFETY: The descriptor was open, as `mappable` saw, and there is nobody else who could close it.
                false => unsafe { BorrowedFd::borrow_raw(fd) },
            };
            if prot.contains(Prot::EXEC) {
                notes::file(fd.as_raw_fd());
            }
            if checked {
                notes::refused(fd.as_raw_fd(), task.scope().check_execute(fd))?;
            }
            match shared {
                true if is_for_broker(fd, prot)? => Source::Broker(fd, offset),
                true => Source::Shared(fd, offset),
                false => Source::Private(fd, offset),
            }
        }
    };
    let mut book = change(task)?;
    let start = choose(task, &book, address, len, flags)?;
    let end = start + len;
    if flags & libc::MAP_FIXED != 0 {
        unmap(task, &mut book, start, end)?;
    }
    map(task, &mut book, (start, end), prot, &source)?;
    Ok(start)
}

/// Checks that a file can be mapped; `None` stands for one that is zeroed memory.
fn mappable(fd: RawFd) -> SysResult<Option<i32>> {
    let flags = pass!(FCNTL, fd, libc::F_GETFL, 0)? as i32;
    if flags & libc::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if flags & libc::O_ACCMODE == libc::O_WRONLY {
        return Err(Errno::EACCES);
    }
    match status::status_of(fd)?.is_zero_device() {
        true => Ok(None),
        false => Ok(Some(fd)),
    }
}

/// Whether a shared mapping of a file is the broker's own: one to which the guest may write, now or later, so that all
/// is as the file system has it. What is executable the module maps by itself.
fn is_for_broker(fd: BorrowedFd<'_>, prot: Prot) -> SysResult<bool> {
    let flags = pass!(FCNTL, fd.as_raw_fd(), libc::F_GETFL, 0)? as i32;
    let is_writable = flags & libc::O_ACCMODE == libc::O_RDWR;
    if prot.contains(Prot::WRITE) && !is_writable {
        return Err(Errno::EACCES);
    }
    if !is_writable || prot.contains(Prot::EXEC) {
        return Ok(false);
    }
    // What devices do when they are mapped is not for a task to have done.
    Ok(status::status_of(fd.as_raw_fd())?.kind() == libc::S_IFREG)
}

/// Chooses where a mapping goes.
pub(super) fn choose(task: &Task, book: &Book, address: u64, len: u64, flags: i32) -> SysResult {
    let limit = task.memory.limit();
    if flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0 {
        let (start, end) = pages(task, address, len, Errno::ENOMEM)?;
        if start < MMAP_MIN {
            return Err(Errno::EPERM);
        }
        if flags & libc::MAP_FIXED == 0 && !book.space.is_free(start, end) {
            return Err(Errno::EEXIST);
        }
        return Ok(start);
    }
    if len > limit {
        return Err(Errno::ENOMEM);
    }
    if address != 0 {
        let hint = page_up(address).map(|hint| hint.max(MMAP_MIN));
        let end = hint.and_then(|hint| hint.checked_add(len));
        if let (Some(hint), Some(end)) = (hint, end) {
            if end <= limit && book.space.is_free(hint, end) {
                return Ok(hint);
            }
        }
    }
    let (bottom, top) = match flags & libc::MAP_32BIT {
        0 => (MMAP_MIN, task.shared.layout.mmap_top),
        _ => (1 << 30, 1 << 31),
    };
    book.space.find(len, bottom, top).ok_or(Errno::ENOMEM)
}

pub(super) fn munmap(task: &mut Task, [start, len, ..]: Args) -> SysResult {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = pages(task, start, len, Errno::EINVAL)?;
    unmap(task, &mut *change(task)?, start, end)?;
    Ok(0)
}

pub(super) fn mprotect(task: &mut Task, [start, len, prot, ..]: Args) -> SysResult {
    let prot = protection(task, prot)?;
    let (start, end) = pages(task, start, len, Errno::ENOMEM)?;
    if start == end {
        return Ok(0);
    }
    let mut book = change(task)?;
    if !book.space.is_mapped(start, end) {
        return Err(Errno::ENOMEM);
    }
    let pieces = book.space.pieces(start, end);
    if pieces.iter().all(|piece| piece.prot == prot) {
        return Ok(0);
    }
    if prot.contains(Prot::EXEC) {
        note_files(&book, &pieces);
    }
    if prot.contains(Prot::EXEC) && !task.access.executes_all() {
        for piece in &pieces {
            let is_file = matches!(piece.backing, Backing::PrivateFile | Backing::SharedFile);
            if let Some((file, _)) = book.space.file(piece.start).filter(|_| is_file) {
                let may = task.scope().check_execute_mapped(file);
                may.map_err(notes::denied)?;
            }
        }
    }
    let mut files = pieces;
    files.retain(|piece| piece.backing == Backing::BrokerFile);
    if prot.contains(Prot::EXEC) && !files.is_empty() {
        return Err(Errno::EACCES);
    }
    let here = |file: &Piece, prot| task.memory.protect(file.start..file.end, prot);
    let all = files.iter().try_for_each(|file| here(file, prot));
    let all = all.and_then(|()| {
        let vm = task.memory.vm();
        vm.protect(start, end - start, prot).map_err(region_error)
    });
    if let Err(errno) = all {
        // As far as it came; where there is less than before, the task is told so by a signal.
        for file in &files {
            let _ = here(file, file.prot);
        }
        return Err(errno);
    }
    book.space.protect(start, end, prot);
    Ok(0)
}

/// Notes which file becomes executable, if it is one, as it is on the disk.
fn note_files(book: &Book, pieces: &[Piece]) {
    let is_file = |piece: &Piece| {
        let file = matches!(piece.backing, Backing::PrivateFile | Backing::SharedFile);
        file && !piece.prot.contains(Prot::WRITE)
    };
    if let (true, Some(first)) = (pieces.iter().all(is_file), pieces.first()) {
        let file = book.space.file(first.start);
        notes::note(|notes| notes.file = file.map(|(file, _)| file.path().to_vec()));
    }
}

/// The heap: where it starts, and the break.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Heap {
    /// Where it starts.
    pub start: u64,
    /// Where it ends, in bytes.
    pub end: u64,
}

pub(super) fn brk(task: &mut Task, [address, ..]: Args) -> SysResult {
    let Ok(mut book) = change(task) else {
        return Ok(task.shared.book.lock().heap.end);
    };
    // A break that cannot be is answered with the one that is.
    if move_break(task, &mut book, address).is_some() {
        book.heap.end = address;
    }
    Ok(book.heap.end)
}

/// Moves the break, if it can be there.
fn move_break(task: &Task, book: &mut Book, address: u64) -> Option<()> {
    let (old, new) = (page_up(book.heap.end)?, page_up(address)?);
    if address < book.heap.start || new > task.memory.limit() {
        return None;
    }
    if new == old {
        return Some(());
    }
    if new > old {
        // As on Linux, a page stays free between the heap and what is above it.
        if !book.space.is_free(old, new.checked_add(PAGE_SIZE)?) {
            return None;
        }
        let prot = Prot::READ | Prot::WRITE;
        let source = Source::Anonymous(Backing::Heap);
        map(task, book, (old, new), prot, &source).ok()
    } else {
        unmap(task, book, new, old).ok()
    }
}

pub(super) fn madvise(task: &mut Task, [start, len, advice, ..]: Args) -> SysResult {
    let (start, end) = pages(task, start, len, Errno::ENOMEM)?;
    if start == end {
        return Ok(0);
    }
    let book = change(task)?;
    if !book.space.is_mapped(start, end) {
        return Err(Errno::ENOMEM);
    }
    match advice as i32 {
        libc::MADV_DONTNEED => discard(task, &book, start, end),
        libc::MADV_NORMAL
        | libc::MADV_RANDOM
        | libc::MADV_SEQUENTIAL
        | libc::MADV_WILLNEED
        | libc::MADV_FREE
        | libc::MADV_HUGEPAGE
        | libc::MADV_NOHUGEPAGE
        | libc::MADV_DONTDUMP
        | libc::MADV_DODUMP
        | libc::MADV_MERGEABLE
        | libc::MADV_UNMERGEABLE
        | libc::MADV_COLD
        | libc::MADV_PAGEOUT => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// Gives a range's memory back; it is zero, or the file's, when it is next read.
fn discard(task: &Task, book: &Book, start: u64, end: u64) -> SysResult {
    for piece in book.space.pieces(start, end) {
        let others = [Backing::SharedFile, Backing::BrokerFile, Backing::Kernel];
        if !others.contains(&piece.backing) {
            let vm = task.memory.vm();
            let len = piece.end - piece.start;
            vm.discard(piece.start, len).map_err(region_error)?;
        }
    }
    Ok(0)
}

/// `msync`: files that live in memory have nothing to write back.
pub(super) fn msync(task: &mut Task, [start, len, flags, ..]: Args) -> SysResult {
    let flags = flags as i32;
    let known = libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC;
    let both = libc::MS_ASYNC | libc::MS_SYNC;
    if flags & !known != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    check_range(task, [start, len, 0, 0, 0, 0])?;
    let (start, end) = pages(task, start, len, Errno::ENOMEM)?;
    // Not while the book is locked, as it takes long; what another thread unmaps meanwhile is written back by that.
    let pieces = task.shared.book.lock().space.pieces(start, end);
    for piece in pieces {
        if piece.backing == Backing::BrokerFile {
            task.memory.sync(piece.start..piece.end, flags)?;
        }
    }
    Ok(0)
}

/// For calls that have nothing to do but to say whether the range is mapped.
pub(super) fn check_range(task: &mut Task, [start, len, ..]: Args) -> SysResult {
    let (start, end) = pages(task, start, len, Errno::ENOMEM)?;
    if task.shared.book.lock().space.is_mapped(start, end) {
        Ok(0)
    } else {
        Err(Errno::ENOMEM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_files_end_at_files() {
        let heap = Heap { start: 0, end: 0 };
        let mut book = Book::new(Space::default(), heap);
        let prot = Prot::READ;
        for (start, end, backing) in [
            (0x1000, 0x2000, Backing::Anonymous),
            (0x3000, 0x4000, Backing::BrokerFile),
            (0x5000, 0x6000, Backing::SharedFile),
            (0x8000, 0x9000, Backing::BrokerFile),
        ] {
            book.space.insert(start, Area { end, prot, backing });
        }
        assert_eq!(book.of_broker(), [0x3000..0x4000, 0x8000..0x9000]);
        let around = |address| book.without_files(0x10000, address);
        assert_eq!(around(0x1000), 0..0x3000);
        assert_eq!(around(0x4000), 0x4000..0x8000);
        assert_eq!(around(0x7fff), 0x4000..0x8000);
        assert_eq!(around(0x9000), 0x9000..0x10000);
    }
}
