#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a task sees under /proc: its own processes as natively, with the files that they have mapped; of the host's,
# and of the brokers, nothing.
#
# machines: kvm bochs/long bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
chmod 755 "$work"

cat >common.py <<'PYTHON'
import errno, mmap, os, re, signal, subprocess, sys, threading, time
def attempt(what, *arguments, **named):
    try: return what(*arguments, **named)
    except OSError as error: return errno.errorcode[error.errno]
def text(path):
    with open(path, 'rb') as file: return file.read()
def numbers(): return sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
PYTHON

# same NAME: runs the program on standard input natively and in a micro-VM, and compares.
same() {
	local name=$1 native status
	{ cat common.py; cat; } >program.py
	timeout 60 /usr/bin/python3 -S program.py >native.out 2>native.err </dev/null
	native=$?
	timeout 120 uvctl run --rw "$work" -- /usr/bin/python3 -S program.py >guest.out 2>guest.err </dev/null
	status=$?
	compare $native $status out || tail -n 3 guest.err | sed 's/^/# /'
	{ [ -s native.out ] && compare $native $status out; } >/dev/null
	report $? "$name"
}

# refused NAME: the program must end with 0 in a micro-VM, and natively not.
refused() {
	local name=$1 bad=0
	{ cat common.py; cat; } >program.py
	if ! timeout 120 uvctl run --rw "$work" -- /usr/bin/python3 -S program.py >guest.out 2>&1 </dev/null; then
		tail -n 5 guest.out | sed 's/^/# /'
		bad=1
	fi
	if timeout 60 /usr/bin/python3 -S program.py >native.out 2>&1 </dev/null; then
		echo '# natively it is refused as well'
		bad=1
	fi
	report $bad "$name"
}

same 'mapped files have their names' <<'PY'
def areas():
    for line in text('/proc/self/maps').decode().splitlines():
        fields = line.split(maxsplit=5)
        yield fields + [''] * (6 - len(fields))
def of(name): return [(f[1], f[2], int(f[4]) == os.stat(name).st_ino, f[3] != '00:00') for f in areas() if f[5] == name]
names = []
for area in areas():
    if area[5] and area[5] not in names and not re.search(r'\[v|locale|gconv', area[5]): names.append(area[5])
print(sorted(names))
print('[vdso]' in [a[5] for a in areas()], of('/usr/bin/python3'), of(os.path.realpath('/usr/bin/python3')))
here = os.getcwd()
with open('data', 'wb') as file: file.write(bytes(65536))
with open('data', 'r+b') as file:
    m = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
    print(of(here + '/data'))
    n = mmap.mmap(file.fileno(), 8192, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=16384)
    s = mmap.mmap(file.fileno(), 4096, mmap.MAP_SHARED, mmap.PROT_READ, offset=49152)
print(sorted(of(here + '/data')))
# A hole in the middle, and another permission.
import ctypes
libc = ctypes.CDLL(None)
address = ctypes.addressof(ctypes.c_char.from_buffer(n))
libc.mprotect(ctypes.c_void_p(address + 4096), 4096, 1)
print(sorted(of(here + '/data')))
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, 20480, 1, 2, os.open('data', 0), ctypes.c_long(4096))
libc.munmap(ctypes.c_void_p(p + 4096), 8192)
print(sorted(of(here + '/data')))
os.rename('data', 'moved')
print([f[5].replace(here, '') for f in areas() if 'data' in f[5] or 'moved' in f[5]] != [])
os.unlink('moved')
print([f[5].endswith(' (deleted)') for f in areas() if here in f[5]])
shared = mmap.mmap(-1, 4096)
fd = os.memfd_create('memory'); os.ftruncate(fd, 4096)
other = mmap.mmap(fd, 4096)
print(sorted((f[1], f[5]) for f in areas() if '/dev/zero' in f[5] or 'memfd' in f[5]))
with open('with\na newline', 'w') as file: file.write('x' * 4096)
with open('with\na newline', 'rb') as file: m = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
print([f[5].replace(here, '') for f in areas() if 'newline' in f[5]])
os.unlink('with\na newline')
def sizes():
    return [int(line.split()[1]) for line in text('/proc/self/smaps').decode().splitlines() if line.startswith('Size:')]
