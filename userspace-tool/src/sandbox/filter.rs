// SPDX-License-Identifier: GPL-2.0

//! The system calls that the broker makes, as a filter in the kernel.
//!
//! They are those that it makes for a guest, [`CALLS`], and those that the language's and C's libraries make for
//! threads, memory and signals. Numbers that mean a right of their own are looked at, too: what a clone makes, what
//! memory may be, which requests of `ioctl` there are.
//!
//! A program of one comparison after the other, as is usual, would take the kernel longer to accept than all the rest
//! of the sandbox: it runs it once for each number that there is, to know which ones it need not be run for. So the
//! numbers are searched by halves here.

use std::collections::BTreeMap;

use seccompiler::{
    sock_filter, BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompRule,
};
use thiserror::Error;

use super::Sockets;
use crate::host::CALLS;
use crate::process::PIDFD_GET_INFO;
use crate::profile::{NetworkRules, Rules};

/// What becomes of a system call that is not in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// It is not there (`ENOSYS`). A broker that makes one was either taken over, and gets nowhere with that, or is
    /// newer than the list, or its C library is: then it goes on with another call, as it would on an older kernel,
    /// where ending it would end a program for nothing.
    #[default]
    Refuse,
    /// The process is killed: for tests, which are to find what the list lacks.
    Kill,
}

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// It cannot be made.
    #[error("making it: {0}")]
    Make(#[from] BackendError),
    /// There are more calls in it than one comparison can lead past.
    #[error("it has {0} comparisons, and jumps lead over 255")]
    TooLong(usize),
    /// The kernel does not take it.
    #[error("installing it: {0}")]
    Install(#[from] seccompiler::Error),
}

/// Calls for memory, threads, signals and the end, which the libraries make, or the broker for itself.
const OWN: &[libc::c_long] = &[
    // Memory: mmap and mprotect are below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_brk,
    // Threads: clone is below.
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_nanosleep,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Older forms of what is in the table, by which the libraries still call it.
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_chdir,
    // What rights a thread has in effect: it has none to choose from.
    libc::SYS_capget,
    libc::SYS_capset,
];

/// Ioctls of terminals by which one acts as somebody at the keyboard, or on more than the terminal.
const TERMINALS_NOT: [u64; 7] = [
    libc::TIOCSTI,
    libc::TIOCLINUX,
    libc::TIOCCONS,
    libc::TIOCSETD,
    // TIOCVHANGUP, TIOCSSERIAL, TIOCSIG.
    0x5437,
    0x541f,
    0x4004_5436,
];

/// The flags of the files that a directory has.
const FS_IOC_GETFLAGS: u64 = 0x8008_6601;

/// Who is sent signals about a socket.
const FIOSETOWN: u64 = 0x8901;
const SIOCSPGRP: u64 = 0x8902;

/// What clones must not have of their own: namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// The instruction that says what becomes of a call.
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_NOT_BELOW: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;

/// Where the kernel has the number of the call, and whose numbers they are.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is made.
    Allow,
    /// It is not in the list.
    Unlisted,
    /// It is not there, whatever becomes of others that are not in the list.
    Missing,
    /// It is made if its arguments match one of these; else it is `EPERM`, or as if unlisted.
    If(Vec<SeccompRule>),
}

