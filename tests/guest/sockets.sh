#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Sockets of programs in micro-VMs: what works natively works there, over a loopback of the task's own;
# and what is outside of the task is out of reach, but for what `--net host` gives.
#
# machines: bochs bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
chmod 755 "$work"
helpers=()

has() { # NAME PATTERN TEXT
	grep -q -- "$2" <<<"$3"
	local result=$?
	if [ $result != 0 ]; then printf '%s\n' "wanted: $2" "got: $3" | sed 's/^/# /'; fi
	report $result "$1"
}

let_user_in

# same NAME COMMAND...: what a program prints natively it must print in a micro-VM, for both.
same() {
	local name=$1 who status native
	shift
	for who in as_root as_user; do
		$who "$@" >native.out 2>&1 </dev/null
		native=$?
		$who uvctl run -- "$@" >guest.out 2>&1 </dev/null
		status=$?
		compare $native $status out
		report $? "$name, $who"
	done
}

# try WHO NET PROGRAM: what a Python program prints, which has `attempt` to say how something fails.
cat >attempt.py <<'PYTHON'
import errno, os, socket, struct, sys
from socket import *
def attempt(what):
    try:
        result = what()
        return "done" if isinstance(result, socket) else str(result)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
PYTHON
try() {
	local who=$1 net=$2 program=$3
	$who uvctl run --net "$net" -- /usr/bin/python3 -S -c "import sys
sys.path.insert(0, '$work')
sys.dont_write_bytecode = True
from attempt import *
$program" 2>&1
}

cat >stream.py <<'PYTHON'
from socket import *
import select, sys
def play(family, address):
    listener = socket(family, SOCK_STREAM)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(5)
    client = socket(family, SOCK_STREAM)
    client.setblocking(False)
    print(client.connect_ex(listener.getsockname()) in (0, 115))
    print([len(part) for part in select.select([listener], [client], [], 5)])
    print(client.getsockopt(SOL_SOCKET, SO_ERROR), client.connect_ex(listener.getsockname()) in (0, 106))
    server, peer = listener.accept()
    print(peer == client.getsockname(), server.getsockname() == client.getpeername(), server.getblocking())
    sent = received = 0
    data = bytes(range(256)) * 4096
    while received < len(data):
        try: sent += client.send(data[sent:])
        except BlockingIOError: pass
        part = server.recv(70000)
        assert part == data[received:received + len(part)]
        received += len(part)
    print(received)
    client.setblocking(True)
    print(server.sendmsg([b"abc", b"", b"defgh"]), client.recv(3, MSG_PEEK), client.recv(8, MSG_WAITALL))
    buffers = [bytearray(2), bytearray(9)]
    server.sendall(b"scattered")
    print(client.recvmsg_into(buffers), buffers)
    client.shutdown(SHUT_WR)
    print(server.recv(10), server.send(b"bye"), client.recv(10))
    server.close()
    print(client.recv(1))
    client.settimeout(0.2)
    try: listener.settimeout(0.2); listener.accept()
    except TimeoutError as error: print(error)
    for call in (client.getpeername, lambda: listener.recv(1), lambda: client.bind(address)):
        try: print(call())
        except OSError as error: print(error)
    client.close(); listener.close()
    try: socket(family, SOCK_STREAM).connect(("127.0.0.1", 1) if family == AF_INET else ("::1", 1))
    except OSError as error: print(error)
play(AF_INET, ("127.0.0.1", 0))
play(AF_INET6, ("::1", 0))
with create_server(("localhost", 0)) as server, create_connection(server.getsockname()) as client:
    print(server.accept()[1] == client.getsockname())
PYTHON

