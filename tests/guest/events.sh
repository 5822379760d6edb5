#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Events, timers, scheduling and what a task sees of itself: Python programs that print what system calls do,
# natively and in a micro-VM; both must print the same. Behind them, what is refused.
#
# machines: kvm bochs/long bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
export PYTHONDONTWRITEBYTECODE=1
ulimit -l unlimited || exit 1

# What all the programs start with.
cat >common.py <<'PY'
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    """A system call; the name of its error, or its result."""
    args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    return result if result != -1 else errno.errorcode[ctypes.get_errno()]
def attempt(what, *args, **named):
    """What a function returns, or the name of its error."""
    try:
        return what(*args, **named)
    except OSError as error:
        return errno.errorcode[error.errno]
def show(*what):
    print(*what, flush=True)
PY

# same NAME: runs the program on standard input natively and in a micro-VM, and compares.
same() {
	local name=$1 bad=0 native status
	{ cat common.py; cat; } >program.py
	timeout 60 /usr/bin/python3 -S program.py >native.out 2>native.err </dev/null
	native=$?
	timeout 120 uvctl run -- /usr/bin/python3 -S program.py >guest.out 2>guest.err </dev/null
	status=$?
	# What a shell says of a program that a signal ended is not the program's.
	if ! compare $native $status out; then
		tail -n 3 guest.err | sed 's/^/# /'
		bad=1
	fi
	if [ ! -s native.out ]; then
		echo "# nothing printed:"
		tail -n 3 native.err | sed 's/^/# /'
		bad=1
	fi
	report "$bad" "$name"
}

# refused NAME: runs the program on standard input in a micro-VM; it must end with 0, and natively it must not:
# what it checks to be refused is there to be had.
refused() {
	local name=$1 bad=0 status
	{ cat common.py; cat; } >program.py
	timeout 120 uvctl run -- /usr/bin/python3 -S program.py >guest.out 2>&1 </dev/null
	status=$?
	if [ "$status" != 0 ]; then
		tail -n 5 guest.out | sed 's/^/# /'
		bad=1
	fi
	if timeout 60 /usr/bin/python3 -S program.py >native.out 2>&1 </dev/null; then
		echo "# natively it is refused as well"
		bad=1
	fi
	report "$bad" "$name"
}

same 'epoll' <<'PY'
import select
r, w = os.pipe()
ep = select.epoll()
ep.register(r, select.EPOLLIN | select.EPOLLONESHOT)
show(ep.poll(0), ep.poll(0.01))
os.write(w, b'x')
show(ep.poll(0) == [(r, select.EPOLLIN)], ep.poll(0))
ep.modify(r, select.EPOLLIN | select.EPOLLET)
show(len(ep.poll(0)), len(ep.poll(0)))
ep.unregister(r)
show(attempt(ep.unregister, r), attempt(ep.register, 999, 1))
file = os.open('common.py', os.O_RDONLY)
show(attempt(ep.register, file, 1))
show(attempt(ep.register, ep.fileno(), 1))
nested = select.epoll()
nested.register(ep.fileno(), select.EPOLLIN)
ep.register(w, select.EPOLLOUT)
show(len(nested.poll(0)))
events = ctypes.create_string_buffer(120)
show(call(213, 0) == 'EINVAL', os.close(call(213, 1)), call(291, 1 << 20))
show(call(232, ep.fileno(), events, 0, 0), call(232, ep.fileno(), events, -1, 0))
show(call(232, ep.fileno(), events, 1 << 30, 0), call(232, ep.fileno(), 8, 1, 0))
show(call(232, ep.fileno(), events, 10, 0), struct.unpack('<Iq', events.raw[:12])[0])
show(call(281, ep.fileno(), events, 10, 0, bytes(8), 8), call(281, ep.fileno(), events, 10, 0, bytes(8), 4))
show(call(441, ep.fileno(), events, 10, struct.pack('qq', 0, 1000), None, 8))
show(call(441, ep.fileno(), events, 10, struct.pack('qq', 0, 1 << 40), None, 8))
show(call(233, ep.fileno(), 1, w, 8), call(233, r, 1, w, events), call(233, ep.fileno(), 9, w, events))
# EPOLLWAKEUP is ignored without a capability.
show(call(233, ep.fileno(), 1, r, struct.pack('<Iq', 1 | 1 << 29, 7)))
PY