def lengths(): return [(int(b, 16) - int(a, 16)) // 1024 for a, b in (f[0].split('-') for f in areas())]
# To read the one may itself map memory, which the other then has.
print(any(sizes() == lengths() for _ in range(10)))
if os.fork() == 0:
    print(len(list(areas())) > 5, of(os.path.realpath('/usr/bin/python3'))); os._exit(0)
os.wait()
PY

# Natively there are others as well, so what is printed is about these.
same 'the processes of the task' <<'PY'
me = os.getpid()
r, w = os.pipe()
child = os.fork()
if child == 0:
    os.close(w)
    grandchild = os.fork()
    if grandchild == 0:
        os.execv('/usr/bin/sleep', ['sleep', '999', ])
    os.read(r, 1)
    os.kill(grandchild, 9); os.wait(); os._exit(0)
def children(of): return [n for n in numbers() if attempt(parent, n) == of]
def parent(pid): return int(text('/proc/%d/stat' % pid).rsplit(b')', 1)[1].split()[1])
while not children(child) or text('/proc/%d/cmdline' % children(child)[0]) != b'sleep\x00999\x00': time.sleep(0.05)
grandchild, = children(child)
print(child in numbers(), parent(child) == me, parent(me) == os.getppid())
for pid in (me, child, grandchild):
    own = '/proc/%d/' % pid
    status = dict(line.split(':\t', 1) for line in text(own + 'status').decode().splitlines())
    print([status[name] for name in ('Name', 'State', 'Uid', 'Threads', 'SigIgn')], int(status['Pid']) == pid, list(status))
    stat = text(own + 'stat')
    print(stat.split(b' ', 1)[0] == b'%d' % pid, re.search(rb'\((.*)\) (.)', stat).groups(), len(stat.split()))
    print(text(own + 'comm'), text(own + 'cmdline').replace(sys.executable.encode(), b'python'), os.readlink(own + 'exe'))
    print(len(text(own + 'statm').split()), os.readlink(own + 'cwd') == os.getcwd(), os.readlink(own + 'root'))
    print(sorted(map(int, os.listdir(own + 'fd')))[:3], os.readlink(own + 'fd/0'), attempt(os.readlink, own + 'fd/77'), os.listdir(own + 'task') == [str(pid)])
    print(text(own + 'task/%d/comm' % pid), text(own + 'oom_score_adj'), os.stat(own).st_uid == os.getuid(), os.path.exists(own + 'stat'))
    print(text(own + 'exe') == text(os.readlink(own + 'exe')))
    fd = os.open(own, os.O_RDONLY | os.O_DIRECTORY)
    print(len(os.read(os.open('stat', os.O_RDONLY, dir_fd=fd), 5)) == 5, 'status' in os.listdir(fd))
    print(attempt(os.open, own + 'nothing', 0) in ('ENOENT', 'EACCES'), attempt(os.open, own + 'task/1/stat', 0))
os.write(w, b'x')
os.waitpid(child, 0)
print(child in numbers(), grandchild in numbers(), attempt(text, '/proc/%d/stat' % child), attempt(os.stat, '/proc/%d' % child), attempt(os.readlink, '/proc/%d/exe' % child))
# Threads of its own.
started, end = threading.Event(), threading.Event()
def run():
    import ctypes
    ctypes.CDLL(None).prctl(15, b'a thread'); started.set(); end.wait()
t = threading.Thread(target=run); t.start(); started.wait()
print(len(os.listdir('/proc/self/task')), text('/proc/self/task/%d/comm' % t.native_id), text('/proc/self/comm'), text('/proc/self/stat').split(b' ')[0] == b'%d' % me)
print(text('/proc/self/task/%d/stat' % t.native_id).split(b' ')[0] == b'%d' % t.native_id, len(text('/proc/%d/task/%d/maps' % (me, t.native_id))) > 1000)
end.set(); t.join()
PY

refused 'a name for another thread by its file' <<'PY'
for name in ('/proc/self/comm', '/proc/self/task/%d/comm' % os.getpid()):
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        assert attempt(os.open, name, flags) == 'EACCES', (name, flags)
PY

sleep 1000 &
other=$!
export other
refused 'no others, by whatever path' <<'PY'
other = os.environ['other']
child = os.fork()
if child == 0:
    time.sleep(60); os._exit(0)
time.sleep(0.3)
assert numbers() == sorted([os.getpid(), child]), numbers()
os.symlink('/proc', 'link'); os.symlink('/proc/' + other, 'direct')
try:
    for who in ('1', other, str(os.getppid())):
        for base in ('/proc/%s', '/proc/./%s', '/proc/self/../%s', '/proc/%d/../%%s' % child, 'link/%s', '/proc/self/root/proc/%s', '/proc/%d/root/proc/%%s' % child, '/proc/self/task/../../%s'):
            for name in ('', '/stat', '/status', '/cmdline', '/comm', '/exe', '/cwd', '/root', '/fd', '/fd/0', '/maps', '/mem', '/task', '/environ'):
                path = base % who + name
                result = attempt(os.open, path, os.O_RDONLY)
                assert result in ('ENOENT', 'ELOOP', 'EACCES'), ('open', path, result)
                assert attempt(os.chdir, path) in ('ENOENT', 'ELOOP', 'EACCES', 'ENOTDIR'), ('chdir', path)
            for call in (os.stat, os.lstat):
                result = attempt(call, base % who)
                assert result in ('ENOENT', 'ELOOP'), (call, base % who, result)
        for name in ('exe', 'cwd', 'root', 'fd/0', 'fd/1'):
            assert attempt(os.readlink, '/proc/%s/%s' % (who, name)) == 'ENOENT'
            fd = os.open('/proc', os.O_RDONLY)
            assert attempt(os.readlink, '%s/%s' % (who, name), dir_fd=fd) == 'ENOENT'
            assert attempt(os.stat, who, dir_fd=fd) == 'ENOENT'
            os.close(fd)
    assert attempt(os.open, 'direct/status', 0) == 'ENOENT' and attempt(os.stat, 'direct') == 'ENOENT'
finally:
    os.unlink('link'); os.unlink('direct')
# Of another process of the task's there is not what it has in memory and open, and nothing of its broker.
own = '/proc/%d/' % child
for name in ('mem', 'maps', 'smaps', 'environ', 'auxv', 'pagemap', 'fd/0', 'fdinfo/0', 'cwd/.', 'ns/net', 'syscall', 'stack', 'map_files', 'net/dev', 'attr/current', 'clear_refs'):
    assert attempt(os.open, own + name, os.O_RDONLY) in ('EACCES', 'ELOOP', 'ENOENT'), name
for name in ('comm', 'oom_score_adj', 'status', 'exe'):
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC): assert attempt(os.open, own + name, flags) in ('EACCES', 'EROFS'), name
limit = os.sysconf('SC_OPEN_MAX')
assert all(int(fd) < limit for fd in os.listdir(own + 'fd'))
for fd in range(limit, limit + 400): assert attempt(os.readlink, own + 'fd/%d' % fd) == 'ENOENT', fd
assert b'CapEff:\t0000000000000000\n' in text(own + 'status')
assert b'uvctl' not in text(own + 'cmdline') and 'uvctl' not in os.readlink(own + 'exe')
os.kill(child, 9)
PY
kill $other

