#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Overlays: what a task changes there is not on the host until it is committed, by whoever looked at it; and whatever
# ends a commit, each file is old or new.
#
# machines: bochs
# shellcheck source=tests/guest/common
. "${0%/*}/common"
chmod 755 "$work"
let_user_in
LONG=${UVISOR_LONG:-0}

# start WHO: a directory with files in it, and a place for what is kept.
start() {
	who=$1
	cd "$work" && rm -rf "$who" && mkdir -p "$who/state" "$who/tree/sub/deep" "$who/tree/going" && cd "$who" || exit 1
	for name in file mode gone renamed attribute going/a going/b sub/one sub/deep/two; do echo "old $name" >"tree/$name"; done
	ln -s file tree/link
	[ "$who" = as_root ] || chown -R 65534:65534 .
	$who chmod 644 tree/file
	cp -a tree before
}

# cleaned: how the directory is, without times.
state_of() { (cd "$1" && find . -printf '%P %y %m %l\n' | sort && find . -type f -print0 | sort -z | xargs -0 cat) }

uvctl_as() { $who env XDG_STATE_HOME="$PWD/state" uvctl "$@"; }

# What a task does; the attribute it cannot set in a shell.
# shellcheck disable=SC2016
task='set -e
cd tree
echo new >file
echo other >temporary && mv temporary renamed
rm gone
chmod 600 mode
rm -r going && mkdir going && echo again >going/c
echo more >>sub/deep/two
mkdir -p made/inside && echo x >made/inside/file
ln -sfn /etc/passwd link
ln -s / out
mkfifo fifo
printf x >"$(printf "new\nline")"
'

# expect NAME STATUS PATTERN ARG...: what `uvctl ARG...` says, on both outputs.
expect() {
	local name=$1 status=$2 pattern=$3 got result=0
	shift 3
	uvctl_as "$@" >said 2>&1 </dev/null
	got=$?
	if [ $got != "$status" ] || { [ -n "$pattern" ] && ! grep -Eq -- "$pattern" said; }; then
		echo "# status $got, wanted $status and '$pattern'"
		head -n 20 said | sed 's/^/# /'
		result=1
	fi
	report $result "$who: $name"
}

same() { # NAME A B
	is "$who: $1" "$(state_of "$2")" "$(state_of "$3")"
}

