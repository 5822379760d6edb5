#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Unix sockets with paths: in directories that a task may change they work as natively, among the task's own
# processes and for who comes from outside; and neither a socket of the host's nor one of another task's is reached,
# nor is one made anywhere else, whatever paths are made to lead to meanwhile. And what signals do to calls that wait.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
chmod 755 "$work"

let_user_in

cat >attempt.py <<'PYTHON'
import errno, os, sys
from socket import *
def attempt(what):
    try:
        result = what()
        return "done" if isinstance(result, socket) else str(result)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
def listen(path, kind=SOCK_STREAM):
    s = socket(AF_UNIX, kind)
    s.bind(path)
    if kind != SOCK_DGRAM: s.listen()
    return s
def reach(path, kind=SOCK_STREAM):
    s = socket(AF_UNIX, kind)
    s.connect(path)
    return s
PYTHON

cat >paths.py <<'PYTHON'
from attempt import *
import multiprocessing.connection, stat, subprocess, threading
here = os.getcwd()
for name in ("relative", "./dotted", here + "/absolute", "deep/../deep/under"):
    os.makedirs("deep", exist_ok=True)
    for kind in (SOCK_STREAM, SOCK_SEQPACKET):
        s = listen(name, kind)
        c = reach(name, kind)
        peer, other = s.accept()
        print(name == s.getsockname() == c.getpeername(), other, c.send(b"there"), peer.recv(10), peer.send(b"back"), c.recv(10))
        print(attempt(lambda: listen(name, kind)), stat.filemode(os.stat(name).st_mode), os.stat(name).st_uid == os.getuid())
        s.close()
        print(attempt(lambda: reach(name, kind)))
        os.unlink(name)
        print(attempt(lambda: reach(name, kind)))
# Datagrams are answered by the name that they come with.
one, two = listen("one", SOCK_DGRAM), listen("deep/two", SOCK_DGRAM)
print(one.sendto(b"x", "deep/two"), two.recvfrom(9), two.sendto(b"y", "one"), one.recvmsg(9))
print(attempt(lambda: one.sendto(b"x", "paths.py")), attempt(lambda: one.sendto(b"x", "none")), attempt(lambda: reach("one")))
print(one.sendmsg([b"z"], [], 0, "deep/two"), two.recv(9))
for path in ("x" * 108, "none/x", "paths.py/x", "deep", "paths.py"):
    print(attempt(lambda: listen(path)))
os.symlink("deep", "link"); os.symlink("elsewhere", "dangling")
s = listen("link/socket"); print(s.getsockname(), os.listdir("deep"), attempt(lambda: reach("deep/socket")), attempt(lambda: listen("dangling")))
os.rename("deep/socket", "moved"); os.link("moved", "hard")
print(attempt(lambda: reach("moved")), attempt(lambda: reach("hard")), attempt(lambda: reach("link/socket")))
os.umask(0o077); listen("private"); print(stat.filemode(os.stat("private").st_mode)); os.umask(0o022)
os.chmod("moved", 0); print(attempt(lambda: reach("moved")) in ("done", "EACCES"))
os.chmod("moved", 0o777); print(attempt(lambda: os.open("moved", os.O_RDWR)))
# Another process of the task's: forked, and executed.
s = listen("served")
if os.fork() == 0:
    c = reach("served"); c.send(b"from a child"); os._exit(0)
print(s.accept()[0].recv(99), os.wait()[1])
print(subprocess.run([sys.executable, "-c", "from attempt import *; c = reach('served'); print(c.send(b'executed'))"], capture_output=True, text=True).stdout, s.accept()[0].recv(99))
# Descriptors go through.
r, w = os.pipe()
c = reach("served"); peer = s.accept()[0]
send_fds(c, [b"fd"], [r]); os.write(w, b"through the pipe")
print(os.read(recv_fds(peer, 9, 1)[1][0], 99))
pid, uid, gid = __import__("struct").unpack("3i", c.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
print(pid == os.getpid(), uid == os.getuid())
with multiprocessing.connection.Listener("library", "AF_UNIX") as listener:
    t = threading.Thread(target=lambda: multiprocessing.connection.Client(listener.address).send({"a": [1]}))
    t.start(); print(listener.address, listener.accept().recv()); t.join()
print(os.path.exists("library"))
PYTHON

# What must not be reached or made: sockets of the host's, wherever they are, and anything in `closed`.
cat >host.py <<'PYTHON'
from attempt import *
import select
os.umask(0)
sockets = [listen(path, kind) for path, kind in (("closed/stream", SOCK_STREAM), ("closed/datagram", SOCK_DGRAM),
    ("open/of-the-host", SOCK_STREAM), ("open/datagram-of-the-host", SOCK_DGRAM))]
print("ready", flush=True)
while True:
    for s in select.select(sockets, [], [])[0]:
        print("reached", s.getsockname(), s.recv(9) if s.type == SOCK_DGRAM else s.accept()[0].close(), flush=True)
PYTHON
chmod 666 host.py
mkdir -m 777 closed open
/usr/bin/python3 -S host.py >host.out 2>&1 &
host=$!
for _ in $(seq 100); do grep -q ready host.out && break; sleep 0.1; done
ln closed/stream open/hard
ln -s ../closed open/link
for directory in native guest; do mkdir -m 777 $directory.as_root $directory.as_user; done

try() { # WHO RW PROGRAM
	local who=$1 rw=$2
	$who uvctl run ${rw:+--rw "$rw"} -- /usr/bin/python3 -S -B -c "import sys
sys.path.insert(0, '$work')
from attempt import *
$3" 2>&1
}

for who in as_root as_user; do
	for run in native guest; do
		cp attempt.py paths.py $run.$who/
		case $run in
		native) (cd $run.$who && $who /usr/bin/python3 -S -B paths.py >../native.out 2>&1 </dev/null); native=$? ;;
		guest) (cd $run.$who && $who uvctl run --rw . -- /usr/bin/python3 -S -B paths.py >../guest.out 2>&1 </dev/null); status=$? ;;
		esac
		sed -i "s/$run\.$who/DIRECTORY/g" $run.out
	done
	compare $native $status out
	report $? "sockets with paths, $who"
	is "and the same files are left, $who" "$(cd native.$who && ls -RF)" "$(cd guest.$who && ls -RF)"

	is "none is made elsewhere, $who" 'EROFS EROFS EADDRINUSE ENOENT EROFS EROFS EROFS' "$(try $who open '