cat >datagram.py <<'PYTHON'
from socket import *
import struct
def play(family, address):
    one, two = socket(family, SOCK_DGRAM), socket(family, SOCK_DGRAM)
    one.bind(address); two.bind(address)
    to = two.getsockname()
    print(one.sendto(b"hello", to), two.recvfrom(100) == (b"hello", one.getsockname()))
    one.sendto(b"truncated", to)
    data, control, flags, sender = two.recvmsg(4, 100)
    print(data, control, flags == MSG_TRUNC, sender == one.getsockname())
    if family == AF_INET:
        two.setsockopt(IPPROTO_IP, IP_RECVTOS, 1)
        two.setsockopt(IPPROTO_IP, 12, 1) # IP_RECVTTL
        ttl = (IPPROTO_IP, IP_TTL, struct.pack("i", 7))
    else:
        two.setsockopt(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
        two.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        ttl = (IPPROTO_IPV6, IPV6_HOPLIMIT, struct.pack("i", 7))
    print(one.sendmsg([b"with ", b"control"], [ttl], 0, to), two.recvmsg(100, 200)[:3])
    one.sendto(b"x", to)
    print(two.recvmsg(10, 20)[1:3])
    one.connect(to)
    print(one.send(b""), two.recvfrom(5)[0], one.getpeername() == to)
    print(two.recvfrom.__name__, two.sendto(b"back", one.getsockname()), one.recv(10))
    two.setblocking(False)
    for call in (lambda: two.recv(1), lambda: two.send(b"x"), lambda: two.sendto(b"x" * 70000, to),
                 lambda: one.sendto(b"x", ("255.255.255.255", 9) if family == AF_INET else ("::2", 9, 0, 0))):
        try: print(call())
        except OSError as error: print(error)
play(AF_INET, ("127.0.0.1", 0))
play(AF_INET6, ("::1", 0))
PYTHON

cat >unix.py <<'PYTHON'
from socket import *
import array, os, struct
for kind in (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET):
    one, two = socketpair(AF_UNIX, kind)
    print(one.send(b"one"), one.send(b"two"), two.recv(100), one.getsockname(), two.getpeername(), one.type == kind)
    # Descriptors: a pipe's, and what is read from it is the pipe's.
    for count in (1, 3):
        pipes = [os.pipe() for _ in range(count)]
        send_fds(one, [b"fds"], [reading for reading, _ in pipes])
        for reading, writing in pipes:
            os.close(reading); os.write(writing, b"through %d" % count); os.close(writing)
        data, fds, flags, _ = recv_fds(two, 10, 10)
        print(data, [os.read(fd, 20) for fd in fds], flags, [os.get_inheritable(fd) for fd in fds])
        for fd in fds: os.close(fd)
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    send_fds(one, [b"x"], fds)
    data, control, flags, _ = two.recvmsg(10, CMSG_LEN(4))
    print(len(control), flags & MSG_CTRUNC == MSG_CTRUNC)
    send_fds(one, [b"x"], fds)
    print(two.recvmsg(10)[1:])
    two.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
    own = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    one.sendmsg([b"who"], [(SOL_SOCKET, SCM_CREDENTIALS, own)])
    one.send(b"me")
    for _ in range(2):
        data, control, flags, _ = two.recvmsg(3, 100)
        print(data, [part[:2] + (part[2] == own,) for part in control], flags)
    print(one.getsockopt(SOL_SOCKET, SO_PEERCRED, 12) == own)
# Names that are no paths.
listener = socket(AF_UNIX, SOCK_SEQPACKET)
listener.bind(b"\0a name")
listener.listen()
client = socket(AF_UNIX, SOCK_SEQPACKET)
client.connect(b"\0a name")
server, name = listener.accept()
print(name, listener.getsockname(), client.getpeername(), server.send(b"hi"), client.recv(10))
for taken in (b"\0a name",):
    try: socket(AF_UNIX, SOCK_STREAM).bind(taken)
    except OSError as error: print(error)
one, two = socket(AF_UNIX, SOCK_DGRAM), socket(AF_UNIX, SOCK_DGRAM)
one.bind(""); two.bind("")
print(len(one.getsockname()), one.sendto(b"dear", two.getsockname()), two.recvfrom(10) == (b"dear", one.getsockname()))
for name in ("/nonexistent/socket", "/etc/passwd", "/etc", "/etc/passwd/x", "relative"):
    try: print(socket(AF_UNIX, SOCK_STREAM).connect(name))
    except OSError as error: print(error)
PYTHON

cat >options.py <<'PYTHON'
from socket import *
import struct, os
stream, datagram, six, unix = (socket(f, k) for f, k in (
    (AF_INET, SOCK_STREAM), (AF_INET, SOCK_DGRAM), (AF_INET6, SOCK_STREAM), (AF_UNIX, SOCK_STREAM)))
SO_TIMESTAMP = 29
for s, level, name, value in (
    (stream, SOL_SOCKET, SO_REUSEADDR, 1), (stream, SOL_SOCKET, SO_REUSEPORT, 1), (stream, SOL_SOCKET, SO_KEEPALIVE, 1),
    (stream, SOL_SOCKET, SO_SNDBUF, 50000), (stream, SOL_SOCKET, SO_RCVBUF, 50000), (stream, SOL_SOCKET, SO_OOBINLINE, 1),
    (stream, SOL_SOCKET, SO_PRIORITY, 6), (datagram, SOL_SOCKET, SO_BROADCAST, 1), (datagram, SOL_SOCKET, SO_TIMESTAMP, 1),
    (stream, IPPROTO_TCP, TCP_NODELAY, 1), (stream, IPPROTO_TCP, TCP_KEEPIDLE, 77), (stream, IPPROTO_TCP, TCP_KEEPINTVL, 7),
    (stream, IPPROTO_TCP, TCP_KEEPCNT, 3), (stream, IPPROTO_TCP, TCP_USER_TIMEOUT, 900), (stream, IPPROTO_TCP, TCP_CORK, 1),
    (stream, IPPROTO_TCP, TCP_QUICKACK, 0), (stream, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1), (stream, IPPROTO_TCP, TCP_FASTOPEN, 5),
    (stream, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096), (stream, IPPROTO_IP, IP_TOS, 16), (stream, IPPROTO_IP, IP_TTL, 9),
    (datagram, IPPROTO_IP, IP_MULTICAST_TTL, 2), (datagram, IPPROTO_IP, IP_MULTICAST_LOOP, 0), (datagram, IPPROTO_IP, 11, 1),
    (six, IPPROTO_IPV6, IPV6_V6ONLY, 1), (six, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 5), (six, IPPROTO_IPV6, IPV6_TCLASS, 4),
    (unix, SOL_SOCKET, SO_PASSCRED, 1), (unix, SOL_SOCKET, SO_SNDBUF, 30000),
):
    try: print(level, name, s.getsockopt(level, name), s.setsockopt(level, name, value), s.getsockopt(level, name))
    except OSError as error: print(level, name, error)
for name in (SO_TYPE, SO_PROTOCOL, SO_DOMAIN, SO_ACCEPTCONN, SO_ERROR):
    print([s.getsockopt(SOL_SOCKET, name) for s in (stream, datagram, six, unix)])
stream.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 3))
print(stream.getsockopt(SOL_SOCKET, SO_LINGER, 8), stream.getsockopt(SOL_SOCKET, SO_LINGER, 4))
stream.setsockopt(SOL_SOCKET, SO_RCVTIMEO, struct.pack("ll", 0, 100000))
print(stream.getsockopt(SOL_SOCKET, SO_RCVTIMEO, 16), len(stream.getsockopt(IPPROTO_TCP, TCP_INFO, 1024)) > 100)
datagram.setsockopt(IPPROTO_IP, IP_ADD_MEMBERSHIP, inet_aton("224.0.0.251") + inet_aton("127.0.0.1"))
datagram.setsockopt(IPPROTO_IP, IP_DROP_MEMBERSHIP, inet_aton("224.0.0.251") + inet_aton("127.0.0.1"))
for s, level, name, value in ((stream, 99, 1, 1), (stream, SOL_SOCKET, 999, 1), (stream, IPPROTO_TCP, 999, 1), (stream, SOL_SOCKET, SO_TYPE, 1),
                       (stream, SOL_SOCKET, SO_RCVTIMEO, b"short"), (unix, IPPROTO_TCP, TCP_NODELAY, 1)):
    for call in (lambda: s.setsockopt(level, name, value), ):
        try: print(call())
        except OSError as error: print(level, name, error)