same 'eventfd, timerfd, signalfd' <<'PY'
import select, signal, time
e = os.eventfd(3, os.EFD_NONBLOCK)
show(os.eventfd_read(e), attempt(os.eventfd_read, e))
os.eventfd_write(e, 5); os.eventfd_write(e, 6)
show(os.eventfd_read(e), call(290, 0, 1 << 20))
s = os.eventfd(2, os.EFD_SEMAPHORE)
show(os.eventfd_read(s), os.eventfd_read(s), select.select([s], [], [], 0))
show(os.fstat(call(284, 0)).st_size)

t = call(283, 1, 0o4000)
old = ctypes.create_string_buffer(32)
show(attempt(os.read, t, 8))
show(call(286, t, 0, struct.pack('4q', 0, 0, 0, 20_000_000), old), old.raw == bytes(32))
time.sleep(0.1)
show(struct.unpack('Q', os.read(t, 8)), call(287, t, old), old.raw == bytes(32))
show(call(286, t, 0, struct.pack('4q', 0, 10_000_000, 0, 1), None))
time.sleep(0.1)
show(struct.unpack('Q', os.read(t, 8))[0] >= 9)
show(call(286, t, 0, struct.pack('4q', 100, 0, 100, 0), old), call(287, t, old), struct.unpack('4q', old)[:2])
show(call(283, 99, 0), call(283, 1, 1 << 20), call(283, 2, 0), call(286, e, 0, bytes(32), None), call(286, t, 0, 8, None))

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
mask = struct.pack('Q', 1 << (signal.SIGUSR1 - 1))
f = call(289, -1, mask, 8, 0o4000)
show(attempt(os.read, f, 128))
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
info = struct.unpack('Ii I I', os.read(f, 128)[:16])
show(info[0] == signal.SIGUSR1, info[3] == os.getpid(), attempt(os.read, f, 128))
show(call(282, f, struct.pack('Q', 1 << (signal.SIGUSR2 - 1)), 8) == f)
show(os.read(f, 128)[0] == signal.SIGUSR2)
show(call(289, -1, mask, 4, 0), call(289, e, mask, 8, 0), call(289, 999, mask, 8, 0), call(289, -1, 8, 8, 0), call(289, -1, mask, 8, 1))
PY

mkdir watched
same 'inotify' <<'PY'
n = call(294, 0o4000)
show(call(254, n, b'watched', 0x20), attempt(os.read, n, 4096))
os.listdir('watched')
show(struct.unpack('iIII', os.read(n, 4096)[:16]))
show(call(254, n, b'nothing', 2), call(254, n, b'common.py', 0x01000020), call(254, n, 8, 2))
link = call(254, n, b'/proc/self/fd/%d' % os.open('watched', os.O_RDONLY), 0x20)
show(link, call(254, n, b'watched', 0), call(254, 0, b'watched', 2), call(254, 999, b'watched', 2))
os.read(n, 4096)
show(call(255, n, 1), struct.unpack('iIII', os.read(n, 4096)[:16]), call(255, n, 1), call(255, 0, 1), call(294, 1))
os.close(call(253))
PY

