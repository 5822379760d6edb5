#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# What a task may touch: profiles, and the options that add to them. The profiles that come along suffice for what they
# are for, and stop what they should.
#
# machines: bochs
# shellcheck source=tests/guest/common
. "${0%/*}/common"
# As it is for who says nothing.
unset UVCTL_PROFILE
chmod 755 "$work"
mkdir -p given/sub kept
echo given >given/file
echo kept >kept/file
printf '#!/bin/sh\necho "a script with $1"\n' >given/script
chmod 755 given/script

# run NAME STATUS OUTPUT ARG...: what `uvctl run ARG...` comes to.
run() {
	local name=$1 status=$2 wanted=$3 got
	shift 3
	got=$(uvctl run "$@" 2>err </dev/null)
	is "$name" "$status $wanted" "$? $got"
	head -n 3 err | sed 's/^/# /'
}

run "a program has its libraries" 0 "/" -- basename /
run "files are not there that it was not given" 1 "" -- cat "$work/kept/file"
check "it says so" grep -q 'No such file' err
run "nor is the shadow file" 1 "" -- cat /etc/shadow
run "what it is given is there" 0 given --ro given -- cat "$work/given/file"
run "a file alone" 0 given --ro given/file -- cat "$work/given/file"
run "with nothing beside it" 0 file --ro given/file -- ls "$work/given"
got=$(uvctl run -- cat <kept/file)
is "a file is given by a descriptor" kept "$got"
run "it cannot write what it reads" 1 "" --ro given -- touch "$work/given/new"
run "it changes what it may" 0 "" --rw given -- touch "$work/given/new"
check "and that is there" test -e given/new
run "what is hidden is not there" 2 "" --ro given --hide given/sub -- ls "$work/given/sub"
run "though what is around it is" 0 given --ro given --hide given/sub -- cat "$work/given/file"
# A rule without an effect.
run "what is to be hidden and is not there is told" 0 given --ro given --hide given/none -- cat "$work/given/file"
check "with the path" grep -q "^uvctl: $work/given/none: it does not exist on the host" err
run "and is an error if all walls are required" 125 "" --require --ro given --hide given/none -- cat "$work/given/file"
check "with the path as well" grep -q -- "--require: $work/given/none: it does not exist" err
run "so is what would be the host's own file" 125 "" --require --profile host --hide /dev/null -- true
run "nothing is told of what is nowhere" 0 given --require --ro given --hide "$work/kept/none" -- cat "$work/given/file"
is "in no line" "" "$(cat err)"
run "it is where it was started" 0 "$work" -- pwd
run "where nothing is that it was not given" 0 given --ro given -- ls -A
run "not even at a path that leads out" 1 "" -- cat ../../etc/shadow given/file
cd /
run "/tmp is its own" 0 "" -- ls -A /tmp
cd "$work" || exit
run "and can be written" 0 x -- dash -c 'echo x >/tmp/x; read -r line </tmp/x; echo "$line"' 
check "which nobody sees" test ! -e /tmp/x
run "a script brings its interpreter along" 0 "a script with x" -- ./given/script x
run "programs start no others" 127 "" -- dash -c 'exec /usr/bin/id'
run "unless they are given" 0 "uid=0(root) gid=0(root) groups=0(root)" --ro /usr/bin/id -- dash -c 'exec /usr/bin/id'

export SECRET=x LANG=C.UTF-8 UVISOR_GIVEN=y
run "its environment is what it was given" 0 "C.UTF-8|||z" --env UVISOR_SET=z -- \
	dash -c 'echo "$LANG|$SECRET|$UVISOR_GIVEN|$UVISOR_SET"'
run "by name" 0 "C.UTF-8||y|" --env 'UVISOR_G*' -- dash -c 'echo "$LANG|$SECRET|$UVISOR_GIVEN|$UVISOR_SET"'

cat >strict.toml <<-EOF
	[files]
	execute = ["/usr/lib", "/lib", "/lib64"]
	read = ["/etc/ld.so.cache"]
	[syscalls]
	base = "minimal"
EOF
run "without the right to, there are no processes" 2 "" --profile ./strict.toml -- dash -c '(echo x); echo y'
run "nor devices" 2 "" --profile ./strict.toml -- dash -c ': </dev/null'
run "but what is minimal works" 0 x --profile ./strict.toml -- dash -c 'echo x'
printf '[files]\nread = ["/etc/passwd"]\nraed = []\n' >wrong.toml
run "a profile that is wrong is refused" 125 "" --profile ./wrong.toml -- true
check "by line and column" grep -q 'wrong.toml:3:1' err