print(*(attempt(lambda: listen(name)) for name in ("new", "closed/new", "closed/stream", "none/new", "open/link/new", "open/../closed/new", "open/../new")))')"
	is "nor anywhere without --rw, $who" 'EROFS EROFS EADDRINUSE' "$(try $who '' '
print(*(attempt(lambda: listen(name)) for name in ("open/new", "/tmp/new", "closed/stream")))')"
	is "nor among the kernel's files, $who" 'EROFS EROFS EROFS' "$(try $who / '
print(*(attempt(lambda: listen(name)) for name in ("/dev/new", "/proc/new", "/sys/new")))')"
	for rw in '' open closed /; do
		is "a socket of the host's is not reached, --rw $rw, $who" 'EACCES EACCES EACCES EACCES EACCES EACCES EACCES EACCES ECONNREFUSED ENOENT' "$(try $who "$rw" '
d = socket(AF_UNIX, SOCK_DGRAM)
print(*(attempt(lambda: reach(name)) for name in ("closed/stream", "open/of-the-host", "open/hard", "open/link/stream", "/proc/self/cwd/closed/stream")),
    attempt(lambda: d.sendto(b"x", "closed/datagram")), attempt(lambda: d.connect("open/datagram-of-the-host")),
    attempt(lambda: d.sendmsg([b"x"], [], 0, "closed/datagram")), attempt(lambda: reach("host.py")), attempt(lambda: reach("none")))')"
	done

	# Paths that change under way: a link that leads to either directory, as fast as that can be.
	rm -rf open/race.*
	is "a path that changes leads nowhere else, $who" 'True' "$(try $who open '
import threading, time
os.chdir("open"); os.mkdir("race.in")
os.symlink("race.in", "race.a"); os.symlink("../closed", "race.b")
done = False
def swap():
    import ctypes
    libc = ctypes.CDLL(None)
    while not done: libc.renameat2(-100, b"race.a", -100, b"race.b", 2)
t = threading.Thread(target=swap); t.start()
own = listen("race.in/stream"); keep = [own]
results = set()
end = time.monotonic() + 2
count = 0
while time.monotonic() < end and count < 1500:
    count += 1
    name = "race.a/x%d" % count
    s = socket(AF_UNIX)
    results.add("bind " + attempt(lambda: s.bind(name)))
    results.add("connect " + attempt(lambda: reach("race.a/stream")))
    d = socket(AF_UNIX, SOCK_DGRAM)
    results.add("send " + attempt(lambda: d.sendto(b"race", "race.a/datagram")))
    while len(results) < 5 and count % 64 == 0:
        own.setblocking(False); attempt(lambda: own.accept()); break
    attempt(lambda: (own.setblocking(False), own.accept()))
done = True; t.join()
allowed = {"bind None", "bind EROFS", "bind EACCES", "bind ENOENT", "bind EADDRINUSE", "connect done", "connect EACCES", "connect ENOENT", "connect EAGAIN", "connect ECONNREFUSED", "send EACCES", "send ENOENT"}
print(not results - allowed and "bind None" in results and bool(results & {"bind EROFS", "bind EACCES"}) or (count, sorted(results)))')"
	is "nothing is made there, $who" 'datagram stream' "$(cd closed && echo *)"
	rm -rf open/race.*

	# Tasks do not meet by paths, and who comes from outside is served.
	rm -f open/task open/stop
	try $who open '