same 'memory files' <<'PY'
import fcntl, mmap
m = os.memfd_create('name', os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
show(os.write(m, b'hello'), os.pread(m, 3, 1), os.fstat(m).st_size, fcntl.fcntl(m, fcntl.F_GET_SEALS))
show(os.ftruncate(m, 8192), len(mmap.mmap(m, 8192, mmap.MAP_PRIVATE)))
show(fcntl.fcntl(m, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW), fcntl.fcntl(m, fcntl.F_GET_SEALS))
show(attempt(os.write, m, b'x'), attempt(os.ftruncate, m, 9999))
show(attempt(os.memfd_create, 'x' * 250), attempt(os.memfd_create, 'x', 1 << 9), os.readlink('/proc/self/fd/%d' % m))
plain = os.memfd_create('plain', 0)
show(fcntl.fcntl(plain, fcntl.F_GET_SEALS), attempt(fcntl.fcntl, plain, fcntl.F_ADD_SEALS, 1))
PY

same 'a pidfd of itself' <<'PY'
import select, signal
p = os.pidfd_open(os.getpid())
show(os.get_inheritable(p), select.select([p], [], [], 0), attempt(signal.pidfd_send_signal, p, 0))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
show(signal.pidfd_send_signal(p, signal.SIGUSR1), signal.sigwait([signal.SIGUSR1]))
show(attempt(signal.pidfd_send_signal, 0, 0), attempt(signal.pidfd_send_signal, 999, 0), attempt(signal.pidfd_send_signal, p, 99))
show(call(434, 0, 0), call(434, -5, 0), call(434, os.getpid(), 1), call(424, p, 0, None, 8), call(424, p, 0, None, 3))
signal.pidfd_send_signal(p, signal.SIGTERM)
show('not reached')
PY

refused 'events of other processes' <<'PY'
assert call(434, 1, 0) == 'ESRCH'
assert call(434, os.getppid(), 0) == 'ESRCH'
n = call(253)
for path in [b'/proc/1', b'/proc/self/maps', b'/proc/self/../1/status', b'/dev/mem', b'/dev/kmsg', b'/sys/kernel/debug']:
    assert call(254, n, path, 2) in ('EACCES', 'ENOENT'), path
assert call(254, n, b'/dev/uvisor-checkpoint', 2) == 'EACCES'
# What keeps the machine awake, or wakes it.
assert call(283, 8, 0) == 'EPERM' and call(283, 9, 0) == 'EPERM'
# Protection keys are not switched, and huge pages are the machine's.
assert call(330, 0, 0) == 'ENOSPC'
assert call(319, b'x', 4) == 'ENOSYS'
assert call(300, 0, 0) == 'EPERM'
# The broker's own descriptors.
ep = call(291, 0)
for fd in range(1024, 1100):
    assert call(233, ep, 1, fd, bytes(12)) == 'EBADF', fd
    assert call(434, fd, 0) == 'ESRCH', fd
PY

same 'interval timers' <<'PY'
import signal, time
block = [signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF]
signal.pthread_sigmask(signal.SIG_BLOCK, block)
show(signal.getitimer(signal.ITIMER_REAL), signal.setitimer(signal.ITIMER_REAL, 0.02, 100))
show(signal.sigtimedwait([signal.SIGALRM], 10).si_signo)
left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
show(90 < left <= 100, interval, signal.getitimer(signal.ITIMER_REAL))
show(signal.alarm(50), 49 <= signal.alarm(0) <= 50, signal.alarm(0))
for which, number in [(signal.ITIMER_VIRTUAL, signal.SIGVTALRM), (signal.ITIMER_PROF, signal.SIGPROF)]:
    show(signal.setitimer(which, 0.02, 0), signal.getitimer(which)[0] > 0)
    end = time.monotonic() + 60
    while number not in signal.sigpending() and time.monotonic() < end: pass
    show(number in signal.sigpending(), signal.sigwait([number]), signal.getitimer(which))
buffer = ctypes.create_string_buffer(32)
show(call(36, 9, buffer), call(38, 9, buffer, None), call(36, 0, 8), call(36, 1, 8), call(38, 0, 8, None))
wrong = struct.pack('4q', 0, 0, 0, 1000000)
show(call(38, 0, wrong, None), call(38, 1, wrong, None), call(38, 1, struct.pack('4q', -1, 0, 0, 0), None))
signal.signal(signal.SIGALRM, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, block)
signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.05)
show('ignored')
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_REAL, 0.05); time.sleep(60)
show('not reached')
PY

same 'timers and clocks' <<'PY'
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGALRM])
def event(number, notify, value=0, tid=0):
    return struct.pack('QiiI', value, number, notify, tid) + bytes(44)
ident = ctypes.create_string_buffer(4)
def create(clock, e):
    result = call(222, clock, e, ident)
    return result if result else struct.unpack('i', ident)[0]