/// A filter.
#[derive(Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// The one for a task.
    pub fn new(rules: &Rules, sockets: Sockets, unlisted: Unlisted) -> Result<Self, FilterError> {
        let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
        let listed = CALLS.iter().map(|(_, call)| call.number());
        for number in listed.chain(OWN.iter().copied()) {
            verdicts.insert(number as u32, Verdict::Allow);
        }
        // What a clone is to have is in memory then, which nothing here can look at; C's library goes on with the
        // older form where there is none.
        verdicts.insert(libc::SYS_clone3 as u32, Verdict::Missing);
        for (number, conditions) in conditions(rules, sockets)? {
            let verdict = match conditions.is_empty() {
                true => Verdict::Unlisted,
                false => Verdict::If(conditions),
            };
            verdicts.insert(number as u32, verdict);
        }
        Self::of(verdicts, unlisted)
    }

    /// The one by which this becomes of calls, by their numbers.
    pub(super) fn of(
        verdicts: BTreeMap<u32, Verdict>,
        unlisted: Unlisted,
    ) -> Result<Self, FilterError> {
        let ranges = ranges(verdicts);
        let mut program = vec![
            step(LOAD, 0, 0, ARCHITECTURE),
            step(IF_EQUAL, 1, 0, X86_64),
            // The numbers of another kind of process, which the broker cannot have become by itself.
            step(RETURN, 0, 0, SeccompAction::KillProcess.into()),
            step(LOAD, 0, 0, NUMBER),
        ];
        let mut search = Search::default();
        search.add(&ranges);
        program.append(&mut search.program(unlisted)?);
        Ok(Self(program))
    }

    /// How many instructions it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// From now on, this thread and what it starts make no other calls.
    pub fn install(&self) -> Result<(), FilterError> {
        Ok(seccompiler::apply_filter(&self.0)?)
    }
}

/// A rule that matches if all conditions do.
pub(super) fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(conditions)
}

/// A condition on the 32 bits of an argument that the kernel looks at.
fn argument(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)
}

/// An argument is a number.
pub(super) fn is(index: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::Eq, value)
}

/// Of an argument, some bits are a number.
pub(super) fn masked(index: u8, mask: u64, value: u64) -> Result<SeccompCondition, BackendError> {
    argument(index, SeccompCmpOp::MaskedEq(mask), value)
}

/// The request of an ioctl is one for devices of a kind.
pub(super) fn kind(kind: u64) -> Result<SeccompCondition, BackendError> {
    masked(1, 0xffff_ff00, kind << 8)
}

/// The calls whose arguments are looked at, and what they must be. Those without any are not allowed.
fn conditions(
    rules: &Rules,
    sockets: Sockets,
) -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let executable = libc::PROT_EXEC as u64;
    let clones = match rules.fork {
        true => masked(0, NAMESPACES, 0)?,
        false => {
            let thread = libc::CLONE_THREAD as u64;
            masked(0, NAMESPACES | thread, thread)?
        }
    };
    let options = [
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_SET_PDEATHSIG,
        // For a Landlock domain within this one.
        libc::PR_SET_NO_NEW_PRIVS,
    ];
    let options = options.map(|option| all(vec![is(0, option as u64)?]));
    let pairs = vec![all(vec![is(0, libc::AF_UNIX as u64)?])?];
    Ok(vec![
        (libc::SYS_ioctl, ioctls(sockets)?),
        // The broker makes no code, and maps none.
        (libc::SYS_mmap, vec![all(vec![masked(2, executable, 0)?])?]),
        (
            libc::SYS_mprotect,
            vec![all(vec![masked(2, executable, 0)?])?],
        ),
        (libc::SYS_clone, vec![all(vec![clones])?]),
        // The locks that say who belongs to a task go with the table of descriptors.
        (
            libc::SYS_close_range,
            vec![all(vec![masked(2, libc::CLOSE_RANGE_UNSHARE.into(), 0)?])?],
        ),
        // Its own limits, and no other process's.
        (libc::SYS_prlimit64, vec![all(vec![is(0, 0)?])?]),
        // Of the thread itself, as which of the user's processes are the task's cannot be told here.
        (libc::SYS_sched_setaffinity, vec![all(vec![is(0, 0)?])?]),
        (
            libc::SYS_setpriority,
            vec![all(vec![is(0, libc::PRIO_PROCESS.into())?, is(1, 0)?])?],
        ),
        (
            libc::SYS_prctl,
            options.into_iter().collect::<Result<_, _>>()?,
        ),
        (libc::SYS_socket, domains(&rules.network, sockets)?),
        (libc::SYS_socketpair, pairs),
    ])
}