s = listen("open/task"); os.chmod("open/task", 0o777)
while not os.path.exists("open/stop"):
    peer = s.accept()[0]; attempt(lambda: peer.send(b"served")); peer.close()' &
	task=$!
	for _ in $(seq 100); do [ -S open/task ] && break; sleep 0.1; done
	sleep 0.3
	is "another task does not reach it, $who" EACCES "$(try $who open 'print(attempt(lambda: reach("open/task")))')"
	is "a program of the host's does, $who" "b'served'" "$(/usr/bin/python3 -S -B -c 'from attempt import *; print(reach("open/task").recv(9))')"
	touch open/stop
	/usr/bin/python3 -S -B -c 'from attempt import *; reach("open/task")'
	wait $task
	rm -f open/task open/stop

	# Sockets that come from outside have no part in it: one of the host's, given as standard input.
	is "an inherited socket reaches no path, $who" 'EACCES EACCES EACCES' "$($who /usr/bin/python3 -S -B -c '
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); os.dup2(s.fileno(), 0)
os.execvp("uvctl", ["uvctl", "run", "--rw", "open", "--", "/usr/bin/python3", "-B", "-c", """from attempt import *
s = socket(fileno=0)
print(attempt(lambda: s.bind("open/inherited")), attempt(lambda: s.connect("closed/datagram")), attempt(lambda: s.sendto(b"x", "closed/datagram")))"""])' 2>&1)"
	is "files are renamed and linked as before, $who" 'True True' "$(try $who open '
os.makedirs("open/r/a"); os.makedirs("open/r/b"); open("open/r/a/f", "w").close()
os.rename("open/r/a/f", "open/r/b/g"); os.link("open/r/b/g", "open/r/a/h"); os.rename("open/r/a", "open/r/b/a")
print(os.path.exists("open/r/b/a/h"), os.path.exists("open/r/b/g"))')"
	rm -rf open/r
done

echo 'from attempt import *
sys.stdin.read()
s = listen("open/of-a-template"); print(attempt(lambda: reach("open/of-a-template")), attempt(lambda: reach("closed/stream")))' >template.py
is 'runs of a template have them' 'done EACCES' "$(uvctl template create paths -- /usr/bin/python3 -S -B template.py 2>&1
	echo | uvctl run --rw open --from paths 2>&1)"
uvctl template rm paths
is 'what the host listens at was never reached' 'ready' "$(cat host.out)"
kill $host
# Calls that a signal interrupts whose handler says that they are to be made again (SA_RESTART).
cat >interrupted.py <<'PYTHON'
from attempt import *
import ctypes, fcntl, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.siginterrupt(signal.SIGALRM, False)
def interrupted(name, *arguments):
    """What a call of the C library's comes to when a signal arrives that its end, a second later, does not wait for."""
    ctypes.set_errno(0)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    result = getattr(libc, name)(*arguments)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return result, errno.errorcode.get(ctypes.get_errno())
def later(what):
    if os.fork() == 0:
        time.sleep(1); what(); os._exit(0)
TIME = struct.pack("ll", 20, 0)
room = ctypes.create_string_buffer(100)
for timed in (False, True):
    one, two = socketpair(AF_UNIX, SOCK_STREAM)
    if timed: two.setsockopt(SOL_SOCKET, SO_RCVTIMEO, TIME)
    for call in (("recv", two.fileno(), room, 100, 0), ("read", two.fileno(), room, 100), ("recvfrom", two.fileno(), room, 100, 0, None, None)):
        later(lambda: one.send(b"late"))
        print(timed, call[0], interrupted(*call))
        os.wait(); fcntl.fcntl(two, fcntl.F_SETFL, os.O_NONBLOCK); attempt(lambda: two.recv(9)); fcntl.fcntl(two, fcntl.F_SETFL, 0)
    server = socket(); server.bind(("127.0.0.1", 0)); server.listen()
    if timed: server.setsockopt(SOL_SOCKET, SO_RCVTIMEO, TIME)
    later(lambda: socket().connect(server.getsockname()))
    result, error = interrupted("accept", server.fileno(), None, None)
    print(timed, "accept", result > 0, error); os.wait()
    one, two = socketpair(AF_UNIX, SOCK_STREAM)
    one.setblocking(False)
    while attempt(lambda: one.send(b"x" * 4096)) != "EAGAIN": pass
    fcntl.fcntl(one, fcntl.F_SETFL, 0)
    if timed: one.setsockopt(SOL_SOCKET, SO_SNDTIMEO, TIME)
    for call in ("send", "write"):
        later(lambda: [two.recv(4096) for _ in range(40)])
        print(timed, call, interrupted(call, one.fileno(), room, 4, *([0] if call == "send" else []))); os.wait()
        one.setblocking(False)
        while attempt(lambda: one.send(b"x" * 4096)) != "EAGAIN": pass
        fcntl.fcntl(one, fcntl.F_SETFL, 0)
r, w = os.pipe()
later(lambda: os.write(w, b"late"))
print("pipe", interrupted("read", r, room, 100)); os.wait()
print(len(hits))
PYTHON

/usr/bin/python3 -S -B interrupted.py >native.out 2>&1 </dev/null
native=$?
uvctl run -- /usr/bin/python3 -S -B interrupted.py >guest.out 2>&1 </dev/null
compare $native $? out
report $? 'calls with a time end when a signal comes, others begin anew'
finish
