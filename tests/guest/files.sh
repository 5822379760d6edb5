#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Programs that change files: natively in one copy of a directory, and in a micro-VM with `--rw` in another. What
# they print, how they end, and what is in the directory afterwards must be the same. And programs that
# try to change what they may not.
#
# machines: kvm bochs/long bochs2/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
export PYTHONDONTWRITEBYTECODE=1
umask 022

# All that is in a directory: names, kinds, modes, owners, links, sizes, and contents.
listing() {
	(
		cd "$1" || exit 1
		find . -type d -printf '%P %y %m %U %G\n' -o -printf '%P %y %m %U %G %n %s %l\n' | sort
		find . -type f -print0 | sort -z | xargs -0 -r sha256sum
	)
}

mkdir start start/dir start/empty
seq 1 3000 >start/numbers
printf 'b\na\nc\n' >start/words
echo one >start/dir/one
echo two >start/dir/two
ln -s one start/dir/link
ln start/words start/dir/hard
chmod 600 start/dir/two
touch -d @1000000000 start/dir/one start/dir
tar -C start -cf start.tar --mtime=@1000000000 dir numbers
cp start.tar start/archive.tar
mkfifo start/fifo

# same NAME SHELL-COMMAND: runs the command in two copies; in the second, every `$vm` is `uvctl run --rw . --`.
same() {
	local name=$1 command=$2 native status
	rm -rf native guest
	cp -a start native
	cp -a start guest
	(cd native && vm='' exec bash -c "$command") >native.out 2>native.err </dev/null
	native=$?
	(cd guest && vm='uvctl run --rw . --' exec bash -c "$command") >guest.out 2>guest.err </dev/null
	status=$?
	listing native >native.tree
	listing guest >guest.tree
	compare $native $status out err tree
	report $? "$name"
}

same 'cp' '$vm /usr/bin/cp numbers copy'
same 'cp over a file, and into a directory' '$vm /usr/bin/cp words dir/one; $vm /usr/bin/cp words numbers empty'
same 'cp -a' '$vm /usr/bin/cp -a dir copy; stat -c "%n %Y" copy copy/one'
same 'cp -r --preserve=links -T' '$vm /usr/bin/cp -r --preserve=links -T . empty/x 2>/dev/null; ls empty'
same 'cp -l and cp -s' '$vm /usr/bin/cp -l words hard2; $vm /usr/bin/cp -s /etc/passwd link2'
same 'mv' '$vm /usr/bin/mv words renamed; $vm /usr/bin/mv dir empty; $vm /usr/bin/mv -n numbers archive.tar'
same 'ln' '$vm /usr/bin/ln numbers second; $vm /usr/bin/ln -s numbers third; $vm /usr/bin/ln -sf words third; $vm /usr/bin/ln numbers words'
same 'rm' '$vm /usr/bin/rm words missing; $vm /usr/bin/rm -rf dir; $vm /usr/bin/rm empty'
same 'rmdir' '$vm /usr/bin/rmdir empty dir'
same 'touch' '$vm /usr/bin/touch new words; $vm /usr/bin/touch -d @1234567890 numbers dir; $vm /usr/bin/touch -h -d @99 dir/link; stat -c "%n %Y" numbers dir dir/link'
same 'mkdir' '$vm /usr/bin/mkdir a; $vm /usr/bin/mkdir -p a/b/c dir .; $vm /usr/bin/mkdir -m 700 d; $vm /usr/bin/mkdir a'
same 'install' '$vm /usr/bin/install -m 640 words installed; $vm /usr/bin/install -d -m 750 x/y; $vm /usr/bin/install -D numbers p/q/r'
same 'truncate' '$vm /usr/bin/truncate -s 10 numbers; $vm /usr/bin/truncate -s 5K new'
same 'dd' '$vm /usr/bin/dd if=numbers of=block bs=100 count=5 status=none; $vm /usr/bin/dd if=words of=numbers bs=1 seek=7 conv=notrunc,fsync status=none'
same 'chmod' '$vm /usr/bin/chmod 751 words; $vm /usr/bin/chmod -R go-rwx dir; $vm /usr/bin/chmod u+x,o= numbers; $vm /usr/bin/chmod 1777 empty; $vm /usr/bin/chmod g+s empty'
same 'chown to oneself' '$vm /usr/bin/chown 0:0 words; $vm /usr/bin/chown -h 0 dir/link'
same 'tar, in and out' '$vm /usr/bin/tar -cf made.tar --mtime=@5 --sort=name dir words; $vm /usr/bin/tar -xf archive.tar -C empty; stat -c "%n %Y" empty/dir/one; $vm /usr/bin/tar -tf made.tar'
same 'sort -o, in place' '$vm /usr/bin/sort -r -o words words'
same 'sed -i' '$vm /usr/bin/sed -i -e s/a/A/ words; $vm /usr/bin/sed -i.bak -e 1d numbers'
same 'split' '$vm /usr/bin/split -l 1000 numbers part.'
same 'tee' 'seq 9 | $vm /usr/bin/tee -a words new >/dev/null'
same 'gzip' '$vm /usr/bin/gzip -n numbers; $vm /usr/bin/gzip -dk numbers.gz'
same 'mkfifo and mknod' '$vm /usr/bin/mkfifo -m 600 pipe; $vm /usr/bin/mknod pipe2 p'
same 'unlink and link' '$vm /usr/bin/link words second; $vm /usr/bin/unlink words'
same 'mktemp' 'name=$($vm /usr/bin/mktemp ./tmp.XXXXXX); test -f "$name" && mv "$name" found; name=$($vm /usr/bin/mktemp -d ./tmp.XXXXXX); mv "$name" found-directory'
same 'shred' '$vm /usr/bin/shred -u words'
same 'find -delete' '$vm /usr/bin/find dir -name "*o*" -delete'
same 'sync, and sync of a file' '$vm /usr/bin/sync words; $vm /usr/bin/sync -f words; $vm /usr/bin/sync -d words'
same 'fallocate' '$vm /usr/bin/fallocate -l 20000 big; $vm /usr/bin/fallocate -p -o 0 -l 4096 big'
same 'flock' '$vm /usr/bin/flock -n words true 2>/dev/null; true'
same 'test -w, as it is' '$vm /usr/bin/test -w words; echo $?; $vm /usr/bin/test -w dir; echo $?; $vm /usr/bin/test -w missing; echo $?'
same 'busybox' '$vm /bin/busybox cp -a dir copy; $vm /bin/busybox mv words w; $vm /bin/busybox rm -r empty; $vm /bin/busybox sed -i s/1/x/ numbers; $vm /bin/busybox ln -sf a dir/link; $vm /bin/busybox mkdir -p q/r; $vm /bin/busybox tar xf archive.tar -C q'
same 'a shell that redirects' '$vm /usr/bin/bash -c "echo a >x; echo b >>x; echo c >|x; set -C; echo d >y; { echo d >y; } 2>/dev/null; cd dir; echo e >../z; umask 077; : >private"'

