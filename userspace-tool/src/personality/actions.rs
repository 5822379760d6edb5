// SPDX-License-Identifier: GPL-2.0

//! What signals do to a task, and what its threads block: the state behind [`super::signals`].
//!
//! The host has the same masks, and for each signal the same disposition; where the task has a handler,
//! [`crate::signal`] collects for it.

use serde::{Deserialize, Serialize};

use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;
use crate::signal::{self, bit, WAKE};

/// One more than the highest signal.
pub(super) const SIGNALS: usize = 65;

/// The size of a signal mask.
pub(super) const MASK: u64 = 8;

/// `SS_AUTODISARM`.
pub(crate) const AUTODISARM: i32 = 1 << 31;

/// The smallest alternate stack (`MINSIGSTKSZ`).
const STACK_MIN: u64 = 2048;

/// What a signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// What it does by default.
    Default,
    /// Nothing.
    Ignore,
    /// It calls this.
    At(u64),
}

/// An action: handler, flags, restorer and mask, as the kernel's `struct sigaction` has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Action(pub(super) [u8; 32]);

impl Action {
    /// What it does.
    pub(crate) fn disposition(&self) -> Disposition {
        match word(&self.0, 0) {
            0 => Disposition::Default,
            1 => Disposition::Ignore,
            address => Disposition::At(address),
        }
    }

    fn has(&self, flag: i32) -> bool {
        self.flags() & u64::from(flag as u32) != 0
    }

    fn flags(&self) -> u64 {
        word(&self.0, 8)
    }

    /// Where the handler returns to.
    pub(crate) fn restorer(&self) -> u64 {
        word(&self.0, 16)
    }

    /// Whether calls that it interrupts are made again.
    pub(crate) fn restarts(&self) -> bool {
        self.has(libc::SA_RESTART)
    }

    /// Whether it wants the alternate stack.
    pub(crate) fn on_stack(&self) -> bool {
        self.has(libc::SA_ONSTACK)
    }

    /// What is blocked while the handler runs.
    pub(crate) fn blocks(&self, number: i32) -> u64 {
        let own = match self.has(libc::SA_NODEFER) {
            true => 0,
            false => bit(number),
        };
        word(&self.0, 24) | own
    }

    /// Makes the host do what is the host's.
    fn apply(&self, number: i32) {
        match self.disposition() {
            // The broker needs it; what it is for the task is seen when it comes.
            _ if number == WAKE => signal::set_collected(number, 0),
            Disposition::Default => signal::set_default(number),
            Disposition::Ignore => signal::set_disposition(number, libc::SIG_IGN),
            Disposition::At(_) => signal::set_collected(number, self.flags()),
        }
    }
}

/// The actions of all signals.
#[derive(Clone, Debug)]
pub(crate) struct Actions([Action; SIGNALS]);

impl Actions {
    /// Those that the broker has inherited; `pipe_ignored` is what it was for SIGPIPE.
    ///
    /// What the Rust runtime set for itself is undone, in the broker too.
    pub(crate) fn inherit(pipe_ignored: bool) -> Self {
        let mut actions = Self([Action::default(); SIGNALS]);
        for (number, action) in (1..).zip(actions.0.iter_mut().skip(1)) {
            let ignored = match number {
                libc::SIGPIPE => pipe_ignored,
                libc::SIGSEGV | libc::SIGBUS => false,
                _ => is_ignored(number),
            };
            if ignored {
                action.0[0] = 1;
            }
            if matches!(number, libc::SIGPIPE | libc::SIGSEGV | libc::SIGBUS) {
                action.apply(number);
            }
        }
        actions
    }

    /// The action of a signal.
    pub(super) fn get(&self, number: i32) -> Action {
        let slot = usize::try_from(number).ok();
        let action = slot.and_then(|number| self.0.get(number));
        action.copied().unwrap_or_default()
    }

    /// Gives a signal another action, and the host what is the host's of it; returns the one before.
    pub(super) fn set(&mut self, number: i32, action: Action) -> SysResult<Action> {
        let slot = usize::try_from(number).ok();
        let slot = slot.and_then(|number| self.0.get_mut(number));
        let before = std::mem::replace(slot.ok_or(Errno::EINVAL)?, action);
        action.apply(number);
        Ok(before)
    }

