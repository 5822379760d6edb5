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
	timeout 120 uvctl run -- /usr/bin/python3 -S -c "$2" >guest.out 2>guest.err </dev/null
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
import ctypes, errno, mmap, os, signal, sys, threading
libc = ctypes.CDLL(None)
def mutex():
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    attributes = ctypes.create_string_buffer(64)
    libc.pthread_mutexattr_init(attributes)
    libc.pthread_mutexattr_setpshared(attributes, 1)
    libc.pthread_mutexattr_setrobust(attributes, 1)
    libc.pthread_mutex_init(ctypes.c_void_p(address), attributes)
    return memory, ctypes.c_void_p(address)
def name(number): return errno.errorcode.get(number, number)
def play(what, goes):
    memory, lock = mutex()
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.pthread_mutex_lock(lock)
        os.write(w, b"x")
        goes()
    os.read(r, 1)
    # It waits for it, unless it is gone already.
    status = libc.pthread_mutex_lock(lock)
    print(what, name(status), os.waitpid(pid, 0)[1] != 0, flush=True)
    print(libc.pthread_mutex_consistent(lock), libc.pthread_mutex_unlock(lock), libc.pthread_mutex_trylock(lock))
play("exits", lambda: (signal.setitimer(signal.ITIMER_REAL, 0), os._exit(3)))
play("faults", lambda: ctypes.string_at(8))
play("aborts", lambda: os.abort())
PY
python 'a mutex whose owner ends' "$(cat robust.py)"

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
