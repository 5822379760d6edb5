#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Processes, threads and signals of real programs in a micro-VM: output and status must be those of the same program
# run natively; and nothing of a task is left when it has ended, however that was.
#
# machines: bochs bochs2/long nested/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"

# What differs between any two runs: numbers of processes that a shell reports, addresses.
plain() { sed -i -E 's/(line [0-9]+:) +[0-9]+ /\1 PID /; s/0x[0-9a-f]{6,}/ADDRESS/g; s/pid=[0-9]+/pid=PID/' "$@"; }

# same NAME [OPTION VALUE]... PROGRAM [ARG...]: runs it natively and in a micro-VM, with nothing to read.
same() {
	local name=$1 native status
	local -a options=()
	shift
	while [ "${1#--}" != "$1" ]; do
		if [ "$1" = -- ]; then shift; break; fi
		options+=("$1" "$2")
		shift 2
	done
	"$@" >native.out 2>native.err </dev/null
	native=$?
	timeout 300 uvctl run "${options[@]}" -- "$@" >guest.out 2>guest.err </dev/null
	status=$?
	plain native.out native.err guest.out guest.err
	compare $native $status out err
	report $? "$name"
}

shell() { # NAME SCRIPT
	same "$1" bash -c "$2"
}

python() { # NAME PROGRAM
	same "$1" python3 -S -c "$2"
}

# --- Processes

shell 'a subshell and its status' '(exit 3); echo $?; (kill -9 $BASHPID); echo $?'
shell 'a pipeline' 'seq 1 2000 | sort -rn | tail -n 5; echo "${PIPESTATUS[@]}"'
shell 'substitution' 'x=$(echo a; echo b >&2; exit 4); echo "$x $?"'
shell 'background jobs and wait' 'for i in 3 1 2; do (sleep 0.$i; exit $i) & done; wait -n; echo $?; wait; echo done'
shell 'execve in a child' 'for i in 1 2 3; do /bin/echo $i; done; exec /bin/echo last'
shell 'a command that is not there' 'no-such-command; echo $?; /etc/passwd; echo $?'
shell 'descriptors go to children' 'exec 7<<<"inherited"; cat <&7; (exec 7<&-; cat /dev/fd/7 2>/dev/null; echo $?)'
shell 'a here document and a process substitution' 'cat <(echo one) <(echo two); cat <<<three'
shell 'the environment and the directory' 'cd /tmp; export A=1; bash -c "pwd; echo \$A; echo \$PPID | grep -c ."'
shell 'a deep chain of forks' 'f() { [ "$1" = 0 ] && echo bottom || (f $(($1 - 1))); }; f 12'
shell 'a coprocess' 'coproc cat; echo hello >&"${COPROC[1]}"; read -r line <&"${COPROC[0]}"; echo "$line"; kill $COPROC_PID; wait $COPROC_PID; echo $?'

python 'limits of processes that there are not' '
import os, resource
print(resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE) == resource.getrlimit(resource.RLIMIT_NOFILE))
for pid in -1, 4190000:
    try: resource.prlimit(pid, resource.RLIMIT_AS)
    except OSError as error: print(pid, error)'

python 'fork, wait and memory of its own' '
import os
data = bytearray(b"x" * 100000)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    data[500] = 121
    os.write(w, data[499:502])
    os._exit(7)
os.close(w)
got = os.waitpid(pid, 0)
print(got[0] == pid, os.WEXITSTATUS(got[1]), os.read(r, 9), data[499:502])
try:
    os.waitpid(-1, 0)
except ChildProcessError as error:
    print(error)
'
python 'the parent and the child know each other' '
import os
me = os.getpid()
pid = os.fork()
if pid == 0:
    os._exit(0 if os.getppid() == me and os.getpid() != me else 1)
print(os.waitpid(pid, 0)[1], os.getpgid(pid) if False else "")
'
mkfifo gate
leave_vfork() { # NAME END: a thread waits for the child of its vfork, and another one ends what it is a part of
	python "$1" 'import ctypes, os, threading, time
libc = ctypes.CDLL(None)
actions, words, pid = ctypes.create_string_buffer(128), (ctypes.c_char_p * 2)(b"true", None), ctypes.c_int()
libc.posix_spawn_file_actions_init(actions)
libc.posix_spawn_file_actions_addopen(actions, 5, b"gate", os.O_RDONLY, 0)
threading.Thread(target=libc.posix_spawn, args=(ctypes.byref(pid), b"/bin/true", actions, None, words, words)).start()
time.sleep(0.5)
print("waiting", flush=True)
'"$2"
}
leave_vfork 'a thread that waits for its vfork is ended by another one that becomes another program' \
	'os.execv("/bin/echo", ["echo", "became another"])'
