// SPDX-License-Identifier: GPL-2.0

//! The recorder: takes what the brokers of a task tell, and writes it down.
//!
//! It believes nothing that it can know better: the process is who sent it, the number is the place in the stream, and the
//! time is between that of the event before and now. What is no event, it counts as lost.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{
    recvmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, RecvMsg, ReturnFlags,
};
use rustix::time::Timespec;

use super::live::{self, Live, LiveError};
use super::log::Log;
use super::outlet::MESSAGE;
use super::processes::{self, Processes};
use super::{Event, Inlet, Limit, Verdict, Wall, What};

/// How long an event waits for another one like it.
const MERGING: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// How often it is said that events are read, and how long what has ended may stay unwaited for.
const SECOND: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// What writes events down.
#[derive(Debug)]
pub struct Recorder {
    inlet: Inlet,
    epoll: OwnedFd,
    log: Log,
    processes: Processes,
    /// The first process of the task.
    first: Option<i32>,
    seq: u64,
    time: u64,
    /// An event that others like it are added to.
    pending: Option<Event>,
    /// How many of those that were lost have been written down.
    lost: u64,
    /// How many more were lost here.
    unwritten: u64,
    /// The hold on the task, if that runs without being audited.
    live: Option<Live>,
    /// Whether nobody reads what is written any more.
    is_unread: bool,
}

