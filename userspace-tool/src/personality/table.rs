// SPDX-License-Identifier: GPL-2.0

//! Every system call of x86-64 Linux, and what becomes of it. Dispatch and trace both come from here.

use super::Fate::{self, Refused, Served};
use super::{
    advice, attributes, change, children, events, exec, fds, files, futex, io, memory, mremap,
    open, process, sched, signals, sockets, sockopt, time, timers, transfer, wait, Syscall,
};
use crate::errno::Errno;

/// Why what acts on the whole machine, or on other processes, is refused.
const POWER: &str = "a task has no power over the machine or other processes";
/// Why System V IPC and POSIX message queues are refused: as by a kernel that was built without them.
const IPC: &str = "what it names is the host's, for all of its processes";
/// Why what Linux itself does not have any more, or never had on x86-64, is refused.
const GONE: &str = "Linux has no such call any more";
/// Why what nothing uses any more is refused.
const OBSOLETE: &str = "it is obsolete";
/// Why memory policies are refused.
const NUMA: &str = "a task has no say in where its memory is";
/// Why protection keys are refused.
const KEYS: &str = "the module does not switch protection keys";
/// Why shadow stacks are refused.
const SHADOW: &str = "the module does not switch shadow stacks";
/// Why `mseal` is refused: the module's seals are of content as well, and execve and brk would meet them.
const SEALS: &str = "the broker keeps no book of sealed areas";
/// Why the kernel's asynchronous reading and writing is refused.
const AIO: &str = "the host would use the task's memory after the call";
/// Why filters and rule sets of the task's own are refused: those that the host takes are for the broker.
const SANDBOX: &str = "the host's rules are for the broker, not the task";
/// Why what tells of security modules is refused.
const LSM: &str = "the host's security modules are its own business";
/// Why `restart_syscall` is refused.
const RESTART: &str = "there is nothing to restart";
/// Why what only several threads need is refused.
const THREADS: &str = "the broker has no part of it that is the thread's";
/// Why what programs do without on older kernels is refused.
const OLDER: &str = "there is an older call for it";

macro_rules! table {
    ($($number:literal $name:ident $shape:literal => $fate:expr;)*) => {
        /// All calls, by number.
        pub static TABLE: &[Syscall] = &[$(Syscall {
            number: $number,
            name: stringify!($name),
            shape: $shape,
            fate: $fate,
        }),*];
    };
}

/// One more than the highest number that is looked up.
const NUMBERS: usize = 512;

/// The place in [`TABLE`] of each number, plus one; 0 for a number that is not there.
static PLACES: [u16; NUMBERS] = {
    let mut places = [0; NUMBERS];
    let mut place = 0;
    while place < TABLE.len() {
        places[TABLE[place].number as usize] = place as u16 + 1;
        place += 1;
    }
    places
};

/// The call with a number.
pub fn find(number: u64) -> Option<&'static Syscall> {
    let place = PLACES.get(usize::try_from(number).ok()?)?;
    TABLE.get(usize::from(place.checked_sub(1)?))
}

/// How many calls have a fate of each kind: served, refused.
pub fn census() -> [usize; 2] {
    let mut counts = [0; 2];
    for call in TABLE {
        counts[match call.fate {
            Fate::Served(_) => 0,
            Fate::Refused(..) => 1,
        }] += 1;
    }
    counts
}