everything() {
	start "$1"
	expect "a task changes its overlay" 0 '^new$' run --overlay tree -- bash -c "$task cat file"
	same "and nothing of it is left" before tree
	expect "nothing is kept" 0 'no changes are kept' diff
	expect "beside it, --rw writes through" 0 '' run --overlay tree --rw tree/sub -- bash -c 'cd tree; echo x >sub/through; echo x >not'
	check "$who: which is there" test -e tree/sub/through -a ! -e tree/not
	rm tree/sub/through
	expect "only directories have overlays" 125 'it is no directory' run --overlay tree/file -- true
	expect "and such that are there" 125 'No such file' run --overlay nowhere -- true
	# shellcheck disable=SC2016
	printf '[files]\nexecute = ["/"]\noverlay = ["%s/tree"]\n[syscalls]\nbase = "standard"\n[processes]\nfork = true\n' "$PWD" >p.toml
	# shellcheck disable=SC2016
	expect "a profile gives one" 0 '^x$' run --profile ./p.toml -- bash -c 'echo x >tree/file; while read -r l; do echo "$l"; done <tree/file'
	is "$who: and only that" "old file" "$(cat tree/file)"
	expect "without one nothing is kept" 125 'no directory has an overlay' run --keep a -- true

	expect "nor if nothing was started" 127 '' run --overlay tree --keep a -- nothing-of-that-name
	expect "changes are kept" 0 '' run --overlay tree --keep a -- bash -c "$task"
	same "while the host's files stay" before tree
	expect "a name is taken once" 125 'kept as a already' run --overlay tree --keep a -- true
	expect "they are listed" 0 "^a .*tree.*bash" diff
	expect "and shown, line by line" 0 '^\+new$' diff a
	expect "with those that are gone" 0 '^deleted file mode 100644$' diff a
	expect "and modes" 0 '^new mode 100600$' diff a
	expect "names do nothing to the terminal" 0 '^A.*"new\\nline"$' diff a --name-status
	expect "how much of each" 0 '^ file +\| +2 \+-$' diff a --stat
	uvctl_as diff a --json | jq -e '[.trees[0].changes[] | select(.status == "D") | .path] == ["going/a", "going/b", "gone"]' >/dev/null
	report $? "$who: and as JSON"
	expect "what would be committed" 0 '^A.*tree/made/inside/file$' commit a --dry-run
	same "is not yet" before tree
	expect "one path is" 0 '' commit a tree/made/inside
	is "$who: with what it is in, and no other" "x old file" "$(cat tree/made/inside/file) $(cat tree/file)"
	expect "then the rest" 0 'fifo is not committed: it is a named pipe' commit a
	cp -a before wanted && (
		cd wanted && echo new >file && echo other >renamed && rm gone link && chmod 600 mode
		rm -r going && mkdir going && echo again >going/c && echo more >>sub/deep/two
		mkdir -p made/inside && echo x >made/inside/file && ln -s /etc/passwd link && ln -s / out && printf x >"$(printf 'new\nline')"
	)
	same "and all is as the task had it" wanted tree
	expect "what is committed is not kept" 125 'no changes are kept as a' diff a
	is "$who: nor is anything else" "" "$(ls -A state/uvisor/changes)"

	start "$1"
	expect "others are kept" 0 '' run --overlay tree --keep b -- bash -c 'cd tree; echo b >file; rm gone; echo b >sub/one; rm -r going; echo b >sub/new; chmod 700 sub/deep; echo b >sub/deep/two'
	echo host >tree/file
	echo host >tree/gone
	echo host >tree/going/new
	echo host >tree/sub/new
	mv tree/sub/deep elsewhere && mkdir outside && ln -s "$PWD/outside" tree/sub/deep
	expect "what the host changed meanwhile is told" 0 '^M.*file.*refused: the host' diff b --name-status
	expect "and refused, file by file" 1 'sub/new is not committed' commit b
	is "$who: so it stays" "host host host host" "$(cat tree/file tree/gone tree/going/new tree/sub/new | xargs)"
	is "$who: but what is not is made" b "$(cat tree/sub/one)"
	is "$who: and nothing leads out of the tree" "" "$(ls -A outside)"
	mv tree tree2 && ln -s outside tree
	expect "nor if the tree itself is a link" 125 'tree: ' commit b
	rm tree && mv tree2 tree
	expect "it can be thrown away" 0 '' discard b
	is "$who: whatever is in it" "" "$(ls -A state/uvisor/changes)"

	start "$1"
	expect "two tasks at a time" 0 '' run --overlay tree --keep one -- bash -c 'cd tree; echo 1 >file; echo 1 >sub/one; chmod 511 sub'
	expect "each with its own" 0 'old file' run --overlay tree --keep two -- bash -c 'cd tree; cat file; echo 2 >file; echo 2 >sub/deep/two'
	expect "are committed one after the other" 0 '' commit one
	is "$who: with the modes of directories" 511 "$(stat -c %a tree/sub)"
	expect "but what the first changed is the second's no more" 1 'tree/file is not committed' commit two
	is "$who: and all else is" "1 2" "$(cat tree/file tree/sub/deep/two | xargs)"
	chmod 755 tree/sub

	start "$1"
	expect "without a terminal, what would be asked about is kept" 0 'uvctl commit bash-[0-9]+' run --overlay tree --commit -- bash -c 'echo x >tree/file'
	expect "with --yes it is committed" 3 '' run --overlay tree --commit --yes -- bash -c 'echo x >tree/file; exit 3'
	is "$who: if the program says that it worked" "old file" "$(cat tree/file)"
	expect "and the status is the program's" 0 '' run --overlay tree --commit --yes -- bash -c 'echo x >tree/file'
	is "$who: then it is there" x "$(cat tree/file)"
	uvctl_as run --overlay tree --keep c -- bash -c 'echo y >tree/file; sleep 100' &
	until uvctl_as diff | grep -q '^c .*in use'; do sleep 0.1; done
	expect "while its task runs, nothing is committed" 125 'c is in use' commit c
	kill "$(pgrep -P $!)" && wait
	expect "but when that was killed" 0 '' commit c
	is "$who: it is" y "$(cat tree/file)"
}

everything as_root
echo "# $SECONDS s"
everything as_user
echo "# $SECONDS s"