impl Recorder {
    /// One for what comes from `inlet`.
    pub fn new(inlet: Inlet, log: Log) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            inlet.socket.as_fd(),
            EventData::new_u64(0),
            EventFlags::IN,
        )?;
        Ok(Self {
            inlet,
            epoll,
            log,
            processes: Processes::default(),
            first: None,
            seq: 0,
            time: 0,
            pending: None,
            lost: 0,
            unwritten: 0,
            live: None,
            is_unread: false,
        })
    }

    /// One for what the task tells from now on that a process belongs to.
    pub fn attach(pid: i32, log: Log) -> Result<Self, LiveError> {
        let (inlet, live) = live::attach(pid)?;
        let lost = inlet.page.lost();
        let recorder = Self::new(inlet, log).map_err(|error| LiveError::Access(pid, error))?;
        let mut recorder = Self {
            lost,
            first: Some(pid),
            live: Some(live),
            ..recorder
        };
        recorder.processes.watch(&recorder.epoll, pid);
        Ok(recorder)
    }

    /// Records until the task has ended. How many events were lost.
    pub fn run(&mut self) -> io::Result<u64> {
        let mut open = true;
        while open || !self.processes.is_empty() {
            let timeout = match &self.pending {
                Some(_) if open => Some(&MERGING),
                _ if self.live.is_some() || !open => Some(&SECOND),
                _ => None,
            };
            if let Some(live) = &self.live {
                live.renew();
                if self.is_unread {
                    break;
                }
            }
            let (ended, told) = processes::wait(&self.epoll, timeout)?;
            if ended.is_empty() && !told {
                self.write_pending();
            }
            // What a process told comes before its end.
            if open && (told || !ended.is_empty()) {
                open = self.drain()?;
            }
            let ended = match (open, told || !ended.is_empty()) {
                // Nobody may ever wait for it.
                (false, false) => self.processes.zombies(),
                _ => ended,
            };
            for pid in ended {
                self.add_end(pid);
            }
        }
        self.write_pending();
        self.write_lost(true, None);
        Ok(self.all_lost())
    }

    /// Adds how a process ended, if it could not tell.
    fn add_end(&mut self, pid: i32) {
        let Some(what) = self.processes.ended(pid) else {
            return;
        };
        let signal = match what {
            What::Exit { signal, .. } => signal,
            _ => None,
        };
        if signal == Some(libc::SIGXCPU) {
            let limit = What::Limit { limit: Limit::Cpu };
            let event = self.own(pid, limit, Verdict::Refused);
            let wall = Some(Wall::Limit);
            self.add(Event { wall, ..event });
        }
        let event = self.own(pid, what, Verdict::Allowed);
        self.add(event);
    }

    /// Takes what has been told; false if nobody can tell anything any more.
    fn drain(&mut self) -> io::Result<bool> {
        for count in 0_u64.. {
            // Who tells without a pause is read from as well.
            if let Some(live) = self.live.as_ref().filter(|_| count % 256 == 0) {
                live.renew();
            }
            let mut bytes = [0; MESSAGE];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let slices = &mut [IoSliceMut::new(&mut bytes)];
            let received = match recvmsg(&self.inlet.socket, slices, &mut control, flags) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN) => return Ok(true),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let sender = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(sender) => {
                    Some(sender.pid.as_raw_nonzero().get())
                }
                _ => None,
            });
            let Some(pid) = sender else {
                // Nobody sends without saying who it is, so this is the end. A task that was taken over can bring it
                // about early; the ends of its processes are told in any case.
                let _ = epoll::delete(&self.epoll, &self.inlet.socket);
                return Ok(false);
            };
            self.take(pid, received, &bytes);
        }
        Ok(true)
    }

    /// Takes a message of a process.
    fn take(&mut self, pid: i32, received: RecvMsg, bytes: &[u8]) {
        let whole = !received.flags.contains(ReturnFlags::TRUNC);
        let message = bytes.get(..received.bytes).filter(|_| whole);
        let event = message.and_then(|message| serde_json::from_slice::<Event>(message).ok());
        let Some(mut event) = event else {
            self.unwritten += 1;
            return;
        };
        event.pid = pid;
        event.times = 1;
        event.time = self.now(event.time);
        match &event.what {
            // The steward's, who is none of the task.
            What::Limit {
                limit: Limit::Time | Limit::Cpu,
            } => {
                event.pid = self.first.unwrap_or(pid);
                event.tid = event.pid;
                self.add(event);
                return;
            }
            // That is for the recorder to say.
            What::Lost { .. } => {
                self.unwritten += 1;
                return;
            }
            _ => {}
        }
        self.first.get_or_insert(pid);
        self.processes.watch(&self.epoll, pid);
        match &event.what {
            // Two of its threads may say so.
            What::Exit { .. } if self.processes.has_told(pid) => return,
            What::Fork { child: Some(child) } => {
                self.processes.watch_child(&self.epoll, pid, *child);
            }
            _ => {}
        }
        self.add(event);
    }

    /// A time that somebody says, as far as it can be true.
    fn now(&mut self, said: u64) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos() as u64).max(self.time);
        self.time = said.clamp(self.time, now);
        self.time
    }

    /// An event of the recorder's own.
    fn own(&mut self, pid: i32, what: What, verdict: Verdict) -> Event {
        let time = self.now(u64::MAX);
        Self::of(pid, time, what, verdict)
    }

    /// The same, with a time.
    fn of(pid: i32, time: u64, what: What, verdict: Verdict) -> Event {
        Event {
            seq: 0,
            time,
            pid,
            tid: pid,
            what,
            verdict,
            errno: None,
            rule: None,
            wall: None,
            times: 1,
        }
    }

    /// Adds an event to the stream.
    fn add(&mut self, event: Event) {
        match &mut self.pending {
            Some(last) if is_same(last, &event) => last.times = last.times.saturating_add(1),
            _ => {
                self.write_pending();
                self.pending = Some(event);
            }
        }
    }

    fn write_pending(&mut self) {
        if let Some(event) = self.pending.take() {
            // There is room left for the end of the task.
            let last = matches!(event.what, What::Exit { .. }) && Some(event.pid) == self.first;
            self.write_lost(last, Some(event.time));
            let times = event.times;
            if !self.write(event, last) {
                self.unwritten = self.unwritten.saturating_add(times);
            }
        }
    }

    /// How many were lost by now.
    fn all_lost(&self) -> u64 {
        self.inlet.page.lost().saturating_add(self.unwritten)
    }

    /// Says how many were lost since that was said, with the time of what comes next.
    fn write_lost(&mut self, last: bool, time: Option<u64>) {
        let all = self.all_lost();
        let count = all.saturating_sub(self.lost);
        if count == 0 {
            return;
        }
        let pid = self.first.unwrap_or_default();
        let time = time.unwrap_or_else(|| self.now(u64::MAX));
        let event = Self::of(pid, time, What::Lost { count }, Verdict::Refused);
        if self.write(event, last) {
            self.lost = all;
            self.seq = self.seq.saturating_add(count);
        }
    }

    /// Writes an event; whether that went well.
    fn write(&mut self, mut event: Event, last: bool) -> bool {
        event.seq = self.seq;
        let result = self.log.write(&event, last);
        match &result {
            Ok(()) => self.seq = self.seq.saturating_add(1),
            Err(error) => self.is_unread |= error.kind() == io::ErrorKind::BrokenPipe,
        }
        result.is_ok()
    }
}

