#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What is killed, from inside and from outside: the others of a task see it as on Linux, and with the first process all
# of the task goes.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"

python() { # NAME PROGRAM
	local native status
	/usr/bin/python3 -S -c "$2" >native.out 2>native.err </dev/null
	native=$?
	timeout 120 uvctl run --rw . -- /usr/bin/python3 -S -c "$2" >guest.out 2>guest.err </dev/null
	status=$?
	compare $native $status out
	report $? "$1"
	[ -s native.out ] || { tail -n 3 native.err | sed 's/^/# /'; report 1 "$1 prints something"; }
}

python 'SIGCHLD, its information, and the status' '
import os, signal
got = []
signal.signal(signal.SIGCHLD, lambda *a: got.append(1))
for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGALRM):
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.kill(pid, number)
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    print(info.si_code == os.CLD_KILLED, info.si_status == number, info.si_pid == pid, os.WTERMSIG(os.waitpid(pid, 0)[1]) == number)
print(len(got) > 0)
'
python 'pipes of who was killed break' '
import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_IGN)
r, w = os.pipe(); back, go = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(w)
    os.write(go, b"x")
    signal.pause()
os.close(r); os.read(back, 1)
print(os.write(w, b"there"))
os.kill(pid, 9); os.waitpid(pid, 0)
try: os.write(w, b"gone")
except BrokenPipeError as error: print(error)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(w, b"last words")
    signal.pause()
os.close(w)
print(os.read(r, 10))
os.kill(pid, 9)
print(os.read(r, 1), os.WTERMSIG(os.waitpid(pid, 0)[1]))
'
python 'locks of who was killed are free' '
import os, fcntl, signal
fd = os.open("/etc/passwd", os.O_RDONLY)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    own = os.open("/etc/passwd", os.O_RDONLY)
    fcntl.flock(own, fcntl.LOCK_EX)
    os.write(w, b"x")
    signal.pause()
os.read(r, 1)
try: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError as error: print(error)
os.kill(pid, 9)
fcntl.flock(fd, fcntl.LOCK_EX)
print("locked", os.WTERMSIG(os.waitpid(pid, 0)[1]))
'
python 'children of who was killed are orphans' '
import os, signal
r, w = os.pipe(); first = os.getpid()
pid = os.fork()
if pid == 0:
    middle = os.getpid()
    if os.fork() == 0:
        os.write(w, b"x")
        while os.getppid() == middle: pass
        os.write(w, b"orphan")
        os._exit(0)
    signal.pause()
os.read(r, 1)
os.kill(pid, 9); os.waitpid(pid, 0)
print(os.read(r, 6))
'
python 'a group that is killed' '
import os, signal
r, w = os.pipe(); kids = []
for i in range(5):
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, kids[0] if kids else 0)
        os.write(w, b"x")
        signal.pause()
    kids.append(pid)
    os.read(r, 1)
os.killpg(kids[0], 9)
print([os.WTERMSIG(os.waitpid(pid, 0)[1]) for pid in kids])
'
# A mutex in memory that processes have in common, whose owner goes; what the next one is told. PTHREAD_MUTEX_ROBUST,
# PTHREAD_PROCESS_SHARED.
cat >robust.py <<'PY'
import ctypes, errno, mmap, os, resource, signal, threading, time
libc = ctypes.CDLL(None)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def mutex():
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attributes = ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attributes)
    libc.pthread_mutexattr_setpshared(attributes, 1)
    libc.pthread_mutexattr_setrobust(attributes, 1)
    libc.pthread_mutex_init(ctypes.c_void_p(address), attributes)
    return memory, ctypes.c_void_p(address)
def lock(mutex):
    # Longer than anything here takes.
    until = (ctypes.c_long * 2)(int(time.time()) + 4, 0)
    status = libc.pthread_mutex_timedlock(mutex, until)
    return errno.errorcode.get(status, status)
def wait():
    while True: signal.pause()
def compute():
    while True: pass
# Has a child lock a mutex, in a thread of its own if there is something that this one does, and do `goes`; `how` is what
# is done to it then.
def play(what, goes, how=lambda pid: None, thread=None):
    global held
    memory, held = mutex()
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        def own(then):
            libc.pthread_mutex_lock(held)
            os.write(w, b"x")
            then()
        if thread: threading.Thread(target=own, args=(thread,), daemon=True).start()
        own(goes) if thread is None else goes()
        os._exit(4)
    os.close(w)
    assert os.read(r, 1) == b"x"
    how(pid)
    # It waits for it, unless it is gone already.
    status = lock(held)
    print(what, status, flush=True)
    if status == "EOWNERDEAD":
        print(libc.pthread_mutex_consistent(held), libc.pthread_mutex_unlock(held), libc.pthread_mutex_trylock(held), libc.pthread_mutex_unlock(held))
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    print(info.si_pid == pid, info.si_uid == os.getuid(), info.si_code, info.si_status, os.waitpid(pid, 0)[1], flush=True)
def sends(number): return lambda pid: os.kill(pid, number)
def when_held():
    while libc.pthread_mutex_trylock(held) == 0: libc.pthread_mutex_unlock(held)
