// SPDX-License-Identifier: GPL-2.0

//! How events come out of a task: a socket, whose one end all its brokers have, and the recorder the other.
//!
//! What was told nobody in the task can take back or change. A broker waits for a moment when there is no room; what
//! there is no room for then is lost, and counted in memory that both sides have. After that nobody waits before there is
//! room again, so that a recorder that is stopped does not stop the task.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
use rustix::net::sockopt::{set_socket_passcred, set_socket_timeout, Timeout};
use rustix::net::{shutdown, socketpair, AddressFamily, Shutdown, SocketFlags, SocketType};
use uvisor_uapi::PAGE_SIZE;

use super::{Event, Verdict, Wall, What};
use crate::errno::{Errno, SysResult};
use crate::map::Mapping;
use crate::pass;
use crate::personality::Fds;
use crate::signal::own_tid;

/// How long a broker waits for room.
const PATIENCE: Duration = Duration::from_millis(20);

/// The most bytes of an event on its way.
pub(super) const MESSAGE: usize = 16 << 10;

/// The side of a task's brokers.
#[derive(Debug)]
pub struct Outlet {
    socket: OwnedFd,
    lost: Lost,
}

/// The side of the recorder.
#[derive(Debug)]
pub struct Inlet {
    pub(super) socket: OwnedFd,
    pub(super) lost: Lost,
}

/// How many events were lost.
#[derive(Clone, Debug)]
pub(super) struct Lost(Arc<Mapping>);

impl Lost {
    fn new() -> io::Result<Self> {
        let file = memfd_create(c"uvisor-audit", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, PAGE_SIZE)?;
        let page = Mapping::new(file.as_fd(), PAGE_SIZE as usize).map_err(io::Error::other)?;
        Ok(Self(Arc::new(page)))
    }

    /// How many, and whether the last one was.
    fn counters(&self) -> &[AtomicU64; 2] {
        // SAFETY: The mapping is a page, with room for them and aligned, and lives as long as `self`; whoever else has
        // it changes it by atomic operations only.
        unsafe { self.0.base().cast().as_ref() }
    }

    pub(super) fn get(&self) -> u64 {
        self.counters()[0].load(Relaxed)
    }
}

/// Both sides, for a task that is about to be started.
pub fn channel() -> io::Result<(Outlet, Inlet)> {
    let flags = SocketFlags::CLOEXEC;
    let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Each message says who sent it, and nothing goes the other way.
    set_socket_passcred(&other, true)?;
    shutdown(&own, Shutdown::Read)?;
    set_socket_timeout(&own, Timeout::Send, Some(PATIENCE))?;
    let lost = Lost::new()?;
    let outlet = Outlet {
        socket: own,
        lost: lost.clone(),
    };
    let inlet = Inlet {
        socket: other,
        lost,
    };
    Ok((outlet, inlet))
}

impl Outlet {
    /// The same, with a descriptor of the broker's own.
    pub(crate) fn keep(self, fds: &Fds) -> SysResult<Self> {
        let socket = fds.own(self.socket.as_fd())?;
        Ok(Self { socket, ..self })
    }

    /// The descriptor, which all processes of the task have.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Tells something that was done.
    pub fn tell(&self, what: What) {
        self.tell_all(what, Verdict::Allowed, None, None, None);
    }

    /// Tells that a limit was met.
    pub fn tell_limit(&self, limit: super::Limit) {
        let what = What::Limit { limit };
        self.tell_all(what, Verdict::Refused, None, None, Some(Wall::Limit));
    }

    /// Tells something, and what became of it.
    pub(crate) fn tell_all(
        &self,
        what: What,
        verdict: Verdict,
        errno: Option<Errno>,
        rule: Option<String>,
        wall: Option<Wall>,
    ) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let event = Event {
            // These two are the recorder's to say.
            seq: 0,
            pid: 0,
            time: time.map_or(0, |time| time.as_nanos() as u64),
            tid: own_tid(),
            what,
            verdict,
            errno: errno.and_then(Errno::name).map(str::to_owned),
            rule,
            wall,
            times: 1,
        };
        let sent = serde_json::to_vec(&event)
            .map_err(|_| Errno::EIO)
            .and_then(|mut message| self.send(&mut message));
        let [lost, full] = self.lost.counters();
        if sent.is_err() {
            lost.fetch_add(1, Relaxed);
        }
        full.store(sent.is_err().into(), Relaxed);
    }

    fn send(&self, message: &mut [u8]) -> SysResult<()> {
        /// How often signals may come between.
        const ATTEMPTS: usize = 8;
        if message.len() > MESSAGE {
            return Err(Errno::EMSGSIZE);
        }
        let len = message.len() as u64;
        let fd = self.socket.as_raw_fd();
        let [_, full] = self.lost.counters();
        // A recorder that is gone is no reason for a signal.
        let flags = match full.load(Relaxed) {
            0 => libc::MSG_NOSIGNAL,
            _ => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        };
        for _ in 0..ATTEMPTS {
            match pass!(
                SEND_NOW,
                fd,
                &mut *message,
                len,
                flags,
                None,
                0
            ) {
                Err(Errno::EINTR) => {}
                result => return result.map(drop),
            }
        }
        Err(Errno::EINTR)
    }
}

impl AsFd for Inlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Outlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{recv, RecvFlags};

    #[test]
    fn what_is_told_arrives_or_is_counted() {
        let (outlet, inlet) = channel().unwrap();
        let end = |status| What::Exit {
            status: Some(status),
            signal: None,
        };
        let mut told = 0;
        while inlet.lost.get() < 2 {
            outlet.tell(end(told));
            told += 1;
            assert!(told < 100_000, "there is no end of the room");
        }
        // Whoever has this end gets nothing back.
        let mut bytes = [0; MESSAGE];
        let back = recv(&outlet.socket, &mut bytes[..], RecvFlags::DONTWAIT);
        assert_eq!(back.map(|(len, _)| len), Ok(0));
        drop(outlet);
        let mut arrived = 0;
        loop {
            let (len, _) = recv(&inlet.socket, &mut bytes[..], RecvFlags::DONTWAIT).unwrap();
            if len == 0 {
                break;
            }
            let event: Event = serde_json::from_slice(&bytes[..len]).unwrap();
            assert_eq!(event.what, end(arrived));
            arrived += 1;
        }
        assert_eq!(arrived as u64 + inlet.lost.get(), told as u64);
    }

    #[test]
    fn without_a_recorder_it_is_counted() {
        let (outlet, inlet) = channel().unwrap();
        let lost = inlet.lost.clone();
        drop(inlet);
        outlet.tell_limit(super::super::Limit::Time);
        assert_eq!(lost.get(), 1);
    }
}
