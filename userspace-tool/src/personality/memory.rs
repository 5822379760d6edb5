// SPDX-License-Identifier: GPL-2.0

//! Calls that map, unmap and protect memory, move the break, and give advice about it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use uvisor_uapi::{Prot, PAGE_SIZE};

use super::book::{change, choose, map, pages, region_error, unmap, Book, Source};
use super::{status, Args};
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::layout::page_up;
use crate::loader::of_code;
use crate::pass;
use crate::space::{Backing, Piece};
use crate::task::Task;

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