leave_vfork 'or that ends the process' 'os._exit(3)'
# Natively these children are left.
timeout 1 bash -c ': >gate'
python 'the last signal, where a call lets it in' '
import ctypes, errno, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
LAST = 64
hits = []
signal.signal(LAST, lambda number, _: hits.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, {LAST})
nothing = ctypes.create_string_buffer(128)
all_blocked = ctypes.create_string_buffer(b"\xff" * 128, 128)
second = (ctypes.c_long * 2)(1, 0)
tenth = (ctypes.c_long * 2)(0, 100000000)
epoll = libc.epoll_create1(0)
events = ctypes.create_string_buffer(64)
calls = {"sigsuspend": lambda mask: libc.sigsuspend(mask), "ppoll": lambda mask: libc.ppoll(None, 0, second, mask),
    "pselect": lambda mask: libc.pselect(0, None, None, None, second, mask), "epoll_pwait": lambda mask: libc.epoll_pwait(epoll, events, 4, 1000, mask)}
def outcome(name, mask):
    ctypes.set_errno(0)
    before = len(hits)
    result = calls[name](mask)
    return result, errno.errorcode.get(ctypes.get_errno()), len(hits) - before, LAST in signal.sigpending()
for name in calls:
    os.kill(os.getpid(), LAST)
    print(name, "pending before", outcome(name, nothing))
    if os.fork() == 0:
        time.sleep(0.3); os.kill(os.getppid(), LAST); os._exit(0)
    print(name, "comes meanwhile", outcome(name, nothing)); os.wait()
    if name != "sigsuspend":
        os.kill(os.getpid(), LAST)
        print(name, "blocked there too", outcome(name, all_blocked))
        print(libc.ppoll(None, 0, tenth, nothing), len(hits))
if os.fork() == 0:
    time.sleep(0.2); os.kill(os.getppid(), LAST); os._exit(0)
print("blocked for good", libc.poll(None, 0, 600), len(hits)); os.wait()
libc.sigsuspend(nothing)
signal.pthread_sigmask(signal.SIG_UNBLOCK, {LAST})
if os.fork() == 0:
    time.sleep(0.2); os.kill(os.getppid(), LAST); os._exit(0)
second = (ctypes.c_long * 2)(0, 600000000)
print("only blocked meanwhile", libc.ppoll(None, 0, second, all_blocked), len(hits)); os.wait()
print(len(hits))
'
python 'vfork and posix_spawn' '
import os, subprocess
print(subprocess.run(["/bin/echo", "spawned"], capture_output=True).stdout)
pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {})
print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
try:
    subprocess.run(["/no/such/program"])
except FileNotFoundError as error:
    print(error)
try:
    os.posix_spawn("/no/such/program", ["x"], {})
except FileNotFoundError as error:
    print(error)
'
python 'waitid, and what it leaves' '
import os, signal
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGKILL)
info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(info.si_pid == pid, info.si_code == os.CLD_KILLED, info.si_status)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
'
python 'stopping and continuing a child' '
import os, signal, time
pid = os.fork()
if pid == 0:
    while True:
        time.sleep(0.01)
os.kill(pid, signal.SIGSTOP)
print(os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]))
os.kill(pid, signal.SIGCONT)
print(os.WIFCONTINUED(os.waitpid(pid, os.WCONTINUED)[1]))
os.kill(pid, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(pid, 0)[1]))
'
python 'process groups and sessions' '
import os, signal
r, w = os.pipe()
kids = []
for i in range(3):
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, kids[0] if kids else 0)
        os.write(w, b"x")
        signal.pause()
    try:
        os.setpgid(pid, kids[0] if kids else pid)
    except PermissionError:
        pass
    kids.append(pid)
while len(os.read(r, 1)) and (i := i - 1) >= 0:
    pass
print(len({os.getpgid(kid) for kid in kids}))
os.killpg(kids[0], signal.SIGUSR1)
print([os.WTERMSIG(os.waitpid(kid, 0)[1]) for kid in kids])
pid = os.fork()
if pid == 0:
    os._exit(0 if os.setsid() is None and os.getsid(0) == os.getpid() else 1)
print(os.waitpid(pid, 0)[1])
'