/// The requests that the broker makes, by the kinds of devices that they are for.
fn ioctls(sockets: Sockets) -> Result<Vec<SeccompRule>, BackendError> {
    // The first one is by far the most frequent.
    let mut requests = vec![all(vec![kind(uvisor_uapi::IOCTL_TYPE.into())?])?];
    // Some requests have a size in the upper half.
    let mut terminals = vec![masked(1, 0xff00, 0x5400)?];
    for request in TERMINALS_NOT {
        terminals.push(argument(1, SeccompCmpOp::Ne, request)?);
    }
    requests.push(all(terminals)?);
    // Which process a handle is on, a broker makes sure of before it sends a signal.
    for request in [FS_IOC_GETFLAGS, PIDFD_GET_INFO] {
        requests.push(all(vec![is(1, request)?])?);
    }
    if sockets != Sockets::None {
        let mut about = vec![kind(0x89)?];
        for request in [FIOSETOWN, SIOCSPGRP] {
            about.push(argument(1, SeccompCmpOp::Ne, request)?);
        }
        // Only the helper brings an interface up.
        about.push(argument(1, SeccompCmpOp::Ne, libc::SIOCSIFFLAGS)?);
        requests.push(all(about)?);
    }
    Ok(requests)
}

/// The sockets that may be opened.
fn domains(network: &NetworkRules, sockets: Sockets) -> Result<Vec<SeccompRule>, BackendError> {
    let mut domains = Vec::new();
    if sockets == Sockets::Ready && *network != NetworkRules::None {
        // AF_INET and AF_INET6, which differ by a bit.
        let (family, both) = (
            libc::AF_INET as u64,
            (libc::AF_INET ^ libc::AF_INET6) as u64,
        );
        // Of other protocols Landlock does not know the ports. What differs from these in their bits only is no protocol
        // of streams, and of datagrams ICMP.
        for (kind, protocol, not) in [
            (libc::SOCK_STREAM, libc::IPPROTO_TCP, None),
            (
                libc::SOCK_DGRAM,
                libc::IPPROTO_UDP,
                Some(libc::IPPROTO_ICMP),
            ),
        ] {
            let mut conditions = vec![
                masked(0, 0xffff_ffff & !both, family)?,
                masked(1, 0xf, kind as u64)?,
                masked(2, 0xffff_ffff & !(protocol as u64), 0)?,
            ];
            if let Some(protocol) = not {
                conditions.push(argument(2, SeccompCmpOp::Ne, protocol as u64)?);
            }
            domains.push(all(conditions)?);
        }
        let (netlink, route) = (libc::AF_NETLINK as u64, libc::NETLINK_ROUTE as u64);
        domains.push(all(vec![is(0, netlink)?, is(2, route)?])?);
    }
    Ok(domains)
}

/// The numbers from each of which on something else becomes of calls.
fn ranges(verdicts: BTreeMap<u32, Verdict>) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, Verdict::Unlisted)];
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number != next {
            push(&mut ranges, next, Verdict::Unlisted);
        }
        push(&mut ranges, number, verdict);
        next = number + 1;
    }
    push(&mut ranges, next, Verdict::Unlisted);
    ranges
}

/// Adds a range, unless it goes on as the one before.
fn push(ranges: &mut Vec<(u32, Verdict)>, from: u32, verdict: Verdict) {
    match ranges.last_mut() {
        Some((_, last)) if *last == verdict => {}
        Some((start, last)) if *start == from => *last = verdict,
        _ => ranges.push((from, verdict)),
    }
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Where a comparison leads.
#[derive(Clone, Copy)]
enum Way {
    /// To the instruction with this place in the search.
    Step(usize),
    /// To one of the ends behind the search.
    End(usize),
}

/// A comparison of the number: where it leads if the number is not below one, and if it is.
struct Comparison {
    from: u32,
    above: Way,
    below: Way,
}

/// A search for the range of a number, and the ends that it comes to, each of which is there once.
#[derive(Default)]
struct Search<'a> {
    comparisons: Vec<Comparison>,
    ends: Vec<&'a Verdict>,
}