    /// The action for a signal that has come, which may be good for one time only.
    pub(crate) fn deliver(&mut self, number: i32) -> Action {
        let action = self.get(number);
        if action.has(libc::SA_RESETHAND) && matches!(action.disposition(), Disposition::At(_)) {
            // There is a slot, as there was an action.
            let _ = self.set(number, Action::default());
        }
        action
    }

    /// Makes the host do what fatal signals do by default, which is something else now. Of others it would forget those
    /// that wait.
    pub(crate) fn apply_defaults(&self) {
        for (number, action) in (1..).zip(self.0.iter().skip(1)) {
            if signal::is_fatal(number) && action.disposition() == Disposition::Default {
                action.apply(number);
            }
        }
    }

    /// Those of the program that takes this one's place: handlers go, what is ignored stays.
    pub(crate) fn after_exec(&self) -> Self {
        let mut after = self.clone();
        for action in &mut after.0 {
            let ignored = action.disposition() == Disposition::Ignore;
            *action = Action::default();
            action.0[0] = ignored.into();
        }
        after
    }

    /// Makes the host's those of this: what was handled has its default again.
    pub(crate) fn leave_handlers(&self) {
        for (number, action) in (1..).zip(self.0.iter().skip(1)) {
            if matches!(action.disposition(), Disposition::At(_)) {
                Action::default().apply(number);
            }
        }
    }
}

/// An alternate stack, a `stack_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AltStack([u8; 24]);

impl AltStack {
    const NONE: Self = {
        let mut bytes = [0; 24];
        bytes[8] = libc::SS_DISABLE as u8;
        Self(bytes)
    };

    fn base(&self) -> u64 {
        word(&self.0, 0)
    }

    fn size(&self) -> u64 {
        word(&self.0, 16)
    }

    /// `ss_flags`.
    pub(crate) fn flags(&self) -> i32 {
        word(&self.0, 8) as u32 as i32
    }

    /// Whether there is one.
    pub(crate) fn is_enabled(&self) -> bool {
        self.flags() & libc::SS_DISABLE == 0
    }

    /// Its highest address.
    pub(crate) fn top(&self) -> u64 {
        self.base().wrapping_add(self.size())
    }

    /// Whether a stack pointer is in it. One that disarms itself is never in use.
    pub(crate) fn holds(&self, sp: u64) -> bool {
        self.is_enabled()
            && self.flags() & AUTODISARM == 0
            && sp > self.base()
            && sp.wrapping_sub(self.base()) <= self.size()
    }

    /// What a thread with this stack pointer is shown.
    pub(crate) fn shown(&self, sp: u64) -> [u8; 24] {
        let mut bytes = self.0;
        if self.holds(sp) {
            bytes[8] |= libc::SS_ONSTACK as u8;
        }
        bytes
    }

    /// There is none any more.
    pub(crate) fn disarm(&mut self) {
        *self = Self::NONE;
    }

    /// Sets it to what the guest wants.
    pub(super) fn set(&mut self, mut new: [u8; 24]) -> SysResult<()> {
        let flags = word(&new, 8) as u32 as i32;
        match flags & !AUTODISARM {
            0 | libc::SS_ONSTACK if word(&new, 16) < STACK_MIN => return Err(Errno::ENOMEM),
            // Being on it is a state, not a setting.
            0 | libc::SS_ONSTACK => new[8] &= !(libc::SS_ONSTACK as u8),
            libc::SS_DISABLE => new = Self::NONE.0,
            _ => return Err(Errno::EINVAL),
        }
        self.0 = new;
        Ok(())
    }

    /// Sets it to what a frame says, as far as that is one.
    pub(crate) fn restore(&mut self, saved: &[u8; 24]) {
        // As on Linux, one that is none is left.
        let _ = self.set(*saved);
    }
}

/// What a thread blocks, and its alternate stack.
#[derive(Clone, Debug)]
pub struct Signals {
    /// What it blocks.
    pub(crate) mask: u64,
    pub(crate) stack: AltStack,
    /// Whether the call that it is at may be made again behind a handler.
    pub(crate) interrupted: bool,
    /// What a call that waits had blocked meanwhile.
    pub(crate) temporary: Option<u64>,
}