cat >library.py <<'PYTHON'
import errno, os, pathlib, shutil, stat, tempfile

def attempt(name, function, *arguments, **named):
    try:
        result = function(*arguments, **named)
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(name, result if isinstance(result, (int, str, bytes, list, type(None))) else 'done')

path = pathlib.Path('made')
path.mkdir()
(path / 'text').write_text('text')
(path / 'text').rename(path / 'renamed')
(path / 'renamed').chmod(0o640)
(path / 'link').symlink_to('renamed')
(path / 'hard').hardlink_to(path / 'renamed')
attempt('touch', (path / 'touched').touch, exist_ok=False)
attempt('touch again', (path / 'touched').touch, exist_ok=False)
attempt('mkdir', path.mkdir)
attempt('rmdir', path.rmdir)
shutil.copytree('dir', 'made/tree', symlinks=True)
shutil.copy2('dir/one', 'made/one')
print(os.stat('made/one').st_mtime_ns)
shutil.move('made/tree/one', 'made/moved')
shutil.make_archive('made/archive', 'tar', 'dir')
os.remove('made/archive.tar')
shutil.rmtree('made/tree')
with tempfile.TemporaryFile(dir='.') as file:
    file.write(b'x' * 10000)
    os.fchmod(file.fileno(), 0o600)
    print(file.tell(), os.fstat(file.fileno()).st_nlink)
with tempfile.TemporaryDirectory(dir='.') as name:
    pathlib.Path(name, 'x').write_bytes(b'y')
with tempfile.NamedTemporaryFile(dir='.', delete=True) as file:
    file.write(b'z')
    print(os.path.exists(file.name))