print(getaddrinfo("localhost", 80, type=SOCK_STREAM), getaddrinfo("::1", 80, type=SOCK_STREAM, flags=AI_NUMERICHOST))
print([pair for pair in if_nameindex() if pair[1] == "lo"], gethostbyname("localhost"))
try: getaddrinfo("no.such.name.invalid", 80)
except OSError as error: print(error.errno < 0)
print(os.fstat(stream.fileno()).st_uid == os.getuid(), os.fstat(unix.fileno()).st_mode)
PYTHON

cat >interfaces.py <<'PYTHON'
from attempt import *
import ctypes, fcntl, os
for family in (AF_INET, AF_INET6, AF_UNIX):
    s = socket(family, SOCK_DGRAM)
    for request in (0x8910, 0x8913, 0x8915, 0x8917, 0x8919, 0x891b, 0x891d, 0x8921, 0x8927, 0x8933, 0x8942, 0x8970):
        for name in (b"lo", b"none", b"a" * 16):
            print(hex(request), name, attempt(lambda: fcntl.ioctl(s, request, struct.pack("16si20x", name, 1)).hex()))
    print(attempt(lambda: fcntl.ioctl(s, 0x8910, struct.pack("16si20x", b"", 99))))
    class List(ctypes.Structure): _fields_ = [("len", ctypes.c_int), ("buffer", ctypes.c_void_p)]
    for room in (None, 0, 39, 40, 400, -1):
        buffer = ctypes.create_string_buffer(b"\xee" * 400, 400)
        listing = List(room or 0, None if room is None else ctypes.addressof(buffer))
        result = attempt(lambda: fcntl.ioctl(s, 0x8912, listing))
        print(room, result, listing.len, buffer.raw[:listing.len] if room else "", buffer.raw[max(listing.len, 0):] == b"\xee" * (400 - max(listing.len, 0)))
    print([attempt(lambda: fcntl.ioctl(s, request, bytes(40))) for request in (0x8903, 0x8904, 0x8912)])
