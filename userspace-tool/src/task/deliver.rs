// SPDX-License-Identifier: GPL-2.0

//! Signals and faults come to the guest: its handler runs on a frame, and `sigreturn` goes back.

use super::fault::{floating_point_code, is_floating_point, Fault};
use super::{End, Ending, Task, TaskError};
use crate::errno::{Errno, SysResult};
use crate::frame::{self, Extended, Frame, Place, Trap, FRAME, FRAME_AND_LEGACY};
use crate::personality::{Action, Disposition, AUTODISARM};
use crate::signal::{self, bit, set_code, Info, Signal};

impl Task {
    /// Looks what has arrived for the thread.
    pub(super) fn attend(&mut self) -> Result<(), TaskError> {
        let woken = self.inbox.take_wake();
        let doomed = signal::is_doomed();
        if (woken || doomed) && self.is_to_leave() {
            // What has arrived is for who stays.
            self.ending = Some(Ending::Left);
            return Ok(());
        }
        if doomed {
            self.ending = Some(self.die(libc::SIGKILL));
            return Ok(());
        }
        let signal = self.inbox.take();
        self.inbox.clear();
        let interrupted = std::mem::take(&mut self.signals.interrupted);
        let temporary = self.signals.temporary.take();
        if woken {
            if let Some(parent) = signal::new_parent() {
                self.shared.stubs.set_parent(parent);
                if self.ends_with_parent {
                    signal::die_of(libc::SIGKILL);
                }
            }
        }
        match signal {
            Some(signal) => self.deliver(signal, interrupted, temporary),
            None => Ok(()),
        }
    }

    /// Gives a signal of the host's to the guest. `interrupted` says that it came while a call waited that may be
    /// made again; `temporary` is what such a call had blocked meanwhile.
    fn deliver(
        &mut self,
        signal: Signal,
        interrupted: bool,
        temporary: Option<u64>,
    ) -> Result<(), TaskError> {
        let number = signal.number;
        let mut actions = self.shared.actions.lock();
        let action = actions.deliver(number);
        let is_default = action.disposition() == Disposition::Default;
        if is_default && signal::is_fatal(number) {
            drop(actions);
            self.ending = Some(self.die(number));
            return Ok(());
        }
        if is_default {
            // It has changed its mind since: the host does what is to be done. Nobody changes it again meanwhile.
            signal::set_disposition(number, libc::SIG_DFL);
            // It cannot fail for a thread that there is.
            let _ = signal::send(signal::own_tid(), number, &signal.info);
        }
        drop(actions);
        match action.disposition() {
            Disposition::Ignore | Disposition::Default => self.inbox.set_mask(self.signals.mask),
            Disposition::At(_) => {
                let interrupted = interrupted && self.is_at_call();
                if interrupted && !action.restarts() {
                    self.answer(Err(Errno::EINTR));
                }
                let blocked = temporary.unwrap_or(self.signals.mask);
                if self
                    .enter_handler(number, &action, signal.info, Trap::default(), blocked)
                    .is_err()
                {
                    self.no_stack(number);
                }
            }
        }
        Ok(())
    }

    /// Whether the thread is at a system call that was neither served, by whomever, nor answered.
    fn is_at_call(&self) -> bool {
        let regs = self.vcpu.regs();
        let place = self.thread.stub.place(regs.rip);
        regs.cpl == 0 && place == Some(crate::stubs::Place::Before)
    }

    /// Gives the guest a signal that it cannot put off; `end` is what it comes to if it does not handle it.
    pub(super) fn force(&mut self, fault: &Fault, end: End) {
        let number = fault.signal;
        let blocked = self.signals.mask & bit(number) != 0;
        let action = match blocked {
            true => Action::default(),
            false => self.shared.actions.lock().deliver(number),
        };
        if !matches!(action.disposition(), Disposition::At(_)) {
            self.end(end);
            return;
        }
        let mask = self.signals.mask;
        if self
            .enter_handler(number, &action, fault.info(), fault.trap, mask)
            .is_err()
        {
            self.no_stack(number);
        }
    }

    /// The guest has no stack for a handler. As on Linux, that is a fault of its own, whose handler may have one.
    fn no_stack(&mut self, number: i32) {
        let text = format!("has no room on its stack for the handler of signal {number}");
        let end = End::Fault(libc::SIGSEGV, text);
        match number {
            libc::SIGSEGV => self.end(end),
            _ => self.force(&Fault::of_stack(), end),
        }
    }

    /// Where the frame for a handler goes.
    fn place(&self, action: &Action) -> Option<Place> {
        let sp = self.vcpu.regs().rsp;
        let stack = &self.signals.stack;
        let extended = Extended::get();
        match action.on_stack() && stack.is_enabled() && !stack.holds(sp) {
            true => frame::place(stack.top(), false, extended),
            false => frame::place(sp, true, extended),
        }
    }