directory = os.open('.', os.O_RDONLY | os.O_DIRECTORY)
attempt('mkdir at', os.mkdir, 'at', dir_fd=directory)
attempt('rename at', os.rename, 'at', 'at2', src_dir_fd=directory, dst_dir_fd=directory)
attempt('utime', os.utime, 'words', ns=(5, 7))
attempt('utime at', os.utime, 'numbers', ns=(5, 7), dir_fd=directory)
attempt('utime of a link', os.utime, 'dir/link', ns=(5, 7), follow_symlinks=False)
print(os.stat('words').st_mtime_ns, os.lstat('dir/link').st_mtime_ns)
attempt('mkfifo', os.mkfifo, 'made/fifo', dir_fd=directory)
attempt('chown', os.chown, 'words', -1, -1)
attempt('truncate', os.truncate, 'words', 3)
file = os.open('made/new', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o604)
attempt('write', os.write, file, b'hello world')
attempt('ftruncate', os.ftruncate, file, 5)
attempt('pwrite', os.pwrite, file, b'HH', 1)
attempt('fchmod', os.fchmod, file, 0o660)
attempt('utime by descriptor', os.utime, file, ns=(1, 2))
attempt('fsync', os.fsync, file)
attempt('posix_fallocate', os.posix_fallocate, file, 0, 8192)
attempt('lockf', os.lockf, file, os.F_LOCK, 0)
source = os.open('numbers', os.O_RDONLY)
attempt('copy_file_range', os.copy_file_range, source, file, 100)
attempt('sendfile', os.sendfile, file, source, 0, 50)
attempt('write to a reader', os.write, source, b'x')
attempt('ftruncate of a reader', os.ftruncate, source, 0)
attempt('setxattr', os.setxattr, 'made/new', 'user.name', b'value')
attempt('setxattr, exclusive', os.setxattr, 'made/new', 'user.name', b'value', os.XATTR_CREATE)
attempt('setxattr by descriptor', os.setxattr, file, 'user.other', b'')
attempt('getxattr', os.getxattr, 'made/new', 'user.name')
attempt('listxattr', lambda: sorted(os.listxattr('made/new')))
attempt('removexattr', os.removexattr, 'made/new', 'user.name')
attempt('removexattr again', os.removexattr, 'made/new', 'user.name')
attempt('access', lambda: int(os.access('words', os.R_OK | os.W_OK)))
attempt('access of a directory', lambda: int(os.access('dir', os.W_OK)))
attempt('open a directory', os.open, 'dir', os.O_WRONLY)
attempt('open below a file', os.open, 'words/x', os.O_WRONLY | os.O_CREAT)
attempt('open exclusively', os.open, 'words', os.O_WRONLY | os.O_CREAT | os.O_EXCL)
attempt('open a link', os.open, 'dir/link', os.O_WRONLY | os.O_NOFOLLOW)
attempt('open what is missing', os.open, 'missing', os.O_WRONLY)
attempt('unlink a directory', os.unlink, 'dir')
attempt('rmdir of a file', os.rmdir, 'words')
attempt('rename onto a directory', os.rename, 'words', 'dir')
attempt('rename a directory into itself', os.rename, 'dir', 'dir/sub')
attempt('link of a directory', os.link, 'dir', 'dir2')
attempt('link', os.link, 'made/link', 'made/link2', follow_symlinks=True)
attempt('symlink onto a file', os.symlink, 'x', 'words')
os.chdir('made')
pathlib.Path('here').write_text('here')
print(sorted(os.listdir('..')))
os.chdir('/')
attempt('by a descriptor of the directory', os.rename, 'made/here', 'there', src_dir_fd=directory, dst_dir_fd=directory)
PYTHON
export library=$work/library.py
same 'python: os, shutil, pathlib, tempfile' '$vm /usr/bin/python3 -S "$library"'

# What a task may not: all below `outside`, and this directory.
rm -rf native guest
mkdir inside outside outside/sub
echo secret >outside/file
echo secret >outside/sub/file
echo own >inside/file
ln -s ../outside/file inside/to-file
ln -s ../outside/new inside/to-new
ln -s ../outside inside/to-directory
ln -s "/proc/self/root$work/outside/file" inside/to-root
cat >attack.py <<'PYTHON'
import errno, os, stat, sys

def attack(name, function, *arguments, **named):
    try:
        function(*arguments, **named)
        print(name, 'DONE')
    except OSError as error:
        print(name, errno.errorcode[error.errno])