impl Signals {
    fn new(mask: u64, stack: AltStack) -> Self {
        Self {
            mask,
            stack,
            interrupted: false,
            temporary: None,
        }
    }

    /// Those that the calling thread has inherited.
    pub(crate) fn inherit() -> SysResult<Self> {
        let mut mask = [0; 8];
        pass!(RT_SIGPROCMASK, libc::SIG_BLOCK, None, &mut mask, MASK)?;
        Ok(Self::new(u64::from_le_bytes(mask), AltStack::NONE))
    }

    /// Those of what this thread makes or becomes: the mask stays.
    pub(crate) fn inherited(&self) -> Self {
        Self::new(self.mask, AltStack::NONE)
    }

    /// A mask of the task's for a host call.
    pub(crate) fn host_mask(&self, mask: [u8; 8]) -> [u8; 8] {
        signal::host_mask(u64::from_le_bytes(mask)).to_le_bytes()
    }
}

/// The signals of a task, for another process to go on with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignalState {
    /// The actions that are not the default, by signal.
    actions: Vec<(i32, Action)>,
    stack: AltStack,
    /// Which are blocked.
    mask: u64,
}

impl SignalState {
    /// That of a task with one thread.
    pub(crate) fn of(actions: &Actions, signals: &Signals) -> Self {
        let all = (0..).zip(actions.0);
        Self {
            actions: all
                .filter(|(_, action)| *action != Action::default())
                .collect(),
            stack: signals.stack,
            mask: signals.mask,
        }
    }

    /// Goes on with it. What that process ignored, this one ignores from now on, besides what it ignored when it
    /// started (`pipe_ignored` is what that was for SIGPIPE).
    pub(crate) fn restore(&self, pipe_ignored: bool) -> SysResult<(Actions, Signals)> {
        // What the Rust runtime has set goes; what is inherited stays with the host.
        Actions::inherit(pipe_ignored);
        let mut actions = Actions([Action::default(); SIGNALS]);
        for (number, action) in &self.actions {
            actions.set(*number, *action)?;
        }
        Ok((actions, Signals::new(self.mask, self.stack)))
    }
}

/// Whether this process ignores a signal.
pub fn is_ignored(number: i32) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: It only writes to `old`, which is large enough.
    let result = unsafe { libc::sigaction(number, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: All bytes are initialised, and any are valid for this structure.
    result == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(base: u64, size: u64, flags: i32) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&base.to_le_bytes());
        bytes[8..12].copy_from_slice(&flags.to_le_bytes());
        bytes[16..].copy_from_slice(&size.to_le_bytes());
        bytes
    }

    #[test]
    fn stacks_are_in_use_by_their_pointer() {
        let mut alt = AltStack::NONE;
        assert!(!alt.is_enabled() && !alt.holds(0x1800));
        assert_eq!(alt.set(stack(0x1000, 100, 0)), Err(Errno::ENOMEM));
        assert_eq!(alt.set(stack(0x1000, 4096, 7)), Err(Errno::EINVAL));
        alt.set(stack(0x1000, 4096, 0)).unwrap();
        assert!(alt.holds(0x1001) && alt.holds(0x2000));
        assert!(!alt.holds(0x1000) && !alt.holds(0x2001));
        assert_eq!(alt.shown(0x1800)[8], libc::SS_ONSTACK as u8);
        alt.set(stack(0x1000, 4096, AUTODISARM)).unwrap();
        assert!(alt.is_enabled() && !alt.holds(0x1800));
    }

    #[test]
    fn exec_keeps_what_is_ignored() {
        let mut actions = Actions([Action::default(); SIGNALS]);
        actions.0[libc::SIGHUP as usize].0[0] = 1;
        actions.0[libc::SIGINT as usize].0[..8].copy_from_slice(&0x1000u64.to_le_bytes());
        let after = actions.after_exec();
        assert_eq!(after.get(libc::SIGHUP).disposition(), Disposition::Ignore);
        assert_eq!(after.get(libc::SIGINT), Action::default());
    }

    #[test]
    fn flags_say_what_is_blocked() {
        let mut action = Action::default();
        action.0[24] = 2;
        assert_eq!(action.blocks(1), 3);
        action.0[8..16].copy_from_slice(&(libc::SA_NODEFER as u64).to_le_bytes());
        assert_eq!(action.blocks(1), 2);
    }
}