    /// Makes the guest go on in a handler, with `blocked` and what the action says blocked.
    fn enter_handler(
        &mut self,
        number: i32,
        action: &Action,
        mut info: Info,
        trap: Trap,
        blocked: u64,
    ) -> SysResult<()> {
        let Disposition::At(handler) = action.disposition() else {
            return Err(Errno::EINVAL);
        };
        // What is not canonical cannot be gone to.
        if handler >> 47 != 0 {
            return Err(Errno::EFAULT);
        }
        let context = self.user_context().map_err(|_| Errno::EFAULT)?;
        let place = self.place(action).ok_or(Errno::EFAULT)?;
        let sp = context.rsp;
        let extended = Extended::get();
        let frame = Frame {
            regs: context,
            mask: self.signals.mask,
            stack: self.signals.stack.shown(sp),
            state: place.state,
        };
        let image = frame.image(place, extended, action.restorer(), &info, trap);
        let tail = place.state + extended.size as u64;
        self.memory
            .range(place.frame, (tail - place.frame) as usize + Extended::TAIL)?;
        self.memory.write(place.frame, image.bytes())?;
        self.memory.write(tail, &extended.tail())?;
        self.store_extended(place.state)?;
        if is_floating_point(trap) {
            // Only the guest's extended state says which it was.
            let code = floating_point_code(trap.vector, &self.memory.read(place.state)?);
            set_code(&mut info, code);
            self.memory.write(place.frame + frame::INFO_AT, &info)?;
        }
        if self.signals.stack.flags() & AUTODISARM != 0 {
            self.signals.stack.disarm();
        }
        let regs = self.vcpu.regs_mut();
        *regs = context;
        frame::enter_handler(regs, handler, number, place.frame);
        self.answered = false;
        self.set_mask(blocked | action.blocks(number));
        Ok(())
    }

    /// The thread blocks `mask` from now on.
    pub(crate) fn set_mask(&mut self, mask: u64) {
        self.signals.mask = mask & !(bit(libc::SIGKILL) | bit(libc::SIGSTOP));
        self.inbox.set_mask(self.signals.mask);
    }

    /// A mask of the task's that holds while a call waits, for the host. The host never blocks [`signal::WAKE`].
    pub(crate) fn temporary_mask(&mut self, mask: [u8; 8]) -> [u8; 8] {
        let temporary = u64::from_le_bytes(mask);
        self.signals.temporary = Some(temporary);
        if self.is_other_about_wake(temporary) {
            self.inbox.open_for_call(temporary);
        }
        self.signals.host_mask(mask)
    }

    /// Whether a mask says something else of the signal than the thread's does.
    fn is_other_about_wake(&self, mask: u64) -> bool {
        (mask ^ self.signals.mask) & bit(signal::WAKE) != 0
    }

    /// A call is over that had `mask` in place of the thread's, with `result`; returns what it comes to.
    pub(super) fn end_of_temporary(&mut self, mask: u64, result: SysResult) -> SysResult {
        if !self.is_other_about_wake(mask) {
            return result;
        }
        let opened = mask & bit(signal::WAKE) == 0;
        let result = match result {
            // It is there because the call let it in, even if that was not made any more.
            Err(Errno::ERESTARTNOINTR) if opened && self.inbox.has_wake() => Err(Errno::EINTR),
            result => result,
        };
        let interrupted = matches!(
            result,
            Err(Errno::EINTR | Errno::ERESTARTSYS | Errno::ERESTARTNOINTR)
        );
        self.inbox.close_after_call(self.signals.mask, interrupted);
        result
    }

    /// `rt_sigreturn`: back to what a frame says.
    pub(crate) fn sigreturn(&mut self) -> SysResult {
        // The handler's RET has taken the first word.
        let frame = self.vcpu.regs().rsp.wrapping_sub(8);
        if self.leave_handler(frame).is_err() {
            // A handler for that goes back to behind the call, if it goes back.
            self.answer(Ok(0));
            let text = format!("returned from a signal handler with a bad frame at {frame:#x}");
            self.force(&Fault::of_stack(), End::Fault(libc::SIGSEGV, text));
        }
        self.answered = true;
        Ok(0)
    }

    /// Goes back by the frame at `address`.
    fn leave_handler(&mut self, address: u64) -> SysResult<()> {
        let (bytes, both) = self.read_frame(address)?;
        let frame = Frame::read(&bytes, self.vcpu.regs());
        // What is good of a bad frame counts, as on Linux.
        self.set_mask(frame.mask);
        // What is not canonical cannot be gone to.
        if frame.regs.rip >> 47 != 0 {
            return Err(Errno::EFAULT);
        }
        let legacy = both.and_then(|both| frame::legacy_within(&both, address, frame.state));
        self.load_extended(frame.state, legacy)?;
        *self.vcpu.regs_mut() = frame.regs;
        self.signals.stack.restore(&frame.stack);
        Ok(())
    }

    /// The frame at `address`, with what is behind it if that is there: where we put it, the extended state is.
    fn read_frame(&self, address: u64) -> SysResult<([u8; FRAME], Option<[u8; FRAME_AND_LEGACY]>)> {
        let Ok(both) = self.memory.read::<FRAME_AND_LEGACY>(address) else {
            return Ok((self.memory.read(address)?, None));
        };
        let (frame, _) = both.split_first_chunk().ok_or(Errno::EFAULT)?;
        Ok((*frame, Some(both)))
    }
}