buffer = ctypes.create_string_buffer(32)
t = create(1, event(signal.SIGUSR1, 0, 77))
show(t >= 0, call(223, t, 0, struct.pack('4q', 0, 0, 0, 1000), buffer), call(224, t, buffer))
show(signal.sigtimedwait([signal.SIGUSR1], 10).si_code, call(225, t))
show(call(223, t, 1, struct.pack('4q', 100, 0, 1 << 33, 0), None), call(224, t, buffer), struct.unpack('4q', buffer)[:2])
show(call(226, t), call(226, t), call(225, t), call(223, t, 0, bytes(32), None), call(224, t, buffer))
quiet = create(0, event(0, 1))
show(call(223, quiet, 0, struct.pack('4q', 0, 0, 0, 1), None), call(225, quiet))
default = create(7, None)
show(call(223, default, 0, struct.pack('4q', 0, 0, 0, 1), None), signal.sigtimedwait([signal.SIGALRM], 10).si_signo)
own = create(3, event(signal.SIGUSR1, 4, tid=os.getpid()))
show(call(223, own, 0, struct.pack('4q', 0, 0, 0, 1), None))
end = time.monotonic() + 60
while signal.SIGUSR1 not in signal.sigpending() and time.monotonic() < end: pass
show(signal.sigwait([signal.SIGUSR1]))
show(call(222, 1, event(99, 0), ident), call(222, 1, event(1, 9), ident), call(222, 99, None, ident), call(222, 1, 8, ident))
show(call(222, 1, event(1, 4, tid=1), ident), call(222, 1, None, 8))

cpu = time.pthread_getcpuclockid(__import__('_thread').get_ident())
show(time.clock_gettime(cpu) > 0, time.clock_getres(cpu), time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID) > 0)
process = ~os.getpid() << 3 | 2
show(time.clock_gettime(process) > 0, call(228, 99, buffer), call(228, 3 | ~0 << 3, buffer))
show(call(230, 1, 0, struct.pack('qq', 0, 1000), None), call(230, 1, 1, struct.pack('qq', 0, 1), None))
show(call(230, 3, 0, struct.pack('qq', 0, 1), None), call(230, 99, 0, struct.pack('qq', 0, 1), None), call(230, 1, 0, struct.pack('qq', 0, 1 << 40), None))
timex = ctypes.create_string_buffer(208)
show(call(159, timex) in range(6), call(305, 0, timex) in range(6), struct.unpack_from('q', timex, 88)[0] > 0)
show(call(305, 99, timex), call(159, 8))
t = os.times()
show(len(t), t.user >= 0, t.elapsed > 0)
import resource
for who in [resource.RUSAGE_SELF, resource.RUSAGE_THREAD, resource.RUSAGE_CHILDREN]:
    u = resource.getrusage(who)
    show(u.ru_utime + u.ru_stime > 0, u.ru_maxrss >= 0)
show(call(98, 5, buffer))
PY

same 'scheduling' <<'PY'
for policy in [0, 1, 2, 3, 5, 6, 9]:
    show(attempt(os.sched_get_priority_max, policy), attempt(os.sched_get_priority_min, policy))
show(os.sched_getaffinity(0), os.cpu_count(), os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)
cpus = os.sched_getaffinity(0)
show(os.sched_setaffinity(0, {min(cpus)}), os.sched_getaffinity(os.getpid()), attempt(os.sched_setaffinity, 0, set()))
show(attempt(os.sched_setaffinity, 0, {4000}), os.sched_setaffinity(0, cpus))
mask = ctypes.create_string_buffer(4096)
show(call(204, 0, 4096, mask), call(204, 0, 12, mask), call(204, 0, 0, mask), call(204, 0, 4096, 8), call(204, 999999, 8, mask))
cpu, node = ctypes.create_string_buffer(4), ctypes.create_string_buffer(4)
show(call(309, cpu, node, None), struct.unpack('I', cpu)[0] in cpus, struct.unpack('I', node))
show(os.sched_rr_get_interval(0) >= 0, call(148, -5, mask))
attr = ctypes.create_string_buffer(64)
show(call(315, 0, attr, 48, 0), struct.unpack_from('IIQiI', attr), call(315, 0, attr, 4, 0), call(315, 0, attr, 48, 1), call(315, 0, attr, 1 << 20, 0))
show(call(314, 0, attr, 0), call(314, 0, attr, 1), call(314, 0, 8, 0))
show(os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)), os.sched_setparam(0, os.sched_param(0)))
show(attempt(os.sched_setscheduler, 0, os.SCHED_OTHER, os.sched_param(3)))
show(os.getpriority(os.PRIO_PROCESS, 0), os.nice(0), os.nice(3), os.nice(2), os.getpriority(os.PRIO_PROCESS, os.getpid()))
show(os.setpriority(os.PRIO_PROCESS, 0, 10), os.nice(100), attempt(os.setpriority, 9, 0, 0), attempt(os.getpriority, 9, 0))
show(call(252, 1, 0), call(252, 9, 0))
PY

