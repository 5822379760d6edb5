// SPDX-License-Identifier: GPL-2.0

//! How events come out of a task: a socket, whose one end all its brokers have, and the recorder the other.
//!
//! What was told nobody in the task can take back or change. A broker waits for a moment when there is no room; what
//! there is no room for then is lost, and counted in memory that both sides have. After that nobody waits before there is
//! room again, so that a recorder that is stopped does not stop the task.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, SystemTime};

use rustix::net::sockopt::{set_socket_passcred, set_socket_timeout, Timeout};
use rustix::net::{shutdown, socketpair, AddressFamily, Shutdown, SocketFlags, SocketType};

use super::page::Page;
use super::{Event, Verdict, Wall, What};
use crate::errno::{Errno, SysResult};
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
    page: Page,
    /// The page's, by which it is found.
    file: OwnedFd,
    /// The other end, if no recorder has it.
    inlet: Option<OwnedFd>,
}

/// The side of the recorder.
#[derive(Debug)]
pub struct Inlet {
    pub(super) socket: OwnedFd,
    pub(super) page: Page,
}

/// Both sides, for a task that is about to be started; who has the inlet reads for as long as the task lives.
pub fn channel() -> io::Result<(Outlet, Inlet)> {
    let (outlet, inlet) = connected()?;
    outlet.page.take();
    Ok((outlet, inlet))
}

/// Both sides, and nobody reads.
fn connected() -> io::Result<(Outlet, Inlet)> {
    let flags = SocketFlags::CLOEXEC;
    let (own, socket) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // Each message says who sent it, and nothing goes the other way.
    set_socket_passcred(&socket, true)?;
    shutdown(&own, Shutdown::Read)?;
    set_socket_timeout(&own, Timeout::Send, Some(PATIENCE))?;
    let (page, file) = Page::new()?;
    let outlet = Outlet {
        socket: own,
        file,
        inlet: None,
        page: page.clone(),
    };
    Ok((outlet, Inlet { socket, page }))
}

impl Outlet {
    /// One that nobody reads from yet; the brokers hold the other end, for who comes.
    pub(crate) fn for_who_comes() -> io::Result<Self> {
        let (outlet, inlet) = connected()?;
        let inlet = Some(inlet.socket);
        Ok(Self { inlet, ..outlet })
    }

    /// The same, with descriptors of the broker's own.
    pub(crate) fn keep(self, fds: &Fds) -> SysResult<Self> {
        let own = |fd: &OwnedFd| fds.own(fd.as_fd());
        let inlet = self.inlet.as_ref().map(own).transpose()?;
        if let Some(inlet) = &inlet {
            self.page.set_inlet(inlet.as_raw_fd() as u64);
        }
        Ok(Self {
            socket: own(&self.socket)?,
            file: own(&self.file)?,
            inlet,
            page: self.page,
        })
    }

    /// The descriptors, which all processes of the task have.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> + '_ {
        let all = [&self.socket, &self.file].into_iter().chain(&self.inlet);
        all.map(|fd| fd.as_raw_fd())
    }

    /// Whether anybody reads.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.page.is_on()
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
        self.page.count(sent.is_err());
    }

    fn send(&self, message: &mut [u8]) -> SysResult<()> {
        /// How often signals may come between.
        const ATTEMPTS: usize = 8;
        if message.len() > MESSAGE {
            return Err(Errno::EMSGSIZE);
        }
        let len = message.len() as u64;
        let fd = self.socket.as_raw_fd();
        // A recorder that is gone is no reason for a signal.
        let flags = match self.page.is_full() {
            false => libc::MSG_NOSIGNAL,
            true => libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
        };
        for _ in 0..ATTEMPTS {
            match pass!(SEND_NOW, fd, &mut *message, len, flags, None, 0) {
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
        while inlet.page.lost() < 2 {
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
        assert_eq!(arrived as u64 + inlet.page.lost(), told as u64);
    }

    #[test]
    fn without_a_recorder_it_is_counted() {
        let (outlet, inlet) = channel().unwrap();
        let page = inlet.page.clone();
        drop(inlet);
        outlet.tell_limit(super::super::Limit::Time);
        assert_eq!(page.lost(), 1);
    }
}