python 'a limit on descriptors that is below some' '
import errno, os, resource, select
r, w = os.pipe()
high = os.dup2(w, 40)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
def attempt(what, *arguments):
    try: return what(*arguments)
    except OSError as error: return errno.errorcode[error.errno]
print(attempt(os.write, high, b"x"), os.read(r, 1), attempt(os.dup2, w, 30), attempt(os.dup2, high, high))
print([attempt(os.dup, 0) for _ in range(30)][-1], select.select([], [high], [], 0))
print(attempt(os.close, high), attempt(os.close, high))
'

# --- Signals

shell 'traps' 'trap "echo USR1" USR1; trap "echo EXIT" EXIT; kill -USR1 $$; kill -USR1 $$; echo here'
shell 'a trap while a child runs' 'trap "echo got; exit 6" TERM; (sleep 0.2; kill -TERM $$) & sleep 5 & wait $!; echo not here'
shell 'ignored signals go to children' 'trap "" TERM; (kill -TERM $BASHPID; echo survived)'
shell 'killed by a signal' 'kill -TERM $$'
shell 'a child killed by one' 'bash -c "kill -SEGV \$\$"; echo $?; bash -c "kill -ABRT \$\$"; echo $?'
python 'handlers, and what they are given' '
import signal, os
got = []
def handler(number, frame):
    got.append(signal.Signals(number).name)
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMIN, signal.SIGRTMAX):
    signal.signal(number, handler)
    os.kill(os.getpid(), number)
print(got)
'
python 'masks, pending signals and sigwait' '
import signal, os
signal.signal(signal.SIGUSR1, lambda *a: print("handled"))
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
print(sorted(s.name for s in signal.sigpending()))
print(signal.sigwait([signal.SIGUSR2]).name)
info = signal.sigtimedwait([signal.SIGRTMIN], 0.01)
print(info)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
print("end")
'
python 'queued signals in their order' '
import signal, os
signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 64))
for number in (40, 36, 40, 35, 36):
    os.kill(os.getpid(), number)
got = []
for number in range(34, 64):
    signal.signal(number, lambda n, f: got.append(n))
signal.pthread_sigmask(signal.SIG_UNBLOCK, range(34, 64))
print(got)
'
python 'a timer, EINTR and what is made again' '
import signal, time, os, select
hits = []
signal.signal(signal.SIGALRM, lambda *a: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
r, w = os.pipe()
time.sleep(0.3)
print(len(hits) >= 2, select.select([r], [], [], 0.2)[0])
signal.setitimer(signal.ITIMER_REAL, 0)
'
python 'a reader that is interrupted reads on' '
import signal, os
signal.signal(signal.SIGALRM, lambda *a: os.write(w, b"from the handler"))
r, w = os.pipe()
signal.setitimer(signal.ITIMER_REAL, 0.1)
print(os.read(r, 100))
'
python 'a handler that raises' '
import signal, time
class Timeout(Exception): pass
def handler(*a): raise Timeout()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    time.sleep(10)
except Timeout:
    print("timeout")
'
python 'a busy loop is interrupted' '
import signal
done = False
def handler(*a):
    global done
    done = True
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
while not done:
    pass
print("interrupted")
'
python 'faulthandler on a bad access' '
import faulthandler, sys, os
pid = os.fork()
if pid == 0:
    os.close(2)
    faulthandler.enable(file=sys.stdout)
    faulthandler._sigsegv()
status = os.waitpid(pid, 0)[1]
print(os.WTERMSIG(status))
'

python 'several signals at once, of which one is the broker'"'"'s as well' '
import signal, os
got = []
numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMAX, signal.SIGRTMIN)
for number in numbers:
    signal.signal(number, lambda n, f: got.append(int(n)))
for _ in range(20):
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
print(sorted(got) == sorted(list(map(int, numbers)) * 20))
'
python 'signals that come thick and fast' '
import signal, os, time
count = {signal.SIGALRM: 0, signal.SIGCHLD: 0}
def handler(number, frame):
    count[number] += 1
for number in count:
    signal.signal(number, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
signal.setitimer(signal.ITIMER_REAL, 0)
print(count[signal.SIGALRM] > 5, count[signal.SIGCHLD] > 5)
'
python 'a call that was interrupted for nothing leaves nothing behind' '
import signal, os, threading, time
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMAX])
r, w = os.pipe()
main = threading.main_thread().ident
def work():
    time.sleep(0.1)
    signal.pthread_kill(main, signal.SIGRTMAX)
    time.sleep(0.1)
    os.write(w, b"data")