same 'locks on memory, residence, keys and barriers' <<'PY'
import mmap
m = mmap.mmap(-1, 4 * 4096)
m[:] = b'x' * len(m)
address = ctypes.addressof(ctypes.c_char.from_buffer(m))
vector = ctypes.create_string_buffer(8)
show(call(27, address, 4 * 4096, vector), vector.raw, call(27, address + 1, 4096, vector), call(27, address, 0, vector))
show(call(27, 0x10000, 4096, vector), call(27, address, 4096, 8))
show(call(149, address + 5, 10), call(150, address, 4096), call(325, address, 4096, 1), call(325, address, 4096, 2), call(149, 0x10000, 4096))
show(call(151, 0), call(151, 9), call(151, 4), call(151, 1), call(151, 2), call(152))
query = call(324, 0, 0, 0)
show(query & 25, call(324, 8, 0, 0), call(324, 16, 0, 0), call(324, 8, 0, 0), call(324, 1, 0, 0), call(324, 8, 9, 0), call(324, 24, 0, 0))
show(call(324, 32, 0, 0), call(324, 64, 0, 0), call(324, 32, 0, 0))
show(call(329, address, 4096, 1, -1), call(329, address, 4096, 1, 99), call(331, 77))
PY

refused 'times and priorities of others, and limits of locks' <<'PY'
buffer = ctypes.create_string_buffer(256)
assert call(228, ~1 << 3 | 2, buffer) == 'EINVAL'
assert call(230, ~1 << 3 | 2, 0, struct.pack('qq', 0, 1), None) == 'EINVAL'
assert call(222, ~1 << 3 | 2, None, buffer) == 'EINVAL'
assert call(222, 8, None, buffer) == 'EPERM'
assert call(227, 0, struct.pack('qq', 1 << 31, 0)) == 'EPERM'
assert call(305, 0, struct.pack('I', 2) + bytes(204)) == 'EPERM'
assert call(203, 1, 8, struct.pack('Q', 1)) in ('ESRCH', 'EPERM')
assert call(203, os.getppid(), 8, struct.pack('Q', 1)) == 'EPERM'
assert call(204, 2, 8, buffer) == 'ESRCH'
assert attempt(os.nice, -1) == 'EACCES' or attempt(os.nice, -1) == 'EPERM'
for which in range(3):
    assert attempt(os.setpriority, which, 1, 5) in ('EPERM', 'ESRCH')
assert attempt(os.getpriority, os.PRIO_PGRP, 1) == 'ESRCH'
assert attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)) == 'EPERM'
attr = struct.pack('IIQiIQQQ', 48, 0, 0, -5, 0, 0, 0, 0)
assert call(314, 0, attr, 0) == 'EACCES'
import resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
assert call(149, 0x400000, 8192) == 'ENOMEM' and call(151, 1) == 'ENOMEM'
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
assert call(149, 0x400000, 4096) == 'EPERM' and call(151, 2) == 'EPERM'
PY

refused 'what is shared by all processes of the host' <<'PY'
for number in [29, 30, 31, 64, 65, 66, 67, 68, 69, 70, 71, 220]:
    assert call(number, 0, 4096, 0o1600) == 'ENOSYS', number
for number in range(240, 246):
    assert call(number, b'/name', 0o102, 0o600, None) == 'ENOSYS', number
assert call(248, b'user', b'x', b'y', 1, -3) == 'EPERM'
PY

same '/proc/self' <<'PY'
def text(path):
    with open(path, 'rb') as file: return file.read()