cat >starts.toml <<-EOF
	[files]
	execute = ["/usr/lib", "/lib", "/lib64", "/usr/bin"]
	read = ["/etc/ld.so.cache", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf"]
	tmpfs = ["/tmp"]
	[processes]
	fork = true
	exec = ["/usr/bin/id"]
	[syscalls]
	base = "standard"
EOF
starts() { run "$1" "$2" "$3" --profile ./starts.toml -- dash -c "$4"; }
starts "a program that may be started is" 0 "uid=0(root) gid=0(root) groups=0(root)" 'id; exit 0'
starts "another one that may be executed is not" 126 "" 'exec cat /etc/passwd'
starts "nor by what loads it" 126 "" 'exec /lib64/ld-linux-x86-64.so.2 /usr/bin/cat /etc/passwd'
starts "nor by a link" 126 "" 'exec /proc/self/root/usr/bin/cat /etc/passwd'
starts "the program itself is" 0 again 'exec dash -c "echo again"'

start=$SECONDS
run "a task whose time is up is killed" 137 "" --time 2s --ro /usr/bin/sleep -- sleep 100
check "with the reason" grep -q 'its time, 2s, was up' err
check "in time" test $((SECONDS - start)) -lt 50
# It counts whole seconds.
run "one that has used up its CPU time is ended" 152 "" --cpu 1s -- dash -c 'while :; do :; done'
run "descriptors are limited" 0 8 --fds 8 -- dash -c 'ulimit -n'

# spent NAME ARG...: a task that has used up its exits is killed, and says so once.
spent() {
	local name=$1
	shift
	run "$name" 137 "" "$@"
	is "$name: the reason" 1 "$(grep -c 'used up its exits, .* (--exits)' err)"
}
run "as many exits as it needs do" 0 x --exits 10000 -- dash -c 'echo x'
spent "exits that are used up end a task" --exits 30 -- cat
# shellcheck disable=SC2016
printf '#!/bin/dash\nexec "$0"\n' >given/again
chmod 755 given/again
spent "those of other programs count" --exits 600 --ro given -- "$work/given/again"
spent "and those of processes, whoever waits" --exits 2000 -- dash -c '(while :; do cd /; done); while :; do :; done'
spent "or computes meanwhile" --exits 2000 -- dash -c '(while :; do cd /; done) & while :; do :; done'
spent "and of threads" --exits 20000 --profile python -- python3 -c "
import os, threading
def work():
    while True: os.getpgid(0)
threading.Thread(target=work).start()
while True: pass"
spent "and reads and writes" --exits 2000 --ro /usr/bin/dd -- dd if=/dev/zero of=/dev/null bs=1 count=100000
printf '[files]\nexecute = ["/usr/lib", "/lib", "/lib64"]\nread = ["/etc/ld.so.cache"]\n[limits]\nexits = 20\n' >few.toml
spent "a profile has them as well" --profile ./few.toml -- cat

# Memory that is written by several is there for all, and never code.
cat >kept/shared.py <<'END'
import ctypes, mmap, multiprocessing, os
libc = ctypes.CDLL(None, use_errno=True)
RX = mmap.PROT_READ | mmap.PROT_EXEC
def refused(m, name):
    m[:1] = b"\xc3"
    address = ctypes.addressof(ctypes.c_char.from_buffer(m))
    print(name, m[0], libc.mprotect(ctypes.c_void_p(address), 4096, RX), os.strerror(ctypes.get_errno()))
def mapped(name, fd, flags, prot):
    try:
        mmap.mmap(fd, 4096, flags, prot)
        print(name, "mapped")
    except OSError as error:
        print(name, error.strerror)
memory = mmap.mmap(-1, 4096)
if os.fork() == 0:
    memory[1] = 7
    os._exit(0)
os.wait()
print("by a child", memory[1])
refused(memory, "anonymous")
for name, fd in ("memfd", os.memfd_create("x")), ("file", os.open("/tmp/x", os.O_RDWR | os.O_CREAT)):
    os.ftruncate(fd, 4096)
    refused(mmap.mmap(fd, 4096), name)
    mapped(name, fd, mmap.MAP_PRIVATE, RX)
    mapped(name, fd, mmap.MAP_SHARED, RX)
value = multiprocessing.Value("i", 1)
def add(value):
    with value.get_lock(): value.value += 41
child = multiprocessing.Process(target=add, args=(value,))
child.start()
child.join()
print("multiprocessing", value.value)
END
denied="Permission denied"
run "memory that is shared is written, and never executed" 0 "by a child 7
anonymous 195 -1 $denied
memfd 195 -1 $denied
memfd $denied
memfd $denied
file 195 -1 $denied
file $denied
file $denied
multiprocessing 42" --profile python --ro "$work/kept" -- python3 -S "$work/kept/shared.py"
cat >kept/wal.py <<'END'
import sqlite3
base = sqlite3.connect("/tmp/base")
print(base.execute("PRAGMA journal_mode=WAL").fetchone()[0])
base.execute("CREATE TABLE t (n)")
base.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(100)))
base.commit()
print(sqlite3.connect("/tmp/base").execute("SELECT sum(n) FROM t").fetchone()[0])
END
run "databases that map their files work" 0 "wal
4950" --profile python --ro "$work/kept" -- python3 "$work/kept/wal.py"

sleep 1
check "no steward is left" test -z "$(pgrep -f uvctl)"

uvctl explain default >explained
check "explain says where a rule is" grep -Eq '/usr/lib .*default.toml:[0-9]+' explained
uvctl explain --json default | jq -e '.' >/dev/null
report $? "and as JSON"
uvctl explain --diff default host >difference
check "and what differs" grep -q '^+' difference

finish
