// SPDX-License-Identifier: GPL-2.0

//! The steward: a process beside a task's broker that does what this, being confined, cannot: end the task when its
//! time is up, and remove what was made for it.
//!
//! It hears nothing from the broker but that it has ended, and has nothing open but that and standard error.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{getpid, pidfd_open, pidfd_send_signal, PidfdFlags, Signal};

use uvisor::audit::{Limit, Outlet};
use uvisor::errno::Errno;

use super::apart;
use super::cgroup::Cgroup;

/// What it does.
pub(super) struct Duties<'a> {
    /// How the task is called in messages.
    pub(super) name: String,
    /// How long it may take from now on.
    pub(super) time: Option<Duration>,
    /// How much time of CPUs all its processes may use together, where there is a cgroup that counts it.
    pub(super) cpu: Option<Duration>,
    /// What is removed behind it.
    pub(super) cgroup: Option<Cgroup>,
    /// Where the audit is told for what it ends the task.
    pub(super) outlet: Option<&'a Outlet>,
}

/// Starts the steward of this process, if there is something to do for it.
pub(super) fn spawn(duties: Duties<'_>) -> Result<(), String> {
    if duties.time.is_none() && duties.cgroup.is_none() {
        return Ok(());
    }
    let failed = |what: &str, error: Errno| format!("cannot start its steward: {what}: {error}");
    let broker = pidfd_open(getpid(), PidfdFlags::empty());
    let broker = broker.map_err(|error| failed("pidfd_open", error.into()))?;
    // SAFETY: This process has one thread, so its copy is whole.
    if unsafe { uvisor::fork_unseen() }.map_err(|error| failed("fork", error))? == 0 {
        serve(duties, broker);
    }
    // Its cgroup is the steward's to leave and to remove.
    std::mem::forget(duties.cgroup);
    Ok(())
}

/// Ends this process without what a program does at its end.
fn end(status: i32) -> ! {
    // SAFETY: It does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

/// What the steward does.
fn serve(duties: Duties<'_>, broker: OwnedFd) -> ! {
    let outlet = duties.outlet.map(|outlet| outlet.as_fd().as_raw_fd());
    let kept: Vec<RawFd> = outlet.into_iter().chain([broker.as_raw_fd()]).collect();
    apart::stand_beside(c"uvctl-steward", &kept);
    if let Some((limit, why)) = watch(&duties, &broker) {
        if let Some(outlet) = duties.outlet {
            outlet.tell_limit(limit);
        }
        // There may be nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "uvctl: {} was killed: {why}",
            duties.name
        );
        let _ = pidfd_send_signal(&broker, Signal::KILL);
        has_ended(&broker, None);
    }
    drop(duties.cgroup);
    end(0)
}

/// Waits until a task has ended, or is to be ended for what is returned.
fn watch(duties: &Duties<'_>, broker: &OwnedFd) -> Option<(Limit, String)> {
    /// How long to wait at least before the time of CPUs is looked at again.
    const PAUSE: Duration = Duration::from_millis(20);
    let start = Instant::now();
    loop {
        let time = duties.time.map(|time| (time, start.elapsed()));
        let cpu = duties
            .cpu
            .zip(duties.cgroup.as_ref().and_then(Cgroup::cpu_time));
        if let Some((time, _)) = time.filter(|(time, passed)| passed >= time) {
            let why = format!("its time, {time:?}, was up (--time)");
            return Some((Limit::Time, why));
        }
        // As a process gets a second to end by itself.
        let grace = Duration::from_secs(1);
        let cpu = cpu.map(|(cpu, used)| (cpu, (cpu + grace).saturating_sub(used)));
        if let Some((cpu, _)) = cpu.filter(|(_, left)| left.is_zero()) {
            let why =
                format!("its processes used up the time of CPUs that it had, {cpu:?} (--cpu)");
            return Some((Limit::Cpu, why));
        }
        let cpu = cpu.map(|(_, left)| (left / cpus()).max(PAUSE));
        let time = time.map(|(time, passed)| time.saturating_sub(passed));
        if has_ended(broker, time.into_iter().chain(cpu).min()) {
            return None;
        }
    }
}

/// How many CPUs there are.
fn cpus() -> u32 {
    // SAFETY: It takes a number, and gives one.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    u32::try_from(cpus).map_or(1, |cpus| cpus.max(1))
}

/// Waits for the end of a process; whether it has ended in time.
fn has_ended(process: &OwnedFd, within: Option<Duration>) -> bool {
    let start = Instant::now();
    loop {
        let left = within.map(|within| within.saturating_sub(start.elapsed()));
        let timeout = left.map(|left| rustix::time::Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) => return false,
            // What cannot be waited for is not waited for.
            _ => return true,
        }
    }
}