own = '/proc/%d/' % os.getpid()
show(text('/proc/self/cmdline'), text(own + 'cmdline') == text('/proc/thread-self/cmdline'))
show(sorted(e for e in text('/proc/self/environ').split(b'\0') if not e.startswith((b'_=', b'OLDPWD='))))
show(text('/proc/self/comm'), text(own + 'task/%d/comm' % os.getpid()))
libc.prctl(15, b'another name')
show(text('/proc/self/comm'), text('/proc/self/stat').split(b') ')[0].split(b'(')[1])
show(text('/proc/self/limits').decode())
status = dict(line.split(':', 1) for line in text('/proc/self/status').decode().splitlines())
show([(k, status[k]) for k in ['Name', 'Uid', 'Gid', 'Groups', 'Threads', 'SigBlk', 'SigIgn', 'TracerPid', 'VmLck', 'VmSwap']])
show(int(status['Pid']) == os.getpid(), int(status['PPid']) == os.getppid(), list(status))
size = int(status['VmSize'].split()[0])
show(0 < int(status['VmRSS'].split()[0]) <= size)
stat = text('/proc/self/stat').rsplit(b')', 1)[1].split()
show(len(stat), int(stat[1]) == os.getppid(), stat[0], int(stat[20]) // 1024 == size, int(stat[45]) > 0)
statm = list(map(int, text('/proc/self/statm').split()))
show(len(statm), statm[0] * 4 == size)
auxv = text('/proc/self/auxv')
pairs = dict(struct.unpack_from('QQ', auxv, i) for i in range(0, len(auxv), 16))
show(pairs[6], libc.getauxval(11) == pairs[11], 0 in pairs, struct.unpack_from('QQ', auxv, len(auxv) - 16))
areas = []
for line in text('/proc/self/maps').decode().splitlines():
    fields = line.split()
    start, end = (int(x, 16) for x in fields[0].split('-'))
    areas.append((start, end, fields[1], fields[5] if len(fields) > 5 else ''))
names = [area[3] for area in areas]
show('[heap]' in names, '[stack]' in names, areas == sorted(areas), all(a < b for a, b, *_ in areas))
buffer = ctypes.create_string_buffer(10)
show([area[2] for area in areas if area[0] <= ctypes.addressof(buffer) < area[1]])
code = ctypes.cast(libc.getpid, ctypes.c_void_p).value
show([area[2] for area in areas if area[0] <= code < area[1]])
show(sum(end - start for start, end, *_ in areas) // 1024 <= size)
show(os.path.exists('/proc/self/cwd'), os.readlink('/proc/self/cwd') == os.getcwd(), os.readlink('/proc/self/root'))
show(sorted(os.listdir('/proc/self/cwd')) == sorted(os.listdir('.')), text('/proc/self/root/etc/passwd') == text('/etc/passwd'))
show(text('/proc/self/oom_score_adj'), text('/proc/self/cgroup'), text('/proc/self/uid_map'))
show(attempt(os.open, '/proc/self/maps', os.O_DIRECTORY), attempt(os.open, '/proc/self/nothing', 0))
show(os.listdir('/proc/self/task') == [str(os.getpid())])
for line in text('/proc/cpuinfo').decode().splitlines():
    if line.startswith(('processor', 'model name', 'bugs')): show(line)
show(b'flags' in text('/proc/cpuinfo'), b'sse2' in text('/proc/cpuinfo'))
total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024
show(int(text('/proc/meminfo').split()[1]) == total)
PY

same 'descriptors under /proc' <<'PY'
r, w = os.pipe()
os.dup2(w, 100)
show(sorted(map(int, os.listdir('/proc/self/fd'))))
show(sorted(map(int, os.listdir('/dev/fd'))) == sorted(map(int, os.listdir('/proc/%d/fd' % os.getpid()))))
with open('/proc/self/fdinfo/%d' % r) as file: show(file.read().split('\n')[:2])
show(attempt(os.open, '/proc/self/fdinfo/99', 0), os.path.samestat(os.stat('/proc/self/fd/100'), os.fstat(w)))
fd = os.open('/proc/self', os.O_RDONLY | os.O_DIRECTORY)
show('maps' in os.listdir(fd), len(os.read(os.open('stat', os.O_RDONLY, dir_fd=fd), 10)))
buffer = ctypes.create_string_buffer(4096)
listing = os.open('/proc/self/fd', os.O_RDONLY | os.O_DIRECTORY)
show(call(78, listing, buffer, 4096) > 0, call(78, listing, buffer, 4096), call(217, listing, 8, 4096))
PY

same 'terminals' <<'PY'
import fcntl, termios, tty
master, slave = os.openpty()
show(os.isatty(master), os.isatty(slave), os.ttyname(slave) == '/dev/pts/%d' % struct.unpack('I', fcntl.ioctl(master, 0x80045430, bytes(4))))
fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('4H', 30, 90, 0, 0))
show(os.get_terminal_size(master), struct.unpack('4H', fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8))))
os.write(slave, b'hello\n'); show(os.read(master, 100))
os.write(master, b'line\n'); show(os.read(slave, 100), os.read(master, 100))
tty.setraw(slave); os.write(master, b'\x03x'); show(os.read(slave, 100))
show(termios.tcgetattr(slave)[:4], termios.tcdrain(slave), termios.tcflush(slave, termios.TCIOFLUSH), termios.tcsendbreak(slave, 0))
show(termios.tcflow(slave, termios.TCOOFF), termios.tcflow(slave, termios.TCOON))
show(attempt(termios.tcflow, os.pipe()[0], termios.TCOON))
again = os.open(os.ttyname(slave), os.O_RDWR | os.O_NOCTTY)
os.write(again, b'again'); show(os.read(master, 100), os.path.samestat(os.fstat(again), os.fstat(slave)))
peer = fcntl.ioctl(master, 0x5441, os.O_RDWR | os.O_NOCTTY)
show(os.isatty(peer), attempt(fcntl.ioctl, slave, 0x5441, os.O_RDWR), attempt(fcntl.ioctl, slave, termios.TIOCEXCL))
show(attempt(fcntl.ioctl, slave, termios.TIOCNXCL))
os.close(slave); os.close(again); os.close(peer)
show(attempt(os.read, master, 10))
show(attempt(os.open, '/dev/pts/9999', os.O_RDWR) in ('EACCES', 'ENOENT', 'EIO'))
PY