threading.Thread(target=work).start()
print(os.read(r, 10))
hits = []
signal.signal(signal.SIGALRM, lambda *a: hits.append(1))
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
total = 0
while len(hits) < 3:
    total = (total * 31 + 7) % 1000003
print(0 <= total < 1000003)
'

# --- Threads

python 'threads that end as soon as they begin' '
import threading
for _ in range(300):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
print("joined")
'
python 'threads that compute and join' '
import threading
total = [0] * 8
def work(i):
    for n in range(2000):
        total[i] += n
threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(total)
'
python 'locks, events, conditions' '
import threading, queue
q = queue.Queue(2)
out = []
def consumer():
    while (item := q.get()) is not None:
        out.append(item)
thread = threading.Thread(target=consumer)
thread.start()
for item in list(range(50)) + [None]:
    q.put(item)
thread.join()
event = threading.Event()
threading.Timer(0.05, event.set).start()
print(out == list(range(50)), event.wait(5), event.wait(0.01))
'
python 'signals go to the first thread' '
import threading, signal, os, time
got = []
signal.signal(signal.SIGUSR1, lambda *a: got.append(threading.current_thread() is threading.main_thread()))
thread = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGUSR1))
thread.start(); thread.join()
time.sleep(0.05)
print(got)
'
python 'a signal for one thread' '
import threading, signal, time
ready = threading.Event()
def work():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    ready.set()
    print(signal.sigwait([signal.SIGUSR2]).name)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
thread = threading.Thread(target=work)
thread.start(); ready.wait()
signal.pthread_kill(thread.ident, signal.SIGUSR2)
thread.join()
'
python 'fork from a thread' '
import threading, os
def work():
    pid = os.fork()
    if pid == 0:
        os._exit(9)
    print(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
others = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(3)]
[t.start() for t in others]
thread = threading.Thread(target=work)
thread.start(); thread.join()
'
python 'execve from a thread, with others waiting' '
import threading, os, sys
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
def work():
    os.execv("/bin/sh", ["sh", "-c", "echo executed; exit 4"])
sys.stdout.flush()
thread = threading.Thread(target=work)
thread.start(); thread.join()
'
python 'exit while others run' '
import threading, os
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("bye", flush=True)
os._exit(3)
'
python 'subprocesses from threads' '
import threading, subprocess
out = [None] * 4
def work(i):
    out[i] = subprocess.run(["/bin/echo", str(i)], capture_output=True).stdout
threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(out)
'

# --- Time

python 'clocks agree, whoever reads them' '
import time, os
CLOCKS = (time.CLOCK_MONOTONIC, time.CLOCK_REALTIME, time.CLOCK_BOOTTIME)
r, w = os.pipe()
for clock in CLOCKS:
    before = time.clock_gettime_ns(clock)
    pid = os.fork()
    if pid == 0:
        os.write(w, b"%d " % time.clock_gettime_ns(clock))
        os._exit(0)
    os.waitpid(pid, 0)
    print(before <= int(os.read(r, 99)) <= time.clock_gettime_ns(clock))
last = 0
for _ in range(1000):
    now = time.monotonic_ns()
    assert now >= last
    last = now
print(abs(time.time() - float(open("/proc/uptime").read().split()[0]) - (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME))) < 1)
'
calls() { # COUNT: how many system calls a program makes that reads the time so often
	uvctl run --trace-syscalls -- python3 -S -c "import time
for _ in range($1): time.time(); time.monotonic()" 2>&1 | wc -l
}
clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)
if [ "$clock" = tsc ]; then
	few=$(calls 1) many=$(calls 1000)
	[ "$many" -le $((few + 20)) ] || bad=1
	report "${bad:-0}" "reading the time makes no system call ($few, $many)"
else
	report 0 "reading the time makes no system call # SKIP the host's clock is $clock, whose page micro-VMs do not have"
fi

# --- Memory that processes have in common

python 'shared memory, with and without a file' '
import mmap, os
m = mmap.mmap(-1, 8192)
fd = os.memfd_create("x")
os.ftruncate(fd, 8192)
n = mmap.mmap(fd, 8192)
pid = os.fork()
if pid == 0:
    m[0:5] = b"child"
    n[4090:4102] = b"in the file!"
    os._exit(0)