print(if_nametoindex("lo"), if_indextoname(1), attempt(lambda: if_nametoindex("none")) != "1")
print([attempt(lambda: fcntl.ioctl(os.pipe()[0], request, bytes(40))) for request in (0x8913, 0x8933, 0x8910)])
# How much waits to be read, and to be sent.
with create_server(("127.0.0.1", 0)) as server, create_connection(server.getsockname()) as c:
    peer = server.accept()[0]
    c.sendall(b"seven..")
    peer.recv(7, MSG_PEEK | MSG_WAITALL)
    print([struct.unpack("i", fcntl.ioctl(s, request, bytes(4))) for s in (c, peer) for request in (0x541b, 0x8905, 0x894b)])
    while struct.unpack("i", fcntl.ioctl(c, 0x5411, bytes(4)))[0]: pass
for kind in (SOCK_STREAM, SOCK_DGRAM):
    one, two = socketpair(AF_UNIX, kind)
    one.send(b"five."); one.send(b"three")
    print(struct.unpack("i", fcntl.ioctl(two, 0x541b, bytes(4))), struct.unpack("i", fcntl.ioctl(one, 0x5411, bytes(4)))[0] > 0)
PYTHON

# What must not be reached: listeners of the host's, each of which says so.
cat >listeners.py <<'PYTHON'
from socket import *
import select
def there(family, kind, address):
    s = socket(family, kind)
    s.bind(address)
    if kind != SOCK_DGRAM: s.listen(20)
    return s
a = [there(AF_INET, SOCK_STREAM, ("127.0.0.1", 7001)), there(AF_INET6, SOCK_STREAM, ("::1", 7001)),
     there(AF_UNIX, SOCK_STREAM, b"\0of the host"), there(AF_UNIX, SOCK_STREAM, "path"),
     there(AF_INET, SOCK_DGRAM, ("127.0.0.1", 7001)), there(AF_UNIX, SOCK_DGRAM, b"\0datagrams of the host"),
     there(AF_UNIX, SOCK_DGRAM, "path2")]
print("ready", flush=True)
while True:
    for s in select.select(a, [], [])[0]:
        if s.type == SOCK_DGRAM: print("reached", s.getsockname(), s.recv(100), flush=True)
        else:
            client, _ = s.accept()
            print("reached", s.getsockname(), flush=True)
            client.sendall(b"the host"); client.close()
