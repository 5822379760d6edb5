#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What python3 and perl have libraries for, and compressors with threads, natively in one copy of a directory and in a
# micro-VM in another: these programs are in every test machine.
#
# machines: kvm/long bochs/long bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# shellcheck source=tests/guest/costs
. "$tests/costs"
export PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0

mkdir start
seq 1 20000 >start/numbers
# A certificate for this test alone, with its key.
cat >start/pem <<'END'
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgExjuWz847nrGGMBn
WxFiQ8Lzen0NuRi9ZbKgS2c54VahRANCAATtXIetUeX7wFCVOrMuu2hAAsRZ0sye
aAIE6Js8Qttkz/XsjSQpW3XrBf8cCt3JlqXJvH/pPxQ+M3/TIkOXZGsw
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUdklPt05DkpSG84lhwa3wuTCU/KswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAx
MDAwMDAwWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATtXIetUeX7wFCVOrMuu2hAAsRZ0syeaAIE6Js8Qttkz/XsjSQpW3Xr
Bf8cCt3JlqXJvH/pPxQ+M3/TIkOXZGswo2kwZzAdBgNVHQ4EFgQUuKV9BatKaoq7
Nk3omlaDlYyAdXowHwYDVR0jBBgwFoAUuKV9BatKaoq7Nk3omlaDlYyAdXowDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SQAwRgIhAIQqLUUlJlv+WrU+H1bu/Hc1ZBv/xwoUauZMaV9EJLc+AiEA+pii7+OG
iPIlwpGTqXeJ6MqwPSTGBXxvKcEP4EVSBzg=
-----END CERTIFICATE-----
END

python() { # NAME PROGRAM
	in_both "$1" python3 -c "$2"
}

# What takes long is for the long run.
seldom() { if [ "${UVISOR_LONG-0}" = 1 ]; then "$@"; fi; }

seldom python 'python3: threads' '
import threading, queue, concurrent.futures as futures
work, done = queue.Queue(4), []
lock, barrier = threading.Lock(), threading.Barrier(4)
def worker():
    barrier.wait()
    while (item := work.get()) is not None:
        with lock:
            done.append(item * item)
threads = [threading.Thread(target=worker) for _ in range(4)]
for thread in threads: thread.start()
for i in range(200): work.put(i)
for _ in threads: work.put(None)
for thread in threads: thread.join()
print(sum(done), len(done))
with futures.ThreadPoolExecutor(8) as pool:
    print(list(pool.map(lambda x: x ** 2, range(20))))
event = threading.Event()
threading.Timer(0.05, event.set).start()
print(event.wait(10), event.wait(0))
'
python 'python3: subprocesses' '
import subprocess, signal, sys
print(subprocess.run(["sort", "-rn"], input=b"1\n3\n2\n", capture_output=True).stdout)
first = subprocess.Popen(["cat", "numbers"], stdout=subprocess.PIPE)
second = subprocess.Popen(["wc", "-l"], stdin=first.stdout, stdout=subprocess.PIPE, text=True)
first.stdout.close()
print(second.communicate()[0].strip(), first.wait())
try:
    subprocess.run(["sleep", "60"], timeout=0.2)
except subprocess.TimeoutExpired as error:
    print(error)
child = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
print(child.stdout.readline())
child.send_signal(signal.SIGTERM)
print(child.wait())
print(subprocess.run("echo $X; exit 9", shell=True, env={"X": "y"}, start_new_session=True).returncode)
big = b"x" * 300000
print(len(subprocess.run(["cat"], input=big, capture_output=True).stdout))
'
cat >start/processes.py <<'END'
import multiprocessing as mp, os, sys
from multiprocessing import shared_memory

def square(x):
    return x * x

def count(counter, lock, array):
    for i in range(100):
        with lock:
            counter.value += 1
            array[i % 10] += 1

def echo(connection, queue):
    queue.put(connection.recv()[::-1])

def main(method):
    context = mp.get_context(method)
    with context.Pool(3) as pool:
        print(pool.map(square, range(30)), pool.apply_async(square, (9,)).get(60))
    counter, lock, array = context.Value("i", 0), context.Lock(), context.Array("i", 10)
    all_of_them = [context.Process(target=count, args=(counter, lock, array)) for _ in range(3)]
    for process in all_of_them: process.start()
    for process in all_of_them: process.join()
    print(counter.value, list(array), [process.exitcode for process in all_of_them])
    (here, there), queue = context.Pipe(), context.Queue()
    process = context.Process(target=echo, args=(there, queue))
    process.start()
    here.send([1, "two", b"3"])
    print(queue.get(timeout=60))
    process.join()
    memory = shared_memory.SharedMemory(create=True, size=4096)
    memory.buf[:5] = b"hello"
    other = shared_memory.SharedMemory(memory.name)
    print(bytes(other.buf[:5]))
    other.close()
    memory.close()
    memory.unlink()

if __name__ == "__main__":
    main(sys.argv[1])
END
in_both 'python3: processes that are forked' python3 processes.py fork
seldom in_both 'python3: processes that are started anew' python3 processes.py spawn
python 'python3: sqlite3, from several threads' '
import sqlite3, threading
base = sqlite3.connect("base.db", isolation_level=None)
print(base.execute("PRAGMA journal_mode=WAL").fetchone())
base.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
def insert(start):
    own = sqlite3.connect("base.db", timeout=60)
    for i in range(20):
        with own:
            own.execute("INSERT INTO t VALUES(?, ?)", (start + i, str(i)))
    own.close()