# What programs make of it. The first column of each line is a number of no meaning.
list='sleep 47 & sleep 48 & while ! ps -o args= -p $! | grep -q 48; do :; done'
uvctl run -- bash -c "$list; all=\$(ps -e -o ppid=,comm=,args=); awk '{ \$1 = \"\"; print }' <<<\"\$all\" | sort
pgrep -c sleep; pgrep -f '^sleep 48' | grep -cx \$!; pkill -f 'sleep 4[78]'; wait" >list.out 2>&1
cat >wanted.out <<-LIST
	 bash bash -c LIST
	 ps ps -e -o ppid=,comm=,args=
	 sleep sleep 47
	 sleep sleep 48
	2
	1
LIST
sed -i 's/^ bash bash -c .*/ bash bash -c LIST/; /Terminated/d; /^ *pgrep -c sleep/d' list.out
cmp -s list.out wanted.out
status=$?
[ $status = 0 ] || diff wanted.out list.out | sed 's/^/# /'
report $status 'ps, pgrep and pkill know the processes of the task, and no others'

# Numbers that come and go, while another process looks.
timeout 170 uvctl run -- /usr/bin/python3 -S -c '
import os, time
looker = os.fork()
if looker == 0:
    end = time.monotonic() + 1.5
    seen = 0
    while time.monotonic() < end:
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    line = open("/proc/%s/stat" % name).read(); command = open("/proc/%s/cmdline" % name).read()
                    assert line.startswith(name + " ("), line
                    assert command == "" or "python3" in command, command
                    seen += 1
                except OSError as error: assert error.errno in (2, 3), error
    os._exit(0 if seen > 5 else 1)
while os.waitpid(looker, os.WNOHANG) == (0, 0):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitpid(pid, 0)
' >race.out 2>&1
status=$?
[ $status = 0 ] || tail -n 4 race.out | sed 's/^/# /'
report $status 'processes that come and go'
finish