PYTHON
/usr/bin/python3 -S listeners.py >listeners.out 2>&1 &
helpers+=($!)
for _ in $(seq 100); do grep -q ready listeners.out 2>/dev/null && break; sleep 0.1; done
chmod 777 path path2

same 'streams' /usr/bin/python3 -S stream.py
same 'datagrams' /usr/bin/python3 -S datagram.py
same 'unix sockets' /usr/bin/python3 -S unix.py
same 'options, and looking names up' /usr/bin/python3 -S options.py
same 'interfaces, and what waits in sockets' /usr/bin/python3 -S -B interfaces.py
same 'several messages by one call' "$tests/socket_task" many
same 'hostile calls' "$tests/socket_task" hostile
(ulimit -Sn 20; echo 'from socket import *
import os
one, two = socketpair()
send_fds(one, [b"x"], [0, 1, 2])
spare = [os.dup(0) for _ in range(20 - 2 - two.fileno())]
data, control, flags, _ = two.recvmsg(10, 100)
print(data, [len(part[2]) for part in control], flags == MSG_CTRUNC)
try: print(os.dup(0))
except OSError as error: print(error)
for what in (lambda: socket(AF_INET), lambda: socketpair(), lambda: socket(AF_UNIX)):
    try: print(what())
    except OSError as error: print(error)
' >limit.py
same 'descriptors at the limit' /usr/bin/python3 -S limit.py
echo "$number $failed" >limit.result)
read -r number failed <limit.result

modprobe=$(cat /proc/sys/kernel/modprobe)
printf '#!/bin/sh\necho "$@" >>%s/modules.out\nexit 1\n' "$work" >loader
chmod 755 loader
echo "$work/loader" >/proc/sys/kernel/modprobe
: >modules.out
/usr/bin/python3 -S -c 'import socket; socket.if_nametoindex("uvisormodule")' 2>/dev/null
has 'natively a module is asked for by the name of an interface' uvisormodule "$(cat modules.out)"

for who in as_root as_user; do
	is "none: the host's listeners are not there, $who" 'ECONNREFUSED ECONNREFUSED ECONNREFUSED EACCES EACCES' "$(try $who none '
print(*(attempt(lambda: socket(f, SOCK_STREAM).connect(a)) for f, a in (
    (AF_INET, ("127.0.0.1", 7001)), (AF_INET6, ("::1", 7001)), (AF_UNIX, b"\0of the host"), (AF_UNIX, "path"), (AF_UNIX, "./path"))))')"
	is "none: nor for datagrams, $who" '1 ECONNREFUSED EACCES EACCES ENETUNREACH ENETUNREACH' "$(try $who none '
print(*(attempt(lambda: socket(f, SOCK_DGRAM).sendto(b"x", a)) for f, a in (
    (AF_INET, ("127.0.0.1", 7001)), (AF_UNIX, b"\0datagrams of the host"), (AF_UNIX, "path2"), (AF_UNIX, "'"$work"'/path2"),
    (AF_INET, ("192.0.2.1", 9)), (AF_INET6, ("2001:db8::1", 9)))))')"
	is "none: nor by a pair, $who" 'EACCES EACCES EACCES EACCES' "$(try $who none '
one, two = socketpair(AF_UNIX, SOCK_DGRAM)
print(attempt(lambda: one.sendto(b"x", b"\0datagrams of the host")), attempt(lambda: one.connect(b"\0datagrams of the host")),
      attempt(lambda: one.sendmsg([b"x"], [], 0, b"\0datagrams of the host")), attempt(lambda: one.bind(b"\0mine")))')"
	is "host: the loopback is the host's, its unix sockets are not, $who" "b'the host' b'the host' ECONNREFUSED EACCES EACCES" "$(try $who host '
def said(family, address):
    s = socket(family, SOCK_STREAM); s.connect(address); return s.recv(20)