PY
owners() { python "$1" "$(cat robust.py)$2"; }
owners 'a mutex whose owner ends' '
play("exits", lambda: os._exit(3))
play("faults", lambda: ctypes.string_at(8))
play("aborts", lambda: os.abort())
play("is its own killer", lambda: os.kill(os.getpid(), 9))
play("becomes another program", lambda: os.execv("/bin/true", ["true"]))
def timed(which):
    signal.setitimer(which, 0.01)
    compute()
for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF): play("a timer", lambda: timed(which))
def pipe():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    r, w = os.pipe()
    os.close(r)
    os.write(w, b"x")
play("a broken pipe", pipe)
def grow():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.write(os.open("file", os.O_RDWR | os.O_CREAT), b"x")
play("a limit", grow)
os.remove("file")
# What others see whose library is another one.
memory, held = mutex()
pid = os.fork()
if pid == 0:
    libc.pthread_mutex_lock(held)
    os._exit(0)
os.waitpid(pid, 0)
print(hex(ctypes.c_uint.from_address(held.value).value))
'
owners 'a mutex whose owner is killed by another process' '
for number in (9, 15, 1, 11, 34, 64):
    play("kill %d" % number, wait, sends(number))
play("while it computes", compute, sends(9))
play("while it reads", lambda: os.read(os.pipe()[0], 1), sends(9))
def block():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    compute()
play("all blocked", block, sends(9))
play("its group", wait, lambda pid: os.killpg(pid, 9))
play("a handle", wait, lambda pid: signal.pidfd_send_signal(os.pidfd_open(pid), 9))
play("tgkill", wait, lambda pid: libc.syscall(234, pid, pid, 9))
def queue(number): return lambda pid: libc.syscall(129, pid, number, (ctypes.c_int * 32)(number, 0, -1))
play("queued", wait, queue(9))
play("queued 15", wait, queue(15))
play("again and again", wait, lambda pid: [os.kill(pid, 9) for i in range(20)])
def spawns():
    os.posix_spawn("/bin/sh", ["sh", "-c", "kill -9 $PPID"], {})
    wait()
play("by its child", spawns)
# It waits for a child that has its memory, and is not another program yet.
os.mkfifo("fifo")
def spawns(): os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, "fifo", os.O_RDONLY, 0)])
def late(pid):
    time.sleep(0.1)
    os.kill(pid, 9)
play("while it waits for a child", spawns, late)
os.close(os.open("fifo", os.O_RDWR | os.O_NONBLOCK))
os.remove("fifo")
'
owners 'a mutex whose owner is a thread of who ends' '
play("killed", wait, sends(9), wait)
play("killed, computing", wait, sends(9), compute)
play("terminated", wait, sends(15), compute)
def exits():
    when_held()
    os._exit(5)
play("exits", exits, thread=compute)
play("exits, and the owner waits", exits, thread=wait)
def becomes():
    when_held()
    os.execv("/bin/true", ["true"])
play("becomes another program", becomes, thread=compute)
play("the thread kills all", wait, thread=lambda: os.kill(os.getpid(), 9))
play("the thread exits for all", wait, thread=lambda: os._exit(6))
play("the thread terminates all", wait, thread=lambda: os.kill(os.getpid(), 15))
'
# Of processes that have memory in common with others.
owners 'what is stopped is killed, and what has killed it' '
memory, held = mutex()
for after in ((9,), (18, 9)):
    pid = os.fork()
    if pid == 0: wait()
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    start = time.monotonic()
    for number in after: os.kill(pid, number)
    info = os.waitid(os.P_PID, pid, os.WEXITED)
    print(info.si_code, info.si_status, time.monotonic() - start < 0.15)
# Two that kill each other.
for i in range(5):
    pipes, both = [os.pipe() for _ in range(2)], []
    for r, w in pipes:
        pid = os.fork()
        if pid == 0:
            victim = int(os.read(r, 20))
            # It may have ended, which only its parent sees in a task.
            try: os.kill(victim, 9)
            except ProcessLookupError: pass
            wait()
        both.append(pid)
    for (r, w), victim in zip(pipes, reversed(both)): os.write(w, b"%d" % victim)
    first, status = os.wait()
    last = both[both[0] == first]
    os.kill(last, 9)
    print(status, os.waitpid(last, 0)[1])
