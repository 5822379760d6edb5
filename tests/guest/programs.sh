#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Real programs of Debian's in a micro-VM: output and exit status must be those of the same program
# run natively on the same input.
#
# machines: bochs nested/long
# shellcheck source=tests/guest/common
. "${0%/*}/common"
unset LS_COLORS

# Milliseconds of the machine's clock.
now() { echo $((${EPOCHREALTIME/./} / 1000)); }

# same NAME SHELL-COMMAND: runs the command twice; in the second run every `$vm` is `uvctl run --`.
same() {
	local name=$1 command=$2 native status start middle end
	start=$(now)
	vm='' bash -c "$command" >native.out 2>native.err </dev/null
	native=$?
	middle=$(now)
	vm='uvctl run --' bash -c "$command" >guest.out 2>guest.err </dev/null
	status=$?
	end=$(now)
	echo "# ms: native $((middle - start)), micro-VM $((end - middle)): $name"
	compare $native $status out err
	report $? "$name"
}

# Ten megabytes of text.
head -c 7800000 /dev/urandom | base64 -w 60 | head -c 10485760 >input
echo >>input
head -c 1000000 input >medium
head -c 200000 input >small
mkdir tree
for i in $(seq 1 40); do head -n "$((i * 10))" small >"tree/file$i"; done
ln -s file1 tree/link

export work
same 'true' '$vm /usr/bin/true'
same 'false' '$vm /usr/bin/false'
same 'echo, with arguments as given' '$vm /usr/bin/echo "a b" "" "*" -- x'
same 'environment' 'A="1 2" $vm /usr/bin/env -u OLDPWD | grep -v -e ^_= -e ^vm= | sort'
same 'sha256sum of 10 MB' '$vm /usr/bin/sha256sum input'
same 'sort of 10 MB' '$vm /usr/bin/sort input | sha256sum'
same 'ls -lR /usr/share/doc' '$vm /usr/bin/ls -lR /usr/share/doc'
same 'gzip and gunzip through pipes' '$vm /usr/bin/gzip -c <medium | $vm /usr/bin/gunzip -c | cmp - medium && echo same'
same 'gzip, the bytes it makes' '$vm /usr/bin/gzip -nc <small | sha256sum'
same 'awk' '$vm /usr/bin/awk "{ n += length(\$0); c[substr(\$0, 1, 1)]++ } END { print n, c[\"a\"], c[\"B\"], c[7] }" small'
same 'sed' '$vm /usr/bin/sed -n -e "s/A\([0-9][a-z]\)/-\1-/p" small'
same 'grep -r' '$vm /usr/bin/grep -rn "a7" tree | sort'
same 'grep without a match' '$vm /usr/bin/grep nothing-like-this small'
same 'date of a given time' '$vm /usr/bin/date -d @1700000000 +%F_%T_%Z'
same 'date, to the minute' '$vm /usr/bin/date +%F_%H'
same 'find' '$vm /usr/bin/find tree -name "file1*" -printf "%p %s %y\n" | sort'
same 'wc, cut, tr, uniq, head and tail' '$vm /usr/bin/cut -c1-3 small | $vm /usr/bin/tr 0-4 a-e | $vm /usr/bin/uniq -c | $vm /usr/bin/tail -n 20 | $vm /usr/bin/head -n 5; $vm /usr/bin/wc small'
same 'cat of several files and standard input' 'echo in | $vm /usr/bin/cat tree/file1 - tree/file2'
same 'cat of a missing file' '$vm /usr/bin/cat missing'
same 'stat' '$vm /usr/bin/stat -c "%n %s %f %h %U" small tree/link'
same 'readlink and realpath' '$vm /usr/bin/readlink tree/link; $vm /usr/bin/realpath tree/../small'
same 'od' 'head -c 4096 input | $vm /usr/bin/od -An -tx1z'
same 'tar to a pipe' '$vm /usr/bin/tar -cf - --sort=name --mtime=@0 tree | sha256sum'
same 'factor and expr' '$vm /usr/bin/factor 1000000007 1234567890; $vm /usr/bin/expr 6 "*" 7'
same 'seq' '$vm /usr/bin/seq 1 3 20000 | sha256sum'
same 'test' '$vm /usr/bin/test -d tree; echo $?; $vm /usr/bin/test -w missing; echo $?'
same 'busybox, static' '$vm /bin/busybox ls -l tree; $vm /bin/busybox md5sum small; $vm /bin/busybox expr 1 + 2'
same 'a program that is not there' '$vm /usr/bin/env /nonexistent'
same 'execve: env, and a script that executes another program' '$vm /usr/bin/env -i A=b /usr/bin/env; $vm /usr/bin/env /usr/bin/env /usr/bin/echo x; $vm /usr/bin/gunzip --version'
same 'execve keeps descriptors' '$vm /usr/bin/env /usr/bin/head -c 20 /dev/fd/0 <small'
same 'execve of what is no program' '$vm /usr/bin/env /etc/passwd'
same 'printf with octal' '$vm /usr/bin/printf "%d %s \\101\\n" 42 x'
same 'a script' 'printf "#!/usr/bin/cat\nbody\n" >script; chmod +x script; $vm ./script'

uvctl run -- /bin/busybox sh -c 'kill -9 $$' >/dev/null 2>&1
[ $? = 137 ]
report $? 'a task killed by SIGKILL gives 137'
uvctl run -- /usr/bin/cat nonexistent-file >/dev/null 2>&1
[ $? = 1 ]
report $? 'the status of the program is the status of uvctl'
uvctl run -- /nonexistent 2>err
[ $? = 127 ] && grep -q nonexistent err
report $? 'no such program gives 127 and says so'
uvctl run -- /etc/passwd 2>err
[ $? = 126 ]
report $? 'a file that is no program gives 126'
uvctl run -- /usr/bin/touch "$work/new" 2>err
[ $? != 0 ] && [ ! -e "$work/new" ] && grep -qi 'read-only' err
report $? 'files are read-only'

finish