print(said(AF_INET, ("127.0.0.1", 7001)), said(AF_INET6, ("::1", 7001)),
    attempt(lambda: said(AF_UNIX, b"\0of the host")), attempt(lambda: said(AF_UNIX, "path")),
    attempt(lambda: socketpair(AF_UNIX, SOCK_DGRAM)[0].sendto(b"x", b"\0datagrams of the host")))')"
	for net in none host; do
		is "kinds that a task cannot have, $net, $who" "EPERM EPERM EPERM ESOCKTNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EAFNOSUPPORT EPROTONOSUPPORT EPROTONOSUPPORT EPROTONOSUPPORT EPROTONOSUPPORT" "$(try $who $net '
print(*(attempt(lambda: socket(*kind)) for kind in (
    (AF_INET, SOCK_RAW, IPPROTO_ICMP), (AF_INET, SOCK_RAW, IPPROTO_RAW), (AF_INET6, SOCK_RAW, 58), (AF_INET, 10, 0x300),
    (AF_PACKET, SOCK_RAW, 0x300), (AF_PACKET, SOCK_DGRAM), (40, SOCK_STREAM), (38, SOCK_SEQPACKET), (31, SOCK_RAW, 1), (44, SOCK_RAW),
    (AF_NETLINK, SOCK_RAW, 9), (AF_NETLINK, SOCK_RAW, 15), (AF_INET, SOCK_STREAM, 132), (AF_INET, SOCK_DGRAM, IPPROTO_ICMP))))')"
		is "options that a task cannot set, $net, $who" "EPERM EPERM EPERM EPERM EPERM ENOPROTOOPT ENOPROTOOPT ENOPROTOOPT ENOPROTOOPT" "$(try $who $net '
s = socket(AF_INET, SOCK_STREAM)
print(*(attempt(lambda: s.setsockopt(*option)) for option in (
    (SOL_SOCKET, SO_MARK, 1), (SOL_SOCKET, SO_BINDTODEVICE, b"lo\0"), (SOL_SOCKET, 26, bytes(16)), (SOL_SOCKET, 50, 0), (SOL_SOCKET, 33, 1 << 20),
    (IPPROTO_IP, 64, bytes(84)), (IPPROTO_TCP, 31, b"tls"), (IPPROTO_IP, IP_OPTIONS, b""), (IPPROTO_TCP, TCP_CONGESTION, b"reno"))))')"
		is "netlink reads, and writes nothing, $net, $who" "True EPERM EPERM EPERM" "$(try $who $net '