# What root alone can have: more file systems in it.
start as_root
mount -t tmpfs none tree/sub && echo below >tree/sub/file
expect "what is mounted below is never missing silently" 125 'mounted below it, at .*tree/sub' run --overlay tree -- true
expect "it is there if it is named" 0 '^below$' run --overlay tree --overlay tree/sub -- bash -c 'echo x >tree/file; cat tree/sub/file; echo x >tree/sub/file'
is "and stays" below "$(cat tree/sub/file)"
umount tree/sub
XDG_STATE_HOME=$PWD/tree expect "what is kept is not in its own overlay" 125 'set XDG_STATE_HOME' run --overlay "$work" --keep x -- true

# answered ANSWERS COMMAND: what a command says on a terminal on which somebody answers.
answered() { printf '%b' "$1" | env XDG_STATE_HOME="$PWD/state" script -qec "$2" /dev/null >said; }

start as_root
ask="uvctl run --overlay tree --commit -- bash -c 'echo asked >tree/file'"
answered 's\ny\n' "$ask"
is "who says yes on the terminal" "0 asked" "$? $(cat tree/file)"
check "having seen what it is" grep -q '+asked' said
rm -rf tree && cp -a before tree
answered 'd\n' "$ask"
is "or throws it away" "0 old file " "$? $(cat tree/file) $(ls -A state/uvisor/changes)"
answered 'n\n' "$ask"
is "or keeps it" "0 old file 1" "$? $(cat tree/file) $(find state/uvisor/changes -name manifest.json | wc -l)"

# Attributes, sockets and what is hostile need more than a shell.
start as_root
cat >hostile.py <<-'EOF'
	import os, socket
	os.chdir("tree")
	os.setxattr("attribute", "user.note", b"new")
	for i in range(300):
	    try: os.setxattr("file", f"user.{i}", b"")
	    except OSError: break
	socket.socket(socket.AF_UNIX).bind("socket")
	with open("sparse", "wb") as f:
	    f.truncate(1 << 40); f.seek(1 << 39); f.write(b"x")
	here = os.open(".", os.O_RDONLY)
	for i in range(30):
	    os.mkdir("d" * 200, dir_fd=here)
	    here = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
	os.rename("sub/one", "sub/deep/one")
	os.link("renamed", "linked")
	os.remove("going/a"); os.symlink("/etc/shadow", "going/a")
	os.remove("going/b"); os.mkdir("going/b"); os.symlink("../../../../outside", "going/b/up")
EOF
expect "a hostile task" 0 '' run --overlay tree --keep h -- python3 hostile.py
expect "is looked at" 0 'new attribute user.note: new' diff h
expect "and committed, but for what is never" 1 'longer than the kernel takes' commit h
is "its attribute" new "$(python3 -c 'import os; print(os.getxattr("tree/attribute", "user.note").decode())')"
is "its holes" "1099511627776 yes" "$(stat -c %s tree/sparse) $([ "$(stat -c %b tree/sparse)" -lt 1000 ] && echo yes)"
is "its links, which are only links" "/etc/shadow ../../../../outside" "$(readlink tree/going/a tree/going/b/up | xargs)"
expect "goes, however deep" 0 '' discard h
is "as a whole" "" "$(ls -A state/uvisor/changes)"

echo "# $SECONDS s"
# many FROM TO: files, of which each is one word over and over, and modes.
many() {
	local i
	for i in $(seq "$1" "$2"); do
		seq -f "$3 %g" 400 >"tree/many/$i"
		chmod "$4" "tree/many/$i"
	done
}

