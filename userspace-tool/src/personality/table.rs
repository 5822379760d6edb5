// SPDX-License-Identifier: GPL-2.0

//! Every system call of x86-64 Linux, and what becomes of it. Dispatch and trace both come from here.

use super::Fate::{self, Refused, Served, Unserved};
use super::{
    attributes, change, exec, fds, files, io, memory, open, process, signals, time, wait, Syscall,
};
use crate::errno::Errno;

/// Why sockets are refused.
const NETWORK: &str = "a task has no network";
/// Why what acts on the whole machine, or on other processes, is refused.
const POWER: &str = "a task has no power over the machine or other processes";
/// Why waiting for children is refused.
const CHILDREN: &str = "a task has no children";
/// Why changes of identity are refused.
const IDENTITY: &str = "a task keeps its identity";

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

/// How many calls have a fate of each kind: served, refused, unserved.
pub fn census() -> [usize; 3] {
    let mut counts = [0; 3];
    for call in TABLE {
        counts[match call.fate {
            Fate::Served(_) => 0,
            Fate::Refused(..) => 1,
            Fate::Unserved => 2,
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
    15 rt_sigreturn "" => Unserved;
    16 ioctl "fxx" => Served(fds::ioctl);
    17 pread64 "fxud" => Served(io::pread64);
    18 pwrite64 "fxud" => Served(io::pwrite64);
    19 readv "fxu" => Served(io::readv);
    20 writev "fxu" => Served(io::writev);
    21 access "so" => Served(files::access);
    22 pipe "x" => Served(fds::pipe);
    23 select "dxxxx" => Served(wait::select);
    24 sched_yield "" => Served(process::sched_yield);
    25 mremap "xuuxx>x" => Served(memory::mremap);
    26 msync "xux" => Served(memory::check_range);
    27 mincore "xux" => Unserved;
    28 madvise "xud" => Served(memory::madvise);
    29 shmget "" => Unserved;
    30 shmat "" => Unserved;
    31 shmctl "" => Unserved;
    32 dup "f" => Served(fds::dup);
    33 dup2 "ff" => Served(fds::dup2);
    34 pause "" => Served(signals::pause);
    35 nanosleep "xx" => Served(time::nanosleep);
    36 getitimer "dx" => Unserved;
    37 alarm "u" => Unserved;
    38 setitimer "dxx" => Unserved;
    39 getpid "" => Served(process::getpid);
    40 sendfile "ffxu" => Served(io::sendfile);
    41 socket "ddd" => Refused(Errno::EACCES, NETWORK);
    42 connect "" => Unserved;
    43 accept "" => Unserved;
    44 sendto "" => Unserved;
    45 recvfrom "" => Unserved;
    46 sendmsg "" => Unserved;
    47 recvmsg "" => Unserved;
    48 shutdown "" => Unserved;
    49 bind "" => Unserved;
    50 listen "" => Unserved;
    51 getsockname "" => Unserved;
    52 getpeername "" => Unserved;
    53 socketpair "dddx" => Refused(Errno::EACCES, NETWORK);
    54 setsockopt "" => Unserved;
    55 getsockopt "" => Unserved;
    56 clone "xxxxx" => Unserved;
    57 fork "" => Unserved;
    58 vfork "" => Unserved;
    59 execve "sxx" => Served(exec::execve);
    60 exit "d" => Served(process::exit);
    61 wait4 "dxxx" => Refused(Errno::ECHILD, CHILDREN);
    62 kill "dd" => Served(signals::kill);
    63 uname "x" => Served(process::uname);
    64 semget "" => Unserved;
    65 semop "" => Unserved;
    66 semctl "" => Unserved;
    67 shmdt "" => Unserved;
    68 msgget "" => Unserved;
    69 msgsnd "" => Unserved;
    70 msgrcv "" => Unserved;
    71 msgctl "" => Unserved;
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
    109 setpgid "dd" => Refused(Errno::EPERM, IDENTITY);
    110 getppid "" => Served(process::getppid);
    111 getpgrp "" => Served(process::getpgrp);
    112 setsid "" => Refused(Errno::EPERM, IDENTITY);
    113 setreuid "dd" => Refused(Errno::EPERM, IDENTITY);
    114 setregid "dd" => Refused(Errno::EPERM, IDENTITY);
    115 getgroups "dx" => Served(process::getgroups);
    116 setgroups "ux" => Refused(Errno::EPERM, POWER);
    117 setresuid "ddd" => Refused(Errno::EPERM, IDENTITY);
    118 getresuid "xxx" => Served(process::getresuid);
    119 setresgid "ddd" => Refused(Errno::EPERM, IDENTITY);
    120 getresgid "xxx" => Served(process::getresgid);
    121 getpgid "d" => Served(process::getpgid);
    122 setfsuid "" => Unserved;
    123 setfsgid "" => Unserved;
    124 getsid "d" => Served(process::getsid);
    125 capget "xx" => Served(process::capget);
    126 capset "xx" => Refused(Errno::EPERM, POWER);
    127 rt_sigpending "xu" => Served(signals::rt_sigpending);
    128 rt_sigtimedwait "xxxu" => Served(signals::rt_sigtimedwait);
    129 rt_sigqueueinfo "" => Unserved;
    130 rt_sigsuspend "xu" => Served(signals::rt_sigsuspend);
    131 sigaltstack "xx" => Served(signals::sigaltstack);
    132 utime "sx" => Served(attributes::utime);
    133 mknod "sox" => Served(change::mknod);
    134 uselib "" => Unserved;
    135 personality "x" => Refused(Errno::EPERM, POWER);
    136 ustat "" => Unserved;
    137 statfs "sx" => Served(files::statfs);
    138 fstatfs "fx" => Served(files::fstatfs);
    139 sysfs "" => Unserved;
    140 getpriority "dd" => Served(process::getpriority);
    141 setpriority "ddd" => Refused(Errno::EPERM, POWER);
    142 sched_setparam "dx" => Refused(Errno::EPERM, POWER);
    143 sched_getparam "dx" => Served(process::sched_getparam);
    144 sched_setscheduler "ddx" => Refused(Errno::EPERM, POWER);
    145 sched_getscheduler "d" => Served(process::sched_getscheduler);
    146 sched_get_priority_max "" => Unserved;
    147 sched_get_priority_min "" => Unserved;
    148 sched_rr_get_interval "" => Unserved;
    149 mlock "xu" => Served(memory::mlock);
    150 munlock "xu" => Served(memory::mlock);
    151 mlockall "" => Unserved;
    152 munlockall "" => Unserved;
    153 vhangup "" => Refused(Errno::EPERM, POWER);
    154 modify_ldt "dxu" => Refused(Errno::EPERM, POWER);
    155 pivot_root "ss" => Refused(Errno::EPERM, POWER);
    156 _sysctl "" => Unserved;
    157 prctl "dxxxx" => Served(process::prctl);
    158 arch_prctl "xx" => Served(process::arch_prctl);
    159 adjtimex "x" => Refused(Errno::EPERM, POWER);
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
    174 create_module "" => Unserved;
    175 init_module "xus" => Refused(Errno::EPERM, POWER);
    176 delete_module "sx" => Refused(Errno::EPERM, POWER);
    177 get_kernel_syms "" => Unserved;
    178 query_module "" => Unserved;
    179 quotactl "xsux" => Refused(Errno::EPERM, POWER);
    180 nfsservctl "" => Unserved;
    181 getpmsg "" => Unserved;
    182 putpmsg "" => Unserved;
    183 afs_syscall "" => Unserved;
    184 tuxcall "" => Unserved;
    185 security "" => Unserved;
    186 gettid "" => Served(process::getpid);
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
    202 futex "xxuxxu" => Served(time::futex);
    203 sched_setaffinity "dux" => Served(process::sched_setaffinity);
    204 sched_getaffinity "dux" => Served(process::sched_getaffinity);
    205 set_thread_area "" => Unserved;
    206 io_setup "" => Unserved;
    207 io_destroy "" => Unserved;
    208 io_getevents "" => Unserved;
    209 io_submit "" => Unserved;
    210 io_cancel "" => Unserved;
    211 get_thread_area "" => Unserved;
    212 lookup_dcookie "uxu" => Refused(Errno::EPERM, POWER);
    213 epoll_create "d" => Unserved;
    214 epoll_ctl_old "" => Unserved;
    215 epoll_wait_old "" => Unserved;
    216 remap_file_pages "" => Unserved;
    217 getdents64 "fxu" => Served(io::getdents64);
    218 set_tid_address "x" => Served(process::set_tid_address);
    219 restart_syscall "" => Unserved;
    220 semtimedop "" => Unserved;
    221 fadvise64 "fddd" => Served(io::fadvise64);
    222 timer_create "dxx" => Unserved;
    223 timer_settime "" => Unserved;
    224 timer_gettime "" => Unserved;
    225 timer_getoverrun "" => Unserved;
    226 timer_delete "" => Unserved;
    227 clock_settime "dx" => Refused(Errno::EPERM, POWER);
    228 clock_gettime "dx" => Served(time::clock_gettime);
    229 clock_getres "dx" => Served(time::clock_getres);
    230 clock_nanosleep "dxxx" => Served(time::clock_nanosleep);
    231 exit_group "d" => Served(process::exit);
    232 epoll_wait "fxdd" => Unserved;
    233 epoll_ctl "fdfx" => Unserved;
    234 tgkill "ddd" => Served(signals::tgkill);
    235 utimes "sx" => Served(attributes::utimes);
    236 vserver "" => Unserved;
    237 mbind "" => Unserved;
    238 set_mempolicy "" => Unserved;
    239 get_mempolicy "" => Unserved;
    240 mq_open "" => Unserved;
    241 mq_unlink "" => Unserved;
    242 mq_timedsend "" => Unserved;
    243 mq_timedreceive "" => Unserved;
    244 mq_notify "" => Unserved;
    245 mq_getsetattr "" => Unserved;
    246 kexec_load "uuxx" => Refused(Errno::EPERM, POWER);
    247 waitid "ddxxx" => Refused(Errno::ECHILD, CHILDREN);
    248 add_key "ssxud" => Refused(Errno::EPERM, POWER);
    249 request_key "sssd" => Refused(Errno::EPERM, POWER);
    250 keyctl "dxxxx" => Refused(Errno::EPERM, POWER);
    251 ioprio_set "ddd" => Refused(Errno::EPERM, POWER);
    252 ioprio_get "" => Unserved;
    253 inotify_init "" => Unserved;
    254 inotify_add_watch "fsx" => Unserved;
    255 inotify_rm_watch "" => Unserved;
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
    274 get_robust_list "" => Unserved;
    275 splice "fxfxux" => Served(io::splice);
    276 tee "ffux" => Served(io::tee);
    277 sync_file_range "fddx" => Served(io::sync_file_range);
    278 vmsplice "fxux" => Served(io::vmsplice);
    279 move_pages "duxxxx" => Refused(Errno::EPERM, POWER);
    280 utimensat "@sxx" => Served(attributes::utimensat);
    281 epoll_pwait "fxddxu" => Unserved;
    282 signalfd "" => Unserved;
    283 timerfd_create "dx" => Unserved;
    284 eventfd "u" => Unserved;
    285 fallocate "fxdd" => Served(io::fallocate);
    286 timerfd_settime "" => Unserved;
    287 timerfd_gettime "" => Unserved;
    288 accept4 "" => Unserved;
    289 signalfd4 "fxux" => Unserved;
    290 eventfd2 "ux" => Unserved;
    291 epoll_create1 "x" => Unserved;
    292 dup3 "ffx" => Served(fds::dup3);
    293 pipe2 "xx" => Served(fds::pipe2);
    294 inotify_init1 "x" => Unserved;
    295 preadv "fxud" => Served(io::preadv);
    296 pwritev "fxud" => Served(io::pwritev);
    297 rt_tgsigqueueinfo "" => Unserved;
    298 perf_event_open "xddfx" => Refused(Errno::EPERM, POWER);
    299 recvmmsg "" => Unserved;
    300 fanotify_init "xx" => Refused(Errno::EPERM, POWER);
    301 fanotify_mark "fxx@s" => Refused(Errno::EPERM, POWER);
    302 prlimit64 "duxx" => Served(process::prlimit64);
    303 name_to_handle_at "@sxxx" => Refused(Errno::EPERM, POWER);
    304 open_by_handle_at "fxx" => Refused(Errno::EPERM, POWER);
    305 clock_adjtime "dx" => Refused(Errno::EPERM, POWER);
    306 syncfs "f" => Served(io::syncfs);
    307 sendmmsg "" => Unserved;
    308 setns "fx" => Refused(Errno::EPERM, POWER);
    309 getcpu "xx" => Served(process::getcpu);
    310 process_vm_readv "dxuxux" => Refused(Errno::EPERM, POWER);
    311 process_vm_writev "dxuxux" => Refused(Errno::EPERM, POWER);
    312 kcmp "dddxx" => Refused(Errno::EPERM, POWER);
    313 finit_module "fsx" => Refused(Errno::EPERM, POWER);
    314 sched_setattr "dxx" => Refused(Errno::EPERM, POWER);
    315 sched_getattr "" => Unserved;
    316 renameat2 "@s@sx" => Served(change::renameat2);
    317 seccomp "uxx" => Unserved;
    318 getrandom "xux" => Served(io::getrandom);
    319 memfd_create "sx" => Unserved;
    320 kexec_file_load "ffusx" => Refused(Errno::EPERM, POWER);
    321 bpf "dxu" => Refused(Errno::EPERM, POWER);
    322 execveat "@sxxx" => Served(exec::execveat);
    323 userfaultfd "x" => Refused(Errno::EPERM, POWER);
    324 membarrier "dxd" => Unserved;
    325 mlock2 "xux" => Served(memory::mlock);
    326 copy_file_range "fxfxux" => Served(io::copy_file_range);
    327 preadv2 "fxudux" => Served(io::preadv2);
    328 pwritev2 "fxudux" => Served(io::pwritev2);
    329 pkey_mprotect "xuxd" => Unserved;
    330 pkey_alloc "xx" => Unserved;
    331 pkey_free "" => Unserved;
    332 statx "@sxxx" => Served(files::statx);
    333 io_pgetevents "" => Unserved;
    334 rseq "xuxx" => Unserved;
    335 uretprobe "" => Refused(Errno::EPERM, POWER);
    336 uprobe "" => Refused(Errno::EPERM, POWER);
    424 pidfd_send_signal "" => Unserved;
    425 io_uring_setup "ux" => Refused(Errno::EPERM, POWER);
    426 io_uring_enter "fuuxxu" => Refused(Errno::EPERM, POWER);
    427 io_uring_register "fuxu" => Refused(Errno::EPERM, POWER);
    428 open_tree "@sx" => Refused(Errno::EPERM, POWER);
    429 move_mount "@s@sx" => Refused(Errno::EPERM, POWER);
    430 fsopen "sx" => Refused(Errno::EPERM, POWER);
    431 fsconfig "fuxxd" => Refused(Errno::EPERM, POWER);
    432 fsmount "fxx" => Refused(Errno::EPERM, POWER);
    433 fspick "@sx" => Refused(Errno::EPERM, POWER);
    434 pidfd_open "" => Unserved;
    435 clone3 "xu" => Unserved;
    436 close_range "uux" => Served(fds::close_range);
    437 openat2 "@sxu" => Served(open::openat2);
    438 pidfd_getfd "ffx" => Refused(Errno::EPERM, POWER);
    439 faccessat2 "@sox" => Served(files::faccessat2);
    440 process_madvise "fxudx" => Refused(Errno::EPERM, POWER);
    441 epoll_pwait2 "" => Unserved;
    442 mount_setattr "@sxxu" => Refused(Errno::EPERM, POWER);
    443 quotactl_fd "fxux" => Refused(Errno::EPERM, POWER);
    444 landlock_create_ruleset "xux" => Unserved;
    445 landlock_add_rule "" => Unserved;
    446 landlock_restrict_self "" => Unserved;
    447 memfd_secret "x" => Refused(Errno::EPERM, POWER);
    448 process_mrelease "fx" => Refused(Errno::EPERM, POWER);
    449 futex_waitv "" => Unserved;
    450 set_mempolicy_home_node "xuuu" => Refused(Errno::EPERM, POWER);
    451 cachestat "fxxx" => Served(io::cachestat);
    452 fchmodat2 "@sox" => Served(attributes::fchmodat2);
    453 map_shadow_stack "" => Unserved;
    454 futex_wake "" => Unserved;
    455 futex_wait "" => Unserved;
    456 futex_requeue "" => Unserved;
    457 statmount "xxux" => Refused(Errno::EPERM, POWER);
    458 listmount "xxux" => Refused(Errno::EPERM, POWER);
    459 lsm_get_self_attr "" => Unserved;
    460 lsm_set_self_attr "uxux" => Refused(Errno::EPERM, POWER);
    461 lsm_list_modules "" => Unserved;
    462 mseal "" => Unserved;
    463 setxattrat "@sxsxu" => Served(attributes::setxattrat);
    464 getxattrat "@sxsxu" => Served(attributes::getxattrat);
    465 listxattrat "@sxxu" => Served(attributes::listxattrat);
    466 removexattrat "@sxs" => Served(attributes::removexattrat);
    467 open_tree_attr "@sxxu" => Refused(Errno::EPERM, POWER);
    468 file_getattr "@sxux" => Served(attributes::file_getattr);
    469 file_setattr "@sxux" => Refused(Errno::EPERM, POWER);
    470 listns "xxux" => Refused(Errno::EPERM, POWER);
    471 rseq_slice_yield "" => Unserved;
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