'
python 'signals that wait stay when memory is shared for the first time' '
import mmap, os, signal
numbers = [signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGUSR1, signal.SIGTERM, 64]
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
pid = os.fork()
if pid == 0: os._exit(3)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
for number in numbers[1:]: os.kill(os.getpid(), number)
memory = mmap.mmap(-1, 4096)
print(sorted(map(int, signal.sigpending())))
print(signal.sigtimedwait([signal.SIGCHLD], 5).si_pid == pid)
'
python 'the signal that brokers use, to oneself' '
import mmap, os, signal, threading, time
memory = mmap.mmap(-1, 4096)
got = []
signal.signal(64, lambda number, frame: got.append(number))
def twice(how):
    for i in range(2):
        how()
        until = time.monotonic() + 5
        while len(got) <= i and time.monotonic() < until: time.sleep(0.01)
    print(got); got.clear()
own = os.getpid()
twice(lambda: os.kill(own, 64))
twice(lambda: signal.raise_signal(64))
gate = threading.Event()
thread = threading.Thread(target=gate.wait)
thread.start()
twice(lambda: os.kill(own, 64))
gate.set(); thread.join()
signal.pthread_sigmask(signal.SIG_BLOCK, [64])
os.kill(own, 64)
print(signal.sigpending() == {64}, got)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [64])
print(set(got))
signal.pthread_sigmask(signal.SIG_BLOCK, [64])
signal.signal(64, signal.SIG_DFL)
pid = os.fork()
if pid == 0:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [64])
    os.kill(os.getpid(), 64)
    time.sleep(5)
print(os.waitpid(pid, 0)[1])
'
python 'many are killed at once' '
import mmap, os, signal
memory = mmap.mmap(-1, 4096)
os.setpgid(0, 0)
signal.signal(signal.SIGUSR1, lambda *a: None)
r, w = os.pipe()
pids = []
for i in range(70):
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, pids[0] if pids else 0)
        os.write(w, b"x")
        while True: signal.pause()
    try: os.setpgid(pid, pids[0] if pids else pid)
    except OSError: pass
    pids.append(pid)
for i in range(70): os.read(r, 1)
os.killpg(pids[0], 9)
print({os.waitpid(pid, 0)[1] for pid in pids})
try: os.kill(pids[0], 0)
except ProcessLookupError: print("gone")
child = os.fork()
if child == 0: os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
for number in (0, 9, 15, 99):
    try: print(os.kill(child, number))
    except OSError as error: print(error)
'
# Natively there would be more of them.
got=$(timeout -s KILL 120 uvctl run -- /usr/bin/python3 -S -c "$(cat robust.py)
memory, held = mutex()
r, w = os.pipe()
for i in range(6):
    if os.fork() == 0:
        if i == 3: libc.pthread_mutex_lock(held)
        os.write(w, b'x')
        wait()
for i in range(6): os.read(r, 1)
os.kill(-1, 9)
print(lock(held), [os.wait()[1] for i in range(6)])" 2>&1 </dev/null)
is 'a mutex whose owner is killed with all others' 'EOWNERDEAD [9, 9, 9, 9, 9, 9]' "$got"

# From outside: uvctl, and one process of a task.
gone() { # PATTERN
	for _ in $(seq 100); do
		pgrep -f "$1" >/dev/null || return 0
		sleep 0.1
	done
	pgrep -af "$1" | sed 's/^/# left: /'
	return 1
}
wait_for() { for _ in $(seq 100); do grep -q "$1" "$2" 2>/dev/null && return; sleep 0.1; done; return 1; }

uvctl run -- bash -c 'sleep 4441 & echo $!; wait $!; echo "status $?"' >said &
first=$!
wait_for . said
sleep 0.3
kill -KILL "$(head -n 1 said)"
wait $first
grep -qx 'status 137' said
report $? "a process that is killed from outside has ended for the others ($(tail -n 1 said))"
for signal in KILL TERM HUP SEGV; do
	setsid uvctl run -- bash -c 'sleep 5551 & (setsid sleep 5552 &); (trap "" TERM HUP; sleep 5553) & echo ready; exec sleep 5554' >said 2>/dev/null &
	first=$!
	wait_for ready said
	sleep 0.2
	kill -$signal $first
	wait $first 2>/dev/null
	status=$?
	gone 'sleep 555' && [ $status = $((128 + $(kill -l $signal))) ]
	report $? "SIG$signal to uvctl ends all of the task (status $status)"
done
uvctl run -- bash -c 'sleep 6661 & echo ready; kill -KILL $$; echo not here' >said 2>/dev/null
status=$?
gone 'sleep 666' && [ $status = 137 ] && [ "$(cat said)" = ready ]
report $? "what kills the first process kills all (status $status)"
uvctl run -- bash -c 'for i in 1 2 3 4 5 6 7 8 9 10; do (while :; do :; done) & done; echo ready; wait' >said &
first=$!
wait_for ready said
kill -KILL $first
for _ in $(seq 100); do
	left=$(uvctl info --json | jq -c '[.vms, .memory]')
	[ "$left" = '[0,0]' ] && break
	sleep 0.1
done
check "what computes is killed as well, and nothing is left (micro-VMs and bytes: $left)" test "$left" = '[0,0]'

finish
