#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Shared mappings of files on disks: natively in one directory of a file system, and in a micro-VM in another. What the
# programs print, how they end, and what is on the disk when it is mounted again must be the same.
#
# machines: kvm bochs/long bochs2/long nested/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
export PYTHONDONTWRITEBYTECODE=1
umask 022

cat >shared.py <<'END'
import ctypes, mmap, os, resource, signal, sys, threading
PAGE = mmap.PAGESIZE
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc = ctypes.CDLL(None, use_errno=True)

def new(name, pages):
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.ftruncate(fd, pages * PAGE)
    return fd, mmap.mmap(fd, pages * PAGE)

def child(act):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        act()
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def basic():
    fd, m = new("basic", 8)
    m[0:5] = b"hello"
    print("by read", os.pread(fd, 5, 0))
    os.pwrite(fd, b"world", PAGE)
    print("by write", m[PAGE:PAGE + 5])
    # System calls on the mapping itself.
    print(os.preadv(fd, [memoryview(m)[3 * PAGE - 2:3 * PAGE + 3]], PAGE), m[3 * PAGE - 2:3 * PAGE + 3])
    print(os.pwrite(fd, memoryview(m)[3 * PAGE - 2:3 * PAGE + 3], 5 * PAGE), m[5 * PAGE:5 * PAGE + 5])
    m[200:200 + len("basic\0")] = b"basic\0"
    address = ctypes.addressof(ctypes.c_char.from_buffer(m)) + 200
    print("a path in it", libc.open(ctypes.c_void_p(address), os.O_RDONLY) >= 0)
    m.flush()
    m[7 * PAGE - 1] = 7
    print("a child", child(lambda: (m.__setitem__(6 * PAGE, 6), print("sees", m[7 * PAGE - 1]))))
    print("sees", m[6 * PAGE])
    os.fsync(fd)

def resized():
    fd, m = new("resized", 4)
    m[0], m[4 * PAGE - 1] = 1, 4
    m.resize(12 * PAGE)
    print(len(m), m[0], m[4 * PAGE - 1])
    m[12 * PAGE - 1] = 12
    m.resize(2 * PAGE)
    m[2 * PAGE - 1] = 2
    print(os.fstat(fd).st_size)
    m.close()
    print(os.pread(fd, 1, 2 * PAGE - 1))

# What is written behind a write-back is written back by the next one.
def counted():
    fd, m = new("counted", 16)
    for number in range(1, 30):
        for page in range(16):
            m[page * PAGE:page * PAGE + 8] = number.to_bytes(8, "little")
        if number % 3 == 0: os.fsync(fd)
        elif number % 3 == 1: m.flush()
        else: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.sync()
    m[0:8] = (77).to_bytes(8, "little")
    os.fsync(fd)
    m[PAGE:PAGE + 8] = (78).to_bytes(8, "little")

def cut():
    fd, m = new("cut", 8)
    m[6 * PAGE] = 1
    os.ftruncate(fd, 2 * PAGE)
    print("written behind the end", child(lambda: m.__setitem__(6 * PAGE, 2)))
    print("read", child(lambda: m[6 * PAGE]))
    try: os.pwrite(fd, memoryview(m)[6 * PAGE:6 * PAGE + 1], 0)
    except OSError as error: print(error)
    m[2 * PAGE - 1] = 3
    os.ftruncate(fd, 8 * PAGE)
    print("grown again", m[6 * PAGE])
    m[6 * PAGE] = 4
    # A hole that is made, and one that is filled.
    print(libc.fallocate(fd, 3, ctypes.c_long(6 * PAGE), ctypes.c_long(PAGE)), m[6 * PAGE])
    m[6 * PAGE + 1] = 5

def protected():
    fd, m = new("protected", 3)
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    protect = lambda prot: libc.mprotect(ctypes.c_void_p(address), PAGE, prot)
    print(protect(mmap.PROT_READ), m[0], child(lambda: m.__setitem__(0, 1)))
    print(protect(0), child(lambda: m[0]))
    print(protect(mmap.PROT_READ | mmap.PROT_WRITE))
    m[0] = 9
    reader = mmap.mmap(fd, 3 * PAGE, prot=mmap.PROT_READ)
    print("beside it", reader[0], child(lambda: ctypes.memset(ctypes.c_void_p(0), 0, 0)))
    print(libc.madvise(ctypes.c_void_p(address), 3 * PAGE, 4), m[0])
    print(libc.munmap(ctypes.c_void_p(address + PAGE), PAGE), child(lambda: m[PAGE]), m[0], m[2 * PAGE])
    os._exit((sys.stdout.flush(), 0)[1])

def threads():
    fd, m = new("threads", 16)
    def work(number):
        for round in range(200):
            for page in range(number, 16, 4):
                m[page * PAGE + round] = number + 1
    workers = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for worker in workers: worker.start()
    for _ in range(20): os.fsync(fd)
    for worker in workers: worker.join()
    print(sorted(set(m[page * PAGE + round] == page % 4 + 1 for page in range(16) for round in range(200))))