impl<'a> Search<'a> {
    /// The search in some ranges, of which there is one at least.
    fn add(&mut self, ranges: &'a [(u32, Verdict)]) -> Way {
        let (below, above) = ranges.split_at(ranges.len() / 2);
        let (from, first) = match above {
            [] => return self.end(&Verdict::Unlisted),
            [(from, first), ..] => (*from, first),
        };
        if below.is_empty() {
            return self.end(first);
        }
        let place = self.comparisons.len();
        self.comparisons.push(Comparison {
            from,
            above: Way::End(0),
            below: Way::End(0),
        });
        let below = self.add(below);
        let above = self.add(above);
        self.comparisons[place].below = below;
        self.comparisons[place].above = above;
        Way::Step(place)
    }

    /// The end at which something becomes of a call.
    fn end(&mut self, verdict: &'a Verdict) -> Way {
        let known = self.ends.iter().position(|end| *end == verdict);
        Way::End(known.unwrap_or_else(|| {
            self.ends.push(verdict);
            self.ends.len() - 1
        }))
    }

    /// The program. A comparison leads no further than 255 instructions, so the ends are reached by one instruction each,
    /// right behind the search; what has more than one is behind those.
    fn program(&self, unlisted: Unlisted) -> Result<BpfProgram, FilterError> {
        let steps = self.comparisons.len();
        let offset = |place: usize, way: Way| {
            let to = match way {
                Way::Step(to) => to,
                Way::End(end) => steps + end,
            };
            u8::try_from(to - place - 1).map_err(|_| FilterError::TooLong(to))
        };
        let mut program = Vec::new();
        for (place, one) in self.comparisons.iter().enumerate() {
            let (above, below) = (offset(place, one.above)?, offset(place, one.below)?);
            program.push(step(IF_NOT_BELOW, above, below, one.from));
        }
        let mut longer = Vec::new();
        for (place, verdict) in self.ends.iter().enumerate() {
            let mut end = decide(verdict, unlisted);
            if end.len() > 1 {
                let over = self.ends.len() - place - 1 + longer.len();
                longer.append(&mut end);
                end.push(step(GO, 0, 0, over as u32));
            }
            program.append(&mut end);
        }
        program.append(&mut longer);
        Ok(program)
    }
}

/// What becomes of a call, whose number may be forgotten.
fn decide(verdict: &Verdict, unlisted: Unlisted) -> BpfProgram {
    let end = |action: SeccompAction| step(RETURN, 0, 0, action.into());
    let refuse = |errno: i32| match unlisted {
        Unlisted::Refuse => end(SeccompAction::Errno(errno as u32)),
        Unlisted::Kill => end(SeccompAction::KillProcess),
    };
    match verdict {
        Verdict::Allow => vec![end(SeccompAction::Allow)],
        Verdict::Unlisted => vec![refuse(libc::ENOSYS)],
        Verdict::Missing => vec![end(SeccompAction::Errno(libc::ENOSYS as u32))],
        Verdict::If(rules) => {
            let mut program = Vec::new();
            for rule in rules {
                program.append(&mut matching(rule));
                program.push(end(SeccompAction::Allow));
            }
            program.push(refuse(libc::EPERM));
            program
        }
    }
}

/// The instructions that go on behind themselves if a rule matches, and over one more if not. What is jumped over at
/// their beginning is for who comes from elsewhere, as nobody does here.
fn matching(rule: &SeccompRule) -> BpfProgram {
    let mut program = BpfProgram::from(rule.clone());
    while let Some(first) = program.first().filter(|first| first.code == GO) {
        let over = first.k as usize + 1;
        program.drain(..over.min(program.len()));
    }
    program
}