write, make = os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT
outside = os.open('outside', os.O_RDONLY)
inside = os.open('inside', os.O_RDONLY)
reader = os.open('outside/file', os.O_RDONLY)
attack('write', os.open, 'outside/file', write)
attack('write over ..', os.open, 'inside/../outside/file', write)
attack('write over a link', os.open, 'inside/to-file', write)
attack('write over a directory', os.open, 'inside/to-directory/file', write)
attack('write at a directory', os.open, 'file', write, dir_fd=outside)
attack('write at a directory over ..', os.open, '../outside/file', write, dir_fd=inside)
attack('write over root', os.open, f'/proc/self/root{os.getcwd()}/outside/file', write)
attack('write over a link over root', os.open, 'inside/to-root', write)
attack('write over cwd', os.open, '/proc/self/cwd/outside/file', write)
attack('write over a descriptor', os.open, f'/proc/self/fd/{outside}/file', write)
again = os.open(f'/proc/self/fd/{reader}', os.O_RDWR)
attack('write by a reader', os.write, again, b'x')
attack('make', os.open, 'outside/new', make)
attack('make over a link', os.open, 'inside/to-new', make)
attack('make a nameless one', os.open, 'outside', os.O_WRONLY | os.O_TMPFILE)
attack('mkdir', os.mkdir, 'outside/new')
attack('mkdir over a link', os.mkdir, 'inside/to-directory/new')
attack('mkfifo', os.mkfifo, 'outside/new')
attack('symlink', os.symlink, 'x', 'outside/new')
attack('unlink', os.unlink, 'outside/file')
attack('unlink over a link', os.unlink, 'inside/to-directory/file')
attack('rmdir', os.rmdir, 'outside/sub')
attack('rename', os.rename, 'outside/file', 'outside/new')
attack('rename in', os.rename, 'outside/file', 'inside/new')
attack('rename out', os.rename, 'inside/file', 'outside/file')
attack('rename a directory in', os.rename, 'outside/sub', 'inside/sub')
attack('rename the tree', os.rename, 'inside', 'other')
attack('remove the tree', os.rmdir, 'inside')
attack('link in', os.link, 'outside/file', 'inside/new')
# With a directory's descriptor, os.link follows the link.
here = os.open('.', os.O_RDONLY)
attack('link in over a link', os.link, 'inside/to-file', 'inside/new', src_dir_fd=here)
attack('link of a link', os.link, 'inside/to-file', 'inside/second')
attack('link in by a descriptor', os.link, f'/proc/self/fd/{reader}', 'inside/new', src_dir_fd=here)
attack('link out', os.link, 'inside/file', 'outside/new')
attack('chmod', os.chmod, 'outside/file', 0o777)
attack('chmod over a link', os.chmod, 'inside/to-file', 0o777)
attack('fchmod', os.fchmod, reader, 0o777)
attack('fchmod of a directory', os.fchmod, outside, 0o777)
attack('chown', os.chown, 'outside/file', 0, 0)
attack('utime', os.utime, 'outside/file')
attack('utime by a descriptor', os.utime, reader)
attack('truncate', os.truncate, 'outside/file', 0)
attack('truncate over a link', os.truncate, 'inside/to-file', 0)
attack('setxattr', os.setxattr, 'outside/file', 'user.x', b'x')
attack('setxattr by a descriptor', os.setxattr, reader, 'user.x', b'x')
attack('standard output: mode', os.fchmod, 1, 0o777)
attack('standard output: owner', os.fchown, 1, 0, 0)
attack('setuid', os.chmod, 'inside/file', 0o4755)
attack('setgid', os.chmod, 'inside/file', 0o2755)
attack('make setuid', os.open, 'inside/suid', make, 0o4755)
attack('give away', os.chown, 'inside/file', 1000, -1)
attack('device', os.mknod, 'inside/device', 0o600 | stat.S_IFBLK, os.makedev(8, 0))
attack('capabilities', os.setxattr, 'inside/file', 'security.capability', b'x')
attack('trusted', os.setxattr, 'inside/file', 'trusted.x', b'x')
attack('kernel: hostname', os.open, '/proc/sys/kernel/hostname', write)
attack('kernel: sysrq', os.open, '/proc/sysrq-trigger', write)
attack('kernel: sysfs', os.open, '/sys/power/state', write)
attack('kernel: a name in /dev', os.open, '/dev/new', make)
attack('kernel: a device', os.open, '/dev/kmsg', write)
attack('may write', lambda: print(os.access('outside/file', os.W_OK), os.access('inside/to-file', os.W_OK), os.access('inside/file', os.W_OK)))
os.chdir('outside')
attack('write from there', os.open, 'file', write)
PYTHON
cat >expected <<'TEXT'
write EROFS
write over .. EROFS
write over a link EROFS
write over a directory EROFS
write at a directory EROFS
write at a directory over .. EROFS
write over root EROFS
write over a link over root ELOOP
write over cwd EROFS
write over a descriptor ELOOP
write by a reader EBADF
make EROFS
make over a link EROFS
make a nameless one EROFS
mkdir EROFS
mkdir over a link EROFS
mkfifo EROFS
symlink EROFS
unlink EROFS
unlink over a link EROFS
rmdir EROFS
rename EROFS
rename in EXDEV
rename out EXDEV
rename a directory in EXDEV
rename the tree EROFS
remove the tree EROFS
link in EXDEV
link in over a link EXDEV
link of a link DONE
link in by a descriptor EXDEV
link out EXDEV
chmod EROFS
chmod over a link EROFS
fchmod EROFS
fchmod of a directory EROFS
chown EROFS
utime EROFS
utime by a descriptor EROFS
truncate EROFS
truncate over a link EROFS
setxattr EROFS
setxattr by a descriptor EROFS
standard output: mode EROFS
standard output: owner EROFS
setuid EPERM
setgid EPERM
make setuid EPERM
give away EPERM
device EPERM
capabilities EPERM
trusted EPERM
kernel: hostname EROFS
kernel: sysrq EACCES
kernel: sysfs EROFS
kernel: a name in /dev EROFS
kernel: a device ENOENT
False False True
may write DONE
write from there EROFS
TEXT
listing outside >before
stat -c '%n %a %Y' outside outside/* >>before
uvctl run --rw inside -- /usr/bin/python3 -S attack.py >output 2>&1
diff expected output | sed 's/^/# /'
cmp -s expected output
report $? 'what is outside cannot be changed'
listing outside >after
stat -c '%n %a %Y' outside outside/* >>after
cmp -s before after && [ "$(cat inside/file)" = own ]
report $? 'and was not'

uvctl run --rw / -- /usr/bin/python3 -S -c '
import os
for path, flags in (("/proc/sys/kernel/hostname", os.O_WRONLY), ("/proc/sysrq-trigger", os.O_WRONLY),
        ("/sys/power/state", os.O_WRONLY), ("/dev/new", os.O_WRONLY | os.O_CREAT), ("/dev/kmsg", os.O_WRONLY),
        ("/proc/self/oom_score_adj", os.O_WRONLY)):
    try:
        os.open(path, flags)
        print(path)
    except OSError:
        pass
os.mkdir("inside/root")
' >output 2>&1
bad=1
[ ! -s output ] && [ -d inside/root ] && [ ! -e /dev/new ] && bad=0
report $bad 'the kernel cannot be told anything even with --rw /'

# Another process of the user's exchanges a directory and a link while the task writes.
mkdir inside/here
ln -s ../outside inside/there
/usr/bin/python3 -S -c '
import ctypes, time
rename = ctypes.CDLL(None).renameat2
end = time.monotonic() + 60
while time.monotonic() < end:
    rename(-100, b"inside/here", -100, b"inside/there", 2)
' &
swapper=$!
uvctl run --rw inside -- /usr/bin/python3 -S -c '
import os
done = refused = 0
for _ in range(300):
    try:
        file = os.open("inside/here/file", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(file, b"attack")
        os.close(file)
        done += 1
    except OSError:
        refused += 1
print(done, "done,", refused, "refused")
' >output 2>&1
status=$?
kill $swapper || echo '# the other process had ended before the task did'
wait $swapper 2>/dev/null
sed 's/^/# /' output
grep -q "^[1-9][0-9]* done" output && [ $status = 0 ] && [ "$(cat outside/file)" = secret ] && cmp -s "$work/outside/sub/file" outside/file
report $? 'a directory that becomes a link leads nowhere'

for path in /proc /dev/null /nonexistent; do
	uvctl run --rw $path -- /usr/bin/true 2>err
	[ $? = 125 ] && grep -q "^uvctl: .*$path" err
	report $? "--rw $path is refused"
done
uvctl run --rw inside/file -- /usr/bin/bash -c 'echo new >inside/file; echo x >inside/other' 2>err
bad=1
[ "$(cat inside/file)" = new ] && [ ! -e inside/other ] && bad=0
report $bad 'a single file can be allowed'
uvctl run -- /usr/bin/bash -c 'echo no >inside/file' 2>err
grep -qi 'read-only' err && [ "$(cat inside/file)" = new ]
report $? 'and nothing is without --rw'
uvctl run -- /usr/bin/bash -c 'echo out' >outside/log
[ "$(cat outside/log)" = out ]
report $? 'standard output is written wherever it is'

finish
