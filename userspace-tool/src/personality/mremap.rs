// SPDX-License-Identifier: GPL-2.0

//! `mremap`: areas that get another length, or another place.

use std::sync::Arc;

use super::book::{change, choose, map, pages, region_error, unmap, Book, Source};
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::layout::{page_up, MMAP_MIN};
use crate::space::{Area, Backing, Piece};
use crate::task::Task;

pub(super) fn mremap(task: &mut Task, args: Args) -> SysResult {
    let [old, old_len, new_len, flags, new, _] = args;
    let flags = flags as i32;
    let (may_move, fixed) = (
        flags & libc::MREMAP_MAYMOVE != 0,
        flags & libc::MREMAP_FIXED != 0,
    );
    let known = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    if flags & !known != 0 || fixed && !may_move || old_len == 0 || new_len == 0 {
        return Err(Errno::EINVAL);
    }
    let (old, old_end) = pages(task, old, old_len, Errno::EFAULT)?;
    let new_len = page_up(new_len).ok_or(Errno::EINVAL)?;
    let old_len = old_end - old;
    let mut book = change(task)?;
    let book = &mut *book;
    let piece = match *book.space.pieces(old, old_end).as_slice() {
        [piece] if (piece.start, piece.end) == (old, old_end) => piece,
        _ => return Err(Errno::EFAULT),
    };
    let grows = new_len > old_len;
    let plain = matches!(piece.backing, Backing::Anonymous | Backing::Heap);
    if matches!(piece.backing, Backing::Reserved | Backing::Kernel) {
        return Err(Errno::EFAULT);
    }
    if !fixed {
        if !grows {
            if new_len < old_len {
                unmap(task, book, old + new_len, old_end)?;
            }
            return Ok(old);
        }
        let new_end = old.checked_add(new_len).ok_or(Errno::ENOMEM)?;
        if plain && new_end <= task.memory.limit() && book.space.is_free(old_end, new_end) {
            let source = Source::Anonymous(piece.backing);
            map(task, book, (old_end, new_end), piece.prot, &source)?;
            return Ok(old);
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
    }
    let new = if fixed {
        let (new, new_end) = pages(task, new, new_len, Errno::EINVAL)?;
        if new < old_end && old < new_end {
            return Err(Errno::EINVAL);
        }
        if new < MMAP_MIN {
            return Err(Errno::EPERM);
        }
        unmap(task, book, new, new_end)?;
        new
    } else {
        choose(task, book, 0, new_len, 0)?
    };
    relocate(task, book, piece, new, new_len)?;
    Ok(new)
}

/// Moves an area to a free range of another length.
fn relocate(task: &Task, book: &mut Book, piece: Piece, new: u64, new_len: u64) -> SysResult<()> {
    let len = piece.end - piece.start;
    if new_len < len {
        unmap(task, book, piece.start + new_len, piece.end)?;
    }
    let end = piece.end.min(piece.start + new_len);
    let of_broker = piece.backing == Backing::BrokerFile;
    if of_broker {
        task.memory
            .show_again(piece.start..end, new..new + new_len)?;
    }
    let vm = task.memory.vm();
    let moved = vm.remap(piece.start..end, new..new + new_len);
    if let (Err(_), true) = (&moved, of_broker) {
        task.memory.hide(new..new + new_len);
    }
    moved.map_err(region_error)?;
    let file = book.space.file(piece.start);
    let file = file.map(|(named, offset)| (Arc::clone(named), offset));
    book.space.remove(piece.start, end);
    let area = Area {
        end: new + new_len,
        prot: piece.prot,
        backing: piece.backing,
    };
    match file {
        None => book.space.insert(new, area),
        Some((named, offset)) => book.space.insert_file(new, area, &named, offset),
    }
    book.shared.relocate(piece.start, end, new);
    if of_broker {
        task.memory
            .hide(book.without_files(task.memory.limit(), piece.start));
    }
    Ok(())
}