/// Whether two events say the same.
fn is_same(one: &Event, other: &Event) -> bool {
    let about = |event: &Event| (event.pid, event.tid, event.verdict, event.wall);
    about(one) == about(other)
        && one.what == other.what
        && one.errno == other.errno
        && one.rule == other.rule
}

#[cfg(test)]
mod tests {
    use super::super::{channel, Outlet};
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom};

    /// Records what `tell` tells in a child; the events, and how many were lost.
    fn record(limit: u64, tell: impl FnOnce(&Outlet)) -> (Vec<Event>, u64) {
        let path = std::env::temp_dir().join(format!(
            "uvisor-audit-{}-{}",
            std::process::id(),
            crate::signal::own_tid()
        ));
        let file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        let (outlet, inlet) = channel().unwrap();
        let log = Log::limited(file.try_clone().unwrap(), limit);
        let recorder = std::thread::spawn(move || Recorder::new(inlet, log).unwrap().run());
        // SAFETY: The child tells, and ends.
        let child = match unsafe { libc::fork() } {
            0 => {
                tell(&outlet);
                // SAFETY: It ends the process.
                unsafe { libc::_exit(0) }
            }
            child => child,
        };
        drop(outlet);
        // The recorder gets to know it before nobody can look at it any more.
        std::thread::sleep(std::time::Duration::from_millis(500));
        // SAFETY: It takes numbers, and no status.
        let waited = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        assert_eq!(waited, child);
        let lost = recorder.join().unwrap().unwrap();
        let mut file = file;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() as u64 <= limit);
        let events: Vec<Event> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert!(events.iter().all(|event| event.pid == child));
        (events, lost)
    }

    fn exec(path: &str) -> What {
        What::Exec {
            path: path.into(),
            arguments: Vec::new(),
        }
    }

    #[test]
    fn a_stream_is_numbered_merged_and_ends_with_its_process() {
        let (events, lost) = record(1 << 20, |outlet| {
            outlet.tell(exec("/a"));
            outlet.tell(exec("/b"));
            outlet.tell(exec("/b"));
            outlet.tell(exec("/b"));
            outlet.tell(exec("/a"));
        });
        assert_eq!(lost, 0);
        let said: Vec<_> = events
            .iter()
            .map(|event| (event.seq, &event.what, event.times))
            .collect();
        assert_eq!(said[0], (0, &exec("/a"), 1));
        assert_eq!(said[1], (1, &exec("/b"), 3));
        assert_eq!(said[2], (2, &exec("/a"), 1));
        assert!(matches!(said[3], (3, What::Exit { .. }, 1)), "{said:?}");
        assert_eq!(said.len(), 4);
        assert!(events.windows(2).all(|two| two[0].time <= two[1].time));
    }

    #[test]
    fn a_file_that_is_full_says_what_is_missing() {
        let (events, lost) = record(10_000, |outlet| {
            for number in 0..200 {
                outlet.tell(exec(&format!("/{number}")));
            }
        });
        let written = events
            .iter()
            .filter(|event| matches!(event.what, What::Exec { .. }))
            .count() as u64;
        assert_eq!(written + lost, 200);
        let [.., missing, last] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(missing.what, What::Lost { count: lost });
        assert!(matches!(last.what, What::Exit { .. }));
        assert_eq!(last.seq, 201);
    }

    #[test]
    fn what_is_no_event_is_counted() {
        let (events, lost) = record(1 << 20, |outlet| {
            for message in [&b"no json"[..], b"", b"{}"] {
                let flags = rustix::net::SendFlags::empty();
                rustix::net::send(outlet, message, flags).unwrap();
            }
            outlet.tell(What::Lost { count: 1 << 40 });
            outlet.tell(exec("/a"));
        });
        assert_eq!(lost, 4);
        assert_eq!(events[0].what, What::Lost { count: 4 });
        assert_eq!((events[1].seq, &events[1].what), (5, &exec("/a")));
    }
}