table! {
    0 read "fxu" => Served(io::read);
    1 write "fxu" => Served(io::write);
    2 open "sxo" => Served(open::open);
    3 close "f" => Served(fds::close);
    4 stat "sx" => Served(files::stat);
    5 fstat "fx" => Served(files::fstat);
    6 lstat "sx" => Served(files::lstat);
    7 poll "xud" => Served(wait::poll);
    8 lseek "fdd" => Served(io::lseek);
    9 mmap "xuxxfx>x" => Served(memory::mmap);
    10 mprotect "xux" => Served(memory::mprotect);
    11 munmap "xu" => Served(memory::munmap);
    12 brk "x>x" => Served(memory::brk);
    13 rt_sigaction "dxxu" => Served(signals::rt_sigaction);
    14 rt_sigprocmask "dxxu" => Served(signals::rt_sigprocmask);
    15 rt_sigreturn "" => Served(signals::rt_sigreturn);
    16 ioctl "fxx" => Served(fds::ioctl);
    17 pread64 "fxud" => Served(io::pread64);
    18 pwrite64 "fxud" => Served(io::pwrite64);
    19 readv "fxu" => Served(io::readv);
    20 writev "fxu" => Served(io::writev);
    21 access "so" => Served(files::access);
    22 pipe "x" => Served(fds::pipe);
    23 select "dxxxx" => Served(wait::select);
    24 sched_yield "" => Served(sched::sched_yield);
    25 mremap "xuuxx>x" => Served(mremap::mremap);
    26 msync "xux" => Served(memory::msync);
    27 mincore "xux" => Served(advice::mincore);
    28 madvise "xud" => Served(memory::madvise);
    29 shmget "" => Refused(Errno::ENOSYS, IPC);
    30 shmat "" => Refused(Errno::ENOSYS, IPC);
    31 shmctl "" => Refused(Errno::ENOSYS, IPC);
    32 dup "f" => Served(fds::dup);
    33 dup2 "ff" => Served(fds::dup2);
    34 pause "" => Served(signals::pause);
    35 nanosleep "xx" => Served(time::nanosleep);
    36 getitimer "dx" => Served(timers::getitimer);
    37 alarm "u" => Served(timers::alarm);
    38 setitimer "dxx" => Served(timers::setitimer);
    39 getpid "" => Served(process::getpid);
    40 sendfile "ffxu" => Served(io::sendfile);
    41 socket "ddd" => Served(sockets::socket);
    42 connect "fxu" => Served(sockets::connect);
    43 accept "fxx" => Served(sockets::accept);
    44 sendto "fxuxxu" => Served(transfer::sendto);
    45 recvfrom "fxuxxx" => Served(transfer::recvfrom);
    46 sendmsg "fxx" => Served(transfer::sendmsg);
    47 recvmsg "fxx" => Served(transfer::recvmsg);
    48 shutdown "fd" => Served(sockets::shutdown);
    49 bind "fxu" => Served(sockets::bind);
    50 listen "fd" => Served(sockets::listen);
    51 getsockname "fxx" => Served(sockets::getsockname);
    52 getpeername "fxx" => Served(sockets::getpeername);
    53 socketpair "dddx" => Served(sockets::socketpair);
    54 setsockopt "fddxu" => Served(sockopt::setsockopt);
    55 getsockopt "fddxx" => Served(sockopt::getsockopt);
    56 clone "xxxxx" => Served(children::clone);
    57 fork "" => Served(children::fork);
    58 vfork "" => Served(children::vfork);
    59 execve "sxx" => Served(exec::execve);
    60 exit "d" => Served(process::exit);
    61 wait4 "dxxx" => Served(children::wait4);
    62 kill "dd" => Served(signals::kill);
    63 uname "x" => Served(process::uname);
    64 semget "" => Refused(Errno::ENOSYS, IPC);
    65 semop "" => Refused(Errno::ENOSYS, IPC);
    66 semctl "" => Refused(Errno::ENOSYS, IPC);
    67 shmdt "" => Refused(Errno::ENOSYS, IPC);
    68 msgget "" => Refused(Errno::ENOSYS, IPC);
    69 msgsnd "" => Refused(Errno::ENOSYS, IPC);
    70 msgrcv "" => Refused(Errno::ENOSYS, IPC);
    71 msgctl "" => Refused(Errno::ENOSYS, IPC);
    72 fcntl "fdx" => Served(fds::fcntl);
    73 flock "fx" => Served(fds::flock);
    74 fsync "f" => Served(io::fsync);
    75 fdatasync "f" => Served(io::fdatasync);
    76 truncate "sd" => Served(attributes::truncate);
    77 ftruncate "fd" => Served(io::ftruncate);
    78 getdents "fxu" => Served(io::getdents);
    79 getcwd "xu" => Served(files::getcwd);
    80 chdir "s" => Served(files::chdir);
    81 fchdir "f" => Served(files::fchdir);
    82 rename "ss" => Served(change::rename);
    83 mkdir "so" => Served(change::mkdir);
    84 rmdir "s" => Served(change::rmdir);
    85 creat "so" => Served(open::creat);
    86 link "ss" => Served(change::link);
    87 unlink "s" => Served(change::unlink);
    88 symlink "ss" => Served(change::symlink);
    89 readlink "sxu" => Served(files::readlink);
    90 chmod "so" => Served(attributes::chmod);
    91 fchmod "fo" => Served(attributes::fchmod);
    92 chown "sdd" => Served(attributes::chown);
    93 fchown "fdd" => Served(attributes::fchown);
    94 lchown "sdd" => Served(attributes::lchown);
    95 umask "o" => Served(files::umask);
    96 gettimeofday "xx" => Served(time::gettimeofday);
    97 getrlimit "ux" => Served(process::getrlimit);
    98 getrusage "dx" => Served(process::getrusage);
    99 sysinfo "x" => Served(process::sysinfo);
    100 times "x" => Served(time::times);
    101 ptrace "ddxx" => Refused(Errno::EPERM, POWER);
    102 getuid "" => Served(process::getuid);
    103 syslog "dxd" => Refused(Errno::EPERM, POWER);
    104 getgid "" => Served(process::getgid);
    105 setuid "d" => Served(process::setuid);
    106 setgid "d" => Served(process::setgid);
    107 geteuid "" => Served(process::geteuid);
    108 getegid "" => Served(process::getegid);
    109 setpgid "dd" => Served(children::setpgid);
    110 getppid "" => Served(process::getppid);
    111 getpgrp "" => Served(process::getpgrp);
    112 setsid "" => Served(children::setsid);
    113 setreuid "dd" => Served(process::setreuid);
    114 setregid "dd" => Served(process::setregid);
    115 getgroups "dx" => Served(process::getgroups);
    116 setgroups "ux" => Refused(Errno::EPERM, POWER);
    117 setresuid "ddd" => Served(process::setresuid);
    118 getresuid "xxx" => Served(process::getresuid);
    119 setresgid "ddd" => Served(process::setresgid);
    120 getresgid "xxx" => Served(process::getresgid);
    121 getpgid "d" => Served(process::getpgid);
    122 setfsuid "d" => Served(process::setfsuid);
    123 setfsgid "d" => Served(process::setfsgid);
    124 getsid "d" => Served(process::getsid);
    125 capget "xx" => Served(process::capget);
    126 capset "xx" => Served(process::capset);
    127 rt_sigpending "xu" => Served(signals::rt_sigpending);
    128 rt_sigtimedwait "xxxu" => Served(signals::rt_sigtimedwait);
    129 rt_sigqueueinfo "ddx" => Served(signals::rt_sigqueueinfo);
    130 rt_sigsuspend "xu" => Served(signals::rt_sigsuspend);
    131 sigaltstack "xx" => Served(signals::sigaltstack);
    132 utime "sx" => Served(attributes::utime);
    133 mknod "sox" => Served(change::mknod);
    134 uselib "" => Refused(Errno::ENOSYS, GONE);
    135 personality "x" => Refused(Errno::EPERM, POWER);
    136 ustat "" => Refused(Errno::ENOSYS, OBSOLETE);
    137 statfs "sx" => Served(files::statfs);
    138 fstatfs "fx" => Served(files::fstatfs);
    139 sysfs "" => Refused(Errno::ENOSYS, OBSOLETE);
    140 getpriority "dd" => Served(sched::getpriority);
    141 setpriority "ddd" => Served(sched::setpriority);
    142 sched_setparam "dx" => Served(sched::sched_setparam);
    143 sched_getparam "dx" => Served(sched::sched_getparam);
    144 sched_setscheduler "ddx" => Served(sched::sched_setscheduler);
    145 sched_getscheduler "d" => Served(sched::sched_getscheduler);
    146 sched_get_priority_max "d" => Served(sched::sched_get_priority_max);
    147 sched_get_priority_min "d" => Served(sched::sched_get_priority_min);
    148 sched_rr_get_interval "dx" => Served(sched::sched_rr_get_interval);
    149 mlock "xu" => Served(advice::mlock);
    150 munlock "xu" => Served(advice::munlock);
    151 mlockall "x" => Served(advice::mlockall);
    152 munlockall "" => Served(advice::munlockall);
    153 vhangup "" => Refused(Errno::EPERM, POWER);
    154 modify_ldt "dxu" => Refused(Errno::EPERM, POWER);
    155 pivot_root "ss" => Refused(Errno::EPERM, POWER);
    156 _sysctl "" => Refused(Errno::ENOSYS, GONE);
    157 prctl "dxxxx" => Served(process::prctl);
    158 arch_prctl "xx" => Served(process::arch_prctl);
    159 adjtimex "x" => Served(time::adjtimex);
    160 setrlimit "ux" => Served(process::setrlimit);
    161 chroot "s" => Refused(Errno::EPERM, POWER);
    162 sync "" => Served(io::sync);
    163 acct "s" => Refused(Errno::EPERM, POWER);
    164 settimeofday "xx" => Refused(Errno::EPERM, POWER);
    165 mount "sssxx" => Refused(Errno::EPERM, POWER);
    166 umount2 "sx" => Refused(Errno::EPERM, POWER);
    167 swapon "sx" => Refused(Errno::EPERM, POWER);
    168 swapoff "s" => Refused(Errno::EPERM, POWER);
    169 reboot "xxxx" => Refused(Errno::EPERM, POWER);
    170 sethostname "su" => Refused(Errno::EPERM, POWER);
    171 setdomainname "su" => Refused(Errno::EPERM, POWER);
    172 iopl "d" => Refused(Errno::EPERM, POWER);
    173 ioperm "uud" => Refused(Errno::EPERM, POWER);
    174 create_module "" => Refused(Errno::ENOSYS, GONE);
    175 init_module "xus" => Refused(Errno::EPERM, POWER);
    176 delete_module "sx" => Refused(Errno::EPERM, POWER);
    177 get_kernel_syms "" => Refused(Errno::ENOSYS, GONE);
    178 query_module "" => Refused(Errno::ENOSYS, GONE);
    179 quotactl "xsux" => Refused(Errno::EPERM, POWER);
    180 nfsservctl "" => Refused(Errno::ENOSYS, GONE);
    181 getpmsg "" => Refused(Errno::ENOSYS, GONE);
    182 putpmsg "" => Refused(Errno::ENOSYS, GONE);
    183 afs_syscall "" => Refused(Errno::ENOSYS, GONE);
    184 tuxcall "" => Refused(Errno::ENOSYS, GONE);
    185 security "" => Refused(Errno::ENOSYS, GONE);
    186 gettid "" => Served(process::gettid);
    187 readahead "fdu" => Served(io::readahead);
    188 setxattr "ssxux" => Served(attributes::setxattr);
    189 lsetxattr "ssxux" => Served(attributes::lsetxattr);
    190 fsetxattr "fsxux" => Served(attributes::fsetxattr);
    191 getxattr "ssxu" => Served(attributes::getxattr);
    192 lgetxattr "ssxu" => Served(attributes::lgetxattr);
    193 fgetxattr "fsxu" => Served(attributes::fgetxattr);
    194 listxattr "sxu" => Served(attributes::listxattr);
    195 llistxattr "sxu" => Served(attributes::llistxattr);
    196 flistxattr "fxu" => Served(attributes::flistxattr);
    197 removexattr "ss" => Served(attributes::removexattr);
    198 lremovexattr "ss" => Served(attributes::lremovexattr);
    199 fremovexattr "fs" => Served(attributes::fremovexattr);
    200 tkill "dd" => Served(signals::tkill);
    201 time "x" => Served(time::time);
    202 futex "xxuxxu" => Served(futex::futex);
    203 sched_setaffinity "dux" => Served(sched::sched_setaffinity);
    204 sched_getaffinity "dux" => Served(sched::sched_getaffinity);
    205 set_thread_area "" => Refused(Errno::ENOSYS, GONE);
    206 io_setup "" => Refused(Errno::ENOSYS, AIO);
    207 io_destroy "" => Refused(Errno::ENOSYS, AIO);
    208 io_getevents "" => Refused(Errno::ENOSYS, AIO);
    209 io_submit "" => Refused(Errno::ENOSYS, AIO);
    210 io_cancel "" => Refused(Errno::ENOSYS, AIO);
    211 get_thread_area "" => Refused(Errno::ENOSYS, GONE);
    212 lookup_dcookie "uxu" => Refused(Errno::ENOSYS, GONE);
    213 epoll_create "d" => Served(events::epoll_create);
    214 epoll_ctl_old "" => Refused(Errno::ENOSYS, GONE);
    215 epoll_wait_old "" => Refused(Errno::ENOSYS, GONE);
    216 remap_file_pages "" => Refused(Errno::ENOSYS, OBSOLETE);
    217 getdents64 "fxu" => Served(io::getdents64);
    218 set_tid_address "x" => Served(process::set_tid_address);
    219 restart_syscall "" => Refused(Errno::EINTR, RESTART);
    220 semtimedop "" => Refused(Errno::ENOSYS, IPC);
    221 fadvise64 "fddd" => Served(io::fadvise64);
    222 timer_create "dxx" => Served(timers::timer_create);
    223 timer_settime "dxxx" => Served(timers::timer_settime);
    224 timer_gettime "dx" => Served(timers::timer_gettime);
    225 timer_getoverrun "d" => Served(timers::timer_getoverrun);
    226 timer_delete "d" => Served(timers::timer_delete);
    227 clock_settime "dx" => Refused(Errno::EPERM, POWER);
    228 clock_gettime "dx" => Served(time::clock_gettime);
    229 clock_getres "dx" => Served(time::clock_getres);
    230 clock_nanosleep "dxxx" => Served(time::clock_nanosleep);
    231 exit_group "d" => Served(process::exit_group);
    232 epoll_wait "fxdd" => Served(events::epoll_wait);
    233 epoll_ctl "fdfx" => Served(events::epoll_ctl);
    234 tgkill "ddd" => Served(signals::tgkill);
    235 utimes "sx" => Served(attributes::utimes);
    236 vserver "" => Refused(Errno::ENOSYS, GONE);
    237 mbind "" => Refused(Errno::ENOSYS, NUMA);
    238 set_mempolicy "" => Refused(Errno::ENOSYS, NUMA);
    239 get_mempolicy "" => Refused(Errno::ENOSYS, NUMA);
    240 mq_open "" => Refused(Errno::ENOSYS, IPC);
    241 mq_unlink "" => Refused(Errno::ENOSYS, IPC);
    242 mq_timedsend "" => Refused(Errno::ENOSYS, IPC);
    243 mq_timedreceive "" => Refused(Errno::ENOSYS, IPC);
    244 mq_notify "" => Refused(Errno::ENOSYS, IPC);
    245 mq_getsetattr "" => Refused(Errno::ENOSYS, IPC);
    246 kexec_load "uuxx" => Refused(Errno::EPERM, POWER);
    247 waitid "ddxxx" => Served(children::waitid);
    248 add_key "ssxud" => Refused(Errno::EPERM, POWER);
    249 request_key "sssd" => Refused(Errno::EPERM, POWER);
    250 keyctl "dxxxx" => Refused(Errno::EPERM, POWER);
    251 ioprio_set "ddd" => Refused(Errno::EPERM, POWER);
    252 ioprio_get "dd" => Served(sched::ioprio_get);
    253 inotify_init "" => Served(events::inotify_init);
    254 inotify_add_watch "fsx" => Served(events::inotify_add_watch);
    255 inotify_rm_watch "fd" => Served(events::inotify_rm_watch);
    256 migrate_pages "duxx" => Refused(Errno::EPERM, POWER);
    257 openat "@sxo" => Served(open::openat);
    258 mkdirat "@so" => Served(change::mkdirat);
    259 mknodat "@sox" => Served(change::mknodat);
    260 fchownat "@sddx" => Served(attributes::fchownat);
    261 futimesat "@sx" => Served(attributes::futimesat);
    262 newfstatat "@sxx" => Served(files::newfstatat);
    263 unlinkat "@sx" => Served(change::unlinkat);
    264 renameat "@s@s" => Served(change::renameat);
    265 linkat "@s@sx" => Served(change::linkat);
    266 symlinkat "s@s" => Served(change::symlinkat);
    267 readlinkat "@sxu" => Served(files::readlinkat);
    268 fchmodat "@so" => Served(attributes::fchmodat);
    269 faccessat "@so" => Served(files::faccessat);
    270 pselect6 "dxxxxx" => Served(wait::pselect6);
    271 ppoll "xuxxu" => Served(wait::ppoll);
    272 unshare "x" => Refused(Errno::EPERM, POWER);
    273 set_robust_list "xu" => Served(process::set_robust_list);
    274 get_robust_list "dxx" => Served(futex::get_robust_list);
    275 splice "fxfxux" => Served(io::splice);
    276 tee "ffux" => Served(io::tee);
    277 sync_file_range "fddx" => Served(io::sync_file_range);
    278 vmsplice "fxux" => Served(io::vmsplice);
    279 move_pages "duxxxx" => Refused(Errno::EPERM, POWER);
    280 utimensat "@sxx" => Served(attributes::utimensat);
    281 epoll_pwait "fxddxu" => Served(events::epoll_pwait);
    282 signalfd "fxu" => Served(events::signalfd);
    283 timerfd_create "dx" => Served(events::timerfd_create);
    284 eventfd "u" => Served(events::eventfd);
    285 fallocate "fxdd" => Served(io::fallocate);
    286 timerfd_settime "fxxx" => Served(events::timerfd_settime);
    287 timerfd_gettime "fx" => Served(events::timerfd_gettime);
    288 accept4 "fxxx" => Served(sockets::accept4);
    289 signalfd4 "fxux" => Served(events::signalfd4);
    290 eventfd2 "ux" => Served(events::eventfd2);
    291 epoll_create1 "x" => Served(events::epoll_create1);
    292 dup3 "ffx" => Served(fds::dup3);
    293 pipe2 "xx" => Served(fds::pipe2);
    294 inotify_init1 "x" => Served(events::inotify_init1);
    295 preadv "fxud" => Served(io::preadv);
    296 pwritev "fxud" => Served(io::pwritev);
    297 rt_tgsigqueueinfo "dddx" => Served(signals::rt_tgsigqueueinfo);
    298 perf_event_open "xddfx" => Refused(Errno::EPERM, POWER);
    299 recvmmsg "fxuxx" => Served(transfer::recvmmsg);
    300 fanotify_init "xx" => Refused(Errno::EPERM, POWER);
    301 fanotify_mark "fxx@s" => Refused(Errno::EPERM, POWER);
    302 prlimit64 "duxx" => Served(process::prlimit64);
    303 name_to_handle_at "@sxxx" => Refused(Errno::EPERM, POWER);
    304 open_by_handle_at "fxx" => Refused(Errno::EPERM, POWER);
    305 clock_adjtime "dx" => Served(time::clock_adjtime);
    306 syncfs "f" => Served(io::syncfs);
    307 sendmmsg "fxux" => Served(transfer::sendmmsg);
    308 setns "fx" => Refused(Errno::EPERM, POWER);
    309 getcpu "xx" => Served(sched::getcpu);
    310 process_vm_readv "dxuxux" => Refused(Errno::EPERM, POWER);
    311 process_vm_writev "dxuxux" => Refused(Errno::EPERM, POWER);
    312 kcmp "dddxx" => Refused(Errno::EPERM, POWER);
    313 finit_module "fsx" => Refused(Errno::EPERM, POWER);
    314 sched_setattr "dxx" => Served(sched::sched_setattr);
    315 sched_getattr "dxux" => Served(sched::sched_getattr);
    316 renameat2 "@s@sx" => Served(change::renameat2);
    317 seccomp "uxx" => Refused(Errno::ENOSYS, SANDBOX);
    318 getrandom "xux" => Served(io::getrandom);
    319 memfd_create "sx" => Served(events::memfd_create);
    320 kexec_file_load "ffusx" => Refused(Errno::EPERM, POWER);
    321 bpf "dxu" => Refused(Errno::EPERM, POWER);
    322 execveat "@sxxx" => Served(exec::execveat);
    323 userfaultfd "x" => Refused(Errno::EPERM, POWER);
    324 membarrier "dxd" => Served(advice::membarrier);
    325 mlock2 "xux" => Served(advice::mlock2);
    326 copy_file_range "fxfxux" => Served(io::copy_file_range);
    327 preadv2 "fxudux" => Served(io::preadv2);
    328 pwritev2 "fxudux" => Served(io::pwritev2);
    329 pkey_mprotect "xuxd" => Served(advice::pkey_mprotect);
    330 pkey_alloc "xx" => Refused(Errno::ENOSPC, KEYS);
    331 pkey_free "d" => Refused(Errno::EINVAL, KEYS);
    332 statx "@sxxx" => Served(files::statx);
    333 io_pgetevents "" => Refused(Errno::ENOSYS, AIO);
    334 rseq "xuxx" => Refused(Errno::ENOSYS, THREADS);
    335 uretprobe "" => Refused(Errno::EPERM, POWER);
    336 uprobe "" => Refused(Errno::EPERM, POWER);
    424 pidfd_send_signal "fdxx" => Served(events::pidfd_send_signal);
    425 io_uring_setup "ux" => Refused(Errno::EPERM, POWER);
    426 io_uring_enter "fuuxxu" => Refused(Errno::EPERM, POWER);
    427 io_uring_register "fuxu" => Refused(Errno::EPERM, POWER);
    428 open_tree "@sx" => Refused(Errno::EPERM, POWER);
    429 move_mount "@s@sx" => Refused(Errno::EPERM, POWER);
    430 fsopen "sx" => Refused(Errno::EPERM, POWER);
    431 fsconfig "fuxxd" => Refused(Errno::EPERM, POWER);
    432 fsmount "fxx" => Refused(Errno::EPERM, POWER);
    433 fspick "@sx" => Refused(Errno::EPERM, POWER);
    434 pidfd_open "dx" => Served(events::pidfd_open);
    435 clone3 "xu" => Served(children::clone3);
    436 close_range "uux" => Served(fds::close_range);
    437 openat2 "@sxu" => Served(open::openat2);
    438 pidfd_getfd "ffx" => Refused(Errno::EPERM, POWER);
    439 faccessat2 "@sox" => Served(files::faccessat2);
    440 process_madvise "fxudx" => Refused(Errno::EPERM, POWER);
    441 epoll_pwait2 "fxdxxu" => Served(events::epoll_pwait2);
    442 mount_setattr "@sxxu" => Refused(Errno::EPERM, POWER);
    443 quotactl_fd "fxux" => Refused(Errno::EPERM, POWER);
    444 landlock_create_ruleset "xux" => Refused(Errno::ENOSYS, SANDBOX);
    445 landlock_add_rule "" => Refused(Errno::ENOSYS, SANDBOX);
    446 landlock_restrict_self "" => Refused(Errno::ENOSYS, SANDBOX);
    447 memfd_secret "x" => Refused(Errno::EPERM, POWER);
    448 process_mrelease "fx" => Refused(Errno::EPERM, POWER);
    449 futex_waitv "" => Refused(Errno::ENOSYS, OLDER);
    450 set_mempolicy_home_node "xuuu" => Refused(Errno::ENOSYS, NUMA);
    451 cachestat "fxxx" => Served(io::cachestat);
    452 fchmodat2 "@sox" => Served(attributes::fchmodat2);
    453 map_shadow_stack "xux" => Refused(Errno::EOPNOTSUPP, SHADOW);
    454 futex_wake "" => Refused(Errno::ENOSYS, OLDER);
    455 futex_wait "" => Refused(Errno::ENOSYS, OLDER);
    456 futex_requeue "" => Refused(Errno::ENOSYS, OLDER);
    457 statmount "xxux" => Refused(Errno::EPERM, POWER);
    458 listmount "xxux" => Refused(Errno::EPERM, POWER);
    459 lsm_get_self_attr "" => Refused(Errno::ENOSYS, LSM);
    460 lsm_set_self_attr "uxux" => Refused(Errno::EPERM, POWER);
    461 lsm_list_modules "" => Refused(Errno::ENOSYS, LSM);
    462 mseal "xux" => Refused(Errno::ENOSYS, SEALS);
    463 setxattrat "@sxsxu" => Served(attributes::setxattrat);
    464 getxattrat "@sxsxu" => Served(attributes::getxattrat);
    465 listxattrat "@sxxu" => Served(attributes::listxattrat);
    466 removexattrat "@sxs" => Served(attributes::removexattrat);
    467 open_tree_attr "@sxxu" => Refused(Errno::EPERM, POWER);
    468 file_getattr "@sxux" => Served(attributes::file_getattr);
    469 file_setattr "@sxux" => Refused(Errno::EPERM, POWER);
    470 listns "xxux" => Refused(Errno::EPERM, POWER);
    471 rseq_slice_yield "" => Refused(Errno::ENOSYS, THREADS);
    472 fchroot "f" => Refused(Errno::EPERM, POWER);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ascending_and_found() {
        assert!(TABLE.windows(2).all(|pair| pair[0].number < pair[1].number));
        for call in TABLE {
            assert_eq!(find(call.number.into()).unwrap().name, call.name);
        }
        assert!(find(400).is_none());
        assert!(find(u64::MAX).is_none());
        assert_eq!(census().iter().sum::<usize>(), TABLE.len());
    }

    #[test]
    fn names_are_the_systems() {
        let number = |name| TABLE.iter().find(|call| call.name == name).unwrap().number;
        assert_eq!(i64::from(number("read")), libc::SYS_read);
        assert_eq!(i64::from(number("openat")), libc::SYS_openat);
        assert_eq!(i64::from(number("exit_group")), libc::SYS_exit_group);
        assert_eq!(i64::from(number("close_range")), libc::SYS_close_range);
        assert_eq!(i64::from(number("fchmodat2")), libc::SYS_fchmodat2);
    }

    /// Those of the header that the kernel's build makes of its own table.
    #[test]
    fn numbers_are_the_kernels() {
        let headers = [
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../build/linux/arch/x86/include/generated/uapi/asm/unistd_64.h"
            ),
            "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
        ];
        let text = headers.map(std::fs::read_to_string);
        let text = text.into_iter().find_map(Result::ok);
        let text = text.unwrap_or_else(|| panic!("there is none of {headers:?}"));
        let mut kernels: Vec<(u16, &str)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
            // How many there are.
            .filter(|(name, _)| *name != "syscalls")
            .map(|(name, number)| (number.trim().parse().unwrap(), name))
            .collect();
        kernels.sort_unstable();
        assert!(kernels.len() > 300, "{text}");
        let ours: Vec<(u16, &str)> = TABLE.iter().map(|call| (call.number, call.name)).collect();
        for call in &kernels {
            assert!(ours.contains(call), "{call:?} is missing");
        }
        for call in &ours {
            assert!(kernels.contains(call), "{call:?} is none");
        }
    }

    #[test]
    fn every_refusal_has_a_reason() {
        for call in TABLE {
            if let Refused(errno, why) = call.fate {
                assert!(!why.is_empty() && errno.name().is_some(), "{}", call.name);
            }
        }
    }

    #[test]
    fn shapes_are_short_and_known() {
        for call in TABLE {
            let (arguments, result) = call.shape.split_once('>').unwrap_or((call.shape, ""));
            assert!(arguments.len() <= 6, "{}", call.name);
            assert!(
                arguments.chars().all(|kind| "duxof@s".contains(kind)),
                "{}",
                call.name
            );
            assert!(matches!(result, "" | "x"), "{}", call.name);
        }
    }
}