sleep 1000 &
other=$!
export other
refused '/proc of others and the broker' <<'PY'
other = os.environ['other']
for who in ['1', other, str(os.getppid())]:
    for name in ['mem', 'maps', 'environ', 'status', 'stat', 'cmdline', 'exe', 'fd', 'fd/0', 'root/etc/passwd', 'cwd/.', 'task', 'fdinfo/0', 'auxv', 'limits']:
        for path in ['/proc/%s/%s', '/proc/self/../%s/%s', '/proc/self/task/../../%s/%s', '/proc/./%s/%s', '/proc/self/root/proc/%s/%s', '/proc/self/cwd/../../../../../proc/%s/%s']:
            result = attempt(os.open, path % (who, name), os.O_RDONLY)
            assert result in ('EACCES', 'ENOENT', 'ELOOP', 'ENOTDIR'), (path, who, name, result)
assert attempt(os.chdir, '/proc/' + other) == 'ENOENT'
os.chdir('/proc/self')
assert attempt(os.open, 'mem', 0) == 'EACCES' and attempt(os.open, '../self/mem', 0) in ('EACCES', 'ELOOP')
os.chdir('/')
for name in ['mem', 'pagemap', 'map_files', 'ns', 'ns/net', 'net', 'clear_refs', 'syscall', 'stack', 'timers', 'attr/current']:
    result = attempt(os.open, '/proc/self/' + name, os.O_RDONLY)
    assert result in ('EACCES', 'ENOENT', 'ELOOP'), (name, result)
for name in ['oom_score_adj', 'status', 'limits']:
    for flags in [os.O_WRONLY, os.O_RDWR, os.O_TRUNC]:
        assert attempt(os.open, '/proc/self/' + name, flags) in ('EACCES', 'EROFS'), name
file = os.open('/proc/self/maps', os.O_RDONLY)
assert attempt(os.write, file, b'x') == 'EBADF'
assert [n for n in os.listdir('/proc') if n.isdigit()] == [str(os.getpid())]
with open('/proc/self/status') as status:
    assert 'CapEff:\t0000000000000000\n' in status