os.waitpid(pid, 0)
print(m[0:5], os.pread(fd, 12, 4090))
os.pwrite(fd, b"from outside", 0)
print(n[0:12])
reader = mmap.mmap(os.open("/proc/self/fd/%d" % fd, os.O_RDONLY), 4096, prot=mmap.PROT_READ)
print(reader[0:4])
try:
    reader[0] = 1
except TypeError as error:
    print(error)
'
python 'memory that is moved keeps its content' '
import mmap
m = mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[5000] = 3
m.resize(1 << 20)
print(m[5000], m[900000])
m.resize(8192)
print(m[5000], len(m))
with open("/bin/sh", "rb") as f:
    p = mmap.mmap(f.fileno(), 8192, mmap.MAP_PRIVATE)
    p[1] = 65
    print(p[0:4], p.madvise(mmap.MADV_DONTNEED), p[0:4])
'
cat >multi.py <<'PROGRAM'
import multiprocessing as mp, os
def work(q, lock, value):
    with lock:
        value.value += 1
    q.put(os.getpid() != os.getppid())
if __name__ == "__main__":
    q, lock, value = mp.Queue(), mp.Lock(), mp.Value("i", 0)
    tasks = [mp.Process(target=work, args=(q, lock, value)) for _ in range(3)]
    [t.start() for t in tasks]
    print([q.get() for _ in tasks])
    [t.join() for t in tasks]
    print(value.value)
    with mp.Pool(2) as pool:
        print(pool.map(abs, range(-5, 0)))
PROGRAM
same 'multiprocessing' python3 -S multi.py

# --- What a task must not do, and what must not be left of it

sleep 1000 &
victim=$!
uvctl run -- bash -c "kill -KILL $victim; kill -KILL -- -1; kill -KILL 1; kill 0 2>/dev/null" >/dev/null 2>&1 </dev/null
kill -0 $victim
report $? 'other processes get no signals of a task'
uvctl run -- bash -c "kill -0 $victim; echo \$?; kill -0 999999; echo \$?" >guest.out 2>/dev/null
grep -qx '1 1 ' <<<"$(tr '\n' ' ' <guest.out)"
report $? 'whether they exist is not told'
kill $victim

# The number that a program of a template had up to there belongs to nobody of the task in a run of it.
former=$(uvctl template create former --until checkpoint -- python3 -S -c '
import os, signal, ctypes
me = os.getpid()
print(me, flush=True)
open("/dev/uvisor-checkpoint").read()
got = []
signal.signal(signal.SIGUSR1, lambda *a: got.append(1))
syscall = ctypes.CDLL(None).syscall
info = ctypes.create_string_buffer(128)
info[8:12] = (-1).to_bytes(4, "little", signed=True)
for call in ((62, me, 10), (200, me, 10), (234, me, me, 10), (129, me, 10, info), (297, me, me, 10, info), (109, 0, me)):
    syscall(*call)
print(len(got))' 2>err | grep -x '[0-9]*')
for _ in $(seq 20); do
	echo $((former - 1)) >/proc/sys/kernel/ns_last_pid
	sleep 1000 &
	other=$!
	[ $other = "$former" ] && break
	kill $other
done
grep -qx "$former" <<<"$other"
report $? "a process has the former number ($former)"
uvctl run --from former >guest.out 2>&1
grep -qx 5 guest.out
report $? "signals to the former number reach the task ($(tail -n 1 guest.out))"
kill -0 "$other"
report $? 'and not whoever has it now'
kill "$other"
uvctl template rm former

# gone PATTERN: whether no process of the pattern is left soon.
gone() {
	for _ in $(seq 100); do
		pgrep -f "$1" >/dev/null || return 0
		sleep 0.1
	done
	pgrep -af "$1" | sed 's/^/# left: /'
	return 1
}

uvctl run -- bash -c 'sleep 3331 & (sleep 3332 &) ; setsid sleep 3333 & echo started'
gone 'sleep 333'
report $? 'what a task leaves in the background ends with it'
setsid uvctl run -- bash -c 'trap "" TERM HUP INT; sleep 3341 & (setsid sleep 3342 &) ; echo started; sleep 3343' >started &
uvctl=$!
for _ in $(seq 100); do grep -q started started && break; sleep 0.1; done
sleep 0.5
kill -KILL "$(pgrep -f 'uvctl run.*334' | head -n 1)" 2>/dev/null
wait $uvctl 2>/dev/null
gone 'sleep 334'
report $? 'killing uvctl kills all of a task'
grep -qx 0 <<<"$(uvctl info --json | jq .vms)"
report $? 'no micro-VM is left'

finish