# What cannot be mapped leaves no hole in what the broker has of the guest's memory, and what moves makes none.
def moved():
    import socket
    one, other = socket.socketpair()
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_long(1 << 30)
    for fd in one.fileno(), os.open(".", os.O_RDONLY):
        print(libc.mmap(None, size, 3, 1, fd, 0) == ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno()))
    fd, m = new("moved", 64)
    m.close()
    done = []
    def move():
        for round in range(150):
            address = libc.mmap(None, ctypes.c_long(64 * PAGE), 3, 1, fd, 0)
            again = libc.mremap(ctypes.c_void_p(address), ctypes.c_long(64 * PAGE), ctypes.c_long((1 + round % 99) * PAGE), 1)
            ctypes.memset(ctypes.c_void_p(again), round + 1, 8)
            libc.munmap(ctypes.c_void_p(again), ctypes.c_long((1 + round % 99) * PAGE))
        done.append(1)
    libc.mremap.restype = ctypes.c_void_p
    mover = threading.Thread(target=move)
    mover.start()
    random = os.open("/dev/zero", os.O_RDONLY)
    while not done:
        worker = threading.Thread(target=lambda: os.read(random, 65536))
        worker.start()
        worker.join()
    mover.join()
    print(os.pread(fd, 8, 0))

# The disk has no room for all of it, which the one who writes is told.
def full():
    fd, m = new("full", 32768)
    def fill():
        for page in range(32768): m[page * PAGE] = 1
    print("ended by", child(fill))
    m.close()
    os.ftruncate(fd, 0)

globals()[sys.argv[1]]()
END

cat >base.py <<'END'
import os, sqlite3, sys
base = sqlite3.connect("base.db", timeout=60)
print(base.execute("PRAGMA journal_mode=WAL").fetchall())
base.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT)")
sys.stdout.flush()
for number in range(3):
    if os.fork() == 0:
        own = sqlite3.connect("base.db", timeout=60)
        for row in range(10):
            with own: own.execute("INSERT INTO t VALUES(?, ?)", (number * 100 + row, "x" * 500))
        os._exit(0)
print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(3)))
print(base.execute("SELECT count(*), sum(a), sum(length(b)) FROM t").fetchall())
print(base.execute("PRAGMA integrity_check").fetchall(), os.path.exists("base.db-shm"))
END
cp shared.py base.py /run/

cat >look.py <<'END'
import hashlib, sqlite3
base = sqlite3.connect("base.db")
print(hashlib.sha256(repr(base.execute("SELECT * FROM t ORDER BY a").fetchall()).encode()).hexdigest())
END
modprobe loop

# mounted KIND: a file system of 100 MiB on a disk, at disk/.
mounted() {
	mkdir -p disk
	case $1 in
	overlay) return ;;
	esac
	rm -f image
	truncate -s 120M image
	case $1 in
	ext4) mkfs.ext4 -q -F image ;;
	btrfs) mkfs.btrfs -q image ;;
	esac && mount -o loop image disk
}

# same KIND PART COMMAND...: runs it natively, and in a micro-VM.
same() {
	local kind=$1 part=$2 native status
	shift 2
	rm -rf disk/native disk/guest
	mkdir disk/native disk/guest
	(cd disk/native && exec "$@") >native.out 2>native.err </dev/null
	native=$?
	(cd disk/guest && exec uvctl run --rw . -- "$@") >guest.out 2>guest.err </dev/null
	status=$?
	if [ "$kind" != overlay ]; then
		umount disk && mount -o loop image disk || status=unmounted
	fi
	local who
	for who in native guest; do
		# Who inserts into a database first is not always the same.
		(
			cd disk/$who || exit
			find . -type f ! -name 'base.db*' -printf '%P %s ' -exec sha256sum {} \; | sort
			[ ! -e base.db ] || python3 -S -E "$work/look.py"
		) >$who.files
	done
	compare $native "$status" out err files
	report $? "$kind: $part"
}

kinds=ext4
[ "${UVISOR_LONG:-0}" = 0 ] || kinds="overlay ext4 btrfs"
for kind in $kinds; do
	if ! mounted $kind; then
		report 1 "$kind: a file system"
		continue
	fi
	for part in basic resized counted cut protected threads moved; do
		same $kind "$part" /usr/bin/python3 -S -E /run/shared.py "$part"
	done
	# One of memory has as much room as that.
	if [ $kind = ext4 ]; then
		same $kind full /usr/bin/python3 -S -E /run/shared.py full
	fi
	same $kind 'a database with a write-ahead log' /usr/bin/python3 -S -E /run/base.py
	if [ $kind = btrfs ]; then
		btrfs scrub start -B disk >scrub 2>&1
		is 'btrfs: its checksums are right' 0 "$(sed -n 's/.*no errors found.*/0/p' scrub)"
	fi
	[ $kind = overlay ] || umount disk
done

finish