with open('/proc/cpuinfo') as info:
    flags = [line for line in info if line.startswith('flags')][0].split()
    assert 'vmx' not in flags and 'hypervisor' not in flags and 'smep' not in flags and 'sse2' in flags
for fd in list(range(1024, 1100)):
    assert attempt(os.open, '/proc/self/fd/%d' % fd, 0) == 'ENOENT'
    assert attempt(os.open, '/proc/self/fdinfo/%d' % fd, 0) == 'ENOENT'
PY
kill "$other"

# A terminal that is somebody else's: its number is what script's is.
setsid script -qc 'tty >other-tty; sleep 1000' /dev/null >/dev/null 2>&1 </dev/null &
script=$!
for _ in $(seq 100); do [ -s other-tty ] && break; sleep 0.1; done
refused 'terminals of others, and input made up' <<'PY'
import fcntl, termios
with open('other-tty') as file: other = file.read().strip()
assert other.startswith('/dev/pts/'), other
for flags in [os.O_RDWR, os.O_RDONLY, os.O_WRONLY]:
    assert attempt(os.open, other, flags | os.O_NOCTTY) in ('EACCES', 'ENOENT')
master, slave = os.openpty()
# Its own are in a directory of its own, so that one may have the same number.
if os.fstat(slave).st_rdev != os.makedev(136, int(other.rsplit('/')[-1])):
    assert attempt(os.open, other, os.O_RDWR | os.O_NOCTTY) in ('EACCES', 'ENOENT')
for fd in [master, slave]:
    assert attempt(fcntl.ioctl, fd, termios.TIOCSTI, b'x') == 'EPERM'
    assert attempt(fcntl.ioctl, fd, termios.TIOCCONS) == 'EPERM'
    assert attempt(fcntl.ioctl, fd, 0x541C, bytes(8)) == 'EPERM'
    assert attempt(fcntl.ioctl, fd, termios.TIOCSETD, struct.pack('i', 15)) == 'EPERM'
    assert attempt(fcntl.ioctl, fd, 0x5437) == 'EPERM'
    assert attempt(fcntl.ioctl, fd, termios.TIOCSCTTY, 1) == 'EPERM'
for path in ['/dev/mem', '/dev/kmsg', '/dev/port', '/dev/console', '/dev/tty1', '/dev/ttyS0', '/dev/uvisor', '/dev/kvm']:
    assert attempt(os.open, path, os.O_RDONLY) in ('EACCES', 'ENOENT'), path
PY
kill -- -"$script" 2>/dev/null

uvctl run --memory 64M -- /usr/bin/cat /proc/meminfo >limited
total=$(awk '$1 == "MemTotal:" { print $2 }' limited)
free=$(awk '$1 == "MemFree:" { print $2 }' limited)
[ "$total" = 65536 ] && [ "$free" -lt 65536 ] && [ "$free" -gt 0 ] && grep -q 'SwapTotal: *0 kB' limited
report $? 'a task with a limit sees no more memory than that'

uvctl syscalls >list && [ "$(wc -l <list)" -gt 380 ] && grep -Eq '^ *0  read +served$' list
report $? 'uvctl syscalls lists them'
! uvctl syscalls --refused | grep -q ' served' && uvctl syscalls --refused | grep -Eq '^ *169  reboot +refused: EPERM  +a task'
report $? 'uvctl syscalls says why one is refused'
[ "$(uvctl syscalls --json epoll_pwait2 | jq -r '.[0].number')" = 441 ]
report $? 'uvctl syscalls prints JSON'
uvctl syscalls nothing-like-this 2>err
[ $? = 125 ] && grep -q nothing-like-this err
report $? 'uvctl syscalls says that there is no such call'
uvctl completions bash | grep -q syscalls && uvctl man syscalls | grep -q 'refused'
status=$?
report $status 'the completions and the manual know it'
for command in 'completions bash' 'man run' 'syscalls --json'; do
	# shellcheck disable=SC2086
	uvctl $command 2>>broken | true
done
[ ! -s broken ]
report $? 'a pipe that nobody reads is no reason to fail over'

finish