threads = [threading.Thread(target=insert, args=(i * 100,)) for i in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(base.execute("SELECT count(*), sum(a), group_concat(DISTINCT b) FROM t").fetchone())
print(base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone(), base.execute("PRAGMA integrity_check").fetchone())
copy = sqlite3.connect(":memory:")
base.backup(copy)
print(len(list(copy.iterdump())))
base.close()
import os
os.unlink("base.db")
'
seldom python 'python3: ssl' '
import hashlib, socket, ssl, threading
here, there = socket.socketpair()
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("pem")
client = ssl.create_default_context(cafile="pem")
def serve():
    with server.wrap_socket(there, server_side=True) as connection:
        data = b""
        while len(data) < 200000:
            data += connection.recv(65536)
        connection.sendall(hashlib.sha256(data).hexdigest().encode())
thread = threading.Thread(target=serve)
thread.start()
with client.wrap_socket(here, server_hostname="localhost") as connection:
    print(connection.version(), connection.getpeercert()["subject"])
    connection.sendall(b"0123456789" * 20000)
    print(connection.recv(64))
thread.join()
'
python 'python3: ctypes, with calls back' '
import ctypes, ctypes.util, mmap
libc = ctypes.CDLL(None, use_errno=True)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
array = (ctypes.c_int * 7)(5, 1, 4, 2, 7, 3, 6)
libc.qsort(array, 7, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
print(list(array), libc.abs(-3))
print(libc.open(b"/nonexistent", 0), ctypes.get_errno())
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("8d04378d40 01c3".replace(" ", "")))
function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print(function(20, 21))
'
python 'python3: identities that stay, capabilities that are given up, and what stands for a process' '
import ctypes, fcntl, os, signal, struct, termios
os.setreuid(-1, 0), os.setregid(0, -1), os.setresuid(0, 0, 0), os.setresgid(-1, -1, 0)
for attempt in (lambda: fcntl.ioctl(99, termios.TIOCSPGRP, b"0000"), lambda: os.tcsetpgrp(99, 0)):
    try:
        attempt()
    except OSError as error:
        print(error)
signal.signal(signal.SIGUSR1, lambda *args: print("signal"))
own = os.open(f"/proc/{os.getpid()}", os.O_RDONLY | os.O_DIRECTORY)
signal.pidfd_send_signal(own, signal.SIGUSR1)
try:
    signal.pidfd_send_signal(os.open("/tmp", os.O_RDONLY), signal.SIGUSR1)
except OSError as error:
    print(error)
libc = ctypes.CDLL(None, use_errno=True)
print(libc.capset(struct.pack("II", 0x20080522, 0), bytes(24)))
print(libc.capset(struct.pack("II", 0x20080522, 0), b"\1" + bytes(23)), ctypes.get_errno())
'
seldom python 'python3: asyncio' '
import asyncio, signal, os
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
async def ask(port, text):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text + b"\n")
    answer = await reader.readline()
    writer.close()
    return answer
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(await asyncio.gather(*(ask(port, b"abc%d" % i) for i in range(10))))
    process = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=-1, stdout=-1)
    print(await process.communicate(b"through a process"), process.returncode)
    try:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(60)
    except TimeoutError:
        print("timeout")
    got = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set_result, "signal")
    os.kill(os.getpid(), signal.SIGUSR1)
    print(await got, await asyncio.to_thread(sum, range(100)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(0.01 * i, i)) for i in range(5)]
    print([task.result() for task in tasks])
asyncio.run(main())
'

in_both 'perl: processes, pipes, sockets, sorting' perl -e '
use Socket; use POSIX ":sys_wait_h";
socketpair(my $left, my $right, AF_UNIX, SOCK_STREAM, 0) or die $!;
if (!fork) { close $left; my $line = <$right>; print $right uc $line; exit 3 }
close $right; select((select($left), $| = 1)[0]); print $left "over a socket\n"; print scalar <$left>;
wait; print $? >> 8, "\n";
open my $in, "-|", "sort", "-rn", "numbers" or die; my @top = map { scalar <$in> } 1 .. 3; close $in; print @top, $? & 127, "\n";
my %n; $n{length $_}++ for map { $_ ** 2 } 1 .. 5000; print join(",", map { "$_=$n{$_}" } sort { $a <=> $b } keys %n), "\n";
my $gone; local $SIG{CHLD} = sub { while ((my $p = waitpid -1, WNOHANG) > 0) { print "gone ", $? >> 8, "\n"; $gone = 1 } };
if (!fork) { exit 4 } select undef, undef, undef, 0.05 until $gone; print "end\n"; exit 6'
# shellcheck disable=SC2016 # it is for another shell
in_both 'xz and zstd with threads' bash -c '
xz -T3 --block-size=32KiB -k numbers; xz -T3 -dc numbers.xz | cmp - numbers; zstd -q -T3 -B32K -k numbers; zstd -dc numbers.zst | cmp - numbers
tar -cf a.tar --sort=name --mtime=@0 numbers pem; tar -cJf b.txz -C / --mtime=@0 etc/hostname; tar -tf b.txz; sha256sum numbers.*'
costs
finish