n = socket(AF_NETLINK, SOCK_RAW, 0)
n.bind((0, 0))
n.send(struct.pack("IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
found = n.recv(65536)
def write(data):
    n.send(data)
    return errno.errorcode[-struct.unpack_from("i", n.recv(65536), 16)[0]]
while not any(struct.unpack_from("H", part, 4)[0] == 3 for part in [n.recv(65536)]): pass
down = struct.pack("IHHIIBxHiII", 32, 16, 5, 2, 0, 0, 0, 1, 0, 1)
flush = struct.pack("IHHIIBBBBBBBBI", 28, 25, 5, 2, 0, 2, 0, 0, 0, 254, 0, 0, 1, 0)
print(b"lo\0" in found, write(down), write(flush), attempt(lambda: n.sendto(b"x" * 16, (1, 0))))')"
	done
	# A name that is not there makes the kernel look for a module, for who may.
	: >modules.out
	for net in none host; do
		is "interfaces are not changed, and no modules loaded, $net, $who" 'EPERM EPERM EPERM EPERM EPERM EPERM ENODEV ENODEV' "$(try $who $net '
import fcntl
s, u = socket(AF_INET, SOCK_DGRAM), socket(AF_UNIX, SOCK_DGRAM)
down = struct.pack("16sh22x", b"lo", 0)
print(*(attempt(lambda: fcntl.ioctl(one, request, down)) for request in (0x8914, 0x8916, 0x8901) for one in (s, u)),
    *(attempt(lambda: fcntl.ioctl(one, 0x8933, struct.pack("16s24x", b"uvisormodule"))) for one in (s, u)))')"
	done
	is "nor is one asked for, $who" '' "$(cat modules.out)"
	is "descriptors of the broker's cannot be sent, $who" 'EBADF 0' "$(try $who none '
import array
one, two = socketpair()
limit = os.sysconf("SC_OPEN_MAX")
results = {attempt(lambda: one.sendmsg([b"x"], [(SOL_SOCKET, SCM_RIGHTS, array.array("i", [0, fd]))])) for fd in range(limit, limit + 100)}
two.setblocking(False)
print(*results, len([1 for _ in range(3) if attempt(lambda: two.recv(9)) != "EAGAIN"]))')"
	is "nobody is somebody else, $who" 'EPERM EPERM 1' "$(try $who none '
one, two = socketpair()
def send(*ids): return attempt(lambda: one.sendmsg([b"x"], [(SOL_SOCKET, SCM_CREDENTIALS, struct.pack("3i", *ids))]))
print(send(1, os.getuid(), os.getgid()), send(os.getpid(), 12345, os.getgid()), send(os.getpid(), os.getuid(), os.getgid()))')"
	is "tasks do not meet, $who" 'None None ECONNREFUSED' "$(try $who none '
s = socket(AF_INET); u = socket(AF_UNIX)
print(attempt(lambda: s.bind(("127.0.0.1", 7002))), attempt(lambda: u.bind(b"\0task")), end=" ", flush=True)
s.listen()
os.execv("/usr/bin/sleep", ["sleep", "3"])' & sleep 1.5; try $who none '
print(attempt(lambda: socket(AF_INET).connect(("127.0.0.1", 7002))))'; wait $!)"
	# What it was started with: sockets in the host's network.
	cat >start.py <<-'PYTHON'
		import os, sys
		from socket import *
		family, net = (AF_UNIX if sys.argv[1] == "unix" else AF_INET), sys.argv[2]
		given = socket(family, SOCK_DGRAM)
		os.dup2(given.fileno(), 0)
		os.set_inheritable(0, True)
		os.execvp("uvctl", ["uvctl", "run", "--net", net, "--", "/usr/bin/python3", "-c", sys.argv[3]])
	PYTHON
	program='import sys; sys.path.insert(0, "'$work'")
from attempt import *
s = socket(fileno=0)
to = ("127.0.0.1", 7001) if s.family == AF_INET else b"\0datagrams of the host"
own = ("127.0.0.1", 0) if s.family == AF_INET else b""
print(attempt(lambda: s.sendto(b"inherited", to)), attempt(lambda: s.connect(to)), attempt(lambda: s.bind(own)), attempt(lambda: s.sendmsg([b"x"], [], 0, to)))'
	is "none: an inherited socket reaches nothing new, $who" 'EACCES EACCES EACCES EACCES' "$($who /usr/bin/python3 -S start.py inet none "$program" 2>&1)"
	for net in none host; do
		is "$net: nor an inherited unix socket, $who" 'EACCES EACCES EACCES EACCES' "$($who /usr/bin/python3 -S start.py unix $net "$program" 2>&1)"
	done
	is "host: an inherited one does, $who" '9 None EINVAL 1' "$($who /usr/bin/python3 -S start.py inet host "$program" 2>&1)"
	sleep 0.2

	# The helper: whose it is, what it has, and that it ends.
	mkfifo gate.$who
	chmod 666 gate.$who
	$who uvctl run -- /usr/bin/python3 -S -c 'import os, socket, sys
s = socket.socket()
try: waited = os.waitpid(-1, os.WNOHANG)
except ChildProcessError: waited = "none"
print("child", waited, flush=True)
sys.stdin.read()' <gate.$who >helper.out 2>&1 &
	run=$!
	exec 7>gate.$who
	for _ in $(seq 100); do grep -q child helper.out && break; sleep 0.1; done
	helper=$(pgrep -x uvctl-net)
	is "the task waits for nobody, $who" 'child none' "$(cat helper.out)"
	is "one helper, and no child of the broker, $who" '1 0' "$(wc -w <<<"$helper") $(pgrep -P "$(pgrep -f '^uvctl run')" | wc -l)"
	is "it has one descriptor, $who" "0 socket /" "$(find "/proc/$helper/fd" -type l -printf '%f %l\n' | sed 's/:.*//') $(readlink "/proc/$helper/cwd")"
	is "and no capabilities, $who" '0000000000000000 0000000000000000' "$(awk '/^Cap(Prm|Eff)/ { print $2 }' "/proc/$helper/status" | xargs)"
	exec 7>&-
	wait $run
	for _ in $(seq 100); do kill -0 "$helper" 2>/dev/null || break; sleep 0.1; done
	is "it ends with the task, $who" '' "$(pgrep -x uvctl-net)"
	$who uvctl run -- /usr/bin/python3 -S -c 'import socket, sys
s = socket.socket(); print("there", flush=True); sys.stdin.read()' < <(sleep 100) >helper.out 2>&1 &
	run=$!
	for _ in $(seq 100); do grep -q there helper.out && break; sleep 0.1; done
	pkill -9 -f '^uvctl run'
	wait $run 2>/dev/null
	pkill -x sleep
	for _ in $(seq 100); do pgrep -x uvctl-net >/dev/null || break; sleep 0.1; done
	is "or when the task is killed, $who" '' "$(pgrep -x uvctl-net)"
	$who uvctl run -- /usr/bin/python3 -S -c 'import socket; socket.socketpair()[0].send(b"x"); open("/proc/uptime").read()
import time; time.sleep(1)' &
	run=$!
	sleep 0.7
	is "a pair starts none, $who" '' "$(pgrep -x uvctl-net)"
	wait $run
	$who uvctl run -- "$tests/socket_task" ticks | sed "s/^/# ticks of a socket in a micro-VM, $who: /"
	$who uvctl run --net host -- "$tests/socket_task" ticks | sed "s/^/# ticks with --net host, $who: /"
done
echo "$modprobe" >/proc/sys/kernel/modprobe
"$tests/socket_task" ticks | sed 's/^/# ticks natively: /'

# The C library asks for both kinds of addresses by one call.
cat >names.py <<'PYTHON'
from socket import *
s = socket(AF_INET, SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    query, sender = s.recvfrom(512)
    end = query.index(b"\0", 12) + 5
    a = query[end - 4:end - 2] == b"\0\x01"
    answer = b"\xc0\x0c" + query[end - 4:end] + b"\0\0\0\x09" + (b"\0\x04" + inet_aton("192.0.2.7") if a else b"\0\x10" + inet_pton(AF_INET6, "2001:db8::7"))
    s.sendto(query[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0" + query[12:end] + answer, sender)
PYTHON
/usr/bin/python3 -S names.py >names.out 2>&1 &
helpers+=($!)
for _ in $(seq 100); do grep -q ready names.out && break; sleep 0.1; done
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
look='from socket import *; print(sorted(i[4][0] for i in getaddrinfo("a.name.test", 80, type=SOCK_STREAM)))'
is 'host: names are looked up' "['192.0.2.7', '2001:db8::7']" "$(uvctl run --net host -- /usr/bin/python3 -S -c "$look" 2>&1)"
rm /etc/resolv.conf

is 'the host was reached by whom it should' "$(printf "%s\n" "('127.0.0.1', 7001)" "('127.0.0.1', 7001) b'inherited'" "('127.0.0.1', 7001) b'x'" "('::1', 7001, 0, 0)")" \
	"$(sed -n 's/^reached //p' listeners.out | sort -u)"
echo 'import socket, sys
s = socket.socket()
s.close()
sys.stdin.read()
s = socket.create_server(("127.0.0.1", 0))
print(socket.create_connection(s.getsockname()).getpeername() == s.getsockname())' >template.py
is 'a template has no network, and its runs have' 'True' "$(uvctl template create sockets -- /usr/bin/python3 -S template.py 2>&1
	for _ in $(seq 50); do pgrep -x uvctl-net >/dev/null || break; sleep 0.1; done
	pgrep -x uvctl-net
	echo | uvctl run --from sockets 2>&1)"
uvctl template rm sockets
kill "${helpers[@]}"
for _ in $(seq 50); do pgrep -f '^uvctl' >/dev/null || break; sleep 0.1; done
is 'no process stays' '' "$(pgrep -af '^uvctl')"

finish