# old_or_new: whether each of those is one or the other as a whole; prints how many are new.
old_or_new() {
	local old new
	old=$(md5sum <old.txt) new=$(md5sum <new.txt)
	paste -d ' ' <(stat -c %a tree/many/*) <(md5sum tree/many/*) |
		awk -v old="${old%% *}" -v new="${new%% *}" '
			$1 == 644 && $2 == old { next }
			$1 == 600 && $2 == new { count++; next }
			{ bad = 1 }
			END { print count + 0; exit bad }'
}

# A task that changes them all; two more are gone, and one is made.
# shellcheck disable=SC2016
change='cd tree/many; for i in *; do cat ../../new.txt >$i; chmod 600 $i; done; mkdir ../made; echo x >../made/file; chmod 500 ../made; rm -r ../going'

files=$([ "$LONG" = 1 ] && echo 200 || echo 30)
start as_root
mkdir tree/many && many 1 "$files" old 644
seq -f "old %g" 400 >old.txt && seq -f "new %g" 400 >new.txt
uvctl_as run --overlay tree --keep k -- bash -c "$change" || echo "# the task failed: $?"
# In microseconds: at first it has not begun.
bad=0 kills=0 at=7000 points=""
while [ -e state/uvisor/changes/k ] && [ $at -lt 4000000 ]; do
	timeout -s KILL "$(printf '0.%06d' $at)" env XDG_STATE_HOME="$PWD/state" uvctl commit k >said 2>&1
	status=$?
	[ $status = 137 ] && kills=$((kills + 1))
	got=$(old_or_new) || bad=1
	points="$points $got"
	[ $status = 1 ] && { bad=1; sed 's/^/# /' said; break; }
	at=$((at + 250))
done 2>/dev/null
echo "# new files after each of $kills kills:$points"
report $bad "a commit that is killed leaves each file old or new"
check "it was killed in the middle" test "$(tr ' ' '\n' <<<"$points" | sort -u | wc -l)" -gt 3
is "and another one goes on to the end" "$files 500 no" "$(old_or_new) $(stat -c %a tree/made) $([ -e tree/going ] && echo yes || echo no)"
# One that was ended while it removed what it had committed left that to the next.
uvctl_as diff >said
is "of which nothing is left" "" "$(find tree -name '.uvctl-*'; ls -A state/uvisor/changes)"

echo "# $SECONDS s"
# A disk whose power fails: copies of it at moments of a commit, which the one processor makes without anything else
# between; what was not on the disk is lost.
cd "$work" && mkdir -p power && cd power || exit 1
if [ "$(nproc)" = 1 ] && modprobe loop && modprobe ext4; then
	truncate -s 24M disk && mkfs.ext4 -q -O ^metadata_csum -E lazy_itable_init=0 disk && mkdir top
	mount -o loop,noauto_da_alloc disk top
	cd top && who=as_root && mkdir -p state tree/many tree/going && many 1 "$files" old 644
	echo a >tree/going/a
	seq -f "old %g" 400 >old.txt && seq -f "new %g" 400 >new.txt
	uvctl_as run --overlay tree --keep k -- bash -c "$change"
	sync -f .
	# The copies are made by who is never interrupted, and lets the commit go on for a moment between two.
	echo -1 >/proc/sys/kernel/sched_rt_runtime_us
	if [ "$LONG" = 1 ]; then most=150 pause=0.0001; else most=16 pause=0.001; fi
	# shellcheck disable=SC2016
	chrt -f 90 bash -c '
		exec 3<> <(:)
		XDG_STATE_HOME=$PWD/state chrt -o 0 uvctl commit k >../said 2>&1 &
		until read -t 0.001 -u 3; [ -e state/uvisor/changes/k/begun ] || ! kill -0 $!; do :; done
		for ((i = 1; i <= $1; i++)); do
			cp --sparse=always ../disk ../copy.$i
			kill -0 $! 2>/dev/null || break
			read -t $2 -u 3
		done
		wait $!' copies $most $pause
	report $? "a commit on a disk"
	cd .. && umount top
	bad=0 points="" ends=0 copies=$(find . -name 'copy.*' | wc -l)
	for i in $(seq 1 "$copies"); do
		# The journal is for the kernel to replay; then the file system has no errors.
		if ! mount -o loop "copy.$i" top || ! cd top; then
			bad=1
			break
		fi
		got=$(old_or_new) || { bad=1; echo "# copy $i"; }
		points="$points $got"
		if [ -e state/uvisor/changes/k ] && [ $((i % 4)) = 1 ]; then
			uvctl_as commit k >../said 2>&1 || { bad=1; sed 's/^/# /' ../said; }
			[ "$(old_or_new) $(stat -c %a tree/made)" = "$files 500" ] || bad=1
			ends=$((ends + 1))
		fi
		cd .. && umount top
		if [ $((i % 4)) = 1 ]; then e2fsck -fn "copy.$i" >said 2>&1 || { bad=1; sed 's/^/# /' said; }; fi
		rm "copy.$i"
	done
	echo "# new files on each of $copies copies:$points"
	report $bad "a disk whose power failed in the middle has each file old or new"
	check "and a commit from there comes to the end" test $bad = 0 -a $ends -gt 0
	check "it failed in the middle" test "$(tr ' ' '\n' <<<"$points" | sort -u | wc -l)" -gt 3
else
	echo "ok $((number += 1)) - a disk whose power fails # SKIP this needs one processor, and the modules loop and ext4"
fi

finish
